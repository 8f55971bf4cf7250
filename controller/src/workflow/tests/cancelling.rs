//! Cancelling at every place where a run can be.

use super::rough::{Lab, Life, Mood};
use crate::store::{RunId, RunState, StoreError};
use crate::workflow::{Effect, Way};

#[tokio::test(start_paused = true)]
async fn a_queued_run_is_cancelled_at_once_and_touches_nothing() {
    let lab = Lab::new();
    let life = lab.life().await;
    let holder = life.in_the_middle_of(&lab, "do prepare").await;
    let queued = life.submit("rough", &["vm:1"]).await;
    assert_eq!(life.engine.cancel(queued, "alice").await.unwrap(), Effect::Taken);
    assert_eq!(life.row(queued).await.state, RunState::Cancelled);
    let history = life.engine.history(queued).await.unwrap();
    let decided = serde_json::json!({"decision": "cancel", "by": "alice", "reason": ""});
    assert_eq!(history.decisions()[0].1, decided);
    lab.world.mend();
    life.until(holder, RunState::Succeeded).await;
    assert_eq!(lab.world.calls("do prepare"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_running_step_that_waits_is_cut_short_and_undone() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do scratch", Mood::Waits);
    let id = life.submit("rough", &[]).await;
    life.until(id, RunState::Running).await;
    for by in ["alice", "bob"] {
        assert_eq!(life.engine.cancel(id, by).await.unwrap(), Effect::Taken);
    }
    life.until(id, RunState::Cancelled).await;
    // Who was first; asking again changes nothing.
    let history = life.engine.history(id).await.unwrap();
    let by: Vec<_> = history.decisions().iter().map(|(_, d)| d["by"].clone()).collect();
    assert_eq!(by, ["alice"]);
    assert_eq!((lab.world.calls("undo scratch"), lab.world.calls("undo prepare")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_not_cut_short_the_run_turns_back_after_it() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = life.in_the_middle_of(&lab, "do critical").await;
    assert_eq!(life.engine.cancel(id, "alice").await.unwrap(), Effect::Taken);
    azdr_env::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(life.row(id).await.state, RunState::Running);
    lab.world.mend();
    life.until(id, RunState::Cancelled).await;
    assert_eq!((lab.world.calls("do critical"), lab.world.calls("undo critical")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_child_cancels_the_child_too() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Waits);
    let id = life.submit("rough", &[]).await;
    life.until(id, RunState::Running).await;
    while lab.world.calls("do brief") == 0 {
        azdr_env::sleep(std::time::Duration::from_millis(1)).await;
    }
    let progress = life.engine.progress(id);
    let detail = &progress[&("child".to_owned(), String::new())].detail;
    assert_eq!(detail, "waiting for job 2");
    life.engine.cancel(id, "alice").await.unwrap();
    life.until(id, RunState::Cancelled).await;
    let child = life.store.recent_runs(None, None, Some("brief"), 1).await.unwrap().remove(0);
    assert_eq!((child.state, child.parent), (RunState::Cancelled, Some(id)));
    assert_eq!(lab.world.calls("undo brief"), 1);
}

#[tokio::test(start_paused = true)]
async fn while_undoing_cancelling_changes_nothing_and_says_so() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do scratch", Mood::Fails);
    lab.world.set("undo prepare", Mood::Hangs);
    let id = life.submit("rough", &[]).await;
    life.until(id, RunState::Undoing).await;
    let effect = life.engine.cancel(id, "alice").await.unwrap();
    let said = format!("job {id} is undoing already; cancelling changes nothing");
    assert_eq!(effect, Effect::Nothing(said));
    lab.world.mend();
    // It failed before anybody asked.
    life.until(id, RunState::Failed).await;
    let refused = life.engine.cancel(id, "alice").await.unwrap_err();
    assert_eq!(refused.to_string(), format!("job {id} is over already: failed"));
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_cancelling_is_refused() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = life.in_the_middle_of(&lab, "do finish").await;
    let refused = life.engine.cancel(id, "alice").await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    let said = format!("job {id} is past its point of no return and only goes forward");
    assert_eq!(refused.to_string(), said);
    lab.world.mend();
    assert!(!life.until(id, RunState::Succeeded).await.cancel_requested);
}

#[tokio::test(start_paused = true)]
async fn a_run_stuck_past_its_point_of_no_return_is_not_cancelled_either() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do finish", Mood::Fails);
    let id = life.submit("rough", &[]).await;
    life.until(id, RunState::Stuck).await;
    assert!(life.engine.cancel(id, "alice").await.is_err());
    assert_eq!(life.row(id).await.state, RunState::Stuck);
}

#[tokio::test(start_paused = true)]
async fn a_run_stuck_on_its_way_back_is_told_where_to_look() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do critical", Mood::Fails);
    lab.world.set("undo prepare", Mood::Fails);
    let id = life.submit("rough", &[]).await;
    life.until(id, RunState::Stuck).await;
    let Effect::Nothing(said) = life.engine.cancel(id, "alice").await.unwrap() else { panic!() };
    assert!(said.contains(&format!("azdr job show {id}")), "{said}");
}

/// All steps are done, and what was temporary does not go: stuck on the way forward.
async fn stuck_cleaning_up(lab: &Lab, life: &Life) -> RunId {
    lab.world.set("undo scratch", Mood::Fails);
    let id = life.submit("tidy", &["vm:1"]).await;
    let row = life.until(id, RunState::Stuck).await;
    let history = life.engine.history(id).await.unwrap();
    let situation = life.engine.situation(&row, &history).unwrap();
    assert_eq!((situation.way, situation.may_undo), (Way::Forward, true));
    id
}

#[tokio::test(start_paused = true)]
async fn a_run_stuck_cleaning_up_turns_back_when_cancelled_and_undoes_everything() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_cleaning_up(&lab, &life).await;
    assert_eq!(life.engine.cancel(id, "alice").await.unwrap(), Effect::Taken);
    let history = life.engine.history(id).await.unwrap();
    assert_eq!(history.decisions()[0].1["by"], "alice");
    // What was in the way still is; the direction has changed, and keeps.
    life.until(id, RunState::Undoing).await;
    let row = life.until(id, RunState::Stuck).await;
    let history = life.engine.history(id).await.unwrap();
    assert_eq!(life.engine.situation(&row, &history).unwrap().way, Way::Back);
    assert_eq!(lab.world.calls("undo prepare"), 0);
    let Effect::Nothing(_) = life.engine.cancel(id, "alice").await.unwrap() else { panic!() };
    lab.world.mend();
    life.engine.retry(id, "alice").await.unwrap();
    life.until(id, RunState::Cancelled).await;
    assert_eq!(lab.world.calls("undo prepare"), 1);
    assert!(life.store.locks().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cancelled_while_stuck_stays_cancelled_after_a_crash() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_cleaning_up(&lab, &life).await;
    lab.world.set("undo scratch", Mood::Hangs);
    assert_eq!(life.engine.cancel(id, "alice").await.unwrap(), Effect::Taken);
    life.engine.kill();
    lab.world.mend();
    let life = lab.life().await;
    life.until(id, RunState::Cancelled).await;
    assert_eq!(lab.world.calls("undo prepare"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_stuck_on_residue_turns_back_when_cancelled_and_still_waits_for_the_listing() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.left.lock().unwrap().push("/res/left".into());
    let id = life.submit("tidy", &[]).await;
    let row = life.until(id, RunState::Stuck).await;
    assert_eq!(row.error.unwrap()["left"], serde_json::json!(["/res/left"]));
    assert_eq!(life.engine.cancel(id, "alice").await.unwrap(), Effect::Taken);
    life.until(id, RunState::Undoing).await;
    life.until(id, RunState::Stuck).await;
    assert_eq!(lab.world.calls("undo prepare"), 1);
    lab.world.mend();
    life.engine.retry(id, "alice").await.unwrap();
    life.until(id, RunState::Cancelled).await;
    assert_eq!(lab.world.calls("undo prepare"), 1);
}
