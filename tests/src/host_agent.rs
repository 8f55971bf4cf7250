//! A real agent on this machine instead of in a guest: it takes itself for whichever VM the instance
//! metadata say. It can freeze nothing but what a test names to it: else no file system is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_thawd_client::Client;
use serde_json::Value;

use crate::lab::Lab;
use crate::metadata::Metadata;
use crate::poll::{Look, until};
use crate::process::{Daemon, Ended, Lifetime, run};
use crate::programs::Programs;

const LIMIT: Duration = Duration::from_secs(60);

/// An agent on this machine that takes itself for a VM.
#[derive(Debug)]
pub struct HostAgent {
    programs: Programs,
    folder: PathBuf,
    log_filter: &'static str,
    freezes: Vec<PathBuf>,
    controller: SocketAddr,
    /// In memory, as an agent's run directory must be.
    run_dir: tempfile::TempDir,
}

impl HostAgent {
    /// Its files are to be in `folder`, which must not exist; `log_filter` is its `AZDR_LOG`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        programs: &Programs,
        folder: &Path,
        log_filter: &'static str,
        lab: &Lab,
        vm_id: &str,
    ) -> Result<Self> {
        std::fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let agent = Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            log_filter,
            freezes: vec!["/nowhere".into()],
            controller: lab.controller.addresses().agent,
            run_dir: tempfile::tempdir_in("/dev/shm")?,
        };
        agent.become_vm(vm_id)?;
        Ok(agent)
    }

    /// The same with these file systems to freeze, which must be a test's own, and with another way to
    /// the controller.
    ///
    /// # Errors
    /// When one of them is the machine's, or its configuration cannot be written.
    pub fn freezing(
        mut self,
        mounts: &[PathBuf],
        controller: SocketAddr,
        vm_id: &str,
    ) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        for mount in mounts {
            let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
            let above = mount.parent().context("a mount is in a folder")?;
            ensure!(device(mount)? != device(above)?, "{} is not mounted", mount.display());
        }
        self.freezes = mounts.to_owned();
        self.controller = controller;
        self.become_vm(vm_id)?;
        Ok(self)
    }

    /// From its next start on it takes itself for this VM.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn become_vm(&self, vm_id: &str) -> Result<()> {
        let config = format!(
            "controller = \"{}\"\nstate_dir = {:?}\ninstance_metadata_url = \"{}\"\n\
             thawd_socket = {:?}\nfile_systems = {:?}\nrun_dir = {:?}\n\
             safe_freeze_lock = {:?}\n[hooks]\ndirectory = {:?}\n",
            self.controller,
            self.state(),
            Metadata::of(vm_id)?.url(),
            self.thawd_socket(),
            self.freezes,
            self.run_dir.path(),
            self.folder.join("SafeFreezeLockFile"),
            self.folder.join("no-hooks"),
        );
        Ok(std::fs::write(self.folder.join("agent.toml"), config)?)
    }

    /// Where its thaw process is to listen; nobody does, unless somebody starts one.
    pub fn thawd_socket(&self) -> PathBuf {
        self.folder.join("thawd.sock")
    }

    /// Where its identity is.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Enrols it with what `azdr agent token` has answered.
    ///
    /// # Errors
    /// When it cannot be run; not when it is refused.
    pub fn enrol(&self, token: &Value) -> Result<Ended> {
        let text = |name: &str| token[name].as_str().unwrap_or_default();
        let mut command = self.programs.command("azdr-agent");
        command.args(["enroll", "--controller", text("enroll_address")]);
        command.args(["--agent-address", text("agent_address")]);
        command.args(["--ca-fingerprint", text("ca_fingerprint"), "--config"]);
        command.arg(self.folder.join("agent.toml")).env("AZDR_TOKEN", text("token"));
        command.env("AZDR_LOG", self.log_filter);
        run(command, LIMIT, None)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(&self) -> Result<Daemon> {
        let mut command = self.programs.command("azdr-agent");
        command.args(["run", "--config"]).arg(self.folder.join("agent.toml"));
        command.env("AZDR_LOG", self.log_filter);
        Daemon::start("azdr-agent", command, &self.folder.join("log"), Lifetime::OfStarter)
    }

    /// Starts its thaw process, and waits until that listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_thaw_process(&self) -> Result<Daemon> {
        let mut command = self.programs.command("azdr-thawd");
        command.arg("--socket").arg(self.thawd_socket());
        let log = self.folder.join("thawd.log");
        let thawd = Daemon::start("azdr-thawd", command, &log, Lifetime::OfStarter)?;
        until("the thaw process listens", LIMIT, || {
            thawd.check()?;
            let status = Client::connect(&self.thawd_socket(), 1_000).and_then(|c| c.status());
            Ok(match status {
                Ok(_) => Look::Done(()),
                Err(e) => Look::Waiting(e.to_string()),
            })
        })?;
        Ok(thawd)
    }

    /// A context for `azdr` with this agent's certificate.
    ///
    /// # Errors
    /// When it is not enrolled, or a file cannot be written.
    pub fn context(&self, lab: &Lab) -> Result<PathBuf> {
        let identity = std::fs::read_to_string(self.state().join("identity.json"))?;
        let identity: Value = serde_json::from_str(&identity)?;
        let write = |name: &str, field: &str| {
            let text = identity[field].as_str().unwrap_or_default();
            std::fs::write(self.folder.join(name), text)
        };
        write("key", "key_pem")?;
        write("certificate", "chain_pem")?;
        write("ca", "ca_pem")?;
        let context = self.folder.join("context.toml");
        let controller = lab.controller.addresses().admin;
        std::fs::write(
            &context,
            format!(
                "controller = \"{controller}\"\nca = \"ca\"\ncertificate = \"certificate\"\nkey = \"key\"\n"
            ),
        )?;
        Ok(context)
    }
}
