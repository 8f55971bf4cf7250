//! Every argument that does not take just any text: what is wrong with a value names the argument, the
//! value, and what is allowed.

use clap::error::ErrorKind;
use clap::{Arg, Command};

/// No number, no time, no word of any list.
const WRONG: &str = "~";

#[test]
fn a_wrong_value_is_refused_with_its_name_and_what_is_allowed() {
    let mut root = azdr_ctl::command();
    root.build();
    let mut checked = Vec::new();
    visit(&root, &mut Vec::new(), &mut checked);
    for known in
        ["job retry <ID>", "job list --limit", "agent token --valid-for", "dr test-history --days"]
    {
        assert!(checked.iter().any(|c| c == known), "{known} takes anything: {checked:#?}");
    }
    assert!(checked.len() > 40, "{checked:#?}");
}

/// Of a number as well: what is out of range, and what looks like an option.
#[test]
fn numbers_outside_their_range_are_refused_with_the_range() {
    for (args, said) in [
        ("job retry x", "invalid value 'x' for '<ID>': must be the number of a job"),
        ("job retry -1", "invalid value '-1' for '<ID>': must be the number of a job"),
        ("job list --limit 0", "'0' for '--limit <N>': must be a whole number from 1 to 1000"),
        (
            "job list --limit 1001",
            "'1001' for '--limit <N>': must be a whole number from 1 to 1000",
        ),
        (
            "dr test-history --days -3",
            "'-3' for '--days <N>': must be a whole number from 1 to 3650",
        ),
        (
            "job watch 7 --reconnect-for 1e9",
            "'1e9' for '--reconnect-for <SECONDS>': must be a whole",
        ),
    ] {
        let words = format!("azdr {args}");
        let error = azdr_ctl::command().try_get_matches_from(words.split(' ')).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{args}: {error}");
        assert!(error.to_string().contains(said), "{args}: {error}");
    }
}

fn visit(command: &Command, path: &mut Vec<String>, checked: &mut Vec<String>) {
    for argument in command.get_arguments().filter(|a| a.get_action().takes_values()) {
        let place = argument.get_long().map_or_else(
            || format!("{} <{}>", path.join(" "), argument.get_id().as_str().to_uppercase()),
            |long| format!("{} --{long}", path.join(" ")),
        );
        if refuses(argument, path, &place) {
            checked.push(place);
        }
    }
    for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
        path.push(child.get_name().to_owned());
        visit(child, path, checked);
        path.pop();
    }
}

/// Whether the argument refuses the wrong value; how it does so is checked.
fn refuses(argument: &Arg, path: &[String], place: &str) -> bool {
    let mut words = vec!["azdr".to_owned()];
    words.extend(path.iter().cloned());
    match argument.get_long() {
        Some(long) => words.extend([format!("--{long}"), WRONG.to_owned()]),
        None => {
            let before = argument.get_index().unwrap_or(1) - 1;
            words.extend(std::iter::repeat_n("1".to_owned(), before));
            words.push(WRONG.to_owned());
        }
    }
    let answer = azdr_ctl::command().try_get_matches_from(words);
    let Err(error) = answer else { return false };
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return false;
    }
    let said = error.to_string();
    let name = place.rsplit(' ').next().unwrap();
    assert!(said.contains(&format!("invalid value '{WRONG}' for '{name}")), "{place}: {said}");
    let allowed = ["must be", "expected", "[possible values: "];
    assert!(allowed.iter().any(|word| said.contains(word)), "{place}: {said}");
    true
}
