//! An agent's machine: what is on its disks, and what can be done to it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, Result};
use azdr_agent::config::DEFAULT_STATE_DIR;
use azdr_agent::identity_store::{self, StoredIdentity};
use azdr_agent::witness::{self, Moment, Place};
use azdr_env::{Env, Monotonic};
use azdr_proto::agent::{FactState, Freeze, HealthFact, Witness};

use crate::simulated_machines::{Listed, SimulatedMachine, Thawed};

/// The agent's configuration on the machine.
pub const CONFIG: &str = azdr_agent::config::DEFAULT_CONFIG;

/// Where the agent's identity is on the machine.
pub fn identity_path() -> String {
    format!("{DEFAULT_STATE_DIR}/{}", identity_store::FILE)
}

/// What can be done inside a machine. Every call may block.
#[expect(clippy::missing_errors_doc, reason = "every one fails when the machine does not answer")]
pub trait Inside: std::fmt::Debug + Send + Sync {
    /// Stops all writing.
    fn freeze(&self) -> Result<()>;
    /// Lets writing go on.
    fn thaw(&self) -> Result<Thawed>;
    /// What a file holds; `None`: there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;
    /// Writes a file, durably.
    fn write(&self, path: &str, content: &[u8]) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> Result<()>;
}

impl Inside for SimulatedMachine {
    fn freeze(&self) -> Result<()> {
        Self::freeze(self)
    }
    fn thaw(&self) -> Result<Thawed> {
        Self::thaw(self)
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Self::read(self, path)
    }
    fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        Self::write(self, path, content)
    }
    fn remove(&self, path: &str) -> Result<()> {
        Self::remove(self, path)
    }
}

/// A machine that is up. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    inside: Arc<dyn Inside>,
    name: String,
    vm_id: String,
    boot_id: String,
    mounts: Vec<String>,
    up_since: Monotonic,
    pub(super) env: Env,
}

impl Machine {
    pub(super) fn new(inside: Arc<dyn Inside>, listed: &Listed, env: Env) -> Self {
        Self {
            inside,
            name: listed.name.clone(),
            vm_id: listed.vm_id.clone(),
            boot_id: listed.boot_id.clone(),
            mounts: listed.disks.iter().map(|disk| disk.mount_point.clone()).collect(),
            up_since: env.clock.monotonic(),
            env,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn vm_id(&self) -> &str {
        &self.vm_id
    }

    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(super) fn mounts(&self) -> &[String] {
        &self.mounts
    }

    pub(super) fn uptime_secs(&self) -> u64 {
        self.env.clock.monotonic().since(self.up_since).as_secs()
    }

    /// Runs a request, which blocks, elsewhere.
    async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&dyn Inside) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inside = self.inside.clone();
        tokio::task::spawn_blocking(move || request(&*inside)).await.context("a request failed")?
    }

    pub(super) async fn freeze(&self) -> Result<()> {
        self.call(|inside| inside.freeze()).await
    }

    pub(super) async fn thaw(&self) -> Result<Thawed> {
        self.call(|inside| inside.thaw()).await
    }

    /// Who this machine was when its disks were written; `None`: it was never enrolled.
    pub(super) async fn identity(&self) -> Result<Option<StoredIdentity>> {
        let path = identity_path();
        let file = path.clone();
        let Some(found) = self.call(move |inside| inside.read(&file)).await? else {
            return Ok(None);
        };
        let text = String::from_utf8(found).context("the identity is not text")?;
        Ok(Some(identity_store::decode(Path::new(&path), &text)?))
    }

    /// From now on this is its identity.
    pub(super) async fn store(&self, identity: &StoredIdentity) -> Result<()> {
        let content = identity_store::encode(identity)?;
        self.call(move |inside| inside.write(&identity_path(), &content)).await
    }

    /// The witnesses on its disks.
    pub(super) async fn witnesses(&self) -> Vec<Witness> {
        let mut found = Vec::new();
        for mount in &self.mounts {
            let path = below(mount, witness::PLACE);
            let read = self.call(move |inside| inside.read(&path)).await;
            let Ok(Some(text)) = read else { continue };
            match witness::decode(&text, mount) {
                Ok(witness) => found.push(Witness {
                    found_on_disk: disk_at(mount),
                    found_file_system_uuid: self.file_system_uuid(mount).await,
                    ..witness
                }),
                Err(error) => tracing::warn!(%error, "cannot read the witness on {mount}"),
            }
        }
        found
    }

    /// Writes the witness of this freeze on every disk, and answers what was written.
    pub(super) async fn write_witnesses(&self, freeze: &Freeze) -> Result<Vec<Witness>> {
        let moment = Moment {
            unix_ms: self.env.clock.wall().unix_ms(),
            boot_id: self.boot_id.clone(),
            monotonic_ns: azdr_thawd_client::monotonic_ns(),
        };
        let mut places = Vec::new();
        for mount in &self.mounts {
            places.push(Place {
                mount_point: mount.clone(),
                file_system_uuid: self.make_file_system(mount).await?,
                disk: disk_at(mount),
                ..Place::default()
            });
        }
        let witnesses = witness::of_freeze(freeze, &places, &moment).map_err(Error::msg)?;
        for (mount, witness) in self.mounts.iter().zip(&witnesses) {
            let (path, content) = (below(mount, witness::PLACE), witness::encode(witness)?);
            let written = self.call(move |inside| inside.write(&path, &content)).await;
            written.with_context(|| format!("cannot write the witness to {mount}"))?;
        }
        Ok(witnesses)
    }

    /// A simulated disk is a tree of files without a head. Its UUID, which a copy of the disk has too, is
    /// one of them.
    async fn file_system_uuid(&self, mount: &str) -> String {
        let path = below(mount, FILE_SYSTEM_UUID);
        let read = self.call(move |inside| inside.read(&path)).await.ok().flatten();
        read.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default()
    }

    async fn make_file_system(&self, mount: &str) -> Result<String> {
        let known = self.file_system_uuid(mount).await;
        if !known.is_empty() {
            return Ok(known);
        }
        let uuid = self.env.ids.uuid().to_string();
        let (path, content) = (below(mount, FILE_SYSTEM_UUID), uuid.clone().into_bytes());
        self.call(move |inside| inside.write(&path, &content)).await?;
        Ok(uuid)
    }

    /// As told in a health report.
    pub(super) fn fact(&self, name: &str, state: FactState, detail: String) -> HealthFact {
        let at_unix_ms = self.env.clock.wall().unix_ms();
        HealthFact { name: name.to_owned(), state: state.into(), detail, at_unix_ms }
    }

    /// What would be mounted and how full it is: a simulated machine mounts all of its disks, and has no
    /// quotas.
    pub(super) fn mounted(&self) -> Vec<HealthFact> {
        let words = format!("{} simulated disks", self.mounts.len());
        let mut facts = vec![self.fact("fstab", FactState::Pass, words)];
        facts.extend(self.mounts.iter().map(|mount| {
            let name = format!("free-space:{mount}");
            self.fact(&name, FactState::Pass, "a simulated disk".to_owned())
        }));
        facts
    }

    /// Whether each disk takes writes.
    pub(super) async fn writable(&self) -> Vec<HealthFact> {
        let mut facts = Vec::new();
        for mount in &self.mounts {
            let path = below(mount, ".azdr/probe");
            let attempt = self.call(move |inside| {
                inside.write(&path, b"probe")?;
                inside.remove(&path)
            });
            let (state, detail) = match attempt.await {
                Ok(()) => (FactState::Pass, "simulated".to_owned()),
                Err(error) => (FactState::Fail, format!("{error:#}")),
            };
            facts.push(self.fact(&format!("file-system-writable:{mount}"), state, detail));
        }
        facts
    }
}

/// A file that stands for the head of a file system.
const FILE_SYSTEM_UUID: &str = ".file-system-uuid";

fn disk_at(mount: &str) -> String {
    match mount.strip_prefix("/mnt/lun") {
        Some(lun) => format!("lun {lun}"),
        None => "os".to_owned(),
    }
}

fn below(mount: &str, place: &str) -> String {
    format!("{}/{place}", mount.trim_end_matches('/'))
}
