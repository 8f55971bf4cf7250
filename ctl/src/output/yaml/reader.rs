//! Reads what is written, for tests: here, and of the whole program.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Reads YAML as both versions do: what they would read differently is an error.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    enum Open {
        List(Vec<Value>),
        Object(Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut put = |value: Value, open: &mut Vec<Open>| match open.last_mut() {
        None => root = Some(value),
        Some(Open::List(list)) => list.push(value),
        Some(Open::Object(object, name)) => match name.take() {
            Some(name) => assert!(object.insert(name, value).is_none(), "a name is there twice"),
            None => *name = Some(value.as_str().expect("a name is a text").to_owned()),
        },
    };
    for event in Parser::new_from_str(text) {
        match event.map_err(|e| e.to_string())?.0 {
            Event::Scalar(text, style, 0, None) => {
                let value = match style {
                    ScalarStyle::Plain => plain(&text)?,
                    ScalarStyle::DoubleQuoted => Value::from(&*text),
                    other => return Err(format!("{other:?} is not written")),
                };
                put(value, &mut open);
            }
            Event::SequenceStart(0, None) => open.push(Open::List(Vec::new())),
            Event::MappingStart(0, None) => open.push(Open::Object(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match open.pop().expect("it was begun") {
                    Open::List(list) => Value::from(list),
                    Open::Object(object, _) => Value::from(object),
                };
                put(value, &mut open);
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::Nothing => {}
            other => return Err(format!("{other:?} is not written")),
        }
    }
    root.ok_or_else(|| "nothing".to_owned())
}

/// Without quotes: what is no JSON value must begin with a letter or a slash, and not be one of the
/// words that some version takes for a boolean or null.
fn plain(text: &str) -> Result<Value, String> {
    let words = "y n yes no on off true false null ~ none";
    if matches!(text, "null" | "true" | "false") {
        return serde_json::from_str(text).map_err(|e| e.to_string());
    }
    if words.split(' ').any(|word| word.eq_ignore_ascii_case(text)) {
        return Err(format!("{text} is not a text to every reader"));
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        // A float of YAML 1.1 has a point, and a sign in its exponent.
        if let Some((mantissa, exponent)) = text.split_once('e')
            && !(mantissa.contains('.') && exponent.starts_with(['+', '-']))
        {
            return Err(format!("{text} is no number of YAML 1.1"));
        }
        // JSON's reader may be off by the last digit.
        if text.contains('.') {
            return text.parse::<f64>().map(Value::from).map_err(|e| format!("{text}: {e}"));
        }
        return serde_json::from_str(text).map_err(|e| format!("{text}: {e}"));
    }
    match text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') {
        true => Ok(text.into()),
        false => Err(format!("{text} begins like something else than a text")),
    }
}
