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
//!   becomes of a certificate that is issued there. `renewal` asks for certificates. `remembered` is what a
//!   session in the window begins with.
//! - [`quiesce`]: the actor behind Freeze and Thaw, independent of sessions. `hold` is one operation;
//!   `facts` puts its result into the interface's words. Before the window: [`conditions`] (whether
//!   now), [`mounts`] in all [`namespaces`] (what there is), [`stack`] and `disks` (on what it lies),
//!   [`levels`] (in which order), [`survey`] (all of it, with roots open), [`safe_freeze_lock`] (no other
//!   freezer), [`presync`], [`witness`]. In the window the thaw process (crates `azdr_thawd` and
//!   `azdr_thawd_client`) owns every limit.
//! - [`hooks`]: the machine's own programs around a freeze; [`quiesce`] runs them, outside the window.
//! - [`preflight`]: whether a freeze would go well, asked long before it; [`status`] shows it with the
//!   identity. [`placement`]: nothing of ours lies on what is frozen.
//! - [`health`]: facts, judged from texts by `machine_facts`. [`ring_log`]: log lines, never while
//!   frozen. [`blocking`]: calls that may never come back. [`atomic_file`]: old or new, never half.
//!
//! Deliberately absent: Azure credentials, policies, other VMs, a remote shell. The agent obeys a
//! fixed set of requests; nothing in a message can name a command or a path.

pub mod atomic_file;
pub mod blocking;
mod bounds;
pub mod canary;
pub mod conditions;
pub mod config;
mod disks;
pub mod enroll;
mod facts;
mod file_system_uuid;
pub mod health;
mod hold;
pub mod hooks;
pub mod identity_store;
mod kernel;
pub mod levels;
mod machine_facts;
mod mount_watch;
pub mod mounts;
pub mod namespaces;
pub mod placement;
pub mod preflight;
pub mod presync;
pub mod processes;
pub mod quiesce;
mod remembered;
mod renewal;
pub mod restored;
pub mod ring_log;
pub mod roots;
mod run;
pub mod safe_freeze_lock;
mod session;
mod ssh_host_keys;
pub mod stack;
pub mod status;
pub mod survey;
mod unfrozen_disks;
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
    /// Where the kernel's accounts are.
    pub roots: roots::Roots,
    /// Held while hooks may run: by one operation, or for their checks.
    pub hooks_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Agent {
    /// An agent with this configuration.
    pub fn new(config: config::Config, env: Env, log: ring_log::RingLog) -> Self {
        Self {
            config: Arc::new(config),
            env,
            log,
            blocking: blocking::Blocking::default(),
            roots: roots::Roots::default(),
            hooks_turn: Arc::default(),
        }
    }

    /// How long the machine must have been up before anything is frozen.
    pub fn least_uptime(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.config.least_uptime_s)
    }

    /// Which file systems this agent looks for, and where.
    pub fn scope(&self) -> survey::Scope {
        survey::Scope { roots: self.roots.clone(), choice: self.config.choice() }
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
