//! `azdr backup restore`

use azdr_proto::admin::{Job, PlanRestoreRequest, RecoveryPoint, RestorePlan, StartRestoreRequest};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::all_points;
use crate::cli::Wait;
use crate::confirm::{self, Confirmed};
use crate::error::CliError;
use crate::point_in_time::PointInTime;
use crate::quantity::{estimate, second, size};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{names, watch};

/// Restore a VM from a backup: in place, or as a new VM
///
/// In place, the VM is stopped and its disks are replaced, which needs a "yes" at the terminal or --yes;
/// the old disks are kept for some days. A new VM (--new-vm) leaves the original alone, and nothing is
/// asked. Ctrl-C ends the watching; the restore goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800\n  \
    azdr backup restore prod-db-vm --interactive\n  \
    azdr backup restore prod-db-vm --at \"2025-12-01 07:00\"\n  \
    azdr backup restore prod-db-vm --new-vm prod-db-vm-restored")]
pub(crate) struct Restore {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// The backup, by a name as `azdr backup show` takes it; the newest one if not given
    #[arg(long, value_name = "POINT", value_parser = NonEmptyStringValueParser::new())]
    backup: Option<String>,
    /// Take the newest backup that shows the VM at or before this time: "2025-12-01 07:00" (UTC), a
    /// time in RFC 3339, or 2h for two hours ago
    #[arg(long, value_name = "TIME", conflicts_with = "backup")]
    at: Option<PointInTime>,
    /// Choose the backup from a list, at a terminal
    #[arg(long, conflicts_with_all = ["backup", "at"])]
    interactive: bool,
    /// Restore into a new VM of this name instead
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    new_vm: Option<String>,
    /// Do not ask before replacing the VM's disks
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Restore {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let in_place = self.new_vm.is_none();
        if in_place && !self.yes {
            // Known before anything is asked of the controller, so also said before.
            confirm::needs_terminal(
                "confirm the restore, which replaces the VM's disks",
                "Add --yes to restore without being asked, or --new-vm NAME to leave this VM alone.",
            )?;
        }
        let recovery_point = match (&self.backup, self.interactive) {
            (Some(name), _) => name.clone(),
            (None, true) => self.choose(s).await?,
            (None, false) => String::new(),
        };
        let request = PlanRestoreRequest {
            vm: s.vm(&self.vm),
            recovery_point,
            new_vm_name: self.new_vm.clone().unwrap_or_default(),
            at_unix_ms: self.at.map_or(0, |at| at.unix_ms(s.clock.wall())),
            ..PlanRestoreRequest::default()
        };
        let plan = s.client.plan_restore(request).await?.into_inner();
        let title = format!("Restoring {} from backup...", names::last_segment(&self.vm));
        s.out.text(&heading(&title, &plan));
        let warning = caution(&plan, in_place, s.out.err);
        let confirmed = if in_place {
            match confirm::given(self.yes) {
                Some(confirmed) => {
                    s.out.words(&format!("{warning}\n"));
                    Some(confirmed)
                }
                None => {
                    // The question is for the person at the terminal, whatever the output format.
                    s.out.aside(&format!("{warning}\n"));
                    Some(confirm::ask("Proceed?")?)
                }
            }
        } else {
            s.out.words(&format!("{warning}\n"));
            None
        };
        let job = match confirmed {
            Some(confirmed) => replace_disks(s, &plan, confirmed).await?,
            None => start(s, &plan).await?,
        };
        watch::conclude(s, job, self.wait).await
    }

    async fn choose(&self, s: &mut Session) -> Result<String, CliError> {
        confirm::needs_terminal("choose a backup", "Name one with --backup.")?;
        let mut points = all_points(s, s.vm(&self.vm)).await?;
        if points.is_empty() {
            return Err(CliError::failed("not_found", format!("{} has no backups", self.vm))
                .hint(format!("Take one: azdr backup trigger {}", self.vm)));
        }
        eprint!("{}", choices(&points));
        let chosen = confirm::choose("Restore which backup?", points.len())?;
        Ok(points.swap_remove(chosen).name)
    }
}

/// Replaces the disks of a VM that somebody works with: only for who agreed to that.
async fn replace_disks(
    s: &mut Session,
    plan: &RestorePlan,
    _agreed: Confirmed,
) -> Result<Job, CliError> {
    start(s, plan).await
}

pub(in crate::commands) async fn start(
    s: &mut Session,
    plan: &RestorePlan,
) -> Result<Job, CliError> {
    let request = StartRestoreRequest { confirmation: plan.confirmation.clone() };
    Ok(s.client.start_restore(request).await?.into_inner())
}

fn choices(points: &[RecoveryPoint]) -> String {
    let mut table = Table::default();
    for (position, point) in points.iter().enumerate() {
        table.row([
            format!("{:>3}", position + 1),
            point.name.clone(),
            second(point.created_unix_ms),
            size(point.size_bytes),
            names::or_dash(names::consistency(point.consistency)),
            names::or_dash(names::proof_level(point.proof)),
        ]);
    }
    table.render("")
}

pub(in crate::commands) fn heading(title: &str, plan: &RestorePlan) -> String {
    let mut text = format!("{title}\n");
    if let Some(point) = &plan.point {
        text.push_str(&format!("  Backup: {}\n", point.name));
        text.push_str(&format!("  Size: {}\n", size(point.size_bytes)));
        text.push_str(&format!("  Created: {}\n", second(point.created_unix_ms)));
        if !plan.chosen_because.is_empty() {
            text.push_str(&format!("  Chosen: {}\n", plan.chosen_because));
        }
    }
    text.push('\n');
    text
}

pub(in crate::commands) fn caution(plan: &RestorePlan, in_place: bool, style: Style) -> String {
    let mut text = String::new();
    if !plan.actions.is_empty() {
        text.push_str("What will happen:\n");
        for (position, action) in plan.actions.iter().enumerate() {
            text.push_str(&format!("  {}. {action}\n", position + 1));
        }
        text.push('\n');
    }
    if let Some((first, others)) = plan.warnings.split_first() {
        text.push_str(&format!("{}: {first}\n", style.warning()));
        for warning in others {
            text.push_str(&format!("  {warning}\n"));
        }
    }
    if let Some(time) = estimate(plan.estimate_low_secs, plan.estimate_high_secs) {
        let what = if in_place { "downtime" } else { "time" };
        let restores = match plan.estimate_restores {
            1 => "1 restore".to_owned(),
            n => format!("{n} restores"),
        };
        let basis = match plan.estimate_basis.as_str() {
            "this_vm" => format!(" (measured: {restores} of this VM)"),
            "all_vms" => format!(" (measured: {restores} of other VMs, none of this one yet)"),
            _ => " (a default: nothing was measured yet)".to_owned(),
        };
        let indent = if in_place || !plan.warnings.is_empty() { "  " } else { "" };
        text.push_str(&format!("{indent}Estimated {what}: {time}{basis}\n"));
    }
    text
}
