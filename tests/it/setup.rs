//! What a test is, and what it gets.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::host_agent::HostAgent;
use azdr_tests::process::{Daemon, Lifetime, last_lines};
use azdr_tests::programs::{GUEST_IMAGE_VARIABLE, is_installed};
use azdr_tests::{GuestImage, Lab, LabSpec, Programs, World};

/// One lab with machines at a time.
static MACHINES: Mutex<()> = Mutex::new(());

/// How long to wait for labs of others on this machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// An end-to-end test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) body: fn(&Stage) -> Result<()>,
}

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Programs,
    /// And the right to mount file systems.
    Mounts,
    Guests,
    /// And the Debian guest, which `cargo xtask lab --systemd` makes.
    DebianGuests,
    /// The operators' guide.
    Guide,
    /// And the programs.
    GuideAndPrograms,
}

/// What there is on this machine; problems in words.
#[derive(Clone)]
pub(crate) struct Setup {
    programs: Result<Programs, String>,
    mounts: Result<(), String>,
    image: Result<GuestImage, String>,
    debian: Result<GuestImage, String>,
    guide: Result<PathBuf, String>,
    pub(crate) guests_are_required: bool,
}

/// Where one test takes place.
pub(crate) struct Stage {
    pub(crate) programs: Option<Programs>,
    pub(crate) image: Option<GuestImage>,
    guide: Option<PathBuf>,
    pub(crate) folder: PathBuf,
}

impl Setup {
    pub(crate) fn find() -> Self {
        let words = |error: anyhow::Error| format!("{error:#}");
        Self {
            programs: Programs::beside_this_one().map_err(words),
            mounts: crate::broken_disk::may_mount().map_err(words),
            image: guest_image().map_err(words),
            debian: debian_image().map_err(words),
            guide: guide().map_err(words),
            guests_are_required: std::env::var_os("AZDR_REQUIRE_QEMU").is_some(),
        }
    }

    /// Why a test cannot run here.
    pub(crate) fn obstacle(&self, needs: Needs) -> Option<String> {
        let programs = self.programs.as_ref().err();
        match needs {
            Needs::Nothing => None,
            Needs::Programs => programs.cloned(),
            Needs::Mounts => programs.or(self.mounts.as_ref().err()).cloned(),
            Needs::Guests => programs.or(self.image.as_ref().err()).cloned(),
            Needs::DebianGuests => {
                let small = self.image.as_ref().err();
                programs.or(small).or(self.debian.as_ref().err()).cloned()
            }
            Needs::Guide => self.guide.as_ref().err().cloned(),
            Needs::GuideAndPrograms => self.guide.as_ref().err().or(programs).cloned(),
        }
    }

    pub(crate) fn run(
        &self,
        needs: Needs,
        body: impl FnOnce(&Stage) -> Result<()>,
    ) -> Result<(), String> {
        // A test's limits begin when its machines can have their addresses.
        let _turn = matches!(needs, Needs::Guests | Needs::DebianGuests)
            .then(|| MACHINES.lock().unwrap_or_else(PoisonError::into_inner));
        let folder = tempfile::Builder::new().prefix("azdr-e2e-").tempdir();
        let folder = folder.map_err(|e| format!("no folder: {e}"))?;
        let stage = Stage {
            programs: self.programs.clone().ok(),
            image: if needs == Needs::DebianGuests { &self.debian } else { &self.image }
                .clone()
                .ok(),
            guide: self.guide.clone().ok(),
            folder: folder.path().to_owned(),
        };
        body(&stage).map_err(|error| {
            let mut words = format!("{error:#}");
            for log in ["controller.log", "sim.log", "agents.log"] {
                let lines = last_lines(&folder.path().join(log), 30);
                words.push_str(&format!("\n--- end of {log}\n{lines}"));
            }
            if std::env::var_os("AZDR_KEEP_FAILED").is_some() {
                words.push_str(&format!("\n--- kept: {}", folder.keep().display()));
            }
            words
        })
    }
}

/// Names the folder of the Debian guest, as `cargo xtask lab --systemd` makes it.
const DEBIAN_GUEST: &str = "AZDR_DEBIAN_GUEST_IMAGE";

/// The folder of the operators' guide, by default next to the workspace.
const SEEDS: &str = "AZDR_SEEDS";
const GUIDE: &str = "000_456bb3e359ffda55.txt";

fn guide() -> Result<PathBuf> {
    let folder = std::env::var_os(SEEDS)
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/seeds"));
    let path = folder.join(GUIDE);
    ensure!(path.is_file(), "no guide {GUIDE}: set {SEEDS}");
    Ok(path)
}

/// The guest image, if machines can run here.
fn guest_image() -> Result<GuestImage> {
    for program in ["qemu-system-x86_64", "ssh", "ssh-keyscan"] {
        ensure!(is_installed(program), "{program} is not installed");
    }
    if let Err(e) = std::net::TcpListener::bind(("127.64.255.253", 22)) {
        ensure!(e.kind() != std::io::ErrorKind::PermissionDenied, "port 22 needs root");
    }
    let folder = match std::env::var_os(GUEST_IMAGE_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let this = std::env::current_exe().context("this program's path")?;
            // target/debug/deps/it-…
            this.ancestors().nth(3).unwrap_or(Path::new("target")).join("lab")
        }
    };
    GuestImage::in_folder(&folder)
}

/// The Debian guest. Only when somebody names it: one that lies about has an older agent's package.
fn debian_image() -> Result<GuestImage> {
    let folder = std::env::var_os(DEBIAN_GUEST);
    let folder = folder.with_context(|| format!("{DEBIAN_GUEST} names no Debian guest"))?;
    GuestImage::in_folder(Path::new(&folder))
}

impl Stage {
    pub(crate) fn programs(&self) -> Result<&Programs> {
        self.programs.as_ref().context("the programs are not built")
    }

    /// The operators' guide, as it is.
    pub(crate) fn guide(&self) -> Result<String> {
        let path = self.guide.as_ref().context("there is no guide")?;
        std::fs::read_to_string(path).context("cannot read the guide")
    }

    /// A running world whose machines are mere records.
    pub(crate) fn lab(&self, world: World) -> Result<Lab> {
        self.lab_of(LabSpec::without_guests(world))
    }

    /// An agent on this machine that takes itself for a VM, and logs everything.
    pub(crate) fn host_agent(&self, name: &str, lab: &Lab, vm_id: &str) -> Result<HostAgent> {
        let programs = self.programs.as_ref().context("the programs are not built")?;
        HostAgent::new(programs, &self.folder.join(name), "trace", lab, vm_id)
    }

    /// A running world of simulated machines.
    pub(crate) fn lab_with_simulated_guests(&self, world: World) -> Result<Lab> {
        self.lab_of(LabSpec::with_simulated_guests(world))
    }

    /// The demo, all of whose files are in this test's folder.
    pub(crate) fn demo(&self, summary: &Path) -> Result<Command> {
        let mut demo = self.programs()?.command("azdr-demo");
        let image = self.image.as_ref().context("there is no guest image")?;
        let folder = image.kernel.parent().context("the image is in a folder")?;
        demo.arg("--guest-image").arg(folder).arg("--json").arg(summary);
        demo.arg("--wait").arg(PATIENCE.as_secs().to_string()).env("TMPDIR", &self.folder);
        Ok(demo)
    }

    /// The demo with simulated machines.
    pub(crate) fn simulated_demo(&self, summary: &Path) -> Result<Command> {
        let mut demo = self.programs()?.command("azdr-demo");
        demo.arg("--simulated-guests").arg("--json").arg(summary).env("TMPDIR", &self.folder);
        Ok(demo)
    }

    /// Starts a process that does not outlive this test.
    pub(crate) fn start(&self, name: &str, command: Command, log: &Path) -> Result<Daemon> {
        Daemon::start(name, command, log, Lifetime::OfStarter)
    }

    /// A running world.
    pub(crate) fn lab_of(&self, spec: LabSpec) -> Result<Lab> {
        Lab::start(self.programs()?, &self.folder, spec)
    }
}
