//! `azdr dr test`

use std::time::Duration;

use azdr_proto::admin::{
    DrTestRecord, Job, JobStep, ListDrTestsRequest, StartDrTestRequest, StepState,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::quantity::millis;
use crate::session::Session;
use crate::style::Style;
use crate::{json, names, outcome, since, watch};

/// Boot a VM from a backup in an isolated network, check it, measure how long it took, and clean up
///
/// The protected VM is not touched. Exits with 1 if the test does not pass. Ctrl-C ends the watching; the
/// test goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr dr test prod-db-vm \\\n      \
    --backup prod-db-vm-backup-weekly-20251124-0800 --test-region westus2\n  \
    azdr dr test prod-db-vm --keep 2h")]
pub(crate) struct Test {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// The backup, by a name as `azdr backup show` takes it; the newest one that can be restored in the
    /// test region if not given
    #[arg(long, value_name = "POINT", value_parser = NonEmptyStringValueParser::new())]
    backup: Option<String>,
    /// Region to test in; the target region of the VM's copies if not given
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    test_region: Option<String>,
    /// Resource group to test in; if not given, one of its own that is deleted afterwards
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    test_resource_group: Option<String>,
    /// If the test passes, keep its VM for so long, 1m to 7d (m, h or d), and return as soon as the result
    /// is known; the VM stays isolated, and is removed afterwards
    #[arg(long, value_name = "SPAN", value_parser = since::span)]
    keep: Option<Duration>,
    #[command(flatten)]
    wait: Wait,
}

impl Test {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        // A span too large for the field is too large for the controller: it says so.
        let keep = self.keep.map(|keep| u32::try_from(keep.as_secs()).unwrap_or(u32::MAX));
        if keep == Some(0) {
            return Err(CliError::usage("--keep must be at least 1m"));
        }
        let request = StartDrTestRequest {
            vm: s.vm(&self.vm),
            recovery_point: self.backup.unwrap_or_default(),
            test_region: self.test_region.unwrap_or_default(),
            test_resource_group: self.test_resource_group.unwrap_or_default(),
            keep_secs: keep.unwrap_or(0),
        };
        let job = s.client.start_dr_test(request).await?.into_inner();
        s.out.text(&format!("Starting DR test for {}...", names::last_segment(&self.vm)));
        if keep.is_none() || self.wait.no_wait {
            return watch::conclude(s, job, self.wait).await;
        }
        let job = watch::until(s, job, self.wait, |job| kept(job).is_some()).await?;
        let Some(step) = kept(&job) else {
            // It is over: it failed, or somebody was quick to cancel.
            s.out.result(json::job(&job), |style| outcome::of(&job, style));
            return watch::verdict(&job);
        };
        let detail = step.detail.clone();
        // A test is declared just before its job is made.
        let since_unix_ms = job.created_unix_ms - 3_600_000;
        let request = ListDrTestsRequest { vm: s.vm(&self.vm), since_unix_ms };
        let tests = s.client.list_dr_tests(request).await?.into_inner().tests;
        let test = tests.into_iter().find(|test| test.job_id == job.id);
        s.out.result(json::job(&job), |style| text(job.id, test.as_ref(), &detail, style));
        Ok(())
    }
}

/// The step in which the VM is kept, while it is: it may have begun and not yet say until when.
fn kept(job: &Job) -> Option<&JobStep> {
    let is_kept = |step: &&JobStep| {
        step.name == "keep" && step.state() == StepState::Running && !step.detail.is_empty()
    };
    job.steps.iter().find(is_kept)
}

/// A test that has passed, and whose VM stays for now.
fn text(job: i64, test: Option<&DrTestRecord>, detail: &str, style: Style) -> String {
    let mut text = String::new();
    if let Some(test) = test {
        text.push_str(&format!("  Backup: {}\n", test.recovery_point));
        text.push_str(&format!("  Test region: {}\n\n", test.region));
    }
    text.push_str(&format!("{}\n", style.headline(true, "DR test PASSED")));
    if let Some(test) = test {
        let rto = millis(test.rto_ms);
        text.push_str(&format!("  RTO (Recovery Time Objective): {rto}\n"));
    }
    text.push_str(&format!("  Kept: {detail}\n"));
    text.push_str(&format!("  Remove it earlier: azdr job cancel {job}\n"));
    text
}
