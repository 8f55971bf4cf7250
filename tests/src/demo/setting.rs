//! The setting: a simulated Azure with two machines, a controller, and an agent on each machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Options;
use super::screen::{Screen, say, show};
use super::simulated;
use crate::controller::{Addresses, Controller};
use crate::guest::Guest;
use crate::lab::{Lab, LabSpec, Machines};
use crate::poll::{Look, until};
use crate::process::Lifetime;
use crate::simulated_machines::SimulatedMachine;
use crate::world::{REGION, Vm, World};

/// The machines: resource group and name.
pub(super) const MACHINES: [(&str, &str); 2] = [("web-rg", "web"), ("data-rg", "db")];

/// One machine needs 3 to 5 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// Starts the simulated Azure and the controller.
pub(super) fn build(options: &Options, folder: &Path, screen: &mut Screen) -> Result<Lab> {
    let [web, db] = MACHINES.map(|(group, name)| Vm::new(group, name));
    let world = World { vms: vec![web, db.with_data_disk()] };
    let mut spec = match &options.machines {
        Machines::Real(image) => LabSpec::with_guests(world, image),
        Machines::Simulated => LabSpec::with_simulated_guests(world),
        Machines::Records => LabSpec::without_guests(world),
    };
    spec.patience = options.patience;
    if options.keep {
        spec.lifetime = Lifetime::Kept;
        // Whoever goes on with it expects what a policy says.
        spec.scheduler.enabled = true;
    }
    let programs = &options.programs;
    let addresses = Addresses::free()?;
    let simulator = screen.step("Start a simulated Azure with two virtual machines", || {
        let simulator = Lab::simulator(programs, folder, &spec, addresses)?;
        say(&format!("Azure Resource Manager at {}", simulator.endpoint()));
        for vm in simulator.listing()?.vms() {
            let disks = simulator.listing()?.disks_of(vm).len();
            say(&format!("{} in {REGION}: {}, {disks} disk(s)", vm.name(), vm.power()));
        }
        Ok(simulator)
    })?;
    let controller = screen.step("Initialise and start the controller", || {
        let mut controller = Controller::create(programs, folder, &simulator, addresses, &spec)?;
        controller.start()?;
        ensure!(controller.probe("/readyz").is_ok(), "/readyz does not say ready");
        say(&format!("operators at {}, agents at {}", addresses.admin, addresses.agent));
        Ok(controller)
    })?;
    let lab = Lab::of(programs, folder, spec, simulator, controller)?;
    screen.step("Look at the virtual machines", || {
        show(&lab.azdr, &["whoami"])?;
        let answer = show(&lab.azdr, &["vm", "list"])?;
        for (_, name) in MACHINES {
            ensure!(answer.stdout.contains(name), "{name} is not in the list");
        }
        Ok(())
    })?;
    Ok(lab)
}

/// Waits until both machines have booted.
pub(super) fn await_machines(lab: &Lab, screen: &mut Screen) -> Result<(Guest, Guest)> {
    screen.step("Wait until the machines have booted", || {
        let [web, db] = MACHINES.map(|(group, name)| lab.guest(group, name));
        let (web, db) = (web?, db?);
        for guest in [&web, &db] {
            guest.await_ssh(BOOT_LIMIT)?;
            say(&format!("{} answers: {}", guest.name, guest.line("")));
        }
        Ok((web, db))
    })
}

/// Waits until both simulated machines are up.
pub(super) fn await_simulated(
    lab: &Lab,
    screen: &mut Screen,
) -> Result<(SimulatedMachine, SimulatedMachine)> {
    screen.step("Wait until the machines have booted", || {
        let [web, db] = MACHINES.map(|(group, name)| lab.machine(group, name));
        let (web, db) = (web?, db?);
        for machine in [&web, &db] {
            let up = simulated::await_up(machine)?;
            say(&format!("{} is up: boot {}", machine.name, up.boot_id));
        }
        Ok((web, db))
    })
}

/// Enrols an agent on each machine, over the network, in whatever way `enrol` does that.
pub(super) fn enrol(
    lab: &Lab,
    screen: &mut Screen,
    enrol: impl Fn(&str) -> Result<String>,
) -> Result<()> {
    screen.step("Enrol an agent on each machine, with a one-time token", || {
        let names = MACHINES.map(|(_, name)| name);
        for name in names {
            println!("  $ azdr agent token {name} --output json");
            println!("  {name}# {}", enrol(name)?);
        }
        await_agents(lab, &names)?;
        show(&lab.azdr, &["agent", "list"]).map(drop)
    })
}

/// Waits until agents are connected and can freeze.
fn await_agents(lab: &Lab, names: &[&str]) -> Result<()> {
    until("the agents are connected and can freeze", AGENT_LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?;
        let agents = answer["agents"].as_array().context("agents")?;
        let able = |name: &&str| {
            agents.iter().any(|a| {
                a["vm_name"] == **name && a["state"] == "connected" && a["can_freeze"] == true
            })
        };
        Ok(match names.iter().all(able) {
            true => Look::Done(()),
            false => Look::Waiting(answer.to_string()),
        })
    })
}
