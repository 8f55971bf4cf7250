//! `azdr alert list`

use azdr_proto::admin::{Alert, AlertSeverity, ListAlertsRequest, ListAlertsResponse};
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, ValueEnum};

use crate::again::{self, Again};
use crate::days::Days;
use crate::error::CliError;
use crate::names::{last_segment, or_dash};
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::table::Table;
use crate::{json, names, whole};

/// As the interface says them.
const KINDS: [&str; 12] = [
    "backup_failed",
    "cleanup_failed",
    "replication_failed",
    "dr_test_failed",
    "rto_exceeded",
    "verification_failed",
    "job_stuck",
    "success_rate_low",
    "verification_overdue",
    "rpo_missed",
    "backup_overdue",
    "vm_gone",
];

/// List what somebody should look at, the newest first
///
/// A job that fails, or a recovery that takes longer than the RTO, is one alert; the next success ends
/// it, and of several of the same cause only the newest is open. What is so for a while (an RPO that is
/// missed, backups that are unverified for more than 7 days or than the policy's --verify-every, a
/// backup that is overdue, less than 99.9 % of the DR tests of 30 days passed, a VM that is gone) is one
/// alert for as long as it lasts. azdr alert close ends one that nothing else will.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr alert list --open --severity high\n  \
    azdr alert list --vm prod-db-vm --days 7")]
pub(crate) struct List {
    /// Only those about this VM
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    /// Only those at least so severe
    #[arg(long, value_enum)]
    severity: Option<SeverityName>,
    /// Only those of this kind
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Option<String>,
    /// Only those that are not resolved; they are shown whatever their age
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    days: Days,
    /// At most so many, up to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(allow_negative_numbers = true, value_parser = whole::whole::<1, 1000>)]
    limit: u32,
    /// Only those with a lower ID: the next page
    #[arg(long, value_name = "ID", allow_negative_numbers = true, value_parser = whole::alert)]
    before: Option<i64>,
    #[command(flatten)]
    again: Again,
}

/// How soon somebody should look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SeverityName {
    /// In the coming days
    Medium,
    /// Today
    High,
    /// Now
    Critical,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let severity = match self.severity {
            None => AlertSeverity::Unspecified,
            Some(SeverityName::Medium) => AlertSeverity::Medium,
            Some(SeverityName::High) => AlertSeverity::High,
            Some(SeverityName::Critical) => AlertSeverity::Critical,
        };
        let request = ListAlertsRequest {
            vm: s.vm(self.vm.as_deref().unwrap_or_default()),
            since_unix_ms: self.days.since_unix_ms(&*s.clock),
            severity: severity.into(),
            kind: self.kind.unwrap_or_default(),
            open: self.open,
            limit: self.limit,
            before_id: self.before.unwrap_or_default(),
        };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_alerts(request.clone()).await?.into_inner();
            Ok(s.out.many(&rows::ALERTS, json::alerts(&answer), |_| text(&answer)))
        })
        .await
    }
}

fn text(answer: &ListAlertsResponse) -> String {
    if answer.alerts.is_empty() {
        return "No alerts\n".to_owned();
    }
    let mut table =
        Table::new(&["ID", "SEVERITY", "RAISED (UTC)", "STATE", "VM", "JOB", "TIMES", "WHAT"]);
    for alert in &answer.alerts {
        table.row([
            alert.id.to_string(),
            or_dash(names::alert_severity(alert.severity)),
            minute(alert.raised_unix_ms),
            state(alert),
            or_dash(Some(last_segment(&alert.vm_resource_id).to_owned())),
            or_dash((alert.job_id != 0).then(|| alert.job_id.to_string())),
            alert.times.to_string(),
            alert.what.clone(),
        ]);
    }
    let mut text = table.render("");
    let open: Vec<&Alert> = answer.alerts.iter().filter(|a| a.resolved_unix_ms == 0).collect();
    if !open.is_empty() {
        text.push_str("\nWhat to do:\n");
        let mut table = Table::default();
        for alert in open {
            table.row([alert.id.to_string(), alert.next_step.clone()]);
        }
        text.push_str(&table.render("  "));
    }
    let closed: Vec<&Alert> = answer.alerts.iter().filter(|a| !a.closed_by.is_empty()).collect();
    if !closed.is_empty() {
        text.push_str("\nClosed by hand:\n");
        let mut table = Table::default();
        for alert in closed {
            let lasts = if alert.lasts { " (still so)" } else { "" };
            let why = format!("{}: {}{lasts}", alert.closed_by, alert.resolution);
            table.row([alert.id.to_string(), why]);
        }
        text.push_str(&table.render("  "));
    }
    if let (more @ 1.., Some(last)) = (answer.more, answer.alerts.last()) {
        text.push_str(&format!("\n{more} older: --before {}\n", last.id));
    }
    text
}

fn state(alert: &Alert) -> String {
    match alert.resolved_unix_ms {
        0 => "open".to_owned(),
        at if !alert.closed_by.is_empty() => format!("closed {}", minute(at)),
        at => format!("resolved {}", minute(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_those_of_the_interface() {
        let manual = include_str!("../../../../proto/proto/admin.proto");
        let from = manual.find("// Events: \"backup_failed\"").unwrap();
        let listed = &manual[from..from + manual[from..].find("string kind").unwrap()];
        let said: Vec<&str> = listed.split('"').skip(1).step_by(2).collect();
        assert_eq!(said, KINDS);
    }
}
