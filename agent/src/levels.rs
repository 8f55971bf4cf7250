//! In which order file systems are frozen.
//!
//! A file system in an image file on another one must be frozen *before* that other one: the wrong
//! order blocks for ever. So each gets a level: level 0 is frozen first, the levels one after the
//! other, all file systems of a level at once. The root file system, /var and /var/log come last, so
//! that whatever logs can do so for as long as possible; and so do the databases of daemons that are
//! asked before files are opened: once they wait, everybody does. Being mounted below another file
//! system's directory alone is no dependency: it costs 30 ms per level and gains nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::mounts::Device;

/// Stacked deeper than this is no stack but a defect.
const MAX_DEPTH: usize = 16;

/// The stacking has no order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file system {device} depends on itself through its image files")]
pub struct Cycle {
    device: Device,
}

/// The level of each device in `frozen`, where true stands for one of the last. `backing` says on which
/// devices' file systems one's own blocks lie; devices outside `frozen` may occur there.
///
/// # Errors
/// There is no order.
pub fn levels(
    frozen: &BTreeMap<Device, bool>,
    backing: &BTreeMap<Device, BTreeSet<Device>>,
) -> Result<BTreeMap<Device, u8>, Cycle> {
    let below = |device: Device| reachable(device, backing);
    let mut after: BTreeMap<Device, BTreeSet<Device>> = BTreeMap::new();
    for device in frozen.keys() {
        after.insert(*device, below(*device)?);
    }
    // They come after everything that they do not themselves lie on.
    for (last, _) in frozen.iter().filter(|(_, is_last)| **is_last) {
        let foundations = below(*last)?;
        for (device, also_last) in frozen {
            if device != last && !also_last && !foundations.contains(device) {
                after.entry(*device).or_default().insert(*last);
            }
        }
    }
    let mut levels = BTreeMap::new();
    for device in frozen.keys() {
        levels.insert(*device, height(*device, frozen, &after, 0)?);
    }
    Ok(levels)
}

/// How many levels come before this device: the longest chain of those that must be frozen earlier.
fn height(
    device: Device,
    frozen: &BTreeMap<Device, bool>,
    after: &BTreeMap<Device, BTreeSet<Device>>,
    depth: usize,
) -> Result<u8, Cycle> {
    if depth > MAX_DEPTH {
        return Err(Cycle { device });
    }
    let mut level = 0;
    for earlier in frozen.keys() {
        if after.get(earlier).is_some_and(|later| later.contains(&device)) {
            level = level.max(1 + height(*earlier, frozen, after, depth + 1)?);
        }
    }
    Ok(level)
}

fn reachable(
    device: Device,
    backing: &BTreeMap<Device, BTreeSet<Device>>,
) -> Result<BTreeSet<Device>, Cycle> {
    let mut found = BTreeSet::new();
    let mut open: Vec<Device> = backing.get(&device).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if next == device {
            return Err(Cycle { device });
        }
        if found.insert(next) {
            open.extend(backing.get(&next).into_iter().flatten());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(minor: u32) -> Device {
        Device { major: 7, minor }
    }

    fn solve(places: &[&str], backing: &[(u32, u32)]) -> Result<Vec<u8>, Cycle> {
        let last = |path: &str| ["/", "/var", "/var/log"].contains(&path);
        let frozen = (0..).zip(places).map(|(n, path)| (device(n), last(path))).collect();
        let mut edges: BTreeMap<Device, BTreeSet<Device>> = BTreeMap::new();
        for (upper, lower) in backing {
            edges.entry(device(*upper)).or_default().insert(device(*lower));
        }
        levels(&frozen, &edges).map(|levels| levels.into_values().collect())
    }

    #[test]
    fn the_root_comes_last_and_the_others_together() {
        assert_eq!(solve(&["/", "/a", "/a/b", "/c"], &[]).unwrap(), [1, 0, 0, 0]);
        assert_eq!(solve(&["/", "/var", "/c"], &[]).unwrap(), [1, 1, 0]);
        assert_eq!(solve(&["/a", "/b"], &[]).unwrap(), [0, 0]);
        assert_eq!(solve(&["/"], &[]).unwrap(), [0]);
    }

    #[test]
    fn a_file_system_in_an_image_comes_before_the_one_that_holds_the_image() {
        assert_eq!(solve(&["/a", "/b"], &[(1, 0)]).unwrap(), [1, 0]);
        assert_eq!(solve(&["/", "/a", "/b"], &[(2, 1), (1, 0)]).unwrap(), [2, 1, 0]);
        assert_eq!(solve(&["/a", "/b", "/c"], &[(2, 9), (9, 0)]).unwrap(), [1, 0, 0]);
    }

    #[test]
    fn a_root_in_an_image_still_comes_before_what_holds_it() {
        assert_eq!(solve(&["/", "/host", "/x"], &[(0, 1)]).unwrap(), [1, 2, 0]);
    }

    #[test]
    fn a_cycle_is_refused() {
        assert!(solve(&["/a", "/b"], &[(0, 1), (1, 0)]).is_err());
        assert!(solve(&["/a"], &[(0, 0)]).is_err());
    }
}
