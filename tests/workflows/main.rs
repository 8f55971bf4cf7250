//! The real workflows, engine, store and Azure client, joined in process with the real simulator: no
//! sockets, paused clock. One harness runs every registered workflow through the same properties:
//!
//! - it succeeds;
//! - each Azure request's answer lost, before or after its effect, leads to the same world;
//! - a crash before or after any Azure request, and recovery, lead to the same end;
//! - a crash before or after any write to the store, and recovery, lead to the same end, in runs that
//!   succeed, fail and are asked to stop; each step and each undo is executed twice on the way;
//! - a step that fails for good, before or after its effect, restores the prior world (before the point
//!   of no return; from there on the run waits, and goes on);
//! - a request to stop at any moment restores the prior world (before the point of no return);
//! - failing at any Azure request for good restores the prior world (before the point of no return).
//!
//! `every_workflow_is_in_the_harness` fails when one is missing. A case's world is prepared once, and
//! each variation starts from a copy of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod agents;
mod cases;
mod chains;
mod clocks;
mod cloud;
mod content;
mod evidence;
mod folder;
mod full_disk;
mod golden;
mod gone;
mod keeping;
mod life;
mod many_drills;
mod meddling;
mod missing;
mod proofs;
mod properties;
mod rebuild;
mod residue;
mod restore_proof;
mod schedule;
mod selectors;
mod ssh;
mod ssh_login;
mod untouchable;
