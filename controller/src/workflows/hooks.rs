//! What a machine's own hooks did in a capture: as its agent says it, cut to what is worth keeping.
//!
//! An agent is believed about its own machine, but not about how much there is to keep.

use azdr_domain::capture_record::{HookKind, HookRecord, HookRunRecord, HookVerb};
use azdr_domain::consistency::ThawAttestation;
use azdr_proto::agent::{self, HookResult, HookRun, ThawReply};

use crate::fleet::FleetError;

const MAX_HOOKS: usize = 32;
const MAX_RUNS: usize = 3;
const MAX_NAME: usize = 64;
const MAX_WORDS: usize = 500;
const MAX_OUTPUT: usize = 1_024;

/// What is kept of them.
pub(super) fn records(hooks: &[HookResult]) -> Vec<HookRecord> {
    hooks.iter().take(MAX_HOOKS).map(record).collect()
}

/// Completes the attestation by what was said when the hooks had ended, and answers what is kept of
/// them. Anything but that answer means that they are not known to have succeeded.
pub(super) fn ended(
    agent: &mut ThawAttestation,
    thawed: Result<ThawReply, FleetError>,
) -> Vec<HookRecord> {
    let problem = match thawed {
        Ok(reply) if reply.hooks_pending => "its hooks had not ended in time".to_owned(),
        // It was started again meanwhile, and knows nothing of this operation.
        Ok(reply) if agent.unbroken && !reply.unbroken => {
            format!("the end of its hooks was not heard: {}", cut(&reply.reason, MAX_WORDS))
        }
        Ok(reply) => {
            agent.hooks_ran = reply.hooks_succeeded;
            agent.hooks_problem = cut(&reply.hooks_problem, MAX_WORDS);
            return records(&reply.hooks);
        }
        Err(error) => format!("the end of its hooks was not heard: {error}"),
    };
    agent.hooks_ran = false;
    agent.hooks_problem = problem;
    Vec::new()
}

fn record(hook: &HookResult) -> HookRecord {
    HookRecord {
        name: cut(&hook.name, MAX_NAME),
        kind: match hook.kind() {
            agent::HookKind::Hold => HookKind::Hold,
            agent::HookKind::Oneshot | agent::HookKind::Unspecified => HookKind::Oneshot,
        },
        application: hook.application,
        runs: hook.runs.iter().take(MAX_RUNS).filter_map(run).collect(),
        problem: cut(&hook.problem, MAX_WORDS),
        check: hook.check,
    }
}

/// `None`: a verb that this version does not know.
fn run(run: &HookRun) -> Option<HookRunRecord> {
    let verb = match run.verb() {
        agent::HookVerb::Pre => HookVerb::Pre,
        agent::HookVerb::Post => HookVerb::Post,
        agent::HookVerb::Abort => HookVerb::Abort,
        agent::HookVerb::Unspecified | agent::HookVerb::Check => return None,
    };
    Some(HookRunRecord {
        verb,
        end: cut(&run.end, MAX_WORDS),
        succeeded: run.succeeded,
        exit_code: run.exit_code,
        took_ms: run.took_ms,
        output: cut(&run.output, MAX_OUTPUT),
        in_cgroup: run.in_cgroup,
        left_behind: run.left_behind,
    })
}

/// At most so many bytes of a text, from its start.
pub(super) fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation() -> ThawAttestation {
        ThawAttestation {
            unbroken: true,
            reason: String::new(),
            hooks_ran: false,
            hooks_problem: String::new(),
        }
    }

    #[test]
    fn an_agent_that_says_too_much_is_cut_short() {
        let long = "ä".repeat(100_000);
        let run =
            HookRun { output: long.clone(), end: long.clone(), verb: 1, ..HookRun::default() };
        let unknown = HookRun { verb: 77, ..HookRun::default() };
        let hook = HookResult {
            name: long.clone(),
            problem: long,
            runs: vec![unknown, run.clone(), run.clone(), run],
            ..HookResult::default()
        };
        let kept = records(&vec![hook; 100]);
        assert_eq!(kept.len(), MAX_HOOKS);
        assert_eq!((kept[0].name.len(), kept[0].runs.len()), (MAX_NAME, 2));
        assert_eq!(kept[0].runs[0].output.len(), MAX_OUTPUT);
    }

    #[test]
    fn only_the_answer_after_their_end_says_that_hooks_succeeded() {
        let good = ThawReply { unbroken: true, hooks_succeeded: true, ..ThawReply::default() };
        let mut agent = attestation();
        ended(&mut agent, Ok(good.clone()));
        assert_eq!((agent.hooks_ran, agent.hooks_problem.as_str()), (true, ""));
        let restarted = ThawReply { reason: "nothing was frozen".to_owned(), ..Default::default() };
        let failed = ThawReply {
            hooks_succeeded: false,
            hooks_problem: "hook 10-db: exit code 1".to_owned(),
            ..good.clone()
        };
        for (answer, words) in [
            (Ok(ThawReply { hooks_pending: true, ..good }), "in time"),
            (Ok(restarted), "nothing was frozen"),
            (Ok(failed), "exit code 1"),
            (Err(FleetError::Disconnected), "connection ended"),
        ] {
            let mut agent = attestation();
            ended(&mut agent, answer);
            assert!(!agent.hooks_ran && agent.hooks_problem.contains(words), "{agent:?}");
            assert!(agent.unbroken, "the freeze itself is not in doubt");
        }
    }
}
