//! Who in a machine sleeps uninterruptibly, as whoever uses a frozen file system does: read from the
//! lines of `/proc/PID/task/TID/stat`.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, ensure};

/// Prints those lines in a machine. What ends meanwhile is no failure.
pub(crate) const LIST: &str = "cat /proc/[0-9]*/task/[0-9]*/stat 2>/dev/null; true";

/// `PF_KTHREAD` of linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A thread, told apart from a later one of the same number by when it began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    id: u32,
    began: u64,
    name: String,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.id)
    }
}

/// The threads of programs, not the kernel's own, that sleep uninterruptibly.
///
/// # Errors
/// When a line is none of a task, or the first process is missing: then not all were seen.
pub(crate) fn waiting(listing: &str) -> Result<BTreeSet<Task>> {
    let mut waiting = BTreeSet::new();
    let mut first = false;
    for line in listing.lines() {
        let (task, waits) = task(line).with_context(|| format!("no line of a task: {line:?}"))?;
        first |= task.id == 1;
        if waits {
            waiting.insert(task);
        }
    }
    ensure!(first, "process 1 is not among the machine's tasks: {listing:?}");
    Ok(waiting)
}

/// proc_pid_stat(5): a name may hold blanks and parentheses.
fn task(line: &str) -> Option<(Task, bool)> {
    let (start, rest) = line.rsplit_once(") ")?;
    let (id, name) = start.split_once(" (")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let flags: u32 = fields.get(6)?.parse().ok()?;
    let began = fields.get(19)?.parse().ok()?;
    let waits = *fields.first()? == "D" && flags & KERNEL_THREAD == 0;
    Some((Task { id: id.parse().ok()?, began, name: name.to_owned() }, waits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32, name: &str, state: &str, flags: u32) -> String {
        format!("{id} ({name}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 77 1 1 0")
    }

    #[test]
    fn who_sleeps_uninterruptibly_is_found_and_the_kernels_own_threads_are_not() {
        let first = line(1, "init", "S", 0x0040_0100);
        let lines = [
            first.clone(),
            line(30, "lab) D (writer", "D", 0x0040_0000),
            line(31, "kworker/u4:1", "D", 0x0420_8060),
            line(32, "a ) D ", "S", 0x0040_0000),
        ];
        let found: Vec<String> =
            waiting(&lines.join("\n")).unwrap().iter().map(Task::to_string).collect();
        assert_eq!(found, ["lab) D (writer (30)"]);
        assert!(waiting(&first).unwrap().is_empty());
    }

    #[test]
    fn a_listing_that_is_none_is_refused() {
        for listing in ["", "1 (init) S 1", "Permission denied", &line(2, "sh", "S", 0)] {
            assert!(waiting(listing).is_err(), "{listing:?}");
        }
    }

    #[test]
    fn this_kernels_lines_are_understood() {
        let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (task, waits) = task(own.trim()).unwrap();
        assert!(!waits && task.id > 0 && task.began > 0, "{task:?}");
    }
}
