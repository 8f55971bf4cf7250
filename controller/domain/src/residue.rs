//! Whether a resource that carries azdr's tag is still wanted, and whether azdr may delete it (I5).
//!
//! A run ends only when a listing shows that its temporaries are gone, so residue is what came later
//! (a request whose answer was lost, and which Azure carried out at last), or what a lost database
//! forgot. Two of three must agree before azdr deletes anything: the resource's **tag** names the
//! run, its **name** is one that this run gives to a temporary, the run's **journal** names it. And
//! the run must be over, and so must a grace period. Everything else is shown to people.

use std::fmt;
use std::time::Duration;

use azdr_env::WallTime;

use crate::arm_id::{ArmId, RESOURCE_GROUP_TYPE};

/// How long a resource is left alone after its run's end and after it was made: listings lag.
pub const GRACE: Duration = Duration::from_secs(3600);

/// The value of the tag that says which run made a resource: `{installation}.{run}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunTag {
    /// Of the database.
    pub installation: String,
    /// The run's number.
    pub run: i64,
}

impl RunTag {
    /// Reads it; `None` for anything else.
    pub fn parse(value: &str) -> Option<Self> {
        let (installation, run) = value.split_once('.')?;
        let run = run.parse().ok().filter(|run| *run > 0)?;
        let installation = installation.to_owned();
        (!installation.is_empty()).then_some(Self { installation, run })
    }
}

impl fmt::Display for RunTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.installation, self.run)
    }
}

/// What a run makes that may still be there when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing: all of it was temporary, or the run was undone.
    Nothing,
    /// Snapshots, which the catalogue names.
    Snapshots,
    /// A machine and its parts, which belong to their users from then on.
    Machine,
}

/// What is known of the run that a resource's tag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunFacts {
    /// It is not over.
    Live,
    /// It is over.
    Ended {
        /// Since when.
        at: WallTime,
        /// What it was meant to leave.
        leaves: Leaves,
    },
    /// It ran before the catalogue was rebuilt: nobody drives it any more.
    BeforeRebuild {
        /// When the catalogue was rebuilt.
        rebuilt: WallTime,
    },
    /// There never was one.
    Unknown,
}

/// A snapshot of a copy that is not whole, of a recovery point that is whole where it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfinishedCopy {
    /// Copying the point again takes it up.
    CanGoOn,
    /// A newer point is whole in that region: this one cannot be copied there any more.
    Overtaken,
}

/// What is known of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Which.
    pub id: &'a ArmId,
    /// Which run made it, by its tag.
    pub tag: Option<&'a RunTag>,
    /// When it was made, where Azure says so.
    pub created: Option<WallTime>,
    /// A recovery point or a kept disk of the catalogue.
    pub catalogued: bool,
    /// The run of the tag.
    pub run: RunFacts,
    /// That run's journal names the resource.
    pub journalled: bool,
    /// It is part of such a copy; asked only of what was made before a rebuild.
    pub copy: Option<UnfinishedCopy>,
}

/// What is to become of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody wants it.
    Wanted,
    /// Another installation's: shown, never touched.
    Foreign,
    /// Nobody wants it.
    Residue {
        /// Why not.
        why: String,
        /// What azdr does about it.
        fate: Fate,
    },
}

/// What azdr does about residue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Deletes it.
    Reap,
    /// Deletes it when the grace period is over.
    ReapAfter(WallTime),
    /// Leaves it to a person; why.
    Person(&'static str),
}

/// Judges one resource of `ours`.
pub fn judge(facts: &Facts<'_>, ours: &str, now: WallTime) -> Verdict {
    if facts.catalogued {
        return Verdict::Wanted;
    }
    let Some(tag) = facts.tag else {
        return match facts.id.is_type(RESOURCE_GROUP_TYPE) {
            // Shared by all snapshots of a region.
            true => Verdict::Wanted,
            false => residue("it carries azdr's tag and names no job", "no tag says who made it"),
        };
    };
    if tag.installation != ours {
        return Verdict::Foreign;
    }
    let run = tag.run;
    let purpose = purpose(facts.id.name(), tag);
    match facts.run {
        RunFacts::Live => Verdict::Wanted,
        RunFacts::Ended { leaves: Leaves::Machine, .. } => Verdict::Wanted,
        RunFacts::Ended { leaves: Leaves::Snapshots, .. } => residue(
            &format!("job {run} made it for a recovery point that the catalogue does not have"),
            "it may be the only copy of something",
        ),
        RunFacts::Ended { at, leaves: Leaves::Nothing } => {
            let why = format!("a temporary of job {run}, which is over");
            match purpose.is_some() || facts.journalled {
                true => reap(why, facts.created.map_or(at, |created| created.max(at)), now),
                false => residue(&why, "neither its name nor the job's journal confirms its tag"),
            }
        }
        RunFacts::BeforeRebuild { rebuilt } => {
            let why = format!("job {run} made it before the catalogue was rebuilt");
            let from = facts.created.map_or(rebuilt, |created| created.max(rebuilt));
            match (purpose, facts.copy) {
                (Some(Purpose::Verify | Purpose::Drill), _) => reap(why, from, now),
                (Some(Purpose::Restore), _) => {
                    residue(&why, "it may be part of a restored machine")
                }
                (None, Some(UnfinishedCopy::Overtaken)) => {
                    reap(format!("{why}, for a copy that newer ones have overtaken"), from, now)
                }
                (None, Some(UnfinishedCopy::CanGoOn)) => residue(
                    &format!("{why}, for a copy that is not whole"),
                    "copying the recovery point again takes it up (azdr backup replicate)",
                ),
                (None, None) => residue(&why, "nothing is known of what the job made it for"),
            }
        }
        RunFacts::Unknown => residue(
            &format!("there never was a job {run} here"),
            "only its tag says that it is azdr's",
        ),
    }
}

fn residue(why: &str, person: &'static str) -> Verdict {
    Verdict::Residue { why: why.to_owned(), fate: Fate::Person(person) }
}

fn reap(why: String, from: WallTime, now: WallTime) -> Verdict {
    let due = from.plus(GRACE);
    let fate = if due <= now { Fate::Reap } else { Fate::ReapAfter(due) };
    Verdict::Residue { why, fate }
}

/// What a run makes things for, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Test disks of a verification.
    Verify,
    /// A drill's machine and everything around it.
    Drill,
    /// A restored machine's parts.
    Restore,
}

/// What a name says that this run made the resource for; `None` when it is not one that it gives.
pub fn purpose(name: &str, tag: &RunTag) -> Option<Purpose> {
    let name = name.to_ascii_lowercase();
    let unique = format!("{}-{}", tag.installation, tag.run).to_ascii_lowercase();
    let prefixes = [
        ("azdr-verify-", Purpose::Verify),
        ("azdr-drill-", Purpose::Drill),
        ("azdr-restore-", Purpose::Restore),
        ("azdr-", Purpose::Drill),
    ];
    for (prefix, purpose) in prefixes {
        let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(&unique));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            return Some(purpose);
        }
    }
    // A drill's machine bears its original's name, the day, and the run's number.
    let (_, rest) = name.rsplit_once("-dr-test-")?;
    let (day, run) = rest.split_once('-')?;
    let is_day = day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit());
    (is_day && run == tag.run.to_string()).then_some(Purpose::Drill)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "0a1b2c3d";

    fn at(hours: i64) -> WallTime {
        WallTime::from_unix_ms(1_764_576_000_000 + hours * 3_600_000)
    }

    fn tag(installation: &str, run: i64) -> RunTag {
        RunTag { installation: installation.into(), run }
    }

    fn disk(name: &str) -> ArmId {
        ArmId::disk("00000000-0000-0000-0000-000000000001", "rg", name).unwrap()
    }

    fn verdict(name: &str, run: RunFacts, journalled: bool, created: i64) -> Verdict {
        let (id, tag) = (disk(name), tag(OURS, 7));
        let created = Some(at(created));
        let facts = Facts {
            id: &id,
            tag: Some(&tag),
            created,
            catalogued: false,
            run,
            journalled,
            copy: None,
        };
        judge(&facts, OURS, at(10))
    }

    fn fate(verdict: Verdict) -> Fate {
        match verdict {
            Verdict::Residue { fate, .. } => fate,
            other => panic!("{other:?}"),
        }
    }

    fn nothing() -> RunFacts {
        RunFacts::Ended { at: at(0), leaves: Leaves::Nothing }
    }

    #[test]
    fn two_of_name_tag_and_journal_must_agree() {
        assert_eq!(fate(verdict("azdr-verify-0a1b2c3d-7-os", nothing(), false, 1)), Fate::Reap);
        assert_eq!(fate(verdict("whatever", nothing(), true, 1)), Fate::Reap);
        // The tag alone, or with another run's name.
        for name in ["whatever", "azdr-verify-0a1b2c3d-71-os", "azdr-verify-ffffffff-7-os"] {
            let found = fate(verdict(name, nothing(), false, 1));
            assert!(matches!(found, Fate::Person(_)), "{name}: {found:?}");
        }
    }

    #[test]
    fn nothing_of_a_run_that_is_not_over_is_residue_and_the_rest_has_an_hour() {
        assert_eq!(verdict("azdr-verify-0a1b2c3d-7-os", RunFacts::Live, true, 1), Verdict::Wanted);
        let ended = |hour| RunFacts::Ended { at: at(hour), leaves: Leaves::Nothing };
        let name = "azdr-verify-0a1b2c3d-7-os";
        assert_eq!(fate(verdict(name, ended(9), false, 1)), Fate::Reap);
        assert_eq!(fate(verdict(name, ended(10), false, 1)), Fate::ReapAfter(at(11)));
        // Made after its run's end: a request that Azure carried out late.
        assert_eq!(fate(verdict(name, ended(1), false, 10)), Fate::ReapAfter(at(11)));
    }

    #[test]
    fn snapshots_and_machines_are_never_reaped() {
        let ended = |leaves| RunFacts::Ended { at: at(1), leaves };
        let found = fate(verdict("point-os", ended(Leaves::Snapshots), true, 1));
        assert!(matches!(found, Fate::Person(_)));
        let machine = verdict("azdr-restore-0a1b2c3d-7-os", ended(Leaves::Machine), true, 1);
        assert_eq!(machine, Verdict::Wanted);
    }

    #[test]
    fn before_a_rebuild_only_what_is_temporary_by_name_is_reaped() {
        let run = RunFacts::BeforeRebuild { rebuilt: at(1) };
        for name in ["azdr-verify-0a1b2c3d-7-os", "azdr-0a1b2c3d-7-nic", "db-dr-test-20251201-7"] {
            assert_eq!(fate(verdict(name, run, false, 0)), Fate::Reap, "{name}");
        }
        for name in ["azdr-restore-0a1b2c3d-7-os", "db-backup-daily-20251201-0800-0a1b2c3d"] {
            assert!(matches!(fate(verdict(name, run, false, 0)), Fate::Person(_)), "{name}");
        }
        assert!(matches!(fate(verdict("x", RunFacts::Unknown, true, 0)), Fate::Person(_)));
    }

    #[test]
    fn of_a_copy_that_was_not_whole_before_a_rebuild_only_what_is_overtaken_is_reaped() {
        let (id, tag) = (disk("db-backup-daily-20251201-0800-0a1b2c3d"), tag(OURS, 7));
        let judged = |run, copy| {
            let created = Some(at(0));
            let facts = Facts {
                id: &id,
                tag: Some(&tag),
                created,
                catalogued: false,
                run,
                journalled: false,
                copy,
            };
            fate(judge(&facts, OURS, at(10)))
        };
        let before = RunFacts::BeforeRebuild { rebuilt: at(1) };
        assert_eq!(judged(before, Some(UnfinishedCopy::Overtaken)), Fate::Reap);
        assert!(matches!(judged(before, Some(UnfinishedCopy::CanGoOn)), Fate::Person(_)));
        let snapshots = RunFacts::Ended { at: at(1), leaves: Leaves::Snapshots };
        assert!(matches!(judged(snapshots, Some(UnfinishedCopy::Overtaken)), Fate::Person(_)));
    }

    #[test]
    fn what_is_anothers_is_not_ours_to_judge_and_what_the_catalogue_names_is_wanted() {
        let (id, other) = (disk("azdr-verify-ffffffff-7-os"), tag("ffffffff", 7));
        let facts = Facts {
            id: &id,
            tag: Some(&other),
            created: None,
            catalogued: false,
            run: nothing(),
            journalled: true,
            copy: None,
        };
        assert_eq!(judge(&facts, OURS, at(10)), Verdict::Foreign);
        assert_eq!(judge(&Facts { catalogued: true, ..facts }, OURS, at(10)), Verdict::Wanted);
        let untagged = judge(&Facts { tag: None, ..facts }, OURS, at(10));
        assert!(matches!(fate(untagged), Fate::Person(_)));
    }

    #[test]
    fn tags_of_runs_are_read_whole_or_not_at_all() {
        assert_eq!(RunTag::parse("0a1b2c3d.7"), Some(tag(OURS, 7)));
        for wrong in ["", "7", ".7", "a.", "a.b", "a.0", "a.-1", "a.7.8"] {
            assert_eq!(RunTag::parse(wrong), None, "{wrong:?}");
        }
    }
}
