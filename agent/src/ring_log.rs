//! Where log lines go: to standard error, but never while a file system may be frozen (N8).
//!
//! Standard error may be a pipe to a journal that waits for a frozen disk, and a write to it would
//! then block the agent, which could no longer pass on a thaw. So while held, lines are kept in
//! memory, at most 256 KiB, the oldest dropped first; they are written afterwards.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

const CAPACITY: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Kept {
    holding: bool,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

/// A log that can be held back. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct RingLog {
    kept: Arc<Mutex<Kept>>,
}

impl RingLog {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps lines in memory from now on.
    pub fn hold(&self) {
        self.kept().holding = true;
    }

    /// Writes what was kept, and writes directly from now on.
    pub fn release(&self) {
        let mut kept = self.kept();
        kept.holding = false;
        let mut out = io::stderr().lock();
        if kept.dropped > 0 {
            let _ = writeln!(out, "{} log lines were dropped while frozen", kept.dropped);
        }
        for line in &kept.lines {
            let _ = out.write_all(line);
        }
        *kept = Kept::default();
    }

    fn write_line(&self, line: &[u8]) {
        let mut kept = self.kept();
        if !kept.holding {
            let _ = io::stderr().write_all(line);
            return;
        }
        kept.bytes += line.len();
        kept.lines.push_back(line.to_owned());
        while kept.bytes > CAPACITY {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
            kept.dropped += 1;
        }
    }
}

/// Writes one line.
#[derive(Debug)]
pub struct LineWriter(RingLog);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RingLog {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_log_keeps_the_newest_lines_and_counts_the_others() {
        let log = RingLog::default();
        log.hold();
        let line = vec![b'x'; 1024];
        for _ in 0..300 {
            log.write_line(&line);
        }
        log.write_line(b"last\n");
        let kept = log.kept();
        assert!(kept.bytes <= CAPACITY);
        assert_eq!(kept.dropped + kept.lines.len() as u64, 301);
        assert_eq!(kept.lines.back().unwrap(), b"last\n");
    }
}
