//! File systems that a test or a bench mounts for itself, and takes away again.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::run;

const LIMIT: Duration = Duration::from_secs(60);

/// Unmounted when it is dropped; by whoever uses it still, when that ends.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// An empty one of so many bytes, in memory.
    ///
    /// # Errors
    /// Without the right to mount.
    pub fn in_memory(at: &Path, size_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_bytes},mode=0700"), "none"]).arg(at);
        done(mount)?;
        Ok(Self(at.to_owned()))
    }

    /// What an image file holds, with mount options.
    ///
    /// # Errors
    /// Without the right to mount, or loop devices; and when the image holds no file system.
    pub fn image(image: &Path, at: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("loop,{options}")]).arg(image).arg(at);
        done(mount)?;
        Ok(Self(at.to_owned()))
    }

    /// A new file system of `size_mib` that `mkfs` makes, a program with its options.
    ///
    /// # Errors
    /// As of [`image`](Self::image); and when the program is not there.
    pub fn new(image: &Path, at: &Path, size_mib: u64, mkfs: &[&str]) -> Result<Self> {
        let (program, options) = mkfs.split_first().unwrap_or((&"mkfs.ext4", &[]));
        std::fs::File::create(image)?.set_len(size_mib << 20)?;
        let mut format = Command::new(program);
        format.args(options).arg(image);
        done(format)?;
        Self::image(image, at, "rw")
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Ok(target) = CString::new(self.0.as_os_str().as_bytes()) else { return };
        // SAFETY: the string ends with a zero and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// When it cannot be run or fails, with its words.
pub fn done(command: Command) -> Result<String> {
    let line = format!("{command:?}");
    let ended = run(command, LIMIT, None)?;
    ensure!(ended.status.success(), "{line}: {}{}", ended.stdout, ended.stderr);
    Ok(ended.stdout)
}
