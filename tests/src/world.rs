//! A simulated world, described: the subscription, its resource groups and machines.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

/// The subscription of every lab.
pub const SUBSCRIPTION: &str = "11111111-2222-4333-8444-555555555555";
/// Its tenant.
pub const TENANT: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/// The application as which the controller signs in.
pub const CLIENT_ID: &str = "99999999-8888-4777-8666-555555555555";
/// Its secret: a word that must not be found in any log or database.
pub const CLIENT_SECRET: &str = "lab-client-secret-Zx81Qv77Lw";
/// Where the machines are.
pub const REGION: &str = "eastus";
/// Where copies go and drills take place.
pub const TARGET_REGION: &str = "westus2";

/// A world.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Its machines.
    pub vms: Vec<Vm>,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Name.
    pub name: String,
    /// Resource group; made when a VM names it.
    pub group: String,
    /// A raw image of the OS disk; without one, a disk of 64 MiB, empty unless it is `bootable`.
    pub os_image: Option<PathBuf>,
    /// Without an image: the OS disk holds what a simulated machine boots from.
    pub bootable: bool,
    /// Data disks, by LUN from 0.
    pub data_disks: Vec<DataDisk>,
    /// Whether it has a public address.
    pub public_ip: bool,
    /// Whether it runs.
    pub running: bool,
}

/// A data disk.
#[derive(Clone, Debug, Default)]
pub struct DataDisk {
    /// A raw image; without one, an empty disk of 32 MiB.
    pub image: Option<PathBuf>,
}

impl Vm {
    /// A running machine with an empty OS disk and nothing else.
    pub fn new(group: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            group: group.to_owned(),
            os_image: None,
            bootable: false,
            data_disks: Vec::new(),
            public_ip: false,
            running: true,
        }
    }

    /// With an empty data disk more.
    #[must_use]
    pub fn with_data_disk(mut self) -> Self {
        self.data_disks.push(DataDisk::default());
        self
    }

    /// With a public address, into which SSH is let.
    #[must_use]
    pub fn with_public_ip(mut self) -> Self {
        self.public_ip = true;
        self
    }

    /// Its ARM resource ID.
    pub fn id(&self) -> String {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{}/providers/\
             Microsoft.Compute/virtualMachines/{}",
            self.group, self.name
        )
    }

    fn description(&self) -> Value {
        let disk = |name: String, image: &Option<PathBuf>, mebibytes: u64| match image {
            Some(image) => json!({"name": name, "image": image}),
            None => json!({"name": name, "size_bytes": mebibytes << 20}),
        };
        let data: Vec<Value> = self
            .data_disks
            .iter()
            .enumerate()
            .map(|(lun, data)| {
                let mut disk = disk(format!("{}-data{lun}", self.name), &data.image, 32);
                disk["lun"] = json!(lun);
                disk["sku"] = json!("StandardSSD_LRS");
                disk
            })
            .collect();
        let mut os_disk = disk(format!("{}-os", self.name), &self.os_image, 64);
        if self.bootable && self.os_image.is_none() {
            os_disk["files"] =
                json!({"/sbin/init": "", "/etc/hostname": self.name, "/usr/sbin/sshd": ""});
        }
        json!({
            "name": self.name, "resource_group": self.group, "location": REGION,
            "size": "Standard_B2s",
            "os_disk": os_disk,
            "data_disks": data,
            "public_ip": self.public_ip, "running": self.running,
        })
    }
}

impl World {
    /// What `azure-sim init --world` reads.
    pub fn description(&self) -> Value {
        let groups: BTreeSet<&str> = self.vms.iter().map(|vm| vm.group.as_str()).collect();
        let groups: Vec<Value> =
            groups.iter().map(|name| json!({"name": name, "location": REGION})).collect();
        json!({
            "subscription": SUBSCRIPTION, "tenant": TENANT,
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "regions": [REGION, TARGET_REGION],
            "resource_groups": groups,
            "vms": self.vms.iter().map(Vm::description).collect::<Vec<_>>(),
        })
    }
}
