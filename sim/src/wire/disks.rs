//! Disks and snapshots: requests and documents.

use http::Method;
use serde_json::{Map, Value, json};

use super::document::Shown;
use super::listing::{after, page};
use super::lro::Announce;
use super::reply::Reply;
use super::router::Scope;
use super::sas;
use super::times::azure_time;
use crate::world::{
    Accepted, AccessRequest, ArmError, ArmId, Common, Disk, ImmutabilityRequest, Kind, Power,
    Snapshot, Volume, gib,
};

impl Scope<'_> {
    /// GET, PUT, PATCH, DELETE of one disk or snapshot.
    pub(super) fn one_disk(&mut self, id: &ArmId) -> Result<Reply, ArmError> {
        let (request, injected, now) = (self.request, self.injected, self.now);
        let snapshot = id.kind == Kind::Snapshot;
        match request.method {
            Method::GET => Ok(Reply::json(
                200,
                self.disk_or_snapshot(id, false).ok_or_else(|| self.not_found(id))?,
            )),
            Method::PUT => {
                let accepted = if snapshot {
                    self.world.put_snapshot(id, request.json()?, injected, now)?
                } else {
                    self.world.put_disk(id, request.json()?, injected, now)?
                };
                Ok(self.accepted_disk(id, &accepted))
            }
            Method::PATCH => {
                let accepted = if snapshot {
                    self.world.patch_snapshot(id, request.json()?, injected, now)?
                } else {
                    self.world.patch_disk(id, request.json()?, injected, now)?
                };
                Ok(self.accepted_disk(id, &accepted))
            }
            Method::DELETE => {
                let accepted = if snapshot {
                    self.world.delete_snapshot(id, injected, now)?
                } else {
                    self.world.delete_disk(id, injected, now)?
                };
                Ok(self.deleted(accepted.as_ref()))
            }
            _ => Err(self.method_not_allowed()),
        }
    }

    /// `beginGetAccess`, `endGetAccess`.
    pub(super) fn disk_action(&mut self, id: &ArmId, action: &str) -> Result<Reply, ArmError> {
        let accepted = match action {
            "begingetaccess" => {
                let body: AccessRequest = self.request.json()?;
                let signer = self.signer;
                let sign =
                    |volume: &Volume, grant: &str| sas::path_of_content(signer, volume, grant);
                self.world.begin_get_access(id, &body, sign, self.injected, self.now)?
            }
            "updateimmutabilitypolicy" | "updateimmutabilitypolicylock"
                if id.kind == Kind::Snapshot && self.api_version.as_str() >= "2026-03-02" =>
            {
                let body: ImmutabilityRequest = self.request.json()?;
                let lock = action.ends_with("lock");
                self.world.set_immutability(id, &body, lock, self.injected, self.now)?
            }
            "endgetaccess" => self.world.end_get_access(id, self.injected, self.now)?,
            _ => return Err(self.unknown()),
        };
        Ok(self.announce(Reply::empty(202), Announce::Both, &accepted))
    }

    /// A listing of disks or snapshots.
    pub(super) fn list_disks(&self, kind: Kind, prefix: &str) -> Reply {
        let limits = &self.world.limits;
        let (state, after) = (&self.world.state, after(self.request));
        if kind == Kind::Disk {
            let disks = state.disks.with_prefix_after(prefix, after.as_deref());
            page(self.request, disks, limits, |disk| self.disk(disk))
        } else {
            let snapshots = state.snapshots.with_prefix_after(prefix, after.as_deref());
            page(self.request, snapshots, limits, |snapshot| self.snapshot(snapshot, false))
        }
    }

    /// DELETE: 202 and polling, or 204 for what is not there.
    pub(super) fn deleted(&self, accepted: Option<&Accepted>) -> Reply {
        match accepted {
            Some(accepted) => self.announce(Reply::empty(202), Announce::Both, accepted),
            None => Reply::empty(204),
        }
    }

    /// 202 with a stub: no id, no sizes.
    fn accepted_disk(&self, id: &ArmId, accepted: &Accepted) -> Reply {
        let state = &self.world.state;
        let (Some(common), Some(volume)) = (state.common(id), self.world.volume(id)) else {
            return self.announce(Reply::empty(202), Announce::Both, accepted);
        };
        let mut properties = Map::new();
        properties.insert("creationData".into(), creation_document(volume));
        properties.insert("provisioningState".into(), json!("Updating"));
        properties.insert("isArmResource".into(), json!(true));
        if id.kind == Kind::Disk || !accepted.created {
            properties.insert("diskSizeGB".into(), json!(gib(volume.size_bytes)));
        }
        let mut stub = Map::new();
        stub.insert("location".into(), json!(common.location));
        if accepted.created {
            if id.kind == Kind::Disk {
                stub.insert("name".into(), json!(common.id.name));
            }
        } else {
            stub.insert("sku".into(), sku_document(&volume.sku));
            properties.insert("faultDomain".into(), json!(0));
        }
        stub.insert("properties".into(), Value::Object(properties));
        let stub = Shown::new(stub, &common.tags);
        self.announce(Reply::json(202, stub), Announce::Both, accepted)
    }

    /// The document. `in_operation`: as an operation's output, which lacks `completionPercent`.
    pub(super) fn disk_or_snapshot(&self, id: &ArmId, in_operation: bool) -> Option<Shown> {
        match id.kind {
            Kind::Disk => self.world.state.disks.get(&id.key()).map(|disk| self.disk(disk)),
            Kind::Snapshot => {
                let snapshot = self.world.state.snapshots.get(&id.key())?;
                Some(self.snapshot(snapshot, in_operation))
            }
            _ => None,
        }
    }

    fn disk(&self, disk: &Disk) -> Shown {
        let mut document = self.volume_document(&disk.common, &disk.volume);
        let gib = gib(disk.volume.size_bytes);
        let owner = disk.managed_by.as_ref().and_then(|vm| self.world.state.vms.get(&vm.key()));
        let state = if disk.volume.active_grant(self.now).is_some() {
            "ActiveSAS"
        } else {
            match owner.map(|vm| vm.power) {
                None => "Unattached",
                Some(Power::Deallocated) => "Reserved",
                Some(_) => "Attached",
            }
        };
        let properties = &mut document["properties"];
        properties["diskState"] = json!(state);
        properties["diskIOPSReadWrite"] = json!(500);
        properties["diskMBpsReadWrite"] = json!(60);
        if disk.volume.sku.starts_with("Premium_") {
            properties["tier"] = json!(premium_tier(gib));
        }
        if let Some(owner) = &disk.managed_by {
            document["managedBy"] = json!(owner.shouted());
        }
        if !disk.common.zones.is_empty() {
            document["zones"] = json!(disk.common.zones);
        }
        document
    }

    fn snapshot(&self, snapshot: &Snapshot, in_operation: bool) -> Shown {
        let mut document = self.volume_document(&snapshot.common, &snapshot.volume);
        let active = snapshot.volume.active_grant(self.now).is_some();
        let percent = snapshot.percent(self.now);
        let properties = &mut document["properties"];
        properties["incremental"] = json!(snapshot.incremental);
        properties["diskState"] = json!(if active { "ActiveSAS" } else { "Unattached" });
        if let Some(family) = &snapshot.family {
            properties["incrementalSnapshotFamilyId"] = json!(family);
        }
        if let Some(policy) = &snapshot.immutability {
            properties["immutabilityPolicy"] = json!({
                "immutabilityDurationDays": policy.days,
                "type": if policy.locked { "Locked" } else { "Unlocked" },
                "policyStartTime": azure_time(policy.start),
                "policyExpirationTime": azure_time(policy.expires()),
                "isPolicyExpired": policy.expires() <= self.now,
            });
        }
        if let Some(progress) = &snapshot.progress {
            if !in_operation {
                properties["completionPercent"] = json!(percent);
            }
            if let Some((code, message)) = progress.failure(self.now) {
                properties["copyCompletionError"] =
                    json!({"errorCode": code, "errorMessage": message});
            }
            if snapshot.copied_family.is_none() {
                let word = if percent < 100.0 { "Pending" } else { "Available" };
                properties["snapshotAccessState"] = json!(word);
            }
        }
        document
    }

    fn volume_document(&self, common: &Common, volume: &Volume) -> Shown {
        let mut properties = volume.inherited.clone();
        properties.extend(volume.extra.clone());
        properties.entry("networkAccessPolicy").or_insert(json!("AllowAll"));
        properties.entry("publicNetworkAccess").or_insert(json!("Enabled"));
        properties.insert("creationData".into(), creation_document(volume));
        properties.insert("diskSizeGB".into(), json!(gib(volume.size_bytes)));
        properties.insert("diskSizeBytes".into(), json!(volume.size_bytes));
        properties.insert("uniqueId".into(), json!(volume.unique_id));
        properties.insert("timeCreated".into(), json!(azure_time(common.created)));
        properties.insert("provisioningState".into(), json!(common.provisioning));
        let mut document = Shown::of(common);
        document["sku"] = sku_document(&volume.sku);
        document["properties"] = Value::Object(properties);
        document
    }
}

fn creation_document(volume: &Volume) -> Value {
    let mut creation: Map<String, Value> = volume.creation.extra.clone();
    creation.insert("createOption".into(), json!(volume.creation.option));
    if let Some(source) = &volume.creation.source {
        creation.insert("sourceResourceId".into(), json!(source.to_string()));
    }
    if let Some(unique_id) = &volume.creation.source_unique_id {
        creation.insert("sourceUniqueId".into(), json!(unique_id));
    }
    Value::Object(creation)
}

fn sku_document(sku: &str) -> Value {
    json!({"name": sku, "tier": sku_tier(sku)})
}

fn sku_tier(sku: &str) -> &str {
    match sku.split('_').next() {
        Some(tier @ ("Premium" | "Standard")) => tier,
        Some("StandardSSD") => "Standard",
        Some("PremiumV2") => "Premium",
        Some("UltraSSD") => "Ultra",
        _ => "Standard",
    }
}

fn premium_tier(gib: u64) -> &'static str {
    const TIERS: [(u64, &str); 10] = [
        (4, "P1"),
        (8, "P2"),
        (16, "P3"),
        (32, "P4"),
        (64, "P6"),
        (128, "P10"),
        (256, "P15"),
        (512, "P20"),
        (1024, "P30"),
        (2048, "P40"),
    ];
    TIERS.iter().find(|(size, _)| gib <= *size).map_or("P50", |(_, tier)| tier)
}
