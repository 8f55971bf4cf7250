//! The relay that carries a sealed guest's connections, run as QEMU runs it: with one socket as
//! stdin, stdout and stderr.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus};
use std::thread;

/// Starts a relay; returns it with the guest's end and the server's end of its connection.
fn relay() -> (Child, UnixStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (guest, theirs) = UnixStream::pair().unwrap();
    let share = || OwnedFd::from(theirs.try_clone().unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_azure-sim-relay"))
        .arg(listener.local_addr().unwrap().to_string())
        .stdin(share())
        .stdout(share())
        .stderr(share())
        .spawn()
        .unwrap();
    (child, guest, listener.accept().unwrap().0)
}

/// The end of a process that must not take for ever; the test's own time limit is the limit.
fn end(mut child: Child) -> ExitStatus {
    child.wait().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn all_bytes_pass_both_ways_at_once() {
    let (child, mut guest, mut server) = relay();
    let sent = pattern(5_000_000);
    let echo = thread::spawn(move || {
        let mut buffer = [0; 7000];
        loop {
            match server.read(&mut buffer).unwrap() {
                0 => return,
                n => server.write_all(&buffer[..n]).unwrap(),
            }
        }
    });
    let mut writer = guest.try_clone().unwrap();
    let to_send = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    guest.read_to_end(&mut received).unwrap();
    assert!(received == sent);
    writing.join().unwrap();
    echo.join().unwrap();
    assert!(end(child).success());
}

#[test]
fn an_answer_still_arrives_after_the_guest_has_stopped_sending() {
    let (child, mut guest, mut server) = relay();
    guest.write_all(b"question").unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    guest.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert!(end(child).success());
}

#[test]
fn a_guest_may_go_on_sending_after_the_server_has_stopped() {
    let (child, mut guest, mut server) = relay();
    server.write_all(b"enough").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    guest.read_to_string(&mut said).unwrap();
    assert_eq!(said, "enough");
    guest.write_all(b"one more").unwrap();
    drop(guest);
    let mut rest = String::new();
    server.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "one more");
    assert!(end(child).success());
}

#[test]
fn the_relay_ends_when_the_guest_is_gone_though_the_server_stays() {
    let (child, mut guest, mut server) = relay();
    guest.write_all(b"last words").unwrap();
    drop(guest);
    assert!(end(child).success());
    let mut said = String::new();
    server.read_to_string(&mut said).unwrap();
    assert_eq!(said, "last words");
}

#[test]
fn nobody_listening_ends_the_guests_connection_without_a_word() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut guest, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_azure-sim-relay"))
        .arg(closed.to_string())
        .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(OwnedFd::from(theirs.try_clone().unwrap()))
        .stderr(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    assert!(!end(child).success());
    let mut said = Vec::new();
    guest.read_to_end(&mut said).unwrap();
    assert!(said.is_empty());
}
