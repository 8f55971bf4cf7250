//! Counts tests from what test programs print.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// How many tests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Tally {
    /// A check that is not a test program's: it counts as one test.
    pub(crate) fn of_check(ok: bool) -> Self {
        Self { passed: u64::from(ok), failed: u64::from(!ok), skipped: 0 }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Adds tests that an earlier program skipped and that were run after all.
    pub(crate) fn add_caught_up(&mut self, other: Self) {
        self.add(Self { skipped: 0, ..other });
        self.skipped = self.skipped.saturating_sub(other.passed + other.failed);
    }

    /// What a line says, if it is a test program's last: of libtest or libtest-mimic.
    fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for part in counts.split(';') {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => tally.passed = count,
                "failed" => tally.failed = count,
                "ignored" => tally.skipped = count,
                _ => {}
            }
        }
        Some(tally)
    }

    /// Runs `cargo test`, shows what it prints as it comes, and counts. A run that fails without a
    /// failed test (it does not compile, a test program dies) counts as one. What a failed test says names
    /// the place; a runtime's fifty frames would bury it, and are left out.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub(crate) fn of_run(command: &mut Command) -> Result<Self> {
        command.env("RUST_BACKTRACE", "0").stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run cargo")?;
        let mut output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let (mut tally, mut line) = (Self::default(), Vec::new());
        let mut stdout = std::io::stdout();
        while output.read_until(b'\n', &mut line)? > 0 {
            stdout.write_all(&line)?;
            stdout.flush()?;
            tally.add(Self::of_line(&String::from_utf8_lossy(&line)).unwrap_or_default());
            line.clear();
        }
        if !child.wait()?.success() && tally.failed == 0 {
            tally.failed = 1;
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_of_test_programs_are_counted() {
        let libtest = "test result: ok. 11 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; \
                       finished in 0.01s\n";
        let expected = Tally { passed: 11, failed: 0, skipped: 2 };
        assert_eq!(Tally::of_line(libtest), Some(expected));
        let mimic =
            "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out;";
        assert_eq!(Tally::of_line(mimic), Some(Tally { passed: 1, failed: 3, skipped: 0 }));
        assert_eq!(Tally::of_line("test tests::of_something ... ok"), None);
    }

    #[test]
    fn tests_that_are_caught_up_on_are_not_skipped_any_more() {
        let mut tally = Tally { passed: 10, failed: 0, skipped: 7 };
        tally.add_caught_up(Tally { passed: 4, failed: 1, skipped: 0 });
        assert_eq!(tally.to_string(), "14 passed, 1 failed, 2 skipped");
    }
}
