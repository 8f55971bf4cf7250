//! Runs that a run starts and waits for.

use std::time::Duration;

use super::rough::{Lab, Life, Mood, kind};
use crate::store::{Event, RunId, RunRow, RunState};
use crate::workflow::{ChildEnd, RetryPolicy, Way};

/// The children of `many`, oldest first.
async fn children(life: &Life) -> Vec<RunRow> {
    let mut rows = life.store.recent_runs(None, None, Some("brief"), 100).await.unwrap();
    rows.reverse();
    rows
}

async fn states(life: &Life) -> Vec<RunState> {
    children(life).await.iter().map(|r| r.state).collect()
}

/// Waits until the children are in these states.
async fn until_children_are(life: &Life, wanted: &[RunState]) {
    let mut changes = life.engine.subscribe();
    loop {
        changes.mark_seen();
        if states(life).await == wanted {
            return;
        }
        changes.changed().await;
    }
}

/// What the parent concluded of each child, in the order of its list.
fn concluded(row: &RunRow) -> Vec<(String, Option<ChildEnd>)> {
    serde_json::from_value(row.result.clone().unwrap()).unwrap()
}

fn end_states(row: &RunRow) -> Vec<Option<RunState>> {
    concluded(row).iter().map(|(_, end)| end.as_ref().map(|e| e.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn children_run_side_by_side_within_the_bound_and_know_their_parent() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Hangs);
    let id = life.submit("many", &["a", "b", "c", "d", "e"]).await;
    until_children_are(&life, &[RunState::Running; 2]).await;
    azdr_env::sleep(Duration::from_secs(60)).await;
    assert_eq!(states(&life).await, [RunState::Running; 2], "the third waits for its turn");
    assert!(children(&life).await.iter().all(|c| c.parent == Some(id)));
    let progress = life.engine.progress(id);
    let shown = &progress[&("briefs".to_owned(), String::new())];
    assert_eq!(shown.detail, "0 of 5 are over, waiting for job 2, job 3");
    assert_eq!(shown.percent, Some(0.0));
    lab.world.mend();
    let row = life.until(id, RunState::Succeeded).await;
    assert_eq!(end_states(&row), [Some(RunState::Succeeded); 5]);
    assert_eq!(lab.world.calls("do brief"), 5);
    let names: Vec<_> = concluded(&row).into_iter().map(|(item, _)| item).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_leaves_the_others_alone_and_the_parent_says_which() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.fail_next("do brief", 1);
    let id = life.submit("many", &["a", "b", "c"]).await;
    let row = life.until(id, RunState::Failed).await;
    assert_eq!(kind(&row), "children_failed");
    let error = row.error.clone().unwrap();
    assert_eq!(error["message"], "1 of 3 jobs did not succeed: job 2");
    let (ok, failed) = (Some(RunState::Succeeded), Some(RunState::Failed));
    assert_eq!(end_states(&row), [failed, ok, ok]);
    let (_, first) = concluded(&row).remove(0);
    let first = first.unwrap();
    assert_eq!((first.job, &*first.error.unwrap().message), (RunId(2), "do brief fails"));
    assert_eq!(lab.world.calls("undo brief"), 1, "those that succeeded are not undone");
}

#[tokio::test(start_paused = true)]
async fn a_list_of_nothing_is_done_at_once() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = life.submit("many", &[]).await;
    let row = life.until(id, RunState::Succeeded).await;
    assert_eq!(end_states(&row), []);
}

#[tokio::test(start_paused = true)]
async fn cancelling_the_parent_cancels_what_runs_and_starts_no_more() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Waits);
    let id = life.submit("many", &["a", "b", "c"]).await;
    until_children_are(&life, &[RunState::Running; 2]).await;
    life.engine.cancel(id, "alice").await.unwrap();
    let row = life.until(id, RunState::Cancelled).await;
    assert_eq!(states(&life).await, [RunState::Cancelled; 2]);
    let cancelled = Some(RunState::Cancelled);
    assert_eq!(end_states(&row), [cancelled, cancelled, None], "the third never started");
}

#[tokio::test(start_paused = true)]
async fn all_children_are_told_to_stop_before_any_is_waited_for() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Waits);
    lab.world.set("undo brief", Mood::Hangs);
    let id = life.submit("many", &["a", "b"]).await;
    until_children_are(&life, &[RunState::Running; 2]).await;
    life.engine.cancel(id, "alice").await.unwrap();
    until_children_are(&life, &[RunState::Undoing; 2]).await;
    lab.world.mend();
    life.until(id, RunState::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_child_gives_its_place_to_the_next_and_in_the_end_the_parent_is_stuck_with_it() {
    let lab = Lab::new();
    let life = lab.life().await;
    // Both of the first two fail and cannot be undone.
    lab.world.fail_next("do brief", 2);
    lab.world.fail_next("undo brief", 2);
    let id = life.submit("many", &["a", "b", "c"]).await;
    let row = life.until(id, RunState::Stuck).await;
    let (stuck, ok) = (RunState::Stuck, RunState::Succeeded);
    assert_eq!(states(&life).await, [stuck, stuck, ok]);
    assert_eq!(kind(&row), "child_stuck");
    let history = life.engine.history(id).await.unwrap();
    let situation = life.engine.situation(&row, &history).unwrap();
    assert_eq!(situation.way, Way::Forward);
    assert_eq!(situation.resources, ["job 2", "job 3"]);
    // It goes on by itself when they are over, without being undone in between.
    life.engine.retry(RunId(2), "alice").await.unwrap();
    life.engine.abandon(RunId(3), "alice", "mine now").await.unwrap();
    let row = life.until(id, RunState::Failed).await;
    let failed = Some(RunState::Failed);
    assert_eq!(end_states(&row), [failed, failed, Some(ok)]);
}

#[tokio::test(start_paused = true)]
async fn a_parent_stuck_on_a_child_can_be_cancelled_and_waits_for_it_on_the_way_back() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Fails);
    lab.world.set("undo brief", Mood::Fails);
    let parent = life.submit("rough", &[]).await;
    let row = life.until(parent, RunState::Stuck).await;
    let child = children(&life).await.remove(0);
    assert_eq!(child.state, RunState::Stuck);
    assert_eq!(kind(&row), "child_stuck");
    assert_eq!(row.error.unwrap()["resource"], format!("job {}", child.id));
    life.engine.cancel(parent, "alice").await.unwrap();
    life.until(parent, RunState::Undoing).await;
    life.until(parent, RunState::Stuck).await;
    lab.world.mend();
    life.engine.retry(child.id, "alice").await.unwrap();
    life.until(child.id, RunState::Failed).await;
    life.until(parent, RunState::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_parent_names_the_children_that_are_not_over() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Fails);
    lab.world.set("undo brief", Mood::Fails);
    let id = life.submit("many", &["a", "b"]).await;
    life.until(id, RunState::Stuck).await;
    life.engine.abandon(id, "alice", "enough").await.unwrap();
    let row = life.row(id).await;
    assert_eq!(row.result.unwrap()["abandoned"]["left"], serde_json::json!(["job 2", "job 3"]));
}

#[tokio::test(start_paused = true)]
async fn parents_take_no_place_among_the_runs_in_flight() {
    let lab = Lab::new();
    // Two places, two parents: their children must get them.
    let life = lab.life_with(2, RetryPolicy::AZURE).await;
    let first = life.submit("many", &["a", "b"]).await;
    let second = life.submit("many", &["c", "d"]).await;
    life.until(first, RunState::Succeeded).await;
    life.until(second, RunState::Succeeded).await;
}

/// Every child starts exactly once and the parent ends as it would have, wherever the controller dies.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_neither_loses_nor_doubles_a_child() {
    let whole = Lab::new();
    let life = whole.life().await;
    whole.die_at_write(None, false);
    let id = life.submit("many", &["a", "b", "c"]).await;
    life.until(id, RunState::Succeeded).await;
    life.engine.kill();
    let writes = whole.writes();
    assert!(writes > 20, "{writes}");
    for (n, after) in (1..=writes).flat_map(|n| [(n, false), (n, true)]) {
        let lab = Lab::new();
        let life = lab.life().await;
        lab.die_at_write(Some(n), after);
        let submitted = tokio::select! {
            id = life.submit("many", &["a", "b", "c"]) => Some(id),
            () = lab.death() => None,
        };
        if submitted.is_some() {
            lab.death().await;
        }
        life.engine.kill();
        lab.die_at_write(None, false);
        let life = lab.life().await;
        let case = format!("write {n}, {}", if after { "after" } else { "before" });
        let found = life.store.recent_runs(None, None, Some("many"), 2).await.unwrap();
        let Some(id) = found.first().map(|row| row.id) else {
            assert_eq!((n, after), (1, false), "what was answered is durable");
            continue;
        };
        let row = life.until(id, RunState::Succeeded).await;
        assert_eq!(end_states(&row), [Some(RunState::Succeeded); 3], "{case}");
        assert_eq!(states(&life).await, [RunState::Succeeded; 3], "{case}");
        let journal = life.store.journal(id).await.unwrap();
        assert_eq!(journal.iter().filter(|e| e.event == Event::Started).count(), 3, "{case}");
    }
}
