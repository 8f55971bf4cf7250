//! `azdr-agent enroll` as an operator sees it.

use std::process::Output;

use azdr_agent::config::Config;

use crate::controller::{Controller, TOKEN, VM};
use crate::machine::{Machine, VM_ID};

crate::tests! {
    a_token_buys_an_identity_once: [],
    what_goes_wrong_says_what_to_do_next: [],
    a_fresh_machine_gets_a_configuration: [],
    wrong_configuration_stops_the_agent_before_it_does_anything: [],
    status_of_a_machine_that_is_not_enrolled_names_each_problem: [],
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn a_token_buys_an_identity_once() {
    let controller = Controller::start(VM_ID);
    let machine = Machine::new(VM_ID).await;
    machine.configure(&controller.agent_address, &[]);
    let first = machine.enroll(&controller, TOKEN).await;
    assert!(first.status.success(), "{}", stderr(&first));
    let out = String::from_utf8_lossy(&first.stdout).into_owned();
    assert_eq!(out, format!("enrolled {VM} (vmId {VM_ID})\n"));
    let identity = std::fs::read(machine.path("state/identity.json")).unwrap();

    let second = machine.enroll(&controller, TOKEN).await;
    assert_eq!(second.status.code(), Some(3));
    assert!(stderr(&second).contains("azdr agent token VM"), "{}", stderr(&second));
    let kept = std::fs::read(machine.path("state/identity.json")).unwrap();
    assert_eq!(kept, identity, "a refusal changes nothing");
}

async fn what_goes_wrong_says_what_to_do_next() {
    let mut controller = Controller::start(VM_ID);
    let machine = Machine::new(VM_ID).await;
    machine.configure(&controller.agent_address, &[]);
    let fails = async |controller: &Controller, code: i32, words: &str| {
        let output = machine.enroll(controller, TOKEN).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && said.contains("hint:"), "{words:?} in:\n{said}");
        assert!(!machine.path("state/identity.json").exists());
    };
    let fingerprint = controller.fingerprint.clone();
    controller.fingerprint = "ab".repeat(32);
    fails(&controller, 3, "Compare --ca-fingerprint").await;
    controller.fingerprint = "xyz".to_owned();
    fails(&controller, 2, "64 hexadecimal digits").await;
    controller.fingerprint = fingerprint;
    let address = std::mem::replace(&mut controller.enroll_address, "127.0.0.1:1".to_owned());
    fails(&controller, 3, "cannot reach the controller at 127.0.0.1:1").await;
    controller.enroll_address = "nonsense".to_owned();
    fails(&controller, 2, "host:port").await;
    controller.enroll_address = address;
    machine.becomes("11111111-2222-3333-4444-555555555555");
    fails(&controller, 3, "another vmId").await;
}

async fn a_fresh_machine_gets_a_configuration() {
    let controller = Controller::start(VM_ID);
    let machine = Machine::new(VM_ID).await;
    let refused = machine.enroll(&controller, "bad-token").await;
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(!machine.path("agent.toml").exists(), "a refusal changes nothing");
    let output = machine.enroll(&controller, TOKEN).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let config = Config::load(&machine.path("agent.toml")).unwrap();
    assert_eq!(config.controller, controller.agent_address);
    assert_eq!(config.state_dir, machine.path("state"));
    assert!(machine.path("state/identity.json").exists());
}

async fn wrong_configuration_stops_the_agent_before_it_does_anything() {
    let machine = Machine::new(VM_ID).await;
    let missing = machine.agent(&["run"]).await;
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("agent.toml"), "{}", stderr(&missing));
    std::fs::write(machine.path("agent.toml"), "controller = 'c:1'\nvm_id = 'x'\n").unwrap();
    let unknown = machine.agent(&["run"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("`vm_id`"), "{}", stderr(&unknown));
}

async fn status_of_a_machine_that_is_not_enrolled_names_each_problem() {
    let machine = Machine::new(VM_ID).await;
    machine.configure("controller.example:7443", &[]);
    let output = machine.agent(&["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["controller.example:7443", "not enrolled", VM_ID, "azdr-thawd", "is not mounted"] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
}
