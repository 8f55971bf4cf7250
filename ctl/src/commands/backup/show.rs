//! `azdr backup show`

use azdr_proto::admin::{
    CaptureRecord, Consistency, FileSystemFreeze, GetPointRequest, HashedDisk, HookRecord,
    PointDetails, PointSnapshot, Proof, RecoveryPoint,
};
use clap::Args;

use super::explain;
use crate::again::{self, Again};
use crate::error::CliError;
use crate::quantity::{minute, second, size};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::which_point::WhichPoint;
use crate::{json, names, outcome};

/// Show one backup in full: disks, consistency and the evidence for it, proofs, copies, why it is kept
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr backup show prod-db-vm-backup-daily-20251201-0800\n  \
    azdr backup show daily-20251201 --vm prod-db-vm")]
pub(crate) struct Show {
    #[command(flatten)]
    which: WhichPoint,
    #[command(flatten)]
    again: Again,
}

impl Show {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let vm = self.which.vm(s);
        let request = GetPointRequest { recovery_point: self.which.point, vm };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.get_point(request.clone()).await?.into_inner();
            Ok(s.out.one(json::point_details(&answer), |style| text(&answer, style)))
        })
        .await
    }
}

fn text(answer: &PointDetails, style: Style) -> String {
    let Some(point) = &answer.point else { return String::new() };
    let mut text = head(answer, point);
    text.push_str(&consistency(point, answer));
    text.push_str(&disks(&answer.snapshots));
    text.push_str(&copies(point, style));
    text.push_str(&proofs(point, &answer.proofs, style));
    text.push_str(&content_hashes(&answer.content_hashes));
    text.push_str(&holds(answer, point));
    text.push_str(&explain::regions(&answer.regions, &answer.deletions_held, style));
    text
}

fn head(answer: &PointDetails, point: &RecoveryPoint) -> String {
    let tiers: Vec<String> = point.tiers.iter().filter_map(|t| names::tier(*t)).collect();
    let tiers = names::or_dash(Some(tiers.join(", ")));
    let by = match answer.requested_by.as_str() {
        "" => format!("job {}", answer.job_id),
        by => format!("job {}, asked for by {by}", answer.job_id),
    };
    let machine = match answer.vm_size.as_str() {
        "" => String::new(),
        size => format!(" ({size} then)"),
    };
    format!(
        "{}\n  VM: {}{machine}\n    {}\n  Taken: {}\n  Tiers: {tiers}\n  Size: {}\n  Region: {}\n  \
         Made by: {by}\n",
        point.name,
        answer.vm_name,
        point.vm_resource_id,
        second(point.created_unix_ms),
        size(point.size_bytes),
        point.region,
    )
}

fn disk(lun: i32) -> String {
    if lun < 0 { "OS disk".to_owned() } else { format!("LUN {lun}") }
}

fn consistency(point: &RecoveryPoint, answer: &PointDetails) -> String {
    let achieved = names::or_dash(names::consistency(point.consistency));
    let reason = match point.consistency_reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let mut text = format!("\nConsistency: {achieved}{reason}\n");
    if point.consistency() == Consistency::Uncoordinated {
        text.push_str("  Write order across disks is not kept\n");
    }
    match &answer.capture {
        Some(record) => text.push_str(&evidence(record, point)),
        None => text.push_str("  The evidence was not recorded\n"),
    }
    let witness = if answer.has_witness { "on its file systems" } else { "none" };
    text.push_str(&format!("  Witness: {witness}\n"));
    text
}

fn evidence(record: &CaptureRecord, point: &RecoveryPoint) -> String {
    let mut text = String::new();
    let from = if record.thaw_asked_ms.is_some() { "the freeze" } else { "the first request" };
    text.push_str(&format!("  Snapshots, in ms after {from}:\n"));
    let mut table = Table::default();
    for d in &record.disks {
        table.row([
            disk(d.lun),
            format!("asked for at {}", d.asked_ms),
            d.done_ms.map_or("not seen to succeed".to_owned(), |ms| format!("done at {ms}")),
            match (d.frozen_ms, d.reason.as_str()) {
                (Some(ms), "") => format!("frozen from 0 to {ms}"),
                (Some(ms), _) => format!("within the freeze, from 0 to {ms}"),
                (None, _) => "no freeze that encloses it".to_owned(),
            },
            match (names::consistency(d.level), d.reason.as_str()) {
                (level, "") => names::or_dash(level),
                (Some(level), reason) => format!("{level}: {reason}"),
                (None, reason) => format!("not known: {reason}"),
            },
        ]);
    }
    text.push_str(&table.render("    "));
    if record.thaw_asked_ms.is_some() {
        let attested = match record.unbroken {
            Some(true) => "unbroken",
            Some(false) => "broken",
            None => "no answer",
        };
        let window = point.frozen_ms;
        text.push_str(&format!("  The agent attests: {attested}, {window} ms in all\n"));
    }
    text.push_str(&file_systems(record));
    text.push_str(&hooks(&record.hooks));
    text
}

/// Every file system: for how long it was frozen, what proves it, and what it is worth by itself.
fn file_systems(record: &CaptureRecord) -> String {
    let mut table = Table::default();
    for f in &record.file_systems {
        let level = names::consistency(f.level).unwrap_or_default();
        let worth = match (f.reason.as_str(), f.thawed_by_agent) {
            ("", true) => level,
            ("", false) => "thawed by somebody else".to_owned(),
            (reason, _) => format!("{level}: {reason}"),
        };
        table.row([
            f.mount_point.clone(),
            f.file_system_type.clone(),
            format!("frozen for {} ms", f.frozen_ms),
            format!("from {}", second(f.frozen_from_unix_ms)),
            canary(f),
            match f.note.as_str() {
                "" => worth,
                note => format!("{worth}; note: {note}"),
            },
        ]);
    }
    let mut others = Table::default();
    for f in &record.not_frozen {
        let words = format!("not frozen: {}", f.reason);
        others.row([f.mount_point.clone(), f.file_system_type.clone(), words]);
    }
    table.render("    ") + &others.render("    ")
}

/// What the canary of a file system showed; nothing for captures from before canaries.
fn canary(f: &FileSystemFreeze) -> String {
    let (by_thaw, released) = (f.canary_released_by_thaw(), f.canary_released_ms);
    match (f.canary_blocked, released) {
        (None, _) => String::new(),
        (Some(true), Some(_)) if by_thaw => "canary blocked until the thaw".to_owned(),
        (Some(true), Some(ms)) => {
            format!("canary blocked, released at {ms} ms, before the thaw was asked for")
        }
        (Some(true), None) => "canary blocked, then lost".to_owned(),
        (Some(false), Some(ms)) => format!("canary not seen blocked, through at {ms} ms"),
        (Some(false), None) => "canary not seen blocked".to_owned(),
    }
}

fn hooks(hooks: &[HookRecord]) -> String {
    let mut text = String::new();
    if !hooks.is_empty() {
        text.push_str("  The VM's own hooks:\n");
    }
    for hook in hooks {
        let kind = names::or_dash(names::hook_kind(hook.kind));
        let application = if hook.application { ", application" } else { "" };
        let problem = match hook.problem.as_str() {
            "" => "succeeded".to_owned(),
            problem => format!("FAILED: {problem}"),
        };
        let check = if hook.check { ", check" } else { "" };
        text.push_str(&format!("    {} ({kind}{application}{check}) {problem}\n", hook.name));
        let mut table = Table::default();
        for run in &hook.runs {
            let left = match run.left_behind {
                0 => String::new(),
                n => format!("left {n} processes behind"),
            };
            table.row([
                names::or_dash(names::hook_verb(run.verb)),
                run.end.clone(),
                format!("after {} ms", run.took_ms),
                left,
            ]);
        }
        text.push_str(&table.render("      "));
        // What a hook that succeeded has said is in the JSON.
        for line in hook.runs.iter().filter(|r| !r.succeeded).flat_map(|r| r.output.lines()) {
            text.push_str(&format!("        | {line}\n"));
        }
    }
    text
}

fn disks(snapshots: &[PointSnapshot]) -> String {
    let mut table = Table::default();
    for s in snapshots {
        let name = names::last_segment(&s.snapshot_id).to_owned();
        table.row([s.region.clone(), disk(s.lun), size(s.size_bytes), name]);
    }
    format!("\nSnapshots ({}):\n{}", snapshots.len(), table.render("  "))
}

fn copies(point: &RecoveryPoint, style: Style) -> String {
    if point.replicas.is_empty() {
        return "\nCopies: none\n".to_owned();
    }
    let mut table = Table::default();
    for copy in &point.replicas {
        let state = names::or_dash(names::replica_state(copy.state));
        let state = match state.as_str() {
            "complete" => style.good("complete"),
            "copying" => format!("copying {:.0}%", copy.percent.floor()),
            _ => state,
        };
        table.row([copy.region.clone(), state, minute(copy.finished_unix_ms)]);
    }
    format!("\nCopies ({}):\n{}", point.replicas.len(), table.render("  "))
}

fn proofs(point: &RecoveryPoint, proofs: &[Proof], style: Style) -> String {
    let level = names::or_dash(names::proof_level(point.proof));
    let failed = if point.proof_failed { "; the last attempt failed" } else { "" };
    let mut table = Table::default();
    for proof in proofs {
        table.row([
            minute(proof.tried_unix_ms),
            names::or_dash(names::proof_level(proof.level)),
            style.mark(proof.passed).to_owned(),
            proof.region.clone(),
            format!("job {}", proof.job_id),
            proof.detail.clone(),
        ]);
    }
    let mut text = format!("\nProof: {level}{failed}\n{}", table.render("  "));
    for proof in proofs {
        let facts = outcome::evidence(&proof.evidence, "    ");
        if !facts.is_empty() {
            text.push_str(&format!("  Job {} saw:\n{facts}", proof.job_id));
        }
    }
    text
}

fn content_hashes(disks: &[HashedDisk]) -> String {
    if disks.is_empty() {
        return "\nContent hashes: none were taken\n".to_owned();
    }
    let mut table = Table::default();
    for d in disks {
        let what = match d.problem.as_str() {
            "" if d.span_bytes > 0 => format!(
                "everything: {} blocks with data, in {} spans of {}",
                d.blocks,
                d.spans,
                size(d.span_bytes)
            ),
            "" if d.sampled == d.blocks => format!("all {} blocks with data", d.blocks),
            "" => format!("{} of {} blocks with data", d.sampled, d.blocks),
            problem => problem.to_owned(),
        };
        table.row([disk(d.lun), what, minute(d.taken_unix_ms), format!("job {}", d.job_id)]);
    }
    format!("\nContent hashes:\n{}", table.render("  "))
}

fn holds(answer: &PointDetails, point: &RecoveryPoint) -> String {
    let mut text = String::new();
    if point.deleting_job_id != 0 {
        text.push_str(&format!("\nBeing deleted by job {}\n", point.deleting_job_id));
    }
    if !answer.leases.is_empty() {
        text.push_str("\nIn use by:\n");
    }
    for lease in &answer.leases {
        let (id, workflow, by) = (lease.job_id, &lease.workflow, &lease.requested_by);
        text.push_str(&format!("  job {id} ({workflow}, asked for by {by})\n"));
    }
    if !point.pins.is_empty() {
        text.push_str("\nPinned:\n");
    }
    for pin in &point.pins {
        let until = match pin.until_unix_ms {
            0 => "for ever".to_owned(),
            until => format!("until {} UTC", minute(until)),
        };
        text.push_str(&format!("  by {} {until}: {}\n", pin.owner, pin.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_canary_showed_is_said_in_words() {
        let shown = |blocked, released, by_thaw| {
            canary(&FileSystemFreeze {
                canary_blocked: blocked,
                canary_released_ms: released,
                canary_released_by_thaw: by_thaw,
                ..FileSystemFreeze::default()
            })
        };
        assert_eq!(shown(None, None, None), "", "from before canaries");
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(shown(yes, Some(80), yes), "canary blocked until the thaw");
        let early = "canary blocked, released at 80 ms, before the thaw was asked for";
        assert_eq!(shown(yes, Some(80), no), early);
        assert_eq!(shown(yes, None, no), "canary blocked, then lost");
        assert_eq!(shown(no, Some(3), no), "canary not seen blocked, through at 3 ms");
        assert_eq!(shown(no, None, no), "canary not seen blocked");
    }

    #[test]
    fn a_file_system_with_less_says_why() {
        let freeze = FileSystemFreeze {
            mount_point: "/data".into(),
            file_system_type: "ext4".into(),
            level: Consistency::Crash.into(),
            reason: "somebody else thawed it".into(),
            ..FileSystemFreeze::default()
        };
        let record = CaptureRecord { file_systems: vec![freeze], ..CaptureRecord::default() };
        let text = file_systems(&record);
        assert!(text.contains("crash: somebody else thawed it"), "{text}");
    }

    #[test]
    fn a_note_is_shown_beside_the_level() {
        let freeze = FileSystemFreeze {
            mount_point: "/data".into(),
            thawed_by_agent: true,
            level: Consistency::Filesystem.into(),
            note: "its data was late".into(),
            ..FileSystemFreeze::default()
        };
        let record = CaptureRecord { file_systems: vec![freeze], ..CaptureRecord::default() };
        let text = file_systems(&record);
        assert!(text.contains("filesystem; note: its data was late"), "{text}");
    }
}
