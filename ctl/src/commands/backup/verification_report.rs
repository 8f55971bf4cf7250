//! `azdr backup verification-report`

use azdr_proto::admin::{
    GetVerificationReportRequest, VerificationReport as Report, VerificationSummary, VmVerification,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::again::{self, Again};
use crate::days::Days;
use crate::error::CliError;
use crate::json;
use crate::output::rows;
use crate::quantity::{second, share};
use crate::session::Session;
use crate::style::Style;

/// Report which backups were verified, and with which results
///
/// A backup counts as verified if a verification or a DR test has tried it in these days; what counts is
/// the last attempt at each of its copies.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr backup verification-report --vm prod-db-vm --days 7\n  \
    azdr backup verification-report -g Production --days 30")]
pub(crate) struct VerificationReport {
    /// Name of the VM, or its ARM resource ID; all VMs (of --resource-group) if not given
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    #[command(flatten)]
    days: Days,
    #[command(flatten)]
    again: Again,
}

impl VerificationReport {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let request = GetVerificationReportRequest {
                vm: s.vm(self.vm.as_deref().unwrap_or_default()),
                since_unix_ms: self.days.since_unix_ms(&*s.clock),
            };
            let answer = s.client.get_verification_report(request).await?.into_inner();
            Ok(s.out.many(&rows::VERIFICATIONS, json::verification_report(&answer), |style| {
                text(self.days, &answer, self.vm.is_none(), style)
            }))
        })
        .await
    }
}

fn text(days: Days, report: &Report, overall: bool, style: Style) -> String {
    let mut text = format!("Backup Verification Report ({})\n", days.words());
    for vm in &report.vms {
        text.push_str(&format!("\nVM: {}\n", vm.vm_name));
        text.push_str(&of_vm(&vm.summary.unwrap_or_default()));
    }
    if report.vms.is_empty() {
        text.push_str("\n(no backups)\n");
    }
    if let Some(summary) = report.overall.filter(|_| overall) {
        text.push_str("\nOverall Statistics:\n");
        text.push_str(&format!("  Total backups across all VMs: {}\n", summary.total));
        text.push_str(&rates(&summary));
    }
    text.push_str(&failed(&report.vms, style));
    text.push_str(&unverified(&report.vms));
    text
}

fn of_vm(summary: &VerificationSummary) -> String {
    let mut text = format!("  Total backups: {}\n{}", summary.total, rates(summary));
    text.push_str(&format!("  Last verified: {}\n\n", second(summary.last_verified_unix_ms)));
    text.push_str(&format!("  Failed verifications: {}\n", summary.failed));
    let earlier = match summary.verified_earlier {
        0 => String::new(),
        n => format!(" ({n} verified earlier)"),
    };
    text.push_str(&format!("  Unverified backups: {}{earlier}\n", summary.unverified));
    text
}

fn rates(summary: &VerificationSummary) -> String {
    let (passed, verified) = (summary.passed, summary.passed + summary.failed);
    let mut text = format!(
        "  Verified: {verified} ({})\n  Success rate: {} ({passed}/{verified} passed)\n",
        share(verified, summary.total),
        share(passed, verified),
    );
    if summary.content_compared > 0 {
        text.push_str(&format!("  Content compared and equal: {}\n", summary.content_compared));
    }
    text
}

fn failed(vms: &[VmVerification], style: Style) -> String {
    let mut text = String::new();
    for vm in vms {
        for failed in &vm.failed {
            let (name, region) = (&failed.recovery_point, &failed.region);
            text.push_str(&format!("  {name} ({region})  {}\n", style.mark(false)));
            text.push_str(&format!("    Error: {}\n", failed.error));
            text.push_str(&format!("    Tried: {}\n", second(failed.failed_unix_ms)));
            text.push_str(&format!(
                "    Action required: take a new backup (azdr backup trigger {})\n",
                vm.vm_name
            ));
        }
        let all = vm.summary.map_or(0, |summary| summary.failed as usize);
        if let Some(more @ 1..) = all.checked_sub(vm.failed.len()) {
            text.push_str(&format!("  ... and {more} more of {}\n", vm.vm_name));
        }
    }
    if text.is_empty() { text } else { format!("\nFailed Verifications:\n{text}") }
}

/// Most names that are listed for one VM; the rest are counted.
const MAX_NAMES: usize = 5;

fn unverified(vms: &[VmVerification]) -> String {
    let mut text = String::new();
    for vm in vms.iter().filter(|vm| !vm.unverified.is_empty()) {
        for name in vm.unverified.iter().take(MAX_NAMES) {
            text.push_str(&format!("  {name}\n"));
        }
        // Of a large fleet the controller names few of each VM.
        let all = vm.summary.map_or(0, |summary| summary.unverified as usize);
        if let Some(more @ 1..) = all.max(vm.unverified.len()).checked_sub(MAX_NAMES) {
            text.push_str(&format!("  ... and {more} more of {}\n", vm.vm_name));
        }
        let all = format!("azdr backup verify-all {}", vm.vm_name);
        text.push_str(&format!("    Verify them: {all}\n"));
    }
    if text.is_empty() { text } else { format!("\nUnverified Backups:\n{text}") }
}
