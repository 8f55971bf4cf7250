//! `--output csv`: RFC 4180, in UTF-8.
//!
//! A list is one line for each of its items, under a line with the names of the columns; anything else
//! is two columns, `field` and `value`. An object within is spread (`error.kind`), a list within is
//! JSON in its cell, null is an empty cell.
//!
//! A text that a spreadsheet would take for a formula gets an apostrophe in front, and so does a text
//! that begins with an apostrophe: whoever takes one away again has the text as it was. Characters
//! that RFC 4180 does not allow in a field are written as U+FFFD; JSON and YAML have them.

use serde_json::Value;

use super::escape::escaped;
use super::rows::Rows;
use super::spread;

/// The heading and all lines.
pub(super) fn of(document: &Value, rows: Option<&Rows>) -> String {
    let mut text = heading(rows);
    lines(document, rows).iter().for_each(|line| text.push_str(line));
    text
}

/// The names of the columns.
pub(super) fn heading(rows: Option<&Rows>) -> String {
    match rows {
        Some(rows) => line(rows.columns.iter().map(|column| cell(&Value::from(*column)))),
        None => line(["field".to_owned(), "value".to_owned()]),
    }
}

/// One line per item, or per field.
pub(super) fn lines(document: &Value, rows: Option<&Rows>) -> Vec<String> {
    match rows {
        Some(rows) => {
            let items = document.get(rows.list).and_then(Value::as_array);
            let of = |item| line(rows.columns.iter().map(|path| cell(spread::at(item, path))));
            items.into_iter().flatten().map(of).collect()
        }
        None => spread::fields(document)
            .into_iter()
            .map(|(path, value)| line([cell(&Value::from(path)), cell(value)]))
            .collect(),
    }
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("{}\r\n", cells.join(","))
}

fn cell(value: &Value) -> String {
    let plain = match value {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => guarded(text),
        Value::Array(_) | Value::Object(_) => escaped(&value.to_string()),
    };
    let allowed = |c: char| match c {
        '\t' | '\r' | '\n' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let plain: String = plain.chars().map(allowed).collect();
    let open = plain.starts_with(' ') || plain.ends_with(' ');
    if open || plain.contains([',', '"', '\r', '\n', '\t']) {
        format!("\"{}\"", plain.replace('"', "\"\""))
    } else {
        plain
    }
}

/// What spreadsheets begin a formula with, also in full width, and what they skip before one.
const RISKY: [char; 12] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\'', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

fn guarded(text: &str) -> String {
    // Spaces in front of a formula are not looked at by all of them.
    if text.trim_start_matches(' ').starts_with(RISKY) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static ROWS: Rows =
        Rows { list: "items", columns: &["name", "error.kind", "list"], shown: &[] };

    #[test]
    fn a_list_is_a_line_per_item_and_an_empty_one_still_has_its_heading() {
        let document = json!({"items": [
            {"name": "a,b", "error": {"kind": "x"}, "list": ["1", 2]},
            {"name": "say \"hi\"\nthere", "error": null, "list": []},
        ]});
        assert_eq!(
            of(&document, Some(&ROWS)),
            "name,error.kind,list\r\n\"a,b\",x,\"[\"\"1\"\",2]\"\r\n\
             \"say \"\"hi\"\"\nthere\",,[]\r\n"
        );
        assert_eq!(of(&json!({"items": []}), Some(&ROWS)), "name,error.kind,list\r\n");
        assert_eq!(of(&json!({"items": null}), Some(&ROWS)), "name,error.kind,list\r\n");
    }

    #[test]
    fn anything_else_is_field_and_value() {
        let document = json!({"a": {"b": true, "c": null}, "n": -1.5});
        assert_eq!(of(&document, None), "field,value\r\na.b,true\r\na.c,\r\nn,-1.5\r\n");
    }

    #[test]
    fn no_text_is_a_formula_and_no_number_is_changed() {
        for (text, written) in [
            ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x", "'@x"),
            ("'x", "'' x".replace(' ', "").as_str()),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("  =1", "'  =1"),
            ("a=1", "a=1"),
            ("x\u{0}\u{1b}", "x\u{fffd}\u{fffd}"),
            (" x", "\" x\""),
        ] {
            assert_eq!(cell(&json!(text)), written, "{text:?}");
        }
        assert_eq!(cell(&json!(-1)), "-1");
    }
}
