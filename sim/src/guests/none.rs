//! No machines: the control plane alone. Contents are copied all the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{GuestSpec, Guests, sparse};
use crate::config::{Blocking, Durability};
use crate::content::{Contents, Memory};

/// Remembers which machines would run.
#[derive(Debug)]
pub struct NoGuests {
    running: Mutex<BTreeSet<String>>,
    blocking: Blocking,
}

impl NoGuests {
    /// No machine runs.
    pub fn new(blocking: Blocking) -> Self {
        Self { running: Mutex::default(), blocking }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().expect("no code panics while holding this lock")
    }
}

#[async_trait]
impl Guests for NoGuests {
    /// Memory, where nothing is to outlive the process.
    fn contents(
        &self,
        state_dir: Option<&Path>,
        durability: Durability,
    ) -> std::io::Result<Option<Arc<dyn Contents>>> {
        if durability != Durability::None {
            return Ok(None);
        }
        let memory = state_dir.map(Memory::load).transpose()?.unwrap_or_default();
        Ok(Some(Arc::new(memory)))
    }

    async fn start(&self, spec: &GuestSpec) -> anyhow::Result<()> {
        self.running().insert(spec.vm_id.clone());
        Ok(())
    }

    async fn power_off(&self, vm_id: &str) -> anyhow::Result<()> {
        self.running().remove(vm_id);
        Ok(())
    }

    async fn restart(&self, _vm_id: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn is_running(&self, vm_id: &str) -> bool {
        self.running().contains(vm_id)
    }

    async fn snapshot_disk(
        &self,
        _vm_id: Option<&str>,
        source: &Path,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        // Nobody writes: any instant is as good as another.
        at_instant();
        let (source, target) = (source.to_owned(), target.to_owned());
        let copy = move || sparse::copy(&source, &target);
        match self.blocking {
            Blocking::Inline => copy()?,
            Blocking::Pool => tokio::task::spawn_blocking(copy).await??,
        }
        Ok(())
    }

    async fn shut_down(&self) {
        self.running().clear();
    }
}
