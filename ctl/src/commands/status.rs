//! `azdr status`

use azdr_proto::admin::{FleetObjective, FleetPart, FleetStatus, GetStatusRequest};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::quantity::{dollars, minute, second};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names};

/// Show the whole fleet on one screen: what is protected, what is missing, what waits for you
///
/// A VM is covered if it has every backup that it should have by now, and overdue if two hours after its
/// last scheduled time it still has none. A DR test is due for a VM whose policy asks for them
/// (--drill-every) and that has passed none in that time. An RTO is judged by the last DR test, an RPO by
/// the newest restorable backup; what was not measured is neither met nor missed. A VM cannot be frozen if
/// its agent's last preflight said so: see `azdr agent list`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr status\n  azdr status --watch --interval 30")]
pub(crate) struct Status {
    #[command(flatten)]
    again: Again,
}

impl Status {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.get_status(GetStatusRequest {}).await?.into_inner();
            Ok(s.out.one(json::fleet_status(&answer), |style| text(&answer, style)))
        })
        .await
    }
}

fn text(status: &FleetStatus, style: Style) -> String {
    let mut text = format!("Fleet at {}\n", second(status.as_of_unix_ms));
    let mut table = Table::default();
    let mut row = |label: &str, what: String, which: String| {
        table.row([label.to_owned(), what, which]);
    };
    match status.vms_unknown.as_str() {
        "" => {
            let listed = format!("listed at {}", minute(status.vms_listed_unix_ms));
            row("VMs in Azure", status.vms.to_string(), listed);
        }
        why => row("VMs in Azure", "?".to_owned(), why.to_owned()),
    }
    row("Covered", status.covered.to_string(), String::new());
    for (label, part) in [
        ("Overdue", &status.overdue),
        ("Never backed up", &status.never_backed_up),
        ("Not covered", &status.not_covered),
        ("Gone from Azure", &status.gone),
        ("Unproved", &status.unproved),
        ("DR tests due", &status.drills_due),
        ("DR tests not asked for", &status.drills_not_asked_for),
        ("DR tests failed", &status.drills_failed),
        ("Cannot be frozen", &status.preflight_not_ready),
    ] {
        let part = part.clone().unwrap_or_default();
        row(label, part.vms.to_string(), longest(&part));
    }
    for (label, objective) in [("RPO missed", &status.rpo), ("RTO missed", &status.rto)] {
        let objective = objective.clone().unwrap_or_default();
        let missed = objective.missed.clone().unwrap_or_default();
        row(label, missed.vms.to_string(), others(&objective, &longest(&missed)));
    }
    let FleetStatus { alerts_critical, alerts_high, alerts_medium, .. } = status;
    let open = alerts_critical + alerts_high + alerts_medium;
    let alerts = match open {
        0 => String::new(),
        _ => format!(
            "{alerts_critical} critical, {alerts_high} high, {alerts_medium} medium: azdr alert list \
             --open"
        ),
    };
    row("Alerts open", open.to_string(), alerts);
    row("Recovery points", status.recovery_points.to_string(), String::new());
    let FleetStatus { jobs_queued, jobs_running, jobs_undoing, jobs_stuck, .. } = status;
    let jobs = format!("{jobs_queued} queued, {jobs_running} running, {jobs_undoing} undoing");
    row("Jobs", (jobs_queued + jobs_running + jobs_undoing).to_string(), jobs);
    let stuck: Vec<String> = status.stuck_job_ids.iter().map(|id| format!("job {id}")).collect();
    row("Jobs stuck", jobs_stuck.to_string(), stuck.join(", "));
    match &status.residue {
        Some(residue) => {
            let cost = format!("about ${} a month", dollars(residue.monthly_cost_usd_cents));
            let at = minute(residue.as_of_unix_ms);
            row("Residue", residue.resources.to_string(), format!("{cost}, looked up at {at}"));
        }
        None => row("Residue", "?".to_owned(), "not looked up yet".to_owned()),
    }
    text.push_str(&table.render("  "));
    if !status.deletions_held.is_empty() {
        text.push_str(&format!("{}: {}\n", style.warning(), status.deletions_held));
    }
    text
}

/// Those that miss an objective, and how many do not.
fn others(objective: &FleetObjective, missed: &str) -> String {
    let mut parts = vec![format!("{} met", objective.met)];
    if objective.unknown > 0 {
        parts.push(format!("{} not measured yet", objective.unknown));
    }
    if objective.not_asked_for > 0 {
        parts.push(format!("{} without one", objective.not_asked_for));
    }
    if missed.is_empty() { parts.join(", ") } else { format!("{missed}; {}", parts.join(", ")) }
}

/// Few names are enough to begin with: the rest is in the JSON and in the lists.
fn longest(part: &FleetPart) -> String {
    const SHOWN: usize = 3;
    let named = part.longest.iter().take(SHOWN).map(|vm| {
        let name = names::last_segment(&vm.vm_resource_id);
        match vm.newest_recovery_point_unix_ms {
            0 => name.to_owned(),
            newest => format!("{name} (last {})", minute(newest)),
        }
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    let more = part.vms as usize - part.longest.len().min(SHOWN).min(part.vms as usize);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
