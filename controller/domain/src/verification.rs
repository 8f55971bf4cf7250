//! What verifications and drills say about a backup over some days, for the report.
//!
//! A backup is judged by the last attempt at each of its copies: one that held does not excuse one that
//! did not. What was proved before those days is no proof within them, and is counted apart.

use azdr_env::WallTime;

/// An attempt to prove a backup.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Region of the copy that was tried.
    pub region: &'a str,
    /// When.
    pub at: WallTime,
    /// Whether it held.
    pub passed: bool,
    /// What was tried: the content was compared.
    pub content: bool,
    /// In words.
    pub detail: &'a str,
}

/// What the attempts say of one backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'a> {
    /// Tried, and the last attempt at every copy that was tried held.
    Passed {
        /// The last attempt.
        at: WallTime,
        /// The content of one of the copies was compared.
        content: bool,
    },
    /// The last attempt at this copy did not hold.
    Failed {
        /// When that was.
        at: WallTime,
        /// Region of the copy.
        region: &'a str,
        /// Why.
        detail: &'a str,
    },
    /// Not tried in these days.
    Unverified {
        /// When it last held before.
        before: Option<WallTime>,
    },
}

/// Judges a backup by the attempts since a time; their order does not matter.
pub fn verdict<'a>(attempts: &[Attempt<'a>], since: WallTime) -> Verdict<'a> {
    let mut within: Vec<Attempt<'a>> = attempts.iter().filter(|a| a.at >= since).copied().collect();
    within.sort_by_key(|a| a.at);
    let is_last = |a: &Attempt<'_>| {
        within.iter().rev().find(|b| b.region == a.region).is_some_and(|b| b.at == a.at)
    };
    let failed = within.iter().rev().filter(|a| is_last(a)).find(|a| !a.passed);
    match (failed, within.last()) {
        (Some(a), _) => Verdict::Failed { at: a.at, region: a.region, detail: a.detail },
        (None, Some(last)) => {
            // What was doubted since counts no more.
            let stands = |n: usize, a: &Attempt<'_>| {
                let mut later = within[n + 1..].iter().filter(|b| b.region == a.region);
                a.passed && a.content && later.all(|b| b.passed)
            };
            let content = within.iter().enumerate().any(|(n, a)| stands(n, a));
            Verdict::Passed { at: last.at, content }
        }
        (None, None) => {
            Verdict::Unverified { before: attempts.iter().filter(|a| a.passed).map(|a| a.at).max() }
        }
    }
}

/// How many backups are what.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// All.
    pub total: u32,
    /// Tried, and good.
    pub passed: u32,
    /// Tried, and not good.
    pub failed: u32,
    /// Not tried in these days, but good when last tried before.
    pub earlier: u32,
    /// Of those that are good: the content was compared.
    pub content: u32,
    /// The last attempt at any of them.
    pub last: Option<WallTime>,
}

impl Summary {
    /// Counts a backup.
    pub fn add(&mut self, verdict: &Verdict<'_>) {
        self.total += 1;
        let at = match verdict {
            Verdict::Passed { at, content } => {
                self.passed += 1;
                self.content += u32::from(*content);
                Some(*at)
            }
            Verdict::Failed { at, .. } => {
                self.failed += 1;
                Some(*at)
            }
            Verdict::Unverified { before } => {
                self.earlier += u32::from(before.is_some());
                None
            }
        };
        self.last = self.last.max(at);
    }

    /// Counts what another counted.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.passed += other.passed;
        self.failed += other.failed;
        self.earlier += other.earlier;
        self.content += other.content;
        self.last = self.last.max(other.last);
    }

    /// Those that were tried.
    pub fn verified(&self) -> u32 {
        self.passed + self.failed
    }

    /// Those that were not.
    pub fn unverified(&self) -> u32 {
        self.total - self.verified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> WallTime {
        WallTime::from_unix_ms(hour * 3_600_000)
    }

    fn attempt(region: &'static str, hour: i64, passed: bool) -> Attempt<'static> {
        Attempt { region, at: at(hour), passed, content: false, detail: "size mismatch" }
    }

    #[test]
    fn the_last_attempt_at_each_copy_counts() {
        let (home, copy) = ("eastus", "westus2");
        let passed = |hour, content| Verdict::Passed { at: at(hour), content };
        let failed =
            |hour, region| Verdict::Failed { at: at(hour), region, detail: "size mismatch" };
        let all = [attempt(home, 1, false), attempt(home, 5, true)];
        assert_eq!(verdict(&all, at(0)), passed(5, false), "mended since");
        let compared = Attempt { content: true, ..attempt(copy, 4, true) };
        let all = [attempt(home, 5, true), compared];
        assert_eq!(verdict(&all, at(0)), passed(5, true), "one of the copies' content");
        assert_eq!(verdict(&all, at(5)), passed(5, false), "not in these days");
        let all = [compared, attempt(copy, 5, false), attempt(copy, 6, true)];
        assert_eq!(verdict(&all, at(0)), passed(6, false), "doubted since");
        let all = [attempt(home, 5, true), attempt(copy, 3, false)];
        assert_eq!(verdict(&all, at(0)), failed(3, copy), "the other copy is no excuse");
        let all = [attempt(home, 5, false), attempt(home, 1, true)];
        assert_eq!(verdict(&all, at(0)), failed(5, home), "in any order");
    }

    #[test]
    fn what_was_proved_earlier_is_counted_apart() {
        let all = [attempt("eastus", 1, true), attempt("eastus", 2, false)];
        assert_eq!(verdict(&all, at(3)), Verdict::Unverified { before: Some(at(1)) });
        assert_eq!(verdict(&all[1..], at(3)), Verdict::Unverified { before: None });
        assert_eq!(verdict(&[], at(3)), Verdict::Unverified { before: None });
        let mut summary = Summary::default();
        for v in [verdict(&all, at(3)), verdict(&all, at(0)), verdict(&[], at(0))] {
            summary.add(&v);
        }
        let mut twice = summary;
        twice.merge(&summary);
        let last = Some(at(2));
        assert_eq!(twice, Summary { total: 6, failed: 2, earlier: 2, last, ..Summary::default() });
        assert_eq!((twice.verified(), twice.unverified()), (2, 4));
    }
}
