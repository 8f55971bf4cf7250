//! What each command line of the guide must do, in the guide's order.
//!
//! Told facts are the guide's own, in its order. Where azdr says more, or another number, the line says
//! what the guide's reader needs; where it differs on purpose, a comment says why.

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use serde_json::{Value, json};

use super::terminal::Seen;
use super::world::{DB, FILE, GROUP, SETTLE, Stay, november, point};

/// A command line, and what it must do.
pub(super) struct Step {
    pub(super) line: &'static str,
    /// What is typed when it asks.
    pub(super) answers: &'static [&'static str],
    pub(super) code: i32,
    /// In this order.
    pub(super) told: &'static [&'static str],
    /// What happens between this line and the one before it.
    pub(super) before: Option<fn(&mut Stay) -> Result<()>>,
    /// What the world must be like then.
    pub(super) after: Option<fn(&mut Stay, &Seen) -> Result<()>>,
}

const fn line(line: &'static str, told: &'static [&'static str]) -> Step {
    Step { line, answers: &[], code: 0, told, before: None, after: None }
}

impl Step {
    const fn before(mut self, before: fn(&mut Stay) -> Result<()>) -> Self {
        self.before = Some(before);
        self
    }

    const fn after(mut self, after: fn(&mut Stay, &Seen) -> Result<()>) -> Self {
        self.after = Some(after);
        self
    }

    const fn answered(mut self, answers: &'static [&'static str]) -> Self {
        self.answers = answers;
        self
    }

    const fn fails(mut self, code: i32) -> Self {
        self.code = code;
        self
    }
}

/// The guide's commands of other programs, which are not azdr's to answer.
pub(super) const FOREIGN: &[&str] = &[
    "az role assignment list --assignee $(az account show --query user.name -o tsv)",
    "az snapshot show --name backup-name --resource-group Production",
    "az snapshot show --name target-snapshot-name --resource-group Production",
    "az vm list-usage --location eastus -o table",
    "az vm show --name prod-db-vm --resource-group Production",
    "az vm show --name prod-db-vm-dr-test-20251201 --resource-group DR-Testing",
    "ssh user@prod-db-vm.westus2.cloudapp.azure.com",
];

pub(super) const STORY: &[Step] = &[
    // Quick Start.
    line(
        "azlin backup configure my-vm --daily-retention 7",
        &[
            "✓ Backup schedule configured for my-vm\n",
            "  Daily retention: 7 days\n",
            "Configuration saved to VM tags (azlin:backup-schedule)\n",
        ],
    )
    .after(policy_is_on_the_vm),
    line(
        "azlin backup trigger my-vm",
        &[
            "Creating backup for my-vm...\n",
            "  Retention tier: daily (7 days)\n",
            "  Snapshot: my-vm-backup-daily-20251201-07",
            "✓ Backup created successfully\n",
            "  Size: 96 MB\n",
            "  Time: ",
        ],
    )
    .after(frozen_throughout),
    line(
        "azlin backup list my-vm",
        &["Backups for my-vm (1 total):\n\nDaily (1):\n", "my-vm-backup-daily-20251201-07", "  96 MB  "],
    ),
    // By VM and date: there is one.
    line(
        "azlin backup restore my-vm --backup my-vm-backup-daily-20251201",
        &[
            "Restoring my-vm from backup...\n",
            "  Backup: my-vm-backup-daily-20251201-07",
            "✓ Restore complete\n",
        ],
    )
    .answered(&["yes"])
    .after(my_vm_runs_on_other_disks),
    // Configure Backup Schedule. What is not named stays as it is.
    line(
        "azlin backup configure prod-db-vm --daily-retention 7",
        &["✓ Backup schedule configured for prod-db-vm\n", "  Daily retention: 7 days\n"],
    ),
    line(
        "azlin backup configure prod-app-vm --daily-retention 7 --weekly-retention 4 --monthly-retention 12",
        &[
            "✓ Backup schedule configured for prod-app-vm\n",
            "  Daily retention: 7 days\n  Weekly retention: 4 weeks\n  Monthly retention: 12 months\n",
        ],
    ),
    line(
        "azlin backup configure critical-vm --daily-retention 7 --weekly-retention 4 \
         --monthly-retention 12 --cross-region --target-region westus2",
        &[
            "✓ Backup schedule configured for critical-vm\n",
            "  Daily retention: 7 days\n  Weekly retention: 4 weeks\n  Monthly retention: 12 months\n",
            "  Cross-region replication: enabled → westus2\n",
            "\nConfiguration saved to VM tags (azlin:backup-schedule)\n",
        ],
    ),
    // View Current Configuration.
    line(
        "azlin backup config-show prod-db-vm",
        &[
            "Backup Configuration for prod-db-vm:\n",
            "  Status: Enabled\n",
            "  Daily retention: 7 days (last: 2025-12-01 07:00)\n",
            "  Weekly retention: 4 weeks (last: 2025-11-30 08:00)\n",
            "  Monthly retention: 12 months (last: 2025-12-01 07:00)\n",
            "  Cross-region: enabled → westus2\n",
            "  Total backups: 10 (daily: 5, weekly: 3, monthly: 2)\n",
        ],
    )
    .before(copies_are_wanted),
    // Disable Backups.
    line(
        "azlin backup disable prod-db-vm",
        &["✓ Backups disabled for prod-db-vm\n", "  Kept: 10 backups\n"],
    )
    .after(disabled_and_all_is_kept),
    // Trigger Backup Manually.
    line(
        "azlin backup trigger prod-db-vm",
        &[
            "Creating backup for prod-db-vm...\n",
            "  Retention tier: daily (7 days)\n",
            "  Snapshot: prod-db-vm-backup-daily-20251201-0800\n",
            "✓ Backup created successfully\n",
            "  Size: 128 MB\n",
            "  Time: ",
            "  Cross-region replication: queued → westus2",
        ],
    )
    .before(eight_o_clock)
    .after(its_copy_is_cancelled),
    line(
        "azlin backup trigger prod-db-vm --tier weekly",
        &["  Retention tier: weekly (4 weeks)\n", "  Snapshot: prod-db-vm-backup-weekly-20251201-08"],
    ),
    // List Backups. The last Sunday's is a weekly one, the month's first a monthly one.
    line(
        "azlin backup list prod-db-vm",
        &[
            "Backups for prod-db-vm (12 total):\n\nDaily (6):\n",
            "  prod-db-vm-backup-daily-20251201-0800  128 MB  unverified  ",
            "  prod-db-vm-backup-daily-20251129-0800  128 MB  ",
            "  prod-db-vm-backup-daily-20251125-0800  128 MB  ",
            "\nWeekly (4):\n",
            "  prod-db-vm-backup-weekly-20251201-08",
            "  prod-db-vm-backup-weekly-20251130-0800  128 MB  ",
            "  prod-db-vm-backup-weekly-20251124-0800  128 MB  verified ✓  replicated ✓ ",
            "  prod-db-vm-backup-weekly-20251117-0800  128 MB  unverified  replicated ✓ ",
            "\nMonthly (2):\n",
            "  prod-db-vm-backup-monthly-20251201-0700  128 MB  ",
            "  prod-db-vm-backup-monthly-20251101-0800  128 MB  unverified  replicated ✓ ",
        ],
    ),
    // Those that carry the tier, each under its highest.
    line(
        "azlin backup list prod-db-vm --tier weekly",
        &[
            "Backups for prod-db-vm (5 total):\n\nWeekly (4):\n",
            "-weekly-20251201-08",
            "-weekly-20251130-0800",
            "-weekly-20251124-0800",
            "-weekly-20251117-0800",
            "\nMonthly (1):\n",
            "-monthly-20251101-0800",
        ],
    ),
    line(
        "azlin backup list prod-db-vm --since 7d",
        &["Backups for prod-db-vm (9 total):\n", "-daily-20251201-0800", "-daily-20251125-0800"],
    )
    .before(two_past_eight)
    .after(nothing_older_is_listed),
    // Restore from Backup.
    line(
        "azlin backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800",
        &[
            "Restoring prod-db-vm from backup...\n",
            "  Backup: prod-db-vm-backup-daily-20251201-0800\n",
            "  Size: 128 MB\n",
            "  Created: 2025-12-01 08:00:",
            " UTC\n",
            "⚠ WARNING: This will replace 3 disks of the VM\n",
            "  Current VM will be stopped during restore\n",
            "  Estimated downtime: ",
            "Proceed? (yes/no): yes\n",
            "Stopping VM...",
            "Swapping OS disk...",
            "Starting VM...",
            "✓ Restore complete\n",
            "  RTO (Recovery Time): ",
            "  VM status: Running\n",
            "  SSH connectivity: verified\n",
        ],
    )
    .answered(&["yes"])
    .before(the_disk_is_corrupted)
    .after(the_file_is_as_at_eight),
    line(
        "azlin backup restore prod-db-vm --interactive",
        &[
            "  1  prod-db-vm-backup-weekly-20251201-08",
            "  2  prod-db-vm-backup-daily-20251201-0800 ",
            " 12  prod-db-vm-backup-monthly-20251101-0800 ",
            "Restore which backup? (1-12): 2\n",
            "  Backup: prod-db-vm-backup-daily-20251201-0800\n",
            "Proceed? (yes/no): yes\n",
            "✓ Restore complete\n",
        ],
    )
    .answered(&["2", "yes"])
    .before(the_disk_is_corrupted)
    .after(the_file_is_as_at_eight),
    // There is no public address to probe: SSH is not verified, and that is said.
    line(
        "azlin backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800 \
         --new-vm prod-db-vm-restored",
        &[
            "  Backup: prod-db-vm-backup-daily-20251201-0800\n",
            "✓ Restore complete\n",
            "  RTO (Recovery Time): ",
            "  VM status: Running\n",
            "  SSH connectivity: not verified\n",
            "  Recovery point shown by agent: yes\n",
        ],
    )
    .before(the_disk_is_corrupted)
    .after(the_new_vm_has_the_data_and_the_old_one_is_left_alone),
    // Replicate Specific Backup.
    line(
        "azlin backup replicate prod-db-vm-backup-daily-20251201-0800 --target-region westus2",
        &[
            "Replicating backup to westus2...\n",
            "  Source: prod-db-vm-backup-daily-20251201-0800 (eastus)\n",
            "  Target: prod-db-vm-backup-daily-20251201-0800 (westus2)\n",
            "  Size: 128 MB\n",
            "\nReplication started (job ID: ",
            "Estimated time: ",
            "\nTrack progress: azdr backup replication-status prod-db-vm\n",
            "⚠ WARNING: 7 older backups can never be copied to westus2 once this one is",
            "✓ Replication complete\n",
        ],
    )
    .after(|stay, _| stay.is_copied(&point("daily-20251201-0800"))),
    // Replicate All Unreplicated Backups. Azure copies a disk's snapshots in the order of their creation:
    // what is older than the newest copy can never follow, and is named.
    line(
        "azlin backup replicate-all prod-db-vm --target-region westus2",
        &[
            "Found 3 unreplicated backups for prod-db-vm\n",
            "[1/3] prod-db-vm-backup-weekly-20251201-08",
            "✓ All replications complete (3/3 succeeded)\n",
            "  Total time: ",
            "-daily-20251125-0800 is older than ",
        ],
    )
    .before(two_more_backups)
    .after(all_newer_ones_are_copied),
    // Three disks are three chains; of each disk the oldest goes first, and the others wait.
    line(
        "azlin backup replicate-all prod-db-vm --target-region westus2 --max-parallel 3",
        &[
            "Found 2 unreplicated backups for prod-db-vm\n",
            "in parallel (max 3 disks)",
            "  [1/2] prod-db-vm-backup-daily-20251201-08",
            "  ⟳ in progress",
            "  [2/2] prod-db-vm-backup-daily-20251201-08",
            "  ⏸ queued",
            "✓ All replications complete (2/2 succeeded)\n",
            "  Total time: ",
        ],
    )
    .before(two_more_backups)
    .after(all_newer_ones_are_copied),
    // Check Replication Status.
    line(
        "azlin backup replication-status prod-db-vm",
        &[
            "Replication Status for prod-db-vm:\n",
            "\nIn Progress (1):\n  Job ",
            ": daily-20251201-08",
            " → westus2  [",
            "] 70%",
            "\nQueued (1):\n  Job ",
            "\nCompleted (",
            "  Job ",
            " → westus2  ✓  ",
            ": weekly-20251124-0800 → westus2  ✓  ",
            "\nFailed (1):\n  Job ",
        ],
    )
    .before(one_copies_one_waits_one_failed),
    line(
        "azlin backup replication-jobs",
        &["\nIn Progress (1):\n", " 70%", "\nPending (1):\n", "\nCompleted (", "\nFailed (2):\n", "✗"],
    ),
    line("azlin backup replication-jobs --status pending", &["\nPending (1):\n  Job ", " → westus2"])
        .after(no_other_section),
    line("azlin backup replication-jobs --status failed", &["\nFailed (2):\n  Job ", "✗  "])
        .after(copying_is_cancelled),
    // Verify Single Backup.
    line(
        "azlin backup verify prod-db-vm-backup-daily-20251201-0800",
        &[
            "Verifying backup prod-db-vm-backup-daily-20251201-0800...\n",
            "Creating test disk from snapshot...",
            "✓",
            "Verifying disk properties...",
            "✓",
            "  - Size matches: 64 MB\n",
            "  - Status: ",
            "  - Readable: Yes",
            "Deleting test disks...",
            "✓",
            "✓ Backup verified successfully\n",
            "  Verification time: ",
            "  Result: PASS - backup is restorable\n",
        ],
    )
    .after(proved_and_nothing_left),
    // Verify All Backups.
    line(
        "azlin backup verify-all prod-db-vm",
        &[
            "Found ",
            " unverified backups for prod-db-vm\n",
            "\nVerifying in parallel (max 2):\n",
            "] prod-db-vm-backup-",
            "  ✓  ",
            "✓ All verifications complete (",
            " passed)\n",
            "  Total time: ",
            "  Success rate: 100%\n",
        ],
    )
    .after(all_are_proved),
    line(
        "azlin backup verify-all prod-db-vm --max-parallel 2",
        &[
            "Found 2 unverified backups for prod-db-vm\n",
            "\nVerifying in parallel (max 2):\n",
            "[1/2] ",
            "[2/2] ",
            "✓ All verifications complete (2/2 passed)\n",
            "  Total time: ",
            "  Success rate: 100%\n",
        ],
    )
    .before(two_more_backups)
    .after(all_are_proved),
    // Verification Report. Verified more than seven days ago does not count in seven days.
    line(
        "azlin backup verification-report --vm prod-db-vm --days 7",
        &[
            "Backup Verification Report (Last 7 Days)\n",
            "\nVM: prod-db-vm\n",
            "  Total backups: ",
            "  Verified: ",
            "  Success rate: 100% (",
            " passed)\n",
            "  Last verified: 2025-12-01 08:",
            " UTC\n",
            "  Failed verifications: 0\n",
            "  Unverified backups: 1 (1 verified earlier)\n",
        ],
    ),
    line(
        "azlin backup verification-report --days 30",
        &[
            "Backup Verification Report (Last 30 Days)\n",
            "\nVM: prod-db-vm\n",
            "\nVM: staging-vm\n",
            "  Failed verifications: 1\n",
            "\nOverall Statistics:\n",
            "  Total backups across all VMs: ",
            "  Verified: ",
            " (100%)\n",
            "  Success rate: ",
            "\nFailed Verifications:\n  staging-vm-backup-daily-20251125-0800 ",
            "    Error: ",
            "Disk size mismatch (expected 64GB, got 0GB)",
            "    Action required: ",
        ],
    ),
    // Run DR Test.
    line("azlin dr test prod-db-vm --test-region westus2", DRILL).after(drilled_and_nothing_left),
    line(
        "azlin dr test prod-db-vm --backup prod-db-vm-backup-weekly-20251124-0800 --test-region westus2",
        &["  Backup: prod-db-vm-backup-weekly-20251124-0800\n", "✓ DR test PASSED\n"],
    )
    .after(drilled_and_nothing_left),
    line(
        "azlin dr test prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800 \
         --test-region westus2 --test-resource-group DR-Testing",
        &["  Backup: prod-db-vm-backup-daily-20251201-0800\n", "✓ DR test PASSED\n"],
    )
    .before(drills_are_seen_in_dr_testing)
    .after(drilled_in_dr_testing),
    // Run All Scheduled DR Tests.
    line("azlin dr test-all", ALL_DRILLS).before(three_vms_are_copied),
    line("azlin dr test-all --resource-group Production-VMs", ALL_DRILLS)
        .before(a_fourth_could_not_be_tested)
        .after(the_fourth_is_none_any_more),
    // DR Test History.
    line(
        "azlin dr test-history prod-db-vm --days 30",
        &[
            "DR Test History for prod-db-vm (Last 30 Days)\n\nRecent Tests (6):\n",
            "  2025-12-01 08:",
            "  ✓ PASS  RTO: ",
            "  westus2",
            "  2025-11-24 08:00  ✓ PASS  RTO: ",
            "  westus2",
            "\nStatistics:\n  Total tests: 6\n  Passed: 6 (100%)\n  Failed: 0 (0%)\n",
            "  Average RTO: ",
            "  Max RTO: ",
            " (within 15m target ✓)\n",
        ],
    ),
    line(
        "azlin dr test-history --days 90",
        &[
            "DR Test History (Last 90 Days)\n\nRecent Tests (10):\n",
            "prod-db-vm ",
            "  Total tests: 10\n  Passed: 10 (100%)\n",
        ],
    ),
    // DR Success Rate.
    line(
        "azlin dr success-rate --vm prod-db-vm --days 90",
        &[
            "DR Success Rate (Last 90 Days)\n\nVM: prod-db-vm\n",
            "  Total tests: 6\n  Passed: 6 (100%)\n  Failed: 0 (0%)\n  Success rate: 100% ✓\n  Target: 99.9%\n",
        ],
    ),
    line(
        "azlin dr success-rate --days 90",
        &[
            "DR Success Rate (Last 90 Days)\n",
            "\nOverall (All VMs):\n  Total tests: 10\n  Passed: 10 (100%)\n  Failed: 0 (0%)\n",
            "  Success rate: 100% ✓\n  Target: 99.9%\n",
            "\nCompliance: PASSING\n",
        ],
    ),
    // Scenario 1: VM Corruption.
    line("azlin backup list prod-db-vm", &["  prod-db-vm-backup-daily-20251201-0800 ", "128 MB  verified ✓"])
        .before(the_disk_is_corrupted),
    line(
        "azlin backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800",
        &["✓ Restore complete\n", "  VM status: Running\n", "  SSH connectivity: verified\n"],
    )
    .answered(&["yes"])
    .after(the_file_is_as_at_eight),
    // azdr opens no shell on a VM, and says what does.
    line("azlin ssh prod-db-vm \"systemctl status\"", &["Run: ssh prod-db-vm 'systemctl status'\n"])
        .fails(2),
    // Scenario 2: Region Outage. The primary region is down in these two.
    line(
        "azlin backup replication-status prod-db-vm",
        &["\nCompleted (", ": daily-20251201-0800 → westus2  ✓  "],
    )
    .before(the_primary_region_is_down),
    line(
        "azlin dr test prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800 --test-region westus2",
        &["  Backup: prod-db-vm-backup-daily-20251201-0800\n", "✓ DR test PASSED\n"],
    )
    .after(the_primary_region_is_back),
    // Scenario 3: Data Loss.
    line(
        "azlin backup list prod-db-vm --since 7d",
        &["  prod-db-vm-backup-monthly-20251201-0700  128 MB  "],
    )
    .before(the_file_is_deleted),
    // The month's first backup carries all tiers: its name says the highest, any of them finds it.
    line(
        "azlin backup verify prod-db-vm-backup-daily-20251201-0700",
        &[
            "Verifying backup prod-db-vm-backup-monthly-20251201-0700...\n",
            "  Result: PASS - backup is restorable\n",
        ],
    ),
    line(
        "azlin backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0700",
        &["  Backup: prod-db-vm-backup-monthly-20251201-0700\n", "✓ Restore complete\n"],
    )
    .answered(&["yes"])
    .after(the_file_is_as_at_seven),
    line(
        "azlin ssh prod-db-vm \"ls -la /data/critical-files\"",
        &["Run: ssh prod-db-vm 'ls -la /data/critical-files'\n"],
    )
    .fails(2),
    // Scenario 4: Compliance Testing.
    line("azlin dr test-all", ALL_DRILLS),
    line(
        "azlin dr success-rate --days 90",
        &["  Success rate: 100% ✓\n  Target: 99.9%\n", "\nCompliance: PASSING\n"],
    ),
    line(
        "azlin backup verification-report --days 90",
        &["Backup Verification Report (Last 90 Days)\n", "\nOverall Statistics:\n"],
    ),
    line("azlin dr test-history --days 90 > quarterly-dr-report.txt", &[]).after(the_report_is_a_file),
    // Replication Stuck "In Progress".
    line(
        "azlin backup replication-jobs --status in_progress",
        &["\nIn Progress (1):\n  Job ", " → westus2  [", "] 40%"],
    )
    .before(a_copy_is_stuck)
    .after(copying_is_cancelled),
    // A placeholder in the guide: nothing bears that name, and what a point is called is said.
    line(
        "azlin backup replicate source-snapshot-name --target-region westus2",
        &["there is no recovery point \"source-snapshot-name\"", "Hint: ", "azdr backup list"],
    )
    .fails(1)
    .after(the_real_name_works),
    // Verification Fails.
    line(
        "azlin backup trigger prod-db-vm --tier daily",
        &["  Retention tier: daily (7 days)\n", "  Snapshot: prod-db-vm-backup-daily-20251201-0900\n"],
    )
    .before(nine_o_clock),
    line(
        "azlin backup verify prod-db-vm-backup-daily-20251201-0900",
        &["✓ Backup verified successfully\n", "  Result: PASS - backup is restorable\n"],
    ),
    // DR Test Fails.
    line("azlin backup list prod-db-vm", &["  prod-db-vm-backup-daily-20251201-0900 ", "128 MB  verified ✓"]),
    line(
        "azlin dr test prod-db-vm --backup prod-db-vm-backup-weekly-20251124-0800 --test-region westus2",
        &["  Test VM: prod-db-vm-dr-test-20251201", "✓ DR test PASSED\n"],
    )
    .after(drilled_and_nothing_left),
    // High Storage Costs.
    line(
        "azlin backup config-show prod-db-vm",
        &[
            "  Status: Enabled\n  Daily retention: 7 days (last: 2025-12-01 09:00)\n",
            "  Cross-region: enabled → westus2\n",
        ],
    ),
    line(
        "azlin backup configure prod-db-vm --daily-retention 3 --weekly-retention 2 --monthly-retention 6",
        &["  Daily retention: 3 days\n  Weekly retention: 2 weeks\n  Monthly retention: 6 months\n"],
    )
    .after(less_is_kept),
    line(
        "azlin backup configure staging-vm --daily-retention 3 --no-cross-region",
        &["  Daily retention: 3 days\n  Cross-region replication: disabled\n"],
    ),
];

const DRILL: &[&str] = &[
    "Starting DR test for prod-db-vm...\n",
    "  Backup: prod-db-vm-backup-",
    "  Test region: westus2\n",
    "  Test VM: prod-db-vm-dr-test-20251201",
    "Phase 1: Restore backup to test VM...",
    "✓",
    "Phase 2: Verify VM boots successfully...",
    "✓",
    "Phase 3: Verify SSH connectivity...",
    "✓",
    "Phase 4: Cleanup test resources...",
    "✓",
    "✓ DR test PASSED\n",
    "  RTO (Recovery Time Objective): ",
    "  Target: <15 minutes ✓\n",
    "  Test results:\n    - Restore: SUCCESS\n    - Boot: SUCCESS\n    - Connectivity: SUCCESS\n    - Cleanup: SUCCESS\n",
];

const ALL_DRILLS: &[&str] = &[
    "Running DR tests...\n",
    "[1/3] ",
    "[2/3] ",
    "[3/3] ",
    "  ✓  ",
    "  RTO: ",
    "✓ All DR tests passed (3/3 passed)\n",
    "  Average RTO: ",
    "  Target: <15 minutes ✓\n",
    "  Success rate: 100%\n",
];

const AT_SEVEN: &[u8] = super::world::AT_SEVEN;
const AT_EIGHT: &[u8] = b"as it was at eight";
const CORRUPTED: &[u8] = b"#@!%";

fn policy_is_on_the_vm(stay: &mut Stay, _: &Seen) -> Result<()> {
    let listing = stay.lab.simulator.listing()?;
    let vm = listing.vm("Development", "my-vm")?;
    ensure!(vm.tag("azlin:backup-schedule").is_some(), "no tag: {:#}", vm.record());
    Ok(())
}

fn frozen_throughout(stay: &mut Stay, _: &Seen) -> Result<()> {
    let point = &stay.lab.azdr.points("my-vm")?[0];
    ensure!(point["consistency"] == "filesystem", "{point:#}");
    Ok(())
}

fn my_vm_runs_on_other_disks(stay: &mut Stay, _: &Seen) -> Result<()> {
    let listing = stay.lab.simulator.listing()?;
    let disks = listing.disks_of(listing.vm("Development", "my-vm")?);
    ensure!(disks.iter().all(|id| id.contains("azdr-restore")), "it runs on {disks:#?}");
    Ok(())
}

fn copies_are_wanted(stay: &mut Stay) -> Result<()> {
    stay.azdr(&["backup", "configure", DB, "--cross-region", "--target-region", "westus2"])
}

fn disabled_and_all_is_kept(stay: &mut Stay, _: &Seen) -> Result<()> {
    let config = stay.json(&["backup", "config-show", DB])?;
    ensure!(config["enabled"] == false && config["total_recovery_points"] == 10, "{config:#}");
    Ok(())
}

/// Backups are on again. Copies that begin come to a stand.
fn eight_o_clock(stay: &mut Stay) -> Result<()> {
    stay.machine()?.write(FILE, AT_EIGHT)?;
    stay.azdr(&["backup", "configure", DB, "--daily-retention", "7"])?;
    copies_are_wanted(stay)?;
    stay.fault(copies(3, json!({"stall_copy_at_percent": 40.0})))?;
    stay.at(november(31, 8, 0))
}

/// All of the backups of eight o'clock a week ago are older than a week.
fn two_past_eight(stay: &mut Stay) -> Result<()> {
    stay.at(november(31, 8, 2))
}

/// What happens to the next copies of disks.
fn copies(disks: u32, action: Value) -> Value {
    let copies = json!({"method": "PUT", "resource_type": "Microsoft.Compute/snapshots",
        "path_contains": "azdr-westus2", "count": disks});
    json!({"match": copies, "action": action})
}

fn its_copy_is_cancelled(stay: &mut Stay, seen: &Seen) -> Result<()> {
    copying_is_cancelled(stay, seen)?;
    stay.azdr(&["backup", "configure", DB, "--no-cross-region"])
}

/// Those that wait first: else one would take the other's place.
fn copying_is_cancelled(stay: &mut Stay, _: &Seen) -> Result<()> {
    for status in ["pending", "in_progress"] {
        let jobs = stay.json(&["backup", "replication-jobs", "--status", status])?;
        for job in jobs["jobs"].as_array().context("jobs")? {
            let id = job["job_id"].as_i64().context("a job's number")?;
            stay.azdr(&["job", "cancel", &id.to_string()])?;
        }
    }
    stay.settle()?;
    stay.no_faults()
}

fn nothing_older_is_listed(_: &mut Stay, seen: &Seen) -> Result<()> {
    ensure!(!seen.screen.contains("20251124"), "it is older than seven days");
    Ok(())
}

fn the_disk_is_corrupted(stay: &mut Stay) -> Result<()> {
    stay.machine()?.write(FILE, CORRUPTED)
}

fn the_file_is(stay: &Stay, content: &[u8]) -> Result<()> {
    let found = stay.machine()?.read(FILE)?;
    let words = found.as_deref().map(String::from_utf8_lossy);
    ensure!(found.as_deref() == Some(content), "the file is {words:?}");
    Ok(())
}

fn the_file_is_as_at_eight(stay: &mut Stay, _: &Seen) -> Result<()> {
    the_file_is(stay, AT_EIGHT)
}

fn the_file_is_as_at_seven(stay: &mut Stay, _: &Seen) -> Result<()> {
    the_file_is(stay, AT_SEVEN)
}

fn the_new_vm_has_the_data_and_the_old_one_is_left_alone(stay: &mut Stay, _: &Seen) -> Result<()> {
    the_file_is(stay, CORRUPTED)?;
    let new = stay.lab.machine(GROUP, "prod-db-vm-restored")?;
    ensure!(new.read(FILE)?.as_deref() == Some(AT_EIGHT), "the data are not there");
    ensure!(stay.lab.simulator.listing()?.vm(GROUP, &new.name)?.is_running(), "it does not run");
    Ok(())
}

fn two_more_backups(stay: &mut Stay) -> Result<()> {
    stay.back_up(DB)?;
    stay.back_up(DB)
}

fn all_newer_ones_are_copied(stay: &mut Stay, _: &Seen) -> Result<()> {
    let points = stay.lab.azdr.points(DB)?;
    for point in points.iter().take_while(|p| p["name"] != point("daily-20251201-0800").as_str()) {
        stay.is_copied(point["name"].as_str().context("a name")?)?;
    }
    Ok(())
}

fn one_copies_one_waits_one_failed(stay: &mut Stay) -> Result<()> {
    for _ in 0..3 {
        stay.back_up(DB)?;
    }
    let points = stay.lab.azdr.points(DB)?;
    let replicate = |n: usize| -> Result<[&str; 5]> {
        let name = points[n]["name"].as_str().context("a name")?;
        Ok(["backup", "replicate", name, "--target-region", "westus2"])
    };
    let broken = json!({"percent": 10.0, "code": "CopySourceNotFound", "message": "it broke"});
    stay.fault(copies(1, json!({"fail_copy_at_percent": broken})))?;
    let failed = stay.lab.azdr.run(&replicate(2)?)?;
    ensure!(failed.code == 1, "{}", failed.words());
    stay.fault(copies(3, json!({"stall_copy_at_percent": 70.0})))?;
    stay.lab.azdr.start_job(&replicate(1)?)?;
    copied_to(stay, 70.0)?;
    stay.lab.azdr.start_job(&replicate(0)?)?;
    until("the next one waits", SETTLE, || {
        let pending = stay.json(&["backup", "replication-jobs", "--status", "pending"])?;
        let waits = pending["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1);
        Ok(if waits { Look::Done(()) } else { Look::Waiting(pending.to_string()) })
    })
}

/// Waits until a copy stands there.
fn copied_to(stay: &Stay, percent: f64) -> Result<()> {
    until("the copy has come to a stand", SETTLE, || {
        let jobs = stay.json(&["backup", "replication-jobs", "--status", "in_progress"])?;
        let stands = jobs["jobs"][0]["percent"].as_f64().is_some_and(|p| p >= percent);
        Ok(if stands { Look::Done(()) } else { Look::Waiting(jobs.to_string()) })
    })
}

fn no_other_section(_: &mut Stay, seen: &Seen) -> Result<()> {
    let others = ["In Progress", "Completed", "Failed"];
    ensure!(!others.iter().any(|other| seen.screen.contains(other)), "others are listed");
    Ok(())
}

fn proved_and_nothing_left(stay: &mut Stay, _: &Seen) -> Result<()> {
    let point = stay.point(&point("daily-20251201-0800"))?;
    ensure!(point["proof"] != "unproved", "{point:#}");
    let listing = stay.lab.simulator.listing()?;
    let left = listing.disks().into_iter().find(|disk| disk.name().contains("azdr-verify"));
    ensure!(left.is_none(), "{left:?} is left");
    Ok(())
}

fn all_are_proved(stay: &mut Stay, _: &Seen) -> Result<()> {
    let points = stay.lab.azdr.points(DB)?;
    let unproved = points.iter().find(|point| point["proof"] == "unproved");
    ensure!(unproved.is_none(), "{unproved:#?}");
    Ok(())
}

fn drilled_and_nothing_left(stay: &mut Stay, _: &Seen) -> Result<()> {
    let test = stay.newest_drill()?;
    ensure!(test["passed"] == true && test["region"] == "westus2", "{test:#}");
    let listing = stay.lab.simulator.listing()?;
    let left = listing.vms().into_iter().find(|vm| vm.name().contains("-dr-test-"));
    ensure!(left.is_none(), "{left:?} is left");
    let group = listing.groups().into_iter().find(|group| group.contains("drill"));
    ensure!(group.is_none(), "{group:?} is left");
    Ok(())
}

/// The next VM that is made there is counted.
fn drills_are_seen_in_dr_testing(stay: &mut Stay) -> Result<()> {
    let made = json!({"method": "PUT", "resource_type": "Microsoft.Compute/virtualMachines",
        "path_contains": "/DR-Testing/"});
    stay.fault(json!({"match": made, "action": {"delay_ms": 1}}))
}

fn drilled_in_dr_testing(stay: &mut Stay, seen: &Seen) -> Result<()> {
    let faults = stay.lab.simulator.faults()?;
    ensure!(faults.to_string().contains("\"matched\":1"), "no VM was made there: {faults}");
    stay.no_faults()?;
    drilled_and_nothing_left(stay, seen)?;
    let listing = stay.lab.simulator.listing()?;
    ensure!(listing.groups().contains(&"DR-Testing"), "somebody's group is gone");
    Ok(())
}

/// All three get copies of their backups from here on.
fn three_vms_are_copied(stay: &mut Stay) -> Result<()> {
    copies_are_wanted(stay)?;
    let copied = ["--cross-region", "--target-region", "westus2"];
    stay.azdr(&[&["backup", "configure", "prod-app-vm"], &copied[..]].concat())?;
    stay.back_up("prod-app-vm")?;
    stay.back_up("critical-vm")
}

fn a_fourth_could_not_be_tested(stay: &mut Stay) -> Result<()> {
    stay.azdr(&[
        "backup",
        "configure",
        "staging-vm",
        "--cross-region",
        "--target-region",
        "westus2",
    ])
}

fn the_fourth_is_none_any_more(stay: &mut Stay, _: &Seen) -> Result<()> {
    let all = stay.lab.azdr.run(&["dr", "test-all", "-g", "Staging"])?;
    ensure!(all.code == 1, "it could be tested: {}", all.words());
    stay.azdr(&["backup", "configure", "staging-vm", "--no-cross-region"])
}

fn the_primary_region_is_down(stay: &mut Stay) -> Result<()> {
    stay.fault(json!({"match": {}, "action": {"region_down": {"region": "eastus"}}}))
}

fn the_primary_region_is_back(stay: &mut Stay, seen: &Seen) -> Result<()> {
    stay.no_faults()?;
    stay.settle()?;
    drilled_and_nothing_left(stay, seen)
}

fn the_file_is_deleted(stay: &mut Stay) -> Result<()> {
    stay.machine()?.remove(FILE)
}

/// Plain text: a file is no terminal.
fn the_report_is_a_file(stay: &mut Stay, seen: &Seen) -> Result<()> {
    ensure!(seen.screen.is_empty(), "the terminal shows {}", seen.screen);
    let report = std::fs::read_to_string(stay.lab.folder().join("quarterly-dr-report.txt"))?;
    let begins = report.starts_with("DR Test History (Last 90 Days)\n");
    ensure!(begins && report.contains("  PASS  ") && report.is_ascii(), "{report}");
    Ok(())
}

fn a_copy_is_stuck(stay: &mut Stay) -> Result<()> {
    stay.fault(copies(3, json!({"stall_copy_at_percent": 40.0})))?;
    stay.azdr(&["backup", "trigger", DB])?;
    copied_to(stay, 40.0)
}

fn the_real_name_works(stay: &mut Stay, _: &Seen) -> Result<()> {
    let points = stay.lab.azdr.points(DB)?;
    let newest = points[0]["name"].as_str().context("a name")?;
    stay.azdr(&["backup", "replicate", newest, "--target-region", "westus2"])?;
    stay.is_copied(newest)
}

fn nine_o_clock(stay: &mut Stay) -> Result<()> {
    stay.at(november(31, 9, 0))
}

fn less_is_kept(stay: &mut Stay, _: &Seen) -> Result<()> {
    let config = stay.json(&["backup", "config-show", DB])?;
    let kept = ["daily_retention", "weekly_retention", "monthly_retention"].map(|k| &config[k]);
    ensure!(kept.iter().map(|n| n.as_u64()).eq([Some(3), Some(2), Some(6)]), "{config:#}");
    Ok(())
}
