//! The login from outside: what each way to answer means, that none of them holds the controller, and what
//! becomes of drills and restores by it.

use std::time::Duration;

use azdr_controller::ssh_probe::{ProbeKey, ProbeLogin};
use azdr_controller::store::{PointRow, RunState};
use azdr_controller::workflows::ProbeAddress;
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::ProofLevel;
use azdr_domain::ssh_evidence::{Attempt, End, HostKeys};
use azdr_env::Env;
use russh::keys::HashAlg;
use serde_json::Value;

use crate::cases::take;
use crate::cloud;
use crate::life::{Bench, Life};
use crate::restore_proof::{drill, restore};
use crate::ssh::{Answer, Ssh, USER, new_key};

const CONNECT: Duration = Duration::from_secs(5);
const LOGIN: Duration = Duration::from_secs(30);
/// The farewell, and the waits of the stand-in's own side.
const SLACK: Duration = Duration::from_secs(2);
const TOKEN: &str = "5d41402abc4b2a76b9719d911017c592";

fn login(ssh: &Ssh) -> ProbeLogin {
    ProbeLogin {
        user: USER.to_owned(),
        key: ProbeKey::parse(&ssh.key()).unwrap(),
        connect_limit: CONNECT,
        login_limit: LOGIN,
    }
}

fn known(key: &str) -> HostKeys {
    HostKeys { at_capture: vec![key.to_owned()], told: Vec::new() }
}

fn another_key() -> String {
    new_key().public_key().fingerprint(HashAlg::Sha256).to_string()
}

/// Tries once; what comes of it, within the limits.
async fn attempt(ssh: &Ssh, login: &ProbeLogin, keys: &HostKeys) -> Attempt {
    let clock = Env::simulated(7).clock;
    let begun = clock.monotonic();
    let attempt = login.attempt(ssh.address(), keys, TOKEN, &*clock).await;
    let took = clock.monotonic().since(begun);
    assert!(took <= CONNECT + LOGIN + SLACK, "{attempt:?} took {took:?}");
    attempt
}

#[tokio::test(start_paused = true)]
async fn a_token_is_written_and_read_back_and_nothing_is_left() {
    let ssh = Ssh::new();
    ssh.boot("b1");
    for answer in [Answer::Well, Answer::Greets] {
        ssh.answer(answer);
        let attempt = attempt(&ssh, &login(&ssh), &known(&ssh.host_key())).await;
        assert_eq!(attempt.host_key, Some(ssh.host_key()), "{answer:?}");
        let End::TokenBack { boot_id, .. } = attempt.end else { panic!("{answer:?}: {attempt:?}") };
        assert_eq!(boot_id, "b1", "{answer:?}");
        assert!(!ssh.has_file(), "{answer:?}: the file is removed");
    }
    assert_eq!(ssh.logins(), 2);
    ssh.is_left().await;
}

/// A server that does not answer is not known; one that lets the probe in and fails has failed.
#[tokio::test(start_paused = true)]
async fn every_other_answer_ends_within_the_limits_and_is_told_apart() {
    for (answer, is_let_in, words) in [
        (Answer::Banner, false, ""),
        (Answer::HangsAfterBanner, false, "no answer within 30 s"),
        (Answer::KeepsOut, false, "it said: \"System is booting up."),
        (Answer::HangsAfterKeyExchange, false, "no answer within 30 s"),
        (Answer::HangsInCommand, true, "no answer within 30 s"),
        (Answer::HangsUp, true, ""),
        (Answer::Floods, true, "more than 1024 bytes"),
        (Answer::AltersToken, true, "something else was read"),
        (Answer::ReadOnly, true, "exit code 1 can't create /root/.azdr-probe: Read-only"),
        (Answer::RunsNothing, true, "runs no commands"),
    ] {
        let ssh = Ssh::new();
        ssh.answer(answer);
        let attempt = attempt(&ssh, &login(&ssh), &known(&ssh.host_key())).await;
        let (end, why) = match attempt.end {
            End::NoAnswer(why) => (false, why),
            End::NoToken(why) => (true, why),
            end => panic!("{answer:?}: {end:?}"),
        };
        assert_eq!(end, is_let_in, "{answer:?}: {why}");
        assert!(why.contains(words), "{answer:?}: {why}");
        if answer != Answer::HangsAfterKeyExchange {
            // (There the stand-in itself hangs, and does not notice.)
            ssh.is_left().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_and_a_wrong_user_are_refused() {
    let ssh = Ssh::new();
    ssh.answer(Answer::Well);
    let key = ProbeKey::parse(&Ssh::new().key()).unwrap();
    let refused = [
        ProbeLogin { key, ..login(&ssh) },
        ProbeLogin { user: "somebody".to_owned(), ..login(&ssh) },
    ];
    for login in refused {
        let attempt = attempt(&ssh, &login, &known(&ssh.host_key())).await;
        assert_eq!(attempt.end, End::Refused);
    }
    assert_eq!(ssh.logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_logs_in_where_another_machines_host_key_is_shown() {
    let ssh = Ssh::new();
    ssh.answer(Answer::Well);
    let attempt = attempt(&ssh, &login(&ssh), &known(&another_key())).await;
    assert_eq!((attempt.end, attempt.host_key), (End::OtherHostKey, Some(ssh.host_key())));
    assert_eq!(ssh.logins(), 0);
    ssh.is_left().await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_listens_nothing_is_known() {
    let ssh = Ssh::new();
    let login = login(&ssh);
    let address = ssh.address();
    drop(ssh);
    tokio::task::yield_now().await;
    let clock = Env::simulated(7).clock;
    let attempt = login.attempt(address, &HostKeys::default(), TOKEN, &*clock).await;
    assert!(matches!(attempt.end, End::NoAnswer(_)), "{attempt:?}");
}

/// A world in which the controller can log in, with a point that was taken while the machine had this host
/// key; agents that come later name that one. The server is that of the one machine with a public address.
async fn world_of(
    mut bench: Bench,
    answer: Answer,
    captured: Keys,
    told: Keys,
) -> (Bench, Life, PointRow) {
    let ssh = Ssh::new();
    ssh.answer(answer);
    bench.probe_login = Some(login(&ssh));
    let (own, other) = (ssh.host_key(), another_key());
    bench.ssh = Some(ssh);
    let say = |keys: Keys| match keys {
        Keys::None => bench.guests.have_host_keys(&[]),
        Keys::Own => bench.guests.have_host_keys(&[&other, &own]),
        Keys::Other => bench.guests.have_host_keys(&[&other]),
    };
    say(captured);
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    take(&life, &item).await;
    say(told);
    let point = life.points(&item).await.remove(0);
    (bench, life, point)
}

/// One in which drills' machines are logged in to.
async fn world(answer: Answer, captured: Keys, told: Keys) -> (Bench, Life, PointRow) {
    world_of(Bench::new(), answer, captured, told).await
}

/// One in which the production machine itself is.
async fn world_in_public(answer: Answer) -> (Bench, Life, PointRow) {
    let mut world = cloud::world(&[("db", true)]);
    world["vms"][0]["public_ip"] = Value::Bool(true);
    let mut bench = Bench::with(world);
    bench.probe_address = ProbeAddress::PublicIp;
    world_of(bench, answer, Keys::Own, Keys::Own).await
}

/// The host keys of a machine, as somebody names them.
#[derive(Clone, Copy, Debug)]
enum Keys {
    None,
    /// Among others that which its SSH shows.
    Own,
    /// Not that.
    Other,
}

/// What is known of SSH: the states of host key and login, `-` for none.
fn ssh_states(result: &Value) -> String {
    let facts = result["evidence"].as_array().unwrap();
    let state = |name: &str| {
        let fact = facts.iter().find(|fact| fact["name"] == name);
        fact.map_or("-", |fact| fact["state"].as_str().unwrap()).to_owned()
    };
    format!("{} {}", state("ssh-host-key"), state("ssh-login"))
}

#[tokio::test(start_paused = true)]
async fn the_capture_notes_the_machines_host_keys() {
    let (bench, life, point) = world(Answer::Well, Keys::Own, Keys::None).await;
    let noted = bench.store().capture(&point.operation_id).await.unwrap().unwrap().ssh_host_keys;
    assert!(noted.contains(&bench.ssh.as_ref().unwrap().host_key()), "{noted:?}");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_can_be_logged_in_to_proves_the_point() {
    for (captured, told, states) in [
        (Keys::Own, Keys::None, "pass pass"),
        (Keys::Own, Keys::Own, "pass pass"),
        // It has made itself new host keys, and its agent says so.
        (Keys::Other, Keys::Own, "pass pass"),
        (Keys::None, Keys::None, "unknown pass"),
    ] {
        let (bench, life, point) = world(Answer::Well, captured, told).await;
        let (row, point) = drill(&life, &point).await;
        assert_eq!(row.state, RunState::Succeeded, "{captured:?} {told:?}: {:?}", row.error);
        assert_eq!(point.proof().0, ProofLevel::Booted, "{captured:?} {told:?}");
        let result = &row.result.unwrap()["dr_test"];
        assert_eq!(ssh_states(result), states, "{captured:?} {told:?}: {result}");
        assert_eq!(result["ssh_verified"], true, "{captured:?} {told:?}");
        let ssh = bench.ssh.as_ref().unwrap();
        assert_eq!((ssh.logins(), ssh.has_file()), (1, false), "one login is enough");
        life.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_cannot_be_worked_with_over_ssh_is_unhealthy() {
    for (answer, captured, states, fact) in [
        (Answer::Refuses, Keys::Own, "pass fail", "ssh-login"),
        (Answer::AltersToken, Keys::Own, "pass fail", "ssh-login"),
        (Answer::ReadOnly, Keys::Own, "pass fail", "ssh-login"),
        (Answer::HangsInCommand, Keys::Own, "pass fail", "ssh-login"),
        (Answer::Well, Keys::Other, "fail unknown", "ssh-host-key"),
    ] {
        let (bench, life, point) = world(answer, captured, captured).await;
        let (row, point) = drill(&life, &point).await;
        let error = row.error.unwrap();
        assert_eq!((row.state, &error["kind"]), (RunState::Failed, &Value::from("unhealthy")));
        assert!(error["message"].as_str().unwrap().contains(fact), "{answer:?}: {error}");
        let result = &row.result.unwrap()["dr_test"];
        assert_eq!(ssh_states(result), states, "{answer:?} {captured:?}");
        assert_eq!(result["ssh_verified"], false, "{answer:?} {captured:?}");
        assert_eq!((point.proof().0, point.proof_failed()), (ProofLevel::Unproved, true));
        if matches!(captured, Keys::Other) {
            assert_eq!(
                bench.ssh.as_ref().unwrap().logins(),
                0,
                "nobody logs in to another machine"
            );
        }
        life.end().await;
    }
}

/// A machine whose agent has another boot than whoever answers: there are two of them.
#[tokio::test(start_paused = true)]
async fn another_boot_that_answers_is_another_machine() {
    let (bench, life, point) = world(Answer::Well, Keys::Own, Keys::Own).await;
    bench.ssh.as_ref().unwrap().boot("5c1f3f0e-0000-4000-8000-000000000000");
    let (row, _) = drill(&life, &point).await;
    let message = row.error.unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("boot 5c1f3f0e"), "{message}");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_answers_withholds_the_proof_and_speaks_against_nothing() {
    let (_bench, life, point) = world(Answer::HangsAfterKeyExchange, Keys::Own, Keys::Own).await;
    // The wait for the banner is over at once, that for the login lasts until the limit.
    let (row, point) = drill(&life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!((point.proof().0, point.proof_failed()), (ProofLevel::Unproved, false));
    let result = &row.result.unwrap()["dr_test"];
    assert_eq!(
        (ssh_states(result).as_str(), &result["ssh_verified"]),
        ("pass unknown", &false.into())
    );
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_probe_key_a_banner_is_enough_and_the_login_is_shown_as_not_known() {
    let (mut bench, life, point) = world(Answer::Well, Keys::Own, Keys::Own).await;
    life.end().await;
    bench.probe_login = None;
    let life = bench.life().await;
    let (row, point) = drill(&life, &point).await;
    assert_eq!((row.state, point.proof().0), (RunState::Succeeded, ProofLevel::Booted));
    let result = &row.result.unwrap()["dr_test"];
    assert_eq!((ssh_states(result).as_str(), &result["ssh_verified"]), ("- unknown", &true.into()));
    assert_eq!(bench.ssh.as_ref().unwrap().logins(), 0);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_no_address_leads_to_a_machine_its_login_is_not_asked_for() {
    let (bench, life, point) = world(Answer::Well, Keys::Own, Keys::Own).await;
    let (row, point) = restore(&bench, &life, &point).await;
    assert_eq!((row.state, point.proof().0), (RunState::Succeeded, ProofLevel::Booted));
    let result = &row.result.unwrap()["restore"];
    assert_eq!((ssh_states(result).as_str(), &result["unconfirmed"]), ("- unknown", &"".into()));
    life.end().await;
}

/// Of a restore that somebody has asked for the machine stays, and what is not known of it is said.
#[tokio::test(start_paused = true)]
async fn a_restored_machine_that_cannot_be_logged_in_to_is_unconfirmed() {
    for (answer, states, doubt) in [
        (Answer::Well, "pass pass", ""),
        (Answer::Refuses, "pass fail", "ssh-login: 127.170.128.1"),
        (Answer::HangsAfterBanner, "unknown unknown", "no answer within 30 s"),
    ] {
        let (bench, life, point) = world_in_public(answer).await;
        let (row, point) = restore(&bench, &life, &point).await;
        assert_eq!(row.state, RunState::Succeeded, "{answer:?}: {:?}", row.error);
        let is_well = doubt.is_empty();
        let proof = if is_well { ProofLevel::Booted } else { ProofLevel::Unproved };
        assert_eq!(point.proof().0, proof, "{answer:?}");
        let result = &row.result.unwrap()["restore"];
        assert_eq!(
            (ssh_states(result).as_str(), &result["ssh_verified"]),
            (states, &is_well.into())
        );
        let unconfirmed = result["unconfirmed"].as_str().unwrap();
        assert!(unconfirmed.contains(doubt), "{answer:?}: {unconfirmed}");
        assert_eq!(unconfirmed.is_empty(), is_well, "{answer:?}: {unconfirmed}");
        life.end().await;
    }
}
