//! Policies as JSON.

use std::collections::BTreeMap;

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::forecast::diff_entry;
use super::{backup_config, list, text};
use crate::names;

/// `uncovered` is null where Azure could not say which VMs there are.
pub(crate) fn policies(m: &ListPoliciesResponse) -> Value {
    let known = m.uncovered_unknown.is_empty();
    json!({
        "policies": list(&m.policies, backup_config),
        "uncovered": if known { list(&m.uncovered, uncovered) } else { Value::Null },
        "uncovered_unknown": text(&m.uncovered_unknown),
        "named": list(&m.named, named),
    })
}

fn uncovered(m: &UncoveredVm) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "resource_group": m.resource_group,
        "location": m.location,
        "reason": m.reason,
    })
}

fn named(m: &NamedPolicy) -> Value {
    let p = m.policy.clone().unwrap_or_default();
    json!({
        "name": m.name,
        "select": m.select.as_ref().map(selector),
        "policy": {
            "daily_retention": p.daily_retention,
            "weekly_retention": p.weekly_retention,
            "monthly_retention": p.monthly_retention,
            "yearly_retention": p.yearly_retention,
            "target_region": p.target_region,
            "schedule_time": p.schedule_time,
            "time_zone": p.time_zone,
            "consistency": p.consistency.and_then(names::consistency_demand),
            "rpo_secs": p.rpo_secs.filter(|secs| *secs != 0),
            "rto_secs": p.rto_secs.filter(|secs| *secs != 0),
            "verify_every_secs": p.verify_every_secs.filter(|secs| *secs != 0),
            "drill_every_secs": p.drill_every_secs.filter(|secs| *secs != 0),
        },
        "vms": m.vms,
    })
}

fn selector(m: &VmSelector) -> Value {
    json!({
        "resource_group": text(&m.resource_group),
        "tags": m.tags.iter().collect::<BTreeMap<_, _>>(),
    })
}

pub(crate) fn applied(m: &ApplyPoliciesResponse) -> Value {
    json!({
        "policies": list(&m.policies, named_change),
        "vms": list(&m.vms, vm_change),
        "dry_run": m.dry_run,
        "deletions_held": text(&m.deletions_held),
    })
}

fn named_change(m: &NamedPolicyChange) -> Value {
    json!({ "name": m.name, "kind": names::named_policy_change(m.kind), "select": m.select })
}

fn vm_change(m: &VmPolicyChange) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "kind": names::vm_policy_change(m.kind),
        "policy": text(&m.policy),
        "reason": m.reason,
        "at_once": list(&m.at_once, diff_entry),
    })
}

/// A document of every message here, for the test that none lacks a field.
#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("ListPoliciesResponse", policies(&<_>::default())),
        ("UncoveredVm", uncovered(&<_>::default())),
        ("NamedPolicy", named(&<_>::default())),
        ("VmSelector", selector(&<_>::default())),
        ("ApplyPoliciesResponse", applied(&<_>::default())),
        ("NamedPolicyChange", named_change(&<_>::default())),
        ("VmPolicyChange", vm_change(&<_>::default())),
    ]
}
