//! Where things are, and how cargo is run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian_guest::ensure_debian_guest;
use crate::debian_packages::ensure_host_packages;
use crate::dist::AgentPackages;
use crate::guest_image::{GuestImage, ensure_guest_image};

/// The profile that is small before it is fast.
pub(crate) const SHIPPED_AGENT: &str = "agent";

/// The workspace.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built in.
    ///
    /// # Errors
    /// When this program is not where cargo puts it.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
        // target/debug/xtask, wherever target is.
        let this = std::env::current_exe().context("cannot find this program")?;
        let target = this.ancestors().nth(2).context("xtask is not in a target folder")?;
        Ok(Self { root: root.to_owned(), target: target.to_owned() })
    }

    /// A file or folder of the workspace.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where cargo puts a profile's programs: `debug`, `release`.
    pub(crate) fn programs(&self, profile: &str) -> PathBuf {
        self.target.join(profile)
    }

    /// Where the guest image is.
    pub(crate) fn guest_image(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// Builds the programs of these packages in a profile, `debug` or `release` or one of the
    /// workspace's own, with words; false when cargo has said why it could not.
    ///
    /// # Errors
    /// When cargo cannot be run.
    pub(crate) fn build_programs(&self, profile: &str, packages: &[&str]) -> Result<bool> {
        eprintln!("Building {profile} programs");
        let mut build = self.cargo(&["build", "--bins"]);
        if profile != "debug" {
            build.args(["--profile", profile]);
        }
        for package in packages {
            build.args(["--package", package]);
        }
        Ok(build.status().context("cannot run cargo")?.success())
    }

    /// Builds `azdr-agent` and `azdr-thawd` as they are shipped, and says where; `None` when cargo has said
    /// why it could not.
    ///
    /// # Errors
    /// When cargo cannot be run.
    pub(crate) fn build_shipped_agent(&self) -> Result<Option<PathBuf>> {
        eprintln!("Building the agent as it is shipped");
        let mut agent = self.cargo_as_shipped(&["build", "--bins", "--package", "azdr-agent"]);
        if !agent.status().context("cannot run cargo")?.success() {
            return Ok(None);
        }
        Ok(self.build_shipped_thaw_process()?.map(|_| self.programs(SHIPPED_AGENT)))
    }

    /// Builds `azdr-thawd` as it is shipped, and says where the program is; `None` when cargo has said why
    /// it could not.
    ///
    /// # Errors
    /// When cargo cannot be run.
    pub(crate) fn build_shipped_thaw_process(&self) -> Result<Option<PathBuf>> {
        let mut thawd = self.cargo(&["build", "--bins", "--package", "azdr-thawd"]);
        // All of its memory is locked: without a dynamic loader and shared libraries that is half as much,
        // and nothing of it can be replaced under its feet.
        set_rustflags_as_shipped(&mut thawd, &["-Ctarget-feature=+crt-static"]);
        thawd.args(["--profile", SHIPPED_AGENT]);
        let built = thawd.status().context("cannot run cargo")?.success();
        Ok(built.then(|| self.programs(SHIPPED_AGENT).join("azdr-thawd")))
    }

    /// A cargo command that builds the agent as it is shipped.
    pub(crate) fn cargo_as_shipped(&self, arguments: &[&str]) -> Command {
        let mut command = self.cargo(arguments);
        command.args(["--profile", SHIPPED_AGENT, "--features", "azdr-agent/shipped"]);
        set_rustflags_as_shipped(&mut command, &[]);
        command
    }

    /// A cargo command in the workspace, with the same target folder.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root);
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Installs what guests need, and makes the guest image with a profile's agent.
    ///
    /// # Errors
    /// When something is missing and cannot be installed here; the message says what to install.
    pub(crate) fn ensure_guests(&self, profile: &str) -> Result<()> {
        self.ensure_small_guest(profile).map(drop)
    }

    /// The same for the Debian guest, with the agent's packages; says where it is.
    ///
    /// # Errors
    /// As of [`ensure_guests`](Self::ensure_guests); and when this is not root.
    pub(crate) fn ensure_debian_guests(
        &self,
        profile: &str,
        packages: &AgentPackages,
    ) -> Result<PathBuf> {
        let small = self.ensure_small_guest(profile)?;
        let folder = self.guest_image().join("debian");
        ensure_debian_guest(&small, &folder, packages)?;
        Ok(folder)
    }

    fn ensure_small_guest(&self, profile: &str) -> Result<GuestImage> {
        let folder = self.guest_image();
        ensure_host_packages(&folder.join("apt"))?;
        let image = ensure_guest_image(&folder, &self.programs(profile))?;
        ensure!(image.has_agent, "the agent is not built in {}", self.programs(profile).display());
        // Guests' SSH is at port 22 of loopback addresses.
        match std::net::TcpListener::bind(("127.64.255.254", 22)) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(e).context(
                "guests are reached at port 22 of loopback addresses: run this as root, or allow it \
                 with `sysctl net.ipv4.ip_unprivileged_port_start=22`",
            ),
            _ => Ok(image),
        }
    }
}

/// What is shipped names the sources of a panic as they are in the registry, not where they lie on the
/// machine that built it: shorter, the same from everywhere, and nothing about that machine. (The encoded
/// variable, since that path may hold spaces.)
fn set_rustflags_as_shipped(command: &mut Command, further: &[&str]) {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).unwrap_or_default();
    let mut flags = OsString::from("--remap-path-prefix=");
    flags.push(home.join("registry/src"));
    flags.push("=");
    for flag in further {
        flags.push("\x1f");
        flags.push(flag);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
}
