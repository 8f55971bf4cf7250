//! Reads recordings: two YAML dialects and one JSON.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// A request, and how Azure answered it.
pub(crate) struct Interaction {
    pub(crate) method: String,
    /// Absolute; of a transcript that only says "the operation's", empty.
    pub(crate) url: String,
    pub(crate) if_match: Option<String>,
    pub(crate) sent: Value,
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<String>,
    /// `None` where the transcript leaves it out.
    pub(crate) body: Option<Value>,
}

pub(crate) fn load(path: &Path) -> Vec<Interaction> {
    let text = std::fs::read_to_string(path).expect("the recording was there a moment ago");
    let document = if path.extension().is_some_and(|e| e == "json") {
        serde_json::from_str(&text).expect("the recording is JSON")
    } else {
        yaml(&text)
    };
    document["interactions"].as_array().expect("a list of interactions").iter().map(read).collect()
}

fn read(recorded: &Value) -> Interaction {
    let (request, response) = (&recorded["request"], &recorded["response"]);
    let url = ["url", "uri"].iter().find_map(|name| request[*name].as_str()).map(str::to_owned);
    let path = request["path"].as_str().filter(|path| path.starts_with('/'));
    let url = url.or_else(|| path.map(|path| format!("https://management.azure.com{path}")));
    let status = [&response["code"], &response["status"], &response["status"]["code"]];
    let status = status.iter().find_map(|v| match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.parse().ok(),
        _ => None,
    });
    let names = response["headers"].as_object().into_iter().flatten();
    let sent_headers = request["headers"].as_object().into_iter().flatten();
    let if_match = sent_headers.filter(|(name, _)| name.eq_ignore_ascii_case("if-match"));
    Interaction {
        method: request["method"].as_str().expect("a method").to_owned(),
        url: url.unwrap_or_default(),
        if_match: if_match.map(|(_, v)| v[0].as_str().unwrap_or_default().to_owned()).next(),
        sent: body(&request["body"]),
        status: u16::try_from(status.expect("a status")).expect("a status"),
        headers: names.map(|(name, _)| name.to_lowercase()).collect(),
        body: response.get("body").map(body),
    }
}

fn body(recorded: &Value) -> Value {
    let text = recorded["string"].as_str().or(recorded.as_str());
    match (text, recorded) {
        (Some(text), _) => serde_json::from_str(text).unwrap_or(Value::Null),
        (None, Value::Object(_)) => recorded.clone(),
        _ => Value::Null,
    }
}

/// YAML as JSON: `null` and `~` are null, every other scalar is a string.
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
