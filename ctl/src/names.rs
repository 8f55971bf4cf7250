//! Short lower-case names of the interface's enumerations, and of VMs.

use azdr_proto::admin::{
    AgentState, AlertSeverity, Consistency, ConsistencyDemand, DrCompliance, EvidenceState,
    HookKind, HookVerb, Job, JobState, KeptUntilKind, NamedPolicyChangeKind, ObjectiveState,
    PolicyDiffKind, PreflightDiskKind, ProofKind, ProofLevel, ReplicaState, StepState,
    TagDriftKind, Tier, VmPolicyChangeKind,
};

macro_rules! short_names {
    ($($function:ident: $type:ident without $prefix:literal;)*) => {$(
        /// None for UNSPECIFIED, and for a value that is newer than this program.
        pub(crate) fn $function(value: i32) -> Option<String> {
            let name = $type::try_from(value).ok()?.as_str_name();
            let short = name.strip_prefix($prefix).unwrap_or(name);
            (short != "UNSPECIFIED").then(|| short.to_ascii_lowercase())
        }
    )*};
}

short_names! {
    alert_severity: AlertSeverity without "ALERT_SEVERITY_";
    agent_state: AgentState without "AGENT_STATE_";
    consistency: Consistency without "CONSISTENCY_";
    consistency_demand: ConsistencyDemand without "CONSISTENCY_DEMAND_";
    dr_compliance: DrCompliance without "DR_COMPLIANCE_";
    hook_kind: HookKind without "HOOK_KIND_";
    hook_verb: HookVerb without "HOOK_VERB_";
    job_state: JobState without "JOB_STATE_";
    kept_until: KeptUntilKind without "KEPT_UNTIL_KIND_";
    named_policy_change: NamedPolicyChangeKind without "NAMED_POLICY_CHANGE_KIND_";
    objective_state: ObjectiveState without "OBJECTIVE_STATE_";
    preflight_disk_kind: PreflightDiskKind without "PREFLIGHT_DISK_KIND_";
    policy_diff: PolicyDiffKind without "POLICY_DIFF_KIND_";
    proof_kind: ProofKind without "PROOF_KIND_";
    proof_level: ProofLevel without "PROOF_LEVEL_";
    replica_state: ReplicaState without "REPLICA_STATE_";
    step_state: StepState without "STEP_STATE_";
    tag_drift: TagDriftKind without "TAG_DRIFT_KIND_";
    tier: Tier without "TIER_";
    vm_policy_change: VmPolicyChangeKind without "VM_POLICY_CHANGE_KIND_";
}

/// What a fact is; one that nobody knows is `unknown`, and not nothing.
pub(crate) fn evidence_state(value: i32) -> &'static str {
    match EvidenceState::try_from(value) {
        Ok(EvidenceState::Pass) => "pass",
        Ok(EvidenceState::Fail) => "fail",
        _ => "unknown",
    }
}

/// For text: a dash where there is no name.
pub(crate) fn or_dash(name: Option<String>) -> String {
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// The last part of an ARM resource ID; of anything else, the thing itself.
pub(crate) fn last_segment(resource_id: &str) -> &str {
    resource_id.rsplit('/').next().unwrap_or(resource_id)
}

/// What a job is about.
pub(crate) fn job_subject(job: &Job) -> &str {
    if job.vm_name.is_empty() { last_segment(&job.vm_resource_id) } else { &job.vm_name }
}

/// A recovery point's name without the part that every point of its VM begins with.
pub(crate) fn short_point<'a>(point: &'a str, vm: &str) -> &'a str {
    let rest = point.strip_prefix(vm).and_then(|rest| rest.strip_prefix("-backup-"));
    rest.unwrap_or(point)
}

/// "backup" or "backups".
pub(crate) fn backups(n: usize) -> &'static str {
    if n == 1 { "backup" } else { "backups" }
}

/// First letter in upper case.
pub(crate) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enumerations_have_short_names_and_unspecified_has_none() {
        assert_eq!(consistency(Consistency::Filesystem as i32).as_deref(), Some("filesystem"));
        assert_eq!(agent_state(AgentState::NotEnrolled as i32).as_deref(), Some("not_enrolled"));
        assert_eq!(proof_level(0).as_deref(), Some("unproved"));
        assert_eq!(tier(0), None);
        assert_eq!(tier(99), None);
    }

    #[test]
    fn only_the_vms_own_prefix_is_cut_from_a_points_name() {
        assert_eq!(short_point("db-backup-daily-20251201-0800", "db"), "daily-20251201-0800");
        assert_eq!(short_point("db2-backup-daily-x", "db"), "db2-backup-daily-x");
    }
}
