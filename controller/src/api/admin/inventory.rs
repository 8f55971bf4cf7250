//! The VMs of the subscriptions: from Azure, kept for a moment, so that a script of twenty commands
//! does not list them twenty times (I12).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_arm::{PowerState, Vm as AzureVm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::region::Region;
use azdr_env::Monotonic;
use azdr_proto::admin::{AgentState, ListVmsResponse, Vm, VmRef};
use tonic::{Code, Status};

use super::Admin;
use super::errors::{azure, hinted, unavailable};
use crate::store::Item;

/// How long a listing is good for.
const FRESH: Duration = Duration::from_secs(10);

/// How long a screen waits for the first listing of all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last listing. Cheap to clone.
#[derive(Clone, Default)]
pub struct Inventory {
    last: Arc<Mutex<Option<Listing>>>,
    /// Somebody is listing, and nobody waits for it.
    refreshing: Arc<AtomicBool>,
}

/// When it was made, and what it showed.
type Listing = (Monotonic, Vec<AzureVm>);

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
    pub(super) async fn azure_vms(&self) -> Result<Vec<AzureVm>, Status> {
        let now = self.env.clock.monotonic();
        {
            let last = self.inventory.last.lock().expect("only replaced");
            if let Some((at, vms)) = &*last
                && now.since(*at) < FRESH
            {
                return Ok(vms.clone());
            }
        }
        let mut all = Vec::new();
        for subscription in &self.stamp.subscriptions {
            all.extend(self.services.azure.list_vms(subscription).await.map_err(|e| azure(&e))?);
        }
        *self.inventory.last.lock().expect("only replaced") = Some((now, all.clone()));
        Ok(all)
    }

    /// All VMs of the last listing, and how old it is: a large subscription takes seconds to list. An
    /// old listing is made anew meanwhile; only the very first one is waited for, a while.
    pub(super) async fn last_listed(&self) -> Result<(Duration, Vec<AzureVm>), Status> {
        let now = self.env.clock.monotonic();
        let last = self.inventory.last.lock().expect("only replaced").clone();
        let Some((at, vms)) = last else {
            return tokio::select! {
                biased;
                vms = self.azure_vms() => Ok((Duration::ZERO, vms?)),
                () = azdr_env::sleep(PATIENCE) => {
                    Err(Status::unavailable("Azure has not listed the VMs yet"))
                }
            };
        };
        let age = now.since(at);
        if age >= FRESH && !self.inventory.refreshing.swap(true, Ordering::AcqRel) {
            let admin = self.clone();
            tokio::spawn(async move {
                if let Err(e) = admin.azure_vms().await {
                    tracing::warn!(error = e.message(), "Azure cannot list VMs");
                }
                admin.inventory.refreshing.store(false, Ordering::Release);
            });
        }
        Ok((age, vms))
    }

    /// Provisioned size of the VM's disks in the last listing, however old it is; Azure is not asked.
    pub(super) fn listed_size(&self, vm: &ArmId) -> Option<u64> {
        let last = self.inventory.last.lock().expect("only replaced");
        let (_, vms) = last.as_ref()?;
        vms.iter().find(|v| v.id.as_ref() == Some(vm)).map(size_bytes).filter(|size| *size > 0)
    }

    /// Finds the VM that is meant. Names compare whole and without case.
    ///
    /// # Errors
    /// `NOT_FOUND`, or `INVALID_ARGUMENT` with the candidates when the name is ambiguous.
    pub(super) async fn resolve(&self, reference: Option<&VmRef>) -> Result<Named, Status> {
        let reference = reference
            .filter(|r| !r.name.is_empty())
            .ok_or_else(|| Status::invalid_argument("no VM is named"))?;
        let wanted = parse_reference(reference)?;
        let (vms, unknown) = match self.azure_vms().await {
            Ok(vms) => (vms, None),
            // The catalogue still knows what it protects.
            Err(e) => {
                tracing::warn!(error = e.message(), "Azure cannot list VMs; using the catalogue");
                (Vec::new(), Some(e))
            }
        };
        let items = self.store.items().await.map_err(unavailable)?;
        let mut found: BTreeMap<String, Named> = BTreeMap::new();
        for vm in vms {
            if let Some(id) = vm.id.clone().filter(|id| wanted.fits(id)) {
                found.insert(
                    id.key().to_owned(),
                    Named { id, vm: Some(vm), item: None, unknown: None },
                );
            }
        }
        for item in items.into_iter().filter(|i| wanted.fits(&i.arm_id)) {
            let id = item.arm_id.clone();
            let entry = found.entry(id.key().to_owned());
            let unknown = unknown.clone();
            entry.or_insert(Named { id, vm: None, item: None, unknown }).item = Some(item);
        }
        let mut found: Vec<Named> = found.into_values().collect();
        match (found.len(), unknown) {
            (1, _) => Ok(found.remove(0)),
            (0, Some(status)) => Err(status),
            (0, None) => Err(hinted(
                Code::NotFound,
                format!("there is no VM {}", wanted),
                "see `azdr vm list`",
            )),
            _ => {
                let groups: Vec<_> = found.iter().map(|n| n.id.resource_group()).collect();
                Err(hinted(
                    Code::InvalidArgument,
                    format!(
                        "{} VMs are named {:?}: in {}",
                        found.len(),
                        reference.name,
                        groups.join(", ")
                    ),
                    "say which with --resource-group, or give the full resource ID",
                ))
            }
        }
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
        let protected = self.store.enabled_policies().await.map_err(unavailable)?;
        let mut vms = Vec::new();
        for vm in self.azure_vms().await? {
            let Some(id) = vm.id.clone() else { continue };
            let item = items.iter().find(|i| i.arm_id == id);
            let summary = item.and_then(|i| points.get(&i.id));
            let size_bytes = size_bytes(&vm);
            vms.push(Vm {
                resource_id: id.to_string(),
                name: id.name().to_owned(),
                resource_group: id.resource_group().to_owned(),
                location: vm.location.unwrap_or_default(),
                power_state: vm.power_state.as_ref().map(power_state).unwrap_or_default(),
                disks: 1 + vm.data_disks.len() as u32,
                size_bytes,
                protected: protected.iter().any(|(i, _)| i.arm_id == id),
                agent: self.agent_state(item).await?.into(),
                newest_recovery_point_unix_ms: summary.map_or(0, |(_, at)| at.unix_ms()),
                recovery_points: summary.map_or(0, |(count, _)| *count),
            });
        }
        vms.sort_by_key(|vm| vm.resource_id.to_lowercase());
        Ok(ListVmsResponse { vms })
    }

    pub(super) async fn agent_state(&self, item: Option<&Item>) -> Result<AgentState, Status> {
        let Some(item) = item else { return Ok(AgentState::NotEnrolled) };
        if self.fleet.protected(item.id).is_some() {
            return Ok(AgentState::Connected);
        }
        let certificate = self.store.newest_certificate(item.id).await.map_err(unavailable)?;
        Ok(match certificate {
            Some(c) if !c.revoked => AgentState::Disconnected,
            _ => AgentState::NotEnrolled,
        })
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

fn parse_reference(reference: &VmRef) -> Result<Wanted, Status> {
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
