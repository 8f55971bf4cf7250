//! With real machines: what is frozen thaws by itself, what is destroyed comes back, and copies of a
//! machine prove which one they are, even long after its certificate has expired.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::process::run;
use azdr_tests::{Guest, Lab, Stopwatch, Vm, World};
use serde_json::{Value, json};

use crate::setup::{Needs, PATIENCE, Stage, Test};
use crate::whole_flow::{protect, protect_and_keep_all};
use azdr_tests::judge;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_machine_is_backed_up_quiesced_destroyed_restored_and_drilled",
        needs: Needs::Guests,
        body: whole_story,
    },
    Test {
        name: "a_demo_that_is_interrupted_leaves_no_process_and_no_file",
        needs: Needs::Guests,
        body: interrupted_story,
    },
    Test {
        name: "a_frozen_machine_thaws_when_its_agent_or_the_controller_dies",
        needs: Needs::Guests,
        body: deaths_while_frozen,
    },
    Test {
        name: "a_restore_and_a_drill_of_a_machine_survive_the_controllers_death",
        needs: Needs::Guests,
        body: deaths_while_recovering,
    },
    Test {
        name: "a_point_whose_certificate_has_expired_boots_in_a_drill_and_is_recognised",
        needs: Needs::Guests,
        body: expired_certificate,
    },
    Test {
        name: "restored_machines_are_logged_in_to_from_outside",
        needs: Needs::Guests,
        body: logged_in_to,
    },
];

const BOOT: Duration = Duration::from_secs(240);
const LIMIT: Duration = Duration::from_secs(120);
const STORY: Duration = Duration::from_secs(600);

/// The lease, as configured by default.
const LEASE: Duration = Duration::from_secs(3);
/// For the emulated machine to notice, thaw and write, and for us to see it.
const SLACK: Duration = Duration::from_secs(3);

/// The demo is the story; here its summary is held against what must be.
fn whole_story(stage: &Stage) -> Result<()> {
    let summary = stage.folder.join("summary.json");
    let ended = run(stage.demo(&summary)?, PATIENCE + STORY, None)?;
    ensure!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    let summary: Value = serde_json::from_slice(&std::fs::read(summary)?)?;
    let holds = summary["ok"] == true
        && summary["guests"] == "qemu"
        && summary["backup"]["consistency"] == "filesystem"
        && summary["backup"]["disks"] == 2
        && summary["restore"]["data_intact"] == true
        && summary["restore"]["ssh_verified"] == true
        && summary["dr_test"]["passed"] == true
        && summary["dr_test"]["residue"].as_array().is_some_and(Vec::is_empty)
        && summary["azure"]["throttled"] == 0;
    ensure!(holds, "{summary:#}");
    nothing_is_left(stage)
}

fn interrupted_story(stage: &Stage) -> Result<()> {
    let demo = stage.demo(&stage.folder.join("summary.json"))?;
    let log = stage.folder.join("demo.log");
    let demo = stage.start("azdr-demo", demo, &log)?;
    until("the demo has enrolled its agents", PATIENCE + LIMIT, || {
        demo.check()?;
        Ok(match demo.printed().contains("azdr-agent enroll") {
            true => Look::Done(()),
            false => Look::Waiting(demo.printed()),
        })
    })?;
    demo.stop(Duration::from_secs(20))?;
    nothing_is_left(stage)
}

/// The demo's folder and processes are all in or under this test's folder.
pub(crate) fn nothing_is_left(stage: &Stage) -> Result<()> {
    let ours = stage.folder.display().to_string();
    until("nothing is left of the demo", Duration::from_secs(10), || {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&stage.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("azdr-demo-") {
                left.push(name);
            }
        }
        for process in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&format!("{ours}/azdr-demo-")) {
                left.push(line);
            }
        }
        Ok(if left.is_empty() { Look::Done(()) } else { Look::Waiting(left.join("\n")) })
    })
}

/// A running two-disk machine with an enrolled agent, and a writer that spans its disks.
fn db(stage: &Stage, more: &[Vm]) -> Result<(Lab, Guest)> {
    let vms = [&[Vm::new("data", "db").with_data_disk()], more].concat();
    let lab = stage.lab_with_guests(World { vms })?;
    let guest = lab.guest("data", "db")?;
    guest.await_ssh(BOOT)?;
    lab.enrol(&guest)?;
    agent_is_ready(&lab)?;
    guest.run("echo 20000 >/etc/lab-writer; sync")?;
    Ok((lab, guest))
}

fn agent_is_ready(lab: &Lab) -> Result<()> {
    until("the agent of db is connected and can freeze", LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?;
        let agents = answer["agents"].as_array().cloned().unwrap_or_default();
        let ready = agents
            .iter()
            .any(|a| a["vm_name"] == "db" && a["state"] == "connected" && a["can_freeze"] == true);
        Ok(if ready { Look::Done(()) } else { Look::Waiting(answer.to_string()) })
    })
}

fn invariant_holds(guest: &Guest) -> Result<()> {
    until("the writer's invariant holds", LIMIT, || {
        let ended = guest.try_run("lab-check")?;
        ensure!(!ended.stdout.contains("BROKEN"), "{}", ended.stdout);
        Ok(match ended.status.success() {
            true => Look::Done(()),
            false => Look::Waiting(ended.stdout),
        })
    })
}

/// Freezes the machine by a backup whose snapshots take too long; kills something meanwhile; returns
/// how long after that the writer in the machine went on, and the backup's job.
fn killed_while_frozen(
    lab: &mut Lab,
    guest: &Guest,
    stage: &Stage,
    kill: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<(Duration, i64)> {
    invariant_holds(guest)?;
    let slow = json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "count": 2},
        "action": {"delay_ms": 9000},
    }]);
    lab.simulator.set_faults(&slow)?;
    let job = lab.azdr.start_job(&["backup", "trigger", "db"])?;
    until("the machine is frozen", LIMIT, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64();
        Ok(if matched >= Some(1) { Look::Done(()) } else { Look::Waiting(format!("{matched:?}")) })
    })?;
    // In the machine: the writer stands still, and then goes on. (The shell's tools are read from the
    // frozen disk, which is no hindrance.)
    let watch = "n=$(wc -c </data/applied); usleep 300000; m=$(wc -c </data/applied); \
                 [ $n = $m ] && echo FROZEN; \
                 while [ $(wc -c </data/applied) = $m ]; do usleep 20000; done; echo THAWED";
    let seen = stage.folder.join(format!("watch-{job}"));
    let watcher = guest.start(watch, &seen)?;
    until("the writer stands still", Duration::from_secs(8), || {
        let printed = watcher.printed();
        Ok(if printed.contains("FROZEN") { Look::Done(()) } else { Look::Waiting(printed) })
    })?;
    let since = Stopwatch::start();
    kill(lab)?;
    until("the writer goes on", Duration::from_secs(30), || {
        let printed = watcher.printed();
        Ok(if printed.contains("THAWED") { Look::Done(()) } else { Look::Waiting(printed) })
    })?;
    let after = since.elapsed();
    lab.simulator.set_faults(&json!([]))?;
    Ok((after, job))
}

fn deaths_while_frozen(stage: &Stage) -> Result<()> {
    let (mut lab, guest) = db(stage, &[])?;
    protect_and_keep_all(&lab, "db")?;

    // The agent: its thaw process notices at once.
    let (after, job) = killed_while_frozen(&mut lab, &guest, stage, |_| {
        guest.run("kill -9 $(cat /run/azdr-agent.pid)").map(drop)
    })?;
    println!("the agent killed: the writer goes on after {after:?}");
    ensure!(after < LEASE + SLACK, "the writer went on only after {after:?}");
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    let point = &lab.azdr.points("db")?[0];
    ensure!(point["consistency"] == "uncoordinated", "a freeze that broke counted: {point:#}");
    agent_is_ready(&lab)?;

    // The controller: the lease runs out. The run then takes the snapshots once more, whole.
    let (after, job) = killed_while_frozen(&mut lab, &guest, stage, |lab| {
        lab.controller.kill();
        Ok(())
    })?;
    println!("the controller killed: the writer goes on after {after:?}");
    ensure!(after < LEASE + SLACK, "the writer went on only after {after:?}");
    lab.controller.start()?;
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    judge::at_rest(&lab, &["db"])?;
    agent_is_ready(&lab)?;

    // Without any death it is frozen throughout.
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let point = &lab.azdr.points("db")?[0];
    ensure!(point["consistency"] == "filesystem", "{point:#}");
    invariant_holds(&guest)?;

    // An agent that is stopped.
    guest.run("mv /etc/azdr/agent.toml /etc/azdr/off; kill $(cat /run/azdr-agent.pid)")?;
    until("the agent is gone", LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?.to_string();
        Ok(match answer.contains("\"connected\"") {
            false => Look::Done(()),
            true => Look::Waiting(answer),
        })
    })?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let point = &lab.azdr.points("db")?[0];
    ensure!(point["consistency"] == "uncoordinated", "{point:#}");
    lab.azdr.run(&["backup", "configure", "db", "--consistency", "require"])?.ok()?;
    let before = lab.simulator.listing()?.everything();
    let answer = lab.azdr.run(&["backup", "trigger", "db"])?;
    ensure!(answer.code == 1 && answer.stderr.contains("agent"), "{}", answer.words());
    lab.settle(LIMIT)?;
    ensure!(lab.simulator.listing()?.everything() == before, "snapshots are left behind");
    judge::at_rest(&lab, &["db"])
}

/// Starts a job, and kills the controller when a request has been delayed; returns the job as it ended.
fn killed_at(lab: &mut Lab, moment: &Value, command: &[&str]) -> Result<Value> {
    let fault = json!([{"match": moment, "action": {"delay_ms": 3000}}]);
    lab.simulator.set_faults(&fault)?;
    let id = lab.azdr.start_job(command)?;
    until(&format!("{moment} is under way"), LIMIT, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64();
        let nth = moment["nth"].as_u64().or(Some(1));
        Ok(if matched >= nth { Look::Done(()) } else { Look::Waiting(format!("{matched:?}")) })
    })?;
    lab.controller.kill();
    lab.simulator.set_faults(&json!([]))?;
    lab.controller.start()?;
    let job = lab.job_ended(id, BOOT)?;
    println!("killed at {moment}: {} is {}", job["workflow"], job["state"]);
    Ok(job)
}

fn deaths_while_recovering(stage: &Stage) -> Result<()> {
    let (mut lab, guest) = db(stage, &[])?;
    protect(&lab, "db", &["--consistency", "require"])?;
    guest.run("echo precious >/root/file")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let host_key = guest.host_key()?;
    let vms = "Microsoft.Compute/virtualMachines";
    for moment in [
        json!({"method": "PATCH", "resource_type": vms, "nth": 2}),
        json!({"method": "POST", "resource_type": format!("{vms}/start")}),
    ] {
        guest.run("echo spoilt >/root/file; sync")?;
        let boot_id = guest.boot_id()?;
        let job = killed_at(&mut lab, &moment, &["backup", "restore", "db", "--yes"])?;
        ensure!(job["state"] == "succeeded", "{job:#}");
        let result = &job["result"]["restore"];
        ensure!(result["witness_verified"] == true, "{result:#}");
        guest.await_ssh(BOOT)?;
        ensure!(guest.run("cat /root/file")? == "precious", "the data are not those of the backup");
        ensure!(guest.host_key()? == host_key && guest.boot_id()? != boot_id, "another machine");
        invariant_holds(&guest)?;
        judge::at_rest(&lab, &["db"])?;
    }
    for moment in [
        json!({"method": "PUT", "resource_type": vms}),
        json!({"method": "DELETE", "resource_type": "Microsoft.Resources/resourceGroups"}),
    ] {
        let job = killed_at(&mut lab, &moment, &["dr", "test", "db", "--test-region", "eastus"])?;
        ensure!(job["state"] == "succeeded", "{job:#}");
        let result = &job["result"]["dr_test"];
        let passed = result["passed"] == true && result["witness_verified"] == true;
        ensure!(passed && result["ssh_verified"] == true, "{result:#}");
        judge::at_rest(&lab, &["db"])?;
    }
    Ok(())
}

/// An agent's certificate lives for 30 days; after 13 months a drill of an old point meets one that
/// expired a year ago.
fn expired_certificate(stage: &Stage) -> Result<()> {
    let time = Duration::from_secs(13 * 31 * 24 * 3600);
    let (mut lab, _) = db(stage, &[])?;
    protect(&lab, "db", &["--consistency", "require"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    // The schedule would take backups of its own, of a machine with an expired certificate.
    lab.controller.reconfigure("[drill]", "[scheduler]\nenabled = false\n\n[drill]")?;
    // Machines that boot from now on live in that time, too.
    let shift = format!("lab.clock_shift_secs={}", time.as_secs());
    lab.simulator.stop()?;
    lab.simulator.start(&["--kernel-append", &shift])?;
    lab.let_pass(time)?;
    let agents = lab.azdr.json(&["agent", "list"])?;
    let expires = agents["agents"][0]["certificate_expires_at"].as_str().context("a date")?;
    println!("the certificate was good until {expires}");
    lab.azdr.run(&["dr", "test", "db", "--test-region", "eastus"])?.ok()?;
    let result = &lab.azdr.newest_job("dr_test")?["result"]["dr_test"];
    let passed = result["passed"] == true && result["witness_verified"] == true;
    ensure!(passed, "{result:#}");
    lab.settle(LIMIT)?;
    let left = lab.simulator.listing()?.temporary(&["db"], &[]);
    ensure!(left.is_empty(), "left over: {left:#?}");
    Ok(())
}

/// Dropbear and busybox on the other side: both facts are there after a drill and after a restore, and the
/// probe leaves nothing behind.
fn logged_in_to(stage: &Stage) -> Result<()> {
    let (mut lab, guest) = db(stage, &[])?;
    let key = guest.key().display();
    let probe = format!("[probe]\nuser = \"root\"\nkey_file = \"{key}\"\n\n[drill]");
    lab.controller.reconfigure("[drill]", &probe)?;
    lab.controller.stop()?;
    lab.controller.start()?;
    agent_is_ready(&lab)?;
    protect(&lab, "db", &["--consistency", "require"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let line = format!("ssh-ed25519 {}", guest.host_key()?);
    let host_key = azdr_identity::ssh_fingerprint(&line).context("a host key")?;

    lab.azdr.run(&["dr", "test", "db", "--test-region", "eastus"])?.ok()?;
    let drill = &lab.azdr.newest_job("dr_test")?["result"]["dr_test"];
    lab.azdr.run(&["backup", "restore", "db", "--yes"])?.ok()?;
    let restore = &lab.azdr.newest_job("restore_in_place")?["result"]["restore"];
    ensure!(restore["unconfirmed"].is_null(), "{restore:#}");
    for result in [drill, restore] {
        ensure!(result["witness_verified"] == true, "{result:#}");
        ensure!(result["ssh_verified"] == true, "{result:#}");
        let fact = |name: &str| {
            let facts = result["evidence"].as_array()?;
            facts.iter().find(|fact| fact["name"] == name)
        };
        let login = fact("ssh-login").context("nothing is known of a login")?;
        ensure!(login["state"] == "pass" && login["required"] == true, "{login:#}");
        println!("{}", login["detail"]);
        let shown = fact("ssh-host-key").context("nothing is known of a host key")?;
        ensure!(shown["state"] == "pass" && shown["required"] == true, "{shown:#}");
        let detail = shown["detail"].as_str().context("words")?;
        ensure!(detail == format!("{host_key}, as at the capture"), "{detail}");
    }
    let home = guest.run("ls -A /root")?;
    ensure!(!home.contains("azdr-probe"), "the probe has left a file: {home}");
    judge::at_rest(&lab, &["db"])
}
