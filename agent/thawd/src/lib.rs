//! The thaw process: freezes file systems for the agent, and thaws them whatever happens.
//!
//! A freeze has no owner and no time-out in the kernel, survives its process, and killing the
//! freezing task does not cancel it. So one small program, which takes no file system into use
//! itself, owns every limit. It runs as up to three processes:
//!
//! ```text
//! supervisor ──fork──▶ operation ──fork──▶ freezer
//! for ever: listens,   one per operation:  one per operation: calls FIFREEZE and nothing else,
//! keeps the last       owns the limits,    behind its own seccomp filter; dies with the
//! report, watches      thaws; behind a     operation's process
//! and succeeds the     seccomp filter,
//! operation's process  which can never be taken off again: hence a process of its own
//! ```
//!
//! Reading order:
//!
//! - the crate `azdr-thawd-protocol`: what the agent and this program say to each other; the agent's
//!   side of it is the crate `azdr-thawd-client`.
//! - `slots`: the table in shared memory that all three processes write to.
//! - `freezer`: the process that calls FIFREEZE.
//! - `thaw`: one waiting thread per file system that calls FITHAW.
//! - `operation`: the process of one operation, its state machine and limits.
//! - `supervisor`: the process that outlives them.
//! - `parked`: what outlives them all, with the service manager.
//! - `connection`: the order to end, the listening socket and the connected agent, whoever serves it.
//! - `filter`: the seccomp filter.
//! - `sys`: libc, wrapped.
//!
//! Invariants, with AGENT.md's numbers:
//! - Nothing is frozen before every thaw thread and descriptor exists, the filters are in force and
//!   the agent has been told ARMED (R4, N1). Between ARMED and the last thaw nothing here opens,
//!   forks, allocates, logs or resolves (N8): the filters answer EPERM, and count it in the report.
//!   They never kill, since a killed process thaws nothing.
//! - Everything frozen is thawed on command, agent death, lease expiry, hold limit, freezer failure
//!   and SIGTERM (R5); thawing uses only the descriptors that came with the request (R3).
//! - FITHAW is called only on what our FIFREEZE froze (N3), and never while our FIFREEZE on the same
//!   file system is in flight, since its EINVAL would then prove nothing (N5, R8).
//! - When the operation's process dies, or does not act two seconds after its own deadline, the
//!   supervisor thaws with threads that it has had since before ARMED (R6). When the supervisor
//!   dies, the operation goes on to its end by its own limits, and a restarted supervisor waits for
//!   that. When both die, the agent, which holds the same descriptors, sees the end of its
//!   connection and thaws. When the agent dies, too, the service manager starts the supervisor again
//!   with the descriptors and the table that were parked, and it thaws what the table says was ours (R2).
//!
//! Deliberately absent: any other crate than libc and that of the messages, which has no code to speak
//! of; an async runtime, paths of file systems, policy, configuration files. Not covered: where no
//! service manager keeps descriptors, and supervisor, operation *and* agent die by SIGKILL in the
//! window, the file systems stay frozen until somebody thaws them (`fsfreeze -u`, or SysRq-j).

mod connection;
mod filter;
mod freezer;
mod operation;
mod parked;
mod slots;
mod supervisor;
mod sys;
mod thaw;

pub use supervisor::run;
