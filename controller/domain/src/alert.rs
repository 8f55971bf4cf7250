//! What somebody should look at: which kinds of alerts there are, what gives cause for one, and its words.
//!
//! An *event* is a job that has failed, or took too long: one alert per job, which the next success
//! ends. A *condition* is something that is so for a while: one alert as long as it lasts. The store
//! writes both, with the terminal state that they come from.

use azdr_env::WallTime;

use crate::coverage;
use crate::objective::{self, Judgement};
use crate::policy::Policy;
use crate::tier::Tier;

/// How long the reason may be for which a person closes an alert, in characters.
pub const CLOSING_REASON_LIMIT: usize = 500;

/// How soon somebody should look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// In the coming days.
    Medium,
    /// Today.
    High,
    /// Now.
    Critical,
}

impl Severity {
    /// The mildest first.
    pub const ALL: [Self; 3] = [Self::Medium, Self::High, Self::Critical];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Reads what [`Severity::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// What an alert is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AlertKind {
    /// Event: a backup failed.
    BackupFailed,
    /// Event: what retention, or what a job has left behind, could not be deleted.
    CleanupFailed,
    /// Event: a copy to another region failed.
    ReplicationFailed,
    /// Event: a DR test failed.
    DrTestFailed,
    /// Event: a DR test or a restore succeeded, but took longer than the RTO.
    RtoExceeded,
    /// Event: a verification failed.
    VerificationFailed,
    /// Event: a job waits for a person.
    JobStuck,
    /// Condition: too few of the DR tests passed.
    SuccessRateLow,
    /// Condition: a VM's backups are without a proof for too long.
    VerificationOverdue,
    /// Condition: a VM's newest restorable point is older than its policy's RPO.
    RpoMissed,
    /// Condition: nothing came of a VM's last scheduled backup.
    BackupOverdue,
    /// Condition: a VM with a policy is not in Azure any more.
    VmGone,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::BackupFailed,
        Self::CleanupFailed,
        Self::ReplicationFailed,
        Self::DrTestFailed,
        Self::RtoExceeded,
        Self::VerificationFailed,
        Self::JobStuck,
        Self::SuccessRateLow,
        Self::VerificationOverdue,
        Self::RpoMissed,
        Self::BackupOverdue,
        Self::VmGone,
    ];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupFailed => "backup_failed",
            Self::CleanupFailed => "cleanup_failed",
            Self::ReplicationFailed => "replication_failed",
            Self::DrTestFailed => "dr_test_failed",
            Self::RtoExceeded => "rto_exceeded",
            Self::VerificationFailed => "verification_failed",
            Self::JobStuck => "job_stuck",
            Self::SuccessRateLow => "success_rate_low",
            Self::VerificationOverdue => "verification_overdue",
            Self::RpoMissed => "rpo_missed",
            Self::BackupOverdue => "backup_overdue",
            Self::VmGone => "vm_gone",
        }
    }

    /// Reads what [`AlertKind::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    /// Those of the guide's examples as there: failed DR tests are critical, what was not verified
    /// for long is medium, the rest high.
    pub const fn severity(self) -> Severity {
        match self {
            Self::DrTestFailed | Self::RpoMissed => Severity::Critical,
            Self::CleanupFailed | Self::VerificationOverdue | Self::VmGone => Severity::Medium,
            _ => Severity::High,
        }
    }

    /// Whether it lasts until it is no longer so, and does not come from one job.
    pub const fn is_condition(self) -> bool {
        matches!(
            self,
            Self::SuccessRateLow
                | Self::VerificationOverdue
                | Self::RpoMissed
                | Self::BackupOverdue
                | Self::VmGone
        )
    }

    /// What a failed job of this workflow is; `None`: nothing of its own. Jobs of many parts leave it
    /// to their parts.
    pub fn of_failed(workflow: &str) -> Option<Self> {
        Some(match workflow {
            "backup" => Self::BackupFailed,
            "prune" | "reap" | "remove_kept_disk" => Self::CleanupFailed,
            "replicate" => Self::ReplicationFailed,
            "dr_test" | "dr_test_kept" => Self::DrTestFailed,
            "verify" => Self::VerificationFailed,
            _ => return None,
        })
    }
}

/// An alert's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    /// What happened, a sentence without its full stop.
    pub what: String,
    /// What to do next.
    pub next: String,
}

/// A failed job, as its alert tells it.
#[derive(Clone, Copy, Debug)]
pub struct FailedJob<'a> {
    /// Its number.
    pub job: i64,
    /// The VM's name; empty when it is about none.
    pub vm: &'a str,
    /// The recovery point's name; empty when it is about none.
    pub point: &'a str,
    /// The region; empty when it is about none.
    pub region: &'a str,
    /// Why, as the job says it.
    pub why: &'a str,
    /// What to do, as the job says it; may be empty.
    pub hint: &'a str,
}

impl FailedJob<'_> {
    /// The words of the alert.
    pub fn words(&self, kind: AlertKind) -> Words {
        let Self { job, vm, point, region, why, hint } = *self;
        let (what, then) = match kind {
            AlertKind::BackupFailed => (
                format!("the backup of {vm} failed"),
                format!("see `azdr job show {job}`, then `azdr backup trigger {vm}`"),
            ),
            AlertKind::CleanupFailed if vm.is_empty() => (
                "what a job has left in Azure could not be deleted".to_owned(),
                format!("see `azdr job show {job}` and `azdr residue list`"),
            ),
            AlertKind::CleanupFailed => (
                format!("what {vm} need not keep any more could not be deleted"),
                format!(
                    "see `azdr job show {job}`; the clean-up after the next backup tries again"
                ),
            ),
            AlertKind::ReplicationFailed => (
                format!("{point} could not be copied to {region}"),
                format!("see `azdr job show {job}`; the next backup's copy makes up for it"),
            ),
            AlertKind::DrTestFailed => (
                format!("the DR test of {vm} with {point} in {region} failed"),
                format!(
                    "see `azdr job show {job}`, then `azdr dr test {vm} --test-region {region}`"
                ),
            ),
            AlertKind::VerificationFailed => (
                format!("the verification of {point} in {region} failed"),
                format!("see `azdr job show {job}`, then `azdr backup verify {point}`"),
            ),
            AlertKind::JobStuck => (
                format!("job {job} is stuck and waits for a person"),
                format!("see `azdr job show {job}`; then retry, undo or abandon it"),
            ),
            other => (format!("job {job}: {}", other.as_str()), format!("`azdr job show {job}`")),
        };
        let next = if hint.is_empty() { then } else { format!("{hint}; {then}") };
        Words { what: format!("{what}: {why}"), next }
    }
}

/// The words of a recovery that took too long.
pub fn too_slow(job: i64, vm: &str, took: std::time::Duration, target: crate::Interval) -> Words {
    let secs = took.as_secs();
    Words {
        what: format!("recovering {vm} took {}m {:02}s, its RTO is {target}", secs / 60, secs % 60),
        next: format!(
            "see the phases in `azdr job show {job}`; the objective is `azdr backup configure {vm} --rto`"
        ),
    }
}

/// The words of a share of DR tests that is too low.
pub fn success_rate_low(total: usize, passed: usize) -> Words {
    let (days, target) = (
        objective::SUCCESS_WINDOW.as_secs() / 86_400,
        f64::from(objective::SUCCESS_TARGET_PER_MILLE) / 10.0,
    );
    Words {
        what: format!(
            "{passed} of {total} DR tests of the last {days} days passed, less than {target} %"
        ),
        next: "see `azdr dr success-rate` and `azdr dr test-history`".to_owned(),
    }
}

/// What is known of a VM with an enabled policy.
#[derive(Clone, Debug)]
pub struct VmFacts<'a> {
    /// Its name.
    pub vm: &'a str,
    /// Its policy, enabled.
    pub policy: &'a Policy,
    /// Since when.
    pub enabled_since: WallTime,
    /// Since when Azure has it no more.
    pub gone: Option<WallTime>,
    /// When its newest point was taken.
    pub newest: Option<WallTime>,
    /// The same of the points that carry the lowest tier of its policy.
    pub newest_of_lowest: Option<WallTime>,
    /// The same of the points that can be restored somewhere.
    pub newest_restorable: Option<WallTime>,
    /// When one of its points was last proved.
    pub proved: Option<WallTime>,
    /// When the first of its points was taken that came after that.
    pub unproved_since: Option<WallTime>,
    /// [`coverage::expected`] of its policy.
    pub expected: Option<WallTime>,
}

impl VmFacts<'_> {
    /// Whether nothing came of its last scheduled backup, or of any.
    pub fn is_overdue(&self) -> bool {
        let newest = self.newest.unwrap_or(WallTime::from_unix_ms(0));
        let of = |_: Tier| self.newest_of_lowest;
        self.expected.is_some_and(|expected| {
            coverage::is_overdue(self.policy, self.enabled_since, expected, newest, of)
        })
    }

    /// Whether its RPO is met; `None`: its policy has none.
    pub fn rpo(&self, now: WallTime) -> Option<Judgement> {
        let rpo = self.policy.rpo?;
        Some(objective::judge_rpo(rpo, self.newest_restorable, self.enabled_since, now))
    }

    /// The conditions that somebody should know of, with their words. Of a VM that is gone nothing
    /// else is said: it has nothing to be backed up.
    pub fn conditions(&self, now: WallTime) -> Vec<(AlertKind, Words)> {
        let vm = self.vm;
        if let Some(since) = self.gone {
            let what = format!("{vm} has a policy and is not in Azure any more (seen at {since})");
            let next = format!(
                "no backup is begun until it is back, and its backups are kept; `azdr backup restore {vm} \
                 --new-vm NAME` makes a new VM of them, `azdr backup disable {vm}` ends its policy"
            );
            return vec![(AlertKind::VmGone, Words { what, next })];
        }
        let mut found = vec![];
        let newest = match self.newest {
            Some(at) => format!("the newest backup is of {at}"),
            None => "there is none".to_owned(),
        };
        if self.is_overdue() {
            let what = format!("{vm} has no backup since its last scheduled time: {newest}");
            let next = format!("see `azdr job list --vm {vm}`, then `azdr backup trigger {vm}`");
            found.push((AlertKind::BackupOverdue, Words { what, next }));
        }
        if let (Some(Judgement::Missed), Some(rpo)) = (self.rpo(now), self.policy.rpo) {
            let newest = match self.newest_restorable {
                Some(at) => format!("its newest restorable backup is of {at}"),
                None => "it has no restorable backup".to_owned(),
            };
            let what = format!("{vm} misses its RPO of {rpo}: {newest}");
            let next =
                format!("`azdr backup trigger {vm}`, and `azdr policy next {vm}` for what comes");
            found.push((AlertKind::RpoMissed, Words { what, next }));
        }
        let unverified =
            objective::is_unverified(self.policy, self.unproved_since, self.enabled_since, now);
        if self.newest.is_some() && unverified {
            let target = objective::verification_target(self.policy);
            let last = match self.proved {
                Some(at) => format!("the last proof is of {at}"),
                None => "none was ever verified".to_owned(),
            };
            let what = format!("the backups of {vm} are unverified for more than {target}: {last}");
            let next = format!(
                "`azdr backup verify-all {vm}`, or have it done: `azdr backup configure {vm} \
                 --verify-every 7d`"
            );
            found.push((AlertKind::VerificationOverdue, Words { what, next }));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::Interval;

    fn at(text: &str) -> WallTime {
        WallTime::from(text.parse::<jiff::Timestamp>().unwrap())
    }

    #[test]
    fn names_and_severities_read_back() {
        for kind in AlertKind::ALL {
            assert_eq!(AlertKind::parse(kind.as_str()), Some(kind));
        }
        for severity in Severity::ALL {
            assert_eq!(Severity::parse(severity.as_str()), Some(severity));
        }
        assert_eq!(AlertKind::DrTestFailed.severity(), Severity::Critical);
        assert_eq!(AlertKind::VerificationOverdue.severity(), Severity::Medium);
    }

    fn kinds(facts: &VmFacts<'_>, now: &str) -> Vec<AlertKind> {
        facts.conditions(at(now)).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn a_vm_is_said_to_be_what_it_is_and_nothing_else_once_it_is_gone() {
        let mut policy = Policy { rpo: Some(Interval::hours(24)), ..Policy::default() };
        policy.schedule.time = "08:00".parse().unwrap();
        let now = "2025-12-02T12:00:00Z";
        let facts = VmFacts {
            vm: "db",
            policy: &policy,
            enabled_since: at("2025-11-01T00:00:00Z"),
            gone: None,
            newest: Some(at("2025-12-02T08:05:00Z")),
            newest_of_lowest: None,
            newest_restorable: Some(at("2025-12-02T08:05:00Z")),
            proved: Some(at("2025-12-01T09:00:00Z")),
            unproved_since: Some(at("2025-12-02T08:05:00Z")),
            expected: coverage::expected(&policy, at(now)),
        };
        assert_eq!(kinds(&facts, now), []);
        // The backup of today is there, but somebody has deleted one of its snapshots.
        let older = Some(at("2025-12-01T08:05:00Z"));
        let missing = VmFacts { newest_restorable: older, ..facts.clone() };
        assert_eq!(kinds(&missing, now), [AlertKind::RpoMissed]);
        let failed = VmFacts { newest: older, newest_restorable: older, ..facts.clone() };
        assert_eq!(kinds(&failed, now), [AlertKind::BackupOverdue, AlertKind::RpoMissed]);
        let long = Some(at("2025-11-20T08:05:00Z"));
        let unproved = VmFacts { proved: None, unproved_since: long, ..facts.clone() };
        assert_eq!(kinds(&unproved, now), [AlertKind::VerificationOverdue]);
        // Nothing to verify, and nothing ever came of the schedule.
        let never =
            VmFacts { newest: None, newest_restorable: None, proved: None, ..facts.clone() };
        assert_eq!(kinds(&never, now), [AlertKind::BackupOverdue, AlertKind::RpoMissed]);
        let gone = VmFacts { gone: Some(at(now)), ..never };
        assert_eq!(kinds(&gone, now), [AlertKind::VmGone]);
    }

    #[test]
    fn a_new_policy_is_not_late_with_anything() {
        let policy = Policy { rpo: Some(Interval::hours(24)), ..Policy::default() };
        let now = "2025-12-02T12:00:00Z";
        let facts = VmFacts {
            vm: "db",
            policy: &policy,
            enabled_since: at("2025-12-02T11:00:00Z"),
            gone: None,
            newest: None,
            newest_of_lowest: None,
            newest_restorable: None,
            proved: None,
            unproved_since: None,
            expected: coverage::expected(&policy, at(now)),
        };
        assert_eq!(kinds(&facts, now), []);
        assert_eq!(facts.rpo(at(now)), Some(Judgement::Unknown));
    }

    #[test]
    fn a_failed_job_says_what_why_and_what_next() {
        let job = FailedJob {
            job: 17,
            vm: "db",
            point: "db-backup-daily-20251201-0800",
            region: "westus2",
            why: "the copy stalled",
            hint: "",
        };
        assert_eq!(
            job.words(AlertKind::ReplicationFailed).what,
            "db-backup-daily-20251201-0800 could not be copied to westus2: the copy stalled"
        );
        let hinted = FailedJob { hint: "mend it", ..job };
        assert_eq!(
            hinted.words(AlertKind::BackupFailed).next,
            "mend it; see `azdr job show 17`, then `azdr backup trigger db`"
        );
        let slow = too_slow(17, "db", std::time::Duration::from_secs(1000), Interval::minutes(15));
        assert_eq!(slow.what, "recovering db took 16m 40s, its RTO is 15m");
        assert_eq!(
            success_rate_low(10, 9).what,
            "9 of 10 DR tests of the last 30 days passed, less than 99.9 %"
        );
    }
}
