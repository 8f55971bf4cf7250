//! `--output yaml`: the same document as `--output json`.
//!
//! Only a text that no reader can take for anything else stands without quotes: YAML 1.1 reads `no`,
//! `1e3`, `12:30:45` and `2026-01-01` as something else than YAML 1.2 does. Everything else is in double
//! quotes with JSON's escapes, in one line, which every version reads alike. That is why this is our
//! own: writers that quote by the rules of one version are misread by the other.

use serde_json::{Number, Value};

use super::escape::escaped;

/// The document, with a line end.
pub(super) fn of(document: &Value) -> String {
    let mut text = String::new();
    node(document, 0, &mut text);
    text
}

/// A node behind what it belongs to: on the same line if it is a single value, below if not.
fn value(value: &Value, indent: usize, text: &mut String) {
    if is_single(value) {
        text.push(' ');
        text.push_str(&single(value));
        text.push('\n');
    } else {
        text.push('\n');
        node(value, indent, text);
    }
}

fn node(node: &Value, indent: usize, text: &mut String) {
    let margin = " ".repeat(indent);
    match node {
        Value::Object(object) if !object.is_empty() => {
            for (name, of) in object {
                let name = quoted_if_needed(name);
                text.push_str(&margin);
                // Readers look no further than 1024 characters for the colon.
                if name.chars().count() > 1000 {
                    text.push_str(&format!("? {name}\n{margin}:"));
                } else {
                    text.push_str(&format!("{name}:"));
                }
                value(of, indent + 2, text);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                text.push_str(&margin);
                text.push('-');
                if is_single(item) {
                    value(item, indent, text);
                } else {
                    // The first line of what is below moves up behind the dash.
                    let mut below = String::new();
                    self::node(item, indent + 2, &mut below);
                    text.push(' ');
                    text.push_str(below.trim_start_matches(' '));
                }
            }
        }
        single_value => {
            text.push_str(&single(single_value));
            text.push('\n');
        }
    }
}

fn is_single(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

fn single(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => of_number(number),
        Value::String(text) => quoted_if_needed(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
    }
}

/// YAML 1.1 wants a point and a sign in a number with an exponent.
fn of_number(number: &Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

fn quoted_if_needed(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// A word, a path, or several words, none of which means anything by itself.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ');
    begins && !text.ends_with(' ') && text.chars().all(plain) && !is_special(text)
}

/// In any version of YAML, in any case.
fn is_special(text: &str) -> bool {
    const SPECIAL: [&str; 10] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"];
    SPECIAL.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn quoted(text: &str) -> String {
    escaped(&Value::from(text).to_string())
}

#[cfg(test)]
mod reader;
#[cfg(test)]
mod tests;
