//! A real agent on this machine instead of in a guest: it takes itself for whichever VM the instance
//! metadata say. It can freeze nothing, unless a file system is named to it that was made for that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::metadata::Metadata;
use crate::process::{Daemon, Ended, Lifetime, run};
use crate::programs::Programs;

const LIMIT: Duration = Duration::from_secs(60);

/// An agent on this machine that takes itself for a VM.
#[derive(Debug)]
pub struct HostAgent {
    programs: Programs,
    folder: PathBuf,
    log_filter: &'static str,
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
        let agent = Self { programs: programs.clone(), folder: folder.to_owned(), log_filter };
        agent.become_vm(lab, vm_id)?;
        Ok(agent)
    }

    /// From its next start on it takes itself for this VM.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn become_vm(&self, lab: &Lab, vm_id: &str) -> Result<()> {
        let config = format!(
            "controller = \"{}\"\nstate_dir = \"{}\"\ninstance_metadata_url = \"{}\"\n\
             thawd_socket = \"{}\"\nfile_systems = [\"/nowhere\"]\n",
            lab.controller.addresses().agent,
            self.state().display(),
            Metadata::of(vm_id)?.url(),
            self.thawd_socket().display(),
        );
        Ok(std::fs::write(self.folder.join("agent.toml"), config)?)
    }

    /// From its next start on it covers this file system, and no other. Other programs on this machine, and
    /// their locks, play no part.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn cover(&self, mount_point: &Path) -> Result<()> {
        let path = self.folder.join("agent.toml");
        let text = std::fs::read_to_string(&path)?;
        let covers = format!("file_systems = [{mount_point:?}]\n");
        let text = text.replace("file_systems = [\"/nowhere\"]\n", &covers);
        let lock = self.folder.join("azure/lock");
        let hooks = self.folder.join("no-hooks");
        let more = format!("safe_freeze_lock = {lock:?}\n[hooks]\ndirectory = {hooks:?}\n");
        Ok(std::fs::write(path, text + &more)?)
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
