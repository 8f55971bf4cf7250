//! At a terminal: icons, the live line, and questions.

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

/// Runs a command with all three streams on a terminal, and types `answer` when it asks something.
async fn at_a_terminal(mut command: Command, answer: &'static str) -> Seen {
    let (master, slave) = pty();
    let mut keyboard = master.try_clone().unwrap();
    command.env("LANG", "C.UTF-8").stdin(Stdio::from(slave.try_clone().unwrap()));
    command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
    let mut child = command.spawn().unwrap();
    // It holds the last descriptors of the other end: the screen ends with the child.
    drop(command);
    tokio::task::spawn_blocking(move || {
        let mut answer = Some(answer).filter(|answer| !answer.is_empty());
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
        }
        let code = child.wait().unwrap().code().unwrap();
        Seen { screen: String::from_utf8(screen).unwrap().replace("\r\n", "\n"), code }
    })
    .await
    .unwrap()
}

fn pty() -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both pointers are to live integers; the others may be null.
    let result = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
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
