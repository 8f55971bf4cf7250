//! `azdr dr test-history`

use std::time::Duration;

use azdr_proto::admin::{DrTestRecord, ListDrTestsRequest};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::outcome::RTO_TARGET;
use crate::quantity::{count, millis, minute};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::whole::whole;
use crate::{json, names};

/// Show past DR tests and what they measured
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr dr test-history prod-db-vm --days 90")]
pub(crate) struct TestHistory {
    /// Name of the VM, or its ARM resource ID; all VMs if not given
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    /// How many days to look back, 1 to 3650
    #[arg(long, value_name = "N", default_value_t = 30)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 3650>)]
    days: u32,
}

impl TestHistory {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let span = Duration::from_secs(u64::from(self.days) * 24 * 3600);
        let request = ListDrTestsRequest {
            vm: self.vm.as_deref().and_then(|vm| s.vm(vm)),
            since_unix_ms: s.clock.wall().minus(span).unix_ms(),
        };
        let answer = s.client.list_dr_tests(request).await?.into_inner();
        s.out.result(json::dr_tests(&answer), |style| {
            let vm = self.vm.as_deref().map(names::last_segment);
            text(vm, self.days, &answer.tests, style)
        });
        Ok(())
    }
}

pub(super) fn text(vm: Option<&str>, days: u32, tests: &[DrTestRecord], style: Style) -> String {
    let of = vm.map(|vm| format!(" for {vm}")).unwrap_or_default();
    let mut text = format!("DR Test History{of} (Last {})\n", count(days, "Day"));
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
    text.push_str(&statistics(tests, style));
    text
}

fn statistics(tests: &[DrTestRecord], style: Style) -> String {
    let total = tests.len();
    let passed = tests.iter().filter(|test| test.passed).count();
    let share = |part: usize| format!("{part} ({}%)", part * 100 / total.max(1));
    let mut text = format!(
        "\nStatistics:\n  Total tests: {total}\n  Passed: {}\n  Failed: {}\n",
        share(passed),
        share(total - passed)
    );
    // A test that never got through has no RTO; counting it as zero would flatter.
    let rtos: Vec<u64> = tests.iter().map(|test| test.rto_ms).filter(|&ms| ms != 0).collect();
    if let Some(&max) = rtos.iter().max() {
        let average = rtos.iter().sum::<u64>() / rtos.len() as u64;
        text.push_str(&format!("  Average RTO: {}\n", millis(average)));
        let within = Duration::from_millis(max) < RTO_TARGET;
        let words = if within {
            style.good("within 15m target")
        } else {
            format!("over 15m target {}", style.mark(false))
        };
        text.push_str(&format!("  Max RTO: {} ({words})\n", millis(max)));
    }
    text
}
