//! Which hooks this machine's root has installed.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::checked_file::{self, Want};
use super::settings::Settings;
use super::{Hook, Kind, OnFailure, Program, azure_scripts};

/// More are refused.
pub(super) const MAX_HOOKS: usize = 32;
const MAX_NAME: usize = 64;
/// The line in which a script says what it is.
const DECLARATION: &str = "# azdr-hook:";
/// It is looked for this far.
const DECLARATION_WITHIN: u64 = 1024;

/// What a hook says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Declared {
    pub(super) kind: Kind,
    pub(super) application: bool,
    pub(super) check: bool,
}

/// Of one that says nothing.
const PLAIN: Declared = Declared { kind: Kind::Oneshot, application: false, check: false };

/// What a look says of whether a hook is there: one that was not seen need not be gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    There,
    /// Only the configuration names it.
    Missing,
    /// Stands for all: which there are was not seen.
    Unseen,
}

/// A hook, or why it does not run.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its name.
    pub(super) name: String,
    /// What becomes of an operation when it fails.
    pub(super) on_failure: OnFailure,
    /// It has a check, or may have one: what cannot be trusted cannot say that it has none.
    pub(super) check: bool,
    pub(super) presence: Presence,
    pub(super) hook: Result<Hook, String>,
}

impl Found {
    /// One line for people: what it is.
    ///
    /// # Errors
    /// Why it cannot run.
    pub(crate) fn describe(&self) -> Result<String, String> {
        let hook = self.hook.as_ref().map_err(|why| format!("{}: {why}", self.name))?;
        let kind = match hook.kind {
            Kind::Oneshot => "oneshot",
            Kind::Hold => "hold",
        };
        let application = if hook.application { ", application" } else { "" };
        let check = if self.check { ", check" } else { "" };
        Ok(format!("{} ({kind}{application}{check}), {}", self.name, hook.pre.path))
    }
}

/// What a hook's name must be like.
///
/// # Errors
/// The rule, in words.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let rest = name.as_bytes();
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
    let plain = rest.len() <= MAX_NAME
        && rest.iter().all(allowed)
        && matches!(rest, [a, b, b'-', c, ..]
            if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_alphanumeric());
    if plain {
        return Ok(());
    }
    Err(
        "must be NN-name: two digits, a dash, then a letter or digit and more of [a-z0-9._-], at most \
         64 characters",
    )
}

/// All hooks, in the order of their `pre`. What cannot run is in the list with its reason: a hook that
/// root has installed and that is not run must not go unnoticed.
pub(crate) fn find(settings: &Settings) -> Vec<Found> {
    let mut found = in_directory(settings);
    for name in settings.each.keys() {
        let azure = name == azure_scripts::NAME && settings.azure_scripts.is_some();
        if !azure && !found.iter().any(|hook| hook.name == *name) {
            let why = format!(
                "field `hooks.each.{name:?}` of the configuration is for a hook that is not there"
            );
            // It is missed by those alone who know that it has a check.
            let check = settings.each.get(name).and_then(|each| each.check) == Some(true);
            let presence = Presence::Missing;
            found.push(Found { check, presence, ..refused(settings, name, why) });
        }
    }
    if let Some(path) = &settings.azure_scripts {
        found.push(azure_scripts::find(settings, path));
    }
    if found.len() > MAX_HOOKS {
        let why = format!("there are {} hooks, at most {MAX_HOOKS} are allowed", found.len());
        return unseen(settings, why);
    }
    found
}

/// A hook that cannot run.
pub(super) fn refused(settings: &Settings, name: &str, why: String) -> Found {
    let each = settings.each.get(name).cloned().unwrap_or_default();
    let on_failure = each.on_failure.unwrap_or(settings.on_failure);
    let check = each.check.unwrap_or(true);
    let presence = Presence::There;
    Found { name: name.to_owned(), on_failure, check, presence, hook: Err(why) }
}

/// In the place of all hooks.
fn unseen(settings: &Settings, why: String) -> Vec<Found> {
    vec![Found { presence: Presence::Unseen, ..refused(settings, "hooks", why) }]
}

fn in_directory(settings: &Settings) -> Vec<Found> {
    let folder = &settings.directory;
    let whole = |why: String| unseen(settings, why);
    // Where there are none, it does not matter who could have put some there.
    let there = std::fs::symlink_metadata(folder).map(|_| ());
    if there.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Vec::new();
    }
    let directory = match checked_file::open(folder, Want::Directory) {
        Ok(directory) => directory,
        Err(error) => return whole(error.to_string()),
    };
    // Through the descriptor: what is listed is what was checked.
    let listing = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let names: Result<Vec<OsString>, _> =
        listing.and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect());
    let mut names = match names {
        Ok(names) => names,
        Err(error) => return whole(format!("cannot read {}: {error}", folder.display())),
    };
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        if let Err(rule) = check_name(&name) {
            let why = format!("{:?} in {}: its name {rule}", name, folder.display());
            // A file that is no hook has no check.
            found.push(Found { check: false, ..refused(settings, "hooks", why) });
            continue;
        }
        found.push(match checked_file::open_in(&directory, folder, &name, Want::Program) {
            Ok(file) => of_file(settings, &name, file, folder),
            Err(error) => refused(settings, &name, error.to_string()),
        });
    }
    found
}

fn of_file(settings: &Settings, name: &str, file: std::fs::File, folder: &Path) -> Found {
    let path = folder.join(name).display().to_string();
    let declared = match declared(&file) {
        Ok(declared) => declared,
        Err(why) => return refused(settings, name, format!("{path} {why}")),
    };
    let program = Program { file: Arc::new(file), path, arguments: None };
    hook(settings, name, declared, program.clone(), program, None)
}

/// Puts a hook together from what it says of itself and what the configuration says. `limit` replaces
/// what `[hooks]` says.
pub(super) fn hook(
    settings: &Settings,
    name: &str,
    declared: Declared,
    pre: Program,
    post: Program,
    own: Option<(Duration, OnFailure)>,
) -> Found {
    let each = settings.each.get(name).cloned().unwrap_or_default();
    let (own_limit, own_on_failure) = (own.map(|own| own.0), own.map(|own| own.1));
    let limit = |each: Option<u64>, all: u64| {
        each.map(Duration::from_secs).or(own_limit).unwrap_or(Duration::from_secs(all))
    };
    let on_failure = each.on_failure.or(own_on_failure).unwrap_or(settings.on_failure);
    let hook = Hook {
        name: name.to_owned(),
        kind: each.kind.unwrap_or(declared.kind),
        application: each.application.unwrap_or(declared.application),
        pre_limit: limit(each.pre_limit_secs, settings.pre_limit_secs),
        post_limit: limit(each.post_limit_secs, settings.post_limit_secs),
        check_limit: limit(each.check_limit_secs, settings.check_limit_secs),
        pre,
        post,
    };
    let check = each.check.unwrap_or(declared.check);
    let presence = Presence::There;
    Found { name: name.to_owned(), on_failure, check, presence, hook: Ok(hook) }
}

/// What a script says of itself: `# azdr-hook:` and words.
fn declared(file: &std::fs::File) -> Result<Declared, String> {
    let start = checked_file::read_start(file, DECLARATION_WITHIN)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if !start.starts_with(b"#!") {
        return Ok(PLAIN);
    }
    let start = String::from_utf8_lossy(&start);
    let Some(words) = start.lines().find_map(|line| line.strip_prefix(DECLARATION)) else {
        return Ok(PLAIN);
    };
    let mut declared = PLAIN;
    for word in words.split_whitespace() {
        match word {
            "oneshot" => declared.kind = Kind::Oneshot,
            "hold" => declared.kind = Kind::Hold,
            "application" => declared.application = true,
            "check" => declared.check = true,
            other => {
                return Err(format!(
                    "says {other:?} after `{DECLARATION}`: allowed are oneshot, hold, application and \
                     check"
                ));
            }
        }
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn names_are_two_digits_and_plain_characters() {
        for name in ["10-postgresql", "00-a", "99-A.b_c-1".to_lowercase().as_str()] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = format!("10-{}", "a".repeat(62));
        for name in
            ["", "10-", "1-a", "postgresql", "10-$(reboot)", "10-a b", "10-../x", "10-é", &long]
        {
            assert!(check_name(name).unwrap_err().contains("NN-name"), "{name}");
        }
    }

    #[test]
    fn a_script_says_what_it_is() {
        let says = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            declared(&file)
        };
        assert_eq!(says("#!/bin/sh\necho"), Ok(PLAIN));
        let held = Declared { kind: Kind::Hold, application: true, check: false };
        assert_eq!(says("#!/bin/sh\n# azdr-hook: hold application\n"), Ok(held));
        let application = Declared { application: true, ..PLAIN };
        assert_eq!(says("#!/bin/sh\n# azdr-hook: application\n"), Ok(application));
        let checked = Declared { check: true, ..PLAIN };
        assert_eq!(says("#!/bin/sh\n# azdr-hook: oneshot check\n"), Ok(checked));
        assert_eq!(says("\x7fELF# azdr-hook: hold\n"), Ok(PLAIN));
        let late = format!("#!/bin/sh\n{}\n# azdr-hook: hold\n", "#".repeat(2_000));
        assert_eq!(says(&late), Ok(PLAIN));
        let error = says("#!/bin/sh\n# azdr-hook: holds\n").unwrap_err();
        assert!(error.contains("\"holds\"") && error.contains("oneshot, hold"), "{error}");
    }
}
