//! A simulator of the part of Azure that backup of virtual machines touches: managed disks,
//! snapshots and their copies to other regions, virtual machines, networks, resource groups, tags,
//! locks, tokens. It speaks ARM's REST over HTTPS and reproduces what trips naive clients: answers
//! that are accepted but not done, copies that are "succeeded" and not complete, names that keep
//! their old content, etags, quotas.
//!
//! # Tour
//!
//! - [`world`] is the cloud itself: a pure state machine with every rule, stepped by a clock.
//! - [`wire`] is ARM's REST on top of it: paths, api-versions, long-running operations, errors.
//! - [`Simulator`] joins the two, carries out the [work](world::Work) that the world asks for, and
//!   writes the journal *before* it answers: what was answered survives `kill -9`.
//! - [`guests`] is what a started machine really is: nothing, a QEMU process, or a simulated machine;
//!   disks have real [contents](content), in files or in memory.
//! - [`faults`] makes chosen requests go wrong; [`latency`] says how long things take,
//!   [`throttling`] how many requests are taken.
//! - [`server`] puts it on sockets with a certificate authority of its own; [`init`] makes a state
//!   directory from a description ([`seed`]).
//!
//! In process, open it with [`Simulator::open`], or [`Simulator::in_memory`] for a world that touches
//! no file, and call [`Simulator::handle`] with requests for `https://management.azure.com`; a
//! response with a [`Dropped`] extension stands for a connection that was closed without an answer.
//!
//! What is not simulated is answered as ARM answers it (404, 400), and logged.

pub mod config;
pub mod content;
pub mod faults;
pub mod guests;
pub mod latency;
mod persistence;
pub mod seed;
pub mod server;
mod signing;
mod simulator;
pub mod throttling;
pub mod wire;
pub mod world;

pub use config::Config;
pub use persistence::PersistenceError;
pub use seed::init;
pub use simulator::{Simulator, listing};
pub use wire::{Dropped, FileBody};
