//! Watching jobs through broken connections and impatience.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::harness::World;

#[tokio::test]
async fn a_watch_goes_on_after_the_controller_was_away() {
    let world = World::start();
    let ran = world.run("backup trigger breaks-once").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("Lost the controller; trying again for 60 s"), "{}", ran.stderr);
    assert!(ran.stdout.contains("Backup created successfully"), "{}", ran.stdout);
}

#[tokio::test]
async fn a_watch_gives_up_with_3_and_names_the_job() {
    let world = World::start();
    let ran = world.run("backup trigger breaks-for-good --reconnect-for 1 -o json").await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let error = ran.error_json();
    assert_eq!(error["kind"], "unavailable");
    assert_eq!(error["job_id"], 24);
    assert!(error["hint"].as_str().unwrap().contains("azdr job watch 24"), "{error}");
}

#[tokio::test]
async fn interrupting_leaves_the_job_running_and_says_how_to_follow_it() {
    let world = World::start();
    let mut command = world.azdr(&["backup", "trigger", "never-ends"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (status, stderr) = tokio::task::spawn_blocking(move || {
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        // The signal is listened to before the first line of progress is written.
        stderr.read_line(&mut text).unwrap();
        // SAFETY: signals one process, which has not been waited for yet.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
        stderr.read_to_string(&mut text).unwrap();
        (child.wait().unwrap(), text)
    })
    .await
    .unwrap();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("stopped watching job 25; it goes on"), "{stderr}");
    assert!(stderr.contains("azdr job watch 25"), "{stderr}");
}
