//! `--help` of every command.

use clap::Command;

#[test]
fn the_help_of_every_command_is_as_agreed_and_has_an_example() {
    let mut root = azdr_ctl::command().term_width(100);
    root.build();
    visit(&mut root, "azdr");
}

fn visit(command: &mut Command, path: &str) {
    let text = command.render_long_help().to_string();
    let is_leaf = command.get_subcommands().all(|child| child.get_name() == "help");
    if is_leaf {
        assert!(text.contains("Example"), "`{path} --help` has no example");
    }
    insta::assert_snapshot!(format!("help {path}").replace(' ', "_"), text);
    for child in command.get_subcommands_mut().filter(|child| child.get_name() != "help") {
        let path = format!("{path} {}", child.get_name());
        visit(child, &path);
    }
}
