//! Where the binaries and the guest image are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shifted_clock::ShiftedClock;

/// The environment variable that names the folder of the guest image.
pub const GUEST_IMAGE_VARIABLE: &str = "AZDR_GUEST_IMAGE";

/// What runs on a protected machine.
const AGENTS: [&str; 2] = ["azdr-agent", "azdr-thawd"];

/// The binaries, all in one folder or the agent's in another.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    /// Of the agent and its thaw process, if that is another.
    agents: Option<PathBuf>,
    clock: Option<ShiftedClock>,
}

impl Programs {
    /// What a lab starts.
    pub const ALL: [&str; 6] = [
        "azure-sim",
        "azure-sim-relay",
        "azdr-controller",
        "azdr",
        "azdr-agent",
        "azdr-simulated-agents",
    ];

    /// The binaries in a folder.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        for name in Self::ALL {
            let path = folder.join(name);
            ensure!(path.is_file(), "{} is not built: cargo build --workspace", path.display());
        }
        Ok(Self { folder: std::path::absolute(folder)?, agents: None, clock: None })
    }

    /// The binaries of the build that this program belongs to: beside it, or (for a test) above it.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn beside_this_one() -> Result<Self> {
        let this = std::env::current_exe().context("cannot find this program")?;
        let folder = this.parent().context("a program is in a folder")?;
        let above = folder.parent().filter(|_| folder.ends_with("deps"));
        Self::in_folder(above.unwrap_or(folder))
    }

    /// The same with the agent and its thaw process from another folder.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn with_agent_of(&self, folder: &Path) -> Result<Self> {
        for name in AGENTS {
            ensure!(folder.join(name).is_file(), "there is no {name} in {}", folder.display());
        }
        Ok(Self { agents: Some(std::path::absolute(folder)?), ..self.clone() })
    }

    /// The same in another time.
    #[must_use]
    pub fn at(&self, clock: &ShiftedClock) -> Self {
        Self { clock: Some(clock.clone()), ..self.clone() }
    }

    /// A binary's path.
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = self.agents.as_ref().filter(|_| AGENTS.contains(&name));
        folder.unwrap_or(&self.folder).join(name)
    }

    /// A command that runs a binary, undisturbed by the environment of whoever started us.
    pub fn command(&self, name: &str) -> Command {
        self.undisturbed(Command::new(self.path(name)))
    }

    /// A shell that runs a command line, as undisturbed; the binaries are not on its path.
    pub fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line);
        self.undisturbed(shell)
    }

    fn undisturbed(&self, mut command: Command) -> Command {
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("AZDR_") {
                command.env_remove(variable);
            }
        }
        // Traffic stays on this machine.
        for proxy in
            ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        {
            command.env_remove(proxy);
        }
        command.env("NO_COLOR", "1").env_remove("RUST_LOG");
        if let Some(clock) = &self.clock {
            clock.apply(&mut command);
        }
        command
    }
}

/// The small Linux that guests run, as `cargo xtask guest-image` makes it.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Template of OS disks.
    pub os_disk: PathBuf,
    /// Template of data disks: an empty file system.
    pub data_disk: PathBuf,
    /// The private key that root's account accepts.
    pub ssh_key: PathBuf,
    /// RAM that a machine needs.
    pub memory_mib: u32,
}

/// RAM of the small guest.
const SMALL_MIB: u32 = 128;

impl GuestImage {
    /// The image in a folder.
    ///
    /// # Errors
    /// When a part of it is missing.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let part = |name: &str| -> Result<PathBuf> {
            let path = std::path::absolute(folder.join(name))?;
            ensure!(path.is_file(), "{} is missing: cargo xtask guest-image", path.display());
            Ok(path)
        };
        Ok(Self {
            kernel: part("vmlinux")?,
            initrd: part("initrd.cpio")?,
            os_disk: part("os.raw")?,
            data_disk: part("data.raw")?,
            ssh_key: part("id_ed25519")?,
            memory_mib: match std::fs::read_to_string(folder.join("memory-mib")) {
                Ok(text) => text.trim().parse().context("memory-mib is not a number")?,
                Err(_) => SMALL_MIB,
            },
        })
    }
}

/// Whether a program is in the search path.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
