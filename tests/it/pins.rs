//! Pins through the real interface: whose they are, who may remove them, and when they end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_controller::store::{Executor, Store};
use azdr_domain::pin::Pin;
use azdr_domain::recovery_point::PointName;
use azdr_env::{Clock, SystemClock};
use azdr_tests::{Lab, Vm, World};
use serde_json::Value;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_pin_is_its_owners_and_only_an_admin_removes_anothers",
        needs: Needs::Programs,
        body: owners,
    },
    Test {
        name: "a_pin_holds_until_its_time_and_no_longer",
        needs: Needs::Programs,
        body: until_its_time,
    },
];

const SETTLE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn name(point: &Value) -> Result<String> {
    Ok(point["name"].as_str().context("a point without a name")?.to_owned())
}

fn owners_of(lab: &Lab) -> Result<Vec<String>> {
    let points = lab.azdr.points("db")?;
    let pins = points[0]["pins"].as_array().cloned().unwrap_or_default();
    Ok(pins.iter().filter_map(|pin| Some(pin["owner"].as_str()?.to_owned())).collect())
}

/// Does something to the database of a controller that does not run.
fn in_database<F: Future<Output = Result<()>>>(
    lab: &mut Lab,
    act: impl FnOnce(Store) -> F,
) -> Result<()> {
    lab.controller.stop()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let path = lab.controller.data().join("azdr.db");
        act(Store::open(&path, Executor::Inline)?).await
    })?;
    lab.controller.start()
}

fn role(lab: &mut Lab, role: &'static str) -> Result<()> {
    in_database(lab, |store| async move {
        let sql = "UPDATE operator SET role = ?1 WHERE name = 'lab'";
        let changed = store.write(move |c| Ok(c.execute(sql, [role])?)).await?;
        ensure!(changed == 1, "there is no operator lab");
        Ok(())
    })
}

fn owners(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let point = name(&lab.azdr.points("db")?[0])?;
    let pin = ["backup", "pin", &point, "--until", "forever", "--reason", "mine"];
    lab.azdr.run(&pin)?.ok()?;
    let of_eve = PointName::parse(&point)?;
    in_database(&mut lab, |store| async move {
        let (item, _) = store.enabled_policies().await?.pop().context("no protected VM")?;
        let since = SystemClock::new().wall();
        let pin = Pin { owner: "eve".to_owned(), since, until: None, reason: "hers".to_owned() };
        Ok(store.pin(item.id, of_eve, pin).await?)
    })?;
    ensure!(owners_of(&lab)? == ["eve", "lab"], "{:?}", owners_of(&lab)?);

    role(&mut lab, "operator")?;
    let unpin_hers = ["backup", "unpin", &point, "--owner", "eve"];
    let refused = lab.azdr.run(&unpin_hers)?;
    ensure!(refused.code != 0, "{}", refused.words());
    for words in ["lab is operator", "removing eve's pin needs role admin", "ask eve or an admin"] {
        ensure!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
    lab.azdr.run(&["backup", "unpin", &point])?.ok()?;
    ensure!(owners_of(&lab)? == ["eve"], "{:?}", owners_of(&lab)?);
    let nothing = lab.azdr.run(&["backup", "unpin", &point])?;
    ensure!(nothing.code != 0, "{}", nothing.words());
    for words in ["has no pin of lab", "it is pinned by eve"] {
        ensure!(nothing.stderr.contains(words), "no {words:?} in {}", nothing.stderr);
    }
    role(&mut lab, "viewer")?;
    let refused = lab.azdr.run(&pin)?;
    ensure!(refused.code != 0 && refused.stderr.contains("viewer"), "{}", refused.words());
    ensure!(owners_of(&lab)? == ["eve"], "{:?}", owners_of(&lab)?);

    role(&mut lab, "admin")?;
    lab.azdr.run(&unpin_hers)?.ok()?;
    ensure!(owners_of(&lab)?.is_empty(), "{:?}", owners_of(&lab)?);
    let nothing = lab.azdr.run(&unpin_hers)?;
    ensure!(nothing.stderr.contains("nobody has pinned it"), "{}", nothing.words());
    Ok(())
}

fn until_its_time(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect_and_keep_all(&lab, "db")?;
    for _ in 0..2 {
        lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
        lab.settle(SETTLE)?;
    }
    let points = lab.azdr.points("db")?;
    let older = name(points.get(1).context("a second point")?)?;
    let past = ["backup", "pin", &older, "--until", "2020-01-01T00:00:00Z", "--reason", "late"];
    let refused = lab.azdr.run(&past)?;
    ensure!(refused.code != 0 && refused.stderr.contains("past"), "{}", refused.words());
    lab.azdr.run(&["backup", "pin", &older, "--until", "1h", "--reason", "an audit"])?.ok()?;
    let delete = ["backup", "delete", &older, "--yes"];
    let refused = lab.azdr.run(&delete)?;
    let held = refused.code != 0 && refused.stderr.contains("pinned by lab until");
    ensure!(held, "{}", refused.words());

    lab.let_pass(2 * HOUR)?;
    lab.azdr.run(&delete)?.ok()?;
    lab.settle(SETTLE)?;
    let left = lab.azdr.points("db")?;
    ensure!(left.len() == 1 && name(&left[0])? != older, "{left:#?}");
    Ok(())
}
