//! A restored machine's own hook says how its application is: of a backup with what it needs, and of one
//! without.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{BOOT, DB, LIMIT, back_up, db, is_writable, text};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "application-check",
    shows: "a hook's check runs on restored machines, and decides whether a backup is proved",
    rounds: None,
    run,
};

const HOOK: &str = "/etc/azdr/hooks.d/10-app";
const FACT: &str = "app:10-app";
/// Its application is well while a file is on the other disk; whatever runs it is noted.
const INSTALL: &str = "mkdir -p -m 755 /etc/azdr/hooks.d && cat >/etc/azdr/hooks.d/10-app <<'EOF'\n\
    #!/bin/sh\n# azdr-hook: oneshot check\necho \"$1\" >>/root/verbs\n\
    [ \"$1\" = check ] || exit 0\ncat /data/ledger\nEOF\nchmod 700 /etc/azdr/hooks.d/10-app";

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db(place)?;
    protect_and_keep_all(&lab, DB)?;
    guest.run(INSTALL)?;
    guest.run("echo 'the ledger is whole' >/data/ledger && sync")?;
    let well = back_up(&lab)?;
    let well = text(&well, "name");
    let shown = |name| lab.azdr.json(&["backup", "show", name]);
    let hooks = &shown(well)?["capture"]["hooks"];
    let (hook, problem) = (&hooks[0], &hooks[0]["problem"]);
    ensure!(hook["check"] == true && problem.is_null(), "{HOOK}: {hooks:#}");
    let verbs = guest.run("cat /root/verbs")?;
    ensure!(verbs.trim() == "pre\npost", "the check is no part of a backup: {verbs:?}");
    guest.run("rm /data/ledger && sync")?;
    let broken = back_up(&lab)?;
    let broken = text(&broken, "name");
    lab.settle(LIMIT)?;

    let drill = |point| ["dr", "test", DB, "--backup", point, "--test-region", "eastus"];
    let passed = lab.azdr.run(&drill(well))?.ok()?;
    let line = format!("{FACT}: pass: the ledger is whole");
    ensure!(passed.stdout.contains(&line), "{}", passed.words());
    let told = lab.azdr.run(&["backup", "show", well])?.ok()?;
    ensure!(told.stdout.contains(&line), "{}", told.words());
    ensure!(shown(well)?["point"]["proof"] == "booted", "{:#}", shown(well)?);

    let failed = lab.azdr.run(&drill(broken))?;
    ensure!(failed.code == 1, "exit code {}: {}", failed.code, failed.words());
    let job = lab.azdr.newest_job("dr_test")?;
    let error = text(&job["error"], "message");
    ensure!(error.contains(FACT) && error.contains("exit code 1"), "{job:#}");
    ensure!(shown(broken)?["point"]["proof"] == "unproved", "{:#}", shown(broken)?);

    lab.azdr.run(&["backup", "restore", DB, "--backup", well, "--yes"])?.ok()?;
    let restore = lab.azdr.newest_job("restore_in_place")?["result"]["restore"].clone();
    ensure!(restore["unconfirmed"].is_null(), "{restore:#}");
    let fact = said(&restore).context("nothing is known of the application")?;
    ensure!(fact["state"] == "pass" && fact["required"] == true, "{fact:#}");
    lab.settle(LIMIT)?;
    guest.await_ssh(BOOT)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![
        format!("well: {}", text(fact, "detail")),
        format!("broken: {}", error.replace('\n', " ")),
    ])
}

fn said(result: &Value) -> Option<&Value> {
    result["evidence"].as_array()?.iter().find(|fact| fact["name"] == FACT)
}
