//! Deletes temporaries that a finished run has left behind after all.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `check` | asks the catalogue again: held? run over? really nobody's? | – |
//! | `delete` (each) | deletes one resource that still carries that run's tag; **point of no return** | – |
//!
//! What is residue is decided in [`azdr_domain::residue`]; the reconciler finds it and starts one run
//! per job that left something. Here everything is looked at once more: a resource that has changed
//! hands, a disk that somebody has attached, a group with something in it are left, with the reason.
//! Machines go before what they use, groups last.

use azdr_domain::arm_id::ArmId;
use azdr_domain::residue::{self, Facts, Fate, RunFacts, RunTag, UnfinishedCopy, Verdict};
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete_if_tagged, existing};
use super::{Services, StepCx, Workflow, replicate};
use crate::store::RunId;
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a reaping is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The tag of the run that left them: `{installation}.{run}`.
    pub tag: String,
    /// What it left.
    pub targets: Vec<Target>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Which.
    pub id: ArmId,
    /// What it is.
    pub kind: Resource,
    /// When it was made, where Azure says so.
    pub created: Option<WallTime>,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("reap", 1, RunPriority::Housekeeping);

const CHECK: StepKey<Checked> = StepKey::new("check");
const DELETE: StepKey<Left> = StepKey::new("delete");

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Checked {
    targets: Vec<Target>,
    /// What is not deleted, and why.
    left: Vec<String>,
}

/// Why a resource was left; `None`: it is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left(Option<String>);

/// The step list.
pub fn workflow() -> Definition<Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("reap:{}", i.tag))])
        .step(CHECK, "Making sure that nobody wants it", check)
        .no_undo("reads only")
        .each(DELETE, "Deleting what was left behind", 1, targets, delete)
        .point_of_no_return()
        .no_undo("a deleted temporary is not wanted back: forward or stuck")
        .makes_nothing("deletes only")
        .conclude(conclude)
        .build()
}

/// Where a kind comes in the order of deletion: users before what they use.
pub fn rank(kind: Resource) -> u8 {
    match kind {
        Resource::Vm => 0,
        Resource::Nic => 1,
        Resource::PublicIp => 2,
        Resource::Vnet => 3,
        Resource::Nsg => 4,
        Resource::Disk => 5,
        Resource::Snapshot => 6,
        Resource::Group => 7,
    }
}

async fn check(cx: &StepCx<Input>) -> Result<Done<Checked>, StepError> {
    let services = cx.services();
    let catalogue = &services.catalogue;
    if let Some(held) = catalogue.deletion_hold().await? {
        return Err(StepError::Fail(
            Failure::new("held", held.to_string())
                .hint("an admin ends that with `azdr retention release`"),
        ));
    }
    let tag = RunTag::parse(&cx.input.tag)
        .ok_or_else(|| StepError::fail("internal", "the run's tag cannot be read"))?;
    let (run, journal) = catalogue.run_facts(RunId(tag.run)).await?;
    let mut checked = Checked::default();
    for target in &cx.input.targets {
        let facts = Facts {
            id: &target.id,
            tag: Some(&tag),
            created: target.created,
            catalogued: catalogue.wants(&target.id).await?,
            run,
            journalled: journal.contains(target.id.key()),
            copy: copy_of(services, target, run).await?,
        };
        match residue::judge(&facts, &services.settings.installation, cx.now()) {
            Verdict::Residue { fate: Fate::Reap, .. } => checked.targets.push(target.clone()),
            _ => checked.left.push(format!("{}: somebody wants it by now", target.id)),
        }
    }
    checked.targets.sort_by_key(|t| rank(t.kind));
    Ok(Done::new(checked))
}

async fn copy_of(
    services: &Services,
    target: &Target,
    run: RunFacts,
) -> Result<Option<UnfinishedCopy>, StepError> {
    let before = matches!(run, RunFacts::BeforeRebuild { .. });
    if !before || target.kind != Resource::Snapshot {
        return Ok(None);
    }
    match existing(services.azure.get_snapshot(&target.id).await)? {
        Some(found) => Ok(replicate::unfinished_copy(&services.catalogue, &found).await?),
        None => Ok(None),
    }
}

fn targets(cx: &StepCx<Input>) -> Result<Vec<(String, Target)>, StepError> {
    let targets = cx.output(CHECK)?.targets;
    Ok(targets.into_iter().map(|t| (t.id.key().to_owned(), t)).collect())
}

async fn delete(cx: &StepCx<Input>, target: &Target) -> Result<Done<Left>, StepError> {
    let azure = &cx.services().azure;
    let id = &target.id;
    let in_use = match target.kind {
        Resource::Disk => existing(azure.get_disk(id).await)?
            .and_then(|disk| disk.managed_by)
            .map(|vm| format!("{id}: attached to {}", vm.name())),
        // Deleting a group deletes what others have put there.
        Resource::Group => azure
            .list_in_group(id)
            .await?
            .first()
            .map(|first| format!("{id}: not empty, {} is in it", first.id.name())),
        _ => None,
    };
    if in_use.is_some() {
        return Ok(Done::new(Left(in_use)));
    }
    let ours = delete_if_tagged(cx, target.kind, id, &cx.input.tag).await?;
    let left = (!ours).then(|| format!("{id}: it does not carry the job's tag any more"));
    Ok(Done::new(Left(left)))
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    if *outcome != Outcome::Succeeded {
        return Ok(Concluded::default());
    }
    let checked = cx.output(CHECK)?;
    let mut left = checked.left;
    let mut deleted = Vec::new();
    for (target, fate) in checked.targets.iter().zip(cx.each_outputs(DELETE)?) {
        match fate.0 {
            Some(why) => left.push(why),
            None => deleted.push(target.id.to_string()),
        }
    }
    let result = json!({"reap": {"deleted": deleted, "left": left}});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
