//! Proves that a recovery point is `restorable`: a disk is made of every snapshot, and its bytes are
//! read. At level `content` also that they are unchanged: the blocks that were hashed when the point was
//! taken ([`hash_content`](super::hash_content)) are read from the test disk, and compared; all of it, where
//! all was hashed ([`whole_disk`]).
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point | – |
//! | `create_disks` (each, temporary) | a test disk per snapshot | deletes it |
//! | `read_disks` (each, temporary) | access granted, bytes read, access revoked | revokes access |
//! | `check` | compares sizes with the catalogue; fails where a block differs | – |
//!
//! The test disks are gone when the run ends, also after a crash (I5). A failed proof is recorded
//! too: the point then counts as not proved.

use std::time::Duration;

use azdr_arm::{ErrorClass, Sas};
use azdr_domain::arm_id::ArmId;
use azdr_domain::content::{CHANGE_PER_MILLE, Compared, Hashes, NO_DATA, Worth, place};
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::residue::Leaves;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete_if_ours, finish};
use super::machine::{DiskCopy, by_name, disk_copies};
use super::{StepCx, Workflow, blocks, machine, tags, whole_disk};
use crate::store::{CatalogueChange, ContentRow, ItemId};
use crate::workflow::{
    Concluded, Definition, Done, Failure, Outcome, RunPriority, StepError, StepKey, Version,
};

/// How long read access is granted for; revoked right after reading.
const ACCESS: Duration = Duration::from_secs(1800);
/// One read.
const CHUNK: u64 = 1024 * 1024;
/// Evenly spread over the disk, the first and the last chunk included.
const CHUNKS: u64 = 8;

/// What a verification is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Which point.
    pub point: PointName,
    /// Which of its copies.
    pub region: String,
    /// What is to be proved.
    #[serde(default, skip_serializing_if = "Level::is_restorable")]
    pub level: Level,
}

/// What a verification proves.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Disks can be made of it and read.
    #[default]
    Restorable,
    /// And what was hashed when it was taken is unchanged.
    Content,
}

impl Level {
    fn is_restorable(&self) -> bool {
        *self == Self::Restorable
    }

    /// As the catalogue names it.
    pub fn proof(self) -> ProofLevel {
        match self {
            Self::Restorable => ProofLevel::Restorable,
            Self::Content => ProofLevel::Content,
        }
    }
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("verify", 1, RunPriority::Verify);

const PLAN: StepKey<Vec<DiskCopy>> = StepKey::new("plan");
const CREATE: StepKey<()> = StepKey::new("create_disks");
const READ: StepKey<Found> = StepKey::new("read_disks");
const CHECK: StepKey<()> = StepKey::new("check");

/// What a test disk turned out to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    lun: Option<u32>,
    expected_bytes: u64,
    actual_bytes: u64,
    disk_state: String,
    bytes_read: u64,
    /// At level `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Compared>,
}

impl Found {
    fn name(&self) -> String {
        self.lun.map_or("OS disk".to_owned(), |n| format!("disk at LUN {n}"))
    }
}

/// Why a point's content cannot be compared: there are not hashes of all of its disks, they are not what was
/// written, or they are of nothing. `luns`: of the disks that it has.
pub fn not_comparable(
    point: &PointName,
    luns: impl IntoIterator<Item = Option<u32>>,
    hashed: &[ContentRow],
) -> Option<Failure> {
    let luns: Vec<_> = luns.into_iter().collect();
    for &lun in &luns {
        match hashed.iter().find(|row| row.lun == lun).map(|row| &row.hashes) {
            Some(Ok(_)) => {}
            Some(Err(e)) => {
                let message = format!("the content of {point} cannot be compared: {e}");
                return Some(
                    Failure::new("no_content_hashes", message)
                        .hint("restore the controller's database, or verify a newer backup"),
                );
            }
            None => {
                let message = format!(
                    "no content hashes were taken of all disks of {point} when it was made"
                );
                return Some(Failure::new("no_content_hashes", message).hint(
                    "they are taken by the job hash_content right after a backup, if \
                     content.sampled_blocks in the controller's configuration is not 0; see `azdr job \
                     list`",
                ));
            }
        }
    }
    // No machine has an empty OS disk: a list of pages without any says more of the list than of the disk.
    let of_nothing =
        |row: &&ContentRow| row.hashes.as_ref().is_ok_and(|hashes| hashes.hashed() == 0);
    let nothing = match hashed.iter().filter(of_nothing).count() {
        0 => return None,
        empty if empty == hashed.len() => "any of its disks",
        _ if luns.contains(&None) && hashed.iter().any(|r| r.lun.is_none() && of_nothing(&r)) => {
            "its OS disk"
        }
        _ => return None,
    };
    let message = format!(
        "the content of {point} cannot be compared: Azure listed no data on {nothing} when it was made, so \
         that no block of it was hashed"
    );
    Some(Failure::new("no_content_hashes", message).hint(
        "equal hashes of nothing would prove nothing: verify it without --level content, and take a new backup",
    ))
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .run_within(whole_disk::WHOLE_LIMIT)
        .step(PLAN, "Planning the test disks", plan)
        .no_undo("a lease ends with its run")
        .each(CREATE, "Creating test disk from snapshot", 8, test_disks, create_disk)
        .temporary_items()
        .undo_each(delete_disk)
        .each(READ, "Verifying disk properties", 4, test_disks, read_disk)
        .works_within(whole_disk::WHOLE_LIMIT)
        .temporary_items()
        .undo_each(revoke_access)
        .step(CHECK, "Comparing with the catalogue", check)
        .no_undo("compares only")
        .residue(Leaves::Nothing, left_over)
        .conclude(conclude)
        .build()
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Vec<DiskCopy>>, StepError> {
    let input = &cx.input;
    let point = cx.services().catalogue.point(input.item, &input.point).await?;
    // Beside the snapshots: that group is azdr's own.
    let group = point
        .snapshots_in(&input.region)
        .first()
        .map(|s| s.id.group())
        .ok_or_else(|| StepError::fail("not_restorable", "the point has no snapshots there"))?;
    let prefix = format!("azdr-verify-{}", tags::run_tag(cx).replace('.', "-"));
    let group = (group.subscription(), group.resource_group());
    let disks = disk_copies(&point, &input.region, group, &prefix)?;
    if input.level == Level::Content {
        let hashed = cx.services().catalogue.content(input.item, &input.point).await?;
        let luns = disks.iter().map(|d| d.original.lun);
        if let Some(failure) = not_comparable(&input.point, luns, &hashed) {
            return Err(StepError::Fail(failure));
        }
    }
    let lease = CatalogueChange::TakeLease { item: input.item, name: input.point.clone() };
    Ok(Done::new(disks).change(lease))
}

fn test_disks(cx: &StepCx<Input>) -> Result<Vec<(String, DiskCopy)>, StepError> {
    Ok(by_name(cx.output(PLAN)?))
}

/// A test disk is read once; the cheapest kind will do.
async fn create_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    machine::create_disk(cx, disk, Some("Standard_LRS")).await.map(Done::new)
}

async fn delete_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Disk, &disk.id).await?;
    Ok(Done::new(()))
}

/// Reads what Azure says of the disk, and some of its bytes, or all. A grant is a secret: it lives in this
/// function alone, and a repetition asks for it again.
async fn read_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<Found>, StepError> {
    let seen = cx.services().azure.get_disk(&disk.id).await?;
    let actual_bytes = seen.size_bytes.unwrap_or_default();
    let hashes = match cx.input.level {
        Level::Restorable => None,
        Level::Content => Some(hashes_of(cx, disk).await?),
    };
    let mut bytes_read = offsets(actual_bytes).iter().map(|o| CHUNK.min(actual_bytes - o)).sum();
    let content = match hashes {
        Some(Hashes::All(manifest)) => {
            let _place = whole_disk::place(cx)?;
            let sas = cx.services().azure.grant_access(&disk.id, ACCESS).await?;
            // Hours later, after a call that has read some of it, this is known already.
            if !whole_disk::has_begun(cx)? {
                read_here_and_there(cx, disk, &sas, actual_bytes).await?;
            }
            let (size, span) = (manifest.size_bytes().min(actual_bytes), manifest.span_bytes());
            let whole = whole_disk::hash_whole(cx, &sas, size, span).await?;
            bytes_read += whole.bytes_read;
            Some(manifest.compare(&whole.hashes))
        }
        Some(Hashes::Sample(manifest)) => {
            let sas = cx.services().azure.grant_access(&disk.id, ACCESS).await?;
            read_here_and_there(cx, disk, &sas, actual_bytes).await?;
            let (blocks, size) = (manifest.blocks(), manifest.size_bytes());
            let now = blocks::hashes(cx, &sas, size.min(actual_bytes), &blocks).await?;
            bytes_read += blocks.iter().map(|b| place(*b, size).1).sum::<u64>();
            Some(manifest.compare(&now))
        }
        None => {
            let sas = cx.services().azure.grant_access(&disk.id, ACCESS).await?;
            read_here_and_there(cx, disk, &sas, actual_bytes).await?;
            None
        }
    };
    Ok(Done::new(Found {
        content,
        lun: disk.original.lun,
        expected_bytes: disk.original.size_bytes,
        actual_bytes,
        disk_state: seen.disk_state.unwrap_or_default(),
        bytes_read,
    }))
}

/// Shows that its bytes can be read.
async fn read_here_and_there(
    cx: &StepCx<Input>,
    disk: &DiskCopy,
    sas: &Sas,
    size_bytes: u64,
) -> Result<(), StepError> {
    let azure = &cx.services().azure;
    let mut bytes_read = 0;
    for offset in offsets(size_bytes) {
        let length = CHUNK.min(size_bytes - offset);
        let read = azure.read_range(sas, offset, length).await?.len() as u64;
        if read != length {
            let message = format!(
                "reading {length} bytes at {offset} of the disk made from {} gave {read}",
                disk.snapshot.name()
            );
            return Err(StepError::fail("not_readable", message));
        }
        bytes_read += read;
        cx.progress(format!("read {} MiB", bytes_read >> 20), None);
    }
    Ok(())
}

/// The hashes that were taken of the disk that this is a copy of.
async fn hashes_of(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Hashes, StepError> {
    let hashed = cx.services().catalogue.content(cx.input.item, &cx.input.point).await?;
    let lun = disk.original.lun;
    if let Some(failure) = not_comparable(&cx.input.point, [lun], &hashed) {
        return Err(StepError::Fail(failure));
    }
    let hashes = hashed.into_iter().find(|row| row.lun == lun).and_then(|row| row.hashes.ok());
    hashes.ok_or_else(|| StepError::fail("internal", "content hashes vanished"))
}

async fn revoke_access(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    match finish(cx, "revoke", cx.services().azure.begin_revoke_access(&disk.id)).await {
        Ok(_) => {}
        // Gone, or never granted.
        Err(StepError::Fail(f)) if &*f.kind == "azure_not_found" => {}
        Err(e) => return Err(e),
    }
    Ok(Done::new(()))
}

/// Where to read: evenly spread, first and last included; all of a small disk.
fn offsets(size: u64) -> Vec<u64> {
    if size <= CHUNK * CHUNKS {
        return (0..size.div_ceil(CHUNK)).map(|i| i * CHUNK).collect();
    }
    let last = size - CHUNK;
    (0..CHUNKS).map(|i| last / (CHUNKS - 1) * i / 512 * 512).collect()
}

async fn check(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let all = cx.each_outputs(READ)?;
    for found in &all {
        if found.actual_bytes != found.expected_bytes || found.bytes_read == 0 {
            let which = found.name();
            let message = format!(
                "the {which} has {} bytes instead of {}, {} were read",
                found.actual_bytes, found.expected_bytes, found.bytes_read
            );
            return Err(StepError::Fail(
                Failure::new("size_mismatch", message).hint("take a new backup of this VM"),
            ));
        }
    }
    match differences(&all) {
        Some(message) => Err(StepError::Fail(Failure::new("content_differs", message).hint(
            "do not restore this copy; verify the point's other copies, and take a new backup",
        ))),
        None => Ok(Done::new(())),
    }
}

/// What differs, if anything does: the first block or span of each disk, with its hashes.
fn differences(all: &[Found]) -> Option<String> {
    let of_disk = |found: &Found| {
        let content = found.content.as_ref()?;
        let first = content.difference.as_ref()?;
        if let Some(whole) = &content.whole {
            let data = |hash: &str| match hash {
                NO_DATA => hash.to_owned(),
                hash => format!("BLAKE3 {hash}"),
            };
            return Some(format!(
                "{} of {} spans with data of the {} differ from the backup's own when it was taken; the first \
                 is the {} MiB from byte {} on: expected {}, found {}",
                whole.different,
                whole.spans,
                found.name(),
                whole.span_bytes >> 20,
                first.offset,
                data(&first.expected),
                data(&first.found)
            ));
        }
        Some(format!(
            "{} of {} sampled blocks of the {} differ from the backup's own when it was taken; the first \
             at byte {}: expected BLAKE3 {}, found {}",
            content.sampled - content.equal,
            content.sampled,
            found.name(),
            first.offset,
            first.expected,
            first.found
        ))
    };
    let words: Vec<String> = all.iter().filter_map(of_disk).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    super::azure::left_of_run(cx, cx.input.vm.subscription(), &[]).await
}

/// Failures that say something about the recovery point, not about the weather.
fn disproves(failure: &Failure) -> bool {
    let gone = format!("azure_{}", ErrorClass::NotFound);
    ["size_mismatch", "content_differs", "not_readable", "azure_invalid", "azure_failed"]
        .contains(&&*failure.kind)
        || *failure.kind == gone.replace(' ', "_")
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    let proof = |passed, detail: String| CatalogueChange::AddProof {
        item: cx.input.item,
        name: cx.input.point.clone(),
        region: cx.input.region.clone(),
        level: cx.input.level.proof().to_string(),
        passed,
        detail,
    };
    Ok(match outcome {
        Outcome::Succeeded => {
            let found = cx.each_outputs(READ)?;
            let read: u64 = found.iter().map(|f| f.bytes_read).sum();
            let mut detail = format!("{} disks made, {read} bytes read", found.len());
            let mut verified = json!({
                "recovery_point": cx.input.point,
                "region": cx.input.region,
                "disks": found,
            });
            if cx.input.level == Level::Content {
                let worth = Worth::of(found.iter().filter_map(|f| f.content.as_ref()));
                detail = worth.to_string();
                verified["content"] = json!({
                    "blocks": worth.blocks,
                    "sampled": worth.sampled,
                    "equal": worth.equal,
                    "change_per_mille": CHANGE_PER_MILLE,
                    "missed_probability": worth.missed,
                    "whole": worth.whole,
                    "words": detail,
                });
            }
            let result = json!({ "verify": verified });
            Concluded { result: Some(result), changes: vec![proof(true, detail)] }
        }
        Outcome::Failed(f) if disproves(f) => {
            Concluded { result: None, changes: vec![proof(false, f.message.to_string())] }
        }
        _ => Concluded::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cover_both_ends_and_all_of_a_small_disk() {
        assert_eq!(offsets(CHUNK * 3 + 1).len(), 4);
        let size = 128 << 30;
        let spread = offsets(size);
        assert_eq!(spread.len(), CHUNKS as usize);
        assert_eq!(spread[0], 0);
        assert!(spread.iter().all(|o| o % 512 == 0 && o + CHUNK <= size));
        assert!(size - spread[7] < CHUNK * 2);
        assert!(offsets(0).is_empty());
    }
}
