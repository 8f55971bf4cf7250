//! Fixed answers of the fake controller, after the examples of the user's manual.

use azdr_proto::admin::*;

pub(crate) const VM_ID: &str = "/subscriptions/5b0f/resourceGroups/Production/providers/\
                                Microsoft.Compute/virtualMachines/prod-db-vm";
/// 2025-12-01 08:00:00 UTC.
pub(crate) const NOW: i64 = 1_764_576_000_000;
pub(crate) const DAY: i64 = 86_400_000;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const POINT: &str = "prod-db-vm-backup-daily-20251201-0800";

pub(crate) fn whoami() -> WhoamiResponse {
    WhoamiResponse {
        operator: "alice".into(),
        role: "admin".into(),
        controller_version: "0.1.0".into(),
        cloud: "simulated".into(),
        subscriptions: vec!["5b0f".into(), "77aa".into()],
        deletions_held: String::new(),
    }
}

pub(crate) fn vms() -> ListVmsResponse {
    let vm = |name: &str, agent: AgentState, protected: bool| Vm {
        resource_id: VM_ID.replace("prod-db-vm", name),
        name: name.into(),
        resource_group: "Production".into(),
        location: "eastus".into(),
        power_state: if protected { "running".into() } else { String::new() },
        disks: 2,
        size_bytes: 160 * GIB,
        protected,
        agent: agent as i32,
        newest_recovery_point_unix_ms: if protected { NOW } else { 0 },
        recovery_points: if protected { 23 } else { 0 },
    };
    ListVmsResponse {
        vms: vec![
            vm("prod-db-vm", AgentState::Connected, true),
            vm("staging-vm", AgentState::NotEnrolled, false),
        ],
    }
}

pub(crate) fn token() -> CreateAgentTokenResponse {
    CreateAgentTokenResponse {
        token: "azdr-4f2a".into(),
        expires_unix_ms: NOW + 3_600_000,
        ca_fingerprint: "ab".repeat(32),
        enroll_address: "dr.example.org:7444".into(),
        agent_address: "dr.example.org:7445".into(),
        vm_resource_id: VM_ID.into(),
    }
}

pub(crate) fn agents() -> ListAgentsResponse {
    let agent = Agent {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        state: AgentState::Connected as i32,
        version: "0.1.0".into(),
        boot_id: "3f0c".into(),
        last_seen_unix_ms: NOW,
        certificate_expires_unix_ms: NOW + 30 * DAY,
        can_freeze: true,
        ..Agent::default()
    };
    let clone = Agent {
        restored_instance: true,
        quarantined: true,
        can_freeze: false,
        instance_vm_id: "11111111-2222-3333-4444-555555555555".into(),
        ..agent.clone()
    };
    ListAgentsResponse { agents: vec![agent, clone] }
}

pub(crate) fn config() -> BackupConfig {
    let tier = |tier: Tier, recovery_points, last_unix_ms| TierStatus {
        tier: tier as i32,
        recovery_points,
        last_unix_ms,
    };
    BackupConfig {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        enabled: true,
        daily_retention: 7,
        weekly_retention: 4,
        monthly_retention: 12,
        yearly_retention: 0,
        target_region: "westus2".into(),
        schedule_time: "08:00".into(),
        time_zone: "Europe/Berlin".into(),
        consistency: ConsistencyDemand::Prefer as i32,
        tiers: vec![
            tier(Tier::Daily, 7, NOW),
            tier(Tier::Weekly, 4, NOW - 7 * DAY),
            tier(Tier::Monthly, 12, NOW),
        ],
        total_recovery_points: 23,
        next_run_unix_ms: NOW + DAY,
        tag_written: true,
        tag_problem: String::new(),
        cost_when_filled: Some(monthly_cost(38, 400, 2000, 178)),
    }
}

fn monthly_cost(recovery_points: u32, gib: u64, storage: u64, copy: u64) -> MonthlyCost {
    MonthlyCost {
        recovery_points,
        bytes: gib * GIB,
        storage_usd_cents: storage,
        copy_usd_cents: copy,
        total_usd_cents: storage + copy,
    }
}

fn basis() -> CostBasis {
    CostBasis { size_bytes: 128 * GIB, change_per_mille: 20, prices_as_of: "2026-11".into() }
}

pub(crate) fn cost() -> CostEstimate {
    CostEstimate {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        now: Some(monthly_cost(23, 210, 1050, 0)),
        present_policy: config().cost_when_filled,
        new_policy: Some(monthly_cost(9, 160, 800, 0)),
        basis: Some(basis()),
    }
}

pub(crate) fn policies() -> ListPoliciesResponse {
    let off = BackupConfig {
        vm_resource_id: VM_ID.replace("prod-db-vm", "staging-vm"),
        vm_name: "staging-vm".into(),
        enabled: false,
        weekly_retention: 0,
        monthly_retention: 0,
        target_region: String::new(),
        next_run_unix_ms: 0,
        cost_when_filled: None,
        ..config()
    };
    ListPoliciesResponse { policies: vec![config(), off] }
}

pub(crate) fn explanation() -> PointExplanation {
    let reason = |kind: &str, text: &str| KeepReason {
        kind: kind.into(),
        text: text.into(),
        ..KeepReason::default()
    };
    let slot = KeepReason {
        tier: Tier::Daily as i32,
        period: "2025-12-01".into(),
        rank: 1,
        of: 7,
        ..reason("slot", "daily 2025-12-01 (1 of 7)")
    };
    let pin = KeepReason {
        owner: "alice".into(),
        until_unix_ms: NOW + 30 * DAY,
        ..reason("pin", "pinned by alice until 2025-12-31T08:00:00Z: audit")
    };
    let home = RegionExplanation {
        region: "eastus".into(),
        reasons: vec![
            slot,
            reason("newest_restorable", "newest restorable point of the region"),
            pin,
        ],
        until: Some(KeptUntil {
            kind: KeptUntilKind::Run as i32,
            until_unix_ms: NOW + 31 * DAY,
            reason: "beyond the newest 7 daily slots".into(),
        }),
    };
    let copy = RegionExplanation {
        region: "westus2".into(),
        reasons: vec![reason("newest_proved", "newest proved point of the region (booted)")],
        until: Some(KeptUntil {
            kind: KeptUntilKind::NotOnSchedule as i32,
            until_unix_ms: 0,
            reason: "newest proved point of the region (booted)".into(),
        }),
    };
    let old = RegionExplanation {
        region: "northeurope".into(),
        reasons: vec![],
        until: Some(KeptUntil { until_unix_ms: NOW + DAY, ..home.until.clone().unwrap() }),
    };
    PointExplanation {
        point: Some(point()),
        vm_name: "prod-db-vm".into(),
        regions: vec![home, copy, old],
        deletions_held: String::new(),
    }
}

pub(crate) fn upcoming_runs() -> ListUpcomingRunsResponse {
    let run = |n: i64, tiers: &[Tier]| UpcomingRun {
        scheduled_unix_ms: NOW + n * DAY - 3_600_000,
        local: format!("2025-12-0{}T08:00:00+01:00", n + 1),
        tiers: tiers.iter().map(|t| *t as i32).collect(),
    };
    ListUpcomingRunsResponse {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        time_zone: "Europe/Berlin".into(),
        runs: vec![run(5, &[Tier::Daily]), run(6, &[Tier::Weekly, Tier::Daily])],
        enabled: true,
        delay_secs: 425,
    }
}

pub(crate) fn simulation() -> PolicySimulation {
    let holding = |region: &str, recovery_points, gib: u64| RegionHolding {
        region: region.into(),
        recovery_points,
        bytes: gib * GIB,
    };
    let month = |month: &str, partial| SimulatedMonth {
        month: month.into(),
        partial,
        taken: 31,
        late: 1,
        missed: 0,
        deleted: 50,
        holdings: vec![holding("eastus", 23, 204), holding("westus2", 24, 206)],
        storage_usd_cents: 2050,
        copy_usd_cents: 156,
    };
    let deletion = SimulatedDeletion {
        recovery_point: "prod-db-vm-backup-daily-20251124-0800".into(),
        region: "eastus".into(),
        reason: "beyond the newest 7 daily slots".into(),
    };
    let run = SimulatedRun {
        scheduled_unix_ms: NOW + DAY,
        started_unix_ms: NOW + DAY + 425_000,
        late: false,
        recovery_point: "prod-db-vm-backup-daily-20251202-0807".into(),
        tiers: vec![Tier::Daily as i32],
        deleted: vec![deletion],
    };
    PolicySimulation {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        policy: Some(config()),
        from_unix_ms: NOW,
        to_unix_ms: NOW,
        at_start: vec![holding("eastus", 23, 204)],
        months: vec![month("2025-12", true), month("2026-01", false)],
        runs: vec![run],
        missed_unix_ms: vec![],
        basis: Some(basis()),
        deletions_held: String::new(),
    }
}

pub(crate) fn policy_diff() -> PolicyDiff {
    let until = |kind: KeptUntilKind, days: i64| {
        let until_unix_ms = if days == 0 { 0 } else { NOW + days * DAY };
        Some(KeptUntil { kind: kind as i32, until_unix_ms, reason: "beyond the newest".into() })
    };
    let entry = |days: i64, kind: PolicyDiffKind, then: i64| PolicyDiffEntry {
        recovery_point: format!("prod-db-vm-backup-daily-202511{}-0800", 30 - days),
        region: "eastus".into(),
        created_unix_ms: NOW - (days + 1) * DAY,
        tiers: vec![Tier::Weekly as i32, Tier::Daily as i32],
        kind: kind as i32,
        reason: String::new(),
        anyway: false,
        before: until(KeptUntilKind::Run, 6),
        after: until(KeptUntilKind::Run, then),
    };
    let at_once = PolicyDiffEntry {
        reason: "beyond the newest 3 daily slots".into(),
        ..entry(5, PolicyDiffKind::AtOnce, 1)
    };
    let anyway = PolicyDiffEntry { anyway: true, ..at_once.clone() };
    let longer = PolicyDiffEntry {
        after: until(KeptUntilKind::Forever, 0),
        ..entry(1, PolicyDiffKind::Longer, 0)
    };
    PolicyDiff {
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        before: Some(config()),
        after: None,
        entries: vec![at_once, anyway, entry(2, PolicyDiffKind::Shorter, 3), longer],
        unchanged: 19,
        deletions_held: String::new(),
    }
}

pub(crate) fn point() -> RecoveryPoint {
    let disk = |lun: i32, name: &str, size_bytes| RecoveryPointDisk {
        lun,
        snapshot_id: format!("/subscriptions/5b0f/…/snapshots/{POINT}-0a1b2c3d{name}"),
        size_bytes,
        source_disk_id: format!("/subscriptions/5b0f/…/disks/prod-db-vm{name}"),
    };
    RecoveryPoint {
        name: POINT.into(),
        vm_resource_id: VM_ID.into(),
        created_unix_ms: NOW,
        tiers: vec![Tier::Daily as i32],
        consistency: Consistency::Filesystem as i32,
        size_bytes: 128 * GIB,
        disks: vec![disk(-1, "", 96 * GIB), disk(0, "-lun0", 32 * GIB)],
        proof: ProofLevel::Restorable as i32,
        proved_unix_ms: NOW + 3_600_000,
        proof_failed: false,
        replicas: vec![Replica {
            region: "westus2".into(),
            state: ReplicaState::Complete as i32,
            percent: 100.0,
            started_unix_ms: NOW,
            finished_unix_ms: NOW + 720_000,
        }],
        region: "eastus".into(),
        consistency_reason: String::new(),
        frozen_ms: 1840,
        pins: Vec::new(),
        deleting_job_id: 0,
        missing_snapshots: Vec::new(),
    }
}

pub(crate) fn pin() -> Pin {
    Pin {
        owner: "alice".into(),
        since_unix_ms: NOW,
        until_unix_ms: NOW + 365 * DAY,
        reason: "audit".into(),
    }
}

pub(crate) fn deletion_plan() -> DeletionPlan {
    DeletionPlan {
        confirmation: "opaque".into(),
        point: Some(RecoveryPoint {
            name: "prod-db-vm-backup-daily-20251130-0800".into(),
            ..point()
        }),
        actions: vec![
            "delete its copy in westus2 (2 snapshots)".into(),
            "delete the original in eastus (2 snapshots)".into(),
        ],
        warnings: vec!["A deleted recovery point cannot be brought back".into()],
    }
}

pub(crate) fn points() -> ListRecoveryPointsResponse {
    let older = RecoveryPoint {
        name: "prod-db-vm-backup-daily-20251130-0800".into(),
        proof: ProofLevel::Unproved as i32,
        proved_unix_ms: 0,
        consistency: Consistency::Uncoordinated as i32,
        consistency_reason: "no agent is connected".into(),
        replicas: vec![Replica {
            region: "westus2".into(),
            state: ReplicaState::Copying as i32,
            percent: 40.9,
            ..Replica::default()
        }],
        ..point()
    };
    let weekly = RecoveryPoint {
        name: "prod-db-vm-backup-weekly-20251124-0800".into(),
        tiers: vec![Tier::Weekly as i32, Tier::Daily as i32],
        pins: vec![pin()],
        proof_failed: true,
        replicas: Vec::new(),
        ..point()
    };
    ListRecoveryPointsResponse {
        vm_resource_id: VM_ID.into(),
        points: vec![point(), older, weekly],
    }
}

pub(crate) fn plan() -> RestorePlan {
    RestorePlan {
        confirmation: "opaque".into(),
        point: Some(point()),
        vm_resource_id: VM_ID.into(),
        actions: vec![
            "Create 2 disks from the recovery point".into(),
            "Stop the VM".into(),
            "Swap its OS disk and LUN 0".into(),
            "Start the VM".into(),
        ],
        warnings: vec!["LUN 3 (scratch) is not in the backup and stays attached".into()],
        estimate_low_secs: 600,
        estimate_high_secs: 900,
        estimate_basis: "measured".into(),
    }
}

pub(crate) fn replication() -> ReplicationStatus {
    let entry = |job_id, day: &str, state: ReplicaState| ReplicationEntry {
        job_id,
        recovery_point: format!("prod-db-vm-backup-daily-{day}-0800"),
        target_region: "westus2".into(),
        state: state as i32,
        ..ReplicationEntry::default()
    };
    ReplicationStatus {
        vm_resource_id: VM_ID.into(),
        entries: vec![
            ReplicationEntry {
                percent: 70.0,
                eta_secs: 170,
                elapsed_secs: 400,
                ..entry(1234, "20251201", ReplicaState::Copying)
            },
            ReplicationEntry { percent: 45.0, ..entry(1235, "20251130", ReplicaState::Copying) },
            entry(1236, "20251202", ReplicaState::Queued),
            ReplicationEntry {
                percent: 100.0,
                elapsed_secs: 754,
                ..entry(1230, "20251129", ReplicaState::Complete)
            },
        ],
    }
}

pub(crate) fn residue() -> ListResidueResponse {
    let found = |name: &str, resource_type: &str, cents| ResidueResource {
        resource_id: format!("/subscriptions/5b0f/…/{name}"),
        resource_type: resource_type.into(),
        created_unix_ms: NOW - DAY,
        monthly_cost_usd_cents: cents,
        job_id: 7,
        ..ResidueResource::default()
    };
    let disks = "Microsoft.Compute/disks";
    ListResidueResponse {
        as_of_unix_ms: NOW,
        resources: vec![
            ResidueResource {
                workflow: "verify".into(),
                reason: "a temporary of job 7, which is over".into(),
                reaped: true,
                ..found("disks/azdr-verify-0a1b2c3d-7-os", disks, Some(1972))
            },
            ResidueResource {
                workflow: "restore_in_place".into(),
                reason: "replaced by job 7 and kept until 2025-12-08T08:00:00Z".into(),
                reaped: true,
                reaped_after_unix_ms: NOW + 7 * DAY,
                ..found("disks/prod-db-vm-os", disks, Some(1972))
            },
            ResidueResource {
                job_id: 0,
                created_unix_ms: 0,
                reason: "it carries azdr's tag and names no job".into(),
                left_because: "no tag says who made it".into(),
                ..found("publicIPAddresses/pip", "Microsoft.Network/publicIPAddresses", None)
            },
        ],
        others: vec![OtherInstallation {
            installation: "ffffffff".into(),
            resource_type: "Microsoft.Compute/snapshots".into(),
            resources: 12,
        }],
        monthly_cost_usd_cents: 3944,
        prices_as_of: "2026-11".into(),
        held: String::new(),
    }
}

pub(crate) fn history() -> ListDrTestsResponse {
    let test = |job_id, days: i64, rto_ms| DrTestRecord {
        job_id,
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        recovery_point: POINT.into(),
        region: "westus2".into(),
        started_unix_ms: NOW - days * DAY,
        passed: true,
        rto_ms,
        error: String::new(),
    };
    let failed = DrTestRecord {
        passed: false,
        error: "the VM did not boot: no capacity".into(),
        ..test(900, 21, 0)
    };
    ListDrTestsResponse {
        tests: vec![
            test(1100, 0, 647_000),
            test(1050, 7, 683_000),
            test(1000, 14, 598_000),
            failed,
        ],
    }
}

fn step(name: &str, title: &str, from: i64, seconds: i64) -> JobStep {
    JobStep {
        name: name.into(),
        state: StepState::Done as i32,
        started_unix_ms: NOW + from * 1000,
        finished_unix_ms: NOW + (from + seconds) * 1000,
        detail: String::new(),
        percent: -1.0,
        title: title.into(),
    }
}

fn phase(name: &str, seconds: u64) -> Phase {
    Phase { name: name.into(), millis: seconds * 1000, ok: true }
}

/// A job that succeeds, as it is in the end.
pub(crate) fn job(id: i64, workflow: &str) -> Job {
    let (steps, seconds, result) = match workflow {
        "backup" => (
            vec![
                step("reserve_names", "Reserving names", 0, 1),
                step("capture", "Freezing and taking snapshots", 1, 221),
            ],
            222,
            job_result::Result::Backup(BackupResult {
                point: Some(RecoveryPoint {
                    proof: ProofLevel::Unproved as i32,
                    proved_unix_ms: 0,
                    replicas: Vec::new(),
                    ..point()
                }),
                replication_region: "westus2".into(),
                replication_job_id: id + 1,
            }),
        ),
        "replicate" => (
            vec![step("copy", "Copying snapshots", 0, 754)],
            754,
            job_result::Result::Replicate(ReplicateResult {
                recovery_point: POINT.into(),
                source_region: "eastus".into(),
                target_region: "westus2".into(),
                size_bytes: 128 * GIB,
            }),
        ),
        "verify" => (
            vec![
                step("create_test_disk", "Creating test disk from snapshot", 0, 40),
                step("read_disk", "Verifying disk properties", 40, 60),
                step("delete_test_disk", "Deleting test disk", 100, 8),
            ],
            108,
            job_result::Result::Verify(VerifyResult {
                recovery_point: POINT.into(),
                region: "eastus".into(),
                disks: vec![VerifiedDisk {
                    lun: -1,
                    expected_bytes: 128 * GIB,
                    actual_bytes: 128 * GIB,
                    disk_state: "Ready".into(),
                    bytes_read: 64 << 20,
                }],
            }),
        ),
        "restore" => (
            vec![
                step("stop_vm", "Stopping VM", 0, 60),
                step("swap_os_disk", "Swapping OS disk", 60, 600),
                step("start_vm", "Starting VM", 660, 94),
            ],
            754,
            job_result::Result::Restore(RestoreResult {
                recovery_point: POINT.into(),
                vm_resource_id: VM_ID.into(),
                rto_ms: 754_000,
                phases: vec![phase("stop", 60), phase("swap", 600), phase("start", 94)],
                power_state: "running".into(),
                witness_verified: true,
                ssh_verified: true,
                unconfirmed: String::new(),
                kept_disks: vec!["/subscriptions/5b0f/…/disks/prod-db-vm-os-old".into()],
            }),
        ),
        "dr_test" => (
            vec![step("restore", "Restoring the backup", 0, 512)],
            760,
            job_result::Result::DrTest(DrTestResult {
                recovery_point: POINT.into(),
                region: "westus2".into(),
                passed: true,
                rto_ms: 647_000,
                phases: vec![
                    phase("restore", 512),
                    phase("boot", 135),
                    phase("connectivity", 8),
                    phase("cleanup", 105),
                ],
                witness_verified: true,
                ssh_verified: true,
                test_vm: "prod-db-vm-dr-test-20251201".into(),
                residue: Vec::new(),
            }),
        ),
        "prune" => (
            vec![step("delete", "Deleting snapshots", 0, 12)],
            12,
            job_result::Result::Prune(PruneResult {
                deleted: vec![
                    "prod-db-vm-backup-daily-20251130-0800 (westus2)".into(),
                    "prod-db-vm-backup-daily-20251130-0800 (eastus)".into(),
                ],
                kept: 22,
                held: String::new(),
            }),
        ),
        "reap" => (
            vec![step("delete", "Deleting what was left behind", 0, 4)],
            4,
            job_result::Result::Reap(ReapResult {
                deleted: vec!["/subscriptions/5b0f/…/disks/azdr-verify-0a1b2c3d-7-os".into()],
                left: vec!["/subscriptions/5b0f/…/disks/x: attached to prod-db-vm".into()],
            }),
        ),
        other => unreachable!("the fake knows no workflow {other}"),
    };
    Job {
        id,
        workflow: workflow.into(),
        state: JobState::Succeeded as i32,
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        created_unix_ms: NOW,
        started_unix_ms: NOW,
        finished_unix_ms: NOW + seconds * 1000,
        steps,
        error: None,
        waiting_for: String::new(),
        result: Some(JobResult { result: Some(result) }),
        cancel_requested: false,
        requested_by: "alice".into(),
        ..Job::default()
    }
}

/// The job, ended by a person as it was.
pub(crate) fn abandoned(mut job: Job, reason: &str) -> Job {
    job = failed(job, JobState::Failed);
    if let Some(error) = &mut job.error {
        error.kind = "abandoned".into();
        error.message = format!("alice abandoned it: {reason}");
        error.hint =
            "what is left is named in the job's result and is nobody's but yours now".into();
    }
    job.abandoned = Some(JobAbandoned {
        by: "alice".into(),
        reason: reason.into(),
        left: vec!["/subscriptions/5b0f/resourceGroups/Production/snapshots/s-1".into()],
        listed: false,
    });
    let decision = "abandon".into();
    let by = "alice".into();
    job.decisions.push(JobDecision { decided_unix_ms: NOW, decision, by, reason: reason.into() });
    job
}

/// The job before its first step has ended.
pub(crate) fn begun(mut job: Job) -> Job {
    job.state = JobState::Running as i32;
    job.finished_unix_ms = 0;
    job.result = None;
    for (position, step) in job.steps.iter_mut().enumerate() {
        step.finished_unix_ms = 0;
        let state = if position == 0 { StepState::Running } else { StepState::Pending };
        step.state = state as i32;
        if position > 0 {
            step.started_unix_ms = 0;
        }
    }
    job
}

/// The job, failed and undone.
pub(crate) fn failed(mut job: Job, state: JobState) -> Job {
    job.state = state as i32;
    job.result = None;
    for step in &mut job.steps {
        step.state = StepState::Undone as i32;
    }
    job.error = Some(JobError {
        kind: "azure_locked".into(),
        message: "the resource group Production is locked".into(),
        hint: "Remove the lock, then: azdr backup trigger prod-db-vm".into(),
        resource: "/subscriptions/5b0f/resourceGroups/Production".into(),
        azure_request_id: "8c1e".into(),
    });
    job
}
