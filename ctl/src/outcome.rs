//! What a finished job came to, as text. Facts and their order follow the user's manual; what is not
//! known is left out.

use std::time::Duration;

use azdr_proto::admin::{
    BackupResult, BulkResult, DrTestResult, EvidenceFact, EvidenceState, Job, JobState, Phase,
    PruneResult, ReapResult, ReplicateResult, RestoreResult, StepState, Tier, VerifyResult,
    job_result,
};

use crate::quantity::{self, count, millis, size};
use crate::style::Style;
use crate::{names, table};

/// What a restore may take.
pub(crate) const RTO_TARGET: Duration = Duration::from_secs(15 * 60);

/// The outcome of any job; empty when there is nothing to say beyond its error.
pub(crate) fn of(job: &Job, style: Style) -> String {
    let result = job.result.as_ref().and_then(|result| result.result.as_ref());
    match result {
        Some(job_result::Result::Backup(r)) => backup(job, r, None, style),
        Some(job_result::Result::Replicate(r)) => replicate(job, r, style),
        Some(job_result::Result::Verify(r)) => verify(job, r, style),
        Some(job_result::Result::Restore(r)) => restore(job, r, style),
        Some(job_result::Result::DrTest(r)) => dr_test(job, r, style),
        Some(job_result::Result::Prune(r)) => prune(r, style),
        Some(job_result::Result::Reap(r)) => reap(r, style),
        Some(job_result::Result::Bulk(r)) => bulk(job, r, style),
        None if succeeded(job) => {
            let sentence = format!("{} complete (job {})", workflow(&job.workflow), job.id);
            format!("{}\n{}", style.headline(true, &sentence), time_line(job, "Time"))
        }
        None => String::new(),
    }
}

/// What an abandoned job has left; empty for any other.
pub(crate) fn left_behind(job: &Job) -> String {
    let Some(abandoned) = &job.abandoned else { return String::new() };
    let mut text = format!("\nAbandoned by {}: {}\n", abandoned.by, abandoned.reason);
    text.push_str(if abandoned.left.is_empty() {
        "Nothing is known to be left.\n"
    } else {
        "Left:\n"
    });
    for resource in &abandoned.left {
        text.push_str(&format!("  {resource}\n"));
    }
    if !abandoned.listed {
        text.push_str("Azure could not be listed then: there may be more.\n");
    }
    text
}

/// A workflow's name for people.
pub(crate) fn workflow(name: &str) -> String {
    match name {
        "replicate" => "Replication".to_owned(),
        "verify" => "Verification".to_owned(),
        "hash_content" => "Hashing of content".to_owned(),
        "dr_test" | "dr_test_kept" => "DR test".to_owned(),
        "bulk" => "Bulk job".to_owned(),
        "restore_in_place" | "restore_new_vm" => "Restore".to_owned(),
        other => names::capitalised(&other.replace('_', " ")),
    }
}

/// `retention` is how many of the point's highest tier the policy keeps, where that is known.
pub(crate) fn backup(
    job: &Job,
    result: &BackupResult,
    retention: Option<u32>,
    style: Style,
) -> String {
    let Some(point) = &result.point else { return String::new() };
    let mut text = String::new();
    if let Some(&highest) = point.tiers.first() {
        let kept = retention.and_then(|n| Some(count(n, tier_unit(highest)?)));
        let kept = kept.map(|kept| format!(" ({kept})")).unwrap_or_default();
        text.push_str(&format!("  Retention tier: {}{kept}\n", tier(highest)));
    }
    text.push_str(&format!("  Snapshot: {}\n\n", point.name));
    text.push_str(&headline(job, style, "Backup created successfully", "Backup failed"));
    text.push_str(&format!("  Size: {}\n", size(point.size_bytes)));
    text.push_str(&time_line(job, "Time"));
    if !result.replication_region.is_empty() {
        let (arrow, region) = (style.arrow(), &result.replication_region);
        text.push_str(&format!("  Cross-region replication: queued {arrow} {region}"));
        if result.replication_job_id != 0 {
            text.push_str(&format!(" (job {})", result.replication_job_id));
        }
        text.push('\n');
    }
    if let Some(consistency) = names::consistency(point.consistency) {
        let reason = match point.consistency_reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        text.push_str(&format!("  Consistency: {consistency}{reason}\n"));
    }
    if point.frozen_ms != 0 {
        text.push_str(&format!("  Frozen for: {:.1} s\n", f64::from(point.frozen_ms) / 1e3));
    }
    text
}

fn replicate(job: &Job, result: &ReplicateResult, style: Style) -> String {
    let mut text = headline(job, style, "Replication complete", "Replication failed");
    let point = &result.recovery_point;
    text.push_str(&format!("  Source: {point} ({})\n", result.source_region));
    text.push_str(&format!("  Target: {point} ({})\n", result.target_region));
    text.push_str(&format!("  Size: {}\n", size(result.size_bytes)));
    text.push_str(&time_line(job, "Time"));
    text
}

fn verify(job: &Job, result: &VerifyResult, style: Style) -> String {
    let mut text = String::new();
    let whole = result.content.as_ref().is_some_and(|content| content.whole);
    for disk in &result.disks {
        let name = if disk.lun < 0 { "OS disk".to_owned() } else { format!("LUN {}", disk.lun) };
        text.push_str(&format!("{name}:\n"));
        if disk.expected_bytes == disk.actual_bytes {
            text.push_str(&format!("  - Size matches: {}\n", size(disk.actual_bytes)));
        } else {
            let (expected, actual) = (size(disk.expected_bytes), size(disk.actual_bytes));
            text.push_str(&format!("  - Size mismatch: expected {expected}, got {actual}\n"));
        }
        if !disk.disk_state.is_empty() {
            text.push_str(&format!("  - Status: {}\n", disk.disk_state));
        }
        let readable = match disk.bytes_read {
            0 => "No".to_owned(),
            bytes => format!("Yes ({} read)", size(bytes)),
        };
        text.push_str(&format!("  - Readable: {readable}\n"));
        if let (Some(equal), Some(sampled)) = (disk.equal, disk.sampled) {
            let of = match whole {
                true => format!("{equal} of all {sampled} blocks with data equal"),
                false => format!("{equal} of {sampled} sampled blocks equal"),
            };
            text.push_str(&format!("  - Content: {of}\n"));
        }
    }
    if let Some(gone) = test_disks_deleted(job, style) {
        text.push_str(&gone);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&headline(job, style, "Backup verified successfully", "Verification failed"));
    text.push_str(&time_line(job, "Verification time"));
    if let Some(content) = &result.content {
        text.push_str(&format!("  Content: {}\n", content.words));
    }
    let verdict = match (succeeded(job), &result.content) {
        (false, _) => "FAIL - see the error",
        (true, None) => "PASS - backup is restorable",
        (true, Some(_)) if whole => "PASS - backup is restorable, and all of it is unchanged",
        (true, Some(_)) => "PASS - backup is restorable, and what was sampled of it is unchanged",
    };
    text.push_str(&format!("  Result: {verdict}\n"));
    text
}

/// Said once more where the manual says it: the test disks are gone when the verdict is told.
fn test_disks_deleted(job: &Job, style: Style) -> Option<String> {
    let step = job.steps.iter().find(|step| step.name == "create_disks")?;
    let gone = step.state() == StepState::Undone;
    Some(format!("{:<44} {}\n", "Deleting test disks...", style.mark(gone)))
}

fn restore(job: &Job, result: &RestoreResult, style: Style) -> String {
    let mut text = match result.rpo_ms {
        0 => headline(job, style, "Restore complete", "Restore failed"),
        _ => headline(job, style, "Failover complete", "Failover failed"),
    };
    if result.rto_ms != 0 {
        text.push_str(&format!("  RTO (Recovery Time): {}\n", millis(result.rto_ms)));
    }
    if result.rpo_ms != 0 {
        text.push_str(&format!("  RPO (age of the backup): {}\n", millis(result.rpo_ms)));
        text.push_str(&format!("  Region: {}\n", result.region));
        text.push_str(&format!("  VM: {}\n", result.vm_resource_id));
    }
    if !result.power_state.is_empty() {
        text.push_str(&format!("  VM status: {}\n", names::capitalised(&result.power_state)));
    }
    text.push_str(&format!("  SSH connectivity: {}\n", verified(result.ssh_verified)));
    text.push_str(&format!("  Recovery point shown by agent: {}\n", yes(result.witness_verified)));
    if !result.unconfirmed.is_empty() {
        text.push_str(&format!("  Unconfirmed: {}\n", result.unconfirmed));
    }
    text.push_str(&evidence(&result.evidence, "  "));
    for disk in &result.kept_disks {
        text.push_str(&format!("  Replaced disk kept: {}\n", names::last_segment(disk)));
    }
    text
}

fn dr_test(_job: &Job, result: &DrTestResult, style: Style) -> String {
    let mut text = format!("  Backup: {}\n", result.recovery_point);
    text.push_str(&format!("  Test region: {}\n", result.region));
    if !result.test_vm.is_empty() {
        text.push_str(&format!("  Test VM: {}\n", result.test_vm));
    }
    text.push('\n');
    let mut phases = table::Table::default();
    for (position, phase) in result.phases.iter().enumerate() {
        let title = format!("Phase {}: {}...", position + 1, phase_words(phase).0);
        phases.row([title, format!("{}  {}", style.mark(phase.ok), millis(phase.millis))]);
    }
    text.push_str(&phases.render(""));
    if !result.phases.is_empty() {
        text.push('\n');
    }
    let verdict = if result.passed { "DR test PASSED" } else { "DR test FAILED" };
    text.push_str(&format!("{}\n", style.headline(result.passed, verdict)));
    if result.rto_ms != 0 {
        text.push_str(&format!("  RTO (Recovery Time Objective): {}\n", millis(result.rto_ms)));
        let met = Duration::from_millis(result.rto_ms) < RTO_TARGET;
        let met = if met {
            style.good("<15 minutes")
        } else {
            format!("<15 minutes {} (missed)", style.mark(false))
        };
        text.push_str(&format!("  Target: {met}\n"));
    }
    text.push_str("\n  Test results:\n");
    for phase in &result.phases {
        let word = if phase.ok { "SUCCESS" } else { "FAILED" };
        text.push_str(&format!("    - {}: {word}\n", phase_words(phase).1));
    }
    text.push_str(&format!("    - SSH: {}\n", verified(result.ssh_verified)));
    text.push_str(&format!(
        "    - Recovery point shown by agent: {}\n",
        yes(result.witness_verified)
    ));
    text.push_str(&evidence(&result.evidence, "    "));
    for resource in &result.residue {
        text.push_str(&format!("  Left behind: {resource}\n"));
    }
    text
}

/// What was looked at and is not a pass, one line each; of what the proof `booted` needs, that it does. And
/// what the checks of applications said, whatever it is.
pub(crate) fn evidence(facts: &[EvidenceFact], indent: &str) -> String {
    let passed = |fact: &EvidenceFact| fact.state() == EvidenceState::Pass;
    let told = facts.iter().filter(|fact| !passed(fact) || fact.name.starts_with("app:"));
    let line = |fact: &EvidenceFact| {
        let state = names::evidence_state(fact.state);
        let needed = if fact.required && !passed(fact) { ", needed for a proof" } else { "" };
        format!("{indent}{}: {state}{needed}: {}\n", fact.name, fact.detail)
    };
    told.map(line).collect()
}

/// The parts are told one by one while the job is watched; this is the sum.
fn bulk(job: &Job, result: &BulkResult, style: Style) -> String {
    let (all, good, verb) = match result.what.as_str() {
        "replicate" => ("replications", "complete", "succeeded"),
        "verify" => ("verifications", "complete", "passed"),
        "dr_test" => ("DR tests", "passed", "passed"),
        _ => ("jobs", "complete", "succeeded"),
    };
    let (total, succeeded) = (result.total, result.succeeded);
    let ok = succeeded == total && succeeded_all(job);
    let sentence = match (ok, total) {
        (true, 0) => format!("No {all} are needed"),
        (true, _) => format!("All {all} {good} ({succeeded}/{total} {verb})"),
        (false, _) => format!("{} of {total} {all} did not succeed", total - succeeded),
    };
    let mut text = format!("{}\n", style.headline(ok, &sentence));
    if total > 0 {
        text.push_str(&time_line(job, "Total time"));
    }
    if result.what == "dr_test" {
        text.push_str(&average_rto(job, style));
    }
    if total > 0 && result.what != "replicate" {
        text.push_str(&format!("  Success rate: {}\n", quantity::share(succeeded, total)));
    }
    if !result.skipped.is_empty() {
        text.push_str(&format!("  Skipped ({}):\n", result.skipped.len()));
        for skipped in &result.skipped {
            // The reason often begins with the name already.
            let why = skipped.why.strip_prefix(&skipped.name).unwrap_or(&skipped.why).trim_start();
            text.push_str(&format!("    {} {why}\n", skipped.name));
        }
    }
    text
}

fn succeeded_all(job: &Job) -> bool {
    job.items.iter().all(|item| item.state() == JobState::Succeeded)
}

fn average_rto(job: &Job, style: Style) -> String {
    let rtos: Vec<u64> = job.items.iter().map(|item| item.rto_ms).filter(|ms| *ms > 0).collect();
    let Some(average) = rtos.iter().sum::<u64>().checked_div(rtos.len() as u64) else {
        return String::new();
    };
    let within = rtos.iter().all(|ms| Duration::from_millis(*ms) < RTO_TARGET);
    let target = match within {
        true => style.good("<15 minutes"),
        false => format!("<15 minutes {} (missed by some)", style.mark(false)),
    };
    format!("  Average RTO: {}\n  Target: {target}\n", millis(average))
}

fn prune(result: &PruneResult, style: Style) -> String {
    let (deleted, kept) = (result.deleted.len() as u32, result.kept);
    let sentence = format!("{} deleted, {kept} kept", count(deleted, "recovery point"));
    let mut text = format!("{}\n", style.headline(true, &sentence));
    for point in &result.deleted {
        text.push_str(&format!("  {point}\n"));
    }
    if !result.held.is_empty() {
        text.push_str(&format!("  Held: {}\n", result.held));
    }
    text
}

fn reap(result: &ReapResult, style: Style) -> String {
    let (deleted, left) = (result.deleted.len() as u32, result.left.len());
    let sentence = format!("{} deleted, {left} left", count(deleted, "resource"));
    let mut text = format!("{}\n", style.headline(true, &sentence));
    for resource in &result.deleted {
        text.push_str(&format!("  {resource}\n"));
    }
    for resource in &result.left {
        text.push_str(&format!("  Left: {resource}\n"));
    }
    text
}

/// Sentence and label of a drill's phase. Phases that are not known show their own name.
fn phase_words(phase: &Phase) -> (String, String) {
    let (sentence, label) = match phase.name.as_str() {
        "restore" => ("Restore backup to test VM", "Restore"),
        "boot" => ("Verify VM boots successfully", "Boot"),
        "connectivity" | "ssh" => ("Verify SSH connectivity", "Connectivity"),
        "cleanup" => ("Cleanup test resources", "Cleanup"),
        other => {
            let words = names::capitalised(&other.replace('_', " "));
            return (words.clone(), words);
        }
    };
    (sentence.to_owned(), label.to_owned())
}

/// "daily"; a dash for a tier that is newer than this program.
pub(crate) fn tier(tier: i32) -> String {
    names::or_dash(names::tier(tier))
}

/// What a tier counts.
pub(crate) fn tier_unit(tier: i32) -> Option<&'static str> {
    match Tier::try_from(tier).ok()? {
        Tier::Unspecified => None,
        Tier::Daily => Some("day"),
        Tier::Weekly => Some("week"),
        Tier::Monthly => Some("month"),
        Tier::Yearly => Some("year"),
    }
}

fn headline(job: &Job, style: Style, good: &str, bad: &str) -> String {
    let ok = succeeded(job);
    format!("{}\n", style.headline(ok, if ok { good } else { bad }))
}

fn time_line(job: &Job, label: &str) -> String {
    let took = quantity::between(job.started_unix_ms, job.finished_unix_ms);
    took.map(|took| format!("  {label}: {}\n", quantity::duration(took))).unwrap_or_default()
}

fn succeeded(job: &Job) -> bool {
    job.state() == JobState::Succeeded
}

fn verified(yes: bool) -> &'static str {
    if yes { "verified" } else { "not verified" }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
