//! The list of the hooks that must still get their `post` or `abort`, in the run directory.
//!
//! It is on a file system in memory: an agent that is killed and started again finds it, a machine that
//! boots again, or boots from a snapshot, does not. A verb is entered before its process is started; the
//! process itself leaves there who it is, before its program begins.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::{self, Cgroup};
use super::{Verb, exec};
use crate::atomic_file;

const FOLDER: &str = "hooks";
const LIST: &str = "started.json";
const FORMAT: u32 = 1;

/// Where a process that is to be started is entered.
pub(super) struct Slot {
    pub(super) identity: File,
    pub(super) cgroup: Option<Cgroup>,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    operation: String,
    hooks: Vec<Entry>,
}

/// A hook whose `pre` was started, and which has not ended its `post` or `abort`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The verb that was started last.
    pub(super) verb: Verb,
    /// Of the process that was started last.
    number: u32,
    pub(super) cgroup: Option<PathBuf>,
}

/// The list of one operation.
#[derive(Debug)]
pub(super) struct Started {
    folder: PathBuf,
    list: List,
    next: u32,
}

impl Started {
    /// An empty list. Nothing is written before the first entry.
    ///
    /// # Errors
    /// In words: the run directory is not fit for it, or has the list of an operation that is owed something.
    pub(super) fn new(run_dir: &Path, operation: &str) -> Result<Self, String> {
        if let Some(owed) = Self::left(run_dir)?.and_then(|left| left.owed()) {
            return Err(owed);
        }
        let folder = private_folder(run_dir)?;
        cgroup::sweep();
        let list = List { format: FORMAT, operation: operation.to_owned(), hooks: Vec::new() };
        Ok(Self { folder, list, next: 0 })
    }

    /// What an earlier agent has left, if anything.
    ///
    /// # Errors
    /// In words.
    pub(super) fn left(run_dir: &Path) -> Result<Option<Self>, String> {
        let path = run_dir.join(FOLDER).join(LIST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let folder = private_folder(run_dir)?;
        let list: List = serde_json::from_slice(&text)
            .map_err(|error| format!("{} is not understood: {error}", path.display()))?;
        if list.format != FORMAT {
            return Err(format!(
                "{} has format {}, known is {FORMAT}",
                path.display(),
                list.format
            ));
        }
        let next = list.hooks.iter().map(|entry| entry.number + 1).max().unwrap_or(0);
        Ok(Some(Self { folder, list, next }))
    }

    pub(super) fn operation(&self) -> &str {
        &self.list.operation
    }

    /// What must still be run, in words; `None`: nothing.
    pub(super) fn owed(&self) -> Option<String> {
        let names: Vec<&str> = self.list.hooks.iter().map(|entry| entry.name.as_str()).collect();
        let operation = &self.list.operation;
        (!names.is_empty())
            .then(|| format!("hooks of {operation} have not had their abort: {}", names.join(", ")))
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.list.hooks
    }

    /// Enters that a verb of a hook is about to be started.
    ///
    /// # Errors
    /// In words; then it must not be started.
    pub(super) fn begin(&mut self, name: &str, verb: Verb) -> Result<Slot, String> {
        let number = self.next;
        self.next += 1;
        let path = self.identity(number);
        let failed = |error| format!("cannot write to {}: {error}", self.folder.display());
        let identity = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        let cgroup = Cgroup::make(&format!("{}-{number}-{}", self.list.operation, verb.as_str()));
        let place = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let entry = Entry { name: name.to_owned(), verb, number, cgroup: place };
        match self.list.hooks.iter_mut().find(|entry| entry.name == name) {
            Some(known) => *known = entry,
            None => self.list.hooks.push(entry),
        }
        self.write()?;
        Ok(Slot { identity, cgroup })
    }

    /// Enters that a hook which holds is about to be released.
    ///
    /// # Errors
    /// In words.
    pub(super) fn releasing(&mut self, name: &str, verb: Verb) -> Result<(), String> {
        if let Some(entry) = self.list.hooks.iter_mut().find(|entry| entry.name == name) {
            entry.verb = verb;
        }
        self.write()
    }

    /// Enters that a hook has had its `post` or `abort`, or was not started after all.
    ///
    /// # Errors
    /// In words.
    pub(super) fn ended(&mut self, name: &str) -> Result<(), String> {
        if let Some(at) = self.list.hooks.iter().position(|entry| entry.name == name) {
            let entry = self.list.hooks.remove(at);
            let _ = fs::remove_file(self.identity(entry.number));
        }
        self.write()
    }

    fn write(&self) -> Result<(), String> {
        let written = if self.list.hooks.is_empty() {
            fs::remove_dir_all(&self.folder).and_then(|()| make(&self.folder))
        } else {
            let text = serde_json::to_vec(&self.list).expect("plain data");
            atomic_file::write(&self.folder, LIST, &text)
        };
        written.map_err(|error| format!("cannot write to {}: {error}", self.folder.display()))
    }

    fn identity(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number}.stat"))
    }

    /// The process that was started last for an entry, if it is still there: its id, which is its
    /// group's.
    pub(super) fn process(&self, entry: &Entry) -> Option<u32> {
        let left = fs::read_to_string(self.identity(entry.number)).ok()?;
        let (process, began) = identity(&left)?;
        let now = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // A zombie of an agent that is gone is nobody's.
        (identity(&now) == Some((process, began)) && !now.contains(") Z ")).then_some(process)
    }
}

/// Id and begin of a process, from its line in /proc: no two processes since boot share both.
fn identity(line: &str) -> Option<(u32, u64)> {
    let process = line.split(' ').next()?.parse().ok()?;
    // Its name may hold anything.
    let (_, rest) = line.rsplit_once(") ")?;
    let began = rest.split(' ').nth(19)?.parse().ok()?;
    Some((process, began))
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

fn private_folder(run_dir: &Path) -> Result<PathBuf, String> {
    let folder = run_dir.join(FOLDER);
    for path in [run_dir, &folder] {
        match make(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cannot make {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(&folder);
    let us = fs::metadata("/proc/self").map(|found| found.uid());
    let checked = opened.and_then(|file| Ok((file.metadata()?, us?, exec::is_in_memory(&file)?)));
    let (found, us, in_memory) =
        checked.map_err(|error| format!("cannot open {}: {error}", folder.display()))?;
    if found.uid() != us || found.mode() & 0o077 != 0 {
        return Err(format!("{} must belong to the agent alone (mode 0700)", folder.display()));
    }
    if !in_memory {
        return Err(format!(
            "{} is not in memory: field `run_dir` must be on a tmpfs, so that what is noted there of \
             hooks is gone after a reboot",
            folder.display()
        ));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_id_and_begin_whatever_its_name() {
        let line = |name: &str| {
            format!("42 ({name}) S 1 42 42 0 -1 4194560 90 0 0 0 0 0 0 0 20 0 1 0 777 1 2 3")
        };
        assert_eq!(identity(&line("sh")), Some((42, 777)));
        assert_eq!(identity(&line("x) Z 1 (y")), Some((42, 777)));
        assert_eq!(identity(""), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(identity(&own).unwrap().0, std::process::id());
    }

    #[test]
    fn the_list_survives_and_is_gone_with_its_last_entry() {
        let run_dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut started = Started::new(run_dir.path(), "op-1").unwrap();
        assert!(Started::left(run_dir.path()).unwrap().is_none());
        drop(started.begin("10-a", Verb::Pre).unwrap());
        drop(started.begin("20-b", Verb::Pre).unwrap());
        started.releasing("20-b", Verb::Post).unwrap();
        let left = Started::left(run_dir.path()).unwrap().unwrap();
        assert_eq!(left.operation(), "op-1");
        let verbs: Vec<_> = left.entries().iter().map(|e| (e.name.as_str(), e.verb)).collect();
        assert_eq!(verbs, [("10-a", Verb::Pre), ("20-b", Verb::Post)]);
        assert_eq!(left.process(&left.entries()[0]), None, "nothing was started");
        let owed = "hooks of op-1 have not had their abort: 10-a, 20-b";
        assert_eq!(Started::new(run_dir.path(), "op-2").unwrap_err(), owed, "nothing is forgotten");
        started.ended("20-b").unwrap();
        started.ended("10-a").unwrap();
        assert!(Started::left(run_dir.path()).unwrap().is_none());
        assert!(Started::new(run_dir.path(), "op-2").is_ok());
    }

    #[test]
    fn a_run_directory_on_a_disk_is_refused() {
        let run_dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let error = Started::new(run_dir.path(), "op-1").unwrap_err();
        assert!(error.contains("`run_dir`") && error.contains("tmpfs"), "{error}");
    }
}
