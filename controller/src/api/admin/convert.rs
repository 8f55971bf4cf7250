//! Catalogue rows and journals to API messages.

use azdr_domain::consistency::Consistency;
use azdr_domain::cost::MonthlyCost;
use azdr_domain::forecast::Fate;
use azdr_domain::policy_tag::DriftKind;
use azdr_domain::recovery_point::ProofLevel;
use azdr_domain::retention::{HoldKind, KeepReason};
use azdr_domain::tier::{Tier, TierSet};
use azdr_env::WallTime;
use azdr_proto::admin::{self as api, Job, JobError, JobResult, JobStep, StepState};
use serde_json::Value;

use crate::store::{Item, PointRow, ReplicaRow, ReplicaState, RunRow, RunState, TagDrift};
use crate::workflow::{Definition, History, Situation, StepProgress, StepRecord, Way};
use crate::workflows::Services;

pub(super) fn tier(tier: Tier) -> api::Tier {
    match tier {
        Tier::Daily => api::Tier::Daily,
        Tier::Weekly => api::Tier::Weekly,
        Tier::Monthly => api::Tier::Monthly,
        Tier::Yearly => api::Tier::Yearly,
    }
}

pub(super) fn tier_from(tier: api::Tier) -> Option<Tier> {
    match tier {
        api::Tier::Unspecified => None,
        api::Tier::Daily => Some(Tier::Daily),
        api::Tier::Weekly => Some(Tier::Weekly),
        api::Tier::Monthly => Some(Tier::Monthly),
        api::Tier::Yearly => Some(Tier::Yearly),
    }
}

fn ms(at: Option<WallTime>) -> i64 {
    at.map_or(0, WallTime::unix_ms)
}

pub(super) fn replica_state(state: ReplicaState) -> api::ReplicaState {
    match state {
        ReplicaState::Queued => api::ReplicaState::Queued,
        ReplicaState::Copying => api::ReplicaState::Copying,
        ReplicaState::Complete => api::ReplicaState::Complete,
        ReplicaState::Failed => api::ReplicaState::Failed,
    }
}

/// How a point's copy stands, by what is known of Azure.
pub(super) fn shown_state(point: &PointRow, replica: &ReplicaRow) -> api::ReplicaState {
    match replica.state {
        ReplicaState::Complete if point.is_missing_in(&replica.region) => {
            api::ReplicaState::Missing
        }
        state => replica_state(state),
    }
}

pub(super) fn tiers(tiers: TierSet) -> Vec<i32> {
    tiers.iter().map(|t| tier(t).into()).collect()
}

pub(super) fn monthly_cost(cost: MonthlyCost) -> api::MonthlyCost {
    api::MonthlyCost {
        recovery_points: cost.points,
        bytes: cost.bytes,
        storage_usd_cents: cost.storage_cents,
        copy_usd_cents: cost.copy_cents,
        total_usd_cents: cost.cents(),
    }
}

pub(super) fn tag_drift(seen: &TagDrift) -> api::TagDrift {
    let kind = match seen.drift.kind {
        DriftKind::Missing => api::TagDriftKind::Missing,
        DriftKind::Edited => api::TagDriftKind::Edited,
        DriftKind::Foreign => api::TagDriftKind::Foreign,
        DriftKind::Newer => api::TagDriftKind::Newer,
        DriftKind::Corrupt => api::TagDriftKind::Corrupt,
    };
    api::TagDrift {
        kind: kind.into(),
        words: seen.drift.words.clone(),
        since_unix_ms: seen.since.unix_ms(),
    }
}

pub(super) fn keep_reason(reason: &KeepReason) -> api::KeepReason {
    let mut shown = api::KeepReason { text: reason.to_string(), ..api::KeepReason::default() };
    shown.kind = match reason {
        KeepReason::Slot { period, rank, of } => {
            shown.tier = tier(period.tier).into();
            shown.period = period.to_string();
            (shown.rank, shown.of) = (rank.unwrap_or(0), *of);
            "slot"
        }
        KeepReason::NewestRestorable => "newest_restorable",
        KeepReason::NewestProved(_) => "newest_proved",
        KeepReason::Held { kind, owner, until, .. } => {
            shown.owner.clone_from(owner);
            shown.until_unix_ms = ms(*until);
            match kind {
                HoldKind::Lease => "lease",
                HoldKind::Pin => "pin",
                HoldKind::Lock => "lock",
            }
        }
        KeepReason::Lineage(_) => "lineage",
        KeepReason::CopyKept(_) => "copy_kept",
        KeepReason::FutureDated => "future_dated",
        KeepReason::NoTier => "no_tier",
        KeepReason::NothingRestorable => "nothing_restorable",
        KeepReason::NoPolicy => "no_policy",
        KeepReason::PolicyOff => "policy_off",
    }
    .to_owned();
    shown
}

pub(super) fn kept_until(fate: &Fate) -> api::KeptUntil {
    let (kind, at, reason) = match fate {
        Fate::Deleted { at, reason } => (api::KeptUntilKind::Run, Some(*at), reason.to_string()),
        Fate::Later(than) => (api::KeptUntilKind::Beyond, Some(*than), String::new()),
        Fate::NotOnSchedule(why) => (api::KeptUntilKind::NotOnSchedule, None, why.to_string()),
        Fate::ForEver(why) => (api::KeptUntilKind::Forever, None, why.to_string()),
    };
    api::KeptUntil { kind: kind.into(), until_unix_ms: ms(at), reason }
}

pub(super) fn consistency(achieved: Consistency) -> api::Consistency {
    match achieved {
        Consistency::Application => api::Consistency::Application,
        Consistency::Filesystem => api::Consistency::Filesystem,
        Consistency::Crash => api::Consistency::Crash,
        Consistency::Uncoordinated => api::Consistency::Uncoordinated,
    }
}

/// `copied`: how far the copies are that are under way, by region.
pub(super) fn point(
    row: &PointRow,
    item: &Item,
    now: WallTime,
    copied: impl Fn(&ReplicaRow) -> f64,
) -> api::RecoveryPoint {
    let (proof, proved) = row.proof();
    api::RecoveryPoint {
        name: row.name.to_string(),
        vm_resource_id: item.arm_id.to_string(),
        created_unix_ms: row.created.unix_ms(),
        tiers: row.tiers.iter().map(|t| tier(t).into()).collect(),
        consistency: consistency(row.consistency).into(),
        size_bytes: row.size_bytes,
        disks: row
            .snapshots_in(&row.region)
            .into_iter()
            .map(|s| api::RecoveryPointDisk {
                lun: s.lun.map_or(-1, |n| n as i32),
                snapshot_id: s.id.to_string(),
                size_bytes: s.size_bytes,
                source_disk_id: s.source_disk.to_string(),
            })
            .collect(),
        proof: match proof {
            ProofLevel::Unproved => api::ProofLevel::Unproved,
            ProofLevel::Restorable => api::ProofLevel::Restorable,
            ProofLevel::Booted => api::ProofLevel::Booted,
            ProofLevel::Content => api::ProofLevel::Content,
        }
        .into(),
        proved_unix_ms: ms(proved),
        proof_failed: row.proof_failed(),
        replicas: row
            .replicas
            .iter()
            .map(|r| api::Replica {
                region: r.region.clone(),
                state: shown_state(row, r).into(),
                percent: if r.state == ReplicaState::Complete { 100.0 } else { copied(r) },
                started_unix_ms: r.started.unix_ms(),
                finished_unix_ms: ms(r.finished),
            })
            .collect(),
        region: row.region.clone(),
        consistency_reason: row.consistency_reason.clone(),
        frozen_ms: row.frozen_ms as u32,
        pins: row
            .pins
            .iter()
            .filter(|p| p.holds(now))
            .map(|p| api::Pin {
                owner: p.owner.clone(),
                since_unix_ms: p.since.unix_ms(),
                until_unix_ms: ms(p.until),
                reason: p.reason.clone(),
            })
            .collect(),
        deleting_job_id: row.deleted_by.map_or(0, |run| run.0),
        missing_snapshots: row
            .snapshots
            .iter()
            .filter(|s| s.missing.is_some())
            .map(|s| s.id.to_string())
            .collect(),
    }
}

pub(super) fn job_state(state: RunState) -> api::JobState {
    match state {
        RunState::Queued => api::JobState::Queued,
        RunState::Running => api::JobState::Running,
        RunState::Undoing => api::JobState::Undoing,
        RunState::Stuck => api::JobState::Stuck,
        RunState::Succeeded => api::JobState::Succeeded,
        RunState::Failed => api::JobState::Failed,
        RunState::Cancelled => api::JobState::Cancelled,
    }
}

pub(super) fn job_state_from(state: api::JobState) -> Option<RunState> {
    Some(match state {
        api::JobState::Unspecified => return None,
        api::JobState::Queued => RunState::Queued,
        api::JobState::Running => RunState::Running,
        api::JobState::Undoing => RunState::Undoing,
        api::JobState::Stuck => RunState::Stuck,
        api::JobState::Succeeded => RunState::Succeeded,
        api::JobState::Failed => RunState::Failed,
        api::JobState::Cancelled => RunState::Cancelled,
    })
}

/// A run's row; steps and result are added by the caller.
pub(super) fn job(row: &RunRow, item: Option<&Item>) -> Job {
    Job {
        id: row.id.0,
        workflow: row.workflow.clone(),
        state: job_state(row.state).into(),
        vm_resource_id: item.map(|i| i.arm_id.to_string()).unwrap_or_default(),
        vm_name: item.map(|i| i.arm_id.name().to_owned()).unwrap_or_default(),
        created_unix_ms: row.created.unix_ms(),
        started_unix_ms: ms(row.started),
        finished_unix_ms: ms(row.finished),
        steps: Vec::new(),
        error: row.error.as_ref().filter(|_| row.state != RunState::Succeeded).map(job_error),
        waiting_for: row.waiting_for.clone().unwrap_or_default(),
        result: None,
        cancel_requested: row.cancel_requested,
        requested_by: row.requested_by.clone(),
        // One that waits for approval waits for itself.
        waiting_for_job: row.waiting_for_job.filter(|id| *id != row.id).map_or(0, |id| id.0),
        waits_for_approval: row.state == RunState::Queued && row.waiting_for_job == Some(row.id),
        would_delete: list(&row.input["asked"], "parts")
            .filter_map(|part| Some(format!("{} ({})", part[0].as_str()?, part[1].as_str()?)))
            .collect(),
        stuck: None,
        decisions: Vec::new(),
        abandoned: row.result.as_ref().and_then(abandoned),
        note: String::new(),
        items: Vec::new(),
        child_of: row.parent.map_or(0, |id| id.0),
        recovery_point: match text(&row.input, "point") {
            none if none.is_empty() => text(&row.input["chosen"], "point"),
            point => point,
        },
    }
}

pub(super) fn stuck(situation: Situation) -> api::JobStuck {
    api::JobStuck {
        going_back: situation.way == Way::Back,
        may_undo: situation.may_undo,
        resources: situation.resources,
    }
}

pub(super) fn decision((at, decision): &(WallTime, Value)) -> api::JobDecision {
    api::JobDecision {
        decided_unix_ms: at.unix_ms(),
        decision: text(decision, "decision"),
        by: text(decision, "by"),
        reason: text(decision, "reason"),
    }
}

fn abandoned(result: &Value) -> Option<api::JobAbandoned> {
    let abandoned = result.get("abandoned")?;
    Some(api::JobAbandoned {
        by: text(abandoned, "by"),
        reason: text(abandoned, "reason"),
        left: texts(abandoned, "left"),
        listed: flag(abandoned, "listed"),
    })
}

fn job_error(error: &Value) -> JobError {
    JobError {
        kind: text(error, "kind"),
        message: text(error, "message"),
        hint: text(error, "hint"),
        resource: text(error, "resource"),
        azure_request_id: text(error, "azure_request_id"),
    }
}

/// What became of each step, in the order of the step list.
pub(super) fn steps(
    definition: &Definition<Services>,
    history: &History,
    progress: &std::collections::BTreeMap<(String, String), StepProgress>,
) -> Vec<JobStep> {
    definition
        .steps()
        .map(|(name, title)| {
            let records: Vec<(&str, &StepRecord)> = history.records_of(name).collect();
            let items = history.items(name).map(<[_]>::len);
            let running = progress
                .iter()
                .filter(|((step, item), _)| {
                    // What is said of the whole step counts while any of its items is open.
                    let same = |i: &str| i == item || item.is_empty();
                    let open = |(i, r): &(&str, &StepRecord)| same(i) && r.done.is_none();
                    step == name && records.iter().any(open)
                })
                .map(|(_, p)| p);
            let slowest = running.min_by(|a, b| {
                let percent = |p: &StepProgress| p.percent.unwrap_or(0.0);
                percent(a).total_cmp(&percent(b))
            });
            let state = step_state(&records, items);
            JobStep {
                name: name.to_owned(),
                title: title.to_owned(),
                state: state.into(),
                started_unix_ms: ms(records.iter().filter_map(|(_, r)| r.started).min()),
                finished_unix_ms: match state {
                    StepState::Done | StepState::Undone => ms(records
                        .iter()
                        .filter_map(|(_, r)| r.undone.or(r.done.as_ref().map(|d| d.0)))
                        .max()),
                    _ => 0,
                },
                detail: slowest.map(|p| p.detail.clone()).unwrap_or_default(),
                percent: slowest.and_then(|p| p.percent).unwrap_or(-1.0),
            }
        })
        .collect()
}

fn step_state(records: &[(&str, &StepRecord)], items: Option<usize>) -> StepState {
    let all = |f: fn(&StepRecord) -> bool| records.iter().all(|(_, r)| f(r));
    let any = |f: fn(&StepRecord) -> bool| records.iter().any(|(_, r)| f(r));
    if records.is_empty() {
        // An `each` over nothing is done as soon as its list is fixed.
        return if items == Some(0) { StepState::Done } else { StepState::Pending };
    }
    if any(|r| r.failed.is_some()) {
        return StepState::Failed;
    }
    if all(|r| r.undone.is_some()) {
        return StepState::Undone;
    }
    let complete = items.is_none_or(|n| n == records.len());
    if complete && all(|r| r.done.is_some()) { StepState::Done } else { StepState::Running }
}

/// A run's stored result. A backup's needs its point, which the caller looks up.
pub(super) fn result(value: &Value, point: Option<api::RecoveryPoint>) -> Option<JobResult> {
    let (kind, r) = value.as_object()?.iter().find(|(kind, _)| *kind != "abandoned")?;
    let result = match kind.as_str() {
        "backup" => api::job_result::Result::Backup(api::BackupResult {
            point,
            replication_region: text(r, "replication_region"),
            replication_job_id: r["replication_job_id"].as_i64().unwrap_or(0),
        }),
        "replicate" => api::job_result::Result::Replicate(api::ReplicateResult {
            recovery_point: text(r, "recovery_point"),
            source_region: text(r, "source_region"),
            target_region: text(r, "target_region"),
            size_bytes: number(r, "size_bytes"),
        }),
        "verify" => api::job_result::Result::Verify(api::VerifyResult {
            recovery_point: text(r, "recovery_point"),
            region: text(r, "region"),
            disks: list(r, "disks")
                .map(|d| api::VerifiedDisk {
                    lun: d["lun"].as_i64().map_or(-1, |n| n as i32),
                    expected_bytes: number(d, "expected_bytes"),
                    actual_bytes: number(d, "actual_bytes"),
                    disk_state: text(d, "disk_state"),
                    bytes_read: number(d, "bytes_read"),
                    blocks: d["content"]["blocks"].as_u64(),
                    sampled: d["content"]["sampled"].as_u64(),
                    equal: d["content"]["equal"].as_u64(),
                })
                .collect(),
            content: r["content"].is_object().then(|| {
                let c = &r["content"];
                api::ContentProof {
                    blocks: number(c, "blocks"),
                    sampled: number(c, "sampled"),
                    equal: number(c, "equal"),
                    missed_probability: c["missed_probability"].as_f64().unwrap_or(1.0),
                    change_per_mille: number(c, "change_per_mille") as u32,
                    words: text(c, "words"),
                    whole: flag(c, "whole"),
                }
            }),
        }),
        "restore" => api::job_result::Result::Restore(api::RestoreResult {
            evidence: evidence(r),
            recovery_point: text(r, "recovery_point"),
            vm_resource_id: text(r, "vm_resource_id"),
            rto_ms: number(r, "rto_ms"),
            phases: phases(r),
            power_state: text(r, "power_state"),
            witness_verified: flag(r, "witness_verified"),
            ssh_verified: flag(r, "ssh_verified"),
            unconfirmed: text(r, "unconfirmed"),
            kept_disks: texts(r, "kept_disks"),
            region: text(r, "region"),
            rpo_ms: number(r, "rpo_ms"),
        }),
        "dr_test" => api::job_result::Result::DrTest(api::DrTestResult {
            evidence: evidence(r),
            recovery_point: text(r, "recovery_point"),
            region: text(r, "region"),
            passed: flag(r, "passed"),
            rto_ms: number(r, "rto_ms"),
            phases: phases(r),
            witness_verified: flag(r, "witness_verified"),
            ssh_verified: flag(r, "ssh_verified"),
            test_vm: text(r, "test_vm"),
            residue: texts(r, "residue"),
        }),
        "prune" => api::job_result::Result::Prune(api::PruneResult {
            deleted: texts(r, "deleted"),
            kept: number(r, "kept") as u32,
            held: text(r, "held"),
        }),
        "bulk" => api::job_result::Result::Bulk(api::BulkResult {
            what: text(r, "what"),
            total: number(r, "total") as u32,
            succeeded: number(r, "succeeded") as u32,
            failed: number(r, "failed") as u32,
            skipped: list(r, "skipped")
                .map(|s| api::SkippedItem { name: text(s, "name"), why: text(s, "why") })
                .collect(),
        }),
        "reap" => api::job_result::Result::Reap(api::ReapResult {
            deleted: texts(r, "deleted"),
            left: texts(r, "left"),
        }),
        _ => return None,
    };
    Some(JobResult { result: Some(result) })
}

fn phases(r: &Value) -> Vec<api::Phase> {
    list(r, "phases")
        .map(|p| api::Phase {
            name: text(p, "name"),
            millis: number(p, "millis"),
            ok: flag(p, "ok"),
        })
        .collect()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or(false)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    list(value, key).filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// What a run's result says of the machine that it made.
pub(super) fn evidence(result: &Value) -> Vec<api::EvidenceFact> {
    use azdr_domain::machine_evidence::{Fact, FactState};
    let facts: Vec<Fact> = serde_json::from_value(result["evidence"].clone()).unwrap_or_default();
    let fact = |fact: Fact| api::EvidenceFact {
        name: fact.name,
        state: match fact.state {
            FactState::Pass => api::EvidenceState::Pass,
            FactState::Fail => api::EvidenceState::Fail,
            FactState::Unknown => api::EvidenceState::Unspecified,
        }
        .into(),
        detail: fact.detail,
        looked_unix_ms: fact.at_unix_ms,
        required: fact.required,
    };
    facts.into_iter().map(fact).collect()
}
