//! Somebody sets the controller's clock while a machine comes up: what is waited for, and what is
//! measured, goes by monotonic time.

use azdr_controller::store::{RunRow, RunState};

use crate::cases::Case;
use crate::cloud::Spoil;
use crate::life::Bench;
use crate::meddling::Plan;

const HOUR: i64 = 3600;

async fn run(case: Case, spoil: Option<(usize, Spoil)>) -> (Bench, RunRow) {
    let (prepared, run) = case.prepared();
    let bench = Bench::again(prepared, 43);
    let life = bench.life().await;
    azdr_env::sleep(std::time::Duration::from_secs(1)).await;
    let (life, row) = bench.run_meddled(life, run.clone(), Plan::default(), spoil).await;
    life.end().await;
    (bench, row)
}

/// The clock jumps when Azure has begun to start the machine: `method` and `path` say with which
/// request. Result and RTO are those of a clock that does not.
async fn same_result(case: Case, method: &str, path: &str, kind: &str) {
    let (bench, expected) = run(case, None).await;
    assert_eq!(expected.state, RunState::Succeeded, "{case:?}");
    let starts = |n: &usize| {
        let request = bench.cloud.request(*n);
        request.starts_with(method) && request.contains(path)
    };
    let start = (1..=bench.cloud.requests()).find(starts).unwrap();
    let expected = expected.result.unwrap();
    assert!(expected[kind]["rto_ms"].as_u64().unwrap() > 0, "{case:?}: {expected}");
    for hours in [1, -1] {
        let (_, row) = run(case, Some((start, Spoil::Jump(hours * HOUR)))).await;
        let what = format!("{case:?}: {hours} h");
        assert_eq!(row.state, RunState::Succeeded, "{what}: {:?}", row.error);
        let result = row.result.unwrap();
        for field in ["rto_ms", "phases", "witness_verified"] {
            assert_eq!(result[kind][field], expected[kind][field], "{what}: {field}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_in_place_survives_the_clock_being_set() {
    same_result(Case::RestoreInPlace, "POST", "/start", "restore").await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_into_a_new_vm_survives_the_clock_being_set() {
    same_result(Case::RestoreNewVm, "PUT", "/virtualMachines/", "restore").await;
}

#[tokio::test(start_paused = true)]
async fn a_drill_survives_the_clock_being_set() {
    same_result(Case::DrTest, "PUT", "/virtualMachines/", "dr_test").await;
}
