//! The real workflows, engine, store and Azure client, joined in process with the real simulator: no
//! sockets, paused clock. One harness runs every registered workflow through the same properties:
//!
//! - it succeeds;
//! - each Azure request's answer lost, before or after its effect, leads to the same world;
//! - a crash before or after any Azure request, and recovery, lead to the same end;
//! - failing at any Azure request for good restores the prior world (before the point of no return).
//!
//! `every_workflow_is_in_the_harness` fails when one is missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod agents;
mod cases;
mod cloud;
mod evidence;
mod keeping;
mod life;
mod properties;
mod rebuild;
mod residue;
mod schedule;
