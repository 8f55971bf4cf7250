//! Making a state directory from a description of a world.
//!
//! ```json
//! {
//!   "subscription": "00000000-0000-0000-0000-000000000001",
//!   "tenant": "00000000-0000-0000-0000-0000000000aa",
//!   "client_id": "client", "client_secret": "secret",
//!   "regions": ["eastus", "westus"],
//!   "resource_groups": [{"name": "prod", "location": "eastus", "tags": {"env": "prod"}}],
//!   "vms": [{
//!     "name": "web", "resource_group": "prod", "location": "eastus", "size": "Standard_D2s_v3",
//!     "os_disk": {"name": "web-os", "image": "root.raw", "sku": "Premium_LRS"},
//!     "data_disks": [{"lun": 0, "name": "web-data", "size_bytes": 67108864, "sku": "StandardSSD_LRS"}],
//!     "public_ip": true, "running": true, "tags": {"role": "web"}
//!   }]
//! }
//! ```
//!
//! Images are raw; their paths are relative to the description. Each resource group with VMs gets,
//! per region, a virtual network and a security group that lets SSH in; each VM gets an interface.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azdr_env::{Env, WallTime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::config::Limits;
use crate::content::{self, Contents, Files};
use crate::guests::simulated::Tree;
use crate::latency::{Latency, Profile};
use crate::persistence::{self, PersistenceError, at};
use crate::world::{
    Accepted, ArmError, ArmId, Assignment, Common, Creation, Disk, Facts, GroupRequest, Injected,
    Kind, NetworkRequest, PowerAction, State, Tags, Volume, World, provisioning,
};

/// A world, as people write it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldDescription {
    /// The (first) subscription, where everything below is.
    pub subscription: String,
    /// Further subscriptions, empty.
    #[serde(default)]
    pub more_subscriptions: Vec<String>,
    /// Tenant.
    pub tenant: String,
    /// An application that may get tokens.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Further applications that may get tokens.
    #[serde(default)]
    pub more_clients: Vec<ClientDescription>,
    /// Role assignments by client id; whoever has none may do everything.
    #[serde(default)]
    pub role_assignments: BTreeMap<String, Vec<Assignment>>,
    /// Region names.
    pub regions: Vec<String>,
    /// Resource groups.
    #[serde(default)]
    pub resource_groups: Vec<GroupDescription>,
    /// Virtual machines.
    #[serde(default)]
    pub vms: Vec<VmDescription>,
    /// The port that the security groups let in. Default 22.
    #[serde(default = "ssh_port")]
    pub ssh_port: u16,
}

fn ssh_port() -> u16 {
    22
}

/// An application.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientDescription {
    /// Its id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

/// A resource group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDescription {
    /// Name.
    pub name: String,
    /// Region.
    pub location: String,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A virtual machine with its disks and network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDescription {
    /// Name.
    pub name: String,
    /// Resource group.
    pub resource_group: String,
    /// Region.
    pub location: String,
    /// `Standard_…`.
    pub size: String,
    /// OS disk.
    pub os_disk: DiskDescription,
    /// Caching of the OS disk; default `ReadWrite`.
    #[serde(default)]
    pub os_disk_caching: Option<String>,
    /// Data disks.
    #[serde(default)]
    pub data_disks: Vec<DiskDescription>,
    /// Whether it has a public address.
    #[serde(default)]
    pub public_ip: bool,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
    /// Runs, or is deallocated.
    #[serde(default = "yes")]
    pub running: bool,
    /// Availability zone of the VM and its disks.
    #[serde(default)]
    pub zone: Option<String>,
}

fn yes() -> bool {
    true
}

/// A disk. Its size is that of `image`, or more: `size_gb` or `size_bytes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskDescription {
    /// Name.
    pub name: String,
    /// LUN of a data disk; default: its place in the list.
    #[serde(default)]
    pub lun: Option<u32>,
    /// A raw image whose content is copied in.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Files by path, for a simulated machine; a file [`BOOTABLE`] lets it come up.
    ///
    /// [`BOOTABLE`]: crate::guests::simulated::BOOTABLE
    #[serde(default)]
    pub files: Option<BTreeMap<String, String>>,
    /// GiB.
    #[serde(default)]
    pub size_gb: Option<u64>,
    /// Bytes; Azure shows it rounded up to GiB.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Default `Premium_LRS`.
    #[serde(default)]
    pub sku: Option<String>,
    /// Caching of a data disk; default `None`.
    #[serde(default)]
    pub caching: Option<String>,
}

/// A world cannot be made.
#[derive(Debug, Error)]
pub enum SeedError {
    /// The state directory cannot be written, or is one already.
    #[error("cannot make the state directory")]
    Directory(#[from] PersistenceError),
    /// There is a world already.
    #[error("{0} holds a world already")]
    Exists(PathBuf),
    /// An image cannot be copied.
    #[error("cannot make disk {name}")]
    Image {
        /// Disk name.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A world in memory alone is not possible with these guests.
    #[error("these guests need files, hence a state directory")]
    NeedsFiles,
    /// The description breaks a rule of the world.
    #[error("{name} is impossible")]
    Impossible {
        /// What.
        name: String,
        /// ARM's refusal.
        #[source]
        source: ArmError,
    },
}

/// Makes a state directory. Image paths are relative to `images`.
///
/// # Errors
/// The directory holds a world already or cannot be written; the description is impossible.
pub fn init(
    dir: &Path,
    description: &WorldDescription,
    images: &Path,
    env: &Env,
) -> Result<(), SeedError> {
    if dir.join("facts.json").exists() {
        return Err(SeedError::Exists(dir.to_owned()));
    }
    for folder in [dir.to_owned(), content::directory(dir), dir.join("serial")] {
        std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    }
    let mut state = state(&Files::new(dir), description, images, env)?;
    crate::server::tls::ensure_certificates(dir)?;
    persistence::create(dir, &mut state)?;
    Ok(())
}

/// Makes what is described, its disks in `contents`.
pub(crate) fn state(
    contents: &dyn Contents,
    description: &WorldDescription,
    images: &Path,
    env: &Env,
) -> Result<State, SeedError> {
    let mut seeder = Seeder {
        contents,
        images,
        env,
        subscription: &description.subscription,
        ssh_port: description.ssh_port,
        now: env.clock.wall(),
        world: World::new(
            State::new(facts(description, env)),
            Limits { operation_record_secs: 0, ..Limits::default() },
            Latency::new(Profile::Fast, 0),
            env.ids.clone(),
        ),
        networks: BTreeMap::new(),
    };
    for group in &description.resource_groups {
        let request =
            GroupRequest { location: Some(group.location.clone()), tags: Some(group.tags.clone()) };
        let made = seeder.world.put_group(seeder.subscription, &group.name, request);
        made.map_err(impossible(&group.name))?;
    }
    for vm in &description.vms {
        seeder.vm(vm)?;
    }
    for (client, assignments) in &description.role_assignments {
        seeder.world.state.assignments.insert(client.clone(), assignments.clone());
    }
    seeder.pass_time();
    Ok(seeder.world.state)
}

fn facts(description: &WorldDescription, env: &Env) -> Facts {
    let mut subscriptions = vec![description.subscription.clone()];
    subscriptions.extend(description.more_subscriptions.clone());
    Facts {
        subscriptions,
        tenant: description.tenant.clone(),
        regions: description.regions.iter().map(|r| r.to_lowercase()).collect(),
        clients: [(description.client_id.clone(), description.client_secret.clone())]
            .into_iter()
            .chain(
                description
                    .more_clients
                    .iter()
                    .map(|c| (c.client_id.clone(), c.client_secret.clone())),
            )
            .collect(),
        managed_identity: env.ids.uuid().to_string(),
        identity_header: env.ids.hex(16),
        signing_key: env.ids.hex(32),
    }
}

fn impossible(name: &str) -> impl FnOnce(ArmError) -> SeedError {
    let name = name.to_owned();
    move |source| SeedError::Impossible { name, source }
}

struct Seeder<'a> {
    contents: &'a dyn Contents,
    images: &'a Path,
    env: &'a Env,
    subscription: &'a str,
    ssh_port: u16,
    now: WallTime,
    world: World,
    /// Subnet ids by group and region.
    networks: BTreeMap<(String, String), String>,
}

impl Seeder<'_> {
    /// Ends what is under way.
    fn pass_time(&mut self) {
        self.world.advance(self.now.plus(Duration::from_secs(3600)));
    }

    fn network(&mut self, id: &ArmId, request: Value) -> Result<(), SeedError> {
        let request: NetworkRequest =
            serde_json::from_value(request).expect("written here, and well-formed");
        self.world
            .put_network(id, request, &Injected::default(), self.now)
            .map_err(impossible(&id.name))?;
        self.pass_time();
        Ok(())
    }

    /// The subnet for VMs of a group in a region.
    fn subnet(&mut self, group: &str, location: &str) -> Result<String, SeedError> {
        let place = (group.to_lowercase(), location.to_lowercase());
        if let Some(subnet) = self.networks.get(&place) {
            return Ok(subnet.clone());
        }
        let number = self.networks.len() + 1;
        let id = |kind, name: String| ArmId::new(self.subscription, group, kind, &name);
        let nsg = id(Kind::SecurityGroup, format!("{group}-{location}-nsg"));
        let vnet = id(Kind::VirtualNetwork, format!("{group}-{location}-vnet"));
        let ssh = json!({
            "name": "ssh",
            "properties": {
                "priority": 300, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
                "sourceAddressPrefix": "*", "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRange": self.ssh_port.to_string(),
            },
        });
        let rules = json!({"location": location, "properties": {"securityRules": [ssh]}});
        self.network(&nsg, rules)?;
        let subnet = json!({
            "name": "default",
            "properties": {
                "addressPrefix": format!("10.{number}.0.0/16"),
                "networkSecurityGroup": {"id": nsg.to_string()},
            },
        });
        let space = json!({"addressPrefixes": [format!("10.{number}.0.0/16")]});
        let properties = json!({"addressSpace": space, "subnets": [subnet]});
        self.network(&vnet, json!({"location": location, "properties": properties}))?;
        let subnet = format!("{vnet}/subnets/default");
        self.networks.insert(place, subnet.clone());
        Ok(subnet)
    }

    fn vm(&mut self, vm: &VmDescription) -> Result<(), SeedError> {
        let group = vm.resource_group.as_str();
        let id = |kind, name: &str| ArmId::new(self.subscription, group, kind, name);
        let (vm_id, nic) = (id(Kind::Vm, &vm.name), id(Kind::Nic, &format!("{}-nic", vm.name)));
        let address = id(Kind::PublicIp, &format!("{}-ip", vm.name));
        let subnet = self.subnet(group, &vm.location)?;
        let mut configuration = json!({"subnet": {"id": subnet}});
        if vm.public_ip {
            let sku = json!({"name": "Standard"});
            self.network(&address, json!({"location": vm.location, "sku": sku, "properties": {"publicIPAllocationMethod": "Static"}}))?;
            configuration["publicIPAddress"] = json!({"id": address.to_string()});
        }
        let configurations = json!([{"name": "ipconfig1", "properties": configuration}]);
        self.network(
            &nic,
            json!({"location": vm.location, "properties": {"ipConfigurations": configurations}}),
        )?;
        let os = self.disk(vm, &vm.os_disk, true)?;
        let mut data = Vec::new();
        for (place, disk) in vm.data_disks.iter().enumerate() {
            let id = self.disk(vm, disk, false)?;
            data.push(json!({
                "lun": disk.lun.unwrap_or(u32::try_from(place).unwrap_or(0)),
                "name": disk.name,
                "createOption": "Attach",
                "caching": disk.caching.as_deref().unwrap_or("None"),
                "managedDisk": {"id": id.to_string()},
            }));
        }
        let os_disk = json!({
            "name": vm.os_disk.name, "createOption": "Attach", "osType": "Linux",
            "caching": vm.os_disk_caching.as_deref().unwrap_or("ReadWrite"),
            "managedDisk": {"id": os.to_string()},
        });
        let zones: Vec<String> = vm.zone.iter().cloned().collect();
        let body = json!({
            "location": vm.location, "tags": vm.tags, "zones": zones,
            "properties": {
                "hardwareProfile": {"vmSize": vm.size},
                "storageProfile": {"osDisk": os_disk, "dataDisks": data},
                "networkProfile": {"networkInterfaces": [{"id": nic.to_string(), "properties": {"primary": true}}]},
                "diagnosticsProfile": {"bootDiagnostics": {"enabled": true}},
            },
        });
        let body: Map<String, Value> = body.as_object().cloned().unwrap_or_default();
        let injected = Injected::default();
        let made = self.world.put_vm(&vm_id, body, None, &injected, self.now);
        self.finish(made.map_err(impossible(&vm.name))?);
        if !vm.running {
            let later = self.now;
            let stopped = self.world.power(&vm_id, PowerAction::Deallocate, &injected, later);
            self.finish(stopped.map_err(impossible(&vm.name))?);
        }
        Ok(())
    }

    /// Ends an operation whose work is left to the first start.
    fn finish(&mut self, accepted: Accepted) {
        if let Some(operation) = accepted.operation {
            self.world.work_finished(&operation, Ok(()), self.now);
        }
        self.pass_time();
    }

    fn disk(
        &mut self,
        vm: &VmDescription,
        disk: &DiskDescription,
        os: bool,
    ) -> Result<ArmId, SeedError> {
        let id = ArmId::new(self.subscription, &vm.resource_group, Kind::Disk, &disk.name);
        let failed = |source| SeedError::Image { name: disk.name.clone(), source };
        let unique_id = self.env.ids.uuid().to_string();
        let name = format!("{unique_id}.raw");
        let wanted = disk.size_bytes.or(disk.size_gb.map(|gb| gb << 30));
        let size_bytes = match &disk.image {
            Some(image) => {
                let size = self.contents.import(&name, &self.images.join(image)).map_err(failed)?;
                let size = size.next_multiple_of(1 << 20).max(wanted.unwrap_or(0));
                self.contents.grow(&name, size).map_err(failed)?;
                size
            }
            None => {
                let size = wanted.unwrap_or(1 << 30);
                self.contents.create_empty(&name, size).map_err(failed)?;
                size
            }
        };
        if let Some(files) = &disk.files {
            let tree: Tree = files.iter().map(|(path, text)| (path, text.clone())).collect();
            let written = self.contents.write(&name, 0, &tree.to_bytes());
            written.map_err(failed)?;
        }
        let mut inherited = Map::new();
        inherited.insert("encryption".into(), json!({"type": "EncryptionAtRestWithPlatformKey"}));
        if os {
            inherited.insert("osType".into(), json!("Linux"));
            inherited.insert("hyperVGeneration".into(), json!("V2"));
        }
        let record = Disk {
            common: Common {
                id: id.clone(),
                location: vm.location.to_lowercase(),
                tags: Tags::new(),
                zones: vm.zone.iter().cloned().collect(),
                created: self.now,
                provisioning: provisioning::SUCCEEDED.into(),
            },
            volume: Volume {
                unique_id,
                size_bytes,
                sku: disk.sku.clone().unwrap_or_else(|| "Premium_LRS".into()),
                creation: Creation {
                    option: "Empty".into(),
                    source: None,
                    source_unique_id: None,
                    extra: Map::new(),
                },
                inherited,
                extra: Map::new(),
                grant: None,
                broken: false,
            },
            managed_by: None,
        };
        self.world.state.disks.insert(id.key(), record);
        Ok(id)
    }
}
