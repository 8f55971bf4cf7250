//! `--output`: every command in every format, each saying what the JSON says.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::CASES;
use crate::harness::{Ran, World, transcript};
use crate::{values, yaml};

/// Cases that are kept as snapshots too: every shape of answer once.
const SHOWN: &[&str] = &[
    "agent_list",
    "backup_config_show",
    "backup_list",
    "backup_list_empty",
    "backup_show_of_a_missing_vm",
    "backup_trigger_fails",
    "dr_test_history",
    "job_list",
    "job_show_failed",
    "operator_list",
    "policy_diff",
    "policy_list",
    "policy_schema",
    "policy_simulate",
    "residue_list",
    "status",
    "vm_list",
    "whoami",
];

#[tokio::test]
async fn every_command_says_the_same_in_every_format() {
    let world = World::start();
    for (name, line) in CASES {
        let folder = world.folder().display().to_string();
        let mut answers = BTreeMap::new();
        for format in ["json", "yaml", "csv", "table"] {
            let new = format!("{folder}/{name}_{format}");
            let line = format!("-o {format} {}", line.replace("NEW", &new));
            let mut ran = world.run(&line).await;
            // What is written to a folder of its own is the same but for the folder.
            ran.stdout = ran.stdout.replace(&new, "NEW");
            if SHOWN.contains(name) && format != "json" {
                let shown = transcript(&line, &ran).replace(world.address(), "CONTROLLER");
                insta::assert_snapshot!(format!("{name}_{format}"), shown.replace('\r', "<CR>"));
            }
            answers.insert(format, ran);
        }
        check(name, line, &answers);
    }
}

fn check(name: &str, line: &str, answers: &BTreeMap<&str, Ran>) {
    let [csv, json, table, yaml] = ["csv", "json", "table", "yaml"].map(|format| &answers[format]);
    for ran in [csv, table, yaml] {
        assert_eq!(ran.code, json.code, "{name}: the format changes how it ends: {}", ran.stderr);
        assert_eq!(ran.stdout.is_empty(), json.stdout.is_empty(), "{name}: {ran:?}");
    }
    if !json.stdout.is_empty() {
        let document = json.json();
        assert_eq!(yaml::read(&yaml.stdout).as_ref(), Ok(&document), "{name}");
        let is_list = check_csv(name, &csv.stdout, &document);
        if line.split(' ').nth(1) == Some("list") {
            assert!(is_list, "{name}: a list without rows: {}", csv.stdout);
        }
        check_table(name, &table.stdout, &csv.stdout);
        if *name != *"policy_schema" {
            assert_eq!(document["format_version"], 1, "{name}");
        }
    }
    assert_eq!(json.stderr.is_empty(), json.code == 0, "{name}: {}", json.stderr);
    if json.code == 0 {
        assert_eq!((&*yaml.stderr, &*csv.stderr), ("", ""), "{name}: words beside a document");
    } else {
        let error = json.error_json();
        assert_eq!(yaml::read(&yaml.stderr).as_ref(), Ok(&error), "{name}");
        assert!(!check_csv(name, &csv.stderr, &error), "{name}: {}", csv.stderr);
        let message = error["message"].as_str().unwrap().lines().next().unwrap();
        assert!(table.stderr.contains(message), "{name}: {}", table.stderr);
    }
}

/// Whether it has rows; all that is in them is what the document says, and the rows say all of it.
fn check_csv(name: &str, text: &str, document: &Value) -> bool {
    let mut lines = read_csv(text);
    let heading = lines.remove(0);
    assert!(lines.iter().all(|line| line.len() == heading.len()), "{name}: {text}");
    if heading == ["field", "value"] {
        let written: BTreeMap<&str, &str> = lines.iter().map(|l| (&*l[0], &*l[1])).collect();
        let mut expected = BTreeMap::new();
        fields("", document, &mut expected);
        let expected: BTreeMap<&str, &str> =
            expected.iter().map(|(path, cell)| (&**path, &**cell)).collect();
        assert_eq!(written, expected, "{name}");
        return false;
    }
    let lists = document.as_object().unwrap().values().filter_map(Value::as_array);
    let is_it = |items: &&Vec<Value>| {
        items.len() == lines.len()
            && items.iter().zip(&lines).all(|(item, line)| is_row_of(item, &heading, line))
    };
    assert!(
        lists.clone().any(|items| is_it(&items)),
        "{name}: {text}\nis of no list of {document:#}"
    );
    true
}

fn is_row_of(item: &Value, heading: &[String], line: &[String]) -> bool {
    let at = |path: &str| {
        path.split('.').try_fold(item, |value, name| value.get(name)).unwrap_or(&Value::Null)
    };
    let is_told = |path: &str| {
        let is_of = |column: &String| {
            *column == path
                || path.strip_prefix(column.as_str()).is_some_and(|rest| rest.starts_with('.'))
                || column.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
        };
        heading.iter().any(is_of)
    };
    let mut all = BTreeMap::new();
    fields("", item, &mut all);
    heading.iter().zip(line).all(|(column, written)| *written == cell(at(column)))
        && all.keys().all(|path| is_told(path))
}

/// Every field by its path.
fn fields(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(&path, value, found);
            }
        }
        value => {
            found.insert(path.to_owned(), cell(value));
        }
    }
}

/// What a cell says, without the guard against formulas.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // What RFC 4180 does not allow is replaced.
        Value::String(text) => {
            text.replace(|c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n'), "\u{fffd}")
        }
        // A list: its JSON, whose texts may be written in more ways than one.
        value => escaped(&value.to_string()),
    }
}

fn escaped(json: &str) -> String {
    let shown = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
            format!("\\u{:04x}", u32::from(c))
        }
        c => c.to_string(),
    };
    json.chars().map(shown).collect()
}

/// By RFC 4180, and nothing else; a guarding apostrophe is taken away.
fn read_csv(text: &str) -> Vec<Vec<String>> {
    let mut lines = vec![vec![String::new()]];
    let mut chars = text.chars().peekable();
    let mut is_quoted = false;
    while let Some(c) = chars.next() {
        let line = lines.last_mut().unwrap();
        let cell = line.last_mut().unwrap();
        match (c, is_quoted) {
            ('"', true) if chars.peek() == Some(&'"') => cell.push(chars.next().unwrap()),
            ('"', true) => {
                is_quoted = false;
                assert!(matches!(chars.peek(), Some(',' | '\r')), "behind a quote: {text}");
            }
            ('"', false) => {
                assert!(cell.is_empty(), "a quote within a cell: {text}");
                is_quoted = true;
            }
            (',', false) => line.push(String::new()),
            ('\r', false) => {
                assert_eq!(chars.next(), Some('\n'), "{text}");
                lines.push(vec![String::new()]);
            }
            ('\n', false) => panic!("a line end within a cell: {text}"),
            (c, _) => cell.push(c),
        }
    }
    assert_eq!(lines.pop(), Some(vec![String::new()]), "the last line has no end: {text}");
    for cell in lines.iter_mut().flatten() {
        if let Some(text) = cell.strip_prefix('\'') {
            *cell = text.to_owned();
        }
    }
    lines
}

/// A heading in capitals and a line per row, without words, icons or colours.
fn check_table(name: &str, text: &str, csv: &str) {
    assert!(!text.contains('\x1b') && !text.contains('✓'), "{name}: {text}");
    let heading = text.lines().next().unwrap();
    assert!(!heading.contains(|c: char| c.is_lowercase()), "{name}: {text}");
    let lines = read_csv(csv);
    if lines[0] == ["field", "value"] {
        let is_shown =
            |line: &&Vec<String>| !line[1].starts_with('[') && line[0] != "format_version";
        for path in lines[1..].iter().filter(is_shown).map(|line| &line[0]) {
            let found = text.lines().any(|line| line.split(' ').next() == Some(path));
            assert!(found, "{name}: no {path} in {text}");
        }
    } else {
        assert_eq!(text.lines().count(), lines.len(), "{name}: {text}");
    }
}

#[tokio::test]
async fn strange_texts_come_through_every_format_and_do_nothing_to_terminal_or_spreadsheet() {
    let world = World::start();
    let line = "job list --vm strange";
    let mut answers = BTreeMap::new();
    for format in ["json", "yaml", "csv", "table", "text"] {
        answers.insert(format, world.run(&format!("-o {format} {line}")).await);
    }
    check("strange", line, &answers);
    let document = answers["json"].json();
    for (job, text) in document["jobs"].as_array().unwrap().iter().zip(values::STRANGE) {
        assert_eq!((&job["vm_name"], &job["error"]["message"]), (&(*text).into(), &(*text).into()));
    }
    for format in ["table", "text", "json", "yaml"] {
        let shown = &answers[format].stdout;
        let moves = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!shown.contains(moves) && !shown.contains(['\u{202e}', '\u{2066}']), "{shown:?}");
        assert!(shown.contains("\u{5e9}\u{5dc}\u{5d5}\u{5dd}"), "{shown}");
    }
    // Before the reader of these tests takes the guard away.
    let csv = &answers["csv"].stdout;
    for formula in ["=HYPERLINK", "+1", "@SUM", "\t=1"] {
        for before in [",", ",\"", ",\"  ", ",  ", "\n"] {
            assert!(!csv.contains(&format!("{before}{formula}")), "{csv}");
        }
        assert!(csv.contains(formula), "{formula}: {csv}");
    }
}

#[tokio::test]
async fn a_usage_error_is_an_object_in_the_format_that_was_asked_for() {
    let world = World::start();
    for line in ["job show x", "no-such-noun", "job list --limit 0"] {
        let json = world.run(&format!("{line} -ojson")).await;
        let error = json.error_json();
        assert_eq!((json.code, error["kind"].as_str()), (2, Some("usage")), "{error}");
        for asked in ["-o yaml", "-oyaml", "--output=yaml", "--output yaml"] {
            let ran = world.run(&format!("{asked} {line}")).await;
            assert_eq!((ran.code, &*ran.stdout), (2, ""));
            assert_eq!(yaml::read(&ran.stderr).as_ref(), Ok(&error));
        }
        let csv = world.run(&format!("{line} -o csv")).await;
        assert!(!check_csv(line, &csv.stderr, &error));
        let table = world.run(&format!("{line} -o table")).await;
        assert!(table.stderr.starts_with("error: "), "{}", table.stderr);
    }
    let wrong = world.run("job list -o xml").await;
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("[possible values: text, table, json, yaml, csv]"), "{wrong:?}");
}

/// Times of the documents are RFC 3339 in UTC, whatever the format.
#[tokio::test]
async fn all_times_are_rfc_3339_in_utc() {
    let world = World::start();
    let mut seen = 0;
    for (_, line) in CASES.iter().filter(|(name, _)| SHOWN.contains(name)) {
        let ran = world.run(&format!("{line} -o json")).await;
        if ran.stdout.is_empty() {
            continue;
        }
        let mut all = Vec::new();
        every_field(&ran.json(), &mut all);
        let times = all.into_iter().filter(|(path, _)| path.ends_with("_at"));
        let times = times.flat_map(|(path, value)| match value {
            Value::Array(times) => times.into_iter().map(|time| (path.clone(), time)).collect(),
            time => vec![(path, time)],
        });
        for (path, value) in times {
            let Some(time) = value.as_str() else {
                assert!(value.is_null(), "{path}: {value}");
                continue;
            };
            assert!(
                time.ends_with('Z') && time.parse::<azdr_env::WallTime>().is_ok(),
                "{path}: {time}"
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// Fields of all objects, also of those in lists.
fn every_field(value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| every_field(item, found)),
        Value::Object(object) => {
            for (name, value) in object {
                found.push((name.clone(), value.clone()));
                every_field(value, found);
            }
        }
        _ => {}
    }
}
