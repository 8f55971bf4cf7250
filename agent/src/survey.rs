//! A look at the machine: the file systems that a freeze covers, their roots open, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use azdr_proto::agent::{FileSystemReport, FileSystemState};

use crate::kernel;
use crate::levels::{self, Cycle};
use crate::mounts::{
    self, CannotOpen, Coverage, Device, NotThere, OpenRoot, Skipped, coverage, open_root,
};

/// A covered file system.
#[derive(Clone, Debug)]
pub struct Covered {
    /// Its superblock.
    pub device: Device,
    /// `ext4`, …
    pub file_system_type: String,
    /// The mount point by which it was opened.
    pub mount_point: PathBuf,
    /// Its UUID, as far as the kernel tells.
    pub uuid: String,
    /// Its root, open; everything is done through this descriptor and never by path (R3).
    pub root: Arc<OwnedFd>,
    /// Level 0 is frozen first.
    pub level: u8,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Ordered by device.
    pub covered: Vec<Covered>,
    /// On disks, but not covered.
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
}

/// Looks at the machine; opens roots, and changes nothing. May block on a stuck disk.
///
/// # Errors
/// One file system that should be covered cannot be: all or none.
pub fn survey(only: Option<&[PathBuf]>) -> Result<Survey, SurveyError> {
    let mounts = mounts::read_mounts().map_err(SurveyError::Mounts)?;
    let Coverage { file_systems, skipped } = coverage(&mounts, only)?;
    let roots: Vec<OpenRoot> = file_systems.iter().map(open_root).collect::<Result<_, _>>()?;
    let frozen: BTreeMap<Device, PathBuf> =
        roots.iter().map(|root| (root.device, root.mount_point.clone())).collect();
    // All devices, since a file system left out may lie between two that are covered.
    let all: BTreeSet<Device> = mounts.iter().map(|mount| mount.device).collect();
    let backing = levels::read_backing(Path::new("/sys"), all.into_iter(), &mounts);
    let levels = levels::levels(&frozen, &backing)?;
    let covered = roots
        .into_iter()
        .map(|root| Covered {
            uuid: kernel::file_system_uuid(root.fd.as_fd()).unwrap_or_default(),
            level: levels.get(&root.device).copied().unwrap_or(0),
            device: root.device,
            file_system_type: root.file_system_type,
            mount_point: root.mount_point,
            root: Arc::new(root.fd),
        })
        .collect();
    Ok(Survey { covered, skipped })
}

/// The superblocks that a freeze would cover now. One that came or went during a hold spoils it.
///
/// # Errors
/// As [`survey`].
pub fn devices_now(only: Option<&[PathBuf]>) -> Result<BTreeSet<Device>, SurveyError> {
    let mounts = mounts::read_mounts().map_err(SurveyError::Mounts)?;
    let now = coverage(&mounts, only)?;
    Ok(now.file_systems.iter().map(|file_system| file_system.device).collect())
}

impl Covered {
    /// What is reported of it.
    pub fn report(&self, state: FileSystemState, reason: String) -> FileSystemReport {
        FileSystemReport {
            mount_point: self.mount_point.to_string_lossy().into_owned(),
            file_system_type: self.file_system_type.clone(),
            device: self.device.to_string(),
            file_system_uuid: self.uuid.clone(),
            state: state.into(),
            reason,
        }
    }
}

impl Survey {
    /// What is reported of the file systems that are not covered.
    pub fn skipped_reports(&self) -> impl Iterator<Item = FileSystemReport> {
        self.skipped.iter().map(|skipped| FileSystemReport {
            mount_point: skipped.mount.mount_point.to_string_lossy().into_owned(),
            file_system_type: skipped.mount.file_system_type.clone(),
            device: skipped.mount.device.to_string(),
            file_system_uuid: String::new(),
            state: FileSystemState::Skipped.into(),
            reason: skipped.reason.to_owned(),
        })
    }
}
