//! Several operators: roles, revocation, renewal.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_identity::{ClientIdentity, connect_mutual};
use azdr_proto::admin::WhoamiRequest;
use azdr_proto::admin::admin_service_client::AdminServiceClient;
use azdr_tests::cli::Cli;
use azdr_tests::{Lab, Vm, World};
use tonic::Code;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::{protect, protect_and_keep_all};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_viewer_sees_everything_and_changes_nothing",
        needs: Needs::Programs,
        body: viewer,
    },
    Test {
        name: "a_revoked_operator_is_out_from_the_next_call_on_a_live_connection",
        needs: Needs::Programs,
        body: revocation,
    },
    Test {
        name: "a_certificate_is_renewed_in_place_and_replaced_by_an_admin",
        needs: Needs::Programs,
        body: renewal,
    },
    Test {
        name: "a_big_pruning_waits_until_another_operator_has_approved_it",
        needs: Needs::Programs,
        body: approval,
    },
];

const SETTLE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lets an operator in and becomes them.
pub(crate) fn add(lab: &Lab, name: &str, role: &str, more: &[&str]) -> Result<Cli> {
    let bundle = lab.folder().join(format!("{name}-{role}"));
    let folder = bundle.to_str().context("a path")?;
    let add = ["operator", "add", name, "--role", role, "--bundle", folder];
    lab.azdr.run(&[&add[..], more].concat())?.ok()?;
    Ok(lab.azdr.with_context(&bundle.join("context.toml")))
}

fn viewer(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect(&lab, "db", &["--target-region", "westus2"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let point = lab.azdr.points("db")?[0]["name"].as_str().context("a name")?.to_owned();
    let vera = add(&lab, "vera", "viewer", &[])?;
    for seen in [
        &["status"][..],
        &["vm", "list"],
        &["whoami"],
        &["backup", "list", "db"],
        &["backup", "show", &point],
        &["backup", "explain", &point],
        &["policy", "list"],
        &["job", "list"],
        &["job", "show", "1"],
        &["operator", "list"],
        &["residue", "list"],
    ] {
        vera.run(seen)?.ok()?;
    }
    let state = || -> Result<_> {
        let config = lab.azdr.json(&["backup", "config-show", "db"])?;
        let operators = lab.azdr.json(&["operator", "list"])?;
        Ok((config, operators, lab.azdr.points("db")?, lab.azdr.jobs()?.len()))
    };
    let before = state()?;
    let bundle = stage.folder.join("eve");
    let eve = bundle.to_str().context("a path")?;
    for refused in [
        &["backup", "trigger", "db"][..],
        &["backup", "configure", "db", "--daily-retention", "9"],
        &["backup", "disable", "db"],
        &["backup", "verify", &point],
        &["backup", "replicate", &point, "--target-region", "westus2"],
        &["backup", "pin", &point, "--until", "1d", "--reason", "x"],
        &["backup", "unpin", &point],
        &["backup", "delete", &point, "--yes"],
        &["backup", "restore", "db", "--yes"],
        &["backup", "restore", "db", "--new-vm", "db2"],
        &["dr", "test", "db"],
        &["job", "cancel", "1"],
        &["job", "retry", "1"],
        &["job", "undo", "1"],
        &["job", "abandon", "1", "--reason", "x"],
        &["agent", "token", "db"],
        &["agent", "revoke", "db"],
        &["retention", "release"],
        &["operator", "add", "eve", "--role", "viewer", "--bundle", eve],
        &["operator", "revoke", "lab"],
    ] {
        let answer = vera.run(refused)?;
        ensure!(answer.code == 3, "{answer:?}");
        ensure!(answer.stderr.contains("operator vera is viewer; this needs role"), "{answer:?}");
    }
    ensure!(state()? == before, "something has changed");
    ensure!(!bundle.exists() && !stage.folder.join(".eve.azdr-draft").exists(), "a bundle");
    // An operator is no admin either.
    let olaf = add(&lab, "olaf", "operator", &[])?;
    olaf.run(&["backup", "trigger", "db"])?.ok()?;
    let answer = olaf.run(&["operator", "revoke", "vera"])?;
    ensure!(answer.code == 3 && answer.stderr.contains("needs role admin"), "{answer:?}");
    lab.settle(SETTLE)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

fn revocation(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let bob = add(&lab, "bob", "admin", &[])?;
    let folder = stage.folder.join("bob-admin");
    ensure!(mode(&folder)? == 0o700, "the folder");
    for file in ["client.key", "client.pem", "ca.pem", "context.toml"] {
        ensure!(mode(&folder.join(file))? == 0o600, "{file}");
    }
    // The same folder again, the same name again, and names alike.
    let twice = ["operator", "add", "bob", "--role", "viewer", "--bundle"];
    let (there, other) = (folder.to_str().context("a path")?, stage.folder.join("other"));
    let other = other.to_str().context("a path")?;
    ensure!(lab.azdr.run(&[&twice[..], &[there]].concat())?.code == 2, "overwritten");
    let known = lab.azdr.run(&[&twice[..], &[other]].concat())?;
    ensure!(known.code == 1 && known.stderr.contains("--replace"), "{known:?}");
    let alike = ["operator", "add", "BOB", "--role", "viewer", "--bundle", other];
    ensure!(lab.azdr.run(&alike)?.code == 1, "BOB is not bob");
    for name in ["schedule", "a b", "-x"] {
        let wrong = ["operator", "add", "--role", "viewer", "--bundle", other, "--", name];
        ensure!(lab.azdr.run(&wrong)?.code == 2, "{name}");
    }

    let context = std::fs::read_to_string(folder.join("context.toml"))?;
    let address = context.lines().find_map(|line| line.strip_prefix("controller = "));
    let address = address.context("an address")?.trim_matches('"').to_owned();
    let file = |name: &str| folder.join(name);
    let identity = ClientIdentity::load(&file("client.key"), &file("client.pem"), &file("ca.pem"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut live = runtime.block_on(async {
        let channel = connect_mutual(&address, &identity).await?;
        let mut client = AdminServiceClient::new(channel);
        client.whoami(WhoamiRequest {}).await?;
        anyhow::Ok(client)
    })?;
    // Two admins: either may go, but not both.
    bob.run(&["operator", "revoke", "lab"])?.ok()?;
    ensure!(lab.azdr.run(&["whoami"])?.code == 3, "lab is still let in");
    let last = bob.run(&["operator", "revoke", "bob"])?;
    ensure!(last.code == 1 && last.stderr.contains("last admin"), "{last:?}");
    let lab_again = stage.folder.join("lab-again");
    let again = ["operator", "add", "lab", "--role", "admin", "--bundle"];
    bob.run(&[&again[..], &[lab_again.to_str().context("a path")?]].concat())?.ok()?;
    let lab_cli = bob.with_context(&lab_again.join("context.toml"));
    lab_cli.run(&["operator", "revoke", "bob"])?.ok()?;
    lab_cli.run(&["operator", "revoke", "bob"])?.ok()?;
    let after = runtime.block_on(live.whoami(WhoamiRequest {}));
    ensure!(after.as_ref().is_err_and(|e| e.code() == Code::PermissionDenied), "{after:?}");
    let out = bob.run(&["whoami"])?;
    ensure!(out.code == 3 && out.stderr.contains("bob is not valid any more"), "{out:?}");
    let listed = lab_cli.json(&["operator", "list"])?;
    let listed = listed["operators"].as_array().context("operators")?;
    let bob = listed.iter().find(|o| o["name"] == "bob").context("bob is listed")?;
    ensure!(bob["revoked_by"] == "lab" && bob["added_by"] == "lab", "{bob:#}");
    Ok(())
}

fn renewal(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let bob = add(&lab, "bob", "viewer", &["--valid-days", "20"])?;
    let folder = stage.folder.join("bob-viewer");
    let warned = bob.run(&["vm", "list"])?.ok()?;
    ensure!(warned.stderr.contains("azdr operator renew"), "{warned:?}");
    ensure!(bob.run(&["vm", "list", "--output", "json"])?.ok()?.stderr.is_empty(), "words");
    let old = stage.folder.join("old");
    std::fs::create_dir(&old)?;
    for file in ["ca.pem", "client.pem", "client.key", "context.toml"] {
        std::fs::copy(folder.join(file), old.join(file))?;
    }
    bob.run(&["operator", "renew"])?.ok()?;
    let quiet = bob.run(&["vm", "list"])?.ok()?;
    ensure!(quiet.stderr.is_empty(), "{quiet:?}");
    let mut files: Vec<String> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() == 4 && !files.contains(&"client.key".to_owned()), "{files:?}");
    for file in files.iter().filter(|f| *f != "ca.pem") {
        ensure!(mode(&folder.join(file))? == 0o600, "{file}");
    }
    let past = lab.azdr.with_context(&old.join("context.toml"));
    ensure!(past.run(&["whoami"])?.code == 3, "the old certificate is still let in");
    ensure!(bob.json(&["whoami"])?["role"] == "viewer", "another role");
    // An admin gives a new one, with another role.
    let promoted = add(&lab, "bob", "operator", &["--replace"])?;
    ensure!(promoted.json(&["whoami"])?["role"] == "operator", "the old role");
    ensure!(bob.run(&["whoami"])?.code == 3, "the replaced certificate is still let in");
    // The first admin's own.
    lab.azdr.run(&["operator", "renew"])?.ok()?;
    ensure!(lab.azdr.json(&["whoami"])?["role"] == "admin", "another role");
    let myself = ["operator", "add", "lab", "--role", "viewer", "--replace", "--bundle", "x"];
    ensure!(lab.azdr.run(&myself)?.code == 2, "replaced oneself");
    Ok(())
}

fn approval(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect_and_keep_all(&lab, "db")?;
    for _ in 0..7 {
        lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
        lab.let_pass(DAY)?;
    }
    lab.settle(SETTLE)?;
    lab.azdr.run(&["backup", "configure", "db", "--daily-retention", "1"])?.ok()?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let count = lab.azdr.points("db")?.len();
    ensure!(count >= 8, "it was not asked");
    let asking = || -> Result<_> {
        let job = lab.azdr.newest_job("prune")?;
        ensure!(job["state"] == "queued" && job["waits_for_approval"] == true, "{job:#}");
        ensure!(job["would_delete"].as_array().is_some_and(|d| d.len() > 5), "{job:#}");
        let id = job["id"].as_i64().context("a number")?.to_string();
        let words = job["waiting_for"].as_str().unwrap_or_default();
        ensure!(words.contains(&format!("azdr job approve {id}")), "{job:#}");
        Ok(id)
    };
    let id = asking()?;
    let own = lab.azdr.run(&["job", "approve", &id])?;
    ensure!(own.code == 3 && own.stderr.contains("lab has changed the policy"), "{own:?}");
    let vera = add(&lab, "vera", "viewer", &[])?;
    ensure!(vera.run(&["job", "approve", &id])?.code == 3, "a viewer has approved it");
    let bob = add(&lab, "bob", "operator", &[])?;
    // A restart in between, an hour later.
    lab.let_pass(Duration::from_secs(3600))?;
    ensure!(lab.azdr.points("db")?.len() >= count, "the restart has approved it");
    bob.run(&["job", "approve", &id])?.ok()?;
    lab.settle(SETTLE)?;
    let job = lab.azdr.job(id.parse()?)?;
    ensure!(job["state"] == "succeeded", "{job:#}");
    let decision = &job["decisions"][0];
    ensure!(decision["decision"] == "approve" && decision["by"] == "bob", "{job:#}");
    ensure!(lab.azdr.points("db")?.len() <= 2, "{:#?}", lab.azdr.points("db")?);
    let again = bob.run(&["job", "approve", &id])?.ok()?;
    ensure!(again.stdout.contains("approved already"), "{again:?}");
    let other = bob.run(&["job", "approve", "1"])?;
    ensure!(other.code == 1 && other.stderr.contains("does not wait"), "{other:?}");
    Ok(())
}
