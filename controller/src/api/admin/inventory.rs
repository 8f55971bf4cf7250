//! The VMs of the subscriptions: from Azure, kept for a moment, so that a script of twenty commands
//! does not list them twenty times (I12).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_arm::{PowerState, Vm as AzureVm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::PointName;
use azdr_domain::region::Region;
use azdr_env::{Monotonic, WallTime};
use azdr_proto::admin::{AgentState, ListVmsResponse, Vm, VmRef};
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::Admin;
use super::errors::{azure, hinted, unavailable};
use crate::store::{Item, ItemId};

/// How long a listing is good for.
const FRESH: Duration = Duration::from_secs(10);

/// How long a screen waits for the first listing of all.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long regions are good for.
const REGIONS_FRESH: Duration = Duration::from_secs(3600);

/// The last listings. Cheap to clone.
#[derive(Clone, Default)]
pub struct Inventory {
    last: Arc<Mutex<Option<Listing>>>,
    /// Held by whoever is listing: what many ask for at once is listed once.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Somebody is listing, and nobody waits for it.
    refreshing: Arc<AtomicBool>,
    regions: Arc<Mutex<Option<Regions>>>,
    /// Rung when named policies have changed, to have the tags of their VMs follow.
    pub policies_changed: Arc<Notify>,
}

/// When it was made, and what it showed.
type Listing = (Monotonic, Arc<Vec<AzureVm>>);

/// When they were listed, and which they are.
type Regions = (Monotonic, Vec<Region>);

/// A VM that somebody named.
pub(super) struct Named {
    /// Its resource ID.
    pub(super) id: ArmId,
    /// Azure's word, when it still exists there.
    pub(super) vm: Option<AzureVm>,
    /// The catalogue's row, if it has one.
    pub(super) item: Option<Item>,
    /// Azure could not be asked: then the absence of `vm` says nothing.
    pub(super) unknown: Option<Status>,
}

impl Named {
    /// The VM as Azure shows it.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` with `hint` when it does not exist there; Azure's own failure when it
    /// could not be asked.
    pub(super) fn in_azure(&self, hint: &str) -> Result<&AzureVm, Status> {
        match (&self.vm, &self.unknown) {
            (Some(vm), _) => Ok(vm),
            (None, Some(status)) => Err(status.clone()),
            (None, None) => {
                let message = format!("{} is not in Azure", self.id.name());
                Err(hinted(Code::FailedPrecondition, message, hint))
            }
        }
    }
}

impl Named {
    /// Where it runs, by Azure's word or else by the catalogue's.
    ///
    /// # Errors
    /// When neither knows a region.
    pub(super) fn region(&self) -> Result<Region, Status> {
        let azure = self.vm.as_ref().and_then(|vm| vm.location.as_deref());
        let known = azure.or(self.item.as_ref().map(|i| i.location.as_str()));
        Region::parse(known.unwrap_or_default()).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Admin {
    /// All VMs as Azure listed them at most [`FRESH`] ago.
    pub(super) async fn azure_vms(&self) -> Result<Arc<Vec<AzureVm>>, Status> {
        if let Some(vms) = self.listed_since(FRESH) {
            return Ok(vms);
        }
        let _turn = self.inventory.turn.lock().await;
        // Whoever had the turn before may have listed them meanwhile.
        if let Some(vms) = self.listed_since(FRESH) {
            return Ok(vms);
        }
        let now = self.env.clock.monotonic();
        let mut all = Vec::new();
        for subscription in &self.stamp.subscriptions {
            all.extend(self.services.azure.list_vms(subscription).await.map_err(|e| azure(&e))?);
        }
        let all = Arc::new(all);
        *self.inventory.last.lock().expect("only replaced") = Some((now, all.clone()));
        Ok(all)
    }

    /// The last listing, if it is younger than this.
    fn listed_since(&self, age: Duration) -> Option<Arc<Vec<AzureVm>>> {
        let now = self.env.clock.monotonic();
        let last = self.inventory.last.lock().expect("only replaced");
        last.as_ref().filter(|(at, _)| now.since(*at) < age).map(|(_, vms)| vms.clone())
    }

    /// All VMs of the last listing, and how old it is: a large subscription takes seconds to list. An
    /// old listing is made anew meanwhile; only the very first one is waited for, a while.
    pub(super) async fn last_listed(&self) -> Result<(Duration, Arc<Vec<AzureVm>>), Status> {
        let now = self.env.clock.monotonic();
        let last = self.inventory.last.lock().expect("only replaced").clone();
        let Some((at, vms)) = last else {
            // It goes on when nobody waits for it any more: the next one finds it.
            self.list_meanwhile();
            return tokio::select! {
                biased;
                vms = self.azure_vms() => Ok((Duration::ZERO, vms?)),
                () = azdr_env::sleep(PATIENCE) => {
                    Err(Status::unavailable("Azure has not listed the VMs yet"))
                }
            };
        };
        let age = now.since(at);
        if age >= FRESH {
            self.list_meanwhile();
        }
        Ok((age, vms))
    }

    /// Lists the VMs, unless somebody does already, and waits for nothing.
    fn list_meanwhile(&self) {
        if self.inventory.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let admin = self.clone();
        tokio::spawn(async move {
            if let Err(e) = admin.azure_vms().await {
                tracing::warn!(error = e.message(), "Azure cannot list VMs");
            }
            admin.inventory.refreshing.store(false, Ordering::Release);
        });
    }

    /// Regions of the subscriptions, as Azure listed them at most an hour ago; sorted.
    pub(super) async fn azure_regions(&self) -> Result<Vec<Region>, Status> {
        let now = self.env.clock.monotonic();
        {
            let last = self.inventory.regions.lock().expect("only replaced");
            if let Some((at, regions)) = &*last
                && now.since(*at) < REGIONS_FRESH
            {
                return Ok(regions.clone());
            }
        }
        let mut all = Vec::new();
        for subscription in &self.stamp.subscriptions {
            let names = self.services.azure.list_locations(subscription).await;
            all.extend(names.map_err(|e| azure(&e))?.iter().filter_map(|n| Region::parse(n).ok()));
        }
        all.sort();
        all.dedup();
        *self.inventory.regions.lock().expect("only replaced") = Some((now, all.clone()));
        Ok(all)
    }

    /// Provisioned size of the VM's disks in the last listing, however old it is; Azure is not asked.
    pub(super) fn listed_size(&self, vm: &ArmId) -> Option<u64> {
        let last = self.inventory.last.lock().expect("only replaced");
        let (_, vms) = last.as_ref()?;
        vms.iter().find(|v| v.id.as_ref() == Some(vm)).map(size_bytes).filter(|size| *size > 0)
    }

    /// The same of all VMs of the last listing, by their IDs' keys.
    pub(super) fn listed_sizes(&self) -> BTreeMap<String, u64> {
        let last = self.inventory.last.lock().expect("only replaced");
        let vms = last.iter().flat_map(|(_, vms)| vms.iter());
        let size = |vm: &AzureVm| Some((vm.id.as_ref()?.key().to_owned(), size_bytes(vm)));
        vms.filter_map(size).filter(|(_, size)| *size > 0).collect()
    }

    /// Finds the VM that is meant. Names compare whole and without case.
    ///
    /// # Errors
    /// `NOT_FOUND`, or `INVALID_ARGUMENT` with the candidates when the name is ambiguous.
    pub(super) async fn resolve(&self, reference: Option<&VmRef>) -> Result<Named, Status> {
        let wanted = parse_reference(reference)?;
        let (vms, unknown) = match self.azure_vms().await {
            Ok(vms) => (vms, None),
            // The catalogue still knows what it protects.
            Err(e) => {
                tracing::warn!(error = e.message(), "Azure cannot list VMs; using the catalogue");
                (Arc::default(), Some(e))
            }
        };
        let mut found = self.fitting(&wanted, &vms, unknown.as_ref()).await?;
        match (found.len(), unknown) {
            (1, _) => Ok(found.remove(0)),
            (0, Some(status)) => Err(status),
            (0, None) => {
                Err(hinted(Code::NotFound, format!("there is no VM {wanted}"), &wanted.meant()))
            }
            _ => Err(ambiguous(&wanted, &found)),
        }
    }

    /// Finds the VM that a question is about: by the last listing, however old it is, as long as that or
    /// the catalogue knows the VM. A large subscription takes long to list, and what the catalogue holds
    /// does not change by that.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub(super) async fn resolve_known(&self, reference: Option<&VmRef>) -> Result<Named, Status> {
        let wanted = parse_reference(reference)?;
        let (vms, unknown) = match self.last_listed().await {
            Ok((_, vms)) => (vms, None),
            Err(e) => (Arc::default(), Some(e)),
        };
        let mut found = self.fitting(&wanted, &vms, unknown.as_ref()).await?;
        match found.len() {
            1 => Ok(found.remove(0)),
            // It may have been made, or deleted, since.
            _ => self.resolve(reference).await,
        }
    }

    /// The VMs of a listing and of the catalogue that fit.
    async fn fitting(
        &self,
        wanted: &Wanted,
        vms: &[AzureVm],
        unknown: Option<&Status>,
    ) -> Result<Vec<Named>, Status> {
        let items = match wanted {
            Wanted::Id(id) => self.store.item(id).await.map(|item| item.into_iter().collect()),
            Wanted::Name { name, .. } => self.store.vms_named(name).await,
        };
        let mut found: BTreeMap<String, Named> = BTreeMap::new();
        for vm in vms {
            if let Some(id) = vm.id.as_ref().filter(|id| wanted.fits(id)) {
                let named =
                    Named { id: id.clone(), vm: Some(vm.clone()), item: None, unknown: None };
                found.insert(named.id.key().to_owned(), named);
            }
        }
        for item in items.map_err(unavailable)?.into_iter().filter(|i| wanted.fits(&i.arm_id)) {
            let id = item.arm_id.clone();
            let entry = found.entry(id.key().to_owned());
            let unknown = unknown.cloned();
            entry.or_insert(Named { id, vm: None, item: None, unknown }).item = Some(item);
        }
        Ok(found.into_values().collect())
    }

    /// The catalogue's row of a VM that is to be changed; made when it is new.
    ///
    /// # Errors
    /// When the VM has no row and is not in Azure.
    pub(super) async fn item_of(&self, named: &Named) -> Result<Item, Status> {
        let Some(vm) = &named.vm else {
            return match &named.item {
                Some(item) => Ok(item.clone()),
                None => Err(named
                    .in_azure("")
                    .map(|_| ())
                    .err()
                    .unwrap_or_else(|| Status::internal("a VM is either in Azure or not"))),
            };
        };
        let location = vm.location.clone().unwrap_or_default();
        let location = Region::parse(&location).map_or(location, |r| r.to_string());
        // The vmId is recorded at enrolment, from Azure, and not moved by a mere listing.
        self.store
            .ensure_vm(named.id.clone(), location, None, self.env.clock.wall())
            .await
            .map_err(unavailable)
    }

    pub(super) async fn list_all_vms(&self) -> Result<ListVmsResponse, Status> {
        let points: BTreeMap<_, _> = self
            .store
            .point_summary()
            .await
            .map_err(unavailable)?
            .into_iter()
            .map(|(item, count, newest)| (item, (count, newest)))
            .collect();
        let items = self.store.items().await.map_err(unavailable)?;
        let items: BTreeMap<&str, &Item> = items.iter().map(|i| (i.arm_id.key(), i)).collect();
        let protected = self.store.enabled_policies().await.map_err(unavailable)?;
        let protected: BTreeSet<&str> = protected.iter().map(|(i, _)| i.arm_id.key()).collect();
        let certificates = self.store.newest_certificates().await.map_err(unavailable)?;
        let mut vms = Vec::new();
        for vm in self.azure_vms().await?.iter() {
            let Some(id) = &vm.id else { continue };
            let item = items.get(id.key()).map(|item| item.id);
            let summary = item.and_then(|item| points.get(&item));
            let agent = item.map_or(AgentState::NotEnrolled, |item| {
                self.agent_state_by(item, certificates.get(&item).copied())
            });
            vms.push(Vm {
                resource_id: id.to_string(),
                name: id.name().to_owned(),
                resource_group: id.resource_group().to_owned(),
                location: vm.location.clone().unwrap_or_default(),
                power_state: vm.power_state.as_ref().map(power_state).unwrap_or_default(),
                disks: 1 + vm.data_disks.len() as u32,
                size_bytes: size_bytes(vm),
                protected: protected.contains(id.key()),
                agent: agent.into(),
                newest_recovery_point_unix_ms: summary.map_or(0, |(_, at)| at.unix_ms()),
                recovery_points: summary.map_or(0, |(count, _)| *count),
            });
        }
        vms.sort_by_key(|vm| vm.resource_id.to_lowercase());
        Ok(ListVmsResponse { vms })
    }

    pub(super) async fn agent_state(&self, item: &Item) -> Result<AgentState, Status> {
        let newest = self.store.newest_certificate(item.id).await.map_err(unavailable)?;
        Ok(self.agent_state_by(item.id, newest.map(|c| (c.not_after, c.revoked))))
    }

    /// `newest`: when the VM's newest certificate ends, and whether it is revoked.
    pub(super) fn agent_state_by(
        &self,
        item: ItemId,
        newest: Option<(WallTime, bool)>,
    ) -> AgentState {
        match newest {
            _ if self.fleet.protected(item).is_some() => AgentState::Connected,
            Some((_, false)) => AgentState::Disconnected,
            _ => AgentState::NotEnrolled,
        }
    }
}

fn size_bytes(vm: &AzureVm) -> u64 {
    let os = vm.os_disk.as_ref().and_then(|d| d.size_bytes);
    std::iter::once(os).chain(vm.data_disks.iter().map(|d| d.size_bytes)).flatten().sum()
}

fn power_state(state: &PowerState) -> String {
    serde_json::to_value(state)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// What a reference asks for.
enum Wanted {
    Id(ArmId),
    Name { name: String, group: Option<String> },
}

impl Wanted {
    fn fits(&self, id: &ArmId) -> bool {
        match self {
            Self::Id(wanted) => wanted == id,
            Self::Name { name, group } => {
                id.name().eq_ignore_ascii_case(name)
                    && group.as_ref().is_none_or(|g| id.resource_group().eq_ignore_ascii_case(g))
            }
        }
    }
}

impl Wanted {
    /// What to do when there is none.
    fn meant(&self) -> String {
        match self {
            Self::Name { name, .. } if PointName::parse(name).is_ok() => {
                let vm = name.rsplit_once("-backup-").map_or("VM", |(vm, _)| vm);
                format!(
                    "that is the name of a recovery point: name its VM, {vm}; a restore takes it as \
                     --backup {name}"
                )
            }
            _ => "see `azdr vm list`".to_owned(),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name { name, group: None } => write!(f, "{name:?}"),
            Self::Name { name, group: Some(g) } => write!(f, "{name:?} in resource group {g:?}"),
        }
    }
}

/// Longest reference that is looked at.
const MAX_REFERENCE: usize = 512;

fn ambiguous(wanted: &Wanted, found: &[Named]) -> Status {
    let groups: Vec<_> = found.iter().map(|n| n.id.resource_group()).collect();
    hinted(
        Code::InvalidArgument,
        format!("{} VMs are named {wanted}: in {}", found.len(), groups.join(", ")),
        "say which with --resource-group, or give the full resource ID",
    )
}

fn parse_reference(reference: Option<&VmRef>) -> Result<Wanted, Status> {
    let reference = reference
        .filter(|r| !r.name.is_empty())
        .ok_or_else(|| Status::invalid_argument("no VM is named"))?;
    let name = reference.name.trim();
    if name.len() > MAX_REFERENCE || reference.resource_group.len() > MAX_REFERENCE {
        return Err(Status::invalid_argument("the VM's name is too long"));
    }
    if name.starts_with('/') {
        let id = ArmId::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if !id.is_type("Microsoft.Compute/virtualMachines") {
            return Err(Status::invalid_argument(format!("{id} is not a virtual machine")));
        }
        return Ok(Wanted::Id(id));
    }
    let group = Some(reference.resource_group.trim().to_owned()).filter(|g| !g.is_empty());
    Ok(Wanted::Name { name: name.to_owned(), group })
}
