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
    })
}

fn disk_capture(m: &DiskCapture) -> Value {
    json!({
        "lun": m.lun,
        "asked_ms": m.asked_ms,
        "done_ms": m.done_ms,
        "frozen_ms": m.frozen_ms,
    })
}

fn file_system_freeze(m: &FileSystemFreeze) -> Value {
    json!({
        "mount_point": m.mount_point,
        "frozen_from_at": time(m.frozen_from_unix_ms),
        "frozen_ms": m.frozen_ms,
        "thawed_by_agent": m.thawed_by_agent,
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
        ("PointSnapshot", point_snapshot(&<_>::default())),
        ("CaptureRecord", capture_record(&<_>::default())),
        ("DiskCapture", disk_capture(&<_>::default())),
        ("FileSystemFreeze", file_system_freeze(&<_>::default())),
        ("Proof", proof(&<_>::default())),
        ("PointLease", point_lease(&<_>::default())),
    ]
}
