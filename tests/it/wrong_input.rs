//! Wrong input: each is answered with the value and what is allowed, with the right exit code, and
//! changes nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::process::Ended;
use azdr_tests::{Answer, Lab, Vm, World};
use serde_json::Value;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "wrong_values_are_named_and_change_nothing",
        needs: Needs::Programs,
        body: wrong_values,
    },
    Test {
        name: "a_token_works_once_in_time_and_for_its_vm_only",
        needs: Needs::Programs,
        body: tokens,
    },
    Test {
        name: "an_agents_certificate_is_good_for_its_own_vm_only",
        needs: Needs::Programs,
        body: certificates,
    },
    Test {
        name: "a_controller_that_does_not_run_or_is_another_is_said_to_be",
        needs: Needs::Programs,
        body: no_controller,
    },
];

const LIMIT: Duration = Duration::from_secs(60);

/// A command line, its exit code, and words of its message.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

fn expect(answer: &Answer, code: i32, words: &[&str]) -> Result<()> {
    let Answer { line, stderr, .. } = answer;
    ensure!(answer.code == code, "`{line}`: exit code {} instead of {code}: {stderr}", answer.code);
    for word in words {
        ensure!(stderr.contains(word), "`{line}`: no {word:?} in: {stderr}");
    }
    ensure!(!stderr.contains("panicked"), "`{line}`: {stderr}");
    let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    ensure!(!stderr.contains(obeyed), "`{line}`: a terminal would obey {stderr:?}");
    Ok(())
}

/// What must not change.
fn state(lab: &Lab) -> Result<(Vec<String>, Value, usize)> {
    let config = lab.azdr.json(&["backup", "config-show", "db"])?;
    let listing = lab.simulator.listing()?;
    let mut everything = listing.everything();
    everything.push(format!("{:?}", listing.vm("prod", "db")?.tag("azlin:backup-schedule")));
    Ok((everything, config, lab.azdr.jobs()?.len()))
}

fn wrong_values(stage: &Stage) -> Result<()> {
    let vms = vec![Vm::new("prod", "db").with_data_disk(), Vm::new("prod", "web")];
    let lab = stage.lab(World { vms })?;
    protect(&lab, "db", &["--target-region", "westus2"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let before = state(&lab)?;
    let point = lab.azdr.points("db")?[0]["name"].as_str().unwrap_or_default().to_owned();
    let none: [&str; 4] = ["--daily-retention", "0", "--weekly-retention", "0"];
    let configure = ["backup", "configure", "db"];
    let file = |name: &str, text: &str| -> Result<String> {
        let path = lab.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let huge = file("huge.yaml", &format!("daily: 7 #{}", " ".repeat(1 << 20)))?;
    let lines: String =
        (1..9).map(|n| format!("l{n}: &l{n} [{}]\n", format!("*l{},", n - 1).repeat(9))).collect();
    let bomb = file("bomb.yaml", &format!("l0: &l0 [lol]\n{lines}"))?;
    let nul = file("nul.yaml", "daily: 7\0\n")?;
    let turned = file("turned.yaml", "policies:\n- name: \"\u{202e}dlog\"\n  daily: 7\n")?;
    let cases: &[Case<'_>] = &[
        (&["backup", "trigger", "nosuch"], 1, &["nosuch", "azdr vm list"]),
        (&["backup", "list", "nosuch"], 1, &["nosuch"]),
        (&["backup", "restore", "nosuch", "--yes"], 1, &["nosuch"]),
        (&["backup", "restore", &point, "--yes"], 1, &["name its VM, db", "--backup", &point]),
        (&["backup", "verify", "db"], 1, &["db is a VM", "azdr backup list db"]),
        (&["dr", "test", "nosuch", "--test-region", "westus2"], 1, &["nosuch"]),
        (&["agent", "token", "nosuch"], 1, &["nosuch"]),
        (&["backup", "trigger", "db", "-g", "elsewhere"], 1, &["db", "elsewhere"]),
        (&[&configure[..], &none].concat(), 2, &["at least one", "above 0"]),
        (&[&configure[..], &["--daily-retention", "-1"]].concat(), 2, &["-1"]),
        (&[&configure[..], &["--daily-retention", "1000000000"]].concat(), 2, &["1000000000"]),
        (&[&configure[..], &["--daily-retention", "seven"]].concat(), 2, &["seven"]),
        (&[&configure[..], &["--target-region", "eastus"]].concat(), 2, &["eastus"]),
        (&[&configure[..], &["--target-region", "EastUS"]].concat(), 2, &["eastus"]),
        (&[&configure[..], &["--time", "25:00"]].concat(), 2, &["25:00"]),
        (&[&configure[..], &["--time-zone", "Mars/Olympus"]].concat(), 2, &["Mars/Olympus"]),
        (&[&configure[..], &["--consistency", "perfect"]].concat(), 2, &["perfect", "require"]),
        (&["backup", "trigger", "db", "--tier", "hourly"], 2, &["hourly", "daily"]),
        (&["backup", "trigger", "db", "--tier", "yearly"], 2, &["yearly"]),
        (&["backup", "trigger", "web"], 1, &["web", "policy", "azdr backup configure"]),
        (&["backup", "verify", "nosuch-point"], 1, &["nosuch-point"]),
        (&["backup", "restore", "db", "--backup", "nosuch", "--yes"], 1, &["nosuch"]),
        (&["backup", "restore", "db"], 2, &["--yes"]),
        (&["backup", "restore", "web", "--yes"], 1, &["web"]),
        (&["backup", "restore", "db", "--new-vm", "a/b"], 2, &["a/b"]),
        (&["backup", "restore", "db", "--new-vm", "web"], 1, &["web"]),
        (&["backup", "replicate", &point, "--target-region", "eastus"], 2, &["eastus"]),
        (&["backup", "replicate", &point, "--target-region", "westus2"], 1, &["westus2"]),
        (&["dr", "test", "web", "--test-region", "westus2"], 1, &["web"]),
        (&["dr", "test", "db", "--test-resource-group", "nogroup"], 1, &["nogroup"]),
        (&["agent", "token", "db", "--valid-for", "30s"], 2, &["30s"]),
        (&["agent", "token", "db", "--valid-for", "8d"], 2, &["604800"]),
        (&["backup", "explain", "nosuch"], 1, &["nosuch", "azdr backup list"]),
        (&["policy", "next", "web"], 1, &["web", "azdr backup configure"]),
        (&["policy", "next", "db", "--count", "0"], 2, &["from 1 to 1000"]),
        (&["policy", "simulate", "web"], 1, &["web", "azdr backup configure"]),
        (&["policy", "simulate", "db", "--time", "25:00"], 2, &["25:00"]),
        (&["policy", "simulate", "db", "--outage", "2026-01-02..2026-01-01"], 2, &["earlier"]),
        (&["policy", "diff", "db"], 2, &["nothing would be changed"]),
        (&["policy", "diff", "db", "-f", "/nonexistent"], 2, &["/nonexistent"]),
        (&["backup", "cost", "db", "--target-region", "eastus"], 2, &["eastus"]),
        (&["job", "show", "4711"], 1, &["4711"]),
        // What a terminal would obey is shown, not sent.
        (&["backup", "trigger", "\u{202e}bd"], 1, &["\\u{202e}bd"]),
        (&["backup", "show", "\u{1b}[2Jdb-backup-daily-20251201"], 1, &["\\u{1b}[2J"]),
        (&["policy", "diff", "db", "-f", &huge], 2, &["larger than 1 MB"]),
        (&["policy", "diff", "db", "-f", &bomb], 2, &["anchors are not allowed"]),
        (&["policy", "diff", "db", "-f", &nul], 2, &["U+0000 is not allowed"]),
        (&["policy", "apply", "-f", &turned], 2, &["U+202E is not allowed"]),
        (&["job", "cancel", "4711"], 1, &["4711"]),
    ];
    let mut wrong = Vec::new();
    for (command, code, words) in cases {
        if let Err(error) = expect(&lab.azdr.run(command)?, *code, words) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let after = state(&lab)?;
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    Ok(())
}

fn vm_id(lab: &Lab, name: &str) -> Result<String> {
    Ok(lab.simulator.listing()?.vm("prod", name)?.vm_id().to_owned())
}

fn refused(ended: &Ended, words: &[&str]) -> Result<()> {
    ensure!(ended.status.code() == Some(3), "{ended:?}");
    for word in words {
        ensure!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
    }
    Ok(())
}

fn tokens(stage: &Stage) -> Result<()> {
    let vms = vec![Vm::new("prod", "db"), Vm::new("prod", "web")];
    let mut lab = stage.lab(World { vms })?;
    let agent = stage.host_agent("agent", &lab, &vm_id(&lab, "db")?)?;
    let is_enrolled = || agent.state().join("identity.json").exists();

    // Another VM's token: it is still good afterwards.
    let of_web = lab.azdr.json(&["agent", "token", "web"])?;
    refused(&agent.enrol(&of_web)?, &["web"])?;
    // No token at all, and another controller's fingerprint.
    let mut wrong = of_web.clone();
    wrong["token"] = format!("azdr1-{}", "0".repeat(64)).into();
    refused(&agent.enrol(&wrong)?, &["azdr agent token"])?;
    let mut stranger = of_web.clone();
    stranger["ca_fingerprint"] = "00".repeat(32).into();
    refused(&agent.enrol(&stranger)?, &["--ca-fingerprint"])?;

    // Expired.
    let short = lab.azdr.json(&["agent", "token", "db", "--valid-for", "1m"])?;
    lab.controller.start_with(&["--clock-offset-secs", "120"])?;
    refused(&agent.enrol(&short)?, &["expired", "azdr agent token"])?;
    lab.controller.start()?;
    ensure!(!is_enrolled(), "a refused agent has an identity");
    let agents = lab.azdr.json(&["agent", "list"])?;
    ensure!(agents["agents"].as_array().is_some_and(Vec::is_empty), "{agents:#}");

    // Used.
    let token = lab.azdr.json(&["agent", "token", "db"])?;
    let first = agent.enrol(&token)?;
    ensure!(first.status.success() && is_enrolled(), "{first:?}");
    let identity = std::fs::read(agent.state().join("identity.json"))?;
    refused(&agent.enrol(&token)?, &["used", "azdr agent token"])?;
    ensure!(std::fs::read(agent.state().join("identity.json"))? == identity, "it has changed");

    let other = stage.host_agent("other", &lab, &vm_id(&lab, "web")?)?;
    let ended = other.enrol(&of_web)?;
    ensure!(ended.status.success(), "web's token is spoilt: {ended:?}");
    Ok(())
}

fn certificates(stage: &Stage) -> Result<()> {
    let vms = vec![Vm::new("prod", "db"), Vm::new("prod", "web")];
    let lab = stage.lab(World { vms })?;
    let (db, web) = (vm_id(&lab, "db")?, vm_id(&lab, "web")?);
    let agent = stage.host_agent("agent", &lab, &db)?;
    let ended = agent.enrol(&lab.azdr.json(&["agent", "token", "db"])?)?;
    ensure!(ended.status.success(), "{ended:?}");

    // On the admin API.
    let intruder = lab.azdr.with_context(&agent.context(&lab)?);
    for command in [&["vm", "list"][..], &["backup", "trigger", "db"], &["agent", "token", "web"]] {
        expect(&intruder.run(command)?, 3, &["not an operator's certificate"])?;
    }
    ensure!(lab.azdr.jobs()?.is_empty(), "{:?}", lab.azdr.jobs());

    // In its own VM: connected.
    let session = agent.start()?;
    let agents = await_agents(&lab, |a| a["state"] == "connected" && a["quarantined"] == false)?;
    ensure!(agents.len() == 1 && agents[0]["vm_name"] == "db", "{agents:#?}");
    session.stop(LIMIT)?;

    // In another VM: a restored instance that nobody asked for.
    agent.become_vm(&web)?;
    let session = agent.start()?;
    let agents = await_agents(&lab, |a| a["quarantined"] == true)?;
    let clone = agents.iter().find(|a| a["quarantined"] == true).context("no clone")?;
    ensure!(clone["instance_vm_id"] == web.as_str(), "{clone:#}");
    ensure!(clone["can_freeze"] == false && clone["restored_instance"] == true, "{clone:#}");
    // It speaks for neither: no backup freezes through it.
    for vm in ["db", "web"] {
        protect(&lab, vm, &[])?;
        lab.azdr.run(&["backup", "trigger", vm])?.ok()?;
        let point = &lab.azdr.points(vm)?[0];
        ensure!(point["frozen_ms"] == 0, "{point:#}");
        let reason = point["consistency_reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("no agent"), "{point:#}");
    }
    session.stop(LIMIT)?;

    // Revoked: no door is open.
    agent.become_vm(&db)?;
    let session = agent.start()?;
    await_agents(&lab, |a| a["state"] == "connected" && a["vm_name"] == "db")?;
    let revoked = lab.azdr.json(&["agent", "revoke", "db"])?;
    ensure!(revoked["certificates_revoked"] == 1, "{revoked:#}");
    until("the revoked agent is gone", LIMIT, || {
        let agents = lab.azdr.json(&["agent", "list"])?;
        Ok(match agents.to_string().contains("\"connected\"") {
            false => Look::Done(()),
            true => Look::Waiting(agents.to_string()),
        })
    })?;
    drop(session);
    Ok(())
}

fn await_agents(lab: &Lab, fits: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    until("the agent is seen as expected", LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?;
        let agents = answer["agents"].as_array().cloned().unwrap_or_default();
        Ok(match agents.iter().any(&fits) {
            true => Look::Done(agents),
            false => Look::Waiting(answer.to_string()),
        })
    })
}

fn no_controller(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let address = lab.controller.addresses().admin.to_string();
    let missing = lab.azdr.with_context(Path::new("/nowhere/context.toml"));
    expect(&missing.run(&["vm", "list"])?, 2, &["/nowhere/context.toml"])?;
    // A port where somebody else answers.
    let elsewhere = stage.folder.join("admin/elsewhere.toml");
    let context = std::fs::read_to_string(lab.controller.context())?;
    let metrics = lab.controller.addresses().metrics.to_string();
    std::fs::write(&elsewhere, context.replace(&address, &metrics))?;
    let other = lab.azdr.with_context(&elsewhere);
    expect(&other.run(&["vm", "list"])?, 3, &[&metrics])?;
    lab.controller.stop()?;
    for command in [&["vm", "list"][..], &["backup", "trigger", "db"], &["job", "watch", "1"]] {
        expect(&lab.azdr.run(command)?, 3, &[&address])?;
    }
    let answer = lab.azdr.run(&["vm", "list", "--output", "json"])?;
    let error: Value = serde_json::from_str(&answer.stderr)
        .with_context(|| format!("not a document: {}", answer.stderr))?;
    ensure!(error.to_string().contains("not_reachable"), "{error:#}");
    Ok(())
}
