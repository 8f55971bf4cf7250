//! `azdr policy simulate`

use std::collections::BTreeMap;
use std::str::FromStr;

use azdr_env::WallTime;
use azdr_proto::admin::{
    Outage, PolicySimulation, RegionHolding, SimulatePolicyRequest, SimulatedMonth,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::summary;
use crate::error::CliError;
use crate::json;
use crate::new_policy::NewPolicy;
use crate::output::rows;
use crate::quantity::{basis, count, dollars, minute, size};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::whole::whole;

/// Run schedule and retention forward from the backups that exist, month by month; nothing is changed
///
/// It is assumed that every backup outside the outages succeeds, that the jobs of now are over before the
/// first one, that copies are complete before the next one, and that nobody pins, verifies or deletes
/// anything. With `--output json` every backup is listed, and every deletion with its reason.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr policy simulate prod-db-vm --days 365\n  \
    azdr policy simulate prod-db-vm --daily 3 --monthly 6 --outage 2026-12-20..2027-01-03")]
pub(crate) struct Simulate {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// How many days to run forward, 1 to 3650
    #[arg(long, value_name = "N", default_value_t = 365, allow_negative_numbers = true, value_parser = whole::<1, 3650>)]
    days: u32,
    /// A span in which nothing runs, from one date (in UTC) or time (RFC 3339) to another; may be given
    /// several times
    #[arg(long, value_name = "FROM..TO", allow_hyphen_values = true)]
    outage: Vec<Span>,
    /// Which share of the disks changes per day, for the costs, in thousandths: 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    change_per_mille: u32,
    #[command(flatten)]
    policy: NewPolicy,
}

/// Two times.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: WallTime,
    to: WallTime,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected two dates or times in UTC, the first being the earlier, such as \
             2026-12-20..2027-01-03 or 2026-12-20T08:00:00Z..2026-12-20T20:00:00Z"
                .to_owned()
        };
        let time = |text: &str| {
            let is_date = text.len() == 10;
            let full = if is_date { format!("{text}T00:00:00Z") } else { text.to_owned() };
            full.parse::<WallTime>().map_err(|_| wrong())
        };
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        let (from, to) = (time(from)?, time(to)?);
        if from < to { Ok(Self { from, to }) } else { Err(wrong()) }
    }
}

impl Simulate {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let outages = self.outage.iter().map(|span| Outage {
            from_unix_ms: span.from.unix_ms(),
            to_unix_ms: span.to.unix_ms(),
        });
        let request = SimulatePolicyRequest {
            days: self.days,
            outages: outages.collect(),
            change_per_mille: self.change_per_mille,
            policy: Some(self.policy.request(s.vm(&self.vm))?),
        };
        let answer = s.client.simulate_policy(request).await?.into_inner();
        let shown =
            s.out.many(&rows::MONTHS, json::simulation(&answer), |style| text(&answer, style));
        s.out.show(&shown);
        Ok(())
    }
}

fn text(answer: &PolicySimulation, style: Style) -> String {
    let mut text = format!(
        "Simulation of {} from {} to {} UTC\n",
        answer.vm_name,
        minute(answer.from_unix_ms),
        minute(answer.to_unix_ms)
    );
    if let Some(policy) = &answer.policy {
        text.push_str(&format!("  Policy: {}\n", summary(policy)));
        if !policy.enabled {
            text.push_str("  The policy is off: nothing is taken, nothing is deleted\n");
        }
    }
    text.push_str(&format!("  At the start: {}\n", holdings(&answer.at_start)));
    if !answer.deletions_held.is_empty() {
        let held = &answer.deletions_held;
        text.push_str(&format!("{}: {held}; simulated as if released\n", style.warning()));
    }
    let mut table = Table::new(&[
        "MONTH",
        "TAKEN",
        "LATE",
        "MISSED",
        "DELETED",
        "AT ITS END",
        "STORAGE",
        "COPYING",
    ]);
    for month in &answer.months {
        table.row(row(month));
    }
    text.push_str(&format!("\n{}", table.render("")));
    let sum = |of: fn(&SimulatedMonth) -> u64| answer.months.iter().map(of).sum::<u64>();
    let cents = sum(|m| m.storage_usd_cents + m.copy_usd_cents);
    text.push_str(&format!(
        "\n{} taken, {} deleted, about ${} in all\n",
        count(sum(|m| u64::from(m.taken)) as u32, "backup"),
        sum(|m| u64::from(m.deleted)),
        dollars(cents)
    ));
    for (reason, n) in why(answer) {
        text.push_str(&format!("  {n} deleted: {reason}\n"));
    }
    if answer.months.iter().any(|m| m.partial) {
        text.push_str("* part of a month\n");
    }
    text.push_str(&basis(answer.basis.as_ref()));
    text
}

/// Why how many are deleted, the commonest reason first.
fn why(answer: &PolicySimulation) -> Vec<(&str, u32)> {
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for deleted in answer.runs.iter().flat_map(|run| &run.deleted) {
        *reasons.entry(&deleted.reason).or_default() += 1;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    reasons
}

fn row(month: &SimulatedMonth) -> [String; 8] {
    let partial = if month.partial { "*" } else { "" };
    [
        format!("{}{partial}", month.month),
        month.taken.to_string(),
        month.late.to_string(),
        month.missed.to_string(),
        month.deleted.to_string(),
        holdings(&month.holdings),
        format!("${}", dollars(month.storage_usd_cents)),
        format!("${}", dollars(month.copy_usd_cents)),
    ]
}

/// "23 in eastus (204 GB), 23 in westus2 (204 GB)".
fn holdings(holdings: &[RegionHolding]) -> String {
    let one = |h: &RegionHolding| {
        let size = if h.bytes == 0 { String::new() } else { format!(" ({})", size(h.bytes)) };
        format!("{} in {}{size}", h.recovery_points, h.region)
    };
    match holdings {
        [] => "nothing".to_owned(),
        some => some.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_two_times_in_order() {
        let span: Span = "2026-12-20..2026-12-21T12:00:00Z".parse().unwrap();
        assert_eq!(span.to.since(span.from).as_secs(), 36 * 3600);
        for wrong in ["", "2026-12-20", "2026-12-20..", "2026-12-21..2026-12-20", "a..b"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong:?}");
        }
    }
}
