//! The order of events.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::screen::{Screen, say};
use super::summary::{Azure, Summary};
use super::{Options, disaster, drill, protection, setting, simulated};
use crate::lab::{Lab, Machines};

/// Tells the story up to its end or to the first check that does not hold; the lab, if it came into
/// being, is returned in either case.
pub(super) fn tell(
    options: &Options,
    folder: &Path,
    screen: &mut Screen,
    summary: &mut Summary,
) -> (Option<Lab>, Result<()>) {
    let lab = match setting::build(options, folder, screen) {
        Ok(lab) => lab,
        Err(error) => return (None, Err(error)),
    };
    let told = match options.machines {
        Machines::Real(_) => with_guests(&lab, screen, summary),
        Machines::Simulated => with_simulated_guests(&lab, screen, summary),
        Machines::Records => without_guests(&lab, screen, summary),
    };
    let counted = told.and_then(|()| count(&lab, screen, summary));
    (Some(lab), counted)
}

fn with_guests(lab: &Lab, screen: &mut Screen, summary: &mut Summary) -> Result<()> {
    let (web, db) = setting::await_machines(lab, screen)?;
    setting::enrol(lab, screen, |name| lab.enrol(if name == db.name { &db } else { &web }))?;
    protection::configure(lab, screen, true)?;
    let data = disaster::plant(screen, &db)?;
    let point = protection::back_up(lab, screen, summary, true)?;
    protection::list(lab, screen, &point)?;
    protection::replicate(lab, screen, summary, &point)?;
    protection::verify(lab, screen, summary, &point)?;
    disaster::destroy(lab, screen, &db)?;
    disaster::restore(lab, screen, summary, &point)?;
    disaster::inspect(lab, screen, summary, &db, &data)?;
    drill::test(lab, screen, summary)?;
    drill::history(lab, screen)?;
    drill::residue(lab, screen, summary, &["db"])
}

fn with_simulated_guests(lab: &Lab, screen: &mut Screen, summary: &mut Summary) -> Result<()> {
    let (web, db) = setting::await_simulated(lab, screen)?;
    let machine = |name: &str| if name == db.name { &db } else { &web };
    setting::enrol(lab, screen, |name| lab.enrol_simulated(machine(name)))?;
    protection::configure(lab, screen, true)?;
    let data = simulated::plant(lab, screen, &db)?;
    let point = protection::back_up(lab, screen, summary, true)?;
    simulated::check_snapshots(lab, screen)?;
    protection::list(lab, screen, &point)?;
    protection::replicate(lab, screen, summary, &point)?;
    protection::verify(lab, screen, summary, &point)?;
    simulated::destroy(lab, screen, &db)?;
    disaster::restore(lab, screen, summary, &point)?;
    simulated::inspect(lab, screen, summary, &db, &data)?;
    drill::test(lab, screen, summary)?;
    drill::history(lab, screen)?;
    drill::residue(lab, screen, summary, &["db"])
}

fn without_guests(lab: &Lab, screen: &mut Screen, summary: &mut Summary) -> Result<()> {
    protection::configure(lab, screen, false)?;
    let point = protection::back_up(lab, screen, summary, false)?;
    protection::list(lab, screen, &point)?;
    protection::replicate(lab, screen, summary, &point)?;
    protection::verify(lab, screen, summary, &point)?;
    drill::residue(lab, screen, summary, &[])
}

/// What it cost, as the other side counted.
fn count(lab: &Lab, screen: &mut Screen, summary: &mut Summary) -> Result<()> {
    screen.step("Figures: the controller's metrics, and requests as counted by Azure", || {
        let metrics = lab.controller.metrics()?;
        let series = metrics.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).count();
        ensure!(series > 0, "/metrics is empty");
        say(&format!("/metrics has {series} series"));
        let requests = lab.simulator.requests()?;
        let number = |name: &str| requests[name].as_u64().with_context(|| format!("no {name}"));
        let azure = Azure { requests: number("total")?, throttled: number("throttled")? };
        say(&format!("{} requests, {} throttled", azure.requests, azure.throttled));
        summary.azure = Some(azure);
        Ok(())
    })
}
