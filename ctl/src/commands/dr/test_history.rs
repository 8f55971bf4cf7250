//! `azdr dr test-history`

use azdr_proto::admin::{DrStatistics, ListDrTestsRequest, ListDrTestsResponse};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::again::{self, Again};
use crate::days::Days;
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{millis, minute, share};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names};

/// List past DR tests, with the recovery times that they measured
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr dr test-history prod-db-vm --days 90")]
pub(crate) struct TestHistory {
    /// Name of the VM, or its ARM resource ID; all VMs (of --resource-group) if not given
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    #[command(flatten)]
    days: Days,
    #[command(flatten)]
    again: Again,
}

impl TestHistory {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let request = ListDrTestsRequest {
                vm: s.vm(self.vm.as_deref().unwrap_or_default()),
                since_unix_ms: self.days.since_unix_ms(&*s.clock),
            };
            let answer = s.client.list_dr_tests(request).await?.into_inner();
            Ok(s.out.many(&rows::DR_TESTS, json::dr_tests(&answer), |style| {
                let vm = self.vm.as_deref().map(names::last_segment);
                text(vm, self.days, &answer, style)
            }))
        })
        .await
    }
}

fn text(vm: Option<&str>, days: Days, answer: &ListDrTestsResponse, style: Style) -> String {
    let tests = &answer.tests;
    let of = vm.map(|vm| format!(" for {vm}")).unwrap_or_default();
    let mut text = format!("DR Test History{of} ({})\n", days.words());
    text.push_str(&format!("\nRecent Tests ({}):\n", tests.len()));
    if tests.is_empty() {
        text.push_str("  (no DR tests)\n");
        return text;
    }
    let mut table = Table::default();
    for test in tests {
        let verdict = if test.passed { "PASS" } else { "FAIL" };
        let rto = if test.rto_ms == 0 { "-".to_owned() } else { millis(test.rto_ms) };
        let mut row = vec![
            minute(test.started_unix_ms),
            if style.fancy {
                format!("{} {verdict}", style.mark(test.passed))
            } else {
                verdict.into()
            },
            format!("RTO: {rto}"),
            test.region.clone(),
        ];
        if vm.is_none() {
            row.insert(1, test.vm_name.clone());
        }
        row.push(test.error.clone());
        table.row(row);
    }
    text.push_str(&table.render("  "));
    if let Some(s) = &answer.statistics {
        text.push_str(&statistics(s, style));
    }
    text
}

fn statistics(s: &DrStatistics, style: Style) -> String {
    let mut text = format!(
        "\nStatistics:\n  Total tests: {}\n  Passed: {} ({})\n  Failed: {} ({})\n",
        s.total,
        s.passed,
        share(s.passed, s.total),
        s.failed,
        share(s.failed, s.total)
    );
    if s.passed > 0 {
        // A test that never got through has no RTO to average.
        let of = if s.failed > 0 { " (of those that passed)" } else { "" };
        text.push_str(&format!("  Average RTO: {}{of}\n", millis(s.average_rto_ms)));
        let median = match s.median_rto_ms {
            0 => "none: half of the tests failed".to_owned(),
            ms => millis(ms),
        };
        text.push_str(&format!("  Median RTO: {median}\n"));
        let target = s.target_rto_ms / 60_000;
        let words = if s.worst_rto_ms < s.target_rto_ms {
            style.good(&format!("within {target}m target"))
        } else {
            format!("over {target}m target {}", style.mark(false))
        };
        text.push_str(&format!("  Max RTO: {} ({words})\n", millis(s.worst_rto_ms)));
    }
    if let Some(b) = &s.bound {
        let (share, sure) = (b.share_percent, b.confidence_percent);
        let bound = match (b.rto_ms, b.tests_needed) {
            (0, 0) => "no bound: too many tests failed".to_owned(),
            (0, n) => format!("not enough data ({} tests, {n} are needed)", s.total),
            (ms, _) => format!("at most {} (with {sure}% confidence)", millis(ms)),
        };
        text.push_str(&format!("  {share}% of recoveries: {bound}\n"));
    }
    text
}
