//! Hashes some blocks of a new recovery point's own snapshots, or all, so that copies can be compared with them
//! later ([`verify`](super::verify), level `content`).
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point; draws what chooses the blocks | – |
//! | `hash_blocks` (each, temporary) | access granted, blocks read and hashed, access revoked | revokes access |
//!
//! A backup starts it and does not wait for it: nothing is read before the snapshots exist, so long after
//! the thaw (AGENT.md N17), and no lock of the VM is held. What it reads is bounded by its input: so many
//! blocks of 64 KiB per disk, and up to 50 lists of ranges. To read everything takes hours: such runs have
//! `PLACES` among all, and read one disk after the other ([`whole_disk`]); the others wait in the queue. Hashes count when there are some of every disk
//! of the point (I4): a run that fails takes away what it has recorded. They are taken once: hashes of later
//! say nothing about the capture.

use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_domain::content::{Manifest, Sampling, Seed, sample, span_bytes};
use azdr_domain::recovery_point::PointName;
use serde::{Deserialize, Serialize};

use super::azure::finish;
use super::{StepCx, Workflow, blocks, whole_disk};
use crate::store::{CatalogueChange, ItemId};
use crate::workflow::{
    Concluded, Definition, Done, LockKey, Outcome, RunPriority, StepError, StepKey, Version,
};

/// How long read access is granted for; revoked right after reading.
const ACCESS: Duration = Duration::from_secs(1800);

/// How many runs may hash everything at the same time.
const PLACES: i64 = 4;

/// What is to be hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Which point; its originals are read.
    pub point: PointName,
    /// How much of each disk.
    pub blocks: Sampling,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("hash_content", 1, RunPriority::Verify);

const PLAN: StepKey<Vec<Target>> = StepKey::new("plan");
const HASH: StepKey<Hashed> = StepKey::new("hash_blocks");

/// A snapshot to be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Target {
    lun: Option<u32>,
    snapshot: ArmId,
    size_bytes: u64,
    seed: Seed,
}

/// What was hashed of one disk; the hashes themselves are in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hashed {
    lun: Option<u32>,
    /// Blocks that hold data.
    blocks: u64,
    /// Of them hashed.
    sampled: u64,
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .lock_keys(places)
        .run_within(whole_disk::WHOLE_LIMIT)
        .step(PLAN, "Choosing blocks", plan)
        .no_undo("a lease ends with its run")
        .each_as_told(HASH, "Hashing blocks of the snapshots", at_once, snapshots, hash_blocks)
        .works_within(whole_disk::WHOLE_LIMIT)
        .temporary_items()
        .undo_each(revoke_access)
        .makes_nothing("it reads what is there")
        .conclude(conclude)
        .build()
}

/// Of the VM's number: a VM whose backups are hashed for longer than they are apart holds up its own first.
fn places(input: &Input) -> Vec<LockKey> {
    let place = || LockKey(format!("whole-disks:{}", input.item.0.rem_euclid(PLACES) + 1));
    (input.blocks == Sampling::All).then(place).into_iter().collect()
}

fn at_once(input: &Input) -> usize {
    if input.blocks == Sampling::All { 1 } else { 4 }
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Vec<Target>>, StepError> {
    let input = &cx.input;
    let catalogue = &cx.services().catalogue;
    let point = catalogue.point(input.item, &input.point).await?;
    if !point.is_restorable_in(&point.region) {
        let message = format!("{} has no complete set of snapshots", point.name);
        return Err(StepError::fail("not_restorable", message));
    }
    let lease = CatalogueChange::TakeLease { item: input.item, name: input.point.clone() };
    let snapshots = point.snapshots_in(&point.region);
    let hashed = catalogue.content(input.item, &input.point).await?;
    if snapshots.iter().all(|s| hashed.iter().any(|h| h.lun == s.lun)) {
        return Ok(Done::new(Vec::new()).change(lease));
    }
    let seed = Seed::new(cx.env().ids.hex(32));
    let target = |s: &crate::store::SnapshotRow| Target {
        lun: s.lun,
        snapshot: s.id.clone(),
        size_bytes: s.size_bytes,
        seed: seed.clone(),
    };
    Ok(Done::new(snapshots.into_iter().map(target).collect()).change(lease))
}

fn snapshots(cx: &StepCx<Input>) -> Result<Vec<(String, Target)>, StepError> {
    let targets = cx.output(PLAN)?;
    Ok(targets.into_iter().map(|t| (t.snapshot.name().to_owned(), t)).collect())
}

/// Reads the blocks that the seed chooses of those that hold data, or all of them.
async fn hash_blocks(cx: &StepCx<Input>, target: &Target) -> Result<Done<Hashed>, StepError> {
    let (hashed, manifest) = match cx.input.blocks {
        Sampling::Blocks(blocks) => hash_sample(cx, target, blocks).await?,
        Sampling::All => {
            let _place = whole_disk::place(cx)?;
            let sas = cx.services().azure.grant_access(&target.snapshot, ACCESS).await?;
            let size = target.size_bytes;
            let whole = whole_disk::hash_whole(cx, &sas, size, span_bytes(size)).await?;
            let blocks = whole.hashes.blocks();
            (Hashed { lun: target.lun, blocks, sampled: blocks }, whole.hashes.to_bytes())
        }
    };
    let (item, name) = (cx.input.item, cx.input.point.clone());
    let record = CatalogueChange::RecordContent { item, name, lun: target.lun, manifest };
    Ok(Done::new(hashed).change(record))
}

async fn hash_sample(
    cx: &StepCx<Input>,
    target: &Target,
    blocks: u32,
) -> Result<(Hashed, Vec<u8>), StepError> {
    // The grant is a secret: it lives in this function alone, and a repetition asks for it again.
    let sas = cx.services().azure.grant_access(&target.snapshot, ACCESS).await?;
    let size = target.size_bytes;
    let population = blocks::population(cx, &sas, size).await?;
    let chosen = sample(&target.seed, target.lun, &population, blocks);
    let hashes = blocks::hashes(cx, &sas, size, &chosen).await?;
    let sampled = chosen.len() as u64;
    let manifest =
        Manifest::new(size, population.total(), chosen.into_iter().zip(hashes).collect())
            .map_err(|e| StepError::fail("internal", e.to_string()))?;
    let hashed = Hashed { lun: target.lun, blocks: population.total(), sampled };
    Ok((hashed, manifest.to_bytes()))
}

async fn revoke_access(cx: &StepCx<Input>, target: &Target) -> Result<Done<()>, StepError> {
    let azure = &cx.services().azure;
    match finish(cx, "revoke", azure.begin_revoke_access(&target.snapshot)).await {
        Ok(_) => {}
        // Gone, or never granted.
        Err(StepError::Fail(f)) if &*f.kind == "azure_not_found" => {}
        Err(e) => return Err(e),
    }
    Ok(Done::new(()))
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    let (item, name) = (cx.input.item, cx.input.point.clone());
    let changes = match outcome {
        Outcome::Succeeded => Vec::new(),
        _ => vec![CatalogueChange::ForgetContent { item, name }],
    };
    Ok(Concluded { result: None, changes })
}
