//! `cargo xtask test`: formatting, lints, documentation, every test; exactly what CI runs.
//!
//! Tests start what cargo builds with them. `--shipped` runs those of the thaw process with the program
//! that machines get, which is another: static, small before it is fast, and without unwinding.
//!
//! Nothing stops at the first failure. The last line counts everything; each check that is not a test
//! program's counts as one test.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::debian_packages::{ensure_program, find_program, is_root};
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Read by test programs: what needs QEMU fails instead of being ignored.
const REQUIRE_QEMU: &str = "AZDR_REQUIRE_QEMU";

/// Programs that tests start, with the Debian package that has them. Not among them are packages that start
/// a server by themselves, such as PostgreSQL's; tests that need one are ignored where there is none.
const PROGRAMS_OF_TESTS: [(&str, &str); 5] = [
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("strace", "strace"),
    ("mariadbd", "mariadb-server-core"),
    ("mysql", "mariadb-client-core"),
];

/// Read by the agent's test programs: the thaw process to be tested.
const THAW_PROCESS: &str = "AZDR_THAWD";

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The thaw process as it is shipped instead: its own tests and the agent's, and nothing else; as root
    #[arg(long)]
    shipped: bool,
}

impl Test {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let mut all = Tally::default();
        if self.shipped {
            shipped(&workspace, &mut all)?;
            return Ok(ended(all));
        }
        let mut check = |what: &str, command: &mut Command| -> Result<bool> {
            announce(what);
            let ok = command.status().with_context(|| format!("cannot run {what}"))?.success();
            all.add(Tally::of_check(ok));
            Ok(ok)
        };
        check("formatting", &mut workspace.cargo(&["fmt", "--all", "--check"]))?;
        let lints = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        check("lints", &mut workspace.cargo(&lints))?;
        let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
        check("documentation", doc.env("RUSTDOCFLAGS", "--deny warnings"))?;
        if find_program("cargo-deny").is_some() {
            let offline = ["deny", "check", "bans", "licenses", "sources"];
            check("dependencies", &mut workspace.cargo(&offline))?;
        } else {
            announce("dependencies: skipped, cargo-deny is not installed");
            all.skipped += 1;
        }
        // All targets at once, so that nothing is built twice: test programs start these binaries.
        announce("build");
        let mut build = workspace.cargo(&["build", "--workspace", "--all-targets"]);
        if build.status().context("cannot run cargo build")?.success() {
            tests(&workspace, &mut all)?;
        } else {
            all.add(Tally::of_check(false));
        }
        Ok(ended(all))
    }
}

fn ended(all: Tally) -> ExitCode {
    println!("{all}");
    if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tests that freeze, with the thaw process as it is shipped. Both of its test programs, whatever the
/// first says.
fn shipped(workspace: &Workspace, all: &mut Tally) -> Result<()> {
    announce("the thaw process as it is shipped");
    let Some(thawd) = workspace.build_shipped_thaw_process()? else {
        all.add(Tally::of_check(false));
        return Ok(());
    };
    ensure_programs_of_tests(workspace);
    let mut tests =
        workspace.cargo(&["test", "--package", "azdr-thawd", "--package", "azdr-agent"]);
    tests.args(["--test", "it", "--no-fail-fast"]).env(THAW_PROCESS, thawd);
    announce("tests");
    all.add(Tally::of_run(&mut tests)?);
    Ok(())
}

fn ensure_programs_of_tests(workspace: &Workspace) {
    let apt = workspace.guest_image().join("apt");
    for (program, package) in PROGRAMS_OF_TESTS {
        if let Err(error) = ensure_program(program, package, &apt) {
            println!("no {program}: its tests are ignored ({error:#})");
        }
    }
}

fn tests(workspace: &Workspace, all: &mut Tally) -> Result<()> {
    announce("the lab's machines");
    let guests = prepare_guests(workspace, all);
    let cargo = |arguments: &[&str]| {
        let mut command = workspace.cargo(arguments);
        command.env("AZDR_GUEST_IMAGE", workspace.guest_image());
        command.env("AZURE_SIM_GUEST_IMAGE", workspace.guest_image());
        if guests {
            command.env(REQUIRE_QEMU, "1");
        }
        command
    };
    announce("tests");
    all.add(Tally::of_run(&mut cargo(&["test", "--workspace", "--no-fail-fast"]))?);
    // What stays ignored under `cargo test` is caught up with where it can run.
    if !guests {
        return Ok(());
    }
    announce("tests of the simulator that need machines");
    // The program that was built already: cargo would build it anew for this package alone.
    let program = simulator_tests(&mut cargo(&["test", "--workspace", "--no-run"]))?;
    let mut ignored = Command::new(program);
    ignored.arg("--ignored").arg("guests_qemu").current_dir(workspace.path("sim"));
    ignored.env("AZURE_SIM_GUEST_IMAGE", workspace.guest_image());
    all.add_caught_up(Tally::of_run(&mut ignored)?);
    Ok(())
}

/// The path of azure-sim's integration tests.
fn simulator_tests(build: &mut Command) -> Result<PathBuf> {
    let output = build.arg("--message-format=json").stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_wanted = |message: &Value| {
        let manifest = message["manifest_path"].as_str().unwrap_or_default();
        let target = &message["target"];
        target["kind"][0] == "test"
            && target["name"] == "it"
            && manifest.ends_with("/sim/Cargo.toml")
    };
    let program = built.filter(is_wanted).find_map(|m| Some(m["executable"].as_str()?.to_owned()));
    program.map(PathBuf::from).context("azure-sim has no integration tests")
}

/// Whether tests with real machines have to run. Where they could and something goes wrong, that is a
/// failure; elsewhere they are ignored, with the reason.
fn prepare_guests(workspace: &Workspace, all: &mut Tally) -> bool {
    ensure_programs_of_tests(workspace);
    match workspace.ensure_guests("debug") {
        Ok(()) => true,
        Err(error) if is_root() && find_program("apt-get").is_some() => {
            println!("FAILED: the lab's machines cannot be prepared: {error:#}");
            all.add(Tally::of_check(false));
            false
        }
        Err(error) => {
            println!("tests with real machines are ignored: {error:#}");
            false
        }
    }
}

fn announce(what: &str) {
    println!("\n==== {what}");
}
