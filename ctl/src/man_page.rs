//! Manual pages, one for each command, from the same texts as `--help`.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// What every piece of roff begins with: once is enough.
const APOSTROPHES: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// The manual page of one command.
#[derive(Debug)]
pub(crate) struct Page {
    /// "azdr-backup-list": its file is that with ".1".
    pub(crate) name: String,
    /// "azdr backup list".
    pub(crate) command: String,
    /// In roff.
    pub(crate) text: String,
}

/// The pages of all commands that are not hidden, nouns included.
///
/// # Errors
/// Never: what is written to is memory.
pub(crate) fn all(mut root: Command) -> io::Result<Vec<Page>> {
    // Options of every command come down to each.
    root.build();
    let mut pages = Vec::new();
    below(&root, "azdr", &mut pages)?;
    Ok(pages)
}

fn below(command: &Command, path: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command, path)?);
    let children = command.get_subcommands();
    for child in children.filter(|child| child.get_name() != "help" && !child.is_hide_set()) {
        below(child, &format!("{path} {}", child.get_name()), pages)?;
    }
    Ok(())
}

fn page(command: &Command, path: &str) -> io::Result<Page> {
    let name = path.replace(' ', "-");
    // Its list of commands would have one named help, which has no page.
    let shown = command.clone().disable_help_subcommand(true);
    let man = Man::new(shown)
        .title(&name)
        .date("")
        .source(concat!("azdr ", env!("CARGO_PKG_VERSION")))
        .manual("azdr");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut text)?;
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for section in after.split("\n\n").filter(|section| !section.is_empty()) {
        after_help(section, &mut text)?;
    }
    closing(path, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let text = format!("{APOSTROPHES}{}", text.replace(APOSTROPHES, ""));
    Ok(Page { name, command: path.to_owned(), text })
}

/// "Example:" and lines below is a section with these lines as they are; a sentence is one about roles.
fn after_help(section: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    match section.split_once(":\n") {
        Some((heading, lines)) => {
            roff.control("SH", [heading.to_uppercase().as_str()]);
            roff.control("nf", []);
            for line in lines.lines() {
                roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
            roff.control("fi", []);
        }
        None => {
            roff.control("SH", ["ROLE"]);
            roff.text([roman(section)]);
        }
    }
    roff.to_writer(text)
}

fn closing(path: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "Done."),
        ("1", "Failed."),
        ("2", "Wrong usage, or a value that the controller calls invalid."),
        ("3", "The controller cannot be reached or denies access."),
        ("130", "Watching was ended with Ctrl-C; a job goes on."),
    ] {
        roff.control("TP", []);
        roff.text([roman(code)]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in [
        ("AZDR_CONTEXT", "The context file, where --context-file is not given."),
        ("NO_COLOR", "If it is set and not empty: no colours, icons or animation."),
        ("TERM", "If it is \"dumb\": the same."),
    ] {
        roff.control("TP", []);
        roff.text([roman(name)]);
        roff.text([roman(meaning)]);
    }
    if let Some((parent, _)) = path.rsplit_once(' ') {
        roff.control("SH", ["SEE ALSO"]);
        let parent = parent.replace(' ', "-");
        let also =
            if parent == "azdr" { "azdr(1)".to_owned() } else { format!("azdr(1), {parent}(1)") };
        roff.text([roman(also)]);
    }
    roff.to_writer(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of all commands that people see.
    fn paths(command: &Command, path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
        for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
            paths(child, &format!("{path} {}", child.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_its_page_and_no_page_is_of_another() {
        let mut expected = Vec::new();
        paths(&crate::command(), "azdr", &mut expected);
        let pages = all(crate::command()).unwrap();
        let found: Vec<&str> = pages.iter().map(|page| page.command.as_str()).collect();
        assert_eq!(found, expected);
        assert!(found.len() > 60, "{found:?}");
    }

    #[test]
    fn pages_are_roff_with_all_sections() {
        for page in all(crate::command()).unwrap() {
            let Page { name, command, text } = &page;
            // Before the title there is only what defines an apostrophe.
            assert!(text.starts_with(&format!("{APOSTROPHES}.TH {name} 1 ")), "{text}");
            assert_eq!(text.matches(APOSTROPHES).count(), 1, "{text}");
            let sections: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(".SH ")).collect();
            let mut expected = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];
            expected.push("\"GLOBAL OPTIONS\"");
            let is_noun = sections.contains(&"SUBCOMMANDS");
            if is_noun {
                expected.push("SUBCOMMANDS");
            } else {
                expected.push("ROLE");
            }
            let example = sections.iter().find(|section| section.starts_with("EXAMPLE"));
            expected.extend(example);
            assert!(is_noun || example.is_some(), "{name}: {sections:?}");
            let found: Vec<&str> =
                sections.iter().copied().filter(|section| expected.contains(section)).collect();
            assert_eq!(found, expected, "{name}");
            assert!(text.contains("\"EXIT STATUS\""), "{name}");
            assert!(text.lines().all(|line| line.len() < 2000), "{name}");
            assert!(!text.contains('\t'), "{name}");
            assert_eq!(*name, command.replace(' ', "-"));
        }
    }
}
