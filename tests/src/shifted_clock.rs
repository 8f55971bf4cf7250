//! Another date for real processes: a small library, loaded before libc, that adds seconds to what
//! `clock_gettime(CLOCK_REALTIME)` says. Programs need no switch for it, monotonic time is left alone,
//! and nothing of it is in any product.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_env::{Clock, SystemClock, WallTime};

use crate::process::run;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    const char *shift = getenv("LAB_CLOCK_SHIFT_SECS");
    if (result == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(shift);
    return (int)result;
}
"#;

const BUILD_LIMIT: Duration = Duration::from_secs(60);

/// The library, and by how much it shifts.
#[derive(Clone, Debug)]
pub struct ShiftedClock {
    library: PathBuf,
    shift_secs: i64,
}

impl ShiftedClock {
    /// Builds the library in a folder, with the compiler that Rust links with, too.
    ///
    /// # Errors
    /// When there is none.
    pub fn build(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("shifted_clock.c"), folder.join("shifted_clock.so"));
        std::fs::write(&source, SOURCE)?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let ended = run(compiler, BUILD_LIMIT, None).context("a C compiler is needed")?;
        ensure!(ended.status.success(), "cannot build the shifted clock: {}", ended.stderr);
        Ok(Self { library, shift_secs: 0 })
    }

    /// Shifts by more.
    #[must_use]
    pub fn ahead(mut self, time: Duration) -> Self {
        self.shift_secs += i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        self
    }

    /// Shifts to a time, which begins now.
    #[must_use]
    pub fn set(mut self, time: WallTime) -> Self {
        self.shift_secs = (time.unix_ms() - SystemClock::new().wall().unix_ms()).div_euclid(1000);
        self
    }

    /// The time there.
    pub fn now(&self) -> WallTime {
        SystemClock::shifted(self.shift_secs).wall()
    }

    /// Makes a command live in that time.
    pub fn apply(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("LAB_CLOCK_SHIFT_SECS", self.shift_secs.to_string());
    }
}
