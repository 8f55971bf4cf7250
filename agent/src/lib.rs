//! The azdr agent: one per VM. It dials its controller, freezes the VM's file systems when asked,
//! leaves a witness on each, and tells facts about its health.
//!
//! Guided tour:
//!
//! - [`config`]: where things are. [`vm_id`]: which machine this is. [`identity_store`]: who it is to
//!   its controller.
//! - [`enroll`]: how it gets its first certificate.
//! - [`run`]: the daemon's outer loop: connect, hold a session, back off, again. `session` is one
//!   session; [`restored`] decides through which of the controller's two doors it goes, and what
//!   becomes of a certificate that is issued there. `renewal` asks for certificates.
//! - [`quiesce`]: the actor behind Freeze and Thaw, independent of sessions. `hold` is one operation;
//!   `facts` puts its result into the interface's words. Before the window: [`mounts`] (what there
//!   is), [`levels`] (in which order), [`survey`] (both, with roots open), [`presync`], [`witness`].
//!   In the window the thaw process (crates `azdr_thawd` and `azdr_thawd_client`) owns every limit.
//! - [`health`]: facts, judged from texts by `machine_facts`; `disk_of`: which disk of Azure a file
//!   system is on. [`ring_log`]: log lines, never while frozen. [`blocking`]: calls that may
//!   never come back. [`atomic_file`]: old or new, never half.
//!
//! Deliberately absent: Azure credentials, policies, other VMs, a remote shell. The agent obeys a
//! fixed set of requests; nothing in a message can name a command or a path. Not yet here: hooks
//! (R20–R24), canaries (R9), Azure Backup's lock file (R15), other mount
//! namespaces (R10).

pub mod atomic_file;
pub mod blocking;
pub mod config;
mod disk_of;
pub mod enroll;
mod facts;
pub mod health;
mod hold;
pub mod identity_store;
mod kernel;
pub mod levels;
mod machine_facts;
pub mod mounts;
pub mod presync;
pub mod quiesce;
mod renewal;
pub mod restored;
pub mod ring_log;
mod run;
mod session;
pub mod status;
pub mod survey;
pub mod vm_id;
pub mod witness;

use std::sync::Arc;

use azdr_env::Env;

pub use run::run;

/// What every part of the agent needs. Clones are the same agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The configuration file.
    pub config: Arc<config::Config>,
    /// Clock and randomness.
    pub env: Env,
    /// Where log lines go.
    pub log: ring_log::RingLog,
    /// Calls that may never come back.
    pub blocking: blocking::Blocking,
}

impl Agent {
    /// An agent with this configuration.
    pub fn new(config: config::Config, env: Env, log: ring_log::RingLog) -> Self {
        Self { config: Arc::new(config), env, log, blocking: blocking::Blocking::default() }
    }
}

/// This build's version, as told to the controller.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An error with its causes, for one line of a log or a message.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
