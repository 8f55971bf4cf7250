//! `azdr backup cost`

use azdr_proto::admin::{CostEstimate, EstimateCostRequest, MonthlyCost};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::new_policy::NewPolicy;
use crate::quantity::{basis, count, dollars, size};
use crate::session::Session;
use crate::table::Table;
use crate::whole::whole;

/// Estimate what a VM's backups cost per month: as they are, and once every tier is filled
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr backup cost prod-db-vm\n  \
    azdr backup cost prod-db-vm --daily 3 --monthly 6 --no-cross-region")]
pub(crate) struct Cost {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Which share of the disks changes per day, for the costs, in thousandths: 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    change_per_mille: u32,
    #[command(flatten)]
    policy: NewPolicy,
}

impl Cost {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = EstimateCostRequest {
            change_per_mille: self.change_per_mille,
            policy: Some(self.policy.request(s.vm(&self.vm))?),
        };
        let answer = s.client.estimate_cost(request).await?.into_inner();
        s.out.result(json::cost(&answer), |_| text(&answer));
        Ok(())
    }
}

fn text(answer: &CostEstimate) -> String {
    let mut table = Table::new(&["", "BACKUPS", "HELD", "STORAGE", "COPYING", "PER MONTH"]);
    for (label, cost) in [
        ("Now", &answer.now),
        ("Present policy, every tier filled", &answer.present_policy),
        ("New policy, every tier filled", &answer.new_policy),
    ] {
        if let Some(cost) = cost {
            table.row([
                label.to_owned(),
                cost.recovery_points.to_string(),
                size(cost.bytes),
                format!("${}", dollars(cost.storage_usd_cents)),
                format!("${}", dollars(cost.copy_usd_cents)),
                format!("${}", dollars(cost.total_usd_cents)),
            ]);
        }
    }
    format!(
        "Estimated cost of the backups of {}:\n{}{}",
        answer.vm_name,
        table.render("  "),
        basis(answer.basis.as_ref())
    )
}

/// "about $12.34 per month with every tier filled (23 backups; estimate)".
pub(super) fn line(cost: &MonthlyCost) -> String {
    format!(
        "about ${} per month with every tier filled ({} and copies; estimate)",
        dollars(cost.total_usd_cents),
        count(cost.recovery_points, "backup")
    )
}
