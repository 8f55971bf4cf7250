//! Every shape of `AZURE.md` A.2 and A.3.

use serde_json::json;

use super::*;
use crate::testing::{answer, snapshot_id};

const URL: &str = "https://management.azure.com/op/1";
const MONITOR: &str = "https://management.azure.com/op/1?monitor=true";
const RESOURCE: &str = "https://management.azure.com/r?api-version=x";

fn begin(action: Action, result: FinalResult) -> Begin {
    Begin {
        action,
        target: snapshot_id("x"),
        family: Family::Disk,
        resource_url: RESOURCE.to_owned(),
        result,
    }
}

fn now() -> WallTime {
    WallTime::from_unix_ms(0)
}

fn started(
    action: Action,
    result: FinalResult,
    status: u16,
    headers: &[(&str, &str)],
    body: Value,
) -> Result<Started, AzureError> {
    let own = |url: &str| url.starts_with("https://management.azure.com/");
    start(begin(action, result), &answer(status, headers, &body), own, now())
}

#[track_caller]
fn running(
    action: Action,
    result: FinalResult,
    status: u16,
    headers: &[(&str, &str)],
    body: Value,
) -> Operation {
    match started(action, result, status, headers, body) {
        Ok(Started::Running(operation)) => operation,
        other => panic!("not running: {other:?}"),
    }
}

const BOTH: &[(&str, &str)] = &[("azure-asyncoperation", URL), ("location", MONITOR)];

fn seen(status: u16, body: Value) -> Seen {
    Seen::Answer { status, body }
}

fn missing() -> Seen {
    Seen::Missing(AzureError::from_answer(404, b"", false))
}

#[test]
fn a_disk_put_is_polled_at_its_operation_and_gives_the_output() {
    let stub = json!({"properties": {"provisioningState": "Updating"}});
    let mut operation = running(Action::Write, FinalResult::Output, 202, BOTH, stub);
    assert_eq!(operation.next_url(), URL);
    let progress = step(&mut operation, seen(200, json!({"status": "InProgress"})));
    assert_eq!(progress.unwrap(), Next::Wait);
    let done = json!({"status": "Succeeded", "properties": {"output": {"name": "x"}}});
    assert_eq!(step(&mut operation, seen(200, done)).unwrap(), Next::Done(json!({"name": "x"})));
    assert!(operation.is_over());
}

#[test]
fn a_vm_put_is_finished_by_a_get_of_the_vm() {
    let aao = &[("azure-asyncoperation", URL)];
    let body = json!({"properties": {"provisioningState": "Creating"}});
    let mut operation = running(Action::Write, FinalResult::Resource, 201, aao, body);
    let done = seen(200, json!({"status": "succeeded"}));
    assert_eq!(step(&mut operation, done).unwrap(), Next::Again);
    assert_eq!(operation.next_url(), RESOURCE);
    let vm = json!({"name": "vm"});
    assert_eq!(step(&mut operation, seen(200, vm.clone())).unwrap(), Next::Done(vm));
}

#[test]
fn a_200_that_is_updating_without_any_header_is_polled_at_the_resource() {
    let updating = json!({"properties": {"provisioningState": "Updating"}});
    let mut operation = running(Action::Write, FinalResult::Resource, 200, &[], updating.clone());
    assert_eq!(operation.next_url(), RESOURCE);
    assert_eq!(step(&mut operation, seen(200, updating)).unwrap(), Next::Wait);
    let done = json!({"properties": {"provisioningState": "sUCCEEDED"}});
    assert_eq!(step(&mut operation, seen(200, done.clone())).unwrap(), Next::Done(done));
}

#[test]
fn a_200_with_an_operation_header_is_not_done_even_if_it_says_succeeded() {
    let body = json!({"properties": {"provisioningState": "Succeeded"}});
    let operation = running(Action::Write, FinalResult::Resource, 200, BOTH, body);
    assert_eq!(operation.next_url(), URL);
}

#[test]
fn a_200_or_201_without_operation_is_done_when_succeeded_or_stateless_and_an_error_when_failed() {
    for body in [json!({"properties": {"provisioningState": "Succeeded"}}), json!({"a": 1})] {
        let done = started(Action::Write, FinalResult::Resource, 201, &[], body.clone());
        assert_eq!(done.unwrap(), Started::Done(body));
    }
    let failed = json!({"properties": {"provisioningState": "Failed"}});
    let error = started(Action::Write, FinalResult::Resource, 200, &[], failed).unwrap_err();
    assert_eq!(error.class, ErrorClass::Failed);
}

#[test]
fn failure_is_reported_with_http_200() {
    let mut operation = running(Action::Write, FinalResult::Resource, 202, BOTH, Value::Null);
    let body = json!({"status": "Failed", "error": {"code": "AllocationFailed", "message": "no"}});
    let error = step(&mut operation, seen(200, body)).unwrap_err();
    assert_eq!((error.class, error.http_status), (ErrorClass::Capacity, None));
    assert!(operation.is_over());
}

#[test]
fn both_spellings_of_cancelled_are_terminal_and_the_unknown_is_running() {
    for word in ["Canceled", "cancelled", "CANCELED"] {
        let mut operation = running(Action::Post, FinalResult::Nothing, 202, BOTH, Value::Null);
        assert!(step(&mut operation, seen(200, json!({"status": word}))).is_err());
    }
    for word in ["Accepted", "Running", "Updating", "SomethingNew"] {
        let mut operation = running(Action::Post, FinalResult::Nothing, 202, BOTH, Value::Null);
        let next = step(&mut operation, seen(200, json!({"status": word}))).unwrap();
        assert_eq!(next, Next::Wait);
    }
}

#[test]
fn a_succeeded_operation_may_carry_an_error_that_does_not_count() {
    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, BOTH, Value::Null);
    let body = json!({"status": "Succeeded", "error": {"code": "NotLatestOperation"}});
    assert_eq!(step(&mut operation, seen(200, body)).unwrap(), Next::Done(Value::Null));
}

#[test]
fn a_post_gets_its_result_at_location_and_falls_back_to_the_output() {
    let output = json!({"status": "Succeeded",
        "properties": {"output": {"accessSAS": "https://x/?sig=1"}}});
    let mut operation = running(Action::Post, FinalResult::Location, 202, BOTH, Value::Null);
    assert_eq!(step(&mut operation, seen(200, output.clone())).unwrap(), Next::Again);
    assert_eq!(operation.next_url(), MONITOR);
    let sas = json!({"accessSAS": "https://x/?sig=1"});
    assert_eq!(step(&mut operation, seen(200, sas.clone())).unwrap(), Next::Done(sas.clone()));

    let aao = &[("azure-asyncoperation", URL)];
    let mut operation = running(Action::Post, FinalResult::Location, 202, aao, Value::Null);
    assert_eq!(step(&mut operation, seen(200, output)).unwrap(), Next::Done(sas));
}

#[test]
fn a_group_deletion_is_polled_at_location_until_it_is_not_202() {
    let location = &[("location", MONITOR)];
    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, location, Value::Null);
    assert_eq!(step(&mut operation, seen(202, Value::Null)).unwrap(), Next::Wait);
    assert_eq!(step(&mut operation, seen(200, Value::Null)).unwrap(), Next::Done(Value::Null));
}

#[test]
fn an_error_at_location_is_the_operations_own() {
    let location = &[("location", MONITOR)];
    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, location, Value::Null);
    let throttled = Seen::Error(AzureError::from_answer(429, b"", false));
    assert_eq!(step(&mut operation, throttled).unwrap_err().class, ErrorClass::Throttled);
    assert!(!operation.is_over());
    let locked = br#"{"error":{"code":"ScopeLocked","message":"l"}}"#;
    let locked = Seen::Error(AzureError::from_answer(409, locked, false));
    assert_eq!(step(&mut operation, locked).unwrap_err().class, ErrorClass::Locked);
    assert!(operation.is_over());
}

#[test]
fn a_delete_may_be_done_at_once_and_may_be_200_and_running() {
    for status in [200, 204] {
        let done = started(Action::Delete, FinalResult::Nothing, status, &[], Value::Null);
        assert_eq!(done.unwrap(), Started::Done(Value::Null));
    }
    let operation = running(Action::Delete, FinalResult::Nothing, 200, BOTH, Value::Null);
    assert_eq!(operation.next_url(), URL);
}

#[test]
fn an_accepted_delete_without_urls_waits_until_the_resource_is_gone() {
    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, &[], Value::Null);
    let deleting = json!({"properties": {"provisioningState": "Deleting"}});
    assert_eq!(step(&mut operation, seen(200, deleting)).unwrap(), Next::Wait);
    assert_eq!(step(&mut operation, missing()).unwrap(), Next::Done(Value::Null));

    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, &[], Value::Null);
    operation.polls = 100;
    let there = json!({"properties": {"provisioningState": "Succeeded"}});
    let error = step(&mut operation, seen(200, there)).unwrap_err();
    assert_eq!(error.class, ErrorClass::OutcomeUnknown);
}

#[test]
fn an_odd_or_empty_body_of_a_202_does_not_matter() {
    let odd = json!({"operation": "CreateLogicalDatabase", "startTime": "2021-01-01T00:00:00Z"});
    for body in [odd, Value::Null] {
        let mut operation = running(Action::Write, FinalResult::Resource, 202, BOTH, body);
        // SQL: no endTime, no output.
        let done = json!({"name": "n", "status": "Succeeded", "startTime": "…"});
        assert_eq!(step(&mut operation, seen(200, done)).unwrap(), Next::Again);
        assert_eq!(operation.next_url(), RESOURCE);
    }
}

#[test]
fn an_expired_record_falls_back_to_the_resource() {
    let mut operation = running(Action::Write, FinalResult::Output, 202, BOTH, Value::Null);
    assert_eq!(step(&mut operation, missing()).unwrap(), Next::Again);
    assert_eq!(operation.next_url(), RESOURCE);
    let there = json!({"properties": {"provisioningState": "Succeeded"}});
    assert_eq!(step(&mut operation, seen(200, there.clone())).unwrap(), Next::Done(there));

    let mut operation = running(Action::Delete, FinalResult::Nothing, 202, BOTH, Value::Null);
    assert_eq!(step(&mut operation, missing()).unwrap(), Next::Again);
    assert_eq!(step(&mut operation, missing()).unwrap(), Next::Done(Value::Null));
}

#[test]
fn an_expired_record_of_a_post_leaves_its_outcome_unknown_after_some_grace() {
    let mut operation = running(Action::Post, FinalResult::Nothing, 202, BOTH, Value::Null);
    for _ in 0..3 {
        assert_eq!(step(&mut operation, missing()).unwrap(), Next::Wait);
    }
    assert_eq!(step(&mut operation, missing()).unwrap(), Next::Again);
    let updating = json!({"properties": {"provisioningState": "Updating"}});
    assert_eq!(step(&mut operation, seen(200, updating)).unwrap(), Next::Wait);
    let there = json!({"properties": {"provisioningState": "Succeeded"}});
    let error = step(&mut operation, seen(200, there)).unwrap_err();
    assert_eq!(error.class, ErrorClass::OutcomeUnknown);
    assert!(operation.is_over());
}

#[test]
fn a_new_resource_may_be_invisible_for_a_moment_and_not_for_ever() {
    let updating = json!({"properties": {"provisioningState": "Updating"}});
    let mut operation = running(Action::Write, FinalResult::Resource, 201, &[], updating);
    for _ in 0..3 {
        assert_eq!(step(&mut operation, missing()).unwrap(), Next::Wait);
    }
    assert!(step(&mut operation, missing()).unwrap_err().is_not_found());
}

#[test]
fn a_failed_poll_leaves_the_operation_as_it_was() {
    let mut operation = running(Action::Write, FinalResult::Resource, 202, BOTH, Value::Null);
    let before = operation.clone();
    let lost = AzureError::new(ErrorClass::Unavailable, "AnswerLost", "lost");
    assert_eq!(step(&mut operation, Seen::Error(lost.clone())).unwrap_err(), lost);
    assert_eq!(operation, before);
}

#[test]
fn a_foreign_polling_url_is_not_used() {
    let foreign = &[("azure-asyncoperation", "https://evil.example/op")];
    let body = json!({"properties": {"provisioningState": "Succeeded"}});
    let operation = running(Action::Write, FinalResult::Resource, 202, foreign, body);
    assert_eq!(operation.next_url(), RESOURCE);
    let error = started(Action::Post, FinalResult::Nothing, 202, foreign, Value::Null).unwrap_err();
    assert_eq!(error.class, ErrorClass::OutcomeUnknown);
}

#[test]
fn an_operation_survives_the_journal_with_its_urls_verbatim() {
    let long = format!("{URL}?api-version=2017-08-31&c={}", "M".repeat(4_000));
    let headers = &[("azure-asyncoperation", long.as_str())];
    let mut operation = running(Action::Write, FinalResult::Resource, 202, headers, Value::Null);
    operation.retry_after = Some(Duration::from_secs(3));
    let text = serde_json::to_string(&operation).unwrap();
    let back: Operation = serde_json::from_str(&text).unwrap();
    assert_eq!(back, operation);
    assert_eq!(back.next_url(), long);
    assert!(!format!("{back:?}").contains("MMM"));
}

#[test]
fn polls_are_paced_by_family_and_retry_after_is_clamped() {
    let mut operation = running(Action::Write, FinalResult::Resource, 202, BOTH, Value::Null);
    let secs = |o: &Operation| PollPace::azure().wait(o).as_secs();
    assert_eq!(secs(&operation), 1);
    operation.polls = 2;
    assert_eq!(secs(&operation), 2);
    operation.polls = 5;
    assert_eq!(secs(&operation), 5);
    operation.retry_after = Some(Duration::from_secs(600));
    assert_eq!(secs(&operation), 60);
    operation.retry_after = Some(Duration::ZERO);
    assert_eq!(secs(&operation), 1);
    operation.family = Family::VirtualMachine;
    assert_eq!(secs(&operation), 5);
    operation.retry_after = Some(Duration::from_secs(17));
    assert_eq!(secs(&operation), 17);
    assert!(PollPace::quick().wait(&operation) <= Duration::from_millis(170));
    operation.retry_after = None;
    operation.polls = 0;
    assert_eq!(secs(&operation), 5);
    assert_eq!(PollPace::quick().wait(&operation), Duration::from_millis(50));
}
