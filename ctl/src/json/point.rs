//! One recovery point in full, as JSON.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{evidence_fact, list, recovery_point, region_explanation, text, time};
use crate::names;

pub(crate) fn point_details(m: &PointDetails) -> Value {
    json!({
        "point": m.point.as_ref().map(recovery_point),
        "vm_name": m.vm_name,
        "vm_size": text(&m.vm_size),
        "job_id": m.job_id,
        "requested_by": text(&m.requested_by),
        "operation_id": text(&m.operation_id),
        "has_witness": m.has_witness,
        "snapshots": list(&m.snapshots, point_snapshot),
        "capture": m.capture.as_ref().map(capture_record),
        "proofs": list(&m.proofs, proof),
        "leases": list(&m.leases, point_lease),
        "regions": list(&m.regions, region_explanation),
        "deletions_held": text(&m.deletions_held),
        "content_hashes": list(&m.content_hashes, hashed_disk),
    })
}

fn hashed_disk(m: &HashedDisk) -> Value {
    json!({
        "lun": m.lun,
        "blocks": m.blocks,
        "sampled": m.sampled,
        "taken_at": time(m.taken_unix_ms),
        "job_id": m.job_id,
        "problem": text(&m.problem),
        "span_bytes": (m.span_bytes != 0).then_some(m.span_bytes),
        "spans": (m.span_bytes != 0).then_some(m.spans),
    })
}

fn point_snapshot(m: &PointSnapshot) -> Value {
    json!({
        "region": m.region,
        "lun": m.lun,
        "snapshot_id": m.snapshot_id,
        "source_disk_id": m.source_disk_id,
        "size_bytes": m.size_bytes,
    })
}

fn capture_record(m: &CaptureRecord) -> Value {
    json!({
        "disks": list(&m.disks, disk_capture),
        "file_systems": list(&m.file_systems, file_system_freeze),
        "thaw_asked_ms": m.thaw_asked_ms,
        "unbroken": m.unbroken,
        "not_frozen": list(&m.not_frozen, file_system_not_frozen),
        "hooks": list(&m.hooks, hook_record),
    })
}

fn hook_record(m: &HookRecord) -> Value {
    json!({
        "name": m.name,
        "kind": names::hook_kind(m.kind),
        "application": m.application,
        "check": m.check,
        "runs": list(&m.runs, hook_run),
        "problem": text(&m.problem),
    })
}

fn hook_run(m: &HookRun) -> Value {
    json!({
        "verb": names::hook_verb(m.verb),
        "end": m.end,
        "succeeded": m.succeeded,
        "exit_code": m.exit_code,
        "took_ms": m.took_ms,
        "output": text(&m.output),
        "in_cgroup": m.in_cgroup,
        "left_behind": m.left_behind,
    })
}

fn disk_capture(m: &DiskCapture) -> Value {
    json!({
        "lun": m.lun,
        "asked_ms": m.asked_ms,
        "done_ms": m.done_ms,
        "frozen_ms": m.frozen_ms,
        "level": names::consistency(m.level),
        "reason": text(&m.reason),
    })
}

fn file_system_freeze(m: &FileSystemFreeze) -> Value {
    json!({
        "mount_point": m.mount_point,
        "frozen_from_at": time(m.frozen_from_unix_ms),
        "frozen_ms": m.frozen_ms,
        "thawed_by_agent": m.thawed_by_agent,
        "file_system_type": text(&m.file_system_type),
        "device": text(&m.device),
        "canary_blocked": m.canary_blocked,
        "canary_released_ms": m.canary_released_ms,
        "canary_released_by_thaw": m.canary_released_by_thaw,
        "level": names::consistency(m.level),
        "reason": text(&m.reason),
        "note": text(&m.note),
        "disks": m.disks,
    })
}

fn file_system_not_frozen(m: &FileSystemNotFrozen) -> Value {
    json!({
        "mount_point": m.mount_point,
        "file_system_type": m.file_system_type,
        "device": m.device,
        "reason": m.reason,
        "disks": m.disks,
    })
}

fn proof(m: &Proof) -> Value {
    json!({
        "job_id": m.job_id,
        "region": m.region,
        "level": names::proof_level(m.level),
        "passed": m.passed,
        "tried_at": time(m.tried_unix_ms),
        "detail": text(&m.detail),
        "evidence": list(&m.evidence, evidence_fact),
    })
}

fn point_lease(m: &PointLease) -> Value {
    json!({ "job_id": m.job_id, "workflow": m.workflow, "requested_by": m.requested_by })
}

#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("PointDetails", point_details(&<_>::default())),
        ("HashedDisk", hashed_disk(&<_>::default())),
        ("PointSnapshot", point_snapshot(&<_>::default())),
        ("CaptureRecord", capture_record(&<_>::default())),
        ("HookRecord", hook_record(&<_>::default())),
        ("HookRun", hook_run(&<_>::default())),
        ("DiskCapture", disk_capture(&<_>::default())),
        ("FileSystemFreeze", file_system_freeze(&<_>::default())),
        ("FileSystemNotFrozen", file_system_not_frozen(&<_>::default())),
        ("Proof", proof(&<_>::default())),
        ("PointLease", point_lease(&<_>::default())),
    ]
}
