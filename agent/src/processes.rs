//! Which programs run, by their names alone: a process's memory is not looked at, since that may block
//! on a process that is stuck.

use std::fs;
use std::path::Path;

/// A running process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name as the kernel keeps it: at most 15 bytes.
    pub name: String,
}

/// All processes in `proc` (/proc), by id. Those that end meanwhile are left out.
pub fn processes(proc: &Path) -> Vec<Process> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut found: Vec<Process> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some(Process { pid, name: name.trim_end_matches('\n').to_owned() })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}
