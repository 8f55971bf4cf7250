//! What shells and `man` are given.

use std::process::Command;

use crate::harness::{World, azdr_with};

/// Paths of all commands that people see, nouns included.
fn commands() -> Vec<String> {
    fn visit(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
            let path = format!("{path} {}", child.get_name()).trim().to_owned();
            found.push(path.clone());
            visit(child, &path, found);
        }
    }
    let mut found = Vec::new();
    visit(&azdr_ctl::command(), "", &mut found);
    found
}

fn script(shell: &str) -> String {
    // Neither a context nor a controller is needed.
    let output = azdr_with("/nonexistent".as_ref(), &["completion", shell]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shell_completes_every_command_and_every_format() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = script(shell);
        for command in commands() {
            let verb = command.rsplit(' ').next().unwrap();
            assert!(script.contains(verb), "{shell} does not know {command}");
        }
        for word in ["--interval", "--context-file"] {
            // fish writes options without their dashes.
            assert!(script.contains(word.trim_start_matches('-')), "{shell} does not know {word}");
        }
    }
}

/// What bash offers for a command line whose last word is being typed.
fn offered(words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
    // Too long to be an argument.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("azdr.bash");
    std::fs::write(&file, script("bash")).unwrap();
    let asked = format!(
        "source '{}'\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_azdr azdr '{last}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        quoted.join(" "),
        words.len() - 1,
    );
    let output =
        Command::new("bash").args(["--norc", "-c", &asked]).output().expect("bash is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_nouns_verbs_options_and_values() {
    assert_eq!(offered(&["azdr", "rep"]), [""]);
    assert_eq!(offered(&["azdr", "back"]), ["backup"]);
    assert_eq!(
        offered(&["azdr", "backup", "replica"]),
        ["replicate", "replicate-all", "replication-status", "replication-jobs"]
    );
    assert_eq!(offered(&["azdr", "job", "list", "--inter"]), ["--interval"]);
    assert_eq!(
        offered(&["azdr", "job", "list", "--output", ""]),
        ["text", "table", "json", "yaml", "csv"]
    );
    assert_eq!(offered(&["azdr", "backup", "list", "--tier", "w"]), ["weekly"]);
}

#[tokio::test]
async fn man_pages_of_all_commands_are_written_to_a_folder() {
    let world = World::start();
    let folder = world.folder().join("share/man1");
    // Written over as well.
    for _ in 0..2 {
        let ran = world.run(&format!("man --dir {} -o json", folder.display())).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let document = ran.json();
        let mut expected: Vec<String> = commands()
            .iter()
            .map(|command| format!("azdr-{}.1", command.replace(' ', "-")))
            .collect();
        expected.push("azdr.1".to_owned());
        expected.sort();
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut found: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, expected);
        let told = document["pages"].as_array().unwrap();
        assert_eq!(told.len(), found.len());
        for page in told {
            let (file, command) =
                (page["file"].as_str().unwrap(), page["command"].as_str().unwrap());
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("\n.TH {} 1 ", command.replace(' ', "-"))), "{text}");
        }
    }
    let in_the_way = world.run("man --dir /dev/null/x").await;
    assert_eq!(in_the_way.code, 1);
    assert!(in_the_way.stderr.contains("cannot write /dev/null/x"), "{}", in_the_way.stderr);
}

/// They say it without a context, without a controller, and with a context that cannot be read.
#[test]
fn version_and_help_need_nothing() {
    for context in ["/nonexistent", "/dev/null", "/"] {
        for args in [&["--version"][..], &["--help"], &["backup", "restore", "--help"]] {
            let output = azdr_with(context.as_ref(), args).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        }
    }
    let version = azdr_with("/nonexistent".as_ref(), &["--version"]).output().unwrap().stdout;
    let expected = format!("azdr {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version).unwrap(), expected);
}

/// Whoever has set the variable is shown the same as whoever has not.
#[test]
fn a_context_in_the_environment_is_no_argument_that_was_given() {
    let world = tempfile::tempdir().unwrap();
    let said = |args: &[&str]| {
        let output = azdr_with(&world.path().join("context.toml"), args).output().unwrap();
        let bare = azdr_with("/x".as_ref(), args).env_remove("AZDR_CONTEXT").output().unwrap();
        assert_eq!(output, bare, "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for args in [&[][..], &["backup"]] {
        assert!(said(args).contains("Commands:"), "{args:?} shows no help");
    }
    assert!(said(&["backup", "trigger"]).contains("Usage: azdr backup trigger <VM>"));
    let mut empty = azdr_with("".as_ref(), &["whoami"]);
    let empty = empty.env("HOME", world.path()).output().unwrap();
    let words = String::from_utf8(empty.stderr).unwrap();
    assert!(words.contains(".config/azdr/context.toml"), "empty is as good as not set: {words}");
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut help = azdr_with("/x".as_ref(), &["--help"]);
    let output = help.stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("the output could not be written"), "{words}");
}
