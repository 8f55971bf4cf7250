//! Reports as JSON: verifications, DR tests, replication jobs.

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, replication_entry, text, time};
use crate::names;

pub(crate) fn verification_report(m: &VerificationReport) -> Value {
    json!({
        "vms": list(&m.vms, vm_verification),
        "overall": m.overall.as_ref().map(verification_summary),
    })
}

fn vm_verification(m: &VmVerification) -> Value {
    json!({
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "summary": m.summary.as_ref().map(verification_summary),
        "failed": list(&m.failed, failed_verification),
        "unverified": m.unverified,
    })
}

fn verification_summary(m: &VerificationSummary) -> Value {
    json!({
        "total": m.total,
        "passed": m.passed,
        "failed": m.failed,
        "unverified": m.unverified,
        "content_compared": m.content_compared,
        "verified_earlier": m.verified_earlier,
        "last_verified_at": time(m.last_verified_unix_ms),
    })
}

fn failed_verification(m: &FailedVerification) -> Value {
    json!({
        "recovery_point": m.recovery_point,
        "region": m.region,
        "failed_at": time(m.failed_unix_ms),
        "error": m.error,
    })
}

pub(crate) fn dr_tests(m: &ListDrTestsResponse) -> Value {
    json!({
        "tests": list(&m.tests, dr_test_record),
        "statistics": m.statistics.as_ref().map(dr_statistics),
    })
}

fn dr_test_record(m: &DrTestRecord) -> Value {
    json!({
        "job_id": m.job_id,
        "vm_resource_id": m.vm_resource_id,
        "vm_name": m.vm_name,
        "recovery_point": m.recovery_point,
        "region": m.region,
        "started_at": time(m.started_unix_ms),
        "passed": m.passed,
        "rto_ms": millis(m.rto_ms),
        "error": text(&m.error),
        "target_rto_ms": m.target_rto_ms,
        "rto_state": names::objective_state(m.rto_state),
    })
}

fn dr_statistics(m: &DrStatistics) -> Value {
    json!({
        "total": m.total,
        "passed": m.passed,
        "failed": m.failed,
        "average_rto_ms": millis(m.average_rto_ms),
        "median_rto_ms": millis(m.median_rto_ms),
        "worst_rto_ms": millis(m.worst_rto_ms),
        "target_rto_ms": m.target_rto_ms,
        "bound": m.bound.as_ref().map(rto_bound),
        "within_target": m.within_target,
    })
}

/// `rto_ms` and `tests_needed` are both null when so many tests failed that nothing is a bound.
fn rto_bound(m: &RtoBound) -> Value {
    json!({
        "share_percent": m.share_percent,
        "confidence_percent": m.confidence_percent,
        "rto_ms": millis(m.rto_ms),
        "tests_needed": (m.tests_needed != 0).then_some(m.tests_needed),
    })
}

pub(crate) fn dr_success_rate(m: &DrSuccessRate) -> Value {
    json!({
        "vms": list(&m.vms, dr_success),
        "overall": m.overall.as_ref().map(dr_success),
        "target_per_mille": m.target_per_mille,
        "compliance": names::dr_compliance(m.compliance),
        "untested": m.untested,
    })
}

fn dr_success(m: &DrSuccess) -> Value {
    json!({
        "vm_resource_id": text(&m.vm_resource_id),
        "vm_name": text(&m.vm_name),
        "total": m.total,
        "passed": m.passed,
        "failed": m.failed,
        "meets_target": m.meets_target,
    })
}

pub(crate) fn replication_jobs(m: &ListReplicationJobsResponse) -> Value {
    json!({ "jobs": list(&m.jobs, replication_entry), "more": m.more })
}

fn millis(ms: u64) -> Option<u64> {
    (ms != 0).then_some(ms)
}

/// A document of every message here, for the test that none lacks a field.
#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("VerificationReport", verification_report(&<_>::default())),
        ("VmVerification", vm_verification(&<_>::default())),
        ("VerificationSummary", verification_summary(&<_>::default())),
        ("FailedVerification", failed_verification(&<_>::default())),
        ("ListDrTestsResponse", dr_tests(&<_>::default())),
        ("DrTestRecord", dr_test_record(&<_>::default())),
        ("DrStatistics", dr_statistics(&<_>::default())),
        ("RtoBound", rto_bound(&<_>::default())),
        ("DrSuccessRate", dr_success_rate(&<_>::default())),
        ("DrSuccess", dr_success(&<_>::default())),
        ("ListReplicationJobsResponse", replication_jobs(&<_>::default())),
    ]
}
