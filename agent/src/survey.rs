//! A look at the machine: the file systems that a freeze covers, their roots open, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use azdr_proto::agent::{Disk, DiskKind, FileSystemReport, FileSystemState};

use crate::bounds::{self, MOST_DISKS, MOST_NOT_FROZEN, clip};
use crate::levels::{self, Cycle};
use crate::mounts::{
    CannotOpen, Choice, Coverage, Device, FileSystem, Mount, NotThere, Skipped, coverage,
    device_of, not_mounted, open_root, what_is_there,
};
use crate::namespaces::read_mounts;
use crate::processes::processes;
use crate::roots::Roots;
use crate::witness::Place;
use crate::{disks, file_system_uuid, kernel, stack};

/// Daemons that are asked before a file is opened, by the kernel's name for them, and where they keep
/// what they need for an answer. Frozen too early, they would hold up everybody, thawing included.
const ASKED_FIRST: &[(&str, &str)] = &[
    ("fapolicyd", "/var/lib/fapolicyd"),
    ("wdavdaemon", "/var/opt/microsoft/mdatp"),
    ("mdatp", "/var/opt/microsoft/mdatp"),
    ("falcon-sensor", "/opt/CrowdStrike"),
    ("falcon-sensor-b", "/opt/CrowdStrike"),
    ("elastic-endpoin", "/opt/Elastic/Endpoint"),
];

/// Where to look, and what for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// The kernel's accounts.
    pub roots: Roots,
    /// Of which file systems.
    pub choice: Choice,
}

/// A covered file system.
#[derive(Clone, Debug)]
pub struct Covered {
    /// Its superblock.
    pub device: Device,
    /// `ext4`, …
    pub file_system_type: String,
    /// The mount point by which it was opened.
    pub mount_point: PathBuf,
    /// Its UUID, as far as the kernel or udev tells; else empty.
    pub uuid: String,
    /// Its root, open; everything is done through this descriptor and never by path (R3).
    pub root: Arc<OwnedFd>,
    /// Level 0 is frozen first.
    pub level: u8,
    /// All disks that it lies on.
    pub disks: Vec<Disk>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Ordered by device.
    pub covered: Vec<Covered>,
    /// On disks, but not covered.
    pub skipped: Vec<Skipped>,
}

/// A file system that is to be frozen.
#[derive(Clone, PartialEq, Debug)]
pub struct Planned {
    /// What and where.
    pub file_system: FileSystem,
    /// Level 0 is frozen first.
    pub level: u8,
    /// All disks that it lies on.
    pub disks: Vec<Disk>,
}

/// What a freeze would cover, told from text alone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Ordered by device.
    pub file_systems: Vec<Planned>,
    /// Not these.
    pub skipped: Vec<Skipped>,
}

/// The machine cannot be frozen as it is.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// /proc cannot be read.
    #[error("cannot read the mount table")]
    Mounts(#[source] std::io::Error),
    /// The configuration asks for a file system that is not there.
    #[error(transparent)]
    NotThere(#[from] NotThere),
    /// A file system cannot be opened.
    #[error(transparent)]
    CannotOpen(#[from] CannotOpen),
    /// The file systems lie on each other in a circle.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// What a file system lies on cannot be told, and so neither can the order of freezing.
    #[error("{place} lies on {what}: it cannot be told in which order to freeze")]
    Unknown {
        /// Where it is mounted.
        place: String,
        /// What it lies on.
        what: String,
    },
}

/// Looks at the machine; opens roots, and changes nothing. May block on a stuck disk.
///
/// # Errors
/// One file system that should be covered cannot be: all or none.
pub fn survey(scope: &Scope) -> Result<Survey, SurveyError> {
    let Plan { file_systems, skipped } = plan(scope)?;
    let open = |planned: &Planned| open(&scope.roots, planned);
    let covered = file_systems.iter().map(open).collect::<Result<_, _>>()?;
    Ok(Survey { covered, skipped })
}

/// File systems with their roots open, whatever they lie on and in no order: to look at them, and not to
/// freeze them.
#[derive(Clone, Debug, Default)]
pub struct Mounted {
    /// Those that a freeze would cover, and those on the temporary disk.
    pub writable: Vec<Covered>,
    /// Those that nobody can write to.
    pub read_only: Vec<Covered>,
    /// Why others cannot be looked at, in words.
    pub out_of_reach: Vec<String>,
}

/// Opens what there is. One file system that is gone or cannot be opened does not hide the others.
///
/// # Errors
/// /proc cannot be read.
pub fn roots(scope: &Scope) -> Result<Mounted, SurveyError> {
    let mounts = read_mounts(&scope.roots.proc).map_err(SurveyError::Mounts)?;
    let Coverage { file_systems, read_only, .. } = what_is_there(&mounts, &scope.choice);
    let sys = &scope.roots.sys;
    let devices = file_systems.iter().chain(&read_only).map(|f| f.device);
    let grounds = stack::grounds(sys, devices, &mounts);
    let absent = not_mounted(&mounts, &scope.choice);
    let mut found = Mounted {
        out_of_reach: absent.iter().map(|p| format!("{} is not mounted", p.display())).collect(),
        ..Mounted::default()
    };
    let mut open = |file_system: FileSystem| {
        let disks = disks_of(sys, file_system.device, &grounds);
        let opened = open(&scope.roots, &Planned { file_system, level: 0, disks });
        opened.map_err(|error| found.out_of_reach.push(error.to_string())).ok()
    };
    found.writable = file_systems.into_iter().filter_map(&mut open).collect();
    found.read_only = read_only.into_iter().filter_map(&mut open).collect();
    Ok(found)
}

/// Opens what was planned.
///
/// # Errors
/// None of its places leads to it.
pub fn open(roots: &Roots, planned: &Planned) -> Result<Covered, CannotOpen> {
    let root = open_root(&roots.proc, &planned.file_system)?;
    let uuid = kernel::file_system_uuid(root.fd.as_fd());
    Ok(Covered {
        uuid: uuid.unwrap_or_else(|| file_system_uuid::by_link(roots, root.device)),
        level: planned.level,
        disks: planned.disks.clone(),
        device: root.device,
        file_system_type: root.file_system_type,
        mount_point: root.mount_point,
        root: Arc::new(root.fd),
    })
}

/// Decides what is covered and in which order; opens nothing but the kernel's accounts.
///
/// # Errors
/// It cannot be told.
pub fn plan(scope: &Scope) -> Result<Plan, SurveyError> {
    let mounts = read_mounts(&scope.roots.proc).map_err(SurveyError::Mounts)?;
    plan_of(scope, &mounts)
}

fn plan_of(scope: &Scope, mounts: &[Mount]) -> Result<Plan, SurveyError> {
    let Coverage { file_systems, mut skipped, .. } = coverage(mounts, &scope.choice)?;
    let sys = &scope.roots.sys;
    let grounds = stack::grounds(sys, file_systems.iter().map(|f| f.device), mounts);
    let mut covered: Vec<(FileSystem, Vec<Disk>)> = Vec::new();
    for file_system in file_systems {
        let on = disks_of(sys, file_system.device, &grounds);
        let temporary = !on.is_empty() && on.iter().all(|d| d.kind() == DiskKind::Temporary);
        match file_system.mounts.first().filter(|_| temporary) {
            Some(mount) => {
                let reason = "on the machine's temporary disk, of which no snapshot is taken";
                skipped.push(Skipped { mount: mount.clone(), reason, disks: Some(on) });
            }
            None => covered.push((file_system, on)),
        }
    }
    find_disks(sys, &mut skipped, mounts);
    for (file_system, _) in &covered {
        if let Some(what) = unknown_below(file_system.device, &grounds) {
            let place = file_system.mounts.first().map_or(String::new(), Mount::place);
            return Err(SurveyError::Unknown { place, what });
        }
    }
    let asked_first = asked_first(&scope.roots.proc, mounts);
    let frozen: BTreeMap<Device, bool> = covered
        .iter()
        .map(|(f, _)| (f.device, f.last || asked_first.contains(&f.device)))
        .collect();
    // A file system left out may lie between two that are covered.
    let backing = grounds.iter().map(|(device, ground)| (*device, ground.below.clone())).collect();
    let levels = levels::levels(&frozen, &backing)?;
    let planned = |(file_system, disks): (FileSystem, Vec<Disk>)| Planned {
        level: levels.get(&file_system.device).copied().unwrap_or(0),
        file_system,
        disks,
    };
    Ok(Plan { file_systems: covered.into_iter().map(planned).collect(), skipped })
}

/// Finds what they lie on, as far as it can be told. Apart from what is covered: an unknown or a circle among
/// those is no reason to refuse a freeze.
fn find_disks(sys: &Path, skipped: &mut [Skipped], mounts: &[Mount]) {
    let grounds = stack::grounds(sys, skipped.iter().map(|s| s.mount.device), mounts);
    for skipped in skipped.iter_mut().filter(|s| s.disks.is_none()) {
        let device = skipped.mount.device;
        let is_known = unknown_below(device, &grounds).is_none();
        skipped.disks = is_known.then(|| disks_of(sys, device, &grounds));
    }
}

/// All disks that a file system lies on.
fn disks_of(sys: &Path, device: Device, grounds: &BTreeMap<Device, stack::Ground>) -> Vec<Disk> {
    stack::disks(device, grounds).iter().map(|name| disks::disk(sys, name)).collect()
}

fn unknown_below(device: Device, grounds: &BTreeMap<Device, stack::Ground>) -> Option<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![device]);
    while let Some(next) = open.pop() {
        let Some(ground) = grounds.get(&next).filter(|_| seen.insert(next)) else { continue };
        if let Some(what) = ground.unknown.first() {
            return Some(what.clone());
        }
        open.extend(&ground.below);
    }
    None
}

/// File systems with what running daemons need to answer whoever opens a file.
fn asked_first(proc: &Path, mounts: &[Mount]) -> BTreeSet<Device> {
    let running: BTreeSet<String> = processes(proc).into_iter().map(|p| p.name).collect();
    let databases = ASKED_FIRST.iter().filter(|(name, _)| running.contains(*name));
    databases.filter_map(|(_, folder)| device_of(Path::new(folder), mounts)).collect()
}

/// The superblocks that a freeze would cover now. One that came or went during a hold spoils it.
///
/// # Errors
/// As [`plan`].
pub fn devices_now(scope: &Scope) -> Result<BTreeSet<Device>, SurveyError> {
    Ok(plan(scope)?.file_systems.iter().map(|planned| planned.file_system.device).collect())
}

impl Covered {
    /// As its witness names it.
    pub fn place(&self, roots: &Roots) -> Place {
        Place {
            mount_point: self.mount_point.to_string_lossy().into_owned(),
            file_system_uuid: self.uuid.clone(),
            disk: disks::names(&self.disks),
            disk_unique_id: disks::unique_ids(&roots.sys, &self.disks),
        }
    }

    /// What is reported of it.
    pub fn report(&self, state: FileSystemState, reason: String) -> FileSystemReport {
        FileSystemReport {
            mount_point: self.mount_point.to_string_lossy().into_owned(),
            file_system_type: self.file_system_type.clone(),
            device: self.device.to_string(),
            file_system_uuid: self.uuid.clone(),
            state: state.into(),
            reason,
            disks: self.disks.clone(),
            // What cannot be told is never covered.
            disks_known: true,
        }
    }
}

impl Survey {
    /// Why the snapshots that are going to be taken would be torn, frozen or not.
    ///
    /// # Errors
    /// Names the file system and the disks that are left out.
    pub fn check_disks(&self, snapshots: &[Disk]) -> Result<(), String> {
        for covered in &self.covered {
            let outside = disks::outside(&covered.disks, snapshots);
            if !outside.is_empty() {
                let outside: Vec<String> = outside.into_iter().map(disks::in_words).collect();
                return Err(format!(
                    "{} spans disks of which not all are in the snapshot; left out: {}",
                    covered.mount_point.display(),
                    outside.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// What is reported of the file systems that are not covered: at most 128 entries, the last of which
    /// says how many more there are. First those on a disk of which nothing is covered: they say why it
    /// counts as not frozen.
    pub fn skipped_reports(&self) -> Vec<FileSystemReport> {
        let frozen: BTreeSet<&str> =
            self.covered.iter().flat_map(|c| &c.disks).map(|d| d.name.as_str()).collect();
        let is_beside = |skipped: &&Skipped| {
            skipped.disks.iter().flatten().all(|disk| frozen.contains(disk.name.as_str()))
        };
        let mut skipped: Vec<&Skipped> = self.skipped.iter().collect();
        skipped.sort_by_key(is_beside);
        let mut reports = skipped.into_iter().map(skipped_report).collect();
        bounds::shorten(&mut reports, MOST_NOT_FROZEN, |count| {
            let (mount_point, reason) = bounds::others(count);
            let state = FileSystemState::Skipped.into();
            FileSystemReport { mount_point, reason, state, ..FileSystemReport::default() }
        });
        reports
    }
}

fn skipped_report(skipped: &Skipped) -> FileSystemReport {
    FileSystemReport {
        mount_point: clip(skipped.mount.place()),
        file_system_type: clip(skipped.mount.file_system_type.clone()),
        device: skipped.mount.device.to_string(),
        file_system_uuid: String::new(),
        state: FileSystemState::Skipped.into(),
        reason: skipped.reason.to_owned(),
        disks: skipped.disks.iter().flatten().take(MOST_DISKS).cloned().collect(),
        disks_known: skipped.disks.as_ref().is_some_and(|disks| disks.len() <= MOST_DISKS),
    }
}

#[cfg(test)]
#[path = "survey/tests.rs"]
pub(crate) mod tests;
