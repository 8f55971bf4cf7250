//! The lab: the real binaries as real processes, joined into one small world.
//!
//! The end-to-end tests (`tests/it`) and the demo (`azdr-demo`) stand on the same pieces:
//!
//! - [`Lab`] is a whole world: azure-sim, azdr-controller, and the `azdr` command for it.
//! - [`Simulator`], [`Controller`] and [`Cli`] are its processes; each can be killed and started
//!   again. [`Guest`] is a machine in the simulated Azure, seen from outside, over SSH.
//! - [`simulated_machines`] are those where there is no qemu; [`agents`] plays the agents on them, in
//!   the process `azdr-simulated-agents`.
//! - [`Listing`] is what exists in the simulated Azure, told by the simulator and not by azdr: the
//!   judge of what is left over.
//! - [`judge`] says what must be true of any world at rest; [`disk_image`] looks into a disk from outside.
//! - [`process`] keeps the promise that nothing outlives whoever started it.
//! - [`demo`] is the story that `cargo xtask demo` tells; [`soak`] is `cargo xtask soak`; [`cases`] are what
//!   `cargo xtask lab` shows of real machines.
//!
//! Nothing here links azdr's own crates but the clock, except for [`agents`], which is a part of what is
//! looked at: what is measured and checked is what the processes do.

pub mod agents;
pub mod cable;
pub mod cases;
pub mod cli;
pub mod controller;
pub mod demo;
pub mod disk_image;
pub mod guest;
pub mod host_agent;
pub mod http;
pub mod judge;
pub mod lab;
pub mod lab_lock;
pub mod listing;
pub mod lying_thaw_process;
pub mod metadata;
pub mod mounted;
pub mod planted;
pub mod poll;
pub mod process;
pub mod programs;
pub mod protection;
pub mod shifted_clock;
pub mod simulated_machines;
pub mod simulator;
pub mod soak;
mod waiting_tasks;
pub mod world;

pub use cli::{Answer, Cli};
pub use controller::{Controller, Scheduler};
pub use guest::Guest;
pub use lab::{Lab, LabSpec};
pub use listing::Listing;
pub use poll::{Stopwatch, until};
pub use programs::{GuestImage, Programs};
pub use simulator::Simulator;
pub use world::{DataDisk, Vm, World};
