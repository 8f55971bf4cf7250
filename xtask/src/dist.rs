//! `cargo xtask dist`: the packages of the agent, for Debian's and Red Hat's families.
//!
//! What they hold is said in `agent/Cargo.toml` (`package.metadata.deb` and `.generate-rpm`), what they
//! do when they come and go in `deploy/deb` and `deploy/rpm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::debian_packages::ensure_program;
use crate::guest_image::remove_if_there;
use crate::workspace::{SHIPPED_AGENT, Workspace};

/// The programs that put packages together, and the versions that this was tried with.
const DEBIAN_TOOL: (&str, &str) = ("cargo-deb", "3.8.0");
const RPM_TOOL: (&str, &str) = ("cargo-generate-rpm", "0.21.1");
/// An agent that is larger is not shipped: it is installed on every VM.
const AGENT_LIMIT: u64 = 3_000_000;

#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// Where the packages go [default: target/dist]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Dist {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let tools = workspace.target.join("tools");
        ensure_tools(&workspace, &tools)?;
        let Some(programs) = workspace.build_shipped_agent()? else {
            return Ok(ExitCode::FAILURE);
        };
        let agent = fs::metadata(programs.join("azdr-agent"))?.len();
        let thawd = fs::metadata(programs.join("azdr-thawd"))?.len();
        ensure!(agent < AGENT_LIMIT, "azdr-agent has {agent} bytes, {AGENT_LIMIT} are allowed");
        let out = self.out.unwrap_or_else(|| workspace.target.join("dist"));
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        debian_package(&workspace, &tools, &out)?;
        rpm_package(&workspace, &tools, &out)?;
        println!("azdr-agent {agent} bytes, azdr-thawd {thawd} bytes");
        println!("needs glibc {}", glibc(&programs)?);
        for entry in fs::read_dir(&out)? {
            let entry = entry?;
            println!("{} {} bytes", entry.path().display(), entry.metadata()?.len());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Both packages of the agent.
#[derive(Clone, Debug)]
pub(crate) struct AgentPackages {
    pub(crate) debian: PathBuf,
    pub(crate) rpm: PathBuf,
}

impl AgentPackages {
    /// Builds the agent as it is shipped and makes its packages in `out`, which is emptied first; `None` when
    /// cargo has said why it could not.
    ///
    /// # Errors
    /// When a tool is missing and cannot be installed here.
    pub(crate) fn make(workspace: &Workspace, out: &Path) -> Result<Option<Self>> {
        let tools = workspace.target.join("tools");
        ensure_tools(workspace, &tools)?;
        if workspace.build_shipped_agent()?.is_none() {
            return Ok(None);
        }
        remove_if_there(out)?;
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        debian_package(workspace, &tools, out)?;
        rpm_package(workspace, &tools, out)?;
        let made = |suffix: &str| {
            let files = fs::read_dir(out)?.filter_map(|entry| Some(entry.ok()?.path()));
            let mut found = files.filter(|file| file.extension().is_some_and(|e| e == suffix));
            found.next().with_context(|| format!("no .{suffix} was made in {}", out.display()))
        };
        Ok(Some(Self { debian: made("deb")?, rpm: made("rpm")? }))
    }
}

fn ensure_tools(workspace: &Workspace, tools: &Path) -> Result<()> {
    ensure_tool(workspace, tools, DEBIAN_TOOL)?;
    ensure_tool(workspace, tools, RPM_TOOL)?;
    // cargo-deb asks it which packages the programs' libraries are from.
    ensure_program("dpkg-shlibdeps", "dpkg-dev", &workspace.guest_image().join("apt"))
}

fn debian_package(workspace: &Workspace, tools: &Path, out: &Path) -> Result<()> {
    package(
        Command::new(tools.join("bin/cargo-deb"))
            .args(["deb", "--no-build", "--no-strip", "--profile", SHIPPED_AGENT, "--output"])
            .arg(out)
            .current_dir(workspace.path("agent"))
            .env("CARGO_TARGET_DIR", &workspace.target),
    )
}

fn rpm_package(workspace: &Workspace, tools: &Path, out: &Path) -> Result<()> {
    package(
        Command::new(tools.join("bin/cargo-generate-rpm"))
            .args(["generate-rpm", "--package", "agent", "--profile", SHIPPED_AGENT, "--output"])
            .arg(out)
            .arg("--target-dir")
            .arg(&workspace.target)
            .current_dir(workspace.path("")),
    )
}

/// Installs a tool into the target folder, unless this version is there.
fn ensure_tool(workspace: &Workspace, tools: &Path, tool: (&str, &str)) -> Result<()> {
    let (name, version) = tool;
    let mut install = workspace.cargo(&["install", "--locked", "--quiet", "--root"]);
    install.arg(tools).args([name, "--version", version]);
    // Cargo compares the version with what it has installed there.
    let done = install.env("CARGO_TARGET_DIR", workspace.target.join("tools/build")).status();
    ensure!(done.context("cannot run cargo")?.success(), "{name} {version} cannot be installed");
    Ok(())
}

fn package(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

/// The newest version of glibc whose symbols the agent uses.
fn glibc(programs: &Path) -> Result<String> {
    // The thaw process has its own inside.
    let bytes = fs::read(programs.join("azdr-agent"))?;
    let newest = glibc_versions(&bytes).max().context("the agent names no version of glibc")?;
    Ok(format!("{}.{}", newest.0, newest.1))
}

/// Every `GLIBC_major.minor` among a program's strings.
fn glibc_versions(program: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    const NAME: &[u8] = b"GLIBC_";
    let starts = program.windows(NAME.len()).enumerate().filter(|(_, w)| *w == NAME);
    starts.filter_map(|(at, _)| {
        let rest = program[at + NAME.len()..].split(|b| *b == 0).next()?;
        let (major, minor) = std::str::from_utf8(rest).ok()?.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found_by_number() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0";
        assert_eq!(glibc_versions(program).max(), Some((2, 34)));
    }
}
