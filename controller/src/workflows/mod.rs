//! What azdr does to Azure: one file per workflow.
//!
//! | workflow | makes | locks |
//! |---|---|---|
//! | [`backup`] | a recovery point: a quiesced set of snapshots | the VM |
//! | [`replicate`] | its copy in another region | the VM's disk chains into that region |
//! | [`hash_content`] | hashes of some blocks of a new point's snapshots, or of all | one of four places, to hash all (it holds a lease) |
//! | [`verify`] | the proof that disks can be made of it and read, or that its content is unchanged | nothing (it holds a lease) |
//! | [`restore_in_place`] | the VM on copies of its old disks | the VM |
//! | [`restore_new_vm`] | a new VM from the point, at home or (failover) elsewhere | the new VM's name |
//! | [`dr_test`] | the proof that it boots, and the RTO | nothing (it holds a lease) |
//! | [`bulk`] | nothing itself: starts many of the others | nothing |
//! | [`prune`] | room: deletes what the policy no longer wants, or one chosen point | the VM's pruning |
//! | [`reap`] | order: deletes temporaries that a finished run left | that run's residue |
//! | [`remove_kept_disk`] | room: deletes a disk that a restore replaced | the VM |
//!
//! Steps see [`Services`] and nothing more. Shared pieces: [`azure`] (ARM calls as steps), [`blocks`]
//! and [`whole_disk`] (reading some or all of a disk's content), [`capture`] (the hold), [`evidence`] (proof that a machine is up and is the right one),
//! [`ssh_look`] (its SSH, from outside),
//! [`machine`] (descriptions to ARM bodies), [`tags`] (what every resource carries).

pub mod azure;
pub mod backup;
pub mod blocks;
pub mod bulk;
pub mod capture;
pub mod dr_test;
pub mod evidence;
mod file_systems;
pub mod hash_content;
mod hooks;
pub mod machine;
pub mod prune;
pub mod reap;
pub mod remove_kept_disk;
pub mod replicate;
pub mod restore_in_place;
pub mod restore_new_vm;
pub mod services;
pub mod ssh_look;
pub mod tags;
pub mod verify;
pub mod whole_disk;

pub use services::{Catalogue, DeletionLimit, DrillAccess, ProbeAddress, Services, Settings};
pub use whole_disk::WHOLE_DISKS_AT_ONCE;

use crate::workflow::Definition;

/// How urgent a workflow's requests to Azure are (I12).
fn request_priority(run: crate::workflow::RunPriority) -> azdr_arm::Priority {
    use crate::workflow::RunPriority as Run;
    match run {
        Run::Restore => azdr_arm::Priority::Restore,
        Run::Drill => azdr_arm::Priority::Drill,
        Run::Backup => azdr_arm::Priority::Backup,
        Run::Replicate => azdr_arm::Priority::Replicate,
        Run::Verify => azdr_arm::Priority::Verify,
        Run::Housekeeping => azdr_arm::Priority::Housekeeping,
    }
}

impl crate::workflow::ForRun for Services {
    fn for_run(&self, priority: crate::workflow::RunPriority) -> Self {
        Self { azure: self.azure.with_priority(request_priority(priority)), ..self.clone() }
    }
}

/// A step's view in this world.
pub type StepCx<I> = crate::workflow::StepCx<Services, I>;
/// A workflow of this world.
pub type Workflow<I> = crate::workflow::Workflow<Services, I>;

/// All workflows, every version that may still be in a journal.
pub fn all() -> Vec<Definition<Services>> {
    vec![
        backup::workflow(),
        replicate::workflow(replicate::FIRST),
        replicate::workflow(replicate::RUN.1),
        hash_content::workflow(),
        verify::workflow(),
        restore_in_place::workflow(restore_in_place::FIRST),
        restore_in_place::workflow(restore_in_place::UNEXAMINED),
        restore_in_place::workflow(restore_in_place::RUN.1),
        restore_new_vm::workflow(restore_new_vm::FIRST),
        restore_new_vm::workflow(restore_new_vm::UNEXAMINED),
        restore_new_vm::workflow(restore_new_vm::RUN.1),
        dr_test::workflow(dr_test::FIRST),
        dr_test::workflow(dr_test::RUN.1),
        dr_test::workflow_kept(dr_test::FIRST),
        dr_test::workflow_kept(dr_test::KEPT.1),
        bulk::workflow(),
        prune::workflow(),
        reap::workflow(),
        remove_kept_disk::workflow(),
    ]
}

/// What a run that is over was meant to leave in Azure (I5), as its workflow says.
pub fn leaves(workflow: &str, state: crate::store::RunState) -> azdr_domain::residue::Leaves {
    static ALL: std::sync::OnceLock<Vec<Definition<Services>>> = std::sync::OnceLock::new();
    let newest = ALL.get_or_init(all).iter().rev().find(|d| d.name == workflow);
    // One that this build does not know: nobody's to delete.
    newest.map_or(azdr_domain::residue::Leaves::Machine, |d| d.leaves(state))
}

/// Describes a run of a workflow, for a step or the scheduler to start.
pub fn new_run<I: serde::Serialize>(
    definition: (&'static str, u32, crate::workflow::RunPriority),
    input: &I,
    item: crate::store::ItemId,
    requested_by: impl Into<String>,
) -> crate::store::NewRun {
    crate::store::NewRun {
        workflow: definition.0.to_owned(),
        version: definition.1,
        input: serde_json::to_value(input).expect("inputs have string keys"),
        priority: definition.2 as u8,
        item: Some(item),
        parent: None,
        requested_by: requested_by.into(),
    }
}
