//! `azdr-agent-bench`: what an agent costs its machine that has frozen once, and idles. `cargo xtask bench
//! agent` builds what it needs and runs it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::host_agent::HostAgent;
use azdr_tests::mounted::Mounted;
use azdr_tests::poll::{Look, Stopwatch, pause, until};
use azdr_tests::process::{Daemon, Lifetime};
use azdr_tests::protection::protect;
use azdr_tests::{Lab, LabSpec, Programs, Vm, World};
use clap::Parser;
use serde_json::json;

/// Connects a real agent with its thaw process to a real controller, has it freeze a file system of its own
/// once (as root), lets it idle, and prints as JSON how large both are, in files and in memory, before and
/// after, and what processor time they took.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of azdr-agent and azdr-thawd, as they are shipped
    #[arg(long, value_name = "DIR")]
    agent: PathBuf,
    /// For how long the agent idles
    #[arg(long, value_name = "N", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
}

fn main() -> ExitCode {
    azdr_tests::demo::leave_on_signals();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("azdr-agent-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let programs = Programs::beside_this_one()?.with_agent_of(&arguments.agent)?;
    let folder = tempfile::Builder::new().prefix("azdr-agent-bench-").tempdir();
    let folder = folder.context("cannot make a folder")?;
    azdr_tests::demo::remember_folder(folder.path());
    let world = World { vms: vec![Vm::new("prod", "db")] };
    let lab = Lab::start(&programs, folder.path(), LabSpec::without_guests(world))?;
    let listing = lab.simulator.listing()?;
    let vm_id = listing.vm("prod", "db")?.vm_id().to_owned();
    let mut agent = HostAgent::new(&programs, &folder.path().join("agent"), "info", &lab, &vm_id)?;
    let (image, place) = (folder.path().join("disk.image"), folder.path().join("disk"));
    let mount = Mounted::new(&image, &place, 64, &["mkfs.ext4", "-q", "-F"]);
    if let Ok(mount) = &mount {
        let controller = lab.controller.addresses().agent;
        agent = agent.freezing(&[mount.path().to_owned()], controller, &vm_id)?;
    }
    let enrolled = agent.enrol(&lab.azdr.json(&["agent", "token", "db"])?)?;
    ensure!(enrolled.status.success(), "azdr-agent enroll failed: {}", enrolled.stderr);
    let mut command = programs.command("azdr-thawd");
    command.arg("--socket").arg(agent.thawd_socket());
    let log = folder.path().join("thawd.log");
    let thawd = Daemon::start("azdr-thawd", command, &log, Lifetime::OfStarter)?;
    let session = agent.start()?;
    until("the agent is connected", Duration::from_secs(60), || {
        let agents = lab.azdr.json(&["agent", "list"])?.to_string();
        Ok(match agents.contains("\"connected\"") {
            true => Look::Done(()),
            false => Look::Waiting(agents),
        })
    })?;
    let ids = [session.id(), thawd.id()];
    let [agent_before, thawd_before] = ids.map(resident_kib);
    let frozen = match &mount {
        Ok(_) => {
            freeze_once(&lab)?;
            json!(true)
        }
        Err(why) => json!(format!("not frozen: {why:#}")),
    };
    let processor_time = || ids.iter().map(|id| ticks(*id)).sum::<Result<u64>>();
    let (watch, before) = (Stopwatch::start(), processor_time()?);
    pause(Duration::from_secs(arguments.seconds));
    let (elapsed, after) = (watch.elapsed(), processor_time()?);
    // SAFETY: no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = f64::from(i32::try_from(per_second).context("an odd clock")?);
    let busy = f64::from(u32::try_from(after - before)?) / per_second;
    let [agent_memory, thawd_memory] = ids.map(resident_kib);
    let size = |name: &str| std::fs::metadata(programs.path(name)).map(|file| file.len());
    let figures = json!({
        "agent": {
            "file_bytes": size("azdr-agent")?,
            "resident_kib": agent_memory?,
            "resident_before_kib": agent_before?,
        },
        "thawd": {
            "file_bytes": size("azdr-thawd")?,
            "resident_kib": thawd_memory?,
            "resident_before_kib": thawd_before?,
        },
        "has_frozen": frozen,
        "idle": {
            "seconds": elapsed.as_secs_f64(),
            "processor_seconds": busy,
            "tick_seconds": 1.0 / per_second,
            "percent_of_a_core": 100.0 * busy / elapsed.as_secs_f64(),
        },
    });
    println!("{figures:#}");
    Ok(())
}

/// A whole backup, frozen.
fn freeze_once(lab: &Lab) -> Result<()> {
    protect(lab, "db", &["--consistency", "require"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    Ok(())
}

/// User and system time of a process, in clock ticks: fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn ticks(id: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"))
        .with_context(|| format!("process {id} has ended"))?;
    // The second field is a name in brackets, which may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("an odd stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok());
    Ok(field(14).context("no user time")? + field(15).context("no system time")?)
}

fn resident_kib(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"))
        .with_context(|| format!("process {id} has ended"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(number.parse()?)
}
