//! The fleet on one screen, as JSON.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, text, time};

pub(crate) fn fleet_status(m: &FleetStatus) -> Value {
    json!({
        "as_of_at": time(m.as_of_unix_ms),
        "vms": m.vms,
        "vms_listed_at": time(m.vms_listed_unix_ms),
        "vms_unknown": text(&m.vms_unknown),
        "covered": m.covered,
        "overdue": m.overdue.as_ref().map(fleet_part),
        "never_backed_up": m.never_backed_up.as_ref().map(fleet_part),
        "not_covered": m.not_covered.as_ref().map(fleet_part),
        "gone": m.gone.as_ref().map(fleet_part),
        "unproved": m.unproved.as_ref().map(fleet_part),
        "drills_due": m.drills_due.as_ref().map(fleet_part),
        "drills_failed": m.drills_failed.as_ref().map(fleet_part),
        "recovery_points": m.recovery_points,
        "jobs_queued": m.jobs_queued,
        "jobs_running": m.jobs_running,
        "jobs_undoing": m.jobs_undoing,
        "jobs_stuck": m.jobs_stuck,
        "stuck_job_ids": m.stuck_job_ids,
        "residue": m.residue.as_ref().map(fleet_residue),
        "deletions_held": text(&m.deletions_held),
        "drills_not_asked_for": m.drills_not_asked_for.as_ref().map(fleet_part),
        "rpo": m.rpo.as_ref().map(fleet_objective),
        "rto": m.rto.as_ref().map(fleet_objective),
        "alerts_critical": m.alerts_critical,
        "alerts_high": m.alerts_high,
        "alerts_medium": m.alerts_medium,
        "preflight_not_ready": m.preflight_not_ready.as_ref().map(fleet_part),
    })
}

fn fleet_part(m: &FleetPart) -> Value {
    json!({ "vms": m.vms, "longest": list(&m.longest, fleet_vm) })
}

fn fleet_objective(m: &FleetObjective) -> Value {
    json!({
        "met": m.met,
        "missed": m.missed.as_ref().map(fleet_part),
        "unknown": m.unknown,
        "not_asked_for": m.not_asked_for,
    })
}

fn fleet_vm(m: &FleetVm) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "newest_recovery_point_at": time(m.newest_recovery_point_unix_ms),
    })
}

fn fleet_residue(m: &FleetResidue) -> Value {
    json!({
        "as_of_at": time(m.as_of_unix_ms),
        "resources": m.resources,
        "monthly_cost_usd_cents": m.monthly_cost_usd_cents,
    })
}

#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("FleetStatus", fleet_status(&<_>::default())),
        ("FleetObjective", fleet_objective(&<_>::default())),
        ("FleetPart", fleet_part(&<_>::default())),
        ("FleetVm", fleet_vm(&<_>::default())),
        ("FleetResidue", fleet_residue(&<_>::default())),
    ]
}
