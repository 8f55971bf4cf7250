//! Whether a machine is what it was restored from, and whether it is well: from what it shows, and from
//! what was noted at the capture.
//!
//! Every question is a fact of its own with three values. What was not looked at is unknown, and unknown
//! is never a pass. The proof `booted` needs every *required* fact to be a pass:
//!
//! | fact | required | fails when |
//! |---|---|---|
//! | `agent` | yes | never: without a report it is unknown |
//! | `boot` | yes | it is still the boot of the capture |
//! | `witness:<mount>` | yes, for every file system that was frozen | missing, of another point, of another VM, altered, copied |
//! | `witness:os`, `witness:lun N` | yes, for every disk that is known to have no witness | never: it is unknown |
//! | `fstab` | yes | a file system of a disk is not mounted as written there |
//! | `file-system-writable:<mount>`, `free-space:<mount>` | yes, likewise | a write fails or hangs; it is full |
//! | `app:<hook>` | yes, for every hook that has a check, now or at the capture | the check says so |
//! | `ssh-host-key`, `ssh-login` | where the controller can log in: [`crate::ssh_evidence`] | |
//! | `systemd`, `journal-recovery`, `network`, `clock`, `sshd` | no | |
//!
//! A disk of which no file system was frozen has no witness and could be any disk: nothing shows that it is of
//! the point, so the point is not proved, however well the machine is. It stays unknown and is not waited for.
//! Where of no witness at all it is known which disk it is on, the fact is shown and not required: an agent
//! that does not recognise its disks must not make proof impossible.
//!
//! The last ones are shown and decide nothing: in an isolated network units fail and nobody answers,
//! a replayed journal is what a restore looks like, and the clock is set by a server that cannot be
//! reached. Agents from before there were `fstab` and `free-space` are asked for what they know.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine_disk::{MachineDisk, any_is_on};

/// How far a machine's clock may be off.
const CLOCK_LIMIT: Duration = Duration::from_secs(60);
/// Facts that are kept of one machine; a report has about three for each of 64 file systems.
const MOST_FACTS: usize = 400;
/// Witnesses that are looked at of one machine: no freeze covers more file systems.
const MOST_WITNESSES: usize = 64;
/// Longest words that are kept of a fact, in characters.
const LONGEST: usize = 512;

/// A witness as it was written, kept with the capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRecord {
    /// What it says, hashed.
    pub digest: String,
    /// Where its file system was mounted.
    pub mount_point: String,
    /// On which disk: `os`, `lun N`, or a device's name; may be empty.
    pub disk: String,
    /// Its file system; may be empty.
    pub file_system_uuid: String,
    /// Azure's vmId of the machine that wrote it.
    pub vm_id: String,
    /// By that machine's clock.
    pub written_at_unix_ms: i64,
}

/// Whether a witness's seal is that of its operation's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It is of the format that has none.
    None,
    /// It holds.
    Holds,
    /// It does not.
    Broken,
}

/// A witness as a machine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownWitness {
    /// What it says, hashed.
    pub digest: String,
    /// What all of its operation say.
    pub digests: Vec<String>,
    /// Its seal.
    pub seal: Seal,
    /// Where its file system is mounted now.
    pub mount_point: String,
    /// On which disk that is now; may be empty.
    pub disk: String,
    /// On which file system it is found; may be empty.
    pub found_on: String,
    /// To which it was written; may be empty.
    pub written_to: String,
    /// Who wrote it; empty in the older format.
    pub vm_id: String,
    /// In which boot; empty in the older format.
    pub boot_id: String,
    /// For which recovery point.
    pub point: String,
    /// With which nonce.
    pub nonce: String,
    /// When, by the writing machine's clock.
    pub written_at_unix_ms: i64,
}

/// What a machine must show.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Name of the recovery point.
    pub point: &'a str,
    /// Its nonce; empty: it was taken without a freeze and has no witness.
    pub nonce: &'a str,
    /// The disks of the point.
    pub disks: &'a [MachineDisk],
    /// Every disk of the machine is of this point. False where others stay attached.
    pub all_disks: bool,
    /// As noted at the capture; empty for points from before that, and after a rebuild.
    pub records: &'a [WitnessRecord],
    /// The hooks that had a check at the capture, likewise.
    pub checks: &'a [String],
}

/// What the witnesses say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// Mount points that show the right one.
    pub right: Vec<String>,
    /// File systems that should show one and show none, with words.
    pub missing: Vec<(String, String)>,
    /// Mount points that show a wrong one, with words.
    pub wrong: Vec<(String, String)>,
}

fn named(mount_point: &str, disk: &str) -> String {
    match disk {
        "" => mount_point.to_owned(),
        disk => format!("{mount_point} ({disk})"),
    }
}

impl Witnesses {
    /// Judges every witness that is shown, and every one that should be.
    pub fn judge(wanted: &Wanted<'_>, shown: &[ShownWitness]) -> Self {
        let mut judged = Self::default();
        if wanted.nonce.is_empty() {
            return judged;
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut covered: BTreeSet<&str> = BTreeSet::new();
        for witness in shown {
            if !wanted.is_about(witness) {
                continue;
            }
            covered.extend([witness.mount_point.as_str(), witness.found_on.as_str()]);
            match wanted.why_wrong(witness, &seen) {
                Some(why) => {
                    let place = named(&witness.mount_point, &witness.disk);
                    judged.wrong.push((witness.mount_point.clone(), format!("{place} {why}")));
                }
                None => {
                    seen.insert(&witness.digest);
                    judged.right.push(witness.mount_point.clone());
                }
            }
        }
        for record in wanted.records.iter().filter(|r| !seen.contains(r.digest.as_str())) {
            let shows_another = covered.contains(record.mount_point.as_str())
                || (!record.file_system_uuid.is_empty()
                    && covered.contains(record.file_system_uuid.as_str()));
            if !shows_another {
                let place = named(&record.mount_point, &record.disk);
                judged.missing.push((
                    record.mount_point.clone(),
                    format!("{place} shows no witness: it is not there, or not mounted"),
                ));
            }
        }
        // Without a record the witnesses themselves say how many there are.
        let ours = shown.iter().find(|w| seen.contains(w.digest.as_str()));
        if let (Some(ours), []) = (ours, wanted.records) {
            let of = ours.digests.len();
            for (n, _) in
                ours.digests.iter().enumerate().filter(|(_, d)| !seen.contains(d.as_str()))
            {
                // As many wrong ones are on some of those disks.
                if judged.missing.len() + judged.right.len() + judged.wrong.len() < of {
                    let name = format!("{} of {of}", n + 1);
                    let words = format!("no file system shows the witness {name}");
                    judged.missing.push((name, words));
                }
            }
        }
        judged
    }

    /// Why the machine is not what it should be, in words; `None`: nothing speaks against it.
    pub fn against(&self, wanted: &Wanted<'_>) -> Option<String> {
        let point = wanted.point;
        match (wanted.nonce, self.right.as_slice(), self.wrong.first()) {
            ("", ..) | (_, [_, ..], None) => None,
            (_, [], None) => Some(format!("the machine shows no witness of {point}")),
            (_, right, Some(_)) => {
                let all: Vec<&str> = self.wrong.iter().map(|(_, why)| why.as_str()).collect();
                let mixed = match right {
                    [] => String::new(),
                    _ => format!(
                        ", while {} shows that of {point}: the disks are of different origin",
                        right.join(", ")
                    ),
                };
                Some(format!("{}{mixed}", all.join("; ")))
            }
        }
    }
}

impl Wanted<'_> {
    /// The disks without a witness, with whether that is certain.
    fn without_witness(&self, shown: &[ShownWitness]) -> Vec<(&MachineDisk, bool)> {
        if self.nonce.is_empty() {
            return Vec::new();
        }
        // Without a record the machine itself has to say where they are.
        let ours = shown.iter().filter(|w| self.records.is_empty() && w.nonce == self.nonce);
        let words = self.records.iter().map(|r| &r.disk).chain(ours.map(|w| &w.disk));
        let places: Vec<_> = words.map(|words| MachineDisk::read(words)).collect();
        let is_on = |disk: &MachineDisk| any_is_on(disk, places.iter().map(Option::as_deref));
        let without = |disk| match is_on(disk) {
            Some(true) => None,
            found => Some((disk, found.is_some())),
        };
        // Where there is none at all, one fact says so for all disks.
        let disks = self.disks.iter().filter(|_| !places.is_empty());
        disks.filter_map(without).collect()
    }

    /// Whether this witness says anything: one of another point on a disk that stays attached does not.
    fn is_about(&self, witness: &ShownWitness) -> bool {
        let of_a_disk_of_ours = |record: &WitnessRecord| {
            !record.file_system_uuid.is_empty() && record.file_system_uuid == witness.found_on
        };
        self.all_disks || witness.nonce == self.nonce || self.records.iter().any(of_a_disk_of_ours)
    }

    fn why_wrong(&self, witness: &ShownWitness, seen: &BTreeSet<&str>) -> Option<String> {
        let first = self.records.first();
        if witness.nonce != self.nonce {
            let foreign = first.filter(|record| {
                let known = !record.vm_id.is_empty() && !witness.vm_id.is_empty();
                known && record.vm_id != witness.vm_id
            });
            if foreign.is_some() {
                return Some(format!("shows the witness of another VM ({})", witness.vm_id));
            }
            let of = match witness.point.as_str() {
                "" => "something else",
                of => of,
            };
            let age = match first.map(|r| r.written_at_unix_ms.cmp(&witness.written_at_unix_ms)) {
                Some(std::cmp::Ordering::Greater) => ", which is older",
                Some(std::cmp::Ordering::Less) => ", which is newer",
                _ => "",
            };
            return Some(format!("shows the witness of {of}{age}, instead of {}", self.point));
        }
        let copied = !witness.found_on.is_empty()
            && !witness.written_to.is_empty()
            && witness.found_on != witness.written_to;
        if copied {
            return Some(format!(
                "shows a copy of another file system's witness: it was written to {}, and this is {}",
                witness.written_to, witness.found_on
            ));
        }
        if seen.contains(witness.digest.as_str()) {
            return Some("shows a copy of another file system's witness".to_owned());
        }
        let noted = first.is_none() || self.records.iter().any(|r| r.digest == witness.digest);
        match witness.seal {
            Seal::Broken => Some("shows an altered witness: its seal does not hold".to_owned()),
            _ if !noted => Some("shows a witness that was not written there".to_owned()),
            _ => None,
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// As in the table above.
    pub name: String,
    /// Its value.
    pub state: FactState,
    /// In words.
    pub detail: String,
    /// When it was looked at, by the clock of the machine, or of the controller for what it has looked
    /// at itself: milliseconds since 1970; 0: not known.
    pub at_unix_ms: i64,
    /// The proof `booted` needs it to be a pass.
    pub required: bool,
}

impl Fact {
    /// That a disk was captured without one: looking again changes nothing. Of a file system's witness it is
    /// always known whether it is right.
    fn is_of_no_witness(&self) -> bool {
        self.name.starts_with(OF_ONE) && self.state == FactState::Unknown
    }
}

/// The value of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactState {
    /// It is as it should be.
    Pass,
    /// It is not.
    Fail,
    /// Nobody has looked, or the look told nothing.
    Unknown,
}

/// What a machine reports of itself.
#[derive(Clone, Debug, Default)]
pub struct MachineReport {
    /// Which facts to expect.
    pub version: u32,
    /// This boot.
    pub boot_id: String,
    /// Its wall clock; 0: not told.
    pub wall_unix_ms: i64,
    /// Its facts; `required` is not looked at.
    pub facts: Vec<Fact>,
}

/// What is known of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Every fact.
    pub facts: Vec<Fact>,
    /// Why it is not the machine that it should be, in words; empty: nothing speaks against it.
    pub wrong_machine: String,
}

impl Evidence {
    /// Of a machine that did not report.
    pub fn none(why: &str, now_unix_ms: i64) -> Self {
        let agent = Fact {
            name: "agent".to_owned(),
            state: FactState::Unknown,
            detail: one_line(why),
            at_unix_ms: now_unix_ms,
            required: true,
        };
        Self { facts: vec![agent], wrong_machine: String::new() }
    }

    /// Of a machine that did; `now_unix_ms` by the controller's clock.
    pub fn judge(
        wanted: &Wanted<'_>,
        shown: &[ShownWitness],
        report: &MachineReport,
        now_unix_ms: i64,
    ) -> Self {
        let all_shown = shown.len();
        let shown = shown.get(..MOST_WITNESSES).unwrap_or(shown);
        let witnesses = Witnesses::judge(wanted, shown);
        let own = |name: &str, state, detail: String, required| Fact {
            name: name.to_owned(),
            state,
            detail,
            at_unix_ms: now_unix_ms,
            required,
        };
        let mut facts = vec![own("agent", FactState::Pass, "it reported".to_owned(), true)];
        if wanted.nonce.is_empty() {
            let words = "the point was taken without a freeze and has none".to_owned();
            facts.push(own(NO_WITNESS, FactState::Unknown, words, true));
        } else if shown.is_empty() {
            let words = format!("the machine shows no witness of {}", wanted.point);
            facts.push(own(NO_WITNESS, FactState::Fail, words, true));
        }
        for mount in &witnesses.right {
            let name = format!("{OF_ONE}{mount}");
            facts.push(own(&name, FactState::Pass, wanted.point.to_owned(), true));
        }
        for (mount, words) in witnesses.wrong.iter().chain(&witnesses.missing) {
            facts.push(own(&format!("{OF_ONE}{mount}"), FactState::Fail, words.clone(), true));
        }
        for (disk, is_certain) in wanted.without_witness(shown) {
            let words = if is_certain { NO_FREEZE } else { UNKNOWN_DISK };
            let name = format!("{OF_ONE}{disk}");
            facts.push(own(&name, FactState::Unknown, words.to_owned(), is_certain));
        }
        let mut required = required(report, &witnesses);
        required.extend(wanted.checks.iter().map(|hook| format!("app:{hook}")));
        let kept = report.facts.get(..MOST_FACTS).unwrap_or(&report.facts);
        for fact in kept {
            // `file-systems`: nothing could be looked at.
            let needed = required.contains(&fact.name)
                || fact.name.starts_with("app:")
                || fact.name == "file-systems";
            let detail = one_line(&fact.detail);
            let name = one_line(&fact.name);
            let mut fact = Fact { name, required: needed, detail, ..fact.clone() };
            let same_boot = |w: &ShownWitness| {
                !w.boot_id.is_empty() && w.nonce == wanted.nonce && w.boot_id == report.boot_id
            };
            if fact.name == "boot" && shown.iter().any(same_boot) {
                fact.state = FactState::Fail;
                "the machine has not been started since the capture".clone_into(&mut fact.detail);
            }
            facts.push(fact);
        }
        if kept.len() < report.facts.len() {
            let words = format!("{} facts, looked at are {MOST_FACTS}", report.facts.len());
            facts.push(own("facts", FactState::Unknown, words, true));
        }
        if shown.len() < all_shown {
            let words = format!("{all_shown} are shown, looked at are {MOST_WITNESSES}");
            facts.push(own("witnesses", FactState::Unknown, words, true));
        }
        for name in required.iter().filter(|name| !kept.iter().any(|f| f.name == **name)) {
            facts.push(own(name, FactState::Unknown, "was not reported".to_owned(), true));
        }
        facts.extend(clock(report, now_unix_ms, own));
        Self { facts, wrong_machine: witnesses.against(wanted).unwrap_or_default() }
    }

    /// Whether the proof `booted` may be granted: every required fact is a pass, and there are any.
    pub fn is_booted(&self) -> bool {
        let mut required = self.required().peekable();
        required.peek().is_some() && required.all(|fact| fact.state == FactState::Pass)
    }

    /// The required facts that are not a pass, and that may still become one.
    pub fn awaited(&self) -> impl Iterator<Item = &Fact> {
        self.open().filter(|fact| !fact.is_of_no_witness())
    }

    /// The required facts that are not a pass, where there are witnesses at all.
    fn open(&self) -> impl Iterator<Item = &Fact> {
        self.required().filter(|fact| fact.state != FactState::Pass && fact.name != NO_WITNESS)
    }

    /// What is wrong with the machine, in words; `None`: nothing is known to be.
    pub fn harm(&self) -> Option<String> {
        let failed = self.required().filter(|fact| fact.state == FactState::Fail);
        let words: Vec<_> = failed.map(|f| format!("{}: {}", f.name, f.detail)).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// What the proof still needs of the machine, in words; empty: nothing.
    pub fn doubt(&self) -> String {
        let words: Vec<_> = self.open().map(|f| format!("{}: {}", f.name, f.detail)).collect();
        words.join("; ")
    }

    fn required(&self) -> impl Iterator<Item = &Fact> {
        self.facts.iter().filter(|fact| fact.required)
    }
}

/// A machine's words, as far as they are kept.
pub fn one_line(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// The fact that stands for all witnesses where there is none.
const NO_WITNESS: &str = "witness";
/// How the facts of single witnesses begin.
const OF_ONE: &str = "witness:";
/// Why a disk has no witness, and what to do.
const NO_FREEZE: &str = "no file system of this disk was frozen, so that it carries no witness and could be any \
    disk: let the agent freeze what is on it (docs/preflight.md), or detach it if nobody uses it, and take a \
    new recovery point";
/// Why it is not known whether it has one.
const UNKNOWN_DISK: &str = "the agent does not say on which disks its witnesses are: it is not known whether \
    this one has any";

/// The names of a report's facts that must be a pass.
fn required(report: &MachineReport, witnesses: &Witnesses) -> Vec<String> {
    let mut names = vec!["boot".to_owned()];
    let writable = |mount: &str| format!("file-system-writable:{mount}");
    if report.version == 0 {
        let known = report.facts.iter().map(|fact| fact.name.clone());
        let known: Vec<_> = known.filter(|name| name.starts_with(&writable(""))).collect();
        names.extend(match known.is_empty() {
            true => vec!["file-system-writable".to_owned()],
            false => known,
        });
        return names;
    }
    names.push("fstab".to_owned());
    let wrong = witnesses.wrong.iter().map(|(mount, _)| mount);
    for mount in witnesses.right.iter().chain(wrong) {
        names.extend([writable(mount), format!("free-space:{mount}")]);
    }
    names
}

fn clock(
    report: &MachineReport,
    now_unix_ms: i64,
    own: impl Fn(&str, FactState, String, bool) -> Fact,
) -> Option<Fact> {
    if report.wall_unix_ms == 0 {
        return None;
    }
    let off = Duration::from_millis(report.wall_unix_ms.abs_diff(now_unix_ms));
    let state = if off <= CLOCK_LIMIT { FactState::Pass } else { FactState::Fail };
    let words = format!("{} s from the controller's", off.as_secs());
    Some(own("clock", state, words, false))
}

#[cfg(test)]
mod tests;
