//! Preflights, as JSON.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, time};
use crate::names;

pub(crate) fn preflight(m: &Preflight) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "taken_at": time(m.taken_unix_ms),
        "took_ms": m.took_ms,
        "ready": m.ready,
        "problems": m.problems,
        "passing": m.passing,
        "file_systems": list(&m.file_systems, file_system),
        "not_covered": list(&m.not_covered, not_covered),
        "foreign_tools": m.foreign_tools,
    })
}

fn file_system(m: &PreflightFileSystem) -> Value {
    json!({
        "mount_point": m.mount_point,
        "file_system_type": m.file_system_type,
        "device": m.device,
        "level": m.level,
        "disks": list(&m.disks, disk),
    })
}

fn disk(m: &PreflightDisk) -> Value {
    json!({
        "kind": names::preflight_disk_kind(m.kind),
        "lun": (m.kind() == PreflightDiskKind::Data).then_some(m.lun),
        "name": m.name,
    })
}

fn not_covered(m: &PreflightNotCovered) -> Value {
    json!({ "what": m.what, "kind": m.kind, "reason": m.reason })
}

/// A document of every message here, for the test that none lacks a field.
#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("Preflight", preflight(&<_>::default())),
        ("PreflightFileSystem", file_system(&<_>::default())),
        ("PreflightDisk", disk(&<_>::default())),
        ("PreflightNotCovered", not_covered(&<_>::default())),
    ]
}
