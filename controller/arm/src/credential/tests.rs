use std::io;
use std::sync::Mutex as StdMutex;

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::testing::{Script, answer, config, operation_url, snapshot_id, vm_id};
use crate::{ArmClient, ArmConfig, Sas};

/// A client that signs in as its configuration says.
fn signing_in(config: ArmConfig) -> (ArmClient, Arc<Script>) {
    let script = Arc::new(Script::default());
    let env = Env::simulated(1);
    (ArmClient::with_transport(config, env, script.clone(), Tokens::Configured), script)
}

fn token(text: &str) -> crate::HttpResponse {
    let body = json!({"token_type": "Bearer", "expires_in": 86_399, "ext_expires_in": 86_399,
        "access_token": text});
    answer(200, &[], &body)
}

fn vm() -> crate::HttpResponse {
    answer(200, &[], &json!({"name": "vm1"}))
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_exchanged_at_the_authority_once_and_the_token_kept() {
    let authority = Some(Url::parse("https://sim.example:8443").unwrap());
    let (client, script) = signing_in(ArmConfig { authority, ..config() });
    script.answer(token("TOPSECRET-1")).answer(vm()).answer(vm());
    client.get_vm(&vm_id()).await.unwrap();
    client.get_vm(&vm_id()).await.unwrap();
    let requests = script.requests();
    assert_eq!(requests[0].url.as_str(), "https://sim.example:8443/tenant/oauth2/v2.0/token");
    let form = String::from_utf8(requests[0].body.to_vec()).unwrap();
    assert!(form.contains("scope=https%3A%2F%2Fmanagement.azure.com%2F.default"), "{form}");
    assert_eq!(requests[2].headers["authorization"], "Bearer TOPSECRET-1");
    assert_eq!(requests.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once() {
    let (client, script) = signing_in(config());
    script.answer(token("old")).answer(answer(401, &[], &serde_json::Value::Null));
    script.answer(token("new")).answer(vm());
    client.get_vm(&vm_id()).await.unwrap();
    assert_eq!(script.requests()[3].headers["authorization"], "Bearer new");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_is_denied_and_not_tried_again_at_once() {
    let (client, script) = signing_in(config());
    let refused = json!({"error": "invalid_client", "error_description": "AADSTS7000215: bad",
        "error_codes": [7000215], "timestamp": "", "trace_id": "", "correlation_id": ""});
    script.answer(answer(401, &[], &refused));
    let error = client.get_vm(&vm_id()).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Denied, "SignInFailed"));
    assert!(error.message.contains("AADSTS7000215"), "{error}");
    let again = client.get_vm(&vm_id()).await.unwrap_err();
    assert_eq!(again.message, error.message);
    assert_eq!(script.requests().len(), 1);
    azdr_env::sleep(FAILURE_PAUSE).await;
    script.answer(token("t")).answer(vm());
    client.get_vm(&vm_id()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_token_never_came_was_surely_not_sent() {
    let (client, script) = signing_in(config());
    script.fail(TransportError::maybe_sent("reset"));
    let error = client.begin_delete_vm(&vm_id()).await.unwrap_err();
    let expected = (ErrorClass::Unavailable, "TokenEndpointUnreachable");
    assert_eq!((error.class, error.code.as_str()), expected);
    azdr_env::sleep(FAILURE_PAUSE).await;
    script.hang();
    let error = client.begin_delete_vm(&vm_id()).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Unavailable, "TokenTimedOut"));
}

#[tokio::test(start_paused = true)]
async fn a_managed_identity_asks_the_metadata_service() {
    let credential = CredentialConfig::ManagedIdentity { client_id: Some("c".to_owned()) };
    let (client, script) = signing_in(ArmConfig { credential, ..config() });
    let metadata = json!({"access_token": "mi", "expires_on": "4102444800",
        "resource": "https://management.azure.com", "token_type": "Bearer"});
    script.answer(answer(200, &[], &metadata)).answer(vm());
    client.get_vm(&vm_id()).await.unwrap();
    let request = &script.requests()[0];
    assert_eq!(request.url.host_str(), Some("169.254.169.254"));
    assert_eq!(request.headers["metadata"], "true");
    assert!(request.url.query().unwrap().contains("client_id=c"));
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Captured(Arc<StdMutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn no_token_password_or_signature_is_in_any_log_debug_or_error() {
    let log = Captured::default();
    // With a single dispatcher in the process, tracing asks the *current thread's* default whether a
    // new callsite is of interest, and remembers a "no" for all threads: another test that comes
    // first would silence ours. With two of them it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (client, script) = signing_in(config());
    let sas = "https://md-1.blob.storage.azure.net/x?sv=1&sig=TOPSECRET-SIG";
    let operation = operation_url("1?api-version=1&s=TOPSECRET-URL");
    script
        .answer(token("TOPSECRET-TOKEN"))
        .answer(answer(
            202,
            &[("location", &operation), ("azure-asyncoperation", &operation)],
            &serde_json::Value::Null,
        ))
        .answer(answer(200, &[], &json!({"status": "Succeeded"})))
        .answer(answer(200, &[], &json!({"accessSAS": sas})));
    let granted = client.grant_access(&snapshot_id("x"), Duration::from_secs(60)).await.unwrap();
    script.answer(answer(
        403,
        &[],
        &json!({"error": {"code": "AuthenticationFailed",
        "message": format!("bad signature in {sas}")}}),
    ));
    let read = client.read_range(&granted, 0, 512).await.unwrap_err();
    script.answer(answer(
        400,
        &[],
        &json!({"error": {"code": "X",
        "message": "cannot use Bearer TOPSECRET-TOKEN"}}),
    ));
    let write = client.begin_start(&vm_id()).await.unwrap_err();
    script.fail(TransportError::maybe_sent("reset"));
    let lost = client.begin_revoke_access(&snapshot_id("x")).await.unwrap_err();
    script.answer(answer(200, &[], &json!({"accessSAS": sas})));
    let started =
        client.begin_grant_access(&snapshot_id("x"), Duration::from_secs(60)).await.unwrap();

    let shown = format!(
        "{granted:?} {read} {read:?} {write} {write:?} {lost:?} {started:?} {client:?} {:?} {:?}",
        config(),
        script.requests(),
    );
    assert!(!shown.contains("TOPSECRET"), "{shown}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("beginGetAccess"), "the capture works: {log}");
    assert!(!log.contains("TOPSECRET"), "{log}");
    assert!(Sas::from_value(&json!({"accessSAS": "http://x/"})).is_err());
}
