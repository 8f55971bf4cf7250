//! Virtual machines: reads, power, changes, the boot log.

use azdr_domain::ArmId;
use http::Method;
use serde_json::Value;
use url::Url;

use super::access::content_range;
use super::{Action, FinalResult, Started, VM, expect_type, with_api};
use crate::bridge::{VM_API, sent};
use crate::client::{ArmClient, Call, json_body};
use crate::error::AzureError;
use crate::views::{Vm, text};

/// How much of a boot log is read, from its end.
const LOG_TAIL: u64 = 1 << 20;

impl ArmClient {
    /// Reads a VM, with its ETag. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_vm(&self, id: &ArmId) -> Result<Vm, AzureError> {
        self.read_vm(id, false).await
    }

    /// Reads a VM together with its power state. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_vm_with_instance_view(&self, id: &ArmId) -> Result<Vm, AzureError> {
        self.read_vm(id, true).await
    }

    async fn read_vm(&self, id: &ArmId, instance_view: bool) -> Result<Vm, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let mut request = builders.get(id.resource_group(), id.name(), id.subscription());
        if instance_view {
            request = request.expand("instanceView");
        }
        let answer = sent(request.send()).await?;
        let mut vm = Vm::from_json(json_body(&answer)?);
        // Older API versions say it in the header alone.
        vm.etag = vm.etag.or_else(|| answer.header("etag"));
        Ok(vm)
    }

    /// All VMs of a subscription, without their power states. A time-out changes nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_vms(&self, subscription: &str) -> Result<Vec<Vm>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(super::invalid_id)?;
        let path = format!("/subscriptions/{subscription}/providers/{VM}?api-version={VM_API}");
        Ok(self.list_json(&path).await?.into_iter().map(Vm::from_json).collect())
    }

    /// Powers a VM off: it stays billed and keeps its capacity and dynamic addresses. With
    /// `skip_shutdown` the guest is not asked. Repeating it changes nothing; after a time-out the VM
    /// may be stopping: repeat it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` during another operation.
    pub async fn begin_power_off(
        &self,
        id: &ArmId,
        skip_shutdown: bool,
    ) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders
            .power_off(id.resource_group(), id.name(), id.subscription())
            .skip_shutdown(skip_shutdown);
        let answer = sent(request.send()).await;
        self.begun(id, Action::Post, FinalResult::Nothing, answer)
    }

    /// Starts a VM. Success says nothing about the guest. Repeating it changes nothing; after a
    /// time-out the VM may be starting: repeat it.
    ///
    /// # Errors
    /// `Capacity`, usually from the poll, when Azure has no room for a deallocated VM any more.
    pub async fn begin_start(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders.start(id.resource_group(), id.name(), id.subscription());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Post, FinalResult::Nothing, answer)
    }

    /// Powers a VM off and gives its capacity back. Repeating it changes nothing; after a time-out
    /// the VM may be deallocating: repeat it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` during another operation.
    pub async fn begin_deallocate(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders.deallocate(id.resource_group(), id.name(), id.subscription());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Post, FinalResult::Nothing, answer)
    }

    /// Restarts a VM. Repeating it restarts it again. After a time-out it may have been restarted.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is not running.
    pub async fn begin_restart(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders.restart(id.resource_group(), id.name(), id.subscription());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Post, FinalResult::Nothing, answer)
    }

    /// Deletes a VM; one that does not exist is a success. Disks and NICs go with it only where their
    /// `deleteOption` says so. After a time-out it may be gone, or go soon: repeat it.
    ///
    /// # Errors
    /// `Locked`, `Conflict`.
    pub async fn begin_delete_vm(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders.delete(id.resource_group(), id.name(), id.subscription());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Delete, FinalResult::Nothing, answer)
    }

    /// Makes a VM. Raw JSON: a typed body would drop the fields of a captured description that it
    /// does not know. Repeating it with the same body changes nothing; after a time-out the VM may
    /// exist: repeat it, or read it.
    ///
    /// # Errors
    /// `Capacity` and `Quota`, from here or from the poll.
    pub async fn begin_create_vm(&self, id: &ArmId, body: Value) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let call = Call::new(Method::PUT, self.core.url(&with_api(id, VM_API))?).json(&body);
        let answer = self.send(call).await;
        self.begun(id, Action::Write, FinalResult::Resource, answer)
    }

    /// Changes a VM by a minimal patch. Raw JSON: a typed one would send more than was meant.
    /// `data_disks` in a patch are the whole list: a disk that is left out is detached.
    ///
    /// With `if_match` it changes only the VM that was read; then repeating it after it was done is a
    /// `PreconditionFailed`, and so is the case after a time-out: read the VM to tell.
    ///
    /// # Errors
    /// `PreconditionFailed` when the VM was changed since; `Conflict` during another operation.
    pub async fn begin_patch_vm(
        &self,
        id: &ArmId,
        patch: Value,
        if_match: Option<&str>,
    ) -> Result<Started, AzureError> {
        expect_type(id, VM)?;
        let call = Call::new(Method::PATCH, self.core.url(&with_api(id, VM_API))?)
            .json(&patch)
            .if_match(if_match)?;
        let answer = self.send(call).await;
        self.begun(id, Action::Write, FinalResult::Resource, answer)
    }

    /// The last megabyte of a VM's serial log; `None` without boot diagnostics, or before the first
    /// line. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` is `None`; any other.
    pub async fn boot_diagnostics_log(&self, id: &ArmId) -> Result<Option<String>, AzureError> {
        expect_type(id, VM)?;
        let builders = self.builders.virtual_machines();
        let request = builders
            .retrieve_boot_diagnostics_data(id.resource_group(), id.name(), id.subscription())
            .sas_uri_expiration_time_in_minutes(10);
        let absent = |error: &AzureError| {
            // Azure refuses with a conflict when boot diagnostics are not on.
            error.is_not_found() || error.http_status == Some(409)
        };
        let uris = match sent(request.send()).await {
            Ok(answer) => json_body(&answer)?,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(url) = text(&uris, "/serialConsoleLogBlobUri")
            .and_then(|uri| Url::parse(&uri).ok())
            .filter(|url| url.scheme() == "https")
        else {
            return Ok(None);
        };
        let head = match self.get_blob(&url, 0, LOG_TAIL).await {
            Ok(head) => head,
            // A blob that is not there yet, or empty (no range fits it).
            Err(error) if error.is_not_found() || error.http_status == Some(416) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let body = match content_range(&head).1.filter(|total| *total > LOG_TAIL) {
            Some(total) => self.get_blob(&url, total - LOG_TAIL, LOG_TAIL).await?.body,
            None => head.body,
        };
        Ok(Some(String::from_utf8_lossy(&body).into_owned()))
    }
}
