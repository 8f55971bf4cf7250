//! The ways out of being stuck.

use std::time::Duration;

use serde_json::json;

use super::rough::{Lab, Life, Mood, kind};
use crate::store::{Event, RunId, RunState};
use crate::workflow::{Effect, Way};

/// A run that is stuck at this act.
async fn stuck_at(lab: &Lab, life: &Life, act: &'static str) -> RunId {
    lab.world.set(act, Mood::Fails);
    if act.starts_with("undo") {
        lab.world.set("do critical", Mood::Fails);
    }
    let id = life.submit("rough", &["vm:1"]).await;
    let row = life.until(id, RunState::Stuck).await;
    let error = row.error.clone().unwrap();
    assert_eq!(error["resource"], "/res/disk-1");
    assert_eq!(error["message"], format!("{act} fails"));
    id
}

async fn decisions(life: &Life, id: RunId) -> Vec<serde_json::Value> {
    let journal = life.store.journal(id).await.unwrap();
    journal.into_iter().filter(|e| e.event == Event::Decided).map(|e| e.payload).collect()
}

#[tokio::test(start_paused = true)]
async fn retry_goes_on_forward_where_it_was_stuck() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_at(&lab, &life, "do finish").await;
    let situation =
        life.engine.situation(&life.row(id).await, &life.engine.history(id).await.unwrap());
    let situation = situation.unwrap();
    assert_eq!((situation.way, situation.may_undo), (Way::Forward, false));
    assert_eq!(situation.resources, ["/res/disk-1"]);
    // Not mended yet: it is tried, and stuck again.
    assert_eq!(life.engine.retry(id, "alice").await.unwrap(), Effect::Taken);
    life.until(id, RunState::Stuck).await;
    assert_eq!(lab.world.calls("do finish"), 2);
    lab.world.mend();
    life.engine.retry(id, "bob").await.unwrap();
    life.until(id, RunState::Succeeded).await;
    let expected = ["alice", "bob"].map(|by| json!({"decision": "retry", "by": by, "reason": ""}));
    assert_eq!(decisions(&life, id).await, expected);
    assert!(life.engine.retry(id, "bob").await.is_err(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn retry_goes_on_backwards_and_repeating_it_changes_nothing() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_at(&lab, &life, "undo prepare").await;
    lab.world.set("undo prepare", Mood::Hangs);
    assert_eq!(life.engine.retry(id, "alice").await.unwrap(), Effect::Taken);
    let again = life.engine.retry(id, "alice").await.unwrap();
    let said = format!("job {id} is undoing and not stuck");
    assert_eq!(again, Effect::Nothing(said));
    lab.world.mend();
    let row = life.until(id, RunState::Failed).await;
    // What it turned back for, not what it was stuck with.
    assert_eq!(row.error.unwrap()["message"], "do critical fails");
    assert_eq!(decisions(&life, id).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn undo_turns_a_run_back_that_is_stuck_before_its_point_of_no_return() {
    let lab = Lab::new();
    let life = lab.life().await;
    // All its steps are done, and what was temporary does not go.
    lab.world.set("undo scratch", Mood::Fails);
    let id = life.submit("tidy", &[]).await;
    let row = life.until(id, RunState::Stuck).await;
    let history = life.engine.history(id).await.unwrap();
    assert!(history.turned_back().is_none());
    let situation = life.engine.situation(&row, &history).unwrap();
    assert_eq!((situation.way, situation.may_undo), (Way::Forward, true));
    assert_eq!(lab.world.calls("undo prepare"), 0);
    lab.world.mend();
    assert_eq!(life.engine.undo(id, "alice").await.unwrap(), Effect::Taken);
    let row = life.until(id, RunState::Failed).await;
    // What it was stuck with is why it turned back.
    assert_eq!(row.error.unwrap()["message"], "undo scratch fails");
    assert_eq!(lab.world.calls("undo prepare"), 1);
    let again = life.engine.undo(id, "alice").await.unwrap();
    assert_eq!(again, Effect::Nothing(format!("job {id} is undone already")));
    assert_eq!(decisions(&life, id).await[0]["decision"], "undo");
}

#[tokio::test(start_paused = true)]
async fn undo_is_refused_past_the_point_of_no_return_and_unless_stuck() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_at(&lab, &life, "do finish").await;
    let refused = life.engine.undo(id, "alice").await.unwrap_err();
    assert!(refused.to_string().contains("past its point of no return"), "{refused}");
    assert!(decisions(&life, id).await.is_empty());
    lab.world.mend();
    life.engine.retry(id, "alice").await.unwrap();
    life.until(id, RunState::Succeeded).await;
    assert!(life.engine.undo(id, "alice").await.is_err());
    let running = life.in_the_middle_of(&lab, "do critical").await;
    let refused = life.engine.undo(running, "alice").await.unwrap_err();
    assert!(refused.to_string().contains("azdr job cancel"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn abandoning_ends_a_stuck_run_names_what_is_left_and_frees_its_locks() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.left.lock().unwrap().extend(["/res/snap-1".into(), "/res/snap-2".into()]);
    let id = stuck_at(&lab, &life, "undo prepare").await;
    let behind = life.submit("brief", &["vm:1"]).await;
    azdr_env::sleep(Duration::from_secs(1)).await;
    assert_eq!(life.row(behind).await.waiting_for_job, Some(id));

    let effect = life.engine.abandon(id, "alice", "the group is gone").await.unwrap();
    assert_eq!(effect, Effect::Taken);
    let row = life.row(id).await;
    assert_eq!((row.state, kind(&row)), (RunState::Failed, "abandoned"));
    let abandoned = &row.result.unwrap()["abandoned"];
    assert_eq!(abandoned["left"], json!(["/res/snap-1", "/res/snap-2", "/res/disk-1"]));
    assert_eq!((&abandoned["by"], &abandoned["listed"]), (&json!("alice"), &json!(true)));
    assert_eq!(abandoned["was"], "undo prepare fails");
    life.until(behind, RunState::Succeeded).await;

    let again = life.engine.abandon(id, "alice", "the group is gone").await.unwrap();
    assert_eq!(again, Effect::Nothing(format!("job {id} is abandoned already")));
    let expected = json!({"decision": "abandon", "by": "alice", "reason": "the group is gone"});
    assert_eq!(decisions(&life, id).await, [expected]);
    // Nobody takes it up again.
    azdr_env::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.world.calls("undo prepare"), 1);
}

#[tokio::test(start_paused = true)]
async fn only_a_stuck_run_can_be_abandoned() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = life.in_the_middle_of(&lab, "do critical").await;
    let refused = life.engine.abandon(id, "alice", "tired").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("job {id} is running; only a stuck job can be abandoned")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stuck_run_keeps_its_error_and_its_locks_and_is_tried_again_by_itself() {
    let lab = Lab::new();
    let life = lab.life().await;
    let id = stuck_at(&lab, &life, "do finish").await;
    azdr_env::sleep(Duration::from_secs(60)).await;
    assert_eq!(life.row(id).await.state, RunState::Stuck);
    azdr_env::sleep(Duration::from_secs(3600)).await;
    assert!((5..=8).contains(&lab.world.calls("do finish")));
    assert_eq!(life.store.locks().await.unwrap().len(), 1);
    // Every try has left one entry in all, not one each.
    let failed = |e: &crate::store::JournalEntry| e.event == Event::Failed;
    let journal = life.store.journal(id).await.unwrap();
    assert_eq!(journal.iter().filter(|e| failed(e)).count(), 1);
    lab.world.mend();
    // A start tries at once.
    life.engine.kill();
    let life = lab.life().await;
    life.until(id, RunState::Succeeded).await;
}
