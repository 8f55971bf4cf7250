//! Back-off and deadlines across restarts and jumps of the clock.

use std::time::Duration;

use super::rough::{Lab, Mood, kind};
use crate::store::RunState;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_restart_neither_hammers_nor_gives_a_failing_step_its_time_again() {
    let lab = Lab::new();
    let mut life = lab.life().await;
    lab.world.set("do prepare", Mood::Falters);
    let id = life.submit("rough", &[]).await;
    // A controller that is restarted every two minutes.
    for _ in 0..14 {
        azdr_env::sleep(2 * MINUTE).await;
        assert_eq!(life.row(id).await.state, RunState::Running);
        life.engine.kill();
        life = lab.life().await;
    }
    // Once a minute, by far not 14 times from one second up.
    let calls = lab.world.calls("do prepare");
    assert!((25..=40).contains(&calls), "{calls}");
    azdr_env::sleep(6 * MINUTE).await;
    assert_eq!(life.row(id).await.state, RunState::Failed);
}

#[tokio::test(start_paused = true)]
async fn jumps_of_the_wall_clock_neither_expire_nor_prolong_anything() {
    for jump in [3600, -3600] {
        let lab = Lab::new();
        let life = lab.life().await;
        lab.world.set("do prepare", Mood::Falters);
        let id = life.submit("rough", &[]).await;
        azdr_env::sleep(10 * MINUTE).await;
        lab.jump(jump);
        life.engine.kill();
        let life = lab.life().await;
        azdr_env::sleep(10 * MINUTE).await;
        assert_eq!(life.row(id).await.state, RunState::Running, "{jump}");
        assert!(lab.world.calls("do prepare") >= 20, "{jump}");
        azdr_env::sleep(12 * MINUTE).await;
        assert_eq!(life.row(id).await.state, RunState::Failed, "{jump}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_for_days_writes_rarely_and_its_limit_survives_restarts() {
    let lab = Lab::new();
    let mut life = lab.life().await;
    lab.world.set("do copy", Mood::Waits);
    let id = life.submit("copy", &[]).await;
    for _ in 0..7 {
        azdr_env::sleep(10 * HOUR).await;
        assert_eq!(life.row(id).await.state, RunState::Running);
        life.engine.kill();
        life = lab.life().await;
    }
    assert!(life.store.journal(id).await.unwrap().len() <= 2);
    // 72 hours in all; a restart forgets ten minutes at most.
    azdr_env::sleep(4 * HOUR).await;
    let row = life.row(id).await;
    assert_eq!((row.state, kind(&row)), (RunState::Failed, "timed_out"));
    assert_eq!(lab.world.calls("undo copy"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_too_long_turns_back() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do copy", Mood::Waits);
    let id = life.submit("patient", &[]).await;
    azdr_env::sleep(40 * MINUTE).await;
    life.engine.kill();
    let life = lab.life().await;
    azdr_env::sleep(15 * MINUTE).await;
    assert_eq!(life.row(id).await.state, RunState::Running);
    azdr_env::sleep(16 * MINUTE).await;
    let row = life.row(id).await;
    assert_eq!((row.state, kind(&row)), (RunState::Failed, "run_timed_out"));
    assert_eq!(row.error.unwrap()["message"], "the patient took longer than 1.0 h");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_takes_too_long_is_cancelled_with_its_parent() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do brief", Mood::Hangs);
    let id = life.submit("rough", &[]).await;
    azdr_env::sleep(6 * HOUR + MINUTE).await;
    let row = life.row(id).await;
    // The child's step hangs: it cannot be cancelled before it answers.
    assert_eq!(row.state, RunState::Undoing);
    lab.world.mend();
    let row = life.until(id, RunState::Failed).await;
    assert_eq!(kind(&row), "run_timed_out");
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_a_step_that_takes_too_long_gets_the_run_stuck() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do finish", Mood::Waits);
    let id = life.submit("rough", &[]).await;
    azdr_env::sleep(31 * MINUTE).await;
    let row = life.until(id, RunState::Stuck).await;
    assert_eq!(kind(&row), "timed_out");
    lab.world.mend();
    life.engine.retry(id, "alice").await.unwrap();
    life.until(id, RunState::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_polls_for_ever_ends_at_its_limit_which_survives_restarts() {
    let lab = Lab::new();
    let mut life = lab.life().await;
    lab.world.set("do prepare", Mood::Polls);
    let id = life.submit("rough", &[]).await;
    for _ in 0..5 {
        azdr_env::sleep(5 * MINUTE).await;
        assert_eq!(life.row(id).await.state, RunState::Running);
        life.engine.kill();
        life = lab.life().await;
    }
    // 30 minutes in all; a restart forgets a twentieth of that at most, the pauses count.
    azdr_env::sleep(14 * MINUTE).await;
    let row = life.row(id).await;
    assert_eq!((row.state, kind(&row)), (RunState::Failed, "timed_out"));
    assert_eq!(row.error.unwrap()["resource"], "/res/disk-1");
    assert_eq!(lab.world.calls("undo prepare"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_polls_for_ever_writes_rarely_and_can_be_cancelled() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do copy", Mood::Polls);
    let id = life.submit("copy", &[]).await;
    azdr_env::sleep(20 * HOUR).await;
    // Once in ten minutes it comes back to the engine, not at every poll.
    let calls = lab.world.calls("do copy");
    assert!((100..=120).contains(&calls), "{calls}");
    life.engine.cancel(id, "alice").await.unwrap();
    life.until(id, RunState::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_step_polls_for_ever_ends_at_the_limit_of_the_run() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do copy", Mood::Polls);
    let id = life.submit("patient", &[]).await;
    azdr_env::sleep(HOUR - MINUTE).await;
    assert_eq!(life.row(id).await.state, RunState::Running);
    azdr_env::sleep(2 * MINUTE).await;
    let row = life.row(id).await;
    assert_eq!((row.state, kind(&row)), (RunState::Failed, "run_timed_out"));
    assert_eq!(row.error.unwrap()["resource"], "/res/disk-1");
}

#[tokio::test(start_paused = true)]
async fn an_undo_and_what_is_past_the_point_of_no_return_get_stuck_when_they_poll_for_ever() {
    for act in ["undo prepare", "do finish"] {
        let lab = Lab::new();
        let life = lab.life().await;
        lab.world.set(act, Mood::Polls);
        let undoing = act.starts_with("undo");
        if undoing {
            lab.world.set("do critical", Mood::Fails);
        }
        let id = life.submit("rough", &["vm:1"]).await;
        azdr_env::sleep(32 * MINUTE).await;
        let row = life.row(id).await;
        assert_eq!((row.state, kind(&row)), (RunState::Stuck, "timed_out"), "{act}");
        assert_eq!(row.error.unwrap()["resource"], "/res/disk-1", "{act}");
        // It is tried again by itself, and ends when what it waits for ends.
        azdr_env::sleep(20 * MINUTE).await;
        lab.world.mend();
        azdr_env::sleep(MINUTE).await;
        let ended = if undoing { RunState::Failed } else { RunState::Succeeded };
        assert_eq!(life.row(id).await.state, ended, "{act}");
    }
}
