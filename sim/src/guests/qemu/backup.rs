//! Copies of a running machine's disk as it is at one instant, made by QEMU itself.
//!
//! | step | effect |
//! |---|---|
//! | create | the target, empty and sparse |
//! | `blockdev-add` | QEMU opens it |
//! | `transaction[blockdev-backup]` | **the instant**: from now on QEMU saves what the guest is about to overwrite |
//! | job | copies the rest in the background |
//! | `blockdev-del` | QEMU closes it |
//! | holes, `fsync` | the target is small, complete and durable |
//!
//! Whatever fails, the target is removed and QEMU keeps nothing of it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::machine::Machine;
use crate::guests::qmp::Event;
use crate::guests::sparse;

/// A job that copies nothing for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

impl Machine {
    /// Copies the attached disk `source` (canonical path) into the new file `target`.
    pub(super) async fn back_up(
        &self,
        source: &Path,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        let disk = self.disk(source).context("the machine does not have this disk")?;
        let _one_at_a_time = disk.backup.lock().await;
        let size_bytes = std::fs::metadata(source).context("cannot measure the disk")?.len();
        let file = sparse::create(target, size_bytes)
            .with_context(|| format!("cannot create {}", target.display()))?;
        let name = format!("backup-{}", self.backups.fetch_add(1, Ordering::Relaxed));
        let mut copied = self.copy_through(&name, &disk.node, target, at_instant).await;
        if copied.is_ok() {
            copied = finish(file, target).await;
        }
        if copied.is_err() {
            if let Err(e) = std::fs::remove_file(target) {
                let target = target.display();
                tracing::error!(%target, error = %e, "cannot remove a partial copy");
            }
            if self.qmp.is_closed() {
                // So that whoever hears of the error finds the machine off and its disks free.
                self.ended().await?;
            }
        }
        copied
    }

    /// From `blockdev-add` to `blockdev-del`.
    async fn copy_through(
        &self,
        name: &str,
        disk: &str,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        let node = json!({
            "driver": "raw",
            "node-name": name,
            "discard": "unmap",
            "detect-zeroes": "unmap",
            "file": { "driver": "file", "filename": target, "discard": "unmap" },
        });
        self.qmp.execute("blockdev-add", node).await?;
        let copied = self.run_job(name, disk, at_instant).await;
        let closed = self.qmp.execute("blockdev-del", json!({ "node-name": name })).await;
        copied?;
        closed?;
        Ok(())
    }

    async fn run_job(
        &self,
        name: &str,
        disk: &str,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        let mut events = self.qmp.events();
        let action = json!({
            "type": "blockdev-backup",
            "data": { "job-id": name, "device": disk, "target": name, "sync": "full" },
        });
        let started = self.qmp.execute("transaction", json!({ "actions": [action] })).await;
        if started.is_ok() {
            at_instant();
            match self.wait_for_job(name, &mut events).await {
                Err(JobError::Stalled) => {}
                Err(JobError::Ended(e)) => bail!(e),
                Ok(()) => return Ok(()),
            }
        }
        // Late or without an answer: the job may be there, and holds on to the target.
        let cancel = json!({ "device": name, "force": true });
        if self.qmp.execute("block-job-cancel", cancel).await.is_ok() {
            let _ = self.wait_for_job(name, &mut events).await;
        }
        started?;
        bail!("the copy did not get on for {} s", STALL_LIMIT.as_secs());
    }

    /// Waits for the job's end.
    async fn wait_for_job(
        &self,
        name: &str,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), JobError> {
        let mut progress = Value::Null;
        loop {
            match timeout(STALL_LIMIT, end_of_job(name, events)).await {
                Ok(end) => return end.map_err(JobError::Ended),
                Err(_) => {
                    let now = self.progress(name).await;
                    if now == progress {
                        return Err(JobError::Stalled);
                    }
                    progress = now;
                }
            }
        }
    }

    /// How far the job is; null when it is not there.
    async fn progress(&self, name: &str) -> Value {
        let jobs = self.qmp.execute("query-jobs", json!({})).await.unwrap_or_default();
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        jobs.iter()
            .find(|job| job["id"] == name)
            .map_or(Value::Null, |job| job["current-progress"].clone())
    }
}

/// Why a job brought no copy.
enum JobError {
    /// It is still there and does nothing.
    Stalled,
    /// It is over.
    Ended(String),
}

/// Waits for the event that ends the job.
async fn end_of_job(name: &str, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<(), String> {
    while let Some(event) = events.recv().await {
        if event.data["device"] != name {
            continue;
        }
        match (event.name.as_str(), event.data["error"].as_str()) {
            ("BLOCK_JOB_COMPLETED", None) => return Ok(()),
            ("BLOCK_JOB_COMPLETED", Some(error)) => {
                return Err(format!("the copy failed: {error}"));
            }
            ("BLOCK_JOB_CANCELLED", _) => return Err("the copy was cancelled".into()),
            _ => {}
        }
    }
    Err("the machine ended during the copy".into())
}

/// Gives back what QEMU allocated for zeroes, and makes the copy durable.
async fn finish(file: File, target: &Path) -> anyhow::Result<()> {
    let target = target.to_owned();
    let finished = tokio::task::spawn_blocking(move || {
        sparse::dig_holes(&file)?;
        sparse::make_durable(&target, &file)
    });
    finished.await.context("the finishing task panicked")?.context("cannot make the copy durable")
}
