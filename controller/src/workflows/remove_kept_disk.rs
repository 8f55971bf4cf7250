//! Removes a disk that a restore has replaced, when its days are over.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `check` | is it due, and is it still the disk that was replaced? | – |
//! | `delete` | deletes it, or takes its tags off when it is left; **point of no return** | – |
//! | `forget` | it is kept no longer | – |
//!
//! The disk is the VM's original and not of azdr's making: the word for deleting it is the catalogue's.
//! So one that is attached again, or that was made after the restore (another disk of the same name), is
//! left alone and no longer azdr's to remove (I6). Its tags then go too: a catalogue that is rebuilt must
//! not take it for kept. Where the catalogue was rebuilt they are the only word, and must still be there.

use azdr_domain::arm_id::ArmId;
use azdr_domain::residue::RunTag;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete as delete_resource, existing};
use super::{StepCx, Workflow, tags};
use crate::store::{CatalogueChange, ItemId, KeptDisk};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What the removal is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// The disk.
    pub disk: ArmId,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("remove_kept_disk", 1, RunPriority::Housekeeping);

const CHECK: StepKey<Decision> = StepKey::new("check");
const DELETE: StepKey<()> = StepKey::new("delete");
const FORGET: StepKey<()> = StepKey::new("forget");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Decision {
    Delete,
    /// It is not azdr's to remove any more; why.
    Leave(String),
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        // No restore may put the disk back meanwhile.
        .lock_keys(|i: &Input| vec![LockKey(format!("vm:{}", i.vm.key()))])
        .step(CHECK, "Checking the replaced disk", check)
        .no_undo("reads only")
        .step(DELETE, "Deleting the replaced disk", delete)
        .point_of_no_return()
        .no_undo("a deleted disk cannot be brought back: forward or stuck")
        .step(FORGET, "Recording it", forget)
        .no_undo("past the point of no return")
        .makes_nothing("deletes only")
        .conclude(conclude)
        .build()
}

async fn check(cx: &StepCx<Input>) -> Result<Done<Decision>, StepError> {
    let services = cx.services();
    let disk = &cx.input.disk;
    if let Some(held) = services.catalogue.deletion_hold().await? {
        return Err(StepError::Fail(
            Failure::new("held", held.to_string())
                .hint("an admin ends that with `azdr retention release`"),
        ));
    }
    let Some(kept) = services.catalogue.kept_disk(disk).await? else {
        return Ok(Done::new(Decision::Leave("it is in use again".to_owned())));
    };
    if kept.until > cx.now() {
        let message = format!("{} is kept until {}", disk.name(), kept.until);
        return Err(StepError::Fail(Failure::new("not_due", message).resource(disk)));
    }
    let Some(found) = existing(services.azure.get_disk(disk).await)? else {
        return Ok(Done::new(Decision::Leave("it is gone already".to_owned())));
    };
    if let Some(vm) = found.managed_by {
        return Ok(Done::new(Decision::Leave(format!("it is attached to {} again", vm.name()))));
    }
    let replaced = services.catalogue.run_ended(kept.run).await?;
    if let (Some(made), Some(replaced)) = (found.time_created, replaced)
        && made > replaced
    {
        let why = "it was made after the restore: another disk of the same name";
        return Ok(Done::new(Decision::Leave(why.to_owned())));
    }
    let by = tag_of(cx, &kept);
    let says_so = tags::read_kept(&found.tags).is_ok_and(|k| k.by == by && k.disk == *disk);
    if replaced.is_none() && !says_so {
        let why = "its tags do not say any more that it is kept";
        return Ok(Done::new(Decision::Leave(why.to_owned())));
    }
    Ok(Done::new(Decision::Delete))
}

fn tag_of(cx: &StepCx<Input>, kept: &KeptDisk) -> RunTag {
    RunTag { installation: cx.services().settings.installation.clone(), run: kept.run.0 }
}

async fn delete(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let (services, disk) = (cx.services(), &cx.input.disk);
    match cx.output(CHECK)? {
        // Azure refuses to delete a disk that somebody has attached in between.
        Decision::Delete => delete_resource(cx, Resource::Disk, disk).await?,
        Decision::Leave(_) => {
            if let Some(kept) = services.catalogue.kept_disk(disk).await? {
                tags::unmark_kept(services, disk, &tag_of(cx, &kept)).await?;
            }
        }
    }
    Ok(Done::new(()))
}

async fn forget(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    Ok(Done::new(()).change(CatalogueChange::UnkeepDisk { disk: cx.input.disk.clone() }))
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    if *outcome != Outcome::Succeeded {
        return Ok(Concluded::default());
    }
    let disk = cx.input.disk.to_string();
    let (deleted, left) = match cx.output(CHECK)? {
        Decision::Delete => (vec![disk], Vec::new()),
        Decision::Leave(why) => (Vec::new(), vec![format!("{disk}: {why}")]),
    };
    let result = json!({"reap": {"deleted": deleted, "left": left}});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
