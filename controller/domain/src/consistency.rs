//! What consistency a capture achieved, from causal evidence alone (invariant I4).
//!
//! `filesystem` and `application` are recorded only when each snapshot request of this freeze was
//! sent after FROZEN was acknowledged, its success was observed before thaw was asked for, and the
//! agent attests one unbroken freeze over that span. Anything missing or doubtful is `crash` (one
//! disk) or `uncoordinated` (several). So is a point with a disk of which no file system was frozen: it
//! is what its weakest disk is, and between that disk and the others no write order is kept. A disk
//! that nobody uses is not told apart from one that is written to directly, so it counts like any
//! other. Where the agent cannot say of anything that it froze on which disk it is, that lowers nothing, and is
//! said in the reason. Wall clocks play no part: all times here are monotonic, of the controller that ran the
//! capture.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use azdr_env::Monotonic;
use serde::{Deserialize, Serialize};

use crate::policy::ConsistencyDemand;

/// No agent keeps a file system frozen longer than this (invariant I3): a span beyond it was broken,
/// whatever anybody attests.
pub const HOLD_MAXIMUM: Duration = Duration::from_secs(25);

/// How consistent a recovery point is: as achieved, never as wished. Ordered, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Several disks, not frozen: write order across disks is not kept.
    Uncoordinated,
    /// One disk, as after pulling the plug.
    Crash,
    /// Frozen throughout.
    Filesystem,
    /// Frozen throughout, with the applications' hooks.
    Application,
}

impl Consistency {
    const ALL: [Self; 4] = [Self::Uncoordinated, Self::Crash, Self::Filesystem, Self::Application];

    /// The name, as in tags and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uncoordinated => "uncoordinated",
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        }
    }

    /// What a capture of so many disks is without a freeze that can be proved; also what is meant
    /// where a snapshot carries no consistency at all.
    pub const fn without_freeze(disks: usize) -> Self {
        if disks == 1 { Self::Crash } else { Self::Uncoordinated }
    }

    /// Whether this is enough for the policy.
    pub fn satisfies(self, demand: ConsistencyDemand) -> bool {
        match demand {
            ConsistencyDemand::Require => self >= Self::Filesystem,
            ConsistencyDemand::Prefer | ConsistencyDemand::Any => true,
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no consistency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consistency \"{0}\" must be one of uncoordinated, crash, filesystem, application")]
pub struct ConsistencyError(String);

impl FromStr for Consistency {
    type Err = ConsistencyError;

    fn from_str(s: &str) -> Result<Self, ConsistencyError> {
        Self::ALL
            .into_iter()
            .find(|c| c.as_str() == s)
            .ok_or_else(|| ConsistencyError(s.to_owned()))
    }
}

/// All that the controller knows about a capture once it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureEvidence {
    /// How many disks the point has.
    pub disks: usize,
    /// `None`: nobody acknowledged a freeze.
    pub freeze: Option<FreezeEvidence>,
}

/// What happened around a freeze that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeEvidence {
    /// When FROZEN arrived.
    pub frozen_acked_at: Monotonic,
    /// One per snapshot request.
    pub puts: Vec<PutEvidence>,
    /// When thaw was asked for, just before it was sent; `None` when it never was.
    pub thaw_requested_at: Option<Monotonic>,
    /// The agent's answer to the thaw; `None` when it was lost.
    pub agent: Option<ThawAttestation>,
    /// The disks of which no file system was frozen, in words.
    pub disks_left_out: Vec<String>,
    /// The names of those of which it is not known.
    pub disks_unknown: Vec<String>,
}

/// One snapshot request, as seen by the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutEvidence {
    /// Just before the (only) request was sent.
    pub sent_at: Monotonic,
    /// When its operation was seen to have succeeded; `None` when that was not seen in time.
    pub succeeded_at: Option<Monotonic>,
}

/// What the agent says when it has thawed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThawAttestation {
    /// Every file system stayed frozen from FROZEN until this thaw.
    pub unbroken: bool,
    /// Why not, in words.
    pub reason: String,
    /// At least one of the machine's hooks is an application's, all succeeded in all that they had to
    /// do, and what they held was held throughout.
    pub hooks_ran: bool,
    /// Why not, in words; empty when they did, or when there are none.
    pub hooks_problem: String,
}

/// Decides what a capture achieved, and says why in words for people.
pub fn achieved(evidence: &CaptureEvidence) -> (Consistency, String) {
    let lower = Consistency::without_freeze(evidence.disks);
    let Some(freeze) = &evidence.freeze else {
        return (lower, "not frozen".to_owned());
    };
    match doubt(evidence.disks, freeze) {
        Some(doubt) => (lower, doubt),
        None if freeze.agent.as_ref().is_some_and(|a| a.hooks_ran) => {
            let reason = "frozen throughout, with its application hooks".to_owned();
            (Consistency::Application, reason + &unknown(freeze))
        }
        None => (Consistency::Filesystem, without_application(freeze) + &unknown(freeze)),
    }
}

fn unknown(freeze: &FreezeEvidence) -> String {
    match freeze.disks_unknown.as_slice() {
        [] => String::new(),
        disks => {
            let disks = disks.join(", ");
            format!("; the agent does not say whether file systems of {disks} are among the frozen")
        }
    }
}

/// What a freeze is to the applications of a machine that has no hooks of theirs.
const WITHOUT_HOOKS: &str =
    "frozen throughout; no application hook ran: applications are as after a crash";

fn without_application(freeze: &FreezeEvidence) -> String {
    match freeze.agent.as_ref().map_or("", |agent| &agent.hooks_problem) {
        "" => WITHOUT_HOOKS.to_owned(),
        problem => format!("frozen throughout, but not `application`: {problem}"),
    }
}

/// The first reason not to believe that all snapshots were taken within one freeze.
fn doubt(disks: usize, freeze: &FreezeEvidence) -> Option<String> {
    if disks == 0 || freeze.puts.len() != disks {
        let puts = freeze.puts.len();
        return Some(format!("{puts} snapshot requests were recorded for {disks} disks"));
    }
    let Some(thaw_requested_at) = freeze.thaw_requested_at else {
        return Some("the freeze ended before thaw was asked for".to_owned());
    };
    for put in &freeze.puts {
        if put.sent_at < freeze.frozen_acked_at {
            return Some("a snapshot was requested before the freeze was acknowledged".to_owned());
        }
        match put.succeeded_at {
            None => return Some("a snapshot was not seen to succeed before the thaw".to_owned()),
            Some(at) if at > thaw_requested_at => {
                return Some("a snapshot succeeded only after thaw was asked for".to_owned());
            }
            Some(at) if at < put.sent_at => {
                return Some("a snapshot succeeded before it was requested".to_owned());
            }
            Some(_) => {}
        }
    }
    let held = thaw_requested_at.since(freeze.frozen_acked_at);
    if held > HOLD_MAXIMUM {
        let (held, most) = (held.as_millis(), HOLD_MAXIMUM.as_millis());
        return Some(format!("the hold lasted {held} ms, and no freeze lasts more than {most} ms"));
    }
    match &freeze.agent {
        None => Some("the agent's answer to the thaw was lost".to_owned()),
        Some(agent) if !agent.unbroken && agent.reason.is_empty() => {
            Some("the agent does not attest an unbroken freeze".to_owned())
        }
        Some(agent) if !agent.unbroken => {
            Some(format!("the agent does not attest an unbroken freeze: {}", agent.reason))
        }
        Some(_) if !freeze.disks_left_out.is_empty() => Some(freeze.disks_left_out.join("; ")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(ms))
    }

    fn perfect(disks: usize, hooks_ran: bool) -> CaptureEvidence {
        let put = PutEvidence { sent_at: ms(110), succeeded_at: Some(ms(900)) };
        let agent = ThawAttestation {
            unbroken: true,
            reason: String::new(),
            hooks_ran,
            hooks_problem: String::new(),
        };
        let freeze = FreezeEvidence {
            frozen_acked_at: ms(100),
            puts: vec![put; disks],
            thaw_requested_at: Some(ms(950)),
            agent: Some(agent),
            disks_left_out: Vec::new(),
            disks_unknown: Vec::new(),
        };
        CaptureEvidence { disks, freeze: Some(freeze) }
    }

    #[test]
    fn whole_evidence_is_believed() {
        assert_eq!(achieved(&perfect(1, false)).0, Consistency::Filesystem);
        assert_eq!(achieved(&perfect(3, false)).0, Consistency::Filesystem);
        assert_eq!(achieved(&perfect(3, true)).0, Consistency::Application);
    }

    #[test]
    fn a_freeze_without_application_hooks_says_what_it_is_to_applications() {
        let reason = achieved(&perfect(2, false)).1;
        let whole = "frozen throughout; no application hook ran: applications are as after a crash";
        assert_eq!(reason, whole);
        assert!(!achieved(&perfect(2, true)).1.contains("crash"));
    }

    #[test]
    fn hooks_that_did_not_succeed_are_named_and_lower_nothing_else() {
        let mut evidence = perfect(2, false);
        let agent = evidence.freeze.as_mut().unwrap().agent.as_mut().unwrap();
        agent.hooks_problem = "hook 10-db: exit code 1".to_owned();
        let (consistency, reason) = achieved(&evidence);
        assert_eq!(consistency, Consistency::Filesystem);
        assert_eq!(reason, "frozen throughout, but not `application`: hook 10-db: exit code 1");
    }

    #[test]
    fn a_disk_that_the_agent_cannot_place_lowers_nothing_and_is_named() {
        for hooks_ran in [false, true] {
            let mut evidence = perfect(2, hooks_ran);
            let sure = achieved(&evidence);
            evidence.freeze.as_mut().unwrap().disks_unknown = vec!["LUN 0".to_owned()];
            let (consistency, reason) = achieved(&evidence);
            assert_eq!(consistency, sure.0);
            assert_ne!(reason, sure.1);
            assert!(reason.starts_with(&sure.1) && reason.contains("LUN 0"), "{reason}");
        }
    }

    #[test]
    fn without_a_freeze_one_disk_is_crash_and_several_are_uncoordinated() {
        for (disks, expected) in [
            (1, Consistency::Crash),
            (2, Consistency::Uncoordinated),
            (0, Consistency::Uncoordinated),
        ] {
            assert_eq!(achieved(&CaptureEvidence { disks, freeze: None }).0, expected);
        }
    }

    #[test]
    fn any_single_doubt_lowers_it_and_is_named() {
        type Spoil = fn(&mut FreezeEvidence);
        let spoilers: [(&str, Spoil); 11] = [
            ("before the freeze", |f| f.puts[1].sent_at = ms(99)),
            ("not seen to succeed", |f| f.puts[1].succeeded_at = None),
            ("after thaw", |f| f.puts[0].succeeded_at = Some(ms(951))),
            ("before it was requested", |f| f.puts[0].succeeded_at = Some(ms(105))),
            ("1 snapshot requests", |f| f.puts.truncate(1)),
            ("3 snapshot requests", |f| f.puts.push(f.puts[0])),
            ("before thaw was asked", |f| f.thaw_requested_at = None),
            ("the hold lasted 25001 ms", |f| f.thaw_requested_at = Some(ms(25_101))),
            ("was lost", |f| f.agent = None),
            ("LUN 1: none", |f| f.disks_left_out = vec!["LUN 1: none".to_owned()]),
            ("somebody thawed", |f| {
                let reason = "somebody thawed /data".to_owned();
                let whole = f.agent.clone().unwrap();
                f.agent = Some(ThawAttestation { unbroken: false, reason, ..whole });
            }),
        ];
        for (words, spoil) in spoilers {
            let mut evidence = perfect(2, true);
            spoil(evidence.freeze.as_mut().unwrap());
            let (consistency, reason) = achieved(&evidence);
            assert_eq!(consistency, Consistency::Uncoordinated, "{words}");
            assert!(reason.contains(words), "{reason:?} lacks {words:?}");
        }
    }

    #[test]
    fn only_require_refuses_what_was_not_frozen() {
        for consistency in Consistency::ALL {
            let frozen = consistency >= Consistency::Filesystem;
            assert_eq!(consistency.satisfies(ConsistencyDemand::Require), frozen);
            assert!(consistency.satisfies(ConsistencyDemand::Prefer));
            assert_eq!(consistency.to_string().parse::<Consistency>().unwrap(), consistency);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn frozen_is_said_only_with_the_whole_causal_chain(
            disks in 0..4usize,
            acked in 0..30u64,
            puts in prop::collection::vec((0..60u64, prop::option::of(0..60u64)), 0..4),
            thaw in prop::option::of(0..60u64),
            unbroken in prop::option::of(any::<bool>()),
            left_out in any::<bool>(),
        ) {
            let evidence = CaptureEvidence {
                disks,
                freeze: Some(FreezeEvidence {
                    frozen_acked_at: ms(acked),
                    puts: puts
                        .iter()
                        .map(|(s, d)| PutEvidence { sent_at: ms(*s), succeeded_at: d.map(ms) })
                        .collect(),
                    thaw_requested_at: thaw.map(ms),
                    agent: unbroken.map(|unbroken| ThawAttestation {
                        unbroken,
                        reason: String::new(),
                        hooks_ran: false,
                        hooks_problem: String::new(),
                    }),
                    disks_left_out: vec!["LUN 1".to_owned(); usize::from(left_out)],
                    disks_unknown: Vec::new(),
                }),
            };
            let chain = puts.len() == disks
                && disks > 0
                && unbroken == Some(true)
                && !left_out
                && thaw.is_some_and(|thaw| {
                    puts.iter().all(|(s, d)| acked <= *s && d.is_some_and(|d| *s <= d && d <= thaw))
                });
            prop_assert_eq!(achieved(&evidence).0 >= Consistency::Filesystem, chain);
        }
    }
}
