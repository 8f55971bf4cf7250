//! Alerts, as JSON.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, text, time};
use crate::names;

pub(crate) fn alerts(m: &ListAlertsResponse) -> Value {
    json!({ "alerts": list(&m.alerts, alert), "more": m.more })
}

pub(crate) fn alert(m: &Alert) -> Value {
    json!({
        "id": m.id,
        "kind": m.kind,
        "severity": names::alert_severity(m.severity),
        "vm_resource_id": text(&m.vm_resource_id),
        "vm_name": text(&m.vm_name),
        "job_id": (m.job_id != 0).then_some(m.job_id),
        "recovery_point": text(&m.recovery_point),
        "region": text(&m.region),
        "what": m.what,
        "next_step": m.next_step,
        "raised_at": time(m.raised_unix_ms),
        "resolved_at": time(m.resolved_unix_ms),
        "resolution": text(&m.resolution),
        "since_at": time(m.since_unix_ms),
        "times": m.times,
        "closed_by": text(&m.closed_by),
        "lasts": m.lasts,
    })
}

/// A document of every message here, for the test that none lacks a field.
#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![("ListAlertsResponse", alerts(&<_>::default())), ("Alert", alert(&<_>::default()))]
}
