use serde_json::json;

use super::*;

fn answer(status: u16, body: Value) -> AzureError {
    AzureError::from_answer(status, body.to_string().as_bytes(), true)
}

#[test]
fn envelopes_with_and_without_the_outer_error_are_read() {
    let inner = json!({"code": "OperationNotAllowed", "message": "The server rejected the request",
        "details": [{"code": "TooManyRequests", "target": "HighCostGet30Min", "message": "slow"}]});
    for body in [json!({"error": inner}), inner.clone()] {
        let error = answer(429, body);
        assert_eq!(error.class, ErrorClass::Throttled);
        assert_eq!(error.code, "OperationNotAllowed");
        assert_eq!(error.message, "The server rejected the request (TooManyRequests: slow)");
    }
}

#[test]
fn the_same_code_is_throttling_with_429_and_quota_or_state_with_409() {
    let body =
        |message: &str| json!({"error": {"code": "OperationNotAllowed", "message": message}});
    assert_eq!(answer(429, body("x")).class, ErrorClass::Throttled);
    assert_eq!(
        answer(409, body("exceeding approved standardDSv3Family Cores quota")).class,
        ErrorClass::Quota
    );
    assert_eq!(answer(409, body("disk is attached")).class, ErrorClass::Conflict);
}

#[test]
fn a_message_with_an_escaped_quote_keeps_its_code() {
    let error = answer(
        404,
        json!({"error": {"code": "ResourceNotFound",
        "message": "The Resource 'x' said \"no\""}}),
    );
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::NotFound, "ResourceNotFound"));
}

#[test]
fn the_class_follows_a_known_inner_code() {
    let error = answer(
        400,
        json!({"error": {"code": "BadRequest", "message": "no",
        "innererror": {"code": "SkuNotAvailable", "message": "none left"}}}),
    );
    assert_eq!(error.class, ErrorClass::Capacity);
    assert_eq!(error.code, "BadRequest");
    assert_eq!(error.message, "no (SkuNotAvailable: none left)");
}

#[test]
fn statuses_without_a_body_have_a_class() {
    let class = |status, write| AzureError::from_answer(status, b"", write).class;
    assert_eq!(class(401, true), ErrorClass::Denied);
    assert_eq!(class(404, true), ErrorClass::NotFound);
    assert_eq!(class(412, true), ErrorClass::PreconditionFailed);
    assert_eq!(class(429, true), ErrorClass::Throttled);
    assert_eq!(class(500, true), ErrorClass::OutcomeUnknown);
    assert_eq!(class(500, false), ErrorClass::Unavailable);
    assert_eq!(class(503, true), ErrorClass::Unavailable);
    assert_eq!(class(400, true), ErrorClass::Invalid);
}

#[test]
fn blob_storage_errors_are_read_from_xml() {
    let error = AzureError::from_answer(
        403,
        b"<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed\nto</Message></Error>",
        false,
    );
    assert_eq!(error.code, "AuthenticationFailed");
    assert_eq!(error.class, ErrorClass::Denied);
}

#[test]
fn an_operation_that_failed_is_classed_by_its_code_alone() {
    let failed = |code: &str| {
        AzureError::from_failed_operation("Failed", Some(&json!({"code": code, "message": "m"})))
    };
    assert_eq!(failed("ZonalAllocationFailed").class, ErrorClass::Capacity);
    assert_eq!(failed("SomethingNew").class, ErrorClass::Failed);
    assert_eq!(failed("OperationPreempted").class, ErrorClass::Conflict);
    assert!(!failed("OperationPreempted").is_retryable());
    let bare = AzureError::from_failed_operation("canceled", None);
    assert_eq!(bare.code, "OperationCanceled");
}

#[test]
fn only_passing_troubles_are_retryable() {
    let body = |code: &str| json!({"error": {"code": code, "message": ""}});
    assert!(answer(409, body("AnotherOperationInProgress")).is_retryable());
    assert!(answer(429, body("RetryableErrorDueToAnotherOperation")).is_retryable());
    assert!(!answer(409, body("ScopeLocked")).is_retryable());
    assert!(!answer(409, body("ConflictingUserInput")).is_retryable());
    assert!(answer(429, body("TooManyRequests")).is_retryable());
    assert!(!answer(403, body("AuthorizationFailed")).is_retryable());
}

#[test]
fn an_error_survives_the_journal_and_names_its_object_once() {
    let mut error = answer(409, json!({"error": {"code": "ScopeLocked", "message": "locked"}}))
        .for_resource("/subscriptions/s/resourceGroups/g");
    error.client_request_id = Some("c".into());
    let json = serde_json::to_string(&error).unwrap();
    assert_eq!(serde_json::from_str::<AzureError>(&json).unwrap(), error);
    assert_eq!(
        error.to_string(),
        "ScopeLocked (locked, HTTP 409) for /subscriptions/s/resourceGroups/g: locked [request c]"
    );
}

#[test]
fn signatures_and_tokens_never_enter_an_error() {
    let error = answer(
        400,
        json!({"error": {"code": "X",
        "message": "bad url https://md-1.blob/x?sv=1&sig=TOPSECRET%3D&se=2 with Bearer eyJTOPSECRET"}}),
    );
    assert!(!format!("{error:?} {error}").contains("TOPSECRET"));
}
