//! The thaw process, with its messages, stays small enough to be read in one sitting, depends on libc
//! and the plain data of those messages only (R1), and has no clock but the one that nobody can set (R7).

use std::fs;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
const PROTOCOL_SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../thawd-protocol/src");
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
const PROTOCOL_MANIFEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../thawd-protocol/Cargo.toml");

/// Lines that are neither blank, nor comments, nor tests.
fn code_lines(text: &str) -> usize {
    let product = text.lines().map(str::trim).take_while(|line| !line.contains("#[cfg(test)]"));
    product.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// Both crates that the privileged process is made of: what moves from one to the other still counts.
pub(crate) fn it_has_fewer_than_a_thousand_lines_of_code() {
    let [own, messages] = [SOURCES, PROTOCOL_SOURCES].map(|folder| {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.map(|file| code_lines(&fs::read_to_string(file).unwrap())).sum::<usize>()
    });
    println!("{own} lines of its own and {messages} of its messages");
    assert!(own > 500 && messages > 50, "{own}, {messages}: counted wrongly");
    assert!(own + messages < 1_000, "{own} + {messages} lines");
}

/// The lines of a manifest's dependencies, of which there are no other kinds.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest = fs::read_to_string(manifest).unwrap();
    let sections: Vec<&str> = manifest.split("\n[").collect();
    let named =
        |name: &'static str| sections.iter().filter(move |section| section.starts_with(name));
    let [dependencies] = *named("dependencies").collect::<Vec<_>>() else { panic!("{manifest}") };
    assert_eq!(named("build-dependencies").chain(named("target")).count(), 0);
    let lines = dependencies.lines().skip(1).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

pub(crate) fn it_depends_on_libc_and_its_messages_only() {
    let own = ["azdr-thawd-protocol.workspace = true", "libc.workspace = true"];
    assert_eq!(dependencies(MANIFEST), own);
    assert_eq!(dependencies(PROTOCOL_MANIFEST), [""; 0]);
}

/// A date that jumps, by an hour or by NTP, cannot touch what does not read dates.
pub(crate) fn it_knows_no_date() {
    let mut clocks = 0;
    for file in fs::read_dir(SOURCES).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        let code: Vec<&str> = code.collect();
        for word in ["CLOCK_REALTIME", "CLOCK_TAI", "SystemTime", "gettimeofday", "Instant"] {
            assert!(!code.iter().any(|line| line.contains(word)), "{word}");
        }
        clocks += code.iter().filter(|line| line.contains("CLOCK_MONOTONIC")).count();
    }
    assert!(clocks > 0, "its clock is looked for by another name");
}
