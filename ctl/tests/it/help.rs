//! `--help` of every command.

use clap::Command;

/// What a terminal is wide that is not.
const WIDTH: usize = 100;

#[test]
fn the_help_of_every_command_is_as_agreed() {
    let mut root = azdr_ctl::command().term_width(WIDTH);
    root.build();
    visit(&mut root, "azdr");
}

fn visit(command: &mut Command, path: &str) {
    let text = command.render_long_help().to_string();
    let is_leaf = command.get_subcommands().all(|child| child.get_name() == "help");
    if is_leaf {
        says_its_role(&text, path);
        has_examples_that_work(command, &text, path);
        every_argument_is_explained(command, path);
    }
    insta::assert_snapshot!(format!("help {path}").replace(' ', "_"), text);
    for child in command.get_subcommands_mut().filter(|child| child.get_name() != "help") {
        let path = format!("{path} {}", child.get_name());
        visit(child, &path);
    }
}

fn says_its_role(text: &str, path: &str) {
    let known = ["role: viewer", "role: operator", "role: admin", "no role: it asks no controller"];
    let is_said =
        |line: &str| line.strip_prefix("Needs ").is_some_and(|role| known.contains(&role));
    assert!(text.lines().any(is_said), "`{path} --help` says no role");
}

/// They stand there as they are to be typed, and the first is of this command.
fn has_examples_that_work(command: &Command, text: &str, path: &str) {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = after
        .split("\n\n")
        .find_map(|s| s.strip_prefix("Example:\n").or_else(|| s.strip_prefix("Examples:\n")))
        .unwrap_or_else(|| panic!("`{path} --help` has no example"));
    for line in examples.lines() {
        assert!(
            text.contains(&format!("\n{line}\n")) || text.ends_with(line),
            "{path} wraps {line}"
        );
    }
    let whole = examples.replace("\\\n", "");
    let lines: Vec<&str> = whole.lines().collect();
    let heading = if lines.len() == 1 { "Example:" } else { "Examples:" };
    assert!(after.contains(heading), "{path}: {after}");
    assert!(lines[0].starts_with(&format!("  {path}")), "{path}: {examples}");
    for line in lines {
        // What the shell does with it is not ours.
        let ours = [" | ", " > ", " >> "].iter().filter_map(|end| line.find(end)).min();
        let words = words(&line[..ours.unwrap_or(line.len())]);
        let parsed = azdr_ctl::command().try_get_matches_from(&words);
        assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.unwrap_err());
    }
}

/// As a shell splits a line with single and double quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split(['"', '\'']).enumerate();
    parts
        .flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// A number says its bounds, a span its units, a time its form; and no help ends like a sentence.
fn every_argument_is_explained(command: &Command, path: &str) {
    for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
        let id = argument.get_id();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(!help.is_empty() && !help.ends_with('.'), "{path}, {id}: {help:?}");
        let name = argument.get_value_names().and_then(|names| names.first());
        let needed: &[&str] = match name.map(|name| name.as_str()) {
            Some("N" | "SECONDS" | "DAYS") => &[" to "],
            Some("SPAN") => &["m to ", "h to "],
            Some("WHEN" | "TIME") => &["RFC 3339", "HH:MM"],
            _ => &[],
        };
        let is_said = needed.is_empty() || needed.iter().any(|words| help.contains(words));
        assert!(is_said, "{path}, {id}: none of {needed:?} in {help:?}");
    }
}
