//! What schedule and retention will do, as JSON. Costs are in US cents.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, recovery_point, some, text, time};
use crate::names;

pub(crate) fn explanation(m: &PointExplanation) -> Value {
    json!({
        "point": m.point.as_ref().map(recovery_point),
        "vm_name": m.vm_name,
        "regions": list(&m.regions, region_explanation),
        "deletions_held": text(&m.deletions_held),
    })
}

pub(super) fn region_explanation(m: &RegionExplanation) -> Value {
    json!({
        "region": m.region,
        "reasons": list(&m.reasons, keep_reason),
        "until": m.until.as_ref().map(kept_until),
    })
}

/// `until_at` is null for one that never ends or does not end by time.
fn keep_reason(m: &KeepReason) -> Value {
    let is_slot = m.kind == "slot";
    json!({
        "kind": m.kind,
        "text": m.text,
        "tier": names::tier(m.tier),
        "period": text(&m.period),
        "rank": (m.rank != 0).then_some(m.rank),
        "of": is_slot.then_some(m.of),
        "owner": text(&m.owner),
        "until_at": time(m.until_unix_ms),
    })
}

fn kept_until(m: &KeptUntil) -> Value {
    json!({
        "kind": names::kept_until(m.kind),
        "until_at": time(m.until_unix_ms),
        "reason": text(&m.reason),
    })
}

pub(crate) fn upcoming_runs(m: &ListUpcomingRunsResponse) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "time_zone": m.time_zone,
        "runs": list(&m.runs, upcoming_run),
        "enabled": m.enabled,
        "delay_secs": m.delay_secs,
        "proofs": list(&m.proofs, upcoming_proof),
        "gone_since_at": time(m.gone_since_unix_ms),
    })
}

/// `local` is the due time in the policy's time zone.
fn upcoming_proof(m: &UpcomingProof) -> Value {
    json!({ "kind": names::proof_kind(m.kind), "due_at": time(m.due_unix_ms), "local": m.local })
}

/// `local` is the scheduled time in the policy's time zone.
fn upcoming_run(m: &UpcomingRun) -> Value {
    json!({ "scheduled_at": time(m.scheduled_unix_ms), "local": m.local, "tiers": tiers(&m.tiers) })
}

fn tiers(tiers: &[i32]) -> Value {
    list(tiers, |tier| names::tier(*tier).into())
}

pub(crate) fn simulation(m: &PolicySimulation) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "policy": m.policy.as_ref().map(policy),
        "from_at": time(m.from_unix_ms),
        "to_at": time(m.to_unix_ms),
        "at_start": list(&m.at_start, holding),
        "months": list(&m.months, month),
        "runs": list(&m.runs, run),
        "missed_at": list(&m.missed_unix_ms, |at| time(*at)),
        "basis": m.basis.as_ref().map(basis),
        "deletions_held": text(&m.deletions_held),
        "present_policy": m.present_policy.as_ref().map(policy),
    })
}

/// A policy that is not the VM's, or not yet: without what is said of the VM itself.
fn policy(m: &BackupConfig) -> Value {
    json!({
        "enabled": m.enabled,
        "daily_retention": m.daily_retention,
        "weekly_retention": m.weekly_retention,
        "monthly_retention": m.monthly_retention,
        "yearly_retention": m.yearly_retention,
        "target_region": text(&m.target_region),
        "schedule_time": m.schedule_time,
        "time_zone": m.time_zone,
        "consistency": names::consistency_demand(m.consistency),
        "rpo_secs": some(m.rpo_secs),
        "rto_secs": some(m.rto_secs),
        "verify_every_secs": some(m.verify_every_secs),
        "drill_every_secs": some(m.drill_every_secs),
    })
}

fn holding(m: &RegionHolding) -> Value {
    json!({ "region": m.region, "recovery_points": m.recovery_points, "bytes": m.bytes })
}

fn month(m: &SimulatedMonth) -> Value {
    json!({
        "month": m.month,
        "partial": m.partial,
        "taken": m.taken,
        "late": m.late,
        "missed": m.missed,
        "deleted": m.deleted,
        "holdings": list(&m.holdings, holding),
        "storage_usd_cents": m.storage_usd_cents,
        "copy_usd_cents": m.copy_usd_cents,
    })
}

fn run(m: &SimulatedRun) -> Value {
    json!({
        "scheduled_at": time(m.scheduled_unix_ms),
        "started_at": time(m.started_unix_ms),
        "late": m.late,
        "recovery_point": m.recovery_point,
        "tiers": tiers(&m.tiers),
        "deleted": list(&m.deleted, deletion),
    })
}

fn deletion(m: &SimulatedDeletion) -> Value {
    json!({ "recovery_point": m.recovery_point, "region": m.region, "reason": m.reason })
}

pub(crate) fn policy_diff(m: &PolicyDiff) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "before": m.before.as_ref().map(policy),
        "after": m.after.as_ref().map(policy),
        "entries": list(&m.entries, diff_entry),
        "unchanged": m.unchanged,
        "deletions_held": text(&m.deletions_held),
    })
}

pub(super) fn diff_entry(m: &PolicyDiffEntry) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "region": m.region,
        "created_at": time(m.created_unix_ms),
        "tiers": tiers(&m.tiers),
        "kind": names::policy_diff(m.kind),
        "reason": text(&m.reason),
        "anyway": m.anyway,
        "before": m.before.as_ref().map(kept_until),
        "after": m.after.as_ref().map(kept_until),
    })
}

pub(crate) fn cost(m: &CostEstimate) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "now": m.now.as_ref().map(monthly_cost),
        "present_policy": m.present_policy.as_ref().map(monthly_cost),
        "new_policy": m.new_policy.as_ref().map(monthly_cost),
        "basis": m.basis.as_ref().map(basis),
    })
}

pub(super) fn monthly_cost(m: &MonthlyCost) -> Value {
    json!({
        "recovery_points": m.recovery_points,
        "bytes": m.bytes,
        "storage_usd_cents": m.storage_usd_cents,
        "copy_usd_cents": m.copy_usd_cents,
        "total_usd_cents": m.total_usd_cents,
    })
}

fn basis(m: &CostBasis) -> Value {
    json!({
        "size_bytes": (m.size_bytes != 0).then_some(m.size_bytes),
        "change_per_mille": m.change_per_mille,
        "prices_as_of": m.prices_as_of,
    })
}

/// A document of every message here, for the test that none lacks a field.
#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("PointExplanation", explanation(&<_>::default())),
        ("RegionExplanation", region_explanation(&<_>::default())),
        ("KeepReason", keep_reason(&<_>::default())),
        ("KeptUntil", kept_until(&<_>::default())),
        ("ListUpcomingRunsResponse", upcoming_runs(&<_>::default())),
        ("UpcomingRun", upcoming_run(&<_>::default())),
        ("UpcomingProof", upcoming_proof(&<_>::default())),
        ("PolicySimulation", simulation(&<_>::default())),
        ("RegionHolding", holding(&<_>::default())),
        ("SimulatedMonth", month(&<_>::default())),
        ("SimulatedRun", run(&<_>::default())),
        ("SimulatedDeletion", deletion(&<_>::default())),
        ("PolicyDiff", policy_diff(&<_>::default())),
        ("PolicyDiffEntry", diff_entry(&<_>::default())),
        ("CostEstimate", cost(&<_>::default())),
        ("MonthlyCost", monthly_cost(&<_>::default())),
        ("CostBasis", basis(&<_>::default())),
    ]
}
