//! Short simulations, each in a process of its own. The long ones: `cargo xtask simulate`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::process::{Command, Output};

use azdr_simulation::kinds::Kind;

fn simulate(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_azdr-simulate")).args(arguments.split(' ')).output().unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn fleets_keep_every_invariant_under_faults() {
    let output = simulate("--seeds 0..6 --days 6 --vms 5 --parallel 2");
    println!("{}", text(&output));
    assert!(output.status.success());
}

#[test]
fn a_quiet_fleet_keeps_every_invariant() {
    let output = simulate("--seeds 0..1 --days 10 --vms 5 --calm");
    println!("{}", text(&output));
    assert!(output.status.success());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = || {
        let output = simulate("--seeds 3..4 --days 5 --vms 4");
        let text = text(&output);
        let (_, rest) = text.split_once("trace ").unwrap();
        rest.split(' ').next().unwrap().to_owned()
    };
    let first = trace();
    assert_eq!(trace(), first);
    assert_eq!(trace(), first);
}

#[test]
fn one_seed_shows_everything_that_happens_and_is_the_one_of_the_range() {
    let output = simulate("--seed 3 --days 3 --vms 2");
    assert!(output.status.success());
    let all = text(&output);
    let last = all.lines().last().unwrap();
    let (_, trace) = last.split_once("trace ").unwrap();
    let events: usize = trace.split(' ').nth(2).unwrap().parse().unwrap();
    assert_eq!(all.lines().count(), events + 1, "{last}");
    assert!(all.contains("life 1 begins"), "{last}");
    let ranged = text(&simulate("--seeds 3..4 --days 3 --vms 2"));
    assert!(ranged.contains(trace), "{last}\n{ranged}");
}

#[test]
fn every_kind_of_fault_happens() {
    let output = simulate("--seeds 0..3 --days 30 --vms 8 --parallel 2 --faults --squatters");
    let text = text(&output);
    println!("{text}");
    assert!(output.status.success());
    let times = |kind: &&Kind| -> u64 {
        let of_it = |line: &str| {
            let (times, name) = line.trim().split_once(' ')?;
            (name == kind.as_str()).then(|| times.parse().unwrap())
        };
        text.lines().find_map(of_it).unwrap_or_else(|| panic!("{kind} is not reported"))
    };
    let never: Vec<_> = Kind::ALL.iter().filter(|kind| times(kind) == 0).collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}

/// A mistake made on purpose must be noticed by the checker of the invariant that it breaks.
fn noticed(mistake: &str, invariant: &str, words: &str, arguments: &str) {
    let output = simulate(&format!("{arguments} --parallel 2 --plant {mistake}"));
    let text = text(&output);
    println!("{text}");
    assert!(!output.status.success(), "{mistake} went unnoticed");
    let ours = |line: &&str| line.starts_with(&format!("  {invariant} at "));
    let by_its_checker = text.lines().filter(ours).any(|line| line.contains(words));
    assert!(by_its_checker, "not by {invariant} with {words:?}");
}

macro_rules! mistakes {
    ($($name:ident: $mistake:literal, $invariant:literal, $words:literal, $arguments:literal;)*) => {$(
        #[test]
        fn $name() {
            noticed($mistake, $invariant, $words, $arguments);
        }
    )*};
}

mistakes! {
    pruning_against_the_policy_is_noticed:
        "prune-ignores-policy", "I1", "are wanted", "--seeds 0..1 --days 5 --vms 3 --calm";
    pruning_what_runs_hold_is_noticed:
        "prune-ignores-leases", "I1", "holds it for", "--seeds 23..24 --days 8 --vms 3 --busy";
    pruning_what_copies_need_is_noticed:
        "prune-forgets-lineage", "I2", "", "--seeds 0..1 --days 6 --vms 3";
    a_forgotten_thaw_is_noticed:
        "thaw-forgotten", "I3", "frozen", "--seeds 0..2 --days 6 --vms 3";
    a_claimed_consistency_is_noticed:
        "consistency-claimed", "I4", "filesystem", "--seeds 0..2 --days 5 --vms 3";
    a_forgotten_clean_up_is_noticed:
        "clean-up-forgotten", "I5", "left", "--seeds 0..1 --days 5 --vms 3";
    a_restore_that_deletes_disks_is_noticed:
        "restore-deletes-disks", "I6", "", "--seeds 0..2 --days 6 --vms 3";
    names_that_vary_are_noticed:
        "names-vary", "I7", "of one disk and one point", "--seeds 0..2 --days 6 --vms 3";
    a_clone_that_is_asked_is_noticed:
        "clone-is-asked", "I8", "restored instance", "--seeds 0..2 --days 6 --vms 2 --busy";
    an_answer_before_its_commit_is_noticed:
        "answer-before-commit", "I9", "is not there", "--seeds 0..1 --days 6 --vms 3";
    two_truths_are_noticed:
        "two-truths", "I10", "was failed", "--seeds 0..1 --days 3 --vms 3";
    forgotten_alerts_are_noticed:
        "alerts-forgotten", "I10", "no alert says so", "--seeds 0..2 --days 6 --vms 3";
    a_second_controller_is_noticed:
        "second-controller", "I11", "second controller", "--seeds 0..1 --days 16 --vms 1";
    pruning_against_a_pin_is_noticed:
        "prune-ignores-pins", "I1", "pinned", "--seeds 0..2 --days 8 --vms 3 --busy";
    a_policy_that_is_answered_before_its_commit_is_noticed:
        "answer-before-commit", "I9", "policy", "--seeds 2..4 --days 6 --vms 3";
    a_pin_that_is_answered_before_its_commit_is_noticed:
        "answer-before-commit", "I9", "pin", "--seeds 0..2 --days 6 --vms 3 --busy";
    a_database_of_another_cloud_is_noticed:
        "stamp-ignored", "I11", "opened for", "--seeds 0..1 --days 6 --vms 1";
    a_schedule_that_forgets_is_noticed:
        "schedule-forgets", "schedule", "both begun", "--seeds 0..1 --days 4 --vms 2 --calm";
    a_schedule_without_zones_is_noticed:
        "zone-ignored", "schedule", "", "--seeds 0..1 --days 4 --vms 3 --calm";
    an_undo_that_deletes_a_foreign_disk_is_noticed:
        "undo-ignores-tag", "I7", "is somebody's", "--seeds 0..2 --days 6 --vms 3 --squatters";
    a_catalogue_that_does_not_look_is_noticed:
        "missing-unnoticed", "catalogue", "is called restorable", "--seeds 0..2 --days 8 --vms 3";
    a_chatty_controller_is_noticed:
        "chatty", "I12", "throttled", "--seeds 0..1 --days 2 --vms 4";
}
