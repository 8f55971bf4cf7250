//! The tags that everything azdr makes carries: what an undo goes by, and what the catalogue can be
//! rebuilt from.
//!
//! A tag value holds 256 characters and a resource 50 tags (AZURE.md A.7), so long things are cut
//! into numbered parts.

use std::collections::BTreeMap;

use azdr_domain::arm_id::ArmId;
use azdr_domain::residue::RunTag;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};

use super::azure::existing;
use super::{Services, StepCx};
use crate::workflow::StepError;

/// Which run made it: `{installation}.{run}`.
pub const RUN: &str = "azdr:run";
/// Whose it is: always [`OWNED`]; what a listing of all of azdr's resources filters by.
pub const OWNER: &str = "azdr:owner";
/// The value of [`OWNER`].
pub const OWNED: &str = "azdr";
/// Which attempt of a capture made it.
pub const OPERATION: &str = "azdr:operation";
/// Name of the recovery point.
pub const POINT: &str = "azdr:point";
/// The disk's LUN, or `os`.
pub const LUN: &str = "azdr:lun";
/// Tiers, comma-separated.
pub const TIERS: &str = "azdr:tiers";
/// Achieved consistency. Absent means `crash` or `uncoordinated`.
pub const CONSISTENCY: &str = "azdr:consistency";
/// Why the consistency is not more, as far as it fits.
pub const REASON: &str = "azdr:consistency-reason";
/// [`CaptureFacts`], as JSON.
pub const CAPTURE: &str = "azdr:capture";
/// Resource ID of the VM, in parts `azdr:vm-0`, `azdr:vm-1`, …
const VM: &str = "azdr:vm";
/// Resource ID of the disk, in parts.
const DISK: &str = "azdr:disk";
/// The VM's description (JSON), in parts.
const DESCRIPTION: &str = "azdr:description";

/// On a disk that a restore has replaced and that is kept for a while: that restore, as
/// `{installation}.{run}`. Not [`RUN`] and not [`OWNER`]: those say that azdr has made something, and
/// what an undo may delete.
pub const KEPT_BY: &str = "azdr:kept-by";
/// Until when it is kept.
const KEPT_UNTIL: &str = "azdr:kept-until";
/// Resource ID of its VM, in parts.
const KEPT_VM: &str = "azdr:kept-vm";
/// Its own resource ID, in parts: a copy may have been given its tags.
const KEPT_DISK: &str = "azdr:kept-disk";
/// All of these begin so.
const KEPT: &str = "azdr:kept-";

/// Longest tag value (AZURE.md A.7).
const MAX_VALUE: usize = 256;
/// The VM's description takes at most this many of the 50 tags.
const MAX_PARTS: usize = 30;

/// Which run made what, or keeps it: the tags that a listing of all of azdr's resources is read for.
pub struct Makers;

impl azdr_arm::WantedTags for Makers {
    fn wants(name: &str) -> bool {
        [OWNER, RUN, KEPT_BY].iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    }
}

/// Beyond [`Makers`], what says which snapshot of which recovery point a resource is.
pub struct Identities;

impl azdr_arm::WantedTags for Identities {
    fn wants(name: &str) -> bool {
        let is_part_of_vm =
            || name.get(..VM.len()).is_some_and(|front| front.eq_ignore_ascii_case(VM));
        Makers::wants(name)
            || [POINT, LUN].iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
            || is_part_of_vm()
    }
}

/// Tags by name.
pub type Tags = BTreeMap<String, String>;

/// The value of [`RUN`] for a run.
pub fn run_tag<I>(cx: &StepCx<I>) -> String {
    let services: &Services = cx.services();
    format!("{}.{}", services.settings.installation, cx.run_id())
}

/// What everything a run makes carries.
pub fn of_run<I>(cx: &StepCx<I>) -> Tags {
    BTreeMap::from([(RUN.to_owned(), run_tag(cx)), (OWNER.to_owned(), OWNED.to_owned())])
}

/// What a snapshot carries beyond that, so that the catalogue can be rebuilt from Azure alone.
pub fn of_snapshot(
    point: &str,
    tiers: &str,
    lun: Option<u32>,
    vm: &ArmId,
    disk: &ArmId,
    description_json: &str,
) -> Tags {
    let mut tags = BTreeMap::from([
        (POINT.to_owned(), point.to_owned()),
        (TIERS.to_owned(), tiers.to_owned()),
        (LUN.to_owned(), lun.map_or_else(|| "os".to_owned(), |n| n.to_string())),
    ]);
    put_parts(&mut tags, VM, vm.as_str());
    put_parts(&mut tags, DISK, disk.as_str());
    // Every snapshot carries it: the OS disk's may be the one that is lost.
    put_parts(&mut tags, DESCRIPTION, description_json);
    tags
}

/// The tag, and its value, by which all snapshots of a VM are listed; another VM's may be among them
/// where IDs are longer than a value.
pub fn of_vm(vm: &ArmId) -> (String, String) {
    (format!("{VM}-0"), vm.as_str().chars().take(MAX_VALUE).collect())
}

/// What a capture was, for [`CAPTURE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureFacts {
    /// The instant that the point shows, milliseconds since 1970.
    pub at_ms: i64,
    /// How long file systems were frozen.
    pub frozen_ms: u64,
    /// The attempt that made it.
    pub operation: String,
    /// What its witnesses carry; empty without any.
    pub witness: String,
}

/// What a snapshot carries when it is known what was achieved.
pub fn of_capture(consistency: &str, reason: &str, facts: &CaptureFacts) -> Tags {
    let mut tags = BTreeMap::from([(CONSISTENCY.to_owned(), consistency.to_owned())]);
    if !reason.is_empty() {
        tags.insert(REASON.to_owned(), reason.chars().take(MAX_VALUE).collect());
    }
    let facts = serde_json::to_string(facts).expect("has string keys");
    if facts.len() <= MAX_VALUE {
        tags.insert(CAPTURE.to_owned(), facts);
    }
    tags
}

/// What the tags of a snapshot say.
#[derive(Clone, Debug, Default)]
pub struct SnapshotTags {
    /// Name of the recovery point.
    pub point: String,
    /// Resource ID of the VM.
    pub vm: String,
    /// The disk's LUN, or `os`.
    pub lun: String,
    /// Comma-separated.
    pub tiers: String,
    /// The VM's description (JSON); not readable when a part is missing.
    pub description: String,
}

/// Reads the tags that [`of_snapshot`] wrote; what is missing is empty.
pub fn read_snapshot(tags: &Tags) -> SnapshotTags {
    let text = |name| value(tags, name).unwrap_or_default().to_owned();
    SnapshotTags {
        point: text(POINT),
        lun: text(LUN),
        tiers: text(TIERS),
        vm: joined(tags, VM),
        description: joined(tags, DESCRIPTION),
    }
}

/// Puts the parts of a long text together again, as far as they are there.
fn joined(tags: &Tags, name: &str) -> String {
    (0..MAX_PARTS).map_while(|i| value(tags, &format!("{name}-{i}"))).collect()
}

/// What the tags of a kept disk say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTags {
    /// The restore that replaced it.
    pub by: RunTag,
    /// Until when it is kept, to the second.
    pub until: WallTime,
    /// Whose it was.
    pub vm: ArmId,
    /// Which disk.
    pub disk: ArmId,
}

/// What a disk carries from when a restore has replaced it until it is deleted or in use again.
pub fn of_kept(kept: &KeptTags) -> Tags {
    let until = WallTime::from_unix_ms(kept.until.unix_ms() / 1000 * 1000);
    let mut tags = BTreeMap::from([
        (KEPT_BY.to_owned(), kept.by.to_string()),
        (KEPT_UNTIL.to_owned(), until.to_string()),
    ]);
    put_parts(&mut tags, KEPT_VM, kept.vm.as_str());
    put_parts(&mut tags, KEPT_DISK, kept.disk.as_str());
    tags
}

/// Reads the tags that [`of_kept`] wrote.
///
/// # Errors
/// What is wrong with them, in words.
pub fn read_kept(tags: &Tags) -> Result<KeptTags, &'static str> {
    let by = value(tags, KEPT_BY).and_then(RunTag::parse).ok_or("azdr:kept-by names no job")?;
    let until = value(tags, KEPT_UNTIL).and_then(|v| v.parse().ok());
    let id = |name| ArmId::parse(&joined(tags, name)).ok();
    let vm = id(KEPT_VM).filter(|id| id.is_type("Microsoft.Compute/virtualMachines"));
    Ok(KeptTags {
        by,
        until: until.ok_or("azdr:kept-until is no time")?,
        vm: vm.ok_or("azdr:kept-vm-0… name no VM")?,
        disk: id(KEPT_DISK).ok_or("azdr:kept-disk-0… name no disk")?,
    })
}

/// Takes the tags of [`of_kept`] from a disk, if they are this restore's. One that is gone has none.
///
/// # Errors
/// By class.
pub async fn unmark_kept(services: &Services, disk: &ArmId, by: &RunTag) -> Result<(), StepError> {
    let Some(tags) = existing(services.azure.get_tags(disk).await)? else { return Ok(()) };
    if value(&tags, KEPT_BY) != Some(by.to_string().as_str()) {
        return Ok(());
    }
    let ours = |name: &&String| name.to_ascii_lowercase().starts_with(KEPT);
    let names: Vec<String> = tags.keys().filter(ours).cloned().collect();
    existing(services.azure.remove_tags(disk, &names).await)?;
    Ok(())
}

/// Whether a resource was made by this run.
pub fn is_of_run<I>(cx: &StepCx<I>, tags: &Tags) -> bool {
    value(tags, RUN) == Some(run_tag(cx).as_str())
}

/// A tag's value; names compare case-insensitively (AZURE.md A.7).
pub fn value<'a>(tags: &'a Tags, name: &str) -> Option<&'a str> {
    tags.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// Cuts a text into tags `name-0`, `name-1`, …; one that is too long for all parts is left out
/// rather than stored in pieces that cannot be read back.
fn put_parts(tags: &mut Tags, name: &str, text: &str) {
    let chars: Vec<char> = text.chars().collect();
    let parts: Vec<String> = chars.chunks(MAX_VALUE).map(|c| c.iter().collect()).collect();
    if parts.len() > MAX_PARTS {
        tracing::warn!(name, length = text.len(), "too long for tags; left out");
        return;
    }
    for (i, part) in parts.into_iter().enumerate() {
        tags.insert(format!("{name}-{i}"), part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_into_parts_that_join_again() {
        let text = "ä".repeat(700);
        let mut tags = Tags::new();
        put_parts(&mut tags, "d", &text);
        assert!(tags.values().all(|v| v.chars().count() <= MAX_VALUE));
        assert_eq!(
            (0..tags.len()).map(|i| tags[&format!("d-{i}")].clone()).collect::<String>(),
            text
        );
    }

    #[test]
    fn a_listing_read_for_identities_tells_them_as_a_whole_one_does() {
        let id = |name| ArmId::virtual_machine("s", "g", name).unwrap();
        let (vm, disk) = (id("vm"), ArmId::disk("s", "g", "disk").unwrap());
        let mut whole = of_snapshot("p", "daily", Some(3), &vm, &disk, "{}");
        whole.insert(RUN.to_uppercase(), "i.7".to_owned());
        whole.insert(OWNER.to_owned(), OWNED.to_owned());
        let mut read = whole.clone();
        read.retain(|name, _| <Identities as azdr_arm::WantedTags>::wants(name));
        assert!(read.len() < whole.len());
        let said = |tags| {
            let SnapshotTags { point, vm, lun, .. } = read_snapshot(tags);
            (point, vm, lun, value(tags, RUN).is_some(), value(tags, OWNER).is_some())
        };
        assert_eq!(said(&read), ("p".into(), vm.as_str().into(), "3".into(), true, true));
        assert_eq!(said(&read), said(&whole));
        whole.retain(|name, _| <Makers as azdr_arm::WantedTags>::wants(name));
        assert_eq!(whole.len(), 2);
    }

    #[test]
    fn tag_names_compare_without_case() {
        let tags = Tags::from([("AZDR:Run".to_owned(), "x".to_owned())]);
        assert_eq!(value(&tags, RUN), Some("x"));
    }
}
