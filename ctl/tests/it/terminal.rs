//! At a terminal: icons, the live line, questions, and pictures that are drawn anew.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use crate::harness::World;

/// What the terminal showed, with plain line ends, and the exit code.
struct Seen {
    screen: String,
    code: i32,
}

/// Who sits at the terminal.
#[derive(Clone, Copy, Default)]
struct Person {
    /// What they type when they are asked something.
    answer: &'static str,
    /// Columns and rows of their window, where it says so.
    window: Option<(u16, u16)>,
    /// What they wait for, as often, to press Ctrl-C then.
    until: Option<(&'static str, usize)>,
}

/// Runs a command with all three streams on a terminal, and types `answer` when it asks something.
async fn at_a_terminal(command: Command, answer: &'static str) -> Seen {
    seen_by(Person { answer, ..Person::default() }, command).await
}

async fn seen_by(person: Person, mut command: Command) -> Seen {
    let (master, slave) = pty(person.window);
    let answer = person.answer;
    let mut keyboard = master.try_clone().unwrap();
    command.env("LANG", "C.UTF-8").stdin(Stdio::from(slave.try_clone().unwrap()));
    command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
    let mut child = command.spawn().unwrap();
    // It holds the last descriptors of the other end: the screen ends with the child.
    drop(command);
    tokio::task::spawn_blocking(move || {
        let mut answer = Some(answer).filter(|answer| !answer.is_empty());
        let mut until = person.until;
        let mut screen = Vec::new();
        let mut master = master;
        let mut piece = [0; 4096];
        // Linux reports the closed other end as an error.
        while let Ok(n @ 1..) = master.read(&mut piece) {
            screen.extend_from_slice(&piece[..n]);
            // A question is the only text without a line end that ends so.
            if let Some(answer) = answer.take_if(|_| screen.ends_with(b": ")) {
                keyboard.write_all(answer.as_bytes()).unwrap();
            }
            let shown = String::from_utf8_lossy(&screen);
            if until.is_some_and(|(words, times)| shown.matches(words).count() >= times) {
                until = None;
                // SAFETY: signals one process, which has not been waited for yet.
                assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
            }
        }
        let code = child.wait().unwrap().code().unwrap();
        Seen { screen: String::from_utf8(screen).unwrap().replace("\r\n", "\n"), code }
    })
    .await
    .unwrap()
}

fn pty(window: Option<(u16, u16)>) -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let (ws_col, ws_row) = window.unwrap_or_default();
    let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointers are to live values; the others may be null.
    let result = unsafe {
        libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size)
    };
    assert_eq!(result, 0, "no terminal to be had");
    // SAFETY: openpty has just opened them, and nobody else owns them.
    unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

#[tokio::test]
async fn a_restore_asks_and_goes_on_after_yes() {
    let world = World::start();
    let command = world.azdr(&["backup", "restore", "prod-db-vm"]);
    let seen = at_a_terminal(command, "yes\n").await;
    assert_eq!(seen.code, 0, "{}", seen.screen);
    insta::assert_snapshot!("terminal_restore", seen.screen);
}

#[tokio::test]
async fn anything_but_yes_changes_nothing() {
    let world = World::start();
    let command = world.azdr(&["backup", "restore", "prod-db-vm"]);
    let seen = at_a_terminal(command, "y\n").await;
    assert_eq!(seen.code, 1, "{}", seen.screen);
    assert!(seen.screen.contains("not confirmed: nothing was changed"), "{}", seen.screen);
}

#[tokio::test]
async fn a_backup_is_chosen_from_a_list() {
    let world = World::start();
    let command = world.azdr(&["backup", "restore", "prod-db-vm", "--interactive", "--yes"]);
    let seen = at_a_terminal(command, "2\n").await;
    assert_eq!(seen.code, 0, "{}", seen.screen);
    let backup = "  Backup: prod-db-vm-backup-daily-20251130-0800\n";
    assert!(seen.screen.contains(backup), "{}", seen.screen);
}

#[tokio::test]
async fn progress_shows_icons_unless_the_user_wants_none() {
    let world = World::start();
    let seen = at_a_terminal(world.azdr(&["backup", "trigger", "prod-db-vm"]), "").await;
    insta::assert_snapshot!("terminal_trigger", seen.screen.replace('\x1b', "ESC"));
    let mut plain = world.azdr(&["backup", "trigger", "prod-db-vm"]);
    plain.env("NO_COLOR", "1");
    let seen = at_a_terminal(plain, "").await;
    assert!(seen.screen.is_ascii(), "{}", seen.screen);
}

#[tokio::test]
async fn a_drill_and_a_list_look_as_in_the_manual() {
    let world = World::start();
    let seen = at_a_terminal(world.azdr(&["dr", "test", "prod-db-vm"]), "").await;
    insta::assert_snapshot!("terminal_dr_test", seen.screen);
    let seen = at_a_terminal(world.azdr(&["dr", "test-all"]), "").await;
    insta::assert_snapshot!("terminal_test_all", seen.screen.replace('\x1b', "ESC"));
    let seen = at_a_terminal(world.azdr(&["backup", "list", "prod-db-vm"]), "").await;
    insta::assert_snapshot!("terminal_list", seen.screen);
    let seen = at_a_terminal(world.azdr(&["backup", "replication-status", "prod-db-vm"]), "").await;
    insta::assert_snapshot!("terminal_replication_status", seen.screen);
    let seen = at_a_terminal(world.azdr(&["dr", "test-history", "prod-db-vm"]), "").await;
    insta::assert_snapshot!("terminal_test_history", seen.screen);
}

/// The two ways to ask for plain text, with what has colours otherwise.
#[tokio::test]
async fn no_colour_and_no_animation_for_whoever_wants_none() {
    let world = World::start();
    let window = Some((100, 50));
    let once = Person { window, ..Person::default() };
    for line in [
        "--help",
        "job show x",
        "backup trigger prod-db-vm",
        "dr test-all",
        "backup list prod-db-vm",
        "vm list -o table",
        "status",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        for (variable, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let mut command = world.azdr(&args);
            command.env("TERM", "xterm-256color").env(variable, value);
            let seen = seen_by(once, command).await;
            assert!(!seen.screen.contains(['\x1b', '\r', '✓']), "{line}: {:?}", seen.screen);
        }
    }
    // They are not plain by themselves.
    for line in ["--help", "backup trigger prod-db-vm"] {
        let mut command = world.azdr(&line.split(' ').collect::<Vec<_>>());
        command.env("TERM", "xterm-256color");
        let seen = seen_by(once, command).await;
        assert!(seen.screen.contains('\x1b'), "{line}: {:?}", seen.screen);
    }
    for variable in ["NO_COLOR", "TERM"] {
        let mut command = world.azdr(&["vm", "list", "--watch", "--interval", "1"]);
        command.env(variable, "dumb");
        let seen = seen_by(Person { until: Some(("staging-vm", 1)), ..once }, command).await;
        assert_eq!(seen.code, 130);
        assert!(!seen.screen.contains('\x1b'), "{:?}", seen.screen);
    }
}

#[tokio::test]
async fn a_watched_list_is_drawn_anew_in_place_until_ctrl_c() {
    let world = World::start();
    let args = ["job", "list", "--vm", "restless", "--watch", "--interval", "1"];
    let person =
        Person { window: Some((120, 12)), until: Some(("\x1b[H", 4)), ..Person::default() };
    let seen = seen_by(person, world.azdr(&args)).await;
    assert_eq!(seen.code, 130, "{:?}", seen.screen);
    // What stood there is scrolled away once; then every picture begins in the corner.
    let pictures: Vec<&str> = seen.screen.split("\x1b[H").collect();
    assert_eq!(pictures[0], "\n".repeat(12));
    for (picture, state) in pictures[1..].iter().zip(["queued", "queued", "running", "running"]) {
        let lines: Vec<&str> = picture.lines().collect();
        assert!(lines[0].starts_with("Every 1 s, until Ctrl-C  20"), "{lines:?}");
        assert!(lines[2].starts_with("JOB") && lines[3].contains(state), "{lines:?}");
        assert!(lines[2..5].iter().all(|line| line.ends_with("\x1b[K")), "{lines:?}");
    }
}

#[tokio::test]
async fn a_table_fits_the_window_as_far_as_names_do() {
    let world = World::start();
    let list = ["-o", "table", "backup", "list", "prod-db-vm"];
    let seen_in = async |columns| {
        let person = Person { window: Some((columns, 50)), ..Person::default() };
        seen_by(person, world.azdr(&list)).await.screen
    };
    let wide = seen_in(200).await;
    assert_eq!(wide.lines().count(), 4, "{wide}");
    for columns in [110, 20] {
        let narrow = seen_in(columns).await;
        let widest = narrow.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(narrow.lines().count() > 4, "{narrow}");
        assert!(widest <= usize::from(columns) || columns == 20, "{widest}: {narrow}");
        assert!(narrow.contains("prod-db-vm-backup-daily-20251201-0800  "), "{narrow}");
    }
}
