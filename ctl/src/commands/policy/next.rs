//! `azdr policy next`

use azdr_proto::admin::{ListUpcomingRunsRequest, ListUpcomingRunsResponse};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::quantity::minute;
use crate::session::Session;
use crate::table::Table;
use crate::whole::whole;
use crate::{json, names};

/// Show a VM's coming backups, in its time zone and in UTC, with the tiers that they will carry
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy next prod-db-vm --count 10")]
pub(crate) struct Next {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// How many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    count: u32,
}

impl Next {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = ListUpcomingRunsRequest { vm: s.vm(&self.vm), count: self.count };
        let answer = s.client.list_upcoming_runs(request).await?.into_inner();
        s.out.result(json::upcoming_runs(&answer), |_| text(&answer));
        Ok(())
    }
}

fn text(answer: &ListUpcomingRunsResponse) -> String {
    if !answer.enabled {
        return format!("Backups of {} are disabled: there is no next run\n", answer.vm_name);
    }
    let local = format!("LOCAL ({})", answer.time_zone);
    let mut table = Table::new(&[local.as_str(), "UTC", "TIERS"]);
    for run in &answer.runs {
        let tiers: Vec<String> = run.tiers.iter().filter_map(|t| names::tier(*t)).collect();
        // "2025-12-01T08:00:00+01:00", without the seconds.
        let (day, rest) = run.local.split_once('T').unwrap_or((&run.local, ""));
        let (time, offset) = rest.split_at_checked(8).unwrap_or((rest, ""));
        let time = time.get(..5).unwrap_or(time);
        let local = format!("{day} {time} {offset}");
        table.row([local.trim_end().to_owned(), minute(run.scheduled_unix_ms), tiers.join(", ")]);
    }
    format!(
        "Next backups of {}:\n{}\nEach starts {}m {:02}s after its time, to spread the load\n",
        answer.vm_name,
        table.render("  "),
        answer.delay_secs / 60,
        answer.delay_secs % 60
    )
}
