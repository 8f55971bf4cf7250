//! A real agent on this machine instead of in a guest: it takes itself for whichever VM the instance
//! metadata say. It can freeze nothing: no thaw process belongs to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use azdr_tests::metadata::Metadata;
use azdr_tests::process::{Daemon, Ended, Lifetime, run};
use azdr_tests::{Lab, Programs};
use serde_json::Value;

use crate::setup::Stage;

const LIMIT: Duration = Duration::from_secs(60);

/// An agent on this machine that takes itself for a VM.
pub(crate) struct HostAgent {
    programs: Programs,
    folder: PathBuf,
}

impl HostAgent {
    /// `agent` is where it is to connect later.
    pub(crate) fn new(stage: &Stage, name: &str, lab: &Lab, vm_id: &str) -> Result<Self> {
        let programs = stage.programs.clone().context("the programs are not built")?;
        let folder = stage.folder.join(name);
        std::fs::create_dir(&folder)?;
        let agent = Self { programs, folder };
        agent.become_vm(lab, vm_id)?;
        Ok(agent)
    }

    pub(crate) fn become_vm(&self, lab: &Lab, vm_id: &str) -> Result<()> {
        let config = format!(
            "controller = \"{}\"\nstate_dir = \"{}\"\ninstance_metadata_url = \"{}\"\n\
             thawd_socket = \"{}\"\nfile_systems = [\"/nowhere\"]\n",
            lab.controller.addresses().agent,
            self.state().display(),
            Metadata::of(vm_id)?.url(),
            self.folder.join("thawd.sock").display(),
        );
        Ok(std::fs::write(self.folder.join("agent.toml"), config)?)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn enrol(&self, token: &Value) -> Result<Ended> {
        let text = |name: &str| token[name].as_str().unwrap_or_default();
        let mut command = self.programs.command("azdr-agent");
        command.args(["enroll", "--controller", text("enroll_address")]);
        command.args(["--agent-address", text("agent_address")]);
        command.args(["--ca-fingerprint", text("ca_fingerprint"), "--config"]);
        command.arg(self.folder.join("agent.toml")).env("AZDR_TOKEN", text("token"));
        command.env("AZDR_LOG", "trace");
        run(command, LIMIT, None)
    }

    pub(crate) fn start(&self) -> Result<Daemon> {
        let mut command = self.programs.command("azdr-agent");
        command.args(["run", "--config"]).arg(self.folder.join("agent.toml"));
        command.env("AZDR_LOG", "trace");
        Daemon::start("azdr-agent", command, &self.folder.join("log"), Lifetime::OfStarter)
    }

    /// A context for `azdr` with this agent's certificate.
    pub(crate) fn context(&self, lab: &Lab) -> Result<PathBuf> {
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
