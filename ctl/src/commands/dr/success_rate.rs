//! `azdr dr success-rate`

use azdr_proto::admin::{DrCompliance, DrSuccess, DrSuccessRate, GetDrSuccessRateRequest};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::again::{self, Again};
use crate::days::Days;
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{per_mille, share};
use crate::session::Session;
use crate::style::Style;
use crate::{json, names};

/// Report which share of the DR tests has passed, compared with the target
///
/// Compliance is INCOMPLETE while a VM whose backups are copied to another region has had no test in
/// these days.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr dr success-rate --vm prod-db-vm --days 90")]
pub(crate) struct SuccessRate {
    /// Name of the VM, or its ARM resource ID; all VMs (of --resource-group) if not given
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    #[command(flatten)]
    days: Days,
    #[command(flatten)]
    again: Again,
}

impl SuccessRate {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let request = GetDrSuccessRateRequest {
                vm: s.vm(self.vm.as_deref().unwrap_or_default()),
                since_unix_ms: self.days.since_unix_ms(&*s.clock),
            };
            let answer = s.client.get_dr_success_rate(request).await?.into_inner();
            Ok(s.out.many(&rows::DR_SUCCESS, json::dr_success_rate(&answer), |style| {
                text(self.days, &answer, self.vm.is_none(), style)
            }))
        })
        .await
    }
}

fn text(days: Days, rate: &DrSuccessRate, overall: bool, style: Style) -> String {
    let mut text = format!("DR Success Rate ({})\n", days.words());
    for vm in &rate.vms {
        text.push_str(&format!("\nVM: {}\n{}", vm.vm_name, counts(vm, rate, style)));
    }
    if let Some(all) = rate.overall.as_ref().filter(|_| overall || rate.vms.is_empty()) {
        let label = if overall { "Overall (All VMs)" } else { "Overall" };
        text.push_str(&format!("\n{label}:\n{}", counts(all, rate, style)));
    }
    if !rate.untested.is_empty() {
        text.push_str(&format!("\nNot tested ({}):\n", rate.untested.len()));
        for vm in &rate.untested {
            text.push_str(&format!("  {}\n", names::last_segment(vm)));
        }
    }
    let word = match rate.compliance() {
        DrCompliance::Passing => "PASSING",
        DrCompliance::Failing => "FAILING",
        DrCompliance::Incomplete => "INCOMPLETE (VMs without a test)",
        DrCompliance::NoTests => "NO TESTS",
        DrCompliance::Unspecified => "-",
    };
    text.push_str(&format!("\nCompliance: {word}\n"));
    text
}

fn counts(of: &DrSuccess, rate: &DrSuccessRate, style: Style) -> String {
    let total = of.total;
    let mut text = format!("  Total tests: {total}\n");
    text.push_str(&format!("  Passed: {} ({})\n", of.passed, share(of.passed, total)));
    text.push_str(&format!("  Failed: {} ({})\n", of.failed, share(of.failed, total)));
    let success = share(of.passed, total);
    let success = match (total, of.meets_target) {
        (0, _) => success,
        (_, true) => style.good(&success),
        (_, false) => format!("{success} {}", style.mark(false)),
    };
    text.push_str(&format!("  Success rate: {success}\n"));
    text.push_str(&format!("  Target: {}\n", per_mille(rate.target_per_mille)));
    text
}
