//! A thaw process that says *frozen* and freezes nothing: azdr's own, with a small library loaded before
//! libc that answers the two calls in the kernel's place. So a lie is told at the last place where one can
//! be, and everything above it is the real thing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::process::run;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == FIFREEZE || request == FITHAW)
        return 0;
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
"#;

const BUILD_LIMIT: Duration = Duration::from_secs(60);

/// Puts it in the place of a guest's thaw process, from that one's next start on.
///
/// # Errors
/// When there is no C compiler here, or the guest does not answer.
pub fn install(guest: &Guest, folder: &Path) -> Result<()> {
    let (source, library) = (folder.join("lying.c"), folder.join("lying.so"));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    let ended = run(compiler, BUILD_LIMIT, None).context("a C compiler is needed")?;
    ensure!(ended.status.success(), "cannot build the liar: {}", ended.stderr);
    guest.write("/usr/lib/lying.so", &std::fs::read(&library)?)?;
    let script =
        "#!/bin/sh\nLD_PRELOAD=/usr/lib/lying.so exec /usr/sbin/azdr-thawd.honest \"$@\"\n";
    guest.run("cp -p /usr/sbin/azdr-thawd /usr/sbin/azdr-thawd.honest")?;
    guest.write("/usr/sbin/azdr-thawd.lying", script.as_bytes())?;
    guest.run("chmod 755 /usr/sbin/azdr-thawd.lying && mv /usr/sbin/azdr-thawd.lying /usr/sbin/azdr-thawd")?;
    Ok(())
}

/// Puts the real one back, from its next start on.
///
/// # Errors
/// When the guest does not answer.
pub fn remove(guest: &Guest) -> Result<()> {
    guest.run("mv /usr/sbin/azdr-thawd.honest /usr/sbin/azdr-thawd").map(drop)
}
