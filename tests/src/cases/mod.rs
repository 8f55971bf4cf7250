//! What must be true of real machines, in cases: one file each, and [`ALL`] is the catalogue.
//!
//! `cargo xtask lab` runs them one after the other and shows what they measured ([`show`]); the
//! end-to-end tests run the same cases with fewer repetitions. Each has a world of its own. What most
//! of them have in common is in `machine`: a running VM with two disks, an agent, and a writer.

mod agent_absent;
mod agent_killed;
mod application_check;
mod clock_and_pause;
mod clone;
mod controller_killed;
mod data_frozen;
mod debian;
mod device_mapper;
mod expired_certificate;
mod full_cycle;
mod guest_killed;
mod guest_reboots;
mod killed_while_recovering;
mod machine;
mod machine_process;
mod mixed_disks;
mod postgresql;
mod quiesce;
mod rpm;
pub mod show;
mod ssh_login;
mod stranger;
mod systemd;
mod systemd_kill;
mod systemd_thaws_first;
mod unit_hook;
mod wal_and_data;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, LabSpec};
use crate::programs::{GuestImage, Programs};
use crate::world::World;

/// What a case has measured, in words; shown on its line.
pub type Figures = Vec<String>;

/// One thing that must be true.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it shows, as a sentence.
    pub shows: &'static str,
    /// How often it is done over; `None`: once.
    pub rounds: Option<Rounds>,
    /// Does it.
    pub run: fn(&Place) -> Result<Figures>,
}

/// How often a case is done over.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Unless somebody says otherwise.
    pub by_default: u32,
    /// In the tests, which everybody waits for.
    pub in_tests: u32,
}

/// Where a case takes place.
#[derive(Clone, Debug)]
pub struct Place {
    /// The binaries.
    pub programs: Programs,
    /// What machines run.
    pub image: GuestImage,
    /// An empty folder for everything of it.
    pub folder: PathBuf,
    /// How often, for a case that is done over; at least 1.
    pub rounds: u32,
    /// How long to wait for the end of another lab on this machine.
    pub patience: Duration,
}

impl Place {
    /// A running world of real machines.
    pub(crate) fn lab(&self, world: World) -> Result<Lab> {
        let mut spec = LabSpec::with_guests(world, &self.image);
        spec.patience = self.patience;
        Lab::start(&self.programs, &self.folder, spec)
    }
}

/// Every case, in the order in which they are run.
pub const ALL: &[Case] = &[
    quiesce::CASE,
    wal_and_data::CASE,
    agent_killed::CASE,
    controller_killed::CASE,
    agent_absent::CASE,
    guest_killed::CASE,
    guest_reboots::CASE,
    clock_and_pause::CASE,
    mixed_disks::CASE,
    clone::CASE,
    stranger::CASE,
    killed_while_recovering::CASE,
    expired_certificate::CASE,
    ssh_login::CASE,
    application_check::CASE,
    full_cycle::CASE,
];

/// Every case of the full Debian guest.
pub const ON_DEBIAN: &[Case] = &[
    systemd::CASE,
    systemd_thaws_first::CASE,
    rpm::CASE,
    systemd_kill::CASE,
    device_mapper::CASE,
    unit_hook::CASE,
    ssh_login::ON_DEBIAN,
    postgresql::CASE,
];

/// The case of a name in a catalogue.
///
/// # Errors
/// When there is none; the message has those that there are.
pub fn named(all: &'static [Case], name: &str) -> Result<&'static Case> {
    all.iter().find(|case| case.name == name).ok_or_else(|| {
        let names: Vec<String> =
            all.iter().map(|case| format!("  {:<34} {}", case.name, case.shows)).collect();
        anyhow::anyhow!("there is no case \"{name}\"; there are:\n{}", names.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let words = named(ALL, "full").unwrap_err().to_string();
        assert!(words.starts_with("there is no case \"full\""), "{words}");
        for case in ALL {
            assert!(words.contains(case.name) && words.contains(case.shows), "{words}");
            assert_eq!(named(ALL, case.name).unwrap().shows, case.shows);
        }
        let all = || ALL.iter().chain(ON_DEBIAN);
        let names: BTreeSet<&str> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count(), "a name is used twice");
    }
}
