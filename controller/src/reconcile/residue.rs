//! Finds what nobody wants any more, and starts the jobs that delete what is provably a temporary of
//! azdr's (I5).
//!
//! A sweep lists everything that carries azdr's tag, in all subscriptions, and asks
//! [`azdr_domain::residue`] about each. It changes nothing in Azure; what it finds is kept for `azdr
//! residue list` and `/metrics`. What the catalogue has and the listing has not is
//! `reconcile/missing.rs`'s business. Disks that a restore replaced are found in the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_arm::AzureError;
use azdr_domain::arm_id::{ArmId, RESOURCE_GROUP_TYPE};
use azdr_domain::cost::{Billed, monthly_cents};
use azdr_domain::residue::{self, Facts, Fate, RunTag, Verdict};
use azdr_env::WallTime;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::store::{NewRun, RunId, StoreError};
use crate::workflows::azure::Resource;
use crate::workflows::{new_run, reap, remove_kept_disk, replicate, tags};

/// Pause between sweeps.
pub const EVERY: Duration = Duration::from_secs(3600);

/// Sweeps, and remembers what the last one found. Cheap to clone.
#[derive(Clone)]
pub struct Sweeper {
    reconciler: Reconciler,
    last: Arc<Mutex<Option<Arc<Sweep>>>>,
    outdated: Arc<AtomicBool>,
}

/// What a sweep has found.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// When it began.
    pub at: WallTime,
    /// What nobody wants, and disks that are kept for a while.
    pub found: Vec<Found>,
    /// What other installations have, by installation and type of resource: never touched.
    pub others: BTreeMap<(String, String), u32>,
    /// Why nothing is deleted now, if so.
    pub held: Option<String>,
}

/// One resource.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub id: ArmId,
    /// For example `Microsoft.Compute/disks`.
    pub resource_type: String,
    /// When it was made, where Azure says so.
    pub created: Option<WallTime>,
    /// An estimate; `None` where there is no price.
    pub monthly_cents: Option<u64>,
    /// The run that made it, or that replaced the disk.
    pub run: Option<RunId>,
    /// That run's workflow, where it is known.
    pub workflow: Option<String>,
    /// Why it is listed.
    pub why: String,
    /// What becomes of it.
    pub what: What,
}

/// What becomes of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// azdr deletes it now.
    Reaped,
    /// azdr deletes it then: the grace period, or the days that a replaced disk is kept.
    ReapedAfter(WallTime),
    /// azdr leaves it to a person; why.
    Person(String),
}

/// A sweep that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store.
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    /// Azure.
    #[error("Azure does not list what carries azdr's tag")]
    Azure(#[from] AzureError),
}

/// Something that carries azdr's tag.
pub(super) struct Listed {
    pub(super) id: ArmId,
    resource_type: String,
    tag: Option<RunTag>,
    created: Option<WallTime>,
    pub(super) tags: tags::Tags,
    /// Its region.
    pub(super) location: Option<String>,
    /// A disk that a restore has replaced: the tag names that one, not its maker.
    kept: bool,
}

/// What a resource's own document says.
#[derive(Default)]
struct Priced {
    monthly_cents: Option<u64>,
    created: Option<WallTime>,
    tags: tags::Tags,
}

impl Sweeper {
    /// Nothing is found yet.
    pub fn new(reconciler: Reconciler) -> Self {
        Self { reconciler, last: Arc::default(), outdated: Arc::default() }
    }

    /// What the last sweep found.
    pub fn last(&self) -> Option<Arc<Sweep>> {
        self.last.lock().expect("only replaced").clone()
    }

    /// What the last sweep found, if that was less than `age` ago and nothing has changed since that
    /// people would miss in it.
    pub fn fresh(&self, age: Duration) -> Option<Arc<Sweep>> {
        let now = self.reconciler.env.clock.wall();
        let is_fresh = |sweep: &Arc<Sweep>| now.since(sweep.at) < age;
        self.last().filter(is_fresh).filter(|_| !self.outdated.load(Ordering::Acquire))
    }

    /// Something became residue just now: the next listing sweeps again.
    pub fn outdate(&self) {
        self.outdated.store(true, Ordering::Release);
    }

    /// Sweeps the subscriptions and has the residue reaped, now and `every` so often, until `stop`.
    pub async fn keep_tidy(
        self,
        subscriptions: Vec<String>,
        every: Duration,
        stop: CancellationToken,
    ) {
        loop {
            match self.sweep(&subscriptions).await {
                Ok(sweep) => {
                    if let Err(e) = self.start_reaping(&sweep).await {
                        tracing::error!(error = %e, cause = ?e, "residue could not be reaped");
                    }
                }
                Err(e) => tracing::warn!(error = %e, cause = ?e, "no sweep for residue; later"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = azdr_env::sleep(every) => {}
            }
        }
    }

    /// Looks at everything that carries azdr's tag, and marks what of the catalogue is missing. Changes
    /// nothing in Azure.
    ///
    /// # Errors
    /// When not all of it can be seen: half a listing proves nothing.
    pub async fn sweep(&self, subscriptions: &[String]) -> Result<Arc<Sweep>, SweepError> {
        let Reconciler { store, services, env, .. } = &self.reconciler;
        let at = env.clock.wall();
        self.outdated.store(false, Ordering::Release);
        let held = store.deletion_hold().await?.map(|h| h.to_string());
        let ours = services.settings.installation.as_str();
        let mut listed = Vec::new();
        for subscription in subscriptions {
            listed.extend(self.list(subscription).await?);
        }
        self.reconciler.compare_snapshots(&listed, subscriptions).await?;
        // After the listing: what a run makes and records in between is catalogued by now.
        let keys = listed.iter().map(|l| l.id.key().to_owned()).collect();
        let unwanted: BTreeSet<_> = store.not_catalogued(keys).await?.into_iter().collect();
        let mut sweep =
            Sweep { at, found: Vec::new(), others: BTreeMap::new(), held: held.clone() };
        let mut runs = BTreeMap::new();
        for l in listed {
            if let Some(tag) = l.tag.as_ref().filter(|t| t.installation != ours) {
                let key = (tag.installation.clone(), l.resource_type);
                *sweep.others.entry(key).or_default() += 1;
                continue;
            }
            if !unwanted.contains(l.id.key()) {
                continue;
            }
            let run = l.tag.as_ref().map(|tag| RunId(tag.run));
            let (facts, journal) = match run {
                None => (residue::RunFacts::Unknown, None),
                Some(run) => {
                    if let std::collections::btree_map::Entry::Vacant(e) = runs.entry(run) {
                        e.insert(services.catalogue.run_facts(run).await?);
                    }
                    let (facts, journal) = &runs[&run];
                    (*facts, Some(journal))
                }
            };
            if l.kept {
                if facts != residue::RunFacts::Live {
                    let person = "it is somebody's disk and not of azdr's making";
                    let why = match run {
                        Some(run) => format!(
                            "its tags say that job {run} replaced it; the catalogue does not"
                        ),
                        None => "its tags say that a restore replaced it; the catalogue does not"
                            .to_owned(),
                    };
                    let fate = Fate::Person(person);
                    sweep.found.push(self.describe(l, run, why, fate, held.as_ref()).await?);
                }
                continue;
            }
            let facts = Facts {
                id: &l.id,
                tag: l.tag.as_ref(),
                created: l.created,
                catalogued: false,
                run: facts,
                journalled: journal.is_some_and(|j| j.contains(l.id.key())),
                copy: self.unfinished_copy(&l.id, facts).await?,
            };
            if let Verdict::Residue { why, fate } = residue::judge(&facts, ours, at) {
                sweep.found.push(self.describe(l, run, why, fate, held.as_ref()).await?);
            }
        }
        sweep.found.extend(self.kept_disks(held.as_ref()).await?);
        let sweep = Arc::new(sweep);
        *self.last.lock().expect("only replaced") = Some(sweep.clone());
        Ok(sweep)
    }

    async fn list(&self, subscription: &str) -> Result<Vec<Listed>, AzureError> {
        let azure = &self.reconciler.services.azure;
        let tag = |all: &tags::Tags| tags::value(all, tags::RUN).and_then(RunTag::parse);
        let resources = azure.list_with_tag::<tags::Identities>(subscription, tags::OWNER).await?;
        let groups = azure.list_resource_groups_with_tag(subscription, tags::OWNER).await?;
        let mut listed: Vec<Listed> = resources
            .into_iter()
            .filter(|r| tags::value(&r.tags, tags::OWNER) == Some(tags::OWNED))
            .map(|r| Listed {
                tag: tag(&r.tags),
                resource_type: r.resource_type,
                created: r.created,
                id: r.id,
                location: r.location,
                tags: r.tags,
                kept: false,
            })
            .collect();
        listed.extend(groups.into_iter().filter_map(|g| {
            (tags::value(&g.tags, tags::OWNER) == Some(tags::OWNED)).then_some(())?;
            let resource_type = RESOURCE_GROUP_TYPE.to_owned();
            Some(Listed {
                tag: tag(&g.tags),
                resource_type,
                created: None,
                id: g.id?,
                location: None,
                tags: tags::Tags::new(),
                kept: false,
            })
        }));
        let replaced = azure.list_with_tag::<tags::Makers>(subscription, tags::KEPT_BY).await?;
        listed.extend(replaced.into_iter().map(|r| Listed {
            tag: tags::value(&r.tags, tags::KEPT_BY).and_then(RunTag::parse),
            resource_type: r.resource_type,
            created: r.created,
            id: r.id,
            location: r.location,
            tags: r.tags,
            kept: true,
        }));
        Ok(listed)
    }

    async fn describe(
        &self,
        l: Listed,
        run: Option<RunId>,
        why: String,
        fate: Fate,
        held: Option<&String>,
    ) -> Result<Found, SweepError> {
        let workflow = match run {
            Some(run) => self.reconciler.store.run(run).await?.map(|row| row.workflow),
            None => None,
        };
        let seen = self.price(&l.id).await?;
        let reapable = Resource::of(&l.id).is_some();
        let what = match (fate, held) {
            (Fate::Person(why), _) => What::Person(why.to_owned()),
            (_, Some(held)) => What::Person(held.clone()),
            (_, None) if !reapable => {
                What::Person("azdr does not delete resources of this type".to_owned())
            }
            (Fate::Reap, None) => What::Reaped,
            (Fate::ReapAfter(at), None) => What::ReapedAfter(at),
        };
        Ok(Found {
            id: l.id,
            resource_type: l.resource_type,
            created: l.created.or(seen.created),
            monthly_cents: seen.monthly_cents,
            run,
            workflow,
            why,
            what,
        })
    }

    async fn kept_disks(&self, held: Option<&String>) -> Result<Vec<Found>, SweepError> {
        let Reconciler { store, env, .. } = &self.reconciler;
        let mut found = Vec::new();
        for kept in store.kept_disks().await? {
            let seen = self.price(&kept.disk).await?;
            let mut why = format!("replaced by job {} and kept until {}", kept.run, kept.until);
            if tags::value(&seen.tags, tags::KEPT_BY).is_none() {
                why += "; it is not tagged so, and a rebuilt catalogue would not know it";
            }
            let what = match held {
                Some(held) => What::Person(held.clone()),
                None if kept.until <= env.clock.wall() => What::Reaped,
                None => What::ReapedAfter(kept.until),
            };
            found.push(Found {
                why,
                workflow: store.run(kept.run).await?.map(|row| row.workflow),
                resource_type: kept.disk.resource_type().to_owned(),
                run: Some(kept.run),
                id: kept.disk,
                created: seen.created,
                monthly_cents: seen.monthly_cents,
                what,
            });
        }
        Ok(found)
    }

    /// What a snapshot that was made before a rebuild is part of.
    async fn unfinished_copy(
        &self,
        id: &ArmId,
        run: residue::RunFacts,
    ) -> Result<Option<residue::UnfinishedCopy>, SweepError> {
        let services = &self.reconciler.services;
        let before = matches!(run, residue::RunFacts::BeforeRebuild { .. });
        if !before || Resource::of(id) != Some(Resource::Snapshot) {
            return Ok(None);
        }
        match services.azure.get_snapshot(id).await {
            Ok(found) => Ok(replicate::unfinished_copy(&services.catalogue, &found).await?),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What it costs, when it was made, and its tags, where its own document says so.
    async fn price(&self, id: &ArmId) -> Result<Priced, AzureError> {
        let azure = &self.reconciler.services.azure;
        let only = |cost| Ok(Priced { monthly_cents: monthly_cents(cost), ..Priced::default() });
        let seen = match Resource::of(id) {
            Some(Resource::Disk) => azure.get_disk(id).await.map(|disk| {
                let sku = disk.sku.unwrap_or_default();
                let size_bytes = disk.size_bytes.unwrap_or_default();
                let monthly_cents = monthly_cents(Billed::Disk { sku: &sku, size_bytes });
                Priced { monthly_cents, created: disk.time_created, tags: disk.tags }
            }),
            Some(Resource::Snapshot) => azure.get_snapshot(id).await.map(|snapshot| {
                let size_bytes = snapshot.size_bytes.unwrap_or_default();
                let monthly_cents = monthly_cents(Billed::Snapshot { size_bytes });
                Priced { monthly_cents, created: snapshot.time_created, tags: snapshot.tags }
            }),
            Some(Resource::Group | Resource::Vnet | Resource::Nsg | Resource::Nic) => {
                only(Billed::Free)
            }
            // What it costs depends on its size, and on whether it runs.
            Some(Resource::Vm) => azure.get_vm(id).await.map(|vm| Priced {
                monthly_cents: monthly_cents(Billed::Unknown),
                created: vm.time_created,
                ..Priced::default()
            }),
            Some(Resource::PublicIp) | None => only(Billed::Unknown),
        };
        match seen {
            Err(e) if e.is_not_found() => {
                Ok(Priced { monthly_cents: Some(0), ..Priced::default() })
            }
            seen => seen,
        }
    }

    /// Starts a run for each job that left something, and one for each replaced disk that is due,
    /// unless one is under way already.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start_reaping(&self, sweep: &Sweep) -> Result<Vec<RunId>, StoreError> {
        let mut by_run: BTreeMap<RunId, Vec<reap::Target>> = BTreeMap::new();
        let mut new = Vec::new();
        let due = sweep.found.iter().filter(|f| f.what == What::Reaped);
        for found in due {
            if let Some(kept) = self.reconciler.store.kept_disk(&found.id).await? {
                let item = self.reconciler.store.item_by_id(kept.item).await?;
                let (vm, disk) = (item.arm_id, kept.disk);
                let input = remove_kept_disk::Input { item: item.id, vm, disk };
                new.push(new_run(remove_kept_disk::RUN, &input, item.id, "residue"));
            } else if let (Some(run), Some(kind)) = (found.run, Resource::of(&found.id)) {
                let (id, created) = (found.id.clone(), found.created);
                by_run.entry(run).or_default().push(reap::Target { id, kind, created });
            }
        }
        let installation = &self.reconciler.services.settings.installation;
        for (run, targets) in by_run {
            let tag = RunTag { installation: installation.clone(), run: run.0 }.to_string();
            let input = reap::Input { tag, targets };
            new.push(self.reconciler.engine.new_run(reap::RUN.0, &input, None, "residue"));
        }
        let under_way = self.under_way().await?;
        let mut started = Vec::new();
        for run in new.into_iter().filter(|run| !under_way.contains(&about(run))) {
            started.push(self.reconciler.engine.submit(run).await?);
        }
        Ok(started)
    }

    /// What runs of these workflows that are not over are about.
    async fn under_way(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut about_what = BTreeSet::new();
        for workflow in [reap::RUN.0, remove_kept_disk::RUN.0] {
            let rows = self.reconciler.store.recent_runs(None, None, Some(workflow), 1000).await?;
            let open = rows.into_iter().filter(|row| !row.state.is_terminal());
            about_what.extend(open.map(|row| subject(&row.input)));
        }
        Ok(about_what)
    }
}

fn about(run: &NewRun) -> String {
    subject(&run.input)
}

fn subject(input: &Value) -> String {
    input["tag"].as_str().or(input["disk"].as_str()).unwrap_or_default().to_lowercase()
}
