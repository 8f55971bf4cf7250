//! Which recovery point is meant: the one resolver for every call that takes one.
//!
//! A point is named by its name, or by VM and time with any tier that it carries, or by VM and date
//! ([`PointReference`]). A whole name comes first: what else it might describe does not count then.

use azdr_domain::point_reference::PointReference;
use azdr_proto::admin::VmRef;
use tonic::{Code, Status};

use super::Admin;
use super::errors::{hinted, unavailable};
use crate::store::{Item, PointRow};

/// Longest text that is looked at.
const MAX_TEXT: usize = 512;
/// Most candidates that an error lists.
const MAX_LISTED: usize = 10;

/// What the VM that is named with a point leaves open.
enum Scope {
    Vm(Box<Item>),
    Group(String),
    Any,
}

impl Scope {
    fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Vm(vm) => vm.id == item.id,
            Self::Group(group) => item.arm_id.resource_group().eq_ignore_ascii_case(group),
            Self::Any => true,
        }
    }
}

impl Admin {
    /// Finds the recovery point that is meant, with its VM. `vm` may name the VM, or only a resource
    /// group.
    ///
    /// # Errors
    /// `NOT_FOUND`; `INVALID_ARGUMENT` with the candidates when several fit.
    pub(super) async fn find_point(
        &self,
        text: &str,
        vm: Option<&VmRef>,
    ) -> Result<(PointRow, Item), Status> {
        let scope = match vm {
            Some(vm) if !vm.name.is_empty() => {
                let named = self.resolve(Some(vm)).await?;
                let vm = named.id.name().to_owned();
                let item = named.item.ok_or_else(|| not_found(text, Some(&vm)))?;
                Scope::Vm(Box::new(item))
            }
            Some(vm) if !vm.resource_group.is_empty() => Scope::Group(vm.resource_group.clone()),
            _ => Scope::Any,
        };
        self.find_in(text, scope).await
    }

    /// The same of a VM that is known.
    ///
    /// # Errors
    /// As [`find_point`](Self::find_point).
    pub(super) async fn find_point_of(&self, item: &Item, text: &str) -> Result<PointRow, Status> {
        let scope = Scope::Vm(Box::new(item.clone()));
        Ok(self.find_in(text, scope).await?.0)
    }

    async fn find_in(&self, text: &str, scope: Scope) -> Result<(PointRow, Item), Status> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(Status::invalid_argument("no recovery point is named"));
        }
        let mut fitting = self.of_name(text, &scope).await?;
        if fitting.is_empty() {
            fitting = self.described(text, &scope).await?;
        }
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(match &scope {
                Scope::Vm(item) => not_found(text, Some(item.arm_id.name())),
                _ if self.store.vms_named(text).await.map_err(unavailable)?.is_empty() => {
                    not_found(text, None)
                }
                _ => hinted(
                    Code::NotFound,
                    format!("{text} is a VM, and a recovery point is wanted"),
                    &format!("name one of its backups: `azdr backup list {text}`"),
                ),
            }),
            _ => Err(ambiguous(text, &fitting)),
        }
    }

    async fn of_name(&self, name: &str, scope: &Scope) -> Result<Vec<(PointRow, Item)>, Status> {
        let mut found = Vec::new();
        for point in self.store.points_named(name).await.map_err(unavailable)? {
            let item = self.store.item_by_id(point.item).await.map_err(unavailable)?;
            if scope.holds(&item) {
                found.push((point, item));
            }
        }
        Ok(found)
    }

    async fn described(&self, text: &str, scope: &Scope) -> Result<Vec<(PointRow, Item)>, Status> {
        let Some(reference) = PointReference::parse(text) else { return Ok(Vec::new()) };
        let items = match scope {
            Scope::Vm(item) => vec![(**item).clone()],
            _ if !reference.names_a_vm() => {
                return Err(hinted(
                    Code::InvalidArgument,
                    format!("recovery point {text:?} does not say of which VM"),
                    "name it with --vm, or give the point's whole name",
                ));
            }
            _ => self.store.items().await.map_err(unavailable)?,
        };
        let mut found = Vec::new();
        for item in items {
            if !scope.holds(&item) || !reference.fits_vm(item.arm_id.name()) {
                continue;
            }
            for (name, tiers) in self.store.point_names(item.id).await.map_err(unavailable)? {
                if !reference.fits(&name, tiers) {
                    continue;
                }
                // It may have been deleted a moment ago.
                let points = self.store.points_named(name.as_str()).await.map_err(unavailable)?;
                let point = points.into_iter().find(|p| p.item == item.id);
                found.extend(point.map(|point| (point, item.clone())));
            }
        }
        Ok(found)
    }
}

fn not_found(text: &str, vm: Option<&str>) -> Status {
    let (message, vm) = match vm {
        Some(vm) => (format!("{vm} has no recovery point {text:?}"), vm),
        None => (format!("there is no recovery point {text:?}"), "VM"),
    };
    let hint = format!(
        "see `azdr backup list {vm}`; a point is named whole, or by VM, tier and date like \
         {vm}-backup-daily-20251201"
    );
    hinted(Code::NotFound, message, &hint)
}

fn ambiguous(text: &str, fitting: &[(PointRow, Item)]) -> Status {
    let several_vms = fitting.iter().any(|(_, item)| item.id != fitting[0].1.id);
    let candidate = |(point, item): &(PointRow, Item)| {
        let (vm, group) = (item.arm_id.name(), item.arm_id.resource_group());
        if several_vms {
            format!("{} (VM {vm} in resource group {group})", point.name)
        } else {
            point.name.to_string()
        }
    };
    let mut listed: Vec<String> = fitting.iter().take(MAX_LISTED).map(candidate).collect();
    if fitting.len() > MAX_LISTED {
        listed.push(format!("and {} more", fitting.len() - MAX_LISTED));
    }
    let message = format!("{} recovery points fit {text:?}: {}", fitting.len(), listed.join(", "));
    let hint = if several_vms {
        "say which with --resource-group or --vm"
    } else {
        "give the whole name of one"
    };
    hinted(Code::InvalidArgument, message, hint)
}
