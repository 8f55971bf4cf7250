//! A lost database, with real processes: the command rebuilds it, the agent comes back with the
//! certificate that it has, and nothing is deleted until it is released.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::cli::Cli;
use azdr_tests::poll::{Look, until};
use azdr_tests::process::{Ended, run};
use azdr_tests::{Lab, Vm, World};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_lost_database_is_rebuilt_and_agents_come_back_with_their_certificates",
    needs: Needs::Programs,
    body: lost,
}];

const LIMIT: Duration = Duration::from_secs(60);

fn rebuild(stage: &Stage, passphrase: &Path) -> Result<Ended> {
    let programs = stage.programs.clone().context("the programs are not built")?;
    let file = |name: &str| stage.folder.join(name);
    let mut command: Command = programs.command("azdr-controller");
    command.args(["rebuild", "--from-azure", "--config"]).arg(file("controller.toml"));
    command.arg("--ca-export").arg(file("ca.age")).arg("--passphrase-file").arg(passphrase);
    command.args(["--admin", "alice", "--bundle"]).arg(file("alice"));
    run(command, LIMIT, None)
}

fn connected(azdr: &Cli) -> Result<()> {
    until("the agent is connected", LIMIT, || {
        let agents = azdr.json(&["agent", "list"])?.to_string();
        Ok(match agents.contains("\"connected\"") {
            true => Look::Done(()),
            false => Look::Waiting(agents),
        })
    })
}

fn lost(stage: &Stage) -> Result<()> {
    let mut lab: Lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let vm_id = lab.simulator.listing()?.vm("prod", "db")?.vm_id().to_owned();
    let agent = stage.host_agent("agent", &lab, &vm_id)?;
    let enrolled = agent.enrol(&lab.azdr.json(&["agent", "token", "db"])?)?;
    ensure!(enrolled.status.success(), "{enrolled:?}");
    let session = agent.start()?;
    connected(&lab.azdr)?;
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let before = lab.azdr.json(&["backup", "list", "db"])?;
    let point = before["points"][0]["name"].as_str().context("a point")?.to_owned();
    let pin = ["backup", "pin", &point, "--until", "forever", "--reason", "evidence"];
    lab.azdr.run(&pin)?.ok()?;
    let refused = lab.azdr.run(&["backup", "delete", &point, "--yes"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("pinned by lab for ever: evidence"));
    lab.settle(LIMIT)?;
    until("the pin is shown in Azure", LIMIT, || {
        let shown = format!("{:?}", lab.simulator.listing()?);
        Ok(match shown.contains("azdr:pin") {
            true => Look::Done(()),
            false => Look::Waiting("no tag azdr:pin".to_owned()),
        })
    })?;
    let residue = lab.azdr.json(&["residue", "list"])?;
    ensure!(residue["resources"].as_array().is_some_and(Vec::is_empty), "{residue:#}");

    lab.controller.stop()?;
    let passphrase = stage.folder.join("passphrase");
    let not_empty = rebuild(stage, &passphrase)?;
    ensure!(not_empty.stderr.contains("is not empty"), "{not_empty:?}");
    std::fs::rename(lab.controller.data(), stage.folder.join("lost"))?;
    let wrong = stage.folder.join("wrong");
    std::fs::write(&wrong, "not the passphrase\n")?;
    let refused = rebuild(stage, &wrong)?;
    ensure!(refused.stderr.contains("another passphrase"), "{refused:?}");
    // Interrupted before its records, a directory is used by nothing.
    let early = lab.controller.start();
    ensure!(early.is_err() && lab.controller.log().contains("not initialised"));

    let rebuilt = rebuild(stage, &passphrase)?;
    ensure!(rebuilt.status.success(), "{rebuilt:?}");
    for words in
        ["1 VM (1 with a policy)", "1 recovery point,", "1 pin", "proofs", "retention release"]
    {
        ensure!(rebuilt.stdout.contains(words), "no {words:?} in {}", rebuilt.stdout);
    }
    lab.controller.start()?;
    let azdr = lab.azdr.with_context(&stage.folder.join("alice/context.toml"));
    ensure!(lab.azdr.run(&["whoami"])?.code == 3, "the old admin is let in");
    connected(&azdr)?;
    let after = azdr.json(&["backup", "list", "db"])?;
    let (was, is) = (&before["points"][0], &after["points"][0]);
    for field in ["name", "created_at", "tiers", "consistency", "consistency_reason", "disks"] {
        ensure!(was[field] == is[field], "{field}: {} -> {}", was[field], is[field]);
    }
    ensure!(is["pins"][0]["reason"] == "evidence", "{is:#}");
    let config = azdr.json(&["backup", "config-show", "db"])?;
    ensure!(config["daily_retention"] == 100, "{config:#}");

    ensure!(azdr.json(&["whoami"])?["deletions_held"].is_string());
    ensure!(lab.controller.metrics()?.contains("azdr_deletions_held 1"));
    azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let held = azdr.run(&["backup", "delete", &point, "--yes"])?;
    ensure!(held.code == 1 && held.stderr.contains("azdr retention release"), "{held:?}");
    azdr.run(&["retention", "release"])?.ok()?;
    ensure!(azdr.json(&["whoami"])?["deletions_held"].is_null());
    ensure!(lab.controller.metrics()?.contains("azdr_deletions_held 0"));

    // Revoked, it does not come back.
    azdr.run(&["agent", "revoke", "db"])?.ok()?;
    session.stop(LIMIT)?;
    let again = agent.start()?;
    until("the agent hears that it is revoked", LIMIT, || {
        Ok(match again.printed().contains("revoked") {
            true => Look::Done(()),
            false => Look::Waiting(again.printed()),
        })
    })?;
    let agents = azdr.json(&["agent", "list"])?.to_string();
    ensure!(!agents.contains("\"connected\""), "{agents}");
    Ok(())
}
