//! The thaw process: freezes file systems for the agent, and thaws them whatever happens.
//!
//! A freeze has no owner and no time-out in the kernel, survives its process, and killing the
//! freezing task does not cancel it. So one small process, which takes no file system into use
//! itself, owns every limit. Reading order:
//!
//! - [`protocol`]: what the agent and this process say to each other; the agent depends on this
//!   crate for it and for [`client`].
//! - `slots`: the table in shared memory that the three parties below write to.
//! - `freezer`: the forked child that calls FIFREEZE and nothing else.
//! - `thaw`: one waiting thread per file system that calls FITHAW.
//! - `operation`: one operation's resources and limits.
//! - `server`: the poll loop and the state machine.
//! - `sys`: libc, wrapped.
//!
//! Invariants, with AGENT.md's numbers:
//! - Nothing is frozen before every thaw thread, descriptor and timer exists and the agent has been
//!   told ARMED (R4, N1). Between ARMED and the last thaw nothing here opens, forks, allocates,
//!   logs or resolves (N8). A seccomp filter that enforces this is later work.
//! - Everything frozen is thawed on command, agent death, lease expiry, hold limit, freezer failure
//!   and SIGTERM (R5); thawing uses only the descriptors that came with the request (R3).
//! - FITHAW is called only on what our FIFREEZE froze (N3), and never while our FIFREEZE on the same
//!   file system is in flight, since its EINVAL would then prove nothing (N5, R8).
//!
//! Deliberately absent: any other crate than libc, an async runtime, paths of file systems, policy,
//! configuration files. Not yet here: the second thaw process that outlives a SIGKILL of this one
//! (R6). Until then the agent, which holds the same descriptors, thaws when this process dies; if
//! *both* die by SIGKILL in the window, the file systems stay frozen until somebody thaws them
//! (`fsfreeze -u`, or SysRq-j).

pub mod client;
mod freezer;
mod operation;
pub mod protocol;
mod server;
mod slots;
mod sys;
mod thaw;

pub use server::{Setup, run};
pub use sys::{monotonic_ns, thaw as thaw_file_system};

/// Where the agent finds this process, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/azdr/thawd.sock";
