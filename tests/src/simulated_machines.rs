//! Machines of a simulated Azure that are simulated themselves (`--guests simulated`), through
//! `/_sim/guests`: for whoever plays their agents, and for whoever looks at them from outside.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Http;

/// Where the log of the writer that every machine has is.
pub const LOG: &str = "/var/lib/ledger/wal";

/// All machines that are up.
#[derive(Clone, Debug)]
pub struct SimulatedMachines {
    http: Http,
}

/// A machine that is up, as listed.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// Azure's vmId.
    pub vm_id: String,
    /// The VM's name.
    pub name: String,
    /// Another one after every boot.
    pub boot_id: String,
    /// The OS disk first.
    pub disks: Vec<Mounted>,
    /// How long it has been frozen, if it is.
    pub frozen_ms: Option<u64>,
    /// Its writer has found its disks torn at boot.
    pub torn: bool,
}

/// A disk of a machine.
#[derive(Clone, Debug, Deserialize)]
pub struct Mounted {
    /// Where.
    pub mount_point: String,
    /// The disk's `uniqueId`.
    pub unique_id: String,
}

/// A machine, up or not.
#[derive(Clone, Debug)]
pub struct SimulatedMachine {
    http: Http,
    /// The VM's name, for messages.
    pub name: String,
    /// Azure's vmId.
    pub vm_id: String,
}

/// How a thaw ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// By this request.
    Now,
    /// It was not frozen any more.
    Before,
    /// The machine has ended.
    MachineGone,
}

impl SimulatedMachines {
    /// Those of the simulator that answers there.
    pub fn new(http: Http) -> Self {
        Self { http }
    }

    /// Those that are up.
    ///
    /// # Errors
    /// When the simulator does not answer, or has no such machines.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let answer = self.http.request("GET", "/_sim/guests", "")?;
        serde_json::from_str(&answer).with_context(|| format!("/_sim/guests answered {answer}"))
    }

    /// The machine of a vmId.
    pub fn machine(&self, name: &str, vm_id: &str) -> SimulatedMachine {
        SimulatedMachine { http: self.http.clone(), name: name.to_owned(), vm_id: vm_id.to_owned() }
    }

    /// Whether disks or snapshots of one machine (by `uniqueId`) are from one instant; what its writer
    /// has written, in words.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, unique_ids: &[String]) -> Result<String> {
        let body = json!({"disks": unique_ids}).to_string();
        let answer = self.http.request("POST", "/_sim/guests/check", &body)?;
        let answer: Value = serde_json::from_str(&answer)?;
        let found = answer["found"].as_str().unwrap_or_default();
        ensure!(answer["holds"] == true, "the writer's invariant is broken: {found}");
        Ok(found.to_owned())
    }
}

impl SimulatedMachine {
    fn ask(&self, method: &str, what: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.http.send(method, &format!("/_sim/guests/{}/{what}", self.vm_id), body)
    }

    fn do_it(&self, method: &str, what: &str, body: &[u8]) -> Result<()> {
        let (status, answer) = self.ask(method, what, body)?;
        let words = || String::from_utf8_lossy(&answer).into_owned();
        ensure!((200..300).contains(&status), "{method} {what} on {}: {}", self.name, words());
        Ok(())
    }

    /// Stops all writing.
    ///
    /// # Errors
    /// When the machine is not up or is frozen already; or there is no answer, and it may be frozen.
    pub fn freeze(&self) -> Result<()> {
        self.do_it("POST", "freeze", b"")
    }

    /// Lets writing go on.
    ///
    /// # Errors
    /// When there is no answer: it may still be frozen.
    pub fn thaw(&self) -> Result<Thawed> {
        match self.ask("POST", "thaw", b"")? {
            (200..300, _) => Ok(Thawed::Now),
            (404, _) => Ok(Thawed::MachineGone),
            (409, _) => Ok(Thawed::Before),
            (status, answer) => {
                bail!("status {status}: {}", String::from_utf8_lossy(&answer))
            }
        }
    }

    /// What a file holds; `None`: there is none, or the machine is not up.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.ask("GET", &format!("file?path={path}"), b"")? {
            (200, content) => Ok(Some(content)),
            (404, _) => Ok(None),
            (status, answer) => {
                bail!("status {status}: {}", String::from_utf8_lossy(&answer))
            }
        }
    }

    /// Writes a file, durably.
    ///
    /// # Errors
    /// When the machine is not up or is frozen, or the disk is full.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        self.do_it("PUT", &format!("file?path={path}"), content)
    }

    /// Removes a file; with `/` at the end of the path, all files of that disk under it.
    ///
    /// # Errors
    /// When the machine is not up or is frozen.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.do_it("DELETE", &format!("file?path={path}"), b"")
    }

    /// Restarts the machine from inside.
    ///
    /// # Errors
    /// When it is not up.
    pub fn reboot(&self) -> Result<()> {
        self.do_it("POST", "reboot", b"")
    }

    /// How it is listed; `None`: it is not up.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn listed(&self) -> Result<Option<Listed>> {
        let all = SimulatedMachines::new(self.http.clone()).list()?;
        Ok(all.into_iter().find(|machine| machine.vm_id == self.vm_id))
    }
}
