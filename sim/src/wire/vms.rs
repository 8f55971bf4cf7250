//! Virtual machines: requests and documents.

use http::Method;
use serde_json::{Map, Value, json};

use super::document::Shown;
use super::listing::{after, page};
use super::lro::Announce;
use super::reply::Reply;
use super::router::Scope;
use super::times::azure_time;
use crate::world::{Accepted, ArmError, ArmId, Attachment, Power, PowerAction, Vm, gib};

impl Scope<'_> {
    /// GET, PUT, PATCH, DELETE of one VM.
    pub(super) fn one_vm(&mut self, id: &ArmId) -> Result<Reply, ArmError> {
        let (request, injected, now) = (self.request, self.injected, self.now);
        let if_match = request.header("if-match");
        match request.method {
            Method::GET => {
                let vm = self.found_vm(id)?;
                let expand = request.param("$expand").unwrap_or_default();
                let view = expand.eq_ignore_ascii_case("instanceView");
                Ok(tagged(Reply::json(200, self.vm(vm, view)), vm))
            }
            Method::PUT => {
                if request.header("if-none-match") == Some("*") && self.found_vm(id).is_ok() {
                    return Err(ArmError::new(
                        412,
                        "PreconditionFailed",
                        "The resource exists already.",
                    ));
                }
                let accepted = self.world.put_vm(id, request.json()?, if_match, injected, now)?;
                self.changed_vm(id, if accepted.created { 201 } else { 200 }, &accepted)
            }
            Method::PATCH => {
                self.found_vm(id)?;
                let body = request.json()?;
                let accepted = self.world.change_vm(id, body, if_match, false, injected, now)?;
                self.changed_vm(id, 200, &accepted)
            }
            Method::DELETE => {
                let accepted = self.world.delete_vm(id, injected, now)?;
                Ok(self.deleted(accepted.as_ref()))
            }
            _ => Err(self.method_not_allowed()),
        }
    }

    fn changed_vm(&self, id: &ArmId, status: u16, accepted: &Accepted) -> Result<Reply, ArmError> {
        let vm = self.found_vm(id)?;
        let reply = tagged(Reply::json(status, self.vm(vm, false)), vm);
        Ok(self.announce(reply, Announce::AsyncOnly, accepted))
    }

    /// `instanceView`, power operations, boot diagnostics.
    pub(super) fn vm_action(&mut self, id: &ArmId, action: &str) -> Result<Reply, ArmError> {
        let power = match action {
            "instanceview" if self.request.method == Method::GET => {
                return Ok(Reply::json(200, self.instance_view(self.found_vm(id)?)));
            }
            _ if self.request.method != Method::POST => return Err(self.unknown()),
            "retrievebootdiagnosticsdata" => return self.boot_diagnostics(id),
            "start" => PowerAction::Start,
            "poweroff" => PowerAction::PowerOff,
            "deallocate" => PowerAction::Deallocate,
            "restart" => PowerAction::Restart,
            _ => return Err(self.unknown()),
        };
        self.found_vm(id)?;
        let accepted = self.world.power(id, power, self.injected, self.now)?;
        Ok(self.announce(Reply::empty(202), Announce::Both, &accepted))
    }

    /// A listing of VMs.
    pub(super) fn list_vms(&self, prefix: &str) -> Reply {
        let expand = self.request.param("$expand").unwrap_or_default();
        let status_only = self.request.param("statusOnly").unwrap_or_default();
        let view =
            expand.eq_ignore_ascii_case("instanceView") || status_only.eq_ignore_ascii_case("true");
        let after = after(self.request);
        let vms = self.world.state.vms.with_prefix_after(prefix, after.as_deref());
        page(self.request, vms, &self.world.limits, |vm| self.vm(vm, view))
    }

    pub(super) fn found_vm(&self, id: &ArmId) -> Result<&Vm, ArmError> {
        self.world.state.vms.get(&id.key()).ok_or_else(|| self.not_found(id))
    }

    fn vm(&self, vm: &Vm, view: bool) -> Shown {
        let mut properties = vm.properties.clone();
        let mut storage = vm.storage.clone();
        let mut disks = vm.disks.iter().map(|attachment| self.attachment(vm, attachment));
        storage.insert("osDisk".into(), disks.next().unwrap_or_default());
        storage.insert("dataDisks".into(), disks.collect());
        properties.insert("storageProfile".into(), Value::Object(storage));
        let nics: Vec<Value> = vm
            .nics
            .iter()
            .map(|attached| {
                let mut reference = json!({"id": attached.nic.to_string()});
                if !attached.properties.is_empty() {
                    reference["properties"] = Value::Object(attached.properties.clone());
                }
                reference
            })
            .collect();
        properties.insert("networkProfile".into(), json!({"networkInterfaces": nics}));
        properties.insert("provisioningState".into(), json!(vm.common.provisioning));
        properties.insert("vmId".into(), json!(vm.vm_id));
        properties.insert("timeCreated".into(), json!(azure_time(vm.common.created)));
        if view {
            properties.insert("instanceView".into(), self.instance_view(vm));
        }
        let mut document = Shown::of(&vm.common);
        for (name, value) in &vm.top {
            document[name.as_str()] = value.clone();
        }
        if !vm.common.zones.is_empty() {
            document["zones"] = json!(vm.common.zones);
        }
        document["properties"] = Value::Object(properties);
        document["etag"] = json!(format!("\"{}\"", vm.etag));
        document
    }

    fn attachment(&self, vm: &Vm, attachment: &Attachment) -> Value {
        let mut entry: Map<String, Value> = attachment.extra.clone();
        let mut managed = json!({"id": attachment.disk.shouted()});
        // Of a deallocated VM, Azure does not show what the disks are like.
        let disk = self.world.state.disks.get(&attachment.disk.key());
        if let Some(disk) = disk.filter(|_| vm.power != Power::Deallocated) {
            managed["storageAccountType"] = json!(disk.volume.sku);
            entry.insert("diskSizeGB".into(), json!(gib(disk.volume.size_bytes)));
        }
        match attachment.lun {
            None => entry.insert("osType".into(), json!(vm.os_type)),
            Some(lun) => {
                entry.insert("toBeDetached".into(), json!(false));
                entry.insert("lun".into(), json!(lun))
            }
        };
        entry.insert("name".into(), json!(attachment.disk.name));
        entry.insert("createOption".into(), json!(attachment.create_option));
        entry.insert("caching".into(), json!(attachment.caching));
        entry.insert("managedDisk".into(), managed);
        entry.insert("deleteOption".into(), json!(attachment.delete_option));
        Value::Object(entry)
    }

    fn instance_view(&self, vm: &Vm) -> Value {
        let time = azure_time(self.now);
        let (code, level) = match vm.common.provisioning.as_str() {
            "Failed" => ("ProvisioningState/failed".to_owned(), "Error"),
            state => (format!("ProvisioningState/{}", state.to_lowercase()), "Info"),
        };
        let mut provisioning = json!({"code": code, "level": level, "displayStatus": code.replace("ProvisioningState/", "Provisioning "), "time": time});
        if let Some(message) = &vm.start_error {
            provisioning["message"] = json!(message);
        }
        let power = match vm.power {
            Power::Starting if vm.common.provisioning == "Creating" => "creating",
            Power::Starting => "starting",
            Power::Running => "running",
            Power::Stopping => "stopping",
            Power::Stopped => "stopped",
            Power::Deallocating => "deallocating",
            Power::Deallocated => "deallocated",
        };
        let disks: Vec<Value> = vm
            .disks
            .iter()
            .map(|attached| {
                let status = json!({"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded", "time": time});
                json!({"name": attached.disk.name, "statuses": [status]})
            })
            .collect();
        json!({
            "disks": disks,
            "hyperVGeneration": "V1",
            "statuses": [
                provisioning,
                {"code": format!("PowerState/{power}"), "level": "Info", "displayStatus": format!("VM {power}")},
            ],
        })
    }
}

fn tagged(reply: Reply, vm: &Vm) -> Reply {
    reply.header("etag", format!("\"{}\"", vm.etag))
}
