//! The whole system in one process, on one thread, from one seed: the controller with its real
//! workflows, store and Azure client; agents; the simulated Azure; operators who issue random
//! commands; and everything that goes wrong.
//!
//! Reading order:
//! - [`world`]: what outlives a controller: Azure ([`cloud`]), the machines and their agents
//!   ([`machines`]), the clocks ([`clock`]).
//! - [`life`]: one life of the controller, from its start to the moment it is killed.
//! - [`operators`]: random commands through the admin API.
//! - [`scenario`]: what happens when, and how it all ends.
//! - [`kinds`]: everything that goes wrong, and where; [`doom`], [`trouble`], [`strangers`].
//! - [`event`], [`record`]: what is told of it, the trace and its hash.
//! - [`checkers`]: I1 to I12, the schedule and the catalogue's word, apart from all of the above.
//!
//! Time is paused and jumps from timer to timer, so a quiet day costs nothing. There is no socket,
//! no TLS and no HTTP/2 here (a second suite runs those); agents come in at the protobuf messages,
//! the client at its HTTP seam, the store runs inline. One simulation per process: tokio's task ids
//! are the process's, and they decide in which order tasks are dropped.

pub mod checkers;
pub mod clock;
pub mod cloud;
pub mod dice;
pub mod doom;
pub mod event;
pub mod kinds;
pub mod life;
pub mod machines;
pub mod operators;
pub mod record;
pub mod scenario;
pub mod strangers;
pub mod trouble;
pub mod world;
