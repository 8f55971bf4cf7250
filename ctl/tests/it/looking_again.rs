//! `--watch` of what can be listed and shown.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::World;

/// A command that watches, with both streams piped. One that stays silent is killed: its test fails then
/// instead of waiting for ever.
struct Watching {
    child: Child,
    deadline: JoinHandle<()>,
    /// None once nobody reads it any more.
    stdout: Option<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
}

impl Watching {
    fn start(world: &World, line: &str) -> Self {
        let args: Vec<&str> = line.split(' ').chain(["--watch", "--interval", "1"]).collect();
        let mut command = world.azdr(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let id = child.id();
        let deadline = tokio::spawn(async move {
            azdr_env::sleep(Duration::from_secs(60)).await;
            signal(id, libc::SIGKILL);
        });
        Self { child, deadline, stdout, stderr }
    }

    /// Lines of stdout up to the first that has `end` in it.
    fn read_to(&mut self, end: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.contains(end)) {
            let mut line = String::new();
            let stdout = self.stdout.as_mut().unwrap();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{end:?} is not in {lines:?}");
            lines.push(line.trim_end().to_owned());
        }
        lines
    }

    fn read_words(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ctrl-C: what comes still on both streams, and the exit code.
    fn interrupt(mut self) -> (String, String, i32) {
        signal(self.child.id(), libc::SIGINT);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (stdout, stderr, self.end().expect("it was not killed"))
    }

    /// The exit code, once it has ended.
    fn end(mut self) -> Option<i32> {
        let status = self.child.wait().unwrap();
        self.deadline.abort();
        status.code()
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: signals one process of ours, which has not been waited for yet.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

/// Reading a pipe must not hold up the controller, which lives on this thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn a_pipe_gets_everything_once_and_then_what_has_changed() {
    let world = World::start();
    let mut watching = Watching::start(&world, "job list --vm restless");
    let (all, changed, end) = aside(move || {
        let all = watching.read_to("is locked").into_iter().chain(watching.read_to(" UTC"));
        let all: Vec<String> = all.collect();
        let changed = watching.read_to("+ ");
        (all, changed, watching.interrupt())
    })
    .await;
    assert!(all[0].starts_with("JOB"), "{all:?}");
    // Each job once, an empty line, and when the change was seen.
    assert_eq!(all.len(), 5, "{all:?}");
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(changed[0].starts_with("- 12 ") && changed[0].contains("queued"), "{changed:?}");
    assert!(changed[1].starts_with("+ 12 ") && changed[1].contains("running"), "{changed:?}");
    assert_eq!(end, (String::new(), String::new(), 130));
}

#[tokio::test]
async fn programs_get_one_line_per_change() {
    let world = World::start();
    let mut watching = Watching::start(&world, "job list --vm restless -o json");
    let (lines, end) = aside(move || {
        let lines = [watching.read_to("jobs"), watching.read_to("jobs")].concat();
        (lines, watching.interrupt())
    })
    .await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let states = lines.iter().map(|line| {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        document["jobs"][0]["state"].as_str().unwrap().to_owned()
    });
    assert_eq!(states.collect::<Vec<_>>(), ["queued", "running"]);
    assert_eq!(end, (String::new(), String::new(), 130));
}

#[tokio::test]
async fn a_controller_that_restarts_is_said_to_be_lost_and_to_be_back() {
    let mut world = World::start();
    let mut watching = Watching::start(&world, "job list --vm restless");
    let mut watching = aside(move || {
        watching.read_to("is locked");
        watching
    })
    .await;
    world.stop().await;
    let (mut watching, words) = aside(move || {
        let words = watching.read_words();
        (watching, words)
    })
    .await;
    assert!(
        words.contains("UTC: lost the controller (") && words.ends_with("every 1 s"),
        "{words}"
    );
    world.start_again();
    let (words, changed, end) = aside(move || {
        let words = watching.read_words();
        (words, watching.read_to("+ 12"), watching.interrupt())
    })
    .await;
    // Said once each, however often it was tried.
    assert_eq!(words, "The controller is back.");
    assert!(changed.last().unwrap().contains("running"), "{changed:?}");
    assert_eq!(end, (String::new(), String::new(), 130));
}

#[tokio::test]
async fn a_first_question_that_fails_ends_it_and_so_does_one_that_will_never_succeed() {
    let world = World::start();
    for (line, code) in [
        ("job show 999 --watch", 1),
        ("backup config-show denied --watch", 3),
        ("job list --interval 2", 2),
    ] {
        let ran = world.run(line).await;
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        assert_eq!(ran.stdout, "");
    }
}

#[tokio::test]
async fn it_ends_when_nobody_reads_any_more() {
    let world = World::start();
    let mut watching = Watching::start(&world, "vm list");
    let code = aside(move || {
        watching.read_to("NAME");
        // Nothing changes: it is not writing that tells.
        watching.stdout = None;
        watching.end()
    })
    .await;
    assert_eq!(code, Some(0));
}

/// Commands that ask for a state that changes by itself, and that need no `--watch`: what they show is
/// computed for the asking, is who is asking, or is watched already.
const NOT_WATCHED: &[&str] = &[
    "backup cost",
    "backup explain",
    "job watch",
    "operator renew",
    "policy diff",
    "policy show",
    "policy simulate",
    "whoami",
];

#[test]
fn whatever_is_listed_or_shown_can_be_watched() {
    fn visit(command: &clap::Command, path: &str, unwatched: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let is_watched = command.get_arguments().any(|arg| arg.get_long() == Some("watch"));
        if help.contains("Needs role: viewer") && !is_watched {
            unwatched.push(path.to_owned());
        }
        for child in command.get_subcommands() {
            visit(child, format!("{path} {}", child.get_name()).trim(), unwatched);
        }
    }
    let mut unwatched = Vec::new();
    visit(&azdr_ctl::command(), "", &mut unwatched);
    unwatched.sort();
    assert_eq!(unwatched, NOT_WATCHED);
}
