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
        preflight_unix_ms: NOW - DAY,
        preflight_ready: true,
        ..Agent::default()
    };
    let stacked = Agent {
        vm_name: "stacked".into(),
        preflight_ready: false,
        preflight_problems: preflight(false).problems,
        ..agent.clone()
    };
    let clone = Agent {
        restored_instance: true,
        quarantined: true,
        can_freeze: false,
        preflight_unix_ms: 0,
        preflight_ready: false,
        instance_vm_id: "11111111-2222-3333-4444-555555555555".into(),
        ..agent.clone()
    };
    ListAgentsResponse { agents: vec![agent, stacked, clone] }
}

pub(crate) fn preflight(ready: bool) -> Preflight {
    let disk = |kind: PreflightDiskKind, lun, name: &str| PreflightDisk {
        kind: kind.into(),
        lun,
        name: name.into(),
    };
    let file_system = |mount_point: &str, level, disks| PreflightFileSystem {
        mount_point: mount_point.into(),
        file_system_type: "xfs".into(),
        device: "8:1".into(),
        level,
        disks,
    };
    let not_covered = |what: &str, kind: &str, reason: &str| PreflightNotCovered {
        what: what.into(),
        kind: kind.into(),
        reason: reason.into(),
    };
    let data = |lun, name: &str| disk(PreflightDiskKind::Data, lun, name);
    let problems = [
        "/srv lies on drbd0, a device of a kind that is not known: it cannot be told in \
                     which order to freeze",
        "azdr-thawd at /run/azdr/thawd.sock does not answer",
    ];
    Preflight {
        vm_resource_id: VM_ID.into(),
        taken_unix_ms: NOW,
        took_ms: 12,
        ready,
        problems: problems.iter().filter(|_| !ready).map(|p| (*p).to_owned()).collect(),
        passing: vec!["the machine has been up for 20 s; 60 s are needed".into()],
        file_systems: vec![
            file_system("/data", 0, vec![data(0, "sdc"), data(1, "sdd")]),
            file_system("/", 1, vec![disk(PreflightDiskKind::Os, 0, "sda")]),
        ],
        not_covered: vec![
            not_covered("/boot/efi", "vfat", "its type is not on the list of what is frozen"),
            not_covered("/dev/sde", "raw", "nothing is mounted from it"),
        ],
        foreign_tools: vec!["qemu-ga runs (process 70)".into()],
    }
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
        ..BackupConfig::default()
    }
}

/// One that came from a selector, does not match it any more, and whose tag somebody has edited.
pub(crate) fn drifted() -> BackupConfig {
    BackupConfig {
        vm_resource_id: VM_ID.replace("prod-db-vm", "drifted"),
        vm_name: "drifted".into(),
        rpo_secs: 36 * 3600,
        verify_every_secs: 7 * 86_400,
        rpo_objective: Some(Objective {
            target_secs: 36 * 3600,
            by_default: false,
            state: ObjectiveState::Missed.into(),
            measured_ms: 2 * DAY as u64,
            measured_unix_ms: NOW - 2 * DAY,
        }),
        rto_objective: Some(Objective {
            target_secs: 900,
            by_default: true,
            state: ObjectiveState::Unknown.into(),
            measured_ms: 0,
            measured_unix_ms: 0,
        }),
        origin: "gold".into(),
        origin_problem: "it does not match gold any more, and keeps the policy as it was".into(),
        tag_drift: Some(TagDrift {
            kind: TagDriftKind::Foreign.into(),
            words: "the tag was not written by azdr: \"nightly\"".into(),
            since_unix_ms: NOW - DAY,
        }),
        warnings: vec!["no agent of it is connected to freeze it".into()],
        ..config()
    }
}

/// Of a VM that somebody has deleted.
pub(crate) fn of_a_vm_that_is_gone() -> BackupConfig {
    BackupConfig {
        vm_resource_id: VM_ID.replace("prod-db-vm", "gone"),
        vm_name: "gone".into(),
        tag_written: false,
        tag_problem: "the VM is not in Azure any more".into(),
        gone_since_unix_ms: NOW - DAY,
        next_run_unix_ms: 0,
        ..config()
    }
}

/// What is asked for, as new, and what becomes of some VMs.
pub(crate) fn applied(r: &ApplyPoliciesRequest) -> ApplyPoliciesResponse {
    let change = |p: &NamedPolicy| NamedPolicyChange {
        name: p.name.clone(),
        kind: NamedPolicyChangeKind::New.into(),
        select: p.select.as_ref().map_or_else(String::new, |s| {
            format!("resource group {}, {} tags", s.resource_group, s.tags.len())
        }),
    };
    let vm = |name: &str, kind: VmPolicyChangeKind, reason: &str| VmPolicyChange {
        vm_resource_id: VM_ID.replace("prod-db-vm", name),
        vm_name: name.into(),
        kind: kind.into(),
        policy: "gold".into(),
        reason: reason.into(),
        at_once: vec![],
    };
    let mut changed =
        vm("prod-db-vm", VmPolicyChangeKind::Changed, "matches resource group Production");
    changed.at_once = policy_diff()
        .entries
        .into_iter()
        .filter(|e| e.kind() == PolicyDiffKind::AtOnce)
        .map(|e| PolicyDiffEntry { before: None, after: None, ..e })
        .collect();
    let by_hand = "its policy is set by hand, which wins over gold";
    ApplyPoliciesResponse {
        policies: r.policies.iter().map(change).collect(),
        vms: vec![
            changed,
            vm("new-vm", VmPolicyChangeKind::Enrolled, "matches resource group Production"),
            vm("own-vm", VmPolicyChangeKind::ByHand, by_hand),
        ],
        dry_run: r.dry_run,
        deletions_held: String::new(),
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
    let named = NamedPolicy {
        name: "gold".into(),
        select: Some(VmSelector {
            resource_group: "Production".into(),
            tags: [("backup".to_owned(), "gold".to_owned())].into(),
        }),
        policy: Some(ConfigureBackupRequest {
            daily_retention: Some(14),
            ..ConfigureBackupRequest::default()
        }),
        vms: 1,
    };
    let uncovered = UncoveredVm {
        vm_resource_id: VM_ID.replace("prod-db-vm", "forgotten"),
        vm_name: "forgotten".into(),
        resource_group: "Test".into(),
        location: "eastus".into(),
        reason: "no selector matches it".into(),
    };
    ListPoliciesResponse {
        policies: vec![config(), off, drifted()],
        uncovered: vec![uncovered],
        uncovered_unknown: String::new(),
        named: vec![named],
    }
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

/// What is known of a machine that was made from a point: most of it is a pass.
fn evidence() -> Vec<EvidenceFact> {
    let fact = |name: &str, state: EvidenceState, detail: &str, required| EvidenceFact {
        name: name.into(),
        state: state.into(),
        detail: detail.into(),
        looked_unix_ms: NOW + 5_000,
        required,
    };
    vec![
        fact("witness:/", EvidenceState::Pass, POINT, true),
        fact("file-system-writable:/", EvidenceState::Pass, "ext4", true),
        fact("app:10-postgresql", EvidenceState::Pass, "PostgreSQL 15.14 answers (31 ms)", true),
        fact("fstab", EvidenceState::Unspecified, "was not reported", true),
        fact("systemd", EvidenceState::Fail, "degraded; failed: ntp.service", false),
    ]
}

pub(crate) fn point_details() -> PointDetails {
    let snapshot = |region: &str, lun: i32, name: &str, gib| PointSnapshot {
        region: region.into(),
        lun,
        snapshot_id: format!(
            "/subscriptions/5b0f/resourceGroups/azdr-{region}/providers/Microsoft.Compute/snapshots/\
             {POINT}-1a2b3c4d{name}"
        ),
        source_disk_id: format!(
            "/subscriptions/5b0f/resourceGroups/Production/providers/Microsoft.Compute/disks/db{name}"
        ),
        size_bytes: gib * GIB,
    };
    let disk = |lun, asked_ms, done_ms| DiskCapture {
        lun,
        asked_ms,
        done_ms: Some(done_ms),
        frozen_ms: Some(861),
        level: Consistency::Filesystem as i32,
        reason: String::new(),
    };
    let file_system = |mount_point: &str, device: &str| FileSystemFreeze {
        mount_point: mount_point.into(),
        frozen_from_unix_ms: NOW - 12,
        frozen_ms: 873,
        thawed_by_agent: true,
        file_system_type: "ext4".into(),
        device: device.into(),
        canary_blocked: Some(true),
        canary_released_ms: Some(872),
        canary_released_by_thaw: Some(true),
        level: Consistency::Filesystem as i32,
        reason: String::new(),
        note: String::new(),
        disks: vec![if mount_point == "/" { "os".into() } else { "lun 0".into() }],
    };
    let run = |verb: HookVerb, end: &str, code, output: &str| HookRun {
        verb: verb as i32,
        end: end.into(),
        succeeded: code != Some(1),
        exit_code: code,
        took_ms: 412,
        output: output.into(),
        in_cgroup: true,
        left_behind: 0,
    };
    let hooks = vec![
        HookRecord {
            name: "10-postgresql".into(),
            kind: HookKind::Hold as i32,
            application: true,
            runs: vec![
                run(HookVerb::Pre, "READY", None, ""),
                run(HookVerb::Post, "exit code 0", Some(0), "waited for nobody"),
            ],
            problem: String::new(),
            check: true,
        },
        HookRecord {
            name: "20-queue".into(),
            kind: HookKind::Oneshot as i32,
            application: false,
            runs: vec![
                run(HookVerb::Pre, "exit code 1", Some(1), "queue: no such host\nqueue: giving up"),
                HookRun { left_behind: 2, ..run(HookVerb::Abort, "exit code 0", Some(0), "") },
            ],
            problem: "exit code 1".into(),
            check: false,
        },
    ];
    let proof = |job_id, level: ProofLevel, passed, region: &str, detail: &str| Proof {
        job_id,
        region: region.into(),
        level: level as i32,
        passed,
        tried_unix_ms: NOW + job_id * 60_000,
        detail: detail.into(),
        evidence: if level == ProofLevel::Booted { evidence() } else { vec![] },
    };
    PointDetails {
        point: Some(RecoveryPoint { pins: vec![pin()], ..point() }),
        vm_name: "prod-db-vm".into(),
        vm_size: "Standard_D2s_v5".into(),
        job_id: 12,
        requested_by: "schedule".into(),
        operation_id: "12-1-9f00a1b2".into(),
        has_witness: true,
        snapshots: vec![
            snapshot("eastus", -1, "", 128),
            snapshot("eastus", 0, "-lun0", 32),
            snapshot("westus2", -1, "", 128),
            snapshot("westus2", 0, "-lun0", 32),
        ],
        capture: Some(CaptureRecord {
            disks: vec![disk(-1, 3, 640), disk(0, 4, 855)],
            file_systems: vec![file_system("/", "8:1"), file_system("/data", "8:16")],
            thaw_asked_ms: Some(861),
            unbroken: Some(true),
            not_frozen: vec![FileSystemNotFrozen {
                mount_point: "/boot/efi".into(),
                file_system_type: "vfat".into(),
                device: "8:15".into(),
                reason: "its type is not on the list of what is frozen".into(),
                disks: vec!["os".into()],
            }],
            hooks,
        }),
        proofs: vec![
            proof(31, ProofLevel::Booted, true, "westus2", "witness and SSH"),
            proof(14, ProofLevel::Restorable, true, "eastus", ""),
        ],
        leases: vec![PointLease {
            job_id: 40,
            workflow: "dr_test".into(),
            requested_by: "alice".into(),
        }],
        regions: explanation().regions,
        deletions_held: String::new(),
        content_hashes: vec![
            HashedDisk {
                lun: -1,
                blocks: 182_044,
                sampled: 300,
                taken_unix_ms: NOW + 60_000,
                job_id: 13,
                ..HashedDisk::default()
            },
            HashedDisk {
                blocks: 12,
                sampled: 12,
                lun: 0,
                taken_unix_ms: NOW + 61_000,
                job_id: 13,
                ..HashedDisk::default()
            },
            HashedDisk {
                lun: 1,
                blocks: 2_097_152,
                sampled: 2_097_152,
                taken_unix_ms: NOW + 62_000,
                job_id: 13,
                span_bytes: 8 << 20,
                spans: 16_384,
                ..HashedDisk::default()
            },
        ],
    }
}

/// Of a point that nobody froze, copied, proved or pinned.
pub(crate) fn plain_point_details() -> PointDetails {
    let disk = |lun, done_ms| DiskCapture {
        lun,
        asked_ms: 0,
        done_ms,
        frozen_ms: None,
        level: Consistency::Crash as i32,
        reason: "nothing was frozen".into(),
    };
    let full = point_details();
    PointDetails {
        point: Some(RecoveryPoint {
            name: "prod-db-vm-backup-daily-20251130-0800".into(),
            consistency: Consistency::Uncoordinated as i32,
            consistency_reason: "no agent is connected".into(),
            frozen_ms: 0,
            proof: ProofLevel::Unproved as i32,
            replicas: vec![],
            pins: vec![],
            deleting_job_id: 44,
            ..point()
        }),
        requested_by: String::new(),
        has_witness: false,
        snapshots: full.snapshots[..2].to_vec(),
        capture: Some(CaptureRecord {
            disks: vec![disk(-1, Some(700)), disk(0, None)],
            ..CaptureRecord::default()
        }),
        proofs: vec![],
        leases: vec![],
        content_hashes: vec![],
        deletions_held: "the catalogue was rebuilt from Azure".into(),
        ..full
    }
}

/// Of a point of which the agent's settings leave out the data disk.
pub(crate) fn partly_frozen_point_details() -> PointDetails {
    let mut details = plain_point_details();
    let why = "no file system of it was frozen (/data: not among the configured file_systems)";
    let mut capture = point_details().capture.unwrap();
    capture.disks[1] = DiskCapture {
        frozen_ms: None,
        level: Consistency::Crash as i32,
        reason: why.into(),
        ..capture.disks[1].clone()
    };
    capture.file_systems.truncate(1);
    capture.not_frozen = vec![FileSystemNotFrozen {
        mount_point: "/data".into(),
        file_system_type: "ext4".into(),
        device: "8:16".into(),
        reason: "not among the configured file_systems".into(),
        disks: vec!["lun 0".into()],
    }];
    capture.hooks.clear();
    details.capture = Some(capture);
    let point = details.point.as_mut().unwrap();
    point.name = "prod-db-vm-backup-daily-20251129-0800".into();
    point.consistency_reason = format!("LUN 0: {why}");
    PointDetails { has_witness: true, ..details }
}

/// Of a point taken by an agent that does not say on which disks its file systems are.
pub(crate) fn older_agents_point_details() -> PointDetails {
    let mut details = plain_point_details();
    let mut capture = point_details().capture.unwrap();
    for disk in &mut capture.disks {
        disk.level = Consistency::Unspecified as i32;
        disk.reason = "the agent does not say on which disks the frozen file systems are".into();
    }
    capture.file_systems.iter_mut().for_each(|f| f.disks.clear());
    capture.not_frozen.clear();
    capture.hooks.clear();
    details.capture = Some(capture);
    let point = details.point.as_mut().unwrap();
    point.name = "prod-db-vm-backup-daily-20251128-0800".into();
    point.consistency = Consistency::Filesystem as i32;
    point.consistency_reason = "frozen throughout; the agent does not say whether file systems of \
                                the OS disk, LUN 0 are among the frozen"
        .into();
    PointDetails { has_witness: true, ..details }
}

pub(crate) fn fleet_status() -> FleetStatus {
    let part = |vms, named: &[(&str, i64)]| {
        let vm = |(name, newest_recovery_point_unix_ms): &(&str, i64)| FleetVm {
            vm_resource_id: VM_ID.replace("prod-db-vm", name),
            newest_recovery_point_unix_ms: *newest_recovery_point_unix_ms,
        };
        Some(FleetPart { vms, longest: named.iter().map(vm).collect() })
    };
    FleetStatus {
        as_of_unix_ms: NOW,
        vms: 145,
        vms_listed_unix_ms: NOW - 8_000,
        vms_unknown: String::new(),
        covered: 138,
        overdue: part(2, &[("web-3", NOW - 3 * DAY), ("web-9", NOW - 2 * DAY)]),
        never_backed_up: part(1, &[("new-vm", 0)]),
        not_covered: part(5, &[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)]),
        gone: part(0, &[]),
        unproved: part(12, &[("web-3", NOW - 3 * DAY)]),
        drills_due: part(1, &[("prod-db-vm", NOW)]),
        drills_failed: part(0, &[]),
        preflight_not_ready: part(1, &[("stacked", NOW)]),
        recovery_points: 3_211,
        jobs_queued: 1,
        jobs_running: 3,
        jobs_undoing: 0,
        jobs_stuck: 1,
        stuck_job_ids: vec![29],
        residue: Some(FleetResidue {
            as_of_unix_ms: NOW - 60_000,
            resources: 3,
            monthly_cost_usd_cents: 1234,
        }),
        deletions_held: String::new(),
        drills_not_asked_for: part(40, &[("web-1", NOW)]),
        rpo: Some(FleetObjective {
            met: 120,
            missed: part(2, &[("web-3", NOW - 3 * DAY), ("web-9", NOW - 2 * DAY)]),
            unknown: 1,
            not_asked_for: 18,
        }),
        rto: Some(FleetObjective { met: 90, missed: part(0, &[]), unknown: 51, not_asked_for: 0 }),
        alerts_critical: 1,
        alerts_high: 3,
        alerts_medium: 0,
    }
}

/// As the request wants them, of three.
pub(crate) fn alerts(r: &ListAlertsRequest) -> ListAlertsResponse {
    let failed = Alert {
        id: 43,
        kind: "dr_test_failed".into(),
        severity: AlertSeverity::Critical.into(),
        vm_resource_id: VM_ID.into(),
        vm_name: "prod-db-vm".into(),
        job_id: 45,
        recovery_point: POINT.into(),
        region: "westus2".into(),
        what: format!(
            "the DR test of prod-db-vm with {POINT} in westus2 failed: SSH did not answer"
        ),
        next_step: "see `azdr job show 45`, then `azdr dr test prod-db-vm --test-region westus2`"
            .into(),
        raised_unix_ms: NOW,
        since_unix_ms: NOW - 7 * DAY,
        times: 2,
        ..Alert::default()
    };
    let low = Alert {
        id: 42,
        kind: "success_rate_low".into(),
        severity: AlertSeverity::High.into(),
        what: "9 of 10 DR tests of the last 30 days passed, less than 99.9 %".into(),
        next_step: "see `azdr dr success-rate` and `azdr dr test-history`".into(),
        raised_unix_ms: NOW - DAY,
        since_unix_ms: NOW - DAY,
        times: 1,
        ..Alert::default()
    };
    let resolved = Alert {
        id: 40,
        job_id: 38,
        raised_unix_ms: NOW - 7 * DAY,
        resolved_unix_ms: NOW,
        resolution: "job 45 has ended in the same way".into(),
        times: 1,
        ..failed.clone()
    };
    let reason = "web-7 has no DR tests any more".into();
    let mut alerts = vec![failed, low, resolved, closed(39, reason)];
    alerts.retain(|a| !r.open || a.resolved_unix_ms == 0);
    alerts.retain(|a| a.severity >= r.severity && (r.before_id == 0 || a.id < r.before_id));
    alerts.retain(|a| r.kind.is_empty() || a.kind == r.kind);
    alerts.retain(|a| r.vm.as_ref().is_none_or(|vm| vm.name.is_empty() || a.vm_name == vm.name));
    let more = alerts.len().saturating_sub(r.limit as usize) as u64;
    alerts.truncate(r.limit as usize);
    ListAlertsResponse { alerts, more }
}

/// A condition that alice has closed.
pub(crate) fn closed(id: i64, reason: String) -> Alert {
    Alert {
        id,
        kind: "verification_overdue".into(),
        severity: AlertSeverity::Medium.into(),
        vm_name: "web-7".into(),
        vm_resource_id: VM_ID.replace("prod-db-vm", "web-7"),
        what: "the backups of web-7 are unverified for more than 7d: none was ever verified".into(),
        next_step: "`azdr backup verify-all web-7`".into(),
        raised_unix_ms: NOW - 8 * DAY,
        since_unix_ms: NOW - 8 * DAY,
        times: 1,
        resolved_unix_ms: NOW - DAY,
        resolution: reason,
        closed_by: "alice".into(),
        lasts: true,
        ..Alert::default()
    }
}

pub(crate) fn asking() -> Job {
    Job {
        state: JobState::Queued as i32,
        waiting_for:
            "approval: it would delete 2 of 9 recovery points; another operator than alice runs \
                      azdr job approve 31"
                .into(),
        waits_for_approval: true,
        would_delete: vec![format!("{POINT} (eastus)"), format!("{POINT} (westus2)")],
        requested_by: "job 30".into(),
        started_unix_ms: 0,
        finished_unix_ms: 0,
        result: None,
        steps: vec![],
        ..job(31, "prune")
    }
}

pub(crate) fn operator() -> Operator {
    Operator {
        name: "bob".into(),
        role: "operator".into(),
        added_unix_ms: NOW,
        added_by: "alice".into(),
        certificate_expires_unix_ms: NOW + 10_000 * DAY,
        renewal_pending: false,
        revoked_unix_ms: 0,
        revoked_by: String::new(),
    }
}

pub(crate) fn revoked_operator() -> Operator {
    Operator {
        name: "carol".into(),
        role: "viewer".into(),
        revoked_unix_ms: NOW + DAY,
        revoked_by: "alice".into(),
        ..operator()
    }
}

pub(crate) fn operators() -> ListOperatorsResponse {
    let alice = Operator {
        name: "alice".into(),
        role: "admin".into(),
        added_by: String::new(),
        renewal_pending: true,
        ..operator()
    };
    let dave = Operator {
        name: "dave".into(),
        role: "viewer".into(),
        certificate_expires_unix_ms: NOW - DAY,
        ..operator()
    };
    let erin = Operator { name: "erin".into(), certificate_expires_unix_ms: 0, ..operator() };
    ListOperatorsResponse { operators: vec![alice, operator(), revoked_operator(), dave, erin] }
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
        proofs: vec![
            UpcomingProof {
                kind: ProofKind::Verification.into(),
                due_unix_ms: NOW + 5 * DAY,
                local: "2025-12-06T09:00:00+01:00".into(),
            },
            UpcomingProof {
                kind: ProofKind::Drill.into(),
                due_unix_ms: NOW + 5 * DAY + 3_600_000,
                local: "2025-12-06T10:00:00+01:00".into(),
            },
        ],
        gone_since_unix_ms: 0,
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
        present_policy: Some(config()),
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
        estimate_basis: "this_vm".into(),
        estimate_restores: 3,
        chosen_because: String::new(),
    }
}

pub(crate) fn chosen_because(at_unix_ms: i64) -> String {
    let minutes = (NOW - at_unix_ms) / 60_000;
    format!("the newest one at or before the time ({minutes} minutes before eight)")
}

/// Makes a plan one of a failover.
pub(crate) fn fail_over(plan: &mut RestorePlan, r: &PlanRestoreRequest) {
    let or = |text: &str, default: String| if text.is_empty() { default } else { text.into() };
    let vm = or(&r.new_vm_name, format!("prod-db-vm-{}", r.target_region));
    let group = or(&r.target_resource_group, format!("Production-{}", r.target_region));
    plan.confirmation = "failover".into();
    plan.actions = vec![
        format!("create a disk from this backup's copy in {}", r.target_region),
        or(&r.target_subnet, "make a network for it".into()),
        format!("create VM {vm} in resource group {group}"),
    ];
    plan.warnings =
        vec!["The original is not touched: if it still runs, there are two of it then".into()];
    plan.estimate_basis = "default".into();
    plan.estimate_restores = 0;
}

fn item(name: &str, job_id: i64, seconds: i64) -> JobItem {
    JobItem {
        name: name.into(),
        job_id,
        state: JobState::Succeeded as i32,
        started_unix_ms: NOW,
        finished_unix_ms: NOW + seconds * 1000,
        percent: -1.0,
        ..JobItem::default()
    }
}

/// The parts of a bulk job when all have succeeded.
fn items(workflow: &str) -> Vec<JobItem> {
    let points = |seconds: i64| {
        let name = |day: i64| format!("prod-db-vm-backup-daily-202511{}-0800", 27 + day);
        (0..3).map(|n| item(&name(n), 50 + n, seconds + n)).collect()
    };
    let drill = |name: &str, job_id, seconds: i64| JobItem {
        rto_ms: seconds as u64 * 1000 - 105_000,
        ..item(name, job_id, seconds)
    };
    match workflow {
        "replicate_all" => points(420),
        "verify_all" => points(102),
        "dr_test_all" => vec![
            drill("prod-db-vm", 50, 788),
            drill("prod-app-vm", 51, 692),
            drill("critical-vm", 52, 840),
        ],
        _ => Vec::new(),
    }
}

/// Drills of which one has failed.
pub(crate) fn bulk_with_a_failure(id: i64) -> Job {
    let mut job = job(id, "dr_test_all");
    job.state = JobState::Failed as i32;
    job.items[1].state = JobState::Failed as i32;
    job.items[1].rto_ms = 0;
    job.items[1].error = "SSH did not answer within 600 s".into();
    job.error = Some(JobError {
        kind: "children_failed".into(),
        message: "1 of 3 jobs did not succeed: job 51".into(),
        ..JobError::default()
    });
    if let Some(job_result::Result::Bulk(bulk)) =
        job.result.as_mut().and_then(|r| r.result.as_mut())
    {
        (bulk.succeeded, bulk.failed) = (2, 1);
    }
    job
}

/// A drill that has passed and whose VM is kept.
pub(crate) fn kept(id: i64) -> Job {
    let mut job = begun(job(id, "dr_test"));
    job.steps = vec![
        step("restore", "Restoring the backup", 0, 512),
        JobStep {
            state: StepState::Running as i32,
            finished_unix_ms: 0,
            detail: "prod-db-vm-dr-test-20251201-45 of group azdr-drill-x-45 is kept until \
                     2025-12-01T10:10:47Z"
                .into(),
            ..step("keep", "Keeping the test VM", 647, 0)
        },
    ];
    job
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

/// The target is that of the VMs' policies.
pub(crate) fn history(target_rto_ms: u64) -> ListDrTestsResponse {
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
        target_rto_ms,
        rto_state: match rto_ms <= target_rto_ms {
            true => ObjectiveState::Met.into(),
            false => ObjectiveState::Missed.into(),
        },
    };
    let failed = DrTestRecord {
        passed: false,
        rto_state: ObjectiveState::Missed.into(),
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
        statistics: Some(DrStatistics {
            total: 4,
            passed: 3,
            failed: 1,
            average_rto_ms: 642_666,
            median_rto_ms: 665_000,
            worst_rto_ms: 683_000,
            target_rto_ms,
            within_target: if target_rto_ms < 683_000 { 2 } else { 3 },
            bound: Some(RtoBound {
                share_percent: 90,
                confidence_percent: 95,
                rto_ms: 0,
                tests_needed: 29,
            }),
        }),
    }
}

pub(crate) fn verification_report() -> VerificationReport {
    let vm = |name: &str, summary, failed, unverified| VmVerification {
        vm_resource_id: VM_ID.replace("prod-db-vm", name),
        vm_name: name.into(),
        summary: Some(summary),
        failed,
        unverified,
    };
    let good = VerificationSummary {
        total: 23,
        passed: 23,
        last_verified_unix_ms: NOW + 9_000_000,
        ..VerificationSummary::default()
    };
    let bad = VerificationSummary {
        total: 9,
        passed: 1,
        failed: 1,
        unverified: 7,
        verified_earlier: 2,
        last_verified_unix_ms: NOW,
        content_compared: 1,
    };
    let overall = VerificationSummary { total: 32, passed: 24, ..bad };
    let failed = FailedVerification {
        recovery_point: "staging-vm-backup-daily-20251125-0800".into(),
        region: "eastus".into(),
        failed_unix_ms: NOW,
        error: "the OS disk has 0 bytes instead of 68719476736, 0 were read".into(),
    };
    let unverified = (0..7).map(|n| format!("staging-vm-backup-daily-2025111{n}-0800")).collect();
    VerificationReport {
        vms: vec![
            vm("prod-db-vm", good, vec![], vec![]),
            vm("staging-vm", bad, vec![failed], unverified),
        ],
        overall: Some(overall),
    }
}

/// Of all VMs, or of one: `untested` has no test, and drills of `flaky` fail.
pub(crate) fn success_rate(vm: &str) -> DrSuccessRate {
    let of = |name: &str, total, passed| DrSuccess {
        vm_resource_id: VM_ID.replace("prod-db-vm", name),
        vm_name: name.into(),
        total,
        passed,
        failed: total - passed,
        meets_target: total > 0 && total == passed,
    };
    let all = |total, passed| {
        let (vm_resource_id, vm_name) = (String::new(), String::new());
        Some(DrSuccess { vm_resource_id, vm_name, ..of("", total, passed) })
    };
    let untested = vec![VM_ID.replace("prod-db-vm", "staging-vm")];
    let (vms, overall, compliance, untested) = match vm {
        "untested" => (vec![], all(0, 0), DrCompliance::NoTests, untested),
        "flaky" => (vec![of(vm, 12, 11)], all(12, 11), DrCompliance::Failing, vec![]),
        "" => {
            let vms = vec![of("prod-db-vm", 12, 12), of("prod-app-vm", 24, 24)];
            (vms, all(36, 36), DrCompliance::Incomplete, untested)
        }
        vm => (vec![of(vm, 12, 12)], all(12, 12), DrCompliance::Passing, vec![]),
    };
    DrSuccessRate { vms, overall, target_per_mille: 999, compliance: compliance.into(), untested }
}

pub(crate) fn replication_jobs() -> ListReplicationJobsResponse {
    let mut jobs = replication().entries;
    for job in &mut jobs {
        job.vm_resource_id = VM_ID.into();
        job.vm_name = "prod-db-vm".into();
        job.started_unix_ms = NOW;
    }
    jobs[2].started_unix_ms = 0;
    jobs[2].error = "job 1235 on disk chains prod-db-vm in westus2".into();
    jobs.push(ReplicationEntry {
        job_id: 1180,
        state: ReplicaState::Failed as i32,
        error: "the copy has stood at 40 % since 2025-11-20T09:00:00Z".into(),
        finished_unix_ms: NOW,
        eta_secs: 0,
        ..jobs[0].clone()
    });
    ListReplicationJobsResponse { jobs, more: false }
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

fn undone(step: JobStep) -> JobStep {
    JobStep { state: StepState::Undone as i32, ..step }
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
                undone(step("create_disks", "Creating test disk from snapshot", 0, 40)),
                undone(step("read_disks", "Verifying disk properties", 40, 60)),
                step("check", "Comparing with the catalogue", 100, 8),
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
                    ..VerifiedDisk::default()
                }],
                content: None,
            }),
        ),
        "verify_content" => {
            let mut verified = job(id, "verify");
            let words = "300 of 300 sampled blocks equal, out of 182044 with data; a change of 1 % of \
                         a disk's blocks would be missed with probability 0.049 (1 in 20)";
            let result = verified.result.as_mut().and_then(|r| r.result.as_mut());
            if let Some(job_result::Result::Verify(result)) = result {
                let disk = &mut result.disks[0];
                (disk.blocks, disk.sampled, disk.equal) = (Some(182_044), Some(300), Some(300));
                result.content = Some(ContentProof {
                    blocks: 182_044,
                    sampled: 300,
                    equal: 300,
                    missed_probability: 0.0486,
                    change_per_mille: 10,
                    words: words.into(),
                    whole: false,
                });
            }
            return verified;
        }
        "verify_whole" => {
            let mut verified = job(id, "verify");
            let words = "all 182044 blocks with data equal, and the rest as empty as it was: every byte was \
                         compared";
            let result = verified.result.as_mut().and_then(|r| r.result.as_mut());
            if let Some(job_result::Result::Verify(result)) = result {
                let disk = &mut result.disks[0];
                let all = Some(182_044);
                (disk.blocks, disk.sampled, disk.equal) = (all, all, all);
                result.content = Some(ContentProof {
                    blocks: 182_044,
                    sampled: 182_044,
                    equal: 182_044,
                    missed_probability: 0.0,
                    change_per_mille: 10,
                    words: words.into(),
                    whole: true,
                });
            }
            return verified;
        }
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
                region: String::new(),
                rpo_ms: 0,
                evidence: evidence(),
            }),
        ),
        "failover" => (
            vec![step("machine", "Creating the new VM", 0, 400)],
            500,
            job_result::Result::Restore(RestoreResult {
                recovery_point: POINT.into(),
                vm_resource_id: VM_ID.replace("prod-db-vm", "prod-db-vm-westus2"),
                rto_ms: 480_000,
                phases: vec![phase("machine", 400), phase("boot", 80)],
                power_state: String::new(),
                witness_verified: true,
                ssh_verified: false,
                unconfirmed: String::new(),
                kept_disks: vec![],
                region: "westus2".into(),
                rpo_ms: 7_500_000,
                evidence: vec![],
            }),
        ),
        "replicate_all" | "verify_all" | "dr_test_all" | "nothing" => (
            vec![step("parts", "Running the parts", 0, 1122)],
            1122,
            job_result::Result::Bulk(BulkResult {
                what: match workflow {
                    "dr_test_all" => "dr_test".into(),
                    "verify_all" => "verify".into(),
                    _ => "replicate".into(),
                },
                total: items(workflow).len() as u32,
                succeeded: items(workflow).len() as u32,
                failed: 0,
                skipped: match workflow {
                    "replicate_all" => vec![SkippedItem {
                        name: "prod-db-vm-backup-daily-20251120-0800".into(),
                        why: "prod-db-vm-backup-daily-20251120-0800 is older than \
                              prod-db-vm-backup-daily-20251126-0800, which is in westus2 already"
                            .into(),
                    }],
                    _ => vec![],
                },
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
                evidence: evidence(),
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
    let items = items(workflow);
    let is_bulk = workflow.ends_with("_all") || workflow == "nothing";
    Job {
        id,
        workflow: if is_bulk { "bulk".into() } else { workflow.into() },
        items,
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
    for item in &mut job.items {
        let (state, job_id) = (JobState::Queued as i32, 0);
        *item =
            JobItem { name: item.name.clone(), state, job_id, percent: -1.0, ..JobItem::default() };
    }
    if let Some(first) = job.items.first_mut() {
        (first.state, first.job_id, first.percent) = (JobState::Running as i32, 50, 40.0);
        first.started_unix_ms = NOW;
    }
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

/// What people and Azure may write, and what is easily taken for something else.
pub(crate) const STRANGE: &[&str] = &[
    "no",
    "NULL",
    "1e3",
    "0x1f",
    "2026-01-01",
    "12:30:45",
    "-",
    "- x: y #z",
    "one\ntwo\r\nthree\n",
    " spaces ",
    "a\u{0}b",
    "\u{1b}[2J\u{9b}31m\u{7f}",
    "\u{202e}\u{5e9}\u{5dc}\u{5d5}\u{5dd}\u{2066}",
    "\u{2028}\u{feff}",
    "\u{1f980} \u{4e2d}\u{6587}",
    "say \"hi\", 'he' said\\",
    "=HYPERLINK(\"https://example.org\",\"x\")",
    "  +1",
    "@SUM(1)",
    "'quoted",
    "\t=1",
];

/// A job of which everything that is a text is this one.
pub(crate) fn strange_job(text: &str) -> Job {
    let mut job = failed(job(20, "backup"), JobState::Failed);
    for field in [
        &mut job.vm_name,
        &mut job.vm_resource_id,
        &mut job.workflow,
        &mut job.requested_by,
        &mut job.waiting_for,
        &mut job.note,
        &mut job.recovery_point,
    ] {
        *field = text.to_owned();
    }
    job.would_delete = vec![text.to_owned()];
    job.error = Some(JobError {
        kind: text.to_owned(),
        message: text.to_owned(),
        hint: text.to_owned(),
        resource: text.to_owned(),
        azure_request_id: text.to_owned(),
    });
    job
}
