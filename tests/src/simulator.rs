//! The simulated Azure as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Http;
use crate::lab_lock::LabLock;
use crate::listing::Listing;
use crate::poll::{Look, until};
use crate::process::{Daemon, Lifetime, ready, run};
use crate::programs::{GuestImage, Programs};
use crate::simulated_machines::SimulatedMachines;
use crate::world::{CLIENT_ID, CLIENT_SECRET, REGION, SUBSCRIPTION, TENANT, World};

const READY_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where simulated machines answer with an SSH banner, those with a public address: a port for which
/// nobody needs to be root.
pub const SIMULATED_SSH_PORT: u16 = 2222;

/// A simulated Azure. Its state survives [`kill`](Self::kill) and [`start`](Self::start).
#[derive(Debug)]
pub struct Simulator {
    programs: Programs,
    folder: PathBuf,
    guests: Guests,
    listen: SocketAddr,
    lifetime: Lifetime,
    running: Option<Running>,
}

/// What a started VM really is.
#[derive(Debug)]
pub enum Guests {
    /// A record.
    None,
    /// Files in the simulator's process, and a writer that keeps an invariant.
    Simulated,
    /// An emulated machine with Linux.
    Real(RealGuests),
}

/// What real machines need.
#[derive(Debug)]
pub struct RealGuests {
    /// What they run.
    pub image: GuestImage,
    /// Which addresses they can reach: as they see them, and here.
    pub forwards: Vec<(String, SocketAddr)>,
    /// The right to use their addresses.
    pub lock: LabLock,
}

#[derive(Debug)]
struct Running {
    daemon: Daemon,
    http: Http,
}

impl Simulator {
    /// Makes a world in `folder/sim` and starts it.
    ///
    /// # Errors
    /// When the world is impossible or the process does not get ready.
    pub fn create(
        programs: &Programs,
        folder: &Path,
        world: &World,
        guests: Guests,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let description = folder.join("world.json");
        let mut world = world.description();
        if let Guests::Simulated = guests {
            world["ssh_port"] = json!(SIMULATED_SSH_PORT);
        }
        std::fs::write(&description, format!("{world:#}\n"))?;
        let mut init = programs.command("azure-sim");
        init.arg("init").arg("--state").arg(folder.join("sim")).arg("--world").arg(&description);
        let ended = run(init, READY_LIMIT, None)?;
        ensure!(ended.status.success(), "azure-sim init failed: {}", ended.stderr);
        let mut simulator = Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            guests,
            listen: crate::lab::free_address()?,
            lifetime,
            running: None,
        };
        simulator.start(&[])?;
        Ok(simulator)
    }

    /// Starts it (again), at the same address, with more arguments for this time.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(&mut self, more: &[&str]) -> Result<()> {
        self.running = None;
        let ready_file = self.folder.join("sim-ready.json");
        // One of an earlier process would look like this one's.
        let _ = std::fs::remove_file(&ready_file);
        let mut command = self.programs.command("azure-sim");
        command.arg("run").arg("--state").arg(self.state()).arg("--ready-file").arg(&ready_file);
        command.arg("--listen").arg(self.listen.to_string());
        match &self.guests {
            Guests::None => {}
            Guests::Simulated => {
                command.args(["--guests", "simulated", "--guest-ssh-port"]);
                command.arg(SIMULATED_SSH_PORT.to_string());
            }
            Guests::Real(guests) => {
                command.args(["--guests", "qemu", "--kernel"]).arg(&guests.image.kernel);
                command.arg("--initrd").arg(&guests.image.initrd);
                command.arg("--memory-mib").arg(guests.image.memory_mib.to_string());
                for (seen_as, here) in &guests.forwards {
                    command.arg("--guest-controller").arg(format!("{seen_as}={here}"));
                }
                guests.lock.share_with(&mut command)?;
            }
        }
        command.args(more);
        let daemon =
            Daemon::start("azure-sim", command, &self.folder.join("sim.log"), self.lifetime)?;
        ready(&daemon, &ready_file, READY_LIMIT)?;
        let http = Http::tls(self.listen, &self.ca())?;
        self.running = Some(Running { daemon, http });
        Ok(())
    }

    /// Kills it with SIGKILL; its machines die with it.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Stops it with SIGTERM; it ends its machines first.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.daemon.stop(STOP_LIMIT))
    }

    /// Its process, while it runs.
    pub fn daemon(&self) -> Option<&Daemon> {
        self.running.as_ref().map(|r| &r.daemon)
    }

    /// Where its state is.
    pub fn state(&self) -> PathBuf {
        self.folder.join("sim")
    }

    /// The certificate authority of its server.
    pub fn ca(&self) -> PathBuf {
        self.state().join("ca.pem")
    }

    /// Azure Resource Manager's address.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.listen)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// What its machines really are.
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Its simulated machines.
    ///
    /// # Errors
    /// When the simulator does not run.
    pub fn machines(&self) -> Result<SimulatedMachines> {
        let running = self.running.as_ref().context("the simulator does not run")?;
        Ok(SimulatedMachines::new(running.http.clone()))
    }

    /// The serial console of a machine, by its vmId.
    pub fn console(&self, vm_id: &str) -> String {
        let folder = self.state().join("serial");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let of_machine = files.filter(|f| f.file_name().to_string_lossy().contains(vm_id));
        of_machine.map(|f| crate::process::read_lossy(&f.path())).collect()
    }

    /// Everything that exists.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn listing(&self) -> Result<Listing> {
        Ok(Listing::new(self.admin("GET", "resources", &Value::Null)?))
    }

    /// How many requests it has had, as `/_sim/requests` says.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn requests(&self) -> Result<Value> {
        self.admin("GET", "requests?latest=true", &Value::Null)
    }

    /// How many requests of a kind it has had: `PUT Microsoft.Compute/snapshots`.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn count(&self, kind: &str) -> Result<u64> {
        let requests = self.requests()?;
        let kinds = requests["requests"].as_object().context("counts by kind")?;
        let of_kind = kinds.iter().filter(|(name, _)| name.eq_ignore_ascii_case(kind));
        Ok(of_kind.filter_map(|(_, count)| count.as_u64()).sum())
    }

    /// Replaces the fault plan.
    ///
    /// # Errors
    /// When the simulator does not take it.
    pub fn set_faults(&self, faults: &Value) -> Result<()> {
        self.admin("PUT", "faults", faults).map(drop)
    }

    /// The fault plan: each fault with the number of requests that it has matched.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn faults(&self) -> Result<Value> {
        self.admin("GET", "faults", &Value::Null)
    }

    /// Lets the simulated time jump.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn advance(&self, time: Duration) -> Result<()> {
        let body = json!({"ms": u64::try_from(time.as_millis())?});
        self.admin("POST", "clock/advance", &body).map(drop)
    }

    /// The host of a machine, given by its vmId, pauses it: it stands still, and its clock with it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, vm_id: &str) -> Result<()> {
        self.admin("POST", &format!("machines/{vm_id}/pause"), &Value::Null).map(drop)
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, vm_id: &str) -> Result<()> {
        self.admin("POST", &format!("machines/{vm_id}/resume"), &Value::Null).map(drop)
    }

    /// Puts a lock on a resource, or takes it off again, as an administrator would: through ARM.
    ///
    /// # Errors
    /// When ARM refuses.
    pub fn lock(&self, id: &str, level: Option<&str>) -> Result<()> {
        let path =
            format!("{id}/providers/Microsoft.Authorization/locks/by-hand?api-version=2016-09-01");
        let (method, body) = match level {
            Some(level) => ("PUT", json!({"properties": {"level": level}}).to_string()),
            None => ("DELETE", String::new()),
        };
        self.by_somebody(method, &path, &body)
    }

    /// Starts a machine, as an administrator would: through ARM; also one that has ended by itself.
    ///
    /// # Errors
    /// When ARM refuses.
    pub fn power_on(&self, vm: &str) -> Result<()> {
        self.by_somebody("POST", &format!("{vm}/start?api-version=2024-07-01"), "")
    }

    /// Takes a snapshot of one disk, as an administrator would, through ARM, and waits until it is
    /// complete; returns its resource ID.
    ///
    /// # Errors
    /// When ARM refuses.
    pub fn snapshot(&self, disk: &str, name: &str) -> Result<String> {
        let (group, _) = disk.rsplit_once("/disks/").context("a disk's resource ID")?;
        let id = format!("{group}/snapshots/{name}");
        let body = json!({
            "location": REGION,
            "properties": {
                "incremental": true,
                "creationData": {"createOption": "Copy", "sourceResourceId": disk},
            },
        });
        let path = format!("{id}?api-version=2024-03-02");
        self.by_somebody("PUT", &path, &body.to_string())?;
        self.quiet()?;
        Ok(id)
    }

    /// Makes a machine from snapshots, as an administrator would who does not know of azdr: through ARM, in
    /// the network of the group's first machine. The snapshots are given by LUN, the OS disk's without.
    ///
    /// # Errors
    /// When ARM refuses.
    pub fn make_machine(
        &self,
        group: &str,
        name: &str,
        snapshots: &[(Option<i64>, &str)],
    ) -> Result<()> {
        let providers = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers");
        let put = |id: &str, version: &str, body: Value| -> Result<()> {
            let path = format!("{id}?api-version={version}");
            self.by_somebody("PUT", &path, &body.to_string())?;
            self.quiet()
        };
        let (mut os, mut data) = (Value::Null, Vec::new());
        for (lun, snapshot) in snapshots {
            let what = lun.map_or_else(|| "os".to_owned(), |lun| format!("data{lun}"));
            let id = format!("{providers}/Microsoft.Compute/disks/{name}-{what}");
            let source = json!({"createOption": "Copy", "sourceResourceId": snapshot});
            let properties = json!({"creationData": source});
            put(&id, "2024-03-02", json!({"location": REGION, "properties": properties}))?;
            let mut disk = json!({"createOption": "Attach", "managedDisk": {"id": id}});
            match lun {
                None => {
                    disk["osType"] = json!("Linux");
                    os = disk;
                }
                Some(lun) => {
                    disk["lun"] = json!(lun);
                    data.push(disk);
                }
            }
        }
        let network = format!("{providers}/Microsoft.Network");
        let nic = format!("{network}/networkInterfaces/{name}-nic");
        let subnet = format!("{network}/virtualNetworks/{group}-{REGION}-vnet/subnets/default");
        let public = format!("{network}/publicIPAddresses/{name}-ip");
        let fixed = json!({"publicIPAllocationMethod": "Static"});
        let standard = json!({"name": "Standard"});
        let body = json!({"location": REGION, "sku": standard, "properties": fixed});
        put(&public, "2024-05-01", body)?;
        let ways = json!({"subnet": {"id": subnet}, "publicIPAddress": {"id": public}});
        let properties = json!({"ipConfigurations": [{"name": "one", "properties": ways}]});
        put(&nic, "2024-05-01", json!({"location": REGION, "properties": properties}))?;
        let machine = json!({
            "location": REGION,
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_B2s"},
                "storageProfile": {"osDisk": os, "dataDisks": data},
                "networkProfile": {"networkInterfaces": [
                    {"id": nic, "properties": {"primary": true}},
                ]},
            },
        });
        let id = format!("{providers}/Microsoft.Compute/virtualMachines/{name}");
        put(&id, "2024-07-01", machine)
    }

    /// Waits until no operation is under way.
    fn quiet(&self) -> Result<()> {
        until("Azure is quiet", READY_LIMIT, || {
            let quiet = self.listing()?.is_quiet();
            Ok(if quiet { Look::Done(()) } else { Look::Waiting("it is at work".to_owned()) })
        })
    }

    /// The file with the content of a disk or snapshot: raw, and read by a machine that has it.
    ///
    /// # Errors
    /// When there is no such resource.
    pub fn content(&self, id: &str) -> Result<PathBuf> {
        let listing = self.listing()?;
        let found = listing.resources().find(|r| r.id().eq_ignore_ascii_case(id));
        let file = found.and_then(|r| r.record()["file"].as_str());
        let file = file.with_context(|| format!("there is no disk or snapshot {id}"))?;
        Ok(self.state().join("disks").join(file))
    }

    /// Has somebody who does not know of azdr begin to delete a resource: through ARM.
    ///
    /// # Errors
    /// When ARM refuses.
    pub fn delete(&self, id: &str, api_version: &str) -> Result<()> {
        self.by_somebody("DELETE", &format!("{id}?api-version={api_version}"), "")
    }

    fn by_somebody(&self, method: &str, path: &str, body: &str) -> Result<()> {
        let running = self.running.as_ref().context("the simulator does not run")?;
        let form = format!(
            "grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}\
             &scope=https%3A%2F%2Fmanagement.azure.com%2F.default"
        );
        let answer =
            running.http.request("POST", &format!("/{TENANT}/oauth2/v2.0/token"), &form)?;
        let answer: Value = serde_json::from_str(&answer)?;
        let token = answer["access_token"].as_str().context("no token")?;
        let (status, said) = running.http.send_as(method, path, body.as_bytes(), Some(token))?;
        let said = String::from_utf8_lossy(&said);
        ensure!((200..300).contains(&status), "{method} {path}: status {status}: {said}");
        Ok(())
    }

    fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let running = self.running.as_ref().context("the simulator does not run")?;
        running.daemon.check()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = running.http.request(method, &format!("/_sim/{path}"), &body)?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&answer).with_context(|| format!("/_sim/{path} answered {answer}"))
    }
}
