//! ARM calls as steps: errors by class, long operations that survive a restart, deletions that touch
//! only what is ours.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use azdr_arm::{AzureError, ErrorClass, Operation, Progress, Started};
use azdr_domain::arm_id::{ArmId, RESOURCE_GROUP_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tags::{self, Tags};
use super::{Services, StepCx};
use crate::mutation::{Mutation, planted};
use crate::workflow::{Failure, StepError};

/// What people are told to do, by class.
fn hint(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::NotFound => "it may have been deleted or renamed; check it in Azure",
        ErrorClass::Denied => "the controller's identity lacks a right; see docs/permissions.md",
        ErrorClass::Locked => "a management lock forbids it; remove the lock or exempt the group",
        ErrorClass::Quota => "raise the quota, or free some",
        ErrorClass::Capacity => {
            "Azure has no room for this size here now; try another size or zone"
        }
        ErrorClass::Throttled => "Azure asks for fewer requests; azdr slows down by itself",
        ErrorClass::Unavailable | ErrorClass::OutcomeUnknown => {
            "Azure does not answer; azdr tries again by itself for a while"
        }
        _ => "",
    }
}

/// An Azure error as plain failure data.
pub fn failure(e: &AzureError) -> Failure {
    let class = e.class.to_string().replace(' ', "_");
    let mut failure =
        Failure::new(&format!("azure_{class}"), format!("Azure: {} ({})", e.message, e.code)).hint(
            match e.http_status {
                Some(401) => "check credential.* in the controller's configuration",
                _ => hint(e.class),
            },
        );
    // Whoever must take the lock off needs to know where it is.
    let locked = Some(e.class).filter(|class| *class == ErrorClass::Locked);
    let locked = locked.and_then(|_| locked_scope(&e.message)).map(Into::into);
    failure.resource = locked.or_else(|| e.resource.clone());
    failure.azure_request_id = e.request_id.clone();
    failure
}

/// What the lock is on that forbids something: `… following scope(s) are locked: '/subscriptions/…'`.
/// It may be far above or below the resource that was to be changed.
fn locked_scope(message: &str) -> Option<&str> {
    let (_, scopes) = message.split_once("locked: '")?;
    scopes.split('\'').next().filter(|scope| scope.starts_with("/subscriptions/"))
}

impl From<AzureError> for StepError {
    fn from(e: AzureError) -> Self {
        if e.is_retryable() || e.class == ErrorClass::PreconditionFailed {
            Self::Retry { failure: failure(&e), after: e.retry_after }
        } else {
            Self::Fail(failure(&e))
        }
    }
}

/// `None` for a resource that does not exist.
///
/// # Errors
/// Everything but `NotFound`.
pub fn existing<T>(result: Result<T, AzureError>) -> Result<Option<T>, StepError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The operations that a step has begun, by what they do. A handle stays until the step is done: a
/// crash at the very end of an operation does not begin it a second time.
type Begun = BTreeMap<String, Operation>;

/// Begins a long operation and polls it to its end. Its handle is journalled: after a restart the
/// polling goes on where it was, and the operation is not begun a second time. `what` tells the
/// operations of one step apart.
///
/// # Errors
/// The operation's failure, by class. After a failure that may pass, the next call begins anew.
/// `NotYet`, naming the resource, when it takes long: the next call goes on polling.
pub async fn finish<I>(
    cx: &StepCx<I>,
    what: &str,
    begin: impl Future<Output = Result<Started, AzureError>>,
) -> Result<Value, StepError> {
    let mut begun: Begun = cx.checkpoint()?.unwrap_or_default();
    let resumed = begun.contains_key(what);
    let mut operation = match begun.get(what) {
        Some(operation) => operation.clone(),
        None => match begin.await? {
            Started::Done(value) => return Ok(value),
            Started::Running(operation) => {
                begun.insert(what.to_owned(), operation.clone());
                cx.save_checkpoint(Some(&begun)).await?;
                let poll_after = cx.services().azure.poll_after(&operation);
                wait_for(cx, &operation, poll_after).await?;
                operation
            }
        },
    };
    let azure = &cx.services().azure;
    loop {
        match azure.poll(&mut operation).await {
            Ok(Progress::Done(value)) => return Ok(value),
            Ok(Progress::Running { poll_after }) => wait_for(cx, &operation, poll_after).await?,
            // The operation may well go on: the next call polls it again.
            Err(e) if is_passing(&e) && !operation.is_over() => return Err(e.into()),
            Err(e) => {
                begun.remove(what);
                cx.save_checkpoint(Some(&begun).filter(|b| !b.is_empty())).await?;
                // Azure keeps the records of operations for a day (AZURE.md A.3).
                return Err(match StepError::from(e) {
                    StepError::Fail(failure) if resumed && &*failure.kind == "azure_not_found" => {
                        StepError::Retry { failure, after: None }
                    }
                    e => e,
                });
            }
        }
    }
}

/// Waits between two polls of an operation.
async fn wait_for<I>(
    cx: &StepCx<I>,
    operation: &Operation,
    poll_after: Duration,
) -> Result<(), StepError> {
    cx.wait(poll_after).await.map_err(|e| match e {
        StepError::NotYet { percent, after, .. } => {
            let target = operation.target();
            let detail = format!("Azure is still working on {target}");
            StepError::NotYet { detail, percent, after, resource: Some(target.as_str().into()) }
        }
        e => e,
    })
}

fn is_passing(e: &AzureError) -> bool {
    matches!(e.class, ErrorClass::Throttled | ErrorClass::Unavailable | ErrorClass::OutcomeUnknown)
}

/// What kind of resource is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Managed disk.
    Disk,
    /// Snapshot.
    Snapshot,
    /// Virtual machine.
    Vm,
    /// Network interface.
    Nic,
    /// Virtual network.
    Vnet,
    /// Network security group.
    Nsg,
    /// Public IP address.
    PublicIp,
    /// Resource group with everything in it.
    Group,
}

impl Resource {
    /// What an id names; `None` for what azdr never makes.
    pub fn of(id: &ArmId) -> Option<Self> {
        let types = [
            ("Microsoft.Compute/disks", Self::Disk),
            ("Microsoft.Compute/snapshots", Self::Snapshot),
            ("Microsoft.Compute/virtualMachines", Self::Vm),
            ("Microsoft.Network/networkInterfaces", Self::Nic),
            ("Microsoft.Network/virtualNetworks", Self::Vnet),
            ("Microsoft.Network/networkSecurityGroups", Self::Nsg),
            ("Microsoft.Network/publicIPAddresses", Self::PublicIp),
            (RESOURCE_GROUP_TYPE, Self::Group),
        ];
        types.into_iter().find(|(name, _)| id.is_type(name)).map(|(_, kind)| kind)
    }
}

/// Deletes a resource if it exists and carries this run's tag; anything else is left alone. Done when
/// Azure says that it is gone.
///
/// # Errors
/// By class; a resource that cannot be deleted now is tried again by the engine.
pub async fn delete_if_ours<I>(
    cx: &StepCx<I>,
    kind: Resource,
    id: &ArmId,
) -> Result<(), StepError> {
    delete_if_tagged(cx, kind, id, &tags::run_tag(cx)).await.map(drop)
}

/// Deletes a resource if it exists and carries the tag of the run `tag`; anything else is left alone.
/// Done when Azure says that it is gone. Answers whether it is: one that does not exist is.
///
/// # Errors
/// By class; a resource that cannot be deleted now is tried again by the engine.
pub async fn delete_if_tagged<I>(
    cx: &StepCx<I>,
    kind: Resource,
    id: &ArmId,
    tag: &str,
) -> Result<bool, StepError> {
    let begun: Begun = cx.checkpoint()?.unwrap_or_default();
    if !begun.contains_key(id.key()) {
        let Some(found) = tags_of(cx.services(), kind, id).await? else {
            return Ok(true);
        };
        let is_its = tags::value(&found, tags::RUN) == Some(tag);
        if !is_its && !planted(Mutation::UndoIgnoresTag) {
            tracing::warn!(run = %cx.run_id(), %id, tag, "not made by that run: left alone");
            return Ok(false);
        }
    }
    delete(cx, kind, id).await?;
    Ok(true)
}

/// Deletes a resource. One that does not exist is deleted.
///
/// # Errors
/// By class.
pub async fn delete<I>(cx: &StepCx<I>, kind: Resource, id: &ArmId) -> Result<(), StepError> {
    let azure = &cx.services().azure;
    finish(cx, id.key(), async {
        match kind {
            Resource::Disk => azure.begin_delete_disk(id).await,
            Resource::Snapshot => azure.begin_delete_snapshot(id).await,
            Resource::Vm => azure.begin_delete_vm(id).await,
            Resource::Nic => azure.begin_delete_network_interface(id).await,
            Resource::Vnet => azure.begin_delete_virtual_network(id).await,
            Resource::Nsg => azure.begin_delete_network_security_group(id).await,
            Resource::PublicIp => azure.begin_delete_public_ip(id).await,
            Resource::Group => azure.begin_delete_resource_group(id).await,
        }
    })
    .await
    .map(drop)
}

/// A resource's tags; `None` when it does not exist.
async fn tags_of(
    services: &Services,
    kind: Resource,
    id: &ArmId,
) -> Result<Option<Tags>, StepError> {
    let azure = &services.azure;
    Ok(match kind {
        Resource::Disk => existing(azure.get_disk(id).await)?.map(|r| r.tags),
        Resource::Snapshot => existing(azure.get_snapshot(id).await)?.map(|r| r.tags),
        Resource::Vm => existing(azure.get_vm(id).await)?.map(|r| r.tags),
        Resource::Group => existing(azure.get_resource_group(id).await)?.map(|r| r.tags),
        Resource::Nic => existing(azure.get_network_interface(id).await)?.map(|r| r.tags),
        Resource::Vnet | Resource::Nsg | Resource::PublicIp => existing(azure.get_tags(id).await)?,
    })
}

/// What a listing of Azure shows of this run beyond `allowed` (I5).
///
/// # Errors
/// By class.
pub async fn left_of_run<I>(
    cx: &StepCx<I>,
    subscription: &str,
    allowed: &[ArmId],
) -> Result<Vec<String>, StepError> {
    let azure = &cx.services().azure;
    let tag = tags::run_tag(cx);
    let resources = azure.list_by_tag(subscription, tags::RUN, &tag).await?;
    let groups = azure.list_resource_groups_by_tag(subscription, tags::RUN, &tag).await?;
    let ids = resources.into_iter().map(|r| r.id).chain(groups.into_iter().filter_map(|g| g.id));
    Ok(ids.filter(|id| !allowed.contains(id)).map(|id| id.to_string()).collect())
}

/// Makes sure of a resource group that outlives the run.
///
/// # Errors
/// By class.
pub async fn ensure_shared_group<I>(
    cx: &StepCx<I>,
    group: &ArmId,
    location: &str,
) -> Result<(), StepError> {
    let owner = BTreeMap::from([(tags::OWNER.to_owned(), tags::OWNED.to_owned())]);
    cx.services().azure.ensure_resource_group(group, location, &owner).await?;
    Ok(())
}

/// The group in which a region's snapshots live, apart from what they protect.
///
/// # Errors
/// When the configured prefix and the region make no valid name.
pub fn snapshot_group<I>(cx: &StepCx<I>, vm: &ArmId, region: &str) -> Result<ArmId, StepError> {
    let prefix = &cx.services().settings.snapshot_group_prefix;
    named(ArmId::resource_group_id(vm.subscription(), &format!("{prefix}{region}")))
}

/// Turns an id error into a step failure: names are checked before they reach a URL.
pub fn named<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, StepError> {
    result.map_err(|e| StepError::fail("bad_name", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_blamed_where_it_is() {
        let group = "/subscriptions/1/resourceGroups/drill";
        let disk = format!("{group}/providers/Microsoft.Compute/disks/os");
        let refused = |class, words: &str| {
            let e = AzureError::new(class, "ScopeLocked", words).for_resource(group);
            failure(&e).resource.map(String::from)
        };
        let words = format!(
            "The scope '{group}' cannot perform delete operation because following scope(s) are \
             locked: '{disk}'. Please remove the lock and try again."
        );
        assert_eq!(refused(ErrorClass::Locked, &words), Some(disk));
        // In other words, or about something else: what was to be changed.
        let group = Some(group.to_owned());
        assert_eq!(refused(ErrorClass::Locked, "It is locked: 'no'."), group);
        assert_eq!(refused(ErrorClass::Conflict, &words), group);
    }

    #[test]
    fn every_class_of_error_is_repeated_or_turns_back_as_the_table_says() {
        use ErrorClass::*;
        let table = [
            (NotFound, false, "azure_not_found"),
            (Conflict, false, "azure_conflict"),
            // The next call reads again and plans again.
            (PreconditionFailed, true, "azure_precondition_failed"),
            (Throttled, true, "azure_throttled"),
            (Quota, false, "azure_quota_exceeded"),
            (Capacity, false, "azure_no_capacity"),
            (Denied, false, "azure_denied"),
            (Locked, false, "azure_locked"),
            (Invalid, false, "azure_invalid"),
            (Unavailable, true, "azure_unavailable"),
            (OutcomeUnknown, true, "azure_outcome_unknown"),
            (Failed, false, "azure_failed"),
        ];
        for (class, repeats, kind) in table {
            let mut e = AzureError::new(class, "Code", "words").for_resource("/subscriptions/s");
            e.retry_after = Some(Duration::from_secs(7));
            e.request_id = Some("request".into());
            let (failure, repeated) = match StepError::from(e) {
                StepError::Retry { failure, after } => {
                    assert_eq!(after, Some(Duration::from_secs(7)), "{class}");
                    (failure, true)
                }
                StepError::Fail(failure) => (failure, false),
                other => panic!("{class}: {other:?}"),
            };
            assert_eq!((repeated, &*failure.kind), (repeats, kind), "{class}");
            assert_eq!(&*failure.message, "Azure: words (Code)", "{class}");
            assert_eq!(failure.resource.as_deref(), Some("/subscriptions/s"), "{class}");
            assert_eq!(failure.azure_request_id.as_deref(), Some("request"), "{class}");
            assert!(
                !failure.hint.is_empty()
                    || [Conflict, PreconditionFailed, Invalid, Failed,].contains(&class),
                "{class} has no hint"
            );
        }
    }

    #[test]
    fn a_conflict_that_passes_is_repeated() {
        let busy = AzureError::new(ErrorClass::Conflict, "AnotherOperationInProgress", "busy");
        assert!(matches!(StepError::from(busy), StepError::Retry { .. }));
    }
}
