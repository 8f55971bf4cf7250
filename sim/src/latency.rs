//! How long things take.

use std::time::Duration;

use azdr_env::{Ids, SeededIds};

/// A set of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Operations 20–150 ms, a copy 1.5 s.
    Fast,
    /// As measured at Azure; a copy takes minutes.
    Recorded,
}

/// Something that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creating a snapshot, and the operation (not the copy) of a `CopyStart`.
    Snapshot,
    /// Any other operation on a disk or snapshot.
    Disk,
    /// Data of a copy to another region; of a snapshot of Premium SSD v2.
    Copy,
    /// Creating a VM.
    VmCreate,
    /// Changing a VM.
    VmUpdate,
    /// Deleting a VM.
    VmDelete,
    /// Starting.
    Start,
    /// Powering off.
    PowerOff,
    /// Restarting.
    Restart,
    /// Deallocating.
    Deallocate,
    /// Any operation on the network.
    Network,
    /// Deleting a resource group.
    GroupDelete,
}

/// Draws durations from a profile. Equal seeds draw equal sequences.
#[derive(Debug)]
pub struct Latency {
    profile: Profile,
    dice: SeededIds,
}

impl Latency {
    /// Durations of `profile`, varied by `seed`.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self { profile, dice: SeededIds::new(seed) }
    }

    /// How long `action` takes this time.
    pub fn of(&self, action: Action) -> Duration {
        let (least, most) = match self.profile {
            Profile::Fast if action == Action::Copy => (1400, 1600),
            Profile::Fast => (20, 150),
            Profile::Recorded => recorded(action),
        };
        Duration::from_millis(least + self.dice.u64() % (most - least + 1))
    }
}

/// Milliseconds, least and most; the wildest outliers of the recordings are left out. Where Azure's own
/// times were not recorded (copied data, changes of a VM, networks, groups) the figure is an assumption,
/// of the order of what is known next to it.
fn recorded(action: Action) -> (u64, u64) {
    match action {
        Action::Snapshot => (400, 1_200),
        Action::Disk => (100, 600),
        // Nothing of it was ever recorded but that it goes on behind its operation's end.
        Action::Copy => (60_000, 600_000),
        Action::VmCreate => (4_000, 170_000),
        // Assumed: like powering off.
        Action::VmUpdate => (2_000, 30_000),
        Action::VmDelete => (400, 42_000),
        Action::Start => (5_600, 35_700),
        Action::PowerOff => (3_000, 16_000),
        Action::Restart => (200, 2_900),
        Action::Deallocate => (33_000, 46_000),
        // Assumed: recordings of networks are without times.
        Action::Network => (1_000, 10_000),
        // Assumed: as long as its machines.
        Action::GroupDelete => (30_000, 180_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_take_equal_times_within_bounds() {
        let (a, b) = (Latency::new(Profile::Fast, 3), Latency::new(Profile::Fast, 3));
        for _ in 0..100 {
            let took = a.of(Action::Snapshot);
            assert_eq!(took, b.of(Action::Snapshot));
            assert!((20..=150).contains(&took.as_millis()));
        }
    }
}
