//! `--output json`: the interface's messages as JSON documents.
//!
//! A message becomes an object with all its fields under their own names; times in milliseconds
//! (`…_unix_ms`) become RFC 3339 in UTC under `…_at`, or null for "never"; enumerations become short
//! lower-case names, null when unspecified; texts that are empty where nothing is to be said become
//! null. Fields are added, never renamed or removed.

mod alert;
mod forecast;
mod operator;
mod point;
mod policies;
pub(crate) mod preflight;
mod report;
mod status;

use azdr_proto::admin::*;
use serde_json::{Value, json};

pub(crate) use alert::*;
pub(crate) use forecast::*;
pub(crate) use operator::*;
pub(crate) use point::*;
pub(crate) use policies::*;
pub(crate) use report::*;
pub(crate) use status::*;

use crate::{names, quantity};

pub(crate) fn whoami(m: &WhoamiResponse) -> Value {
    json!({
        "operator": m.operator,
        "role": m.role,
        "controller_version": m.controller_version,
        "cloud": m.cloud,
        "subscriptions": m.subscriptions,
        "deletions_held": text(&m.deletions_held),
    })
}

pub(crate) fn vms(m: &ListVmsResponse) -> Value {
    json!({ "vms": list(&m.vms, vm) })
}

fn vm(m: &Vm) -> Value {
    json!({
        "resource_id": m.resource_id,
        "name": m.name,
        "resource_group": m.resource_group,
        "location": m.location,
        "power_state": text(&m.power_state),
        "disks": m.disks,
        "size_bytes": m.size_bytes,
        "protected": m.protected,
        "agent": names::agent_state(m.agent),
        "newest_recovery_point_at": time(m.newest_recovery_point_unix_ms),
        "recovery_points": m.recovery_points,
    })
}

pub(crate) fn agent_token(m: &CreateAgentTokenResponse) -> Value {
    json!({
        "token": m.token,
        "expires_at": time(m.expires_unix_ms),
        "ca_fingerprint": m.ca_fingerprint,
        "enroll_address": m.enroll_address,
        "agent_address": m.agent_address,
        "vm_resource_id": m.vm_resource_id,
    })
}

pub(crate) fn agents(m: &ListAgentsResponse) -> Value {
    json!({ "agents": list(&m.agents, agent) })
}

fn agent(m: &Agent) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "state": names::agent_state(m.state),
        "version": text(&m.version),
        "boot_id": text(&m.boot_id),
        "last_seen_at": time(m.last_seen_unix_ms),
        "certificate_expires_at": time(m.certificate_expires_unix_ms),
        "can_freeze": m.can_freeze,
        "restored_instance": m.restored_instance,
        "quarantined": m.quarantined,
        "instance_vm_id": text(&m.instance_vm_id),
        "preflight_at": time(m.preflight_unix_ms),
        "preflight_ready": (m.preflight_unix_ms != 0).then_some(m.preflight_ready),
        "preflight_problems": m.preflight_problems,
    })
}

pub(crate) fn revoked(m: &RevokeAgentResponse) -> Value {
    json!({ "certificates_revoked": m.certificates_revoked })
}

pub(crate) fn backup_config(m: &BackupConfig) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "enabled": m.enabled,
        "daily_retention": m.daily_retention,
        "weekly_retention": m.weekly_retention,
        "monthly_retention": m.monthly_retention,
        "yearly_retention": m.yearly_retention,
        "target_region": text(&m.target_region),
        "schedule_time": m.schedule_time,
        "time_zone": m.time_zone,
        "consistency": names::consistency_demand(m.consistency),
        "tiers": list(&m.tiers, tier_status),
        "total_recovery_points": m.total_recovery_points,
        "next_run_at": time(m.next_run_unix_ms),
        "tag_written": m.tag_written,
        "tag_problem": text(&m.tag_problem),
        "cost_when_filled": m.cost_when_filled.as_ref().map(monthly_cost),
        "rpo_secs": some(m.rpo_secs),
        "rto_secs": some(m.rto_secs),
        "verify_every_secs": some(m.verify_every_secs),
        "drill_every_secs": some(m.drill_every_secs),
        "origin": text(&m.origin),
        "origin_problem": text(&m.origin_problem),
        "tag_drift": m.tag_drift.as_ref().map(tag_drift),
        "warnings": m.warnings,
        "rpo_objective": m.rpo_objective.as_ref().map(objective),
        "rto_objective": m.rto_objective.as_ref().map(objective),
        "gone_since_at": time(m.gone_since_unix_ms),
    })
}

fn objective(m: &Objective) -> Value {
    json!({
        "target_secs": m.target_secs,
        "by_default": m.by_default,
        "state": names::objective_state(m.state),
        "measured_ms": (m.measured_ms != 0).then_some(m.measured_ms),
        "measured_at": time(m.measured_unix_ms),
    })
}

/// Null for "none" and "never".
fn some(secs: u32) -> Option<u32> {
    (secs != 0).then_some(secs)
}

fn tag_drift(m: &TagDrift) -> Value {
    json!({
        "kind": names::tag_drift(m.kind),
        "words": m.words,
        "since_at": time(m.since_unix_ms),
    })
}

fn tier_status(m: &TierStatus) -> Value {
    json!({
        "tier": names::tier(m.tier),
        "recovery_points": m.recovery_points,
        "last_at": time(m.last_unix_ms),
    })
}

pub(crate) fn recovery_points(m: &ListRecoveryPointsResponse) -> Value {
    json!({ "vm_resource_id": m.vm_resource_id, "points": list(&m.points, recovery_point) })
}

pub(crate) fn recovery_point(m: &RecoveryPoint) -> Value {
    json!({
        "name": m.name,
        "vm_resource_id": m.vm_resource_id,
        "created_at": time(m.created_unix_ms),
        "tiers": list(&m.tiers, |tier| names::tier(*tier).into()),
        "consistency": names::consistency(m.consistency),
        "size_bytes": m.size_bytes,
        "disks": list(&m.disks, recovery_point_disk),
        "proof": names::proof_level(m.proof),
        "proved_at": time(m.proved_unix_ms),
        "proof_failed": m.proof_failed,
        "replicas": list(&m.replicas, replica),
        "region": m.region,
        "consistency_reason": text(&m.consistency_reason),
        "frozen_ms": m.frozen_ms,
        "pins": list(&m.pins, pin),
        "deleting_job_id": (m.deleting_job_id != 0).then_some(m.deleting_job_id),
        "missing_snapshots": m.missing_snapshots,
    })
}

/// `until_at` is null for one that never ends.
fn pin(m: &Pin) -> Value {
    json!({
        "owner": m.owner,
        "since_at": time(m.since_unix_ms),
        "until_at": time(m.until_unix_ms),
        "reason": m.reason,
    })
}

fn recovery_point_disk(m: &RecoveryPointDisk) -> Value {
    json!({
        "lun": m.lun,
        "snapshot_id": m.snapshot_id,
        "size_bytes": m.size_bytes,
        "source_disk_id": m.source_disk_id,
    })
}

fn replica(m: &Replica) -> Value {
    json!({
        "region": m.region,
        "state": names::replica_state(m.state),
        "percent": m.percent,
        "started_at": time(m.started_unix_ms),
        "finished_at": time(m.finished_unix_ms),
    })
}

pub(crate) fn replication_status(m: &ReplicationStatus) -> Value {
    json!({ "vm_resource_id": m.vm_resource_id, "entries": list(&m.entries, replication_entry) })
}

fn replication_entry(m: &ReplicationEntry) -> Value {
    json!({
        "job_id": m.job_id,
        "recovery_point": m.recovery_point,
        "target_region": m.target_region,
        "state": names::replica_state(m.state),
        "percent": m.percent,
        "eta_secs": (m.eta_secs != 0).then_some(m.eta_secs),
        "elapsed_secs": m.elapsed_secs,
        "error": text(&m.error),
        "vm_resource_id": text(&m.vm_resource_id),
        "vm_name": text(&m.vm_name),
        "started_at": time(m.started_unix_ms),
        "finished_at": time(m.finished_unix_ms),
    })
}

pub(crate) fn released(m: &ReleaseRetentionResponse) -> Value {
    json!({
        "was_held": m.was_held,
        "held_since_at": time(m.held_since_unix_ms),
        "reason": text(&m.reason),
    })
}

/// Costs are in US cents per month; null where there is no price.
pub(crate) fn residue(m: &ListResidueResponse) -> Value {
    json!({
        "as_of_at": time(m.as_of_unix_ms),
        "resources": list(&m.resources, residue_resource),
        "others": list(&m.others, other_installation),
        "monthly_cost_usd_cents": m.monthly_cost_usd_cents,
        "prices_as_of": m.prices_as_of,
        "held": text(&m.held),
    })
}

fn residue_resource(m: &ResidueResource) -> Value {
    json!({
        "resource_id": m.resource_id,
        "resource_type": m.resource_type,
        "created_at": time(m.created_unix_ms),
        "monthly_cost_usd_cents": m.monthly_cost_usd_cents,
        "job_id": (m.job_id != 0).then_some(m.job_id),
        "workflow": text(&m.workflow),
        "reason": m.reason,
        "reaped": m.reaped,
        "reaped_after_at": time(m.reaped_after_unix_ms),
        "left_because": text(&m.left_because),
    })
}

fn other_installation(m: &OtherInstallation) -> Value {
    json!({
        "installation": m.installation,
        "resource_type": m.resource_type,
        "resources": m.resources,
    })
}

pub(crate) fn jobs(m: &ListJobsResponse) -> Value {
    json!({ "jobs": list(&m.jobs, job) })
}

pub(crate) fn job(m: &Job) -> Value {
    json!({
        "id": m.id,
        "workflow": m.workflow,
        "state": names::job_state(m.state),
        "vm_resource_id": text(&m.vm_resource_id),
        "vm_name": text(&m.vm_name),
        "created_at": time(m.created_unix_ms),
        "started_at": time(m.started_unix_ms),
        "finished_at": time(m.finished_unix_ms),
        "steps": list(&m.steps, job_step),
        "error": m.error.as_ref().map(job_error),
        "waiting_for": text(&m.waiting_for),
        "result": m.result.as_ref().and_then(|result| result.result.as_ref()).map(job_result),
        "cancel_requested": m.cancel_requested,
        "requested_by": m.requested_by,
        "waiting_for_job": (m.waiting_for_job != 0).then_some(m.waiting_for_job),
        "stuck": m.stuck.as_ref().map(job_stuck),
        "decisions": list(&m.decisions, job_decision),
        "abandoned": m.abandoned.as_ref().map(job_abandoned),
        "note": text(&m.note),
        "items": list(&m.items, job_item),
        "child_of": (m.child_of != 0).then_some(m.child_of),
        "recovery_point": text(&m.recovery_point),
        "waits_for_approval": m.waits_for_approval,
        "would_delete": m.would_delete,
    })
}

fn job_item(m: &JobItem) -> Value {
    json!({
        "name": m.name,
        "job_id": (m.job_id != 0).then_some(m.job_id),
        "state": names::job_state(m.state),
        "started_at": time(m.started_unix_ms),
        "finished_at": time(m.finished_unix_ms),
        "percent": (m.percent >= 0.0).then_some(m.percent),
        "detail": text(&m.detail),
        "error": text(&m.error),
        "rto_ms": (m.rto_ms != 0).then_some(m.rto_ms),
    })
}

fn job_stuck(m: &JobStuck) -> Value {
    json!({
        "going_back": m.going_back,
        "may_undo": m.may_undo,
        "resources": m.resources,
    })
}

fn job_decision(m: &JobDecision) -> Value {
    json!({
        "decided_at": time(m.decided_unix_ms),
        "decision": m.decision,
        "by": m.by,
        "reason": text(&m.reason),
    })
}

fn job_abandoned(m: &JobAbandoned) -> Value {
    json!({
        "by": m.by,
        "reason": m.reason,
        "left": m.left,
        "listed": m.listed,
    })
}

fn job_step(m: &JobStep) -> Value {
    json!({
        "name": m.name,
        "state": names::step_state(m.state),
        "started_at": time(m.started_unix_ms),
        "finished_at": time(m.finished_unix_ms),
        "detail": text(&m.detail),
        "percent": (m.percent >= 0.0).then_some(m.percent),
        "title": m.title,
    })
}

fn job_error(m: &JobError) -> Value {
    json!({
        "kind": m.kind,
        "message": m.message,
        "hint": text(&m.hint),
        "resource": text(&m.resource),
        "azure_request_id": text(&m.azure_request_id),
    })
}

/// An object with one key: which result it is.
fn job_result(m: &job_result::Result) -> Value {
    match m {
        job_result::Result::Backup(m) => json!({ "backup": backup_result(m) }),
        job_result::Result::Replicate(m) => json!({ "replicate": replicate_result(m) }),
        job_result::Result::Verify(m) => json!({ "verify": verify_result(m) }),
        job_result::Result::Restore(m) => json!({ "restore": restore_result(m) }),
        job_result::Result::DrTest(m) => json!({ "dr_test": dr_test_result(m) }),
        job_result::Result::Prune(m) => json!({ "prune": prune_result(m) }),
        job_result::Result::Bulk(m) => json!({ "bulk": bulk_result(m) }),
        job_result::Result::Reap(m) => json!({ "reap": reap_result(m) }),
    }
}

fn backup_result(m: &BackupResult) -> Value {
    json!({
        "point": m.point.as_ref().map(recovery_point),
        "replication_region": text(&m.replication_region),
        "replication_job_id": (m.replication_job_id != 0).then_some(m.replication_job_id),
    })
}

fn replicate_result(m: &ReplicateResult) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "source_region": m.source_region,
        "target_region": m.target_region,
        "size_bytes": m.size_bytes,
    })
}

fn verify_result(m: &VerifyResult) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "region": m.region,
        "disks": list(&m.disks, verified_disk),
        "content": m.content.as_ref().map(content_proof),
    })
}

fn content_proof(m: &ContentProof) -> Value {
    json!({
        "blocks": m.blocks,
        "sampled": m.sampled,
        "equal": m.equal,
        "missed_probability": m.missed_probability,
        "change_per_mille": m.change_per_mille,
        "words": m.words,
        "whole": m.whole,
    })
}

fn verified_disk(m: &VerifiedDisk) -> Value {
    json!({
        "lun": m.lun,
        "expected_bytes": m.expected_bytes,
        "actual_bytes": m.actual_bytes,
        "disk_state": text(&m.disk_state),
        "bytes_read": m.bytes_read,
        "blocks": m.blocks,
        "sampled": m.sampled,
        "equal": m.equal,
    })
}

fn phase(m: &Phase) -> Value {
    json!({ "name": m.name, "millis": m.millis, "ok": m.ok })
}

fn restore_result(m: &RestoreResult) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "vm_resource_id": m.vm_resource_id,
        "rto_ms": (m.rto_ms != 0).then_some(m.rto_ms),
        "phases": list(&m.phases, phase),
        "power_state": text(&m.power_state),
        "witness_verified": m.witness_verified,
        "ssh_verified": m.ssh_verified,
        "unconfirmed": text(&m.unconfirmed),
        "kept_disks": m.kept_disks,
        "region": text(&m.region),
        "rpo_ms": (m.rpo_ms != 0).then_some(m.rpo_ms),
        "evidence": list(&m.evidence, evidence_fact),
    })
}

pub(crate) fn evidence_fact(m: &EvidenceFact) -> Value {
    json!({
        "name": m.name,
        "state": names::evidence_state(m.state),
        "detail": text(&m.detail),
        "looked_at": time(m.looked_unix_ms),
        "required": m.required,
    })
}

fn dr_test_result(m: &DrTestResult) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "region": m.region,
        "passed": m.passed,
        "rto_ms": (m.rto_ms != 0).then_some(m.rto_ms),
        "phases": list(&m.phases, phase),
        "witness_verified": m.witness_verified,
        "ssh_verified": m.ssh_verified,
        "test_vm": text(&m.test_vm),
        "residue": m.residue,
        "evidence": list(&m.evidence, evidence_fact),
    })
}

fn prune_result(m: &PruneResult) -> Value {
    json!({ "deleted": m.deleted, "kept": m.kept, "held": text(&m.held) })
}

fn bulk_result(m: &BulkResult) -> Value {
    json!({
        "what": m.what,
        "total": m.total,
        "succeeded": m.succeeded,
        "failed": m.failed,
        "skipped": list(&m.skipped, skipped_item),
    })
}

fn skipped_item(m: &SkippedItem) -> Value {
    json!({ "name": m.name, "why": m.why })
}

fn reap_result(m: &ReapResult) -> Value {
    json!({ "deleted": m.deleted, "left": m.left })
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Value {
    items.iter().map(one).collect()
}

fn time(unix_ms: i64) -> Value {
    quantity::rfc3339(unix_ms).into()
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Field names of every message, read from the interface itself.
    fn interface() -> BTreeMap<String, Vec<String>> {
        let mut messages = BTreeMap::new();
        let mut current = None;
        for line in include_str!("../../proto/proto/admin.proto").lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("message ") {
                let name = rest.split_whitespace().next().unwrap().to_owned();
                messages.insert(name.clone(), Vec::new());
                current = (!line.ends_with('}')).then_some(name);
            } else if line == "}" {
                current = None;
            } else if let (Some(message), Some((field, _))) = (&current, line.split_once(" = "))
                && !line.starts_with("//")
            {
                let name = field.split_whitespace().last().unwrap().to_owned();
                messages.get_mut(message).unwrap().push(name);
            }
        }
        messages
    }

    #[test]
    fn documents_hold_every_field_of_the_interface() {
        let interface = interface();
        let mut written: Vec<(&str, Value)> = vec![
            ("WhoamiResponse", whoami(&<_>::default())),
            ("ListVmsResponse", vms(&<_>::default())),
            ("Vm", vm(&<_>::default())),
            ("CreateAgentTokenResponse", agent_token(&<_>::default())),
            ("ListAgentsResponse", agents(&<_>::default())),
            ("Agent", agent(&<_>::default())),
            ("RevokeAgentResponse", revoked(&<_>::default())),
            ("BackupConfig", backup_config(&<_>::default())),
            ("Objective", objective(&<_>::default())),
            ("TagDrift", tag_drift(&<_>::default())),
            ("TierStatus", tier_status(&<_>::default())),
            ("ListRecoveryPointsResponse", recovery_points(&<_>::default())),
            ("RecoveryPoint", recovery_point(&<_>::default())),
            ("Pin", pin(&<_>::default())),
            ("RecoveryPointDisk", recovery_point_disk(&<_>::default())),
            ("Replica", replica(&<_>::default())),
            ("ReplicationStatus", replication_status(&<_>::default())),
            ("ReplicationEntry", replication_entry(&<_>::default())),
            ("ListJobsResponse", jobs(&<_>::default())),
            ("Job", job(&<_>::default())),
            ("JobItem", job_item(&<_>::default())),
            ("BulkResult", bulk_result(&<_>::default())),
            ("SkippedItem", skipped_item(&<_>::default())),
            ("JobStuck", job_stuck(&<_>::default())),
            ("JobDecision", job_decision(&<_>::default())),
            ("JobAbandoned", job_abandoned(&<_>::default())),
            ("JobStep", job_step(&<_>::default())),
            ("JobError", job_error(&<_>::default())),
            ("BackupResult", backup_result(&<_>::default())),
            ("ReplicateResult", replicate_result(&<_>::default())),
            ("VerifyResult", verify_result(&<_>::default())),
            ("VerifiedDisk", verified_disk(&<_>::default())),
            ("ContentProof", content_proof(&<_>::default())),
            ("Phase", phase(&<_>::default())),
            ("RestoreResult", restore_result(&<_>::default())),
            ("EvidenceFact", evidence_fact(&<_>::default())),
            ("DrTestResult", dr_test_result(&<_>::default())),
            ("PruneResult", prune_result(&<_>::default())),
            ("ReleaseRetentionResponse", released(&<_>::default())),
            ("ReapResult", reap_result(&<_>::default())),
            ("ListResidueResponse", residue(&<_>::default())),
            ("ResidueResource", residue_resource(&<_>::default())),
            ("OtherInstallation", other_installation(&<_>::default())),
        ];
        written.extend(alert::written());
        written.extend(forecast::written());
        written.extend(operator::written());
        written.extend(point::written());
        written.extend(status::written());
        written.extend(preflight::written());
        written.extend(report::written());
        written.extend(policies::written());
        for (message, document) in &written {
            let mut fields: Vec<String> =
                interface[*message].iter().map(|f| f.replace("_unix_ms", "_at")).collect();
            fields.sort();
            let mut keys: Vec<String> = document.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            assert_eq!(keys, fields, "{message}");
        }
        // Nothing that the controller answers is missing. A plan is shown, and what comes of it is the
        // job.
        let unwritten: Vec<&String> = interface
            .keys()
            .filter(|name| !name.ends_with("Request"))
            .filter(|name| !written.iter().any(|(message, _)| message == name))
            .collect();
        assert_eq!(
            unwritten,
            ["DeletionPlan", "JobResult", "OperatorCertificate", "Outage", "RestorePlan", "VmRef"]
        );
    }
}
