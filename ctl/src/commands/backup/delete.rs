//! `azdr backup delete`

use azdr_proto::admin::{DeletionPlan, Job, PlanDeletionRequest, StartDeletionRequest};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::confirm::{self, Confirmed};
use crate::error::CliError;
use crate::quantity::{second, size};
use crate::session::Session;
use crate::style::Style;
use crate::watch;
use crate::which_point::WhichPoint;

/// Delete a backup, or its copy in one region
///
/// Needs a "yes" at the terminal or --yes. It is refused, with every reason, while something holds the
/// backup (a pin, a job that uses it, a copy that still needs it), and for the newest restorable and the
/// newest proved backup of a region. What the policy wants does not count here.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr backup delete prod-db-vm-backup-daily-20251130-0800\n  \
    azdr backup delete prod-db-vm-backup-daily-20251130-0800 --region westus2 --yes")]
pub(crate) struct Delete {
    #[command(flatten)]
    which: WhichPoint,
    /// Delete only the copy in this region
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
    /// Do not ask before deleting
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Delete {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        if !self.yes {
            // Known before anything is asked of the controller, so also said before.
            confirm::needs_terminal(
                "confirm the deletion",
                "Add --yes to delete without being asked.",
            )?;
        }
        let request = PlanDeletionRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            region: self.region.clone().unwrap_or_default(),
        };
        let plan = s.client.plan_deletion(request).await?.into_inner();
        s.out.text(&heading(&plan));
        let caution = caution(&plan, s.out.err);
        let confirmed = match confirm::given(self.yes) {
            Some(confirmed) => {
                s.out.words(&format!("{caution}\n"));
                confirmed
            }
            None => {
                // The question is for the person at the terminal, whatever the output format.
                s.out.aside(&format!("{caution}\n"));
                confirm::ask("Delete it?")?
            }
        };
        let job = start(s, &plan, confirmed).await?;
        watch::conclude(s, job, self.wait).await
    }
}

/// Only for who agreed to lose it.
async fn start(s: &mut Session, plan: &DeletionPlan, _agreed: Confirmed) -> Result<Job, CliError> {
    let request = StartDeletionRequest { confirmation: plan.confirmation.clone() };
    Ok(s.client.start_deletion(request).await?.into_inner())
}

fn heading(plan: &DeletionPlan) -> String {
    let mut text = "Deleting a backup...\n".to_owned();
    if let Some(point) = &plan.point {
        text.push_str(&format!("  Backup: {}\n", point.name));
        text.push_str(&format!("  Size: {}\n", size(point.size_bytes)));
        text.push_str(&format!("  Created: {}\n", second(point.created_unix_ms)));
    }
    text.push('\n');
    text
}

fn caution(plan: &DeletionPlan, style: Style) -> String {
    let mut text = "What will happen:\n".to_owned();
    for (position, action) in plan.actions.iter().enumerate() {
        text.push_str(&format!("  {}. {action}\n", position + 1));
    }
    text.push('\n');
    if let Some((first, others)) = plan.warnings.split_first() {
        text.push_str(&format!("{}: {first}\n", style.warning()));
        for warning in others {
            text.push_str(&format!("  {warning}\n"));
        }
    }
    text
}
