//! A scripted transport for this crate's unit tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azdr_domain::ArmId;
use azdr_env::Env;
use bytes::Bytes;
use serde_json::Value;

use crate::pipeline::header_map;
use crate::{
    ArmClient, ArmConfig, CredentialConfig, HttpRequest, HttpResponse, HttpTransport, PollPace,
    Secret, Tokens, TransportError,
};

pub(crate) const SUB: &str = "00000000-0000-0000-0000-000000000001";
pub(crate) const TOKEN: &str = "TOPSECRET-TOKEN";

/// Answers requests in the order of the script, and keeps them.
#[derive(Default)]
pub(crate) struct Script {
    answers: Mutex<VecDeque<Option<Result<HttpResponse, TransportError>>>>,
    requests: Mutex<Vec<HttpRequest>>,
}

impl Script {
    pub(crate) fn answer(&self, answer: HttpResponse) -> &Self {
        self.answers.lock().unwrap().push_back(Some(Ok(answer)));
        self
    }

    pub(crate) fn fail(&self, error: TransportError) -> &Self {
        self.answers.lock().unwrap().push_back(Some(Err(error)));
        self
    }

    /// The next request is never answered.
    pub(crate) fn hang(&self) -> &Self {
        self.answers.lock().unwrap().push_back(None);
        self
    }

    pub(crate) fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests as `METHOD path?query`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |r: &HttpRequest| {
            let query = r.url.query().map(|q| format!("?{q}")).unwrap_or_default();
            format!("{} {}{query}", r.method, r.url.path())
        };
        self.requests().iter().map(line).collect()
    }
}

#[async_trait]
impl HttpTransport for Script {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(Some(answer)) => answer,
            Some(None) => std::future::pending().await,
            None => panic!("nothing is scripted for {request:?}"),
        }
    }
}

/// An answer with a JSON body (none for null) and headers.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &Value) -> HttpResponse {
    HttpResponse {
        status,
        headers: header_map(headers.iter().copied()),
        body: if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) },
    }
}

pub(crate) fn config() -> ArmConfig {
    ArmConfig {
        pace: PollPace::quick(),
        request_timeout: Duration::from_secs(20),
        ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
            tenant_id: "tenant".to_owned(),
            client_id: "client".to_owned(),
            client_secret: Secret::new("TOPSECRET-PASSWORD"),
        })
    }
}

/// A client with a fixed token over a new script. Needs a runtime.
pub(crate) fn client() -> (ArmClient, Arc<Script>) {
    let script = Arc::new(Script::default());
    let tokens = Tokens::Fixed(Secret::new(TOKEN));
    let client = ArmClient::with_transport(config(), Env::simulated(1), script.clone(), tokens);
    (client, script)
}

pub(crate) fn snapshot_id(name: &str) -> ArmId {
    ArmId::snapshot(SUB, "g", name).unwrap()
}

pub(crate) fn vm_id() -> ArmId {
    ArmId::virtual_machine(SUB, "g", "vm1").unwrap()
}

pub(crate) fn operation_url(rest: &str) -> String {
    format!(
        "https://management.azure.com/subscriptions/{SUB}/providers/Microsoft.Compute/operations/{rest}"
    )
}
