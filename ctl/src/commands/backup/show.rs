//! `azdr backup show`

use azdr_proto::admin::{
    CaptureRecord, Consistency, GetPointRequest, PointDetails, PointSnapshot, Proof, RecoveryPoint,
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
            match d.frozen_ms {
                Some(ms) => format!("frozen from 0 to {ms}"),
                None => "no freeze that encloses it".to_owned(),
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
    let mut table = Table::default();
    for f in &record.file_systems {
        let thawed = if f.thawed_by_agent { "" } else { "thawed by somebody else" };
        let frozen = format!("frozen for {} ms", f.frozen_ms);
        table.row([
            f.mount_point.clone(),
            frozen,
            format!("from {}", second(f.frozen_from_unix_ms)),
            thawed.to_owned(),
        ]);
    }
    text.push_str(&table.render("    "));
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
