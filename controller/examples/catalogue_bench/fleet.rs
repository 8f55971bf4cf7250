//! The VMs and their policies: as many as one controller is built for, all from one seed.

use std::collections::BTreeMap;

use anyhow::Context;
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::policy_tag::POLICY_TAG;
use azdr_domain::recovery_point::{DiskDescription, VmDescription};
use azdr_domain::region::Region;
use azdr_domain::selection::{NamedPolicy, Selector};
use azdr_env::WallTime;
use serde_json::{Value, json};

pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
pub(crate) const TENANT: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
pub(crate) const CLIENT_ID: &str = "99999999-8888-4777-8666-555555555555";
pub(crate) const CLIENT_SECRET: &str = "a secret of the benchmark";
pub(crate) const HOME: &str = "eastus";
pub(crate) const TARGET: &str = "westus2";

/// The tag by which named policies choose VMs.
const CHOSEN_BY: &str = "backup";
const GROUP_SIZE: usize = 100;
const HOUR: i64 = 3_600_000;

/// SplitMix64: the same catalogue from the same seed, everywhere.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn hex(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }

    fn guid(&mut self) -> String {
        let hex = self.hex();
        format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }
}

/// One kind of policy. Shares are of 100 VMs.
struct Kind {
    name: &'static str,
    share: u64,
    zone: &'static str,
    /// Daily, weekly, monthly, yearly.
    retention: [u32; 4],
    replicated: bool,
    verify_days: Option<u32>,
    drill_days: Option<u32>,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "gold",
        share: 30,
        zone: "Europe/Berlin",
        retention: [60, 26, 36, 5],
        replicated: true,
        verify_days: Some(7),
        drill_days: Some(30),
    },
    Kind {
        name: "silver",
        share: 40,
        zone: "America/New_York",
        retention: [45, 30, 24, 0],
        replicated: false,
        verify_days: Some(30),
        drill_days: None,
    },
    Kind {
        name: "bronze",
        share: 20,
        zone: "UTC",
        retention: [90, 4, 0, 0],
        replicated: false,
        verify_days: None,
        drill_days: None,
    },
    Kind {
        name: "archive",
        share: 10,
        zone: "Asia/Kolkata",
        retention: [0, 52, 24, 3],
        replicated: false,
        verify_days: None,
        drill_days: None,
    },
];

/// A protected VM.
pub(crate) struct Vm {
    pub(crate) id: ArmId,
    pub(crate) guid: String,
    /// Its place in [`Fleet::policies`].
    pub(crate) kind: usize,
    /// How it looked; the first is the oldest.
    pub(crate) descriptions: Vec<VmDescription>,
    pub(crate) tags: BTreeMap<String, String>,
}

pub(crate) struct Fleet {
    pub(crate) policies: Vec<NamedPolicy>,
    pub(crate) vms: Vec<Vm>,
}

impl Fleet {
    /// `now`: no backup is scheduled from six hours before it until half a day after it.
    pub(crate) fn new(vms: usize, seed: u64, now: WallTime) -> anyhow::Result<Self> {
        let policies: Vec<NamedPolicy> = KINDS
            .iter()
            .enumerate()
            .map(|(n, kind)| {
                named_policy(kind, now.unix_ms() - (6 * 60 + 40 * n as i64) * HOUR / 60)
            })
            .collect::<anyhow::Result<_>>()?;
        let mut dice = Dice(seed);
        let vms = (0..vms).map(|n| vm(n, &policies, &mut dice)).collect::<anyhow::Result<_>>()?;
        Ok(Self { policies, vms })
    }

    /// As `azure-sim init` reads it.
    pub(crate) fn world(&self) -> Value {
        let groups: std::collections::BTreeSet<&str> =
            self.vms.iter().map(|vm| vm.id.resource_group()).collect();
        let groups: Vec<Value> =
            groups.iter().map(|name| json!({"name": name, "location": HOME})).collect();
        let vms: Vec<Value> = self.vms.iter().map(Vm::in_world).collect();
        json!({
            "subscription": SUBSCRIPTION, "tenant": TENANT,
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "regions": [HOME, TARGET], "resource_groups": groups, "vms": vms,
        })
    }
}

impl Vm {
    fn in_world(&self) -> Value {
        let now = self.descriptions.last().expect("a VM looks somehow");
        let disk = |d: &DiskDescription| json!({"name": d.name, "size_bytes": d.size_bytes, "sku": d.sku, "lun": d.lun});
        let data: Vec<Value> = now.disks.iter().filter(|d| d.lun.is_some()).map(disk).collect();
        json!({
            "name": self.id.name(), "resource_group": self.id.resource_group(), "location": HOME,
            "size": now.size, "os_disk": now.os_disk().map(disk), "data_disks": data,
            "running": false, "tags": self.tags,
        })
    }
}

fn named_policy(kind: &Kind, last_scheduled_ms: i64) -> anyhow::Result<NamedPolicy> {
    let [daily, weekly, monthly, yearly] = kind.retention.map(Some);
    let days = |days: Option<u32>| days.map(|n| n * 86_400);
    let zone: azdr_domain::ZoneName = kind.zone.parse()?;
    let at = WallTime::from_unix_ms(last_scheduled_ms).timestamp().to_zoned(zone.zone());
    let change = PolicyChange {
        enabled: Some(true),
        daily,
        weekly,
        monthly,
        yearly,
        time_zone: Some(kind.zone.to_owned()),
        schedule_time: Some(at.strftime("%H:%M").to_string()),
        target_region: kind.replicated.then(|| TARGET.to_owned()),
        verify_every_secs: days(kind.verify_days),
        drill_every_secs: days(kind.drill_days),
        rpo_secs: Some(86_400),
        ..PolicyChange::default()
    };
    let tags = BTreeMap::from([(CHOSEN_BY.to_owned(), kind.name.to_owned())]);
    Ok(NamedPolicy {
        name: kind.name.parse()?,
        select: Selector::new(None, tags)?,
        policy: Policy::default().apply_anywhere(&change)?,
    })
}

fn vm(n: usize, policies: &[NamedPolicy], dice: &mut Dice) -> anyhow::Result<Vm> {
    let name = format!("{}-{n:05}", ["db", "web", "cache", "batch"][dice.below(4) as usize]);
    let group = format!("rg-{:03}", n / GROUP_SIZE);
    let id = ArmId::virtual_machine(SUBSCRIPTION, &group, &name)?;
    // By place and not by dice: every 100 VMs are alike in this.
    let mut place = (n % 100) as u64;
    let kind = KINDS.iter().position(|kind| {
        let found = place < kind.share;
        place = place.wrapping_sub(if found { 0 } else { kind.share });
        found
    });
    let kind = kind.context("the shares of all kinds are 100")?;
    let policy = &policies[kind];
    let guid = dice.guid();
    let data_disks = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2][dice.below(10) as usize];
    let luns = std::iter::once(None).chain((0..data_disks).map(Some));
    let disks: Vec<DiskDescription> =
        luns.map(|lun| disk(&group, &name, lun, dice)).collect::<anyhow::Result<_>>()?;
    let mut tags: BTreeMap<String, String> = [
        ("env", "prod"),
        ("owner", "team-17"),
        ("cost-center", "4711"),
        (CHOSEN_BY, policy.name.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    tags.insert(POLICY_TAG.to_owned(), policy.policy.tag_value(Some(&policy.name)));
    let descriptions = ["Standard_D2s_v3", "Standard_D4s_v3"]
        .map(|size| describe(&id, &guid, size, &disks, &tags))
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    Ok(Vm { id, guid, kind, descriptions, tags })
}

fn disk(
    group: &str,
    vm: &str,
    lun: Option<u32>,
    dice: &mut Dice,
) -> anyhow::Result<DiskDescription> {
    let name = match lun {
        None => format!("{vm}-os"),
        Some(lun) => format!("{vm}-data{lun}"),
    };
    let gib = [4, 32, 64, 128][dice.below(4) as usize];
    Ok(DiskDescription {
        lun,
        id: ArmId::disk(SUBSCRIPTION, group, &name)?,
        unique_id: dice.guid(),
        name,
        size_bytes: gib << 30,
        sku: "Premium_LRS".to_owned(),
        caching: if lun.is_none() { "ReadWrite" } else { "None" }.to_owned(),
        zones: vec!["1".to_owned()],
        encryption: json!({"type": "EncryptionAtRestWithPlatformKey"}),
        hyper_v_generation: lun.is_none().then(|| "V2".to_owned()),
        security_profile: Value::Null,
        purchase_plan: Value::Null,
        delete_option: Some("Detach".to_owned()),
    })
}

fn describe(
    id: &ArmId,
    guid: &str,
    size: &str,
    disks: &[DiskDescription],
    tags: &BTreeMap<String, String>,
) -> anyhow::Result<VmDescription> {
    let nic =
        ArmId::network_interface(SUBSCRIPTION, id.resource_group(), &format!("{}-nic", id.name()))?;
    let network = ArmId::virtual_network(SUBSCRIPTION, id.resource_group(), "vnet")?;
    Ok(VmDescription {
        version: VmDescription::VERSION,
        id: id.clone(),
        vm_id: guid.to_owned(),
        location: Region::parse(HOME)?,
        size: size.to_owned(),
        zones: vec!["1".to_owned()],
        os_type: "Linux".to_owned(),
        disks: disks.to_vec(),
        network_interfaces: vec![json!({"id": nic.as_str(), "properties": {"primary": true}})],
        subnet: Some(network.subnet("default")?),
        security_profile: json!({"securityType": "TrustedLaunch", "uefiSettings": {
            "secureBootEnabled": true, "vTpmEnabled": true}}),
        plan: Value::Null,
        identity: json!({"type": "SystemAssigned"}),
        tags: tags.clone(),
        license_type: None,
    })
}
