//! What every command prints, as text and as JSON.

use crate::harness::{World, transcript};

/// Each runs once as it is and once with `--output json`; both are snapshots of that name.
pub(crate) const CASES: &[(&str, &str)] = &[
    ("whoami", "whoami"),
    ("status", "status"),
    ("alert_list", "alert list"),
    ("alert_list_open", "alert list --open --severity high --days 7 --limit 1"),
    ("alert_list_of_a_kind", "alert list --kind rpo_missed --vm prod-db-vm --before 43"),
    ("alert_close", "alert close 43 --reason covered-elsewhere"),
    ("alert_close_of_a_resolved_one", "alert close 40 --reason twice"),
    ("alert_close_of_none", "alert close 7 --reason typo"),
    ("operator_add_refused", "operator add alice --role admin --bundle NEW"),
    ("operator_add", "operator add bob --role operator --bundle NEW"),
    ("operator_list", "operator list"),
    ("operator_revoke", "operator revoke carol"),
    ("operator_revoke_the_last_admin", "operator revoke alice"),
    ("operator_renew", "operator renew"),
    ("vm_list", "vm list"),
    ("agent_token", "agent token prod-db-vm --valid-for 1h"),
    ("agent_list", "agent list"),
    ("agent_preflight", "agent preflight prod-db-vm"),
    ("agent_preflight_not_ready", "agent preflight stacked"),
    ("agent_revoke", "agent revoke prod-db-vm"),
    (
        "backup_configure",
        "backup configure prod-db-vm --daily-retention 7 --weekly-retention 4 \
         --monthly-retention 12 --cross-region --target-region westus2",
    ),
    (
        "backup_configure_everything",
        "backup configure prod-db-vm --daily-retention 1 --weekly-retention 0 \
         --monthly-retention 0 --yearly-retention 3 --no-cross-region --time 22:30 \
         --time-zone America/New_York --consistency require",
    ),
    (
        "backup_configure_with_objectives",
        "backup configure prod-db-vm --schedule \"daily 02:30\" --rpo 36h --rto 15m --verify-every 7d \
         --drill-every 4w --consistency any",
    ),
    ("backup_configure_without_tag", "backup configure locked"),
    ("backup_config_show", "backup config-show prod-db-vm"),
    ("backup_config_show_drifted", "backup config-show drifted"),
    ("backup_config_show_of_a_vm_that_is_gone", "backup config-show gone"),
    ("backup_disable", "backup disable prod-db-vm"),
    ("backup_trigger", "backup trigger prod-db-vm"),
    ("backup_trigger_no_wait", "backup trigger prod-db-vm --tier weekly --no-wait"),
    ("backup_trigger_fails", "backup trigger fails"),
    ("backup_list", "backup list prod-db-vm --since 2025-11-01"),
    ("backup_list_of_a_tier", "backup list prod-db-vm --tier weekly"),
    ("backup_list_empty", "backup list prod-db-vm --since 2026-01-01"),
    ("backup_show", "backup show prod-db-vm-backup-daily-20251201-0800"),
    ("backup_show_not_frozen", "backup show prod-db-vm-backup-daily-20251130-0800"),
    ("backup_show_partly_frozen", "backup show prod-db-vm-backup-daily-20251129-0800"),
    ("backup_show_of_an_older_agent", "backup show prod-db-vm-backup-daily-20251128-0800"),
    ("backup_show_of_a_missing_vm", "backup show daily-20251201 --vm missing"),
    (
        "backup_restore",
        "backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800 --yes",
    ),
    ("backup_restore_new_vm", "backup restore prod-db-vm --new-vm prod-db-vm-restored"),
    (
        "backup_replicate",
        "backup replicate prod-db-vm-backup-daily-20251201-0800 --target-region westus2",
    ),
    (
        "backup_replicate_no_wait",
        "backup replicate prod-db-vm-backup-daily-20251201-0800 --target-region westus2 --no-wait",
    ),
    ("backup_restore_at", "backup restore prod-db-vm --at 2025-12-01T07:30:00Z --yes"),
    ("backup_replicate_all", "backup replicate-all copies --target-region westus2"),
    (
        "backup_replicate_all_of_nothing",
        "backup replicate-all nothing-to-do --target-region westus2 --max-parallel 3",
    ),
    ("backup_verify_all", "backup verify-all proofs --max-parallel 2"),
    ("backup_verify_all_no_wait", "backup verify-all proofs --no-wait"),
    ("dr_test_all", "dr test-all"),
    ("dr_test_all_with_a_failure", "dr test-all --resource-group Flaky"),
    ("dr_test_all_of_nothing", "dr test-all -g none"),
    ("dr_test_keep", "dr test prod-db-vm --keep 2h"),
    ("dr_failover", "dr failover prod-db-vm --target-region westus2 --yes"),
    (
        "dr_failover_everything",
        "dr failover prod-db-vm --target-region westus2 --yes --at 2025-12-01T07:30:00Z \
         --new-vm db2 --target-resource-group recovery --target-subnet /subscriptions/x/subnets/y",
    ),
    ("dr_failover_refused", "dr failover prod-db-vm --target-region northeurope --yes"),
    ("dr_failover_without_terminal", "dr failover prod-db-vm --target-region westus2"),
    ("backup_replication_status", "backup replication-status prod-db-vm"),
    ("backup_replication_jobs", "backup replication-jobs"),
    ("backup_replication_jobs_pending", "backup replication-jobs --status pending"),
    ("backup_replication_jobs_failed", "backup replication-jobs --status failed"),
    ("backup_replication_jobs_limited", "backup replication-jobs --limit 1"),
    ("backup_verification_report", "backup verification-report --days 30"),
    ("backup_verification_report_of_a_vm", "backup verification-report --vm prod-db-vm --days 7"),
    ("backup_verify", "backup verify prod-db-vm-backup-daily-20251201-0800"),
    ("backup_verify_content", "backup verify daily-20251201 --vm prod-db-vm --level content"),
    (
        "backup_verify_whole",
        "backup verify daily-20251201 --vm prod-db-vm --region westus2 --level content",
    ),
    (
        "backup_pin",
        "backup pin prod-db-vm-backup-daily-20251201-0800 --until 2026-12-01 --reason audit",
    ),
    (
        "backup_pin_for_ever",
        "backup pin prod-db-vm-backup-daily-20251201-0800 --until forever --reason evidence",
    ),
    ("backup_unpin", "backup unpin prod-db-vm-backup-daily-20251201-0800"),
    ("backup_unpin_of_another", "backup unpin pinned --owner bob"),
    ("backup_delete", "backup delete prod-db-vm-backup-daily-20251130-0800 --yes"),
    ("backup_delete_refused", "backup delete protected --yes"),
    ("backup_delete_without_terminal", "backup delete prod-db-vm-backup-daily-20251130-0800"),
    ("backup_explain", "backup explain prod-db-vm-backup-daily-20251201-0800"),
    (
        "backup_explain_of_a_region",
        "backup explain prod-db-vm-backup-daily-20251201-0800 --region eastus",
    ),
    ("backup_cost", "backup cost prod-db-vm"),
    ("backup_cost_of_another_policy", "backup cost prod-db-vm --daily 3 --no-cross-region"),
    ("policy_show", "policy show prod-db-vm"),
    ("policy_list", "policy list"),
    ("policy_next", "policy next prod-db-vm --count 10"),
    ("policy_next_of_a_vm_that_is_gone", "policy next gone"),
    ("policy_simulate", "policy simulate prod-db-vm --days 365"),
    (
        "policy_simulate_an_outage",
        "policy simulate prod-db-vm --daily 3 --time-zone UTC --change-per-mille 5 \
         --outage 2025-12-20..2026-01-03",
    ),
    ("policy_simulate_invalid", "policy simulate invalid --days 30"),
    ("policy_diff", "policy diff prod-db-vm --daily 3 --weekly 8"),
    ("policy_diff_file", "policy diff prod-db-vm -f tests/it/policy.yaml"),
    ("policy_diff_wrong_file", "policy diff prod-db-vm -f tests/it/wrong-policy.yaml"),
    ("policy_apply", "policy apply -f tests/it/policies.yaml"),
    ("policy_apply_dry_run", "policy apply -f tests/it/policies.yaml --dry-run --prune"),
    ("policy_apply_wrong_file", "policy apply -f tests/it/wrong-policies.yaml"),
    ("policy_apply_tied", "policy apply -f tests/it/no-policies.yaml"),
    ("policy_follow", "policy follow prod-db-vm"),
    ("policy_schema", "policy schema"),
    ("completion", "completion bash"),
    ("man_of_azdr", "man"),
    ("man", "man backup list"),
    ("man_of_nothing", "man backup shred"),
    ("man_to_a_folder", "man --dir NEW"),
    ("dr_test", "dr test prod-db-vm --test-region westus2"),
    ("dr_test_does_not_pass", "dr test does-not-pass"),
    ("dr_test_history", "dr test-history prod-db-vm --days 30"),
    ("dr_test_history_of_all", "dr test-history --days 90"),
    ("dr_success_rate", "dr success-rate --days 90"),
    ("dr_success_rate_of_a_vm", "dr success-rate --vm prod-db-vm --days 90"),
    ("dr_success_rate_failing", "dr success-rate --vm flaky --days 1"),
    ("dr_success_rate_without_tests", "dr success-rate --vm untested"),
    ("job_list", "job list"),
    ("job_show", "job show 12"),
    ("job_show_failed", "job show 20"),
    ("job_show_bulk", "job show 40"),
    ("job_show_stuck", "job show 29"),
    ("job_cancel", "job cancel 25"),
    ("job_retry", "job retry 29"),
    ("job_undo_changes_nothing", "job undo 29"),
    ("job_abandon", "job abandon 29 --reason moved"),
    ("job_show_asking", "job show 31"),
    ("job_approve", "job approve 31"),
    ("job_approve_own", "job approve 32"),
    ("job_watch", "job watch 12"),
    ("job_watch_stuck", "job watch 21"),
    ("job_watch_cancelled", "job watch 22"),
    ("residue_list", "residue list"),
    ("retention_release", "retention release"),
    ("job_show_reap", "job show 30"),
    ("ssh", "ssh prod-db-vm ls -la"),
    // How each command of the operators' guide fails.
    ("backup_configure_invalid", "backup configure invalid --daily-retention 7"),
    ("backup_config_show_of_a_missing_vm", "backup config-show missing"),
    ("backup_disable_of_a_missing_vm", "backup disable missing"),
    ("backup_trigger_of_a_missing_vm", "backup trigger missing"),
    ("backup_trigger_denied", "backup trigger denied --tier weekly"),
    ("backup_list_of_a_missing_vm", "backup list missing -g Production-VMs"),
    ("backup_restore_of_a_missing_vm", "backup restore missing --yes"),
    ("backup_restore_without_terminal", "backup restore prod-db-vm"),
    (
        "backup_restore_interactive_without_terminal",
        "backup restore prod-db-vm --interactive --yes",
    ),
    (
        "backup_replicate_of_a_missing_vm",
        "backup replicate daily-20251201 --vm missing --target-region westus2",
    ),
    (
        "backup_replicate_all_of_a_missing_vm",
        "backup replicate-all missing --target-region westus2",
    ),
    ("backup_replication_status_of_a_missing_vm", "backup replication-status missing"),
    ("backup_replication_jobs_of_no_status", "backup replication-jobs --status stuck"),
    ("backup_verify_of_a_missing_vm", "backup verify daily-20251201 --vm missing"),
    ("backup_verify_all_of_a_missing_vm", "backup verify-all missing"),
    ("backup_verification_report_of_a_missing_vm", "backup verification-report --vm missing"),
    ("dr_test_of_a_missing_vm", "dr test missing --test-region westus2"),
    ("dr_test_history_of_a_missing_vm", "dr test-history missing --days 30"),
    ("dr_success_rate_of_a_missing_vm", "dr success-rate --vm missing --days 90"),
];

/// The commands of the operators' guide.
const GUIDE: &[&str] = &[
    "backup configure",
    "backup config-show",
    "backup disable",
    "backup trigger",
    "backup list",
    "backup restore",
    "backup replicate",
    "backup replicate-all",
    "backup replication-status",
    "backup replication-jobs",
    "backup verify",
    "backup verify-all",
    "backup verification-report",
    "dr test",
    "dr test-all",
    "dr test-history",
    "dr success-rate",
];

/// Not kept: they are made of all commands, and change with each of them.
const OF_ALL_COMMANDS: &[&str] = &["completion", "man_of_azdr", "man_to_a_folder"];

#[tokio::test]
async fn every_command_prints_what_was_agreed() {
    let world = World::start();
    let mut ended = Vec::new();
    for (name, line) in CASES {
        let folder = world.folder().display().to_string();
        let show = |line: &str, ran| {
            let shown = transcript(line, ran).replace(world.address(), "CONTROLLER");
            shown.replace(&folder, "FOLDER")
        };
        // A folder that is not there yet, for each of the two.
        let new = |format: &str| line.replace("NEW", &format!("{folder}/{name}{format}"));
        let plain = new("");
        let ran = world.run(&plain).await;
        ended.push((*line, ran.code));
        let is_kept = !OF_ALL_COMMANDS.contains(name);
        if is_kept {
            insta::assert_snapshot!(*name, show(&plain, &ran));
        }

        let line = format!("--output json {}", new("_json"));
        let json = world.run(&line).await;
        assert_eq!(json.code, ran.code, "{name}: the format changes how it ends");
        if json.code == 0 {
            json.json();
            assert_eq!(json.stderr, "", "{name}: words beside JSON");
        } else {
            json.error_json();
        }
        if is_kept {
            insta::assert_snapshot!(format!("{name}_json"), show(&line, &json));
        }
    }
    for command in GUIDE {
        let of = |line: &str| line.starts_with(&format!("{command} ")) || line == *command;
        let codes: Vec<i32> = ended.iter().filter(|(line, _)| of(line)).map(|(_, c)| *c).collect();
        assert!(codes.contains(&0), "`azdr {command}` never succeeds");
        assert!(codes.iter().any(|code| *code != 0), "`azdr {command}` never fails");
    }
}

#[test]
fn every_command_has_a_case() {
    fn visit(command: &clap::Command, path: &str) {
        let mut leaf = true;
        for child in command.get_subcommands() {
            leaf = false;
            visit(child, format!("{path} {}", child.get_name()).trim());
        }
        let covered =
            |(_, line): &(&str, &str)| *line == path || line.starts_with(&format!("{path} "));
        assert!(!leaf || CASES.iter().any(covered), "`azdr {path}` has no case");
    }
    visit(&azdr_ctl::command(), "");
}
