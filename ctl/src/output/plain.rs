//! `--output table`: a table and nothing else.
//!
//! Values are shown as people read them, by what a field's name says of its unit; a list shows the
//! columns that matter first. Nothing is cut: what is too wide is broken between words, or reaches over
//! the edge.

use std::time::Duration;

use serde_json::Value;

use super::rows::Rows;
use super::spread;
use crate::quantity::{dollars, duration, millis, size};
use crate::table::Table;

/// `width`: of the window, where there is one.
pub(super) fn of(document: &Value, rows: Option<&Rows>, width: Option<usize>) -> String {
    let table = match rows {
        Some(rows) => list(document, rows),
        None => single(document),
    };
    table.render_within(width)
}

fn list(document: &Value, rows: &Rows) -> Table {
    let headings: Vec<String> = rows.shown.iter().map(|column| heading(column)).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    let items = document.get(rows.list).and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        table.row(rows.shown.iter().map(|column| match spread::at(item, column) {
            // The heading says that it is UTC.
            Value::String(time) if column.ends_with("_at") => {
                time.chars().take(16).collect::<String>().replace('T', " ")
            }
            value => cell(column, value),
        }));
    }
    table
}

fn single(document: &Value) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut rows = Vec::new();
    fields("", document, &mut rows);
    rows.into_iter().for_each(|row| table.row(row));
    table
}

/// Objects are spread, and so are lists of objects, with the number of each, from 1.
fn fields(path: &str, document: &Value, rows: &mut Vec<[String; 2]>) {
    for (name, value) in spread::fields(document) {
        let dot = if path.is_empty() { "" } else { "." };
        let name = format!("{path}{dot}{name}");
        match value {
            Value::Array(list) if list.iter().any(Value::is_object) => {
                for (n, item) in list.iter().enumerate() {
                    fields(&format!("{name}.{}", n + 1), item, rows);
                }
            }
            Value::String(time) if name.ends_with("_at") => {
                rows.push([name, format!("{} UTC", time.replace('T', " ").trim_end_matches('Z'))]);
            }
            // The field's name says cents.
            Value::Number(_) if name.ends_with("_usd_cents") => {
                let dollars = format!("{} USD", cell(&name, value));
                rows.push([name, dollars]);
            }
            _ if name == "format_version" => {}
            value => rows.push([name.clone(), cell(&name, value)]),
        }
    }
}

/// "NEWEST RECOVERY POINT (UTC)" of `newest_recovery_point_at`.
fn heading(column: &str) -> String {
    const UNITS: [(&str, &str); 5] =
        [("_at", " (UTC)"), ("_usd_cents", " (USD)"), ("_bytes", ""), ("_secs", ""), ("_ms", "")];
    let unit = UNITS.iter().find_map(|(end, shown)| Some((column.strip_suffix(end)?, *shown)));
    let (name, unit) = unit.unwrap_or((column, ""));
    format!("{}{unit}", name.replace(['_', '.'], " ").to_uppercase())
}

fn cell(field: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.replace(['\n', '\r', '\t'], " "),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(n) => quantity(field, n),
            None => number.to_string(),
        },
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => {
            list.iter().map(|item| cell(field, item)).collect::<Vec<_>>().join(", ")
        }
        Value::Object(_) => value.to_string(),
    }
}

fn quantity(field: &str, n: u64) -> String {
    let ends = |end: &str| field.ends_with(end);
    if ends("_bytes") || ends(".bytes") {
        size(n)
    } else if ends("_usd_cents") {
        dollars(n)
    } else if ends("_secs") {
        duration(Duration::from_secs(n))
    } else if ends("_ms") && n < 1000 {
        format!("{n} ms")
    } else if ends("_ms") {
        millis(n)
    } else {
        n.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static ROWS: Rows = Rows {
        list: "items",
        columns: &[],
        shown: &["name", "created_at", "size_bytes", "on", "tiers", "error.kind"],
    };

    #[test]
    fn a_list_is_a_table_with_units_in_the_heading() {
        let document = json!({"items": [{
            "name": "db", "created_at": "2025-12-01T08:00:00Z", "size_bytes": 1u64 << 30, "on": true,
            "tiers": ["daily", "weekly"], "error": null, "more": 1,
        }]});
        assert_eq!(
            of(&document, Some(&ROWS), None),
            "NAME  CREATED (UTC)     SIZE  ON   TIERS          ERROR KIND\n\
             db    2025-12-01 08:00  1 GB  yes  daily, weekly  -\n"
        );
    }

    #[test]
    fn anything_else_is_all_of_its_fields() {
        let document = json!({
            "a": {"took_ms": 61_000, "wait_secs": 90}, "done_at": "2025-12-01T08:00:00.5Z",
            "cost_usd_cents": 1234, "format_version": 1, "lun": -1, "steps": [{"name": "x"}, {"name": "y\nz"}], "words": [],
        });
        assert_eq!(
            of(&document, None, None),
            "FIELD           VALUE\n\
             a.took_ms       1m 01s\n\
             a.wait_secs     1m 30s\n\
             cost_usd_cents  12.34 USD\n\
             done_at         2025-12-01 08:00:00.5 UTC\n\
             lun             -1\n\
             steps.1.name    x\n\
             steps.2.name    y z\n\
             words           -\n"
        );
    }
}
