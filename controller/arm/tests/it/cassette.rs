//! Reads recordings (two YAML dialects and one JSON) and plays them back.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use azdr_arm::{
    ArmClient, ArmConfig, CredentialConfig, HttpRequest, HttpResponse, HttpTransport, PollPace,
    Secret, Tokens, TransportError,
};
use azdr_env::Env;
use http::{HeaderMap, HeaderName, HeaderValue};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use url::Url;

/// What was recorded, in order.
pub(crate) struct Cassette(Vec<Interaction>);

#[derive(Clone)]
struct Interaction {
    method: String,
    url: Url,
    response: HttpResponse,
}

impl Cassette {
    pub(crate) fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the recording was there a moment ago");
        let json = if path.extension().is_some_and(|e| e == "json") {
            serde_json::from_str(&text).expect("the recording is JSON")
        } else {
            yaml(&text)
        };
        let interactions = json["interactions"].as_array().expect("a list of interactions");
        let mut read = Vec::new();
        let mut operation = String::new();
        for recorded in interactions {
            let (request, response) = (&recorded["request"], &recorded["response"]);
            let headers = headers(&response["headers"]);
            if let Some(url) = headers.get("azure-asyncoperation") {
                operation = url.to_str().expect("a URL").to_owned();
            }
            let url = ["url", "uri"].iter().find_map(|name| request[*name].as_str());
            let url = match (url, request["path"].as_str()) {
                (Some(url), _) => url.to_owned(),
                (None, Some("<azure-asyncoperation url>")) => operation.clone(),
                (None, path) => {
                    format!("https://management.azure.com{}", path.expect("a URL or a path"))
                }
            };
            let status = [&response["code"], &response["status"], &response["status"]["code"]];
            let status = status.iter().find_map(|v| match v {
                Value::Number(n) => n.as_u64(),
                Value::String(s) => s.parse().ok(),
                _ => None,
            });
            let body = match &response["body"] {
                Value::Object(o) if o.get("string").is_some() => text_of(&o["string"]),
                Value::Object(o) => Value::Object(o.clone()).to_string(),
                other => text_of(other),
            };
            read.push(Interaction {
                method: request["method"].as_str().expect("a method").to_owned(),
                url: Url::parse(&url).expect("a URL"),
                response: HttpResponse {
                    status: u16::try_from(status.expect("a status")).expect("a status"),
                    headers,
                    body: body.into(),
                },
            });
        }
        Self(read)
    }

    /// A client that is answered from this recording: each request with the next recorded answer to
    /// it. The API version does not count, since ours differ from the recorders'.
    pub(crate) fn client(self) -> (ArmClient, Arc<Player>) {
        let player = Arc::new(Player { recorded: self.0, next: Mutex::new(0) });
        let config = ArmConfig {
            pace: PollPace::azure(),
            ..ArmConfig::public_cloud(CredentialConfig::AzureCli)
        };
        let tokens = Tokens::Fixed(Secret::new("token"));
        let client = ArmClient::with_transport(config, Env::simulated(1), player.clone(), tokens);
        (client, player)
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn headers(recorded: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in recorded.as_object().into_iter().flatten() {
        let values = match values {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        for value in values.iter().filter_map(Value::as_str) {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
    }
    headers
}

/// Plays a recording back, forwards only.
pub(crate) struct Player {
    recorded: Vec<Interaction>,
    next: Mutex<usize>,
}

impl Player {
    /// Continues behind the next recorded answer of this status to such a request; returns the
    /// number of interactions that were passed over.
    pub(crate) fn skip_to(&self, method: &str, path_end: &str, status: u16) -> usize {
        let mut next = self.next.lock().expect("no test panics here");
        let found = self.recorded[*next..].iter().position(|i| {
            i.method == method && i.url.path().ends_with(path_end) && i.response.status == status
        });
        let passed = found.unwrap_or_else(|| panic!("no {method} {path_end} with {status}"));
        *next += passed;
        passed
    }
}

#[async_trait]
impl HttpTransport for Player {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let mut next = self.next.lock().expect("no test panics here");
        let found = self.recorded[*next..].iter().position(|recorded| {
            recorded.method == request.method.as_str() && same(&recorded.url, &request.url)
        });
        let at = *next + found.unwrap_or_else(|| panic!("not recorded: {request:?}"));
        *next = at + 1;
        Ok(self.recorded[at].response.clone())
    }
}

fn same(a: &Url, b: &Url) -> bool {
    let query = |url: &Url| {
        let mut pairs: Vec<_> = url
            .query_pairs()
            .into_owned()
            .filter(|(name, _)| name != "api-version" && name != "$expand")
            .collect();
        pairs.sort();
        pairs
    };
    a.host() == b.host() && a.path().eq_ignore_ascii_case(b.path()) && query(a) == query(b)
}

/// YAML as JSON: quoted scalars are strings, `null` and `~` are null, plain numbers stay strings.
fn yaml(text: &str) -> Value {
    /// What is open: a sequence, or a mapping with the key that waits for its value.
    enum Open {
        List(Vec<Value>),
        Mapping(Map<String, Value>, Option<String>),
    }
    let mut stack: Vec<Open> = Vec::new();
    let mut root = Value::Null;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.expect("the recording is YAML");
        let value = match event {
            Event::SequenceStart(..) => {
                stack.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                stack.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(values)) => Value::Array(values),
                Some(Open::Mapping(pairs, _)) => Value::Object(pairs),
                None => panic!("nothing is open"),
            },
            Event::Scalar(text, ScalarStyle::Plain, ..) if text == "null" || text == "~" => {
                Value::Null
            }
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            _ => continue,
        };
        match stack.last_mut() {
            None => root = value,
            Some(Open::List(values)) => values.push(value),
            Some(Open::Mapping(pairs, key)) => match key.take() {
                None => *key = value.as_str().map(str::to_owned),
                Some(key) => {
                    pairs.insert(key, value);
                }
            },
        }
    }
    root
}
