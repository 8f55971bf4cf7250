//! The content of a disk or snapshot, looked at from outside: by the tools of its file system, without
//! mounting it, so that nobody need be root and no kernel repairs what is to be judged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Ended, run};

/// Of one tool on one image.
const LIMIT: Duration = Duration::from_secs(120);

/// A private copy of an ext4 image.
#[derive(Debug)]
pub struct DiskImage {
    path: PathBuf,
}

impl DiskImage {
    /// Copies an image to `copy`, which is replaced; holes stay holes. The original is left alone.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy_of(image: &Path, copy: PathBuf) -> Result<Self> {
        let mut cp = Command::new("cp");
        cp.arg("--sparse=always").arg(image).arg(&copy);
        let ended = run(cp, LIMIT, None)?;
        ensure!(ended.status.success(), "cannot copy {}: {}", image.display(), ended.stderr);
        Ok(Self { path: copy })
    }

    /// Whether its journal holds what its file system does not: true of any ext4 that was in use and not
    /// frozen.
    ///
    /// # Errors
    /// When there is no such file system.
    pub fn needs_recovery(&self) -> Result<bool> {
        let ended = self.tool("dumpe2fs", &["-h"])?;
        ensure!(ended.status.success(), "dumpe2fs: {}", ended.stderr);
        let features = ended.stdout.lines().find(|line| line.starts_with("Filesystem features:"));
        let features = features.context("dumpe2fs tells no features")?;
        Ok(features.split_whitespace().any(|feature| feature == "needs_recovery"))
    }

    /// Does what mounting it would do; answers whether the journal was replayed.
    ///
    /// # Errors
    /// When the file system is damaged beyond that.
    pub fn recover(&self) -> Result<bool> {
        let ended = self.tool("e2fsck", &["-fy"])?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        // 1: it was repaired.
        ensure!(matches!(ended.status.code(), Some(0 | 1)), "e2fsck: {said}");
        Ok(said.contains("recovering journal"))
    }

    /// A text file in it; `None`: there is none of this name.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        let ended = self.tool("debugfs", &["-R", &format!("cat {file}")])?;
        // It succeeds whatever it finds, and says on stderr what it did not.
        if ended.stderr.contains("File not found") {
            return Ok(None);
        }
        ensure!(ended.status.success(), "debugfs: {}", ended.stderr);
        let problem = ended.stderr.lines().find(|line| !line.starts_with("debugfs "));
        ensure!(problem.is_none(), "debugfs: {}", ended.stderr);
        Ok(Some(ended.stdout))
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<Ended> {
        // Where root's programs are, in case they are not on this user's path.
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(name);
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
        command.args(arguments).arg(&self.path);
        run(command, LIMIT, None).context("e2fsprogs is needed")
    }
}
