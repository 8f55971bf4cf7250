//! What must hold for every workflow, whatever is lost and wherever the controller dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use azdr_arm::PollPace;
use azdr_controller::store::{AlertFilter, AlertRow, Item, RunId, RunRow, RunState};
use azdr_controller::workflow::{Effect, StepOutline};
use azdr_controller::workflows::{self, tags};
use azdr_domain::alert::AlertKind;
use azdr_domain::residue::Leaves;
use serde_json::Value;

use crate::cases::Case;
use crate::cloud::Spoil;
use crate::life::{Bench, Life};
use crate::meddling::{Plan, Seen, Side};
use crate::untouchable::{Untouchable, untouchable};

/// How a case ended: the run's state, what exists, and what the catalogue says.
#[derive(Clone, Debug, PartialEq)]
struct End {
    state: RunState,
    world: Vec<String>,
    catalogue: Vec<String>,
    /// Of the points of the case's first VM.
    proofs: Vec<String>,
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
        for disk in r["disks"].as_array().into_iter().flatten() {
            let name = disk["id"].as_str().unwrap().to_lowercase();
            let name = name.rsplit('/').next().unwrap();
            line += &format!(" {}={name} ({})", disk["lun"], disk["caching"]);
        }
        if !r["access_until"].is_null() {
            line += " open to be read";
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

/// What a case did on its way.
struct Ran {
    case: Case,
    id: RunId,
    end: End,
    exists: Untouchable,
    /// What the catalogue says of points, whatever became of the run.
    points: Vec<String>,
    seen: Seen,
    /// What it got stuck with; it went on when the cause was gone.
    stuck_with: Option<Value>,
    requests: usize,
    bench: Bench,
}

async fn run(case: Case, plan: Plan, spoil: Option<(usize, Spoil)>) -> Ran {
    let (prepared, run) = case.prepared();
    let mut bench = Bench::again(prepared, 43);
    case.slow_down(&bench);
    if matches!(spoil, Some((_, Spoil::Prolong(_)))) {
        // Hours of polls at a test's pace would take long.
        bench.pace = PollPace::azure();
    }
    let life = bench.life().await;
    // The agents come.
    azdr_env::sleep(Duration::from_secs(1)).await;
    let (mut life, mut row) = bench.run_meddled(life, run.clone(), plan, spoil).await;
    let mut stuck_with = None;
    if row.state == RunState::Stuck {
        stuck_with = row.error.clone();
        if bench.cloud.has_prolonged() {
            // Nobody does anything: what it waits for ends.
            row = life.over(row.id).await;
        }
    }
    if row.state == RunState::Stuck {
        // Somebody mends what was in the way and starts the controller again.
        bench.meddler.mend();
        life = bench.next(life).await;
        row = life.ended(row.id).await;
        life.settle().await;
    }
    let requests = bench.cloud.requests();
    let items = life.store.items().await.unwrap();
    let points = catalogued(&life, &items).await;
    let mut catalogue = points.clone();
    let points_now = life.points(&items[0]).await;
    let proofs = points_now.iter().map(|p| p.proof().0.to_string()).collect();
    if row.state != RunState::Succeeded {
        catalogue.push(format!("error {}", row.error.clone().unwrap_or_default()["kind"]));
    }
    catalogue.extend(alerts(case, &life, &row).await);
    let exists = untouchable(&bench).await;
    let listing = bench.cloud.listing().await;
    let mut resources = listing["resources"].as_array().unwrap().iter();
    let marked = resources.any(|r| r["tags"][tags::KEPT_BY].is_string());
    let undone = case == Case::RestoreInPlace && row.state != RunState::Succeeded;
    assert!(!(undone && marked), "{case:?}: a disk in use is marked as kept");
    let end = End { state: row.state, world: world(&listing), catalogue, proofs };
    let seen = bench.meddler.seen();
    life.end().await;
    Ran { case, id: row.id, end, exists, points, seen, stuck_with, requests, bench }
}

/// The alerts of how a run has ended: one for one that has failed, whatever was repeated on the way, and
/// none for any other.
async fn alerts(case: Case, life: &Life, row: &RunRow) -> Vec<String> {
    let filter = AlertFilter { limit: 1000, ..AlertFilter::default() };
    let (all, _) = life.store.alerts(filter).await.unwrap();
    let of_failures = AlertKind::of_failed(&row.workflow);
    let is_its = |a: &AlertRow| a.run == Some(row.id) && AlertKind::parse(&a.kind) == of_failures;
    let kinds: Vec<String> = all.into_iter().filter(is_its).map(|a| a.kind).collect();
    let wanted = match row.state {
        // The person who asked for it is told.
        RunState::Failed if case == Case::DeletePoint => 0,
        // Where only the keeping of its machine has failed, the drill itself has not.
        RunState::Failed if case == Case::DrTestKept => kinds.len().min(1),
        RunState::Failed => usize::from(of_failures.is_some()),
        _ => 0,
    };
    assert_eq!(kinds.len(), wanted, "{case:?} has ended as {:?}: {kinds:?}", row.state);
    kinds
}

/// What the catalogue says of points, and which machines it knows.
async fn catalogued(life: &Life, items: &[Item]) -> Vec<String> {
    let mut lines = Vec::new();
    for point in life.points(&items[0]).await {
        let regions: Vec<_> = point.snapshots.iter().map(|s| s.region.clone()).collect();
        lines.push(format!("{} {regions:?} {:?}", point.name, point.leases));
        for row in life.store.content(items[0].id, point.name.clone()).await.unwrap() {
            // Which blocks is chosen anew as long as the choice is not journalled.
            let hashed = row.hashes.unwrap().hashed();
            lines.push(format!("{} hashed {:?} {hashed}", point.name, row.lun));
        }
    }
    lines.extend(items.iter().map(|i| i.arm_id.to_string()));
    lines
}

/// What was there before the run.
struct Prior {
    exists: Untouchable,
    /// What the catalogue says of points.
    points: Vec<String>,
}

async fn prior(case: Case) -> Prior {
    // A run that fails before its first step has done nothing.
    let first = outline(case)[0].name;
    let plan = Plan { fail: Some((first, Side::Before)), ..Plan::default() };
    let untouched = untouchable(&Bench::again(&case.prepared().0, 43)).await;
    let ran = run(case, plan, None).await;
    assert_eq!(ran.exists, untouched, "{case:?}");
    Prior { exists: case.undone(untouched), points: ran.points }
}

impl Ran {
    /// What exists, comparable with what was there before.
    fn exists(&self) -> Untouchable {
        self.case.undone(self.exists.clone())
    }
}

fn outline(case: Case) -> Vec<StepOutline> {
    let run = &case.prepared().1;
    let all = workflows::all();
    let same = all.iter().find(|d| d.name == run.workflow && d.version.0 == run.version);
    same.unwrap().outline()
}

#[test]
fn every_workflow_is_in_the_harness() {
    assert_eq!(COVERED, Case::ALL);
    for definition in workflows::all() {
        let found = COVERED.iter().any(|c| c.workflow() == definition.name);
        assert!(found, "workflow {} is not among the properties' cases", definition.name);
    }
}

/// Runs a case once per request with that request spoilt; the end must be the undisturbed one.
async fn same_end(case: Case, spoil: Spoil) {
    let expected = run(case, Plan::default(), None).await;
    for n in 1..=expected.requests {
        let ran = run(case, Plan::default(), Some((n, spoil))).await;
        let request = ran.bench.cloud.request(n);
        let what = format!("{case:?}: request {n} ({request}) {spoil:?}");
        assert_eq!(ran.end, expected.end, "{what}");
        one_effect(&expected, &ran, &request, &what);
    }
}

/// Nothing is made twice; and whatever was lost or died, at `request`, what changes something was done
/// once: an operation that was under way is polled on in the next life. Twice only that whose own
/// answer nobody has.
fn one_effect(expected: &Ran, ran: &Ran, request: &str, what: &str) {
    assert_eq!(ran.bench.cloud.made_twice(), [""; 0], "{what}");
    let (expected, sent) = (expected.bench.cloud.writes(), ran.bench.cloud.writes());
    let is_poll = request.starts_with("GET") && request.to_lowercase().contains("operations/");
    let cut_short = outline(ran.case)
        .iter()
        .any(|s| s.hold && ran.seen.executed.contains_key(&(s.name, String::new(), true)));
    for (words, times) in &sent {
        let more = match () {
            // A hold is cleaned up and done whole once more.
            () if cut_short => 2,
            // What it answers is a secret, which no journal keeps.
            () if words.ends_with("/beginGetAccess") => 1,
            () if is_poll => 0,
            () => 1,
        };
        let usual = expected.get(words).copied().unwrap_or_default();
        assert!(*times <= usual + more, "{what}: {words} was done {times} times, not {usual}");
    }
}

/// Runs a case once per request with that request refused; the run either succeeds all the same, or
/// turns back and leaves the world as it was. Where neither can be (cleaning up was refused, or the
/// point of no return is past) it gets stuck, and goes on once the cause is gone.
async fn refusals(case: Case) {
    let expected = run(case, Plan::default(), None).await;
    let prior = prior(case).await;
    for n in 1..=expected.requests {
        let ran = run(case, Plan::default(), Some((n, Spoil::Refuse))).await;
        let end = &ran.end;
        let what = format!("{case:?}: request {n} ({}) refused", ran.bench.cloud.request(n));
        match end.state {
            RunState::Succeeded => assert_eq!(end.world, expected.end.world, "{what}"),
            RunState::Failed => {
                assert_eq!(ran.exists(), prior.exists, "{what}");
            }
            other => panic!("{what}: ended {other:?}"),
        }
    }
}

/// Longer than any step here may take, and less than a run may.
const ENDLESS: Duration = Duration::from_secs(50 * 60);

/// Each operation of Azure's in turn does not end: the run fails and is undone, or succeeds at a
/// second try; cleaning up, or past the point of no return, or where Azure undoes nothing meanwhile, it
/// gets stuck, names the resource, and goes on to its end when the operation ends after all.
async fn operations_that_never_end(case: Case) {
    // Nothing is prolonged, at the same pace.
    let expected = run(case, Plan::default(), Some((usize::MAX, Spoil::Prolong(ENDLESS)))).await;
    let prior = prior(case).await;
    let (mut failed, mut stuck, mut succeeded) = (0, 0, 0);
    for n in 1..=expected.requests {
        let request = expected.bench.cloud.request(n);
        if request.starts_with("GET") {
            continue;
        }
        let ran = run(case, Plan::default(), Some((n, Spoil::Prolong(ENDLESS)))).await;
        if !ran.bench.cloud.has_prolonged() {
            continue;
        }
        assert_eq!(ran.bench.cloud.request(n), request, "{case:?}");
        let what = format!("{case:?}: request {n} ({request}) begins what never ends");
        match (ran.end.state, &ran.stuck_with) {
            (RunState::Failed, None) => {
                assert_eq!(ran.exists(), prior.exists, "{what}");
                assert_eq!(ran.points, prior.points, "{what}");
                failed += 1;
            }
            (state, Some(error)) => {
                let named = error["resource"].as_str().unwrap_or_default().to_lowercase();
                let path = request.split(' ').nth(1).unwrap().to_lowercase();
                // An action's path is its resource's and a word.
                let about = match request.starts_with("POST") {
                    true => path.rsplit_once('/').unwrap().0,
                    false => &*path,
                };
                // A run of runs names the one that is stuck, which names the resource.
                let by_child = error["kind"] == "child_stuck" && named.starts_with("job ");
                assert!(by_child || named.starts_with(about), "{what}: {error}");
                // Undoing it may be refused while it lasts.
                let refused = error["kind"] == "azure_conflict";
                assert!(by_child || refused || error["kind"] == "timed_out", "{what}: {error}");
                if state == RunState::Failed {
                    assert!(refused, "{what}: {error}");
                    assert_eq!(ran.exists(), prior.exists, "{what}");
                } else {
                    assert_eq!(state, RunState::Succeeded, "{what}");
                    assert_eq!(ran.end.world, expected.end.world, "{what}");
                }
                stuck += 1;
            }
            (RunState::Succeeded, None) => {
                assert_eq!(ran.end.world, expected.end.world, "{what}");
                succeeded += 1;
            }
            other => panic!("{what}: ended {other:?}"),
        }
    }
    println!("{case:?}: never ends: {failed} failed, {stuck} stuck, {succeeded} tried again");
    assert!(failed + stuck + succeeded > 0, "{case:?} begins no operation");
    count(case, |totals| totals.never_ending_operations = failed + stuck + succeeded);
}

/// Every step is executed, nothing temporary is left, and nothing was stuck.
async fn succeeds(case: Case) {
    let ran = run(case, Plan::default(), None).await;
    assert_eq!(ran.end.state, RunState::Succeeded, "{case:?} {:#?}", ran.end);
    assert!(ran.stuck_with.is_none() && ran.requests > 0, "{case:?}");
    for step in outline(case).into_iter().filter(|s| !s.starts_runs) {
        let executed = ran.seen.executed.keys().any(|(s, _, undo)| *s == step.name && !undo);
        assert!(executed, "{case:?} never executes {}", step.name);
    }
    let left = ran.exists.of_run(&format!("1nstall.{}", ran.id));
    let leaves = workflows::leaves(case.workflow(), RunState::Succeeded);
    let expected: &[&str] = match leaves {
        Leaves::Nothing => &[],
        Leaves::Snapshots => &["Microsoft.Compute/snapshots"],
        Leaves::Machine => case.makes(),
    };
    assert_eq!(left, expected, "{case:?} is to leave {leaves:?}");
}

/// Each step fails for good, before its effect and after it: the world is the prior one. From the
/// point of no return on the run gets stuck instead, and succeeds when the cause is gone.
async fn failures(case: Case) {
    let expected = run(case, Plan::default(), None).await.end;
    let prior = prior(case).await;
    let mut forward_only = false;
    let mut runs = 0;
    for step in outline(case) {
        forward_only |= step.point_of_no_return;
        for side in [Side::Before, Side::After] {
            if step.starts_runs && side == Side::After {
                // Its effect is other runs, and so is its end.
                continue;
            }
            let plan = Plan { fail: Some((step.name, side)), ..Plan::default() };
            let ran = run(case, plan, None).await;
            let what = format!("{case:?}: {} fails {side:?} its effect", step.name);
            if forward_only {
                assert!(ran.stuck_with.is_some(), "{what}: was not stuck");
                assert_eq!(ran.end, expected, "{what}");
            } else {
                assert_eq!(ran.end.state, RunState::Failed, "{what}");
                assert!(ran.stuck_with.is_none(), "{what}: got stuck");
                assert_eq!(ran.exists(), prior.exists, "{what}");
                assert_eq!(ran.points, prior.points, "{what}");
            }
            runs += 1;
        }
    }
    count(case, |totals| totals.failing_steps = runs);
}

/// A request to stop comes right after each write, so when each step has just begun and when it has
/// just ended: the world is the prior one. From the point of no return on the run succeeds.
async fn requests_to_stop(case: Case) {
    let expected = run(case, Plan::default(), None).await;
    let prior = prior(case).await;
    let (mut cancelled, mut too_late) = (0, 0);
    for n in 1..=expected.seen.writes {
        let ran = run(case, Plan { cancel: Some(n), ..Plan::default() }, None).await;
        let what = format!("{case:?}: asked to stop at write {n}");
        let accepted = ran.seen.cancel_accepted.unwrap_or_else(|| panic!("{what}: not asked"));
        if ran.end.state == RunState::Cancelled {
            assert!(accepted, "{what}: refused, and cancelled all the same");
            assert_eq!(ran.exists(), prior.exists, "{what}");
            assert_eq!(ran.points, prior.points, "{what}");
            cancelled += 1;
        } else {
            // The last step had begun already, or there was no way back.
            let steps = expected.seen.executed.keys().filter(|(.., undo)| !undo).count();
            let done = ran.seen.executed_before_cancel + 1 >= steps;
            assert!(!accepted || done, "{what}: accepted, and {:?}", ran.end.state);
            assert_eq!(ran.end, expected.end, "{what}");
            too_late += 1;
        }
    }
    println!("{case:?}: asked to stop: {cancelled} stopped, {too_late} too late");
    count(case, |totals| totals.requests_to_stop = cancelled + too_late);
}

/// Every step is done and something temporary does not go, so that the run is stuck on its way forward;
/// then somebody asks it to stop. It turns back, is stuck there until the cause is gone, and in the end
/// the world is the prior one. The controller dies once on the way.
async fn requests_to_stop_while_stuck(case: Case) {
    let prior = prior(case).await;
    let mut runs = 0;
    for step in outline(case).iter().filter(|s| s.temporary) {
        let (prepared, run) = case.prepared();
        let bench = Bench::again(prepared, 43);
        let life = bench.life().await;
        azdr_env::sleep(Duration::from_secs(1)).await;
        let plan = Plan { fail_undo: Some(step.name), ..Plan::default() };
        let (life, row) = bench.run_meddled(life, run.clone(), plan, None).await;
        let what = format!("{case:?}: {} is not cleaned up", step.name);
        assert_eq!(row.state, RunState::Stuck, "{what}");
        let history = life.engine.history(row.id).await.unwrap();
        assert!(history.turned_back().is_none(), "{what}: went back by itself");
        assert_eq!(life.engine.cancel(row.id, "alice").await.unwrap(), Effect::Taken, "{what}");
        assert_eq!(life.ended(row.id).await.state, RunState::Stuck, "{what}");
        let life = bench.next(life).await;
        assert_eq!(life.ended(row.id).await.state, RunState::Stuck, "{what}");
        bench.meddler.mend();
        life.engine.retry(row.id, "alice").await.unwrap();
        let row = life.ended(row.id).await;
        assert_eq!(row.state, RunState::Cancelled, "{what}: {row:?}");
        life.settle().await;
        assert_eq!(case.undone(untouchable(&bench).await), prior.exists, "{what}");
        let items = life.store.items().await.unwrap();
        assert_eq!(catalogued(&life, &items).await, prior.points, "{what}");
        life.end().await;
        runs += 1;
    }
    assert!(runs > 0, "{case:?} has nothing temporary");
}

#[tokio::test(start_paused = true)]
async fn a_verification_stuck_cleaning_up_can_be_stopped() {
    requests_to_stop_while_stuck(Case::Verify).await;
}

#[tokio::test(start_paused = true)]
async fn a_drill_stuck_cleaning_up_can_be_stopped() {
    requests_to_stop_while_stuck(Case::DrTest).await;
}

#[tokio::test(start_paused = true)]
async fn a_drill_in_a_given_group_stuck_cleaning_up_can_be_stopped() {
    requests_to_stop_while_stuck(Case::DrTestInGivenGroup).await;
}

/// What has been tried with each case, for the sum.
static TOTALS: Mutex<BTreeMap<Case, Totals>> = Mutex::new(BTreeMap::new());

/// What has been tried with a case.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    crash_points: usize,
    failing_steps: usize,
    requests_to_stop: usize,
    never_ending_operations: usize,
}

impl Totals {
    fn all(&self) -> [usize; 4] {
        let Self { crash_points, failing_steps, requests_to_stop, never_ending_operations } = *self;
        [crash_points, failing_steps, requests_to_stop, never_ending_operations]
    }
}

/// Adds to a case's totals. Tests run in any order: whoever comes last prints the whole sum.
fn count(case: Case, add: impl FnOnce(&mut Totals)) {
    let mut all = TOTALS.lock().unwrap();
    add(all.entry(case).or_default());
    let sum = |n: usize| all.values().map(|t| t.all()[n]).sum::<usize>();
    let is_whole = all.len() == COVERED.len()
        && all.values().all(|t| t.all().iter().all(|counted| *counted > 0));
    println!(
        "{case:?}: {:?}; so far {} cases, {} crash points, {} failing steps, {} requests to stop, \
         {} never-ending operations{}",
        all[&case],
        all.len(),
        sum(0),
        sum(1),
        sum(2),
        sum(3),
        if is_whole { ": that is all" } else { "" }
    );
}

/// The controller dies before and after each write, in runs that succeed, fail early, fail late, and
/// are asked to stop half-way: the end is that of the run in which it does not. What was not yet
/// journalled as done is executed once more: every step and every undo, which is checked.
async fn crashes_at_writes(case: Case) {
    let outline = outline(case);
    let writes = run(case, Plan::default(), None).await.seen.writes;
    let ways_back = outline.iter().take_while(|s| !s.point_of_no_return);
    let last = ways_back.last().unwrap().name;
    let fail = |step, side| Plan { fail: Some((step, side)), ..Plan::default() };
    let mut plans = vec![
        ("succeeds", Plan::default(), RunState::Succeeded),
        ("fails early", fail(outline[0].name, Side::Before), RunState::Failed),
        ("fails late", fail(last, Side::After), RunState::Failed),
    ];
    // Half-way, or where it is not too late.
    for n in (1..=writes / 2).rev() {
        let plan = Plan { cancel: Some(n), ..Plan::default() };
        if run(case, plan.clone(), None).await.end.state == RunState::Cancelled {
            plans.push(("is stopped half-way", plan, RunState::Cancelled));
            break;
        }
    }
    assert_eq!(plans.len(), 4, "{case:?} cannot be stopped half-way");
    let (mut points, mut repeated) = (0, BTreeSet::new());
    for (words, plan, state) in plans {
        let mut expected = run(case, plan.clone(), None).await;
        assert_eq!(expected.end.state, state, "{case:?} {words}");
        // How far the runs that it started have come when they hear of the stop is a matter of time.
        let others_race = state == RunState::Cancelled && outline.iter().any(|s| s.starts_runs);
        if others_race {
            expected.end.proofs.clear();
        }
        // A request to stop that nobody has made yet would not be made after the crash.
        let first = plan.cancel.unwrap_or(0) + 1;
        for n in first..=expected.seen.writes {
            for side in [Side::Before, Side::After] {
                let plan = Plan { crash: Some((n, side)), ..plan.clone() };
                let mut ran = run(case, plan, None).await;
                if others_race {
                    ran.end.proofs.clear();
                }
                let what = format!("{case:?} {words}: crash {side:?} write {n}");
                assert_eq!(ran.end, expected.end, "{what}");
                assert!(ran.stuck_with.is_none(), "{what}: got stuck");
                let twice = ran.seen.executed.into_iter().filter(|(_, times)| *times > 1);
                repeated.extend(twice.map(|((step, _, undo), _)| (step, undo)));
                points += 1;
            }
        }
    }
    // What a step starts runs by is a write, and not called again: the engine's own tests show that no
    // child is lost or doubled.
    for step in outline.iter().filter(|s| !s.starts_runs) {
        assert!(repeated.contains(&(step.name, false)), "{case:?} never repeats {}", step.name);
        let undone = !step.has_undo || repeated.contains(&(step.name, true));
        assert!(undone, "{case:?} never repeats the undo of {}", step.name);
    }
    let undos = outline.iter().filter(|s| s.has_undo).count();
    println!("{case:?}: {} steps and {undos} undos were repeated", outline.len());
    count(case, |totals| totals.crash_points = points);
}

macro_rules! properties {
    ($($module:ident: $case:expr;)*) => {
        /// The cases that go through all properties.
        const COVERED: &[Case] = &[$($case),*];
        $(
        mod $module {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn it_succeeds() {
                succeeds($case).await;
            }

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

            #[tokio::test(start_paused = true)]
            async fn a_crash_at_any_write_reaches_the_same_end_and_repeats_every_step_and_undo() {
                crashes_at_writes($case).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_failure_of_any_step_restores_the_prior_world() {
                failures($case).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_request_to_stop_at_any_write_restores_the_prior_world() {
                requests_to_stop($case).await;
            }

            #[tokio::test(start_paused = true)]
            async fn an_operation_that_never_ends_ends_no_run_in_limbo() {
                operations_that_never_end($case).await;
            }

            #[tokio::test(start_paused = true)]
            async fn a_refusal_at_any_request_restores_the_prior_world() {
                refusals($case).await;
            }
        }
    )*};
}

properties! {
    backup: Case::Backup;
    backup_without_agent: Case::BackupWithoutAgent;
    replicate: Case::Replicate;
    verify: Case::Verify;
    verify_content: Case::VerifyContent;
    hash_content: Case::HashContent;
    verify_whole: Case::VerifyWhole;
    hash_whole: Case::HashWhole;
    restore_in_place: Case::RestoreInPlace;
    restore_in_place_of_deallocated: Case::RestoreInPlaceOfDeallocated;
    restore_new_vm: Case::RestoreNewVm;
    restore_new_vm_from_nothing: Case::RestoreNewVmFromNothing;
    failover: Case::Failover;
    dr_test: Case::DrTest;
    dr_test_in_given_group: Case::DrTestInGivenGroup;
    dr_test_kept: Case::DrTestKept;
    bulk: Case::Bulk;
    prune: Case::Prune;
    prune_with_replicas: Case::PruneWithReplicas;
    delete_point: Case::DeletePoint;
    reap: Case::Reap;
    remove_kept_disk: Case::RemoveKeptDisk;
}
