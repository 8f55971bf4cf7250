//! What must hold for every workflow, whatever is lost and wherever the controller dies.

use azdr_controller::store::RunState;
use azdr_controller::workflows;
use serde_json::Value;

use crate::cases::Case;
use crate::cloud::Spoil;
use crate::life::Bench;

/// How a case ended: the run's state, what exists, and what the catalogue says.
#[derive(Debug, PartialEq)]
struct End {
    state: RunState,
    world: Vec<String>,
    catalogue: Vec<String>,
}

/// Resources by type and role; names that hold a run's number or a random part are generalised, so
/// that what must be equal is.
pub(crate) fn world(listing: &Value) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for group in listing["groups"].as_array().unwrap() {
        all.push(format!("group {}", group["name"].as_str().unwrap()));
    }
    for r in listing["resources"].as_array().unwrap() {
        let id = r["id"].as_str().unwrap().to_lowercase();
        let mut line = id.rsplit("/providers/").next().unwrap().to_owned();
        if let Some(power) = r["power"].as_str() {
            line += &format!(" {power}");
        }
        if let Some(vm) = r["managed_by"].as_str() {
            line += &format!(" of {}", vm.to_lowercase().rsplit('/').next().unwrap());
        }
        line += &format!(" at {}", r["location"].as_str().unwrap_or_default());
        all.push(line);
    }
    all.sort();
    all
}

async fn run(case: Case, spoil: Option<(usize, Spoil)>) -> (Bench, End, usize) {
    let bench = Bench::new();
    let life = bench.life().await;
    let run = case.prepare(&bench, &life).await;
    life.settle().await;
    bench.cloud.count_from_here(spoil);
    let (mut life, mut row) = bench.run(life, run).await;
    if row.state == RunState::Stuck {
        // Somebody mends what was in the way and starts the controller again.
        life.end().await;
        (life, row) = bench.take_up(row.id).await;
    }
    life.settle().await;
    let requests = bench.cloud.requests();
    let items = life.store.items().await.unwrap();
    let mut catalogue = Vec::new();
    for point in life.points(&items[0]).await {
        let regions: Vec<_> = point.snapshots.iter().map(|s| s.region.clone()).collect();
        let proof = point.proof().0;
        catalogue.push(format!("{} {regions:?} {proof} {:?}", point.name, point.leases));
    }
    if row.state != RunState::Succeeded {
        catalogue.push(format!("error {}", row.error.clone().unwrap_or_default()["kind"]));
    }
    let end = End { state: row.state, world: world(&bench.cloud.listing().await), catalogue };
    life.end().await;
    (bench, end, requests)
}

#[test]
fn every_workflow_is_in_the_harness() {
    for definition in workflows::all() {
        let found = Case::ALL.iter().any(|c| c.workflow() == definition.name);
        assert!(found, "workflow {} has no case", definition.name);
    }
}

#[tokio::test(start_paused = true)]
async fn every_workflow_succeeds() {
    for case in Case::ALL {
        let (_, end, requests) = run(case, None).await;
        assert_eq!(end.state, RunState::Succeeded, "{case:?} {end:#?}");
        assert!(requests > 0, "{case:?}");
        let left: Vec<_> =
            end.world.iter().filter(|l| l.contains("verify") || l.contains("drill")).collect();
        assert!(left.is_empty(), "{case:?} left {left:?}");
    }
}

/// Runs a case once per request with that request spoilt; the end must be the undisturbed one.
async fn same_end(case: Case, spoil: Spoil) {
    let (_, expected, requests) = run(case, None).await;
    for n in 1..=requests {
        let (bench, end, _) = run(case, Some((n, spoil))).await;
        assert_eq!(end, expected, "{case:?}: request {n} ({}) {spoil:?}", bench.cloud.request(n));
    }
}

/// Runs a case once per request with that request refused; the run either succeeds all the same, or
/// turns back and leaves the world as it was. Where neither can be (cleaning up was refused, or the
/// point of no return is past) it gets stuck, and goes on once the cause is gone.
async fn prior_world(case: Case) {
    let (_, expected, requests) = run(case, None).await;
    let before = {
        let bench = Bench::new();
        let life = bench.life().await;
        case.prepare(&bench, &life).await;
        life.settle().await;
        let listing = bench.cloud.listing().await;
        life.end().await;
        world(&listing)
    };
    // Shared groups are made once and stay.
    let shared = |w: &[String]| -> Vec<String> {
        w.iter().filter(|l| !l.starts_with("group azdr-")).cloned().collect()
    };
    for n in 1..=requests {
        let (bench, end, _) = run(case, Some((n, Spoil::Refuse))).await;
        let what = format!("{case:?}: request {n} ({}) refused", bench.cloud.request(n));
        match end.state {
            RunState::Succeeded => assert_eq!(end.world, expected.world, "{what}"),
            RunState::Failed => assert_eq!(shared(&end.world), shared(&before), "{what}"),
            other => panic!("{what}: ended {other:?}"),
        }
    }
}

macro_rules! properties {
    ($($module:ident: $case:expr;)*) => {$(
        mod $module {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn a_request_that_never_arrives_changes_nothing() {
                same_end($case, Spoil::Before).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_lost_answer_changes_nothing() {
                same_end($case, Spoil::After).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_crash_before_any_request_reaches_the_same_end() {
                same_end($case, Spoil::CrashBefore).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_crash_after_any_request_reaches_the_same_end() {
                same_end($case, Spoil::CrashAfter).await;
            }
        }
    )*};
}

properties! {
    backup: Case::Backup;
    replicate: Case::Replicate;
    verify: Case::Verify;
    restore_in_place: Case::RestoreInPlace;
    restore_new_vm: Case::RestoreNewVm;
    dr_test: Case::DrTest;
    prune: Case::Prune;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_at_any_request_restores_the_prior_world() {
    for case in Case::ALL {
        prior_world(case).await;
    }
}
