//! Which part of a document is a list, and the columns that it has as a table.
//!
//! A column is a field of an item, or a field of an object in it, with a dot between. New columns come
//! at the end; none is renamed or taken away. `output.md` in `docs/` is the promise.

/// A list in a document.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The field of the document that is the list.
    pub(crate) list: &'static str,
    /// All columns, in the order of `--output csv`.
    pub(crate) columns: &'static [&'static str],
    /// Those of `--output table`: what a person looks for first.
    pub(crate) shown: &'static [&'static str],
}

pub(crate) static VMS: Rows = Rows {
    list: "vms",
    columns: &[
        "name",
        "resource_group",
        "resource_id",
        "location",
        "power_state",
        "disks",
        "size_bytes",
        "protected",
        "agent",
        "recovery_points",
        "newest_recovery_point_at",
    ],
    shown: &[
        "name",
        "resource_group",
        "location",
        "power_state",
        "disks",
        "size_bytes",
        "protected",
        "agent",
        "recovery_points",
        "newest_recovery_point_at",
    ],
};

pub(crate) static AGENTS: Rows = Rows {
    list: "agents",
    columns: &[
        "vm_name",
        "vm_resource_id",
        "state",
        "can_freeze",
        "version",
        "last_seen_at",
        "certificate_expires_at",
        "boot_id",
        "quarantined",
        "restored_instance",
        "instance_vm_id",
        "preflight_ready",
        "preflight_at",
        "preflight_problems",
    ],
    shown: &[
        "vm_name",
        "state",
        "can_freeze",
        "version",
        "last_seen_at",
        "certificate_expires_at",
        "quarantined",
        "restored_instance",
        "preflight_ready",
    ],
};

pub(crate) static POINTS: Rows = Rows {
    list: "points",
    columns: &[
        "name",
        "vm_resource_id",
        "created_at",
        "region",
        "tiers",
        "size_bytes",
        "consistency",
        "consistency_reason",
        "frozen_ms",
        "proof",
        "proved_at",
        "proof_failed",
        "replicas",
        "disks",
        "pins",
        "deleting_job_id",
        "missing_snapshots",
    ],
    shown: &[
        "name",
        "created_at",
        "region",
        "tiers",
        "size_bytes",
        "consistency",
        "proof",
        "proof_failed",
    ],
};

const REPLICATION_COLUMNS: &[&str] = &[
    "recovery_point",
    "target_region",
    "state",
    "percent",
    "job_id",
    "vm_name",
    "vm_resource_id",
    "started_at",
    "finished_at",
    "elapsed_secs",
    "eta_secs",
    "error",
];
const REPLICATION_SHOWN: &[&str] = &[
    "recovery_point",
    "target_region",
    "state",
    "percent",
    "job_id",
    "elapsed_secs",
    "eta_secs",
    "error",
];

pub(crate) static REPLICATION: Rows =
    Rows { list: "entries", columns: REPLICATION_COLUMNS, shown: REPLICATION_SHOWN };

pub(crate) static REPLICATION_JOBS: Rows =
    Rows { list: "jobs", columns: REPLICATION_COLUMNS, shown: REPLICATION_SHOWN };

pub(crate) static VERIFICATIONS: Rows = Rows {
    list: "vms",
    columns: &[
        "vm_name",
        "vm_resource_id",
        "summary.total",
        "summary.passed",
        "summary.failed",
        "summary.unverified",
        "summary.verified_earlier",
        "summary.last_verified_at",
        "failed",
        "unverified",
        "summary.content_compared",
    ],
    shown: &[
        "vm_name",
        "summary.total",
        "summary.passed",
        "summary.failed",
        "summary.unverified",
        "summary.last_verified_at",
    ],
};

pub(crate) static POLICIES: Rows = Rows {
    list: "policies",
    columns: &[
        "vm_name",
        "vm_resource_id",
        "enabled",
        "schedule_time",
        "time_zone",
        "daily_retention",
        "weekly_retention",
        "monthly_retention",
        "yearly_retention",
        "target_region",
        "consistency",
        "rpo_secs",
        "rto_secs",
        "verify_every_secs",
        "drill_every_secs",
        "next_run_at",
        "total_recovery_points",
        "tiers",
        "origin",
        "origin_problem",
        "tag_written",
        "tag_problem",
        "tag_drift",
        "cost_when_filled",
        "warnings",
        "rpo_objective.target_secs",
        "rpo_objective.by_default",
        "rpo_objective.state",
        "rpo_objective.measured_ms",
        "rpo_objective.measured_at",
        "rto_objective.target_secs",
        "rto_objective.by_default",
        "rto_objective.state",
        "rto_objective.measured_ms",
        "rto_objective.measured_at",
        "gone_since_at",
    ],
    shown: &[
        "vm_name",
        "enabled",
        "schedule_time",
        "time_zone",
        "daily_retention",
        "weekly_retention",
        "monthly_retention",
        "yearly_retention",
        "target_region",
        "next_run_at",
        "origin",
    ],
};

pub(crate) static UPCOMING_RUNS: Rows = Rows {
    list: "runs",
    columns: &["scheduled_at", "local", "tiers"],
    shown: &["scheduled_at", "local", "tiers"],
};

pub(crate) static MONTHS: Rows = Rows {
    list: "months",
    columns: &[
        "month",
        "partial",
        "taken",
        "late",
        "missed",
        "deleted",
        "storage_usd_cents",
        "copy_usd_cents",
        "holdings",
    ],
    shown: &[
        "month",
        "partial",
        "taken",
        "late",
        "missed",
        "deleted",
        "storage_usd_cents",
        "copy_usd_cents",
    ],
};

pub(crate) static DIFFERENCES: Rows = Rows {
    list: "entries",
    columns: &[
        "recovery_point",
        "region",
        "created_at",
        "tiers",
        "kind",
        "reason",
        "anyway",
        "before.kind",
        "before.until_at",
        "before.reason",
        "after.kind",
        "after.until_at",
        "after.reason",
    ],
    shown: &[
        "recovery_point",
        "region",
        "kind",
        "before.kind",
        "before.until_at",
        "after.kind",
        "after.until_at",
        "reason",
    ],
};

pub(crate) static APPLIED: Rows = Rows {
    list: "vms",
    columns: &["vm_name", "vm_resource_id", "kind", "policy", "reason", "at_once"],
    shown: &["vm_name", "kind", "policy", "reason"],
};

pub(crate) static DR_TESTS: Rows = Rows {
    list: "tests",
    columns: &[
        "job_id",
        "vm_name",
        "vm_resource_id",
        "recovery_point",
        "region",
        "started_at",
        "passed",
        "rto_ms",
        "error",
        "target_rto_ms",
        "rto_state",
    ],
    shown: &[
        "job_id",
        "vm_name",
        "recovery_point",
        "region",
        "started_at",
        "passed",
        "rto_ms",
        "error",
    ],
};

pub(crate) static DR_SUCCESS: Rows = Rows {
    list: "vms",
    columns: &["vm_name", "vm_resource_id", "total", "passed", "failed", "meets_target"],
    shown: &["vm_name", "total", "passed", "failed", "meets_target"],
};

pub(crate) static JOBS: Rows = Rows {
    list: "jobs",
    columns: &[
        "id",
        "workflow",
        "state",
        "vm_name",
        "vm_resource_id",
        "recovery_point",
        "requested_by",
        "created_at",
        "started_at",
        "finished_at",
        "waiting_for",
        "waiting_for_job",
        "child_of",
        "cancel_requested",
        "waits_for_approval",
        "note",
        "error.kind",
        "error.message",
        "error.hint",
        "error.resource",
        "error.azure_request_id",
        "steps",
        "items",
        "result",
        "stuck",
        "decisions",
        "abandoned",
        "would_delete",
    ],
    shown: &[
        "id",
        "workflow",
        "vm_name",
        "state",
        "created_at",
        "finished_at",
        "requested_by",
        "waiting_for",
        "error.message",
    ],
};

pub(crate) static ALERTS: Rows = Rows {
    list: "alerts",
    columns: &[
        "id",
        "kind",
        "severity",
        "vm_resource_id",
        "vm_name",
        "job_id",
        "recovery_point",
        "region",
        "what",
        "next_step",
        "raised_at",
        "resolved_at",
        "resolution",
        "since_at",
        "times",
        "closed_by",
        "lasts",
    ],
    shown: &[
        "id",
        "severity",
        "kind",
        "raised_at",
        "resolved_at",
        "vm_name",
        "job_id",
        "times",
        "what",
    ],
};

pub(crate) static RESIDUE: Rows = Rows {
    list: "resources",
    columns: &[
        "resource_id",
        "resource_type",
        "created_at",
        "monthly_cost_usd_cents",
        "job_id",
        "workflow",
        "reason",
        "reaped",
        "reaped_after_at",
        "left_because",
    ],
    shown: &[
        "resource_id",
        "created_at",
        "monthly_cost_usd_cents",
        "job_id",
        "reaped",
        "reaped_after_at",
        "left_because",
    ],
};

pub(crate) static OPERATORS: Rows = Rows {
    list: "operators",
    columns: &[
        "name",
        "role",
        "certificate_expires_at",
        "renewal_pending",
        "added_at",
        "added_by",
        "revoked_at",
        "revoked_by",
    ],
    shown: &["name", "role", "certificate_expires_at", "added_at", "added_by", "revoked_at"],
};

pub(crate) static PAGES: Rows = Rows {
    list: "pages",
    columns: &["name", "command", "file"],
    shown: &["name", "command", "file"],
};
