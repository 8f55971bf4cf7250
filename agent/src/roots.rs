//! Where the kernel and its companions give account of the machine. Tests give them other roots.

use std::path::PathBuf;

/// Folders that are read, and never written to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roots {
    /// Processes, mount tables, memory pressure.
    pub proc: PathBuf,
    /// Block devices and what they lie on.
    pub sys: PathBuf,
    /// What udev has found on block devices.
    pub dev: PathBuf,
    /// What is planned for this boot: shutdowns.
    pub run: PathBuf,
    /// Azure's extensions.
    pub waagent: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            run: "/run".into(),
            waagent: "/var/lib/waagent".into(),
        }
    }
}
