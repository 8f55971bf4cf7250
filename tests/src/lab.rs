//! A whole world: the simulated Azure, a controller for it, and the operator's command.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use azdr_env::{Clock, SystemClock, WallTime};
use serde_json::Value;

use crate::agents;
use crate::cli::Cli;
use crate::controller::{Addresses, Controller, Scheduler};
use crate::guest::Guest;
use crate::lab_lock::LabLock;
use crate::metadata::Metadata;
use crate::poll::{Look, until};
use crate::process::{Daemon, Lifetime, run};
use crate::programs::{GuestImage, Programs};
use crate::shifted_clock::ShiftedClock;
use crate::simulated_machines::SimulatedMachine;
use crate::simulator::{Guests, RealGuests, Simulator};
use crate::world::World;

/// Of an enrolment on this machine.
const ENROL_LIMIT: Duration = Duration::from_secs(60);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// The machines. Those without images get the guest image's, if they are real.
    pub world: World,
    /// What a started VM really is.
    pub machines: Machines,
    /// What the controller does unasked.
    pub scheduler: Scheduler,
    /// Filter of the controller's log.
    pub log_filter: String,
    /// Whether the processes may outlive this one.
    pub lifetime: Lifetime,
    /// How long to wait for the end of another lab with guests.
    pub patience: Duration,
}

/// What a started VM really is.
#[derive(Clone, Debug)]
pub enum Machines {
    /// A mere record.
    Records,
    /// Files and a writer in the simulator, with agents that another process plays.
    Simulated,
    /// Linux on emulated hardware.
    Real(GuestImage),
}

impl LabSpec {
    /// A world of records.
    pub fn without_guests(world: World) -> Self {
        Self {
            world,
            machines: Machines::Records,
            scheduler: Scheduler::default(),
            log_filter: "info".to_owned(),
            lifetime: Lifetime::OfStarter,
            patience: Duration::from_secs(900),
        }
    }

    /// A world of simulated machines.
    pub fn with_simulated_guests(mut world: World) -> Self {
        for vm in &mut world.vms {
            vm.bootable = true;
        }
        Self { machines: Machines::Simulated, ..Self::without_guests(world) }
    }

    /// A world of real machines.
    pub fn with_guests(mut world: World, image: &GuestImage) -> Self {
        for vm in &mut world.vms {
            vm.public_ip = true;
            vm.os_image.get_or_insert_with(|| image.os_disk.clone());
            for disk in &mut vm.data_disks {
                disk.image.get_or_insert_with(|| image.data_disk.clone());
            }
        }
        Self { machines: Machines::Real(image.clone()), ..Self::without_guests(world) }
    }
}

/// A running world. Dropping it ends every process in it.
#[derive(Debug)]
pub struct Lab {
    /// The operator's command.
    pub azdr: Cli,
    /// The controller.
    pub controller: Controller,
    /// The agents of simulated machines.
    pub agents: Option<Daemon>,
    /// The simulated Azure; last, so that it outlives its clients.
    pub simulator: Simulator,
    machines: Machines,
    folder: PathBuf,
    programs: Programs,
    lifetime: Lifetime,
    clock: Option<ShiftedClock>,
}

impl Lab {
    /// Starts a world in a folder, which must exist and be empty.
    ///
    /// # Errors
    /// When a process does not get ready.
    pub fn start(programs: &Programs, folder: &Path, spec: LabSpec) -> Result<Self> {
        let addresses = Addresses::free()?;
        let simulator = Self::simulator(programs, folder, &spec, addresses)?;
        let mut controller = Controller::create(programs, folder, &simulator, addresses, &spec)?;
        controller.start()?;
        Self::of(programs, folder, spec, simulator, controller)
    }

    /// Starts a world in another time, which is everybody's there: the simulated Azure's, the
    /// controller's, the agents' and the operator's.
    ///
    /// # Errors
    /// As of [`start`](Self::start); and without a C compiler.
    pub fn start_at(
        programs: &Programs,
        folder: &Path,
        spec: LabSpec,
        time: WallTime,
    ) -> Result<Self> {
        let clock = ShiftedClock::build(folder)?.set(time);
        let mut lab = Self::start(&programs.at(&clock), folder, spec)?;
        lab.clock = Some(clock);
        Ok(lab)
    }

    /// The simulated Azure of a lab.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn simulator(
        programs: &Programs,
        folder: &Path,
        spec: &LabSpec,
        addresses: Addresses,
    ) -> Result<Simulator> {
        let guests = match &spec.machines {
            Machines::Records => Guests::None,
            Machines::Simulated => Guests::Simulated,
            Machines::Real(image) => Guests::Real(RealGuests {
                image: image.clone(),
                forwards: addresses.forwards(),
                lock: LabLock::acquire(spec.patience)?,
            }),
        };
        Simulator::create(programs, folder, &spec.world, guests, spec.lifetime)
    }

    /// A lab of parts that run already.
    ///
    /// # Errors
    /// When nobody can play the agents of simulated machines.
    pub fn of(
        programs: &Programs,
        folder: &Path,
        spec: LabSpec,
        simulator: Simulator,
        controller: Controller,
    ) -> Result<Self> {
        let azdr = Cli::new(programs, &controller.context());
        let agents = match spec.machines {
            Machines::Simulated => Some(play_agents(programs, folder, spec.lifetime, &simulator)?),
            _ => None,
        };
        Ok(Self {
            azdr,
            controller,
            agents,
            simulator,
            machines: spec.machines,
            folder: folder.to_owned(),
            programs: programs.clone(),
            lifetime: spec.lifetime,
            clock: None,
        })
    }

    /// Lets time pass for the controller (which is restarted), for the operator's command and for the
    /// simulated Azure. Guests keep their time.
    ///
    /// # Errors
    /// When the controller does not get ready again.
    pub fn let_pass(&mut self, time: Duration) -> Result<()> {
        let clock = match self.clock.take() {
            Some(clock) => clock,
            None => ShiftedClock::build(&self.folder)?,
        };
        let clock = clock.ahead(time);
        let programs = self.programs.at(&clock);
        self.clock = Some(clock);
        self.controller.stop()?;
        self.simulator.advance(time)?;
        self.azdr = Cli::new(&programs, &self.controller.context());
        self.controller.use_programs(&programs);
        self.programs = programs;
        self.controller.start()
    }

    /// Lets time pass as far as this time, for simulated machines' agents too, if it has not come yet.
    ///
    /// # Errors
    /// As of [`let_pass`](Self::let_pass).
    pub fn let_pass_until(&mut self, time: WallTime) -> Result<()> {
        self.let_pass(time.since(self.now()))?;
        if self.agents.take().is_some() {
            self.agents =
                Some(play_agents(&self.programs, &self.folder, self.lifetime, &self.simulator)?);
        }
        Ok(())
    }

    /// What the controller's clock shows.
    pub fn now(&self) -> WallTime {
        match &self.clock {
            Some(clock) => clock.now(),
            None => SystemClock::new().wall(),
        }
    }

    /// Where everything of it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A real machine, by its way in from outside.
    ///
    /// # Errors
    /// When the machine does not exist or has no public address.
    pub fn guest(&self, group: &str, name: &str) -> Result<Guest> {
        let Machines::Real(image) = &self.machines else { bail!("this lab has no real guests") };
        let listing = self.simulator.listing()?;
        let address = listing.vm(group, name)?.reachable_at();
        let address = address.with_context(|| format!("nothing leads into {name}"))?;
        Ok(Guest::new(name, address.parse()?, &image.ssh_key))
    }

    /// A simulated machine, up or not.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn machine(&self, group: &str, name: &str) -> Result<SimulatedMachine> {
        let listing = self.simulator.listing()?;
        Ok(self.simulator.machines()?.machine(name, listing.vm(group, name)?.vm_id()))
    }

    /// Enrols a machine's agent, over the network, with a one-time token; returns the command line,
    /// without the token.
    ///
    /// # Errors
    /// When there is no token, or the machine or the controller refuses.
    pub fn enrol(&self, guest: &Guest) -> Result<String> {
        let (arguments, token) = self.token(&guest.name)?;
        let line = format!("azdr-agent enroll {}", arguments.join(" "));
        // Not as an argument, which every process on the machine could read.
        guest.run_with_secret(&format!("AZDR_TOKEN=$(cat) {line}"), &token)?;
        Ok(line)
    }

    /// Enrols a simulated machine by azdr-agent itself, which runs here and takes itself for that
    /// machine; what it stored goes onto the machine's OS disk, and stays nowhere else.
    ///
    /// # Errors
    /// When there is no token, or the machine or the controller refuses.
    pub fn enrol_simulated(&self, machine: &SimulatedMachine) -> Result<String> {
        let (arguments, token) = self.token(&machine.name)?;
        let scratch = tempfile::tempdir_in(&self.folder)?;
        let (config, state) = (scratch.path().join("agent.toml"), scratch.path().join("state"));
        let mut enroll = self.programs.command("azdr-agent");
        enroll.arg("enroll").args(&arguments).env("AZDR_TOKEN", token);
        enroll.arg("--config").arg(&config).arg("--state-dir").arg(&state);
        enroll.arg("--instance-metadata-url").arg(Metadata::of(&machine.vm_id)?.url());
        let ended = run(enroll, ENROL_LIMIT, None)?;
        ensure!(ended.status.success(), "azdr-agent enroll failed: {}", ended.stderr);
        machine.write(agents::CONFIG, &std::fs::read(config)?)?;
        let file = agents::identity_path();
        let stored = state.join(file.rsplit('/').next().unwrap_or_default());
        machine.write(&file, &std::fs::read(stored)?)?;
        Ok(format!("azdr-agent enroll {}", arguments.join(" ")))
    }

    /// What `azdr-agent enroll` is told about a VM, and the token.
    fn token(&self, vm: &str) -> Result<([String; 6], String)> {
        let token = self.azdr.json(&["agent", "token", vm])?;
        let text = |name: &str| {
            token[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"))
        };
        let arguments = [
            "--controller".to_owned(),
            text("enroll_address")?,
            "--agent-address".to_owned(),
            text("agent_address")?,
            "--ca-fingerprint".to_owned(),
            text("ca_fingerprint")?,
        ];
        Ok((arguments, text("token")?))
    }

    /// Waits until no job is under way and no operation of Azure's either.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        until("all jobs have ended", limit, || {
            let busy: Vec<String> =
                self.azdr.jobs()?.iter().filter(|job| is_active(job)).map(brief).collect();
            Ok(match busy.is_empty() && self.simulator.listing()?.is_quiet() {
                true => Look::Done(()),
                false => Look::Waiting(busy.join(", ")),
            })
        })
    }

    /// The disks that restores have replaced and announced to keep.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn kept_disks(&self) -> Result<Vec<String>> {
        let mut disks = Vec::new();
        for job in self.azdr.jobs()?.iter().filter(|job| job["workflow"] == "restore_in_place") {
            // The list of jobs is without their results.
            let job = self.azdr.job(job["id"].as_i64().context("a job's number")?)?;
            let kept = job["result"]["restore"]["kept_disks"].as_array().into_iter().flatten();
            disks.extend(kept.filter_map(|id| Some(id.as_str()?.to_owned())));
        }
        Ok(disks)
    }

    /// Waits until a job is terminal or stuck, and returns it. The controller may be away meanwhile.
    ///
    /// # Errors
    /// When that does not happen within `limit`.
    pub fn job_ended(&self, id: i64, limit: Duration) -> Result<Value> {
        until(&format!("job {id} has ended"), limit, || {
            Ok(match self.azdr.job(id) {
                Ok(job) if !is_active(&job) => Look::Done(job),
                Ok(job) => Look::Waiting(brief(&job)),
                Err(e) => Look::Waiting(format!("{e:#}")),
            })
        })
    }
}

fn play_agents(
    programs: &Programs,
    folder: &Path,
    lifetime: Lifetime,
    simulator: &Simulator,
) -> Result<Daemon> {
    let mut command = programs.command("azdr-simulated-agents");
    command.arg("--simulator").arg(simulator.address().to_string());
    command.arg("--ca").arg(simulator.ca());
    let log = folder.join("agents.log");
    Daemon::start("azdr-simulated-agents", command, &log, lifetime)
}

/// Whether a job is not over yet. A stuck one waits for a person, and so does one that asks for approval:
/// nothing more comes of it.
pub fn is_active(job: &Value) -> bool {
    if job["waits_for_approval"] == true {
        return false;
    }
    ["queued", "running", "undoing"].iter().any(|state| job["state"] == *state)
}

/// A job in a few words.
pub fn brief(job: &Value) -> String {
    let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    format!("job {} ({}) is {} {}", job["id"], text("workflow"), text("state"), text("waiting_for"))
        .trim_end()
        .to_owned()
}

/// An address on loopback that nobody uses right now, and that this process gives to nobody else: what
/// listens there may be killed and started again. It lies below the ports that the kernel takes for
/// outgoing connections.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Other processes of the kind begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let n = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, (FIRST + n) as u16));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from {FIRST} to {}", FIRST + PORTS - 1)
}
