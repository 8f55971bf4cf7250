//! `azdr residue list`

use azdr_proto::admin::{ListResidueRequest, ListResidueResponse, ResidueResource};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{between, count, dollars, minute};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names};

/// List what carries azdr's tag in Azure but is needed no more, with what it costs
///
/// The disks that restores have replaced, which are kept for some days, are listed too. azdr itself
/// deletes what is provably a temporary of a job that is over, and leaves the rest to you, with the
/// reason. Costs are estimates from list prices, in US dollars per month. Resources of other azdr
/// installations are counted, and never touched.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr residue list")]
pub(crate) struct List {
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_residue(ListResidueRequest {}).await?.into_inner();
            Ok(s.out.many(&rows::RESIDUE, json::residue(&answer), |style| text(&answer, style)))
        })
        .await
    }
}

fn text(answer: &ListResidueResponse, style: Style) -> String {
    let mut text = match answer.resources.len() as u32 {
        0 => format!("{}\n", style.headline(true, "Nothing is left behind")),
        n => format!(
            "{}, {} ${} per month (estimate, list prices of {}{})\n\n",
            count(n, "resource"),
            if unpriced(answer) == 0 { "about" } else { "at least" },
            dollars(answer.monthly_cost_usd_cents),
            answer.prices_as_of,
            match unpriced(answer) {
                0 => String::new(),
                n => format!("; {n} without a price"),
            }
        ),
    };
    if !answer.held.is_empty() {
        text.push_str(&format!("{}: {}\n\n", style.warning(), answer.held));
    }
    if !answer.resources.is_empty() {
        let mut table =
            Table::new(&["RESOURCE", "TYPE", "CREATED", "AGE", "PER MONTH", "JOB", "FATE"]);
        for resource in &answer.resources {
            table.row([
                names::last_segment(&resource.resource_id).to_owned(),
                names::last_segment(&resource.resource_type).to_owned(),
                at(resource.created_unix_ms),
                age(resource.created_unix_ms, answer.as_of_unix_ms),
                resource
                    .monthly_cost_usd_cents
                    .map_or_else(|| "?".to_owned(), |cents| format!("${}", dollars(cents))),
                job(resource),
                fate(resource),
            ]);
        }
        text.push_str(&table.render(""));
        text.push('\n');
        for resource in &answer.resources {
            text.push_str(&format!("{}\n  {}\n", resource.resource_id, resource.reason));
        }
    }
    for other in &answer.others {
        text.push_str(&format!(
            "\nOf another azdr installation ({}): {} of type {}\n",
            other.installation,
            count(other.resources, "resource"),
            names::last_segment(&other.resource_type)
        ));
    }
    text
}

/// Of how many nobody knows what they cost.
fn unpriced(answer: &ListResidueResponse) -> usize {
    answer.resources.iter().filter(|r| r.monthly_cost_usd_cents.is_none()).count()
}

/// In days, or hours on the first; a dash when Azure does not say.
fn age(created_unix_ms: i64, now_unix_ms: i64) -> String {
    let hours = between(created_unix_ms, now_unix_ms).map(|age| age.as_secs() / 3600);
    match hours {
        None => "-".to_owned(),
        Some(hours @ 0..24) => format!("{hours}h"),
        Some(hours) => format!("{}d", hours / 24),
    }
}

fn at(unix_ms: i64) -> String {
    if unix_ms == 0 { "-".to_owned() } else { minute(unix_ms) }
}

fn job(resource: &ResidueResource) -> String {
    match (resource.job_id, resource.workflow.as_str()) {
        (0, _) => "-".to_owned(),
        (id, "") => id.to_string(),
        (id, workflow) => format!("{id} ({workflow})"),
    }
}

fn fate(resource: &ResidueResource) -> String {
    match (resource.reaped, resource.reaped_after_unix_ms) {
        (true, 0) => "azdr deletes it".to_owned(),
        (true, then) => format!("azdr deletes it after {}", minute(then)),
        (false, _) => format!("yours to decide: {}", resource.left_because),
    }
}
