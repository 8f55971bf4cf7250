//! Everything that is known of one recovery point.

use azdr_domain::capture_record::{HookKind, HookRecord, HookRunRecord, HookVerb};
use azdr_domain::content::Hashes;
use azdr_domain::forecast;
use azdr_domain::machine_disk::MachineDisk;
use azdr_domain::recovery_point::ProofLevel;
use azdr_proto::admin as api;
use tonic::Status;

use super::Admin;
use super::convert;
use super::errors::unavailable;
use crate::store::{Item, PointRow};

impl Admin {
    pub(super) async fn point_details(
        &self,
        request: api::GetPointRequest,
    ) -> Result<api::PointDetails, Status> {
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let run = self.store.run(point.run).await.map_err(unavailable)?;
        // After a rebuild its number may be that of no run, or of the rebuild itself.
        let run = run.filter(|r| r.item == Some(item.id));
        let record = self.store.capture(&point.operation_id).await.map_err(unavailable)?;
        let hashed = self.store.content(item.id, point.name.clone()).await.map_err(unavailable)?;
        let mut leases = Vec::new();
        for id in &point.leases {
            if let Some(run) = self.store.run(*id).await.map_err(unavailable)? {
                let (job_id, workflow) = (run.id.0, run.workflow);
                leases.push(api::PointLease { job_id, workflow, requested_by: run.requested_by });
            }
        }
        let mut proofs = Vec::new();
        for row in point.proofs.iter().rev() {
            proofs.push(api::Proof { evidence: self.evidence_of(row, &item).await?, ..proof(row) });
        }
        let regions = self.explanation(&point, &item).await?;
        let now = self.env.clock.wall();
        Ok(api::PointDetails {
            vm_name: item.arm_id.name().to_owned(),
            vm_size: point.description.size.clone(),
            job_id: point.run.0,
            requested_by: run.map(|r| r.requested_by).unwrap_or_default(),
            operation_id: point.operation_id.clone(),
            has_witness: !point.nonce.is_empty(),
            snapshots: snapshots(&point),
            capture: record.as_ref().map(capture),
            proofs,
            leases,
            regions,
            deletions_held: self.why_held().await?,
            content_hashes: hashed.iter().map(hashed_disk).collect(),
            point: Some(convert::point(&point, &item, now, |r| self.copied(r))),
        })
    }

    /// What the run of a proof has seen of the machine that it made.
    async fn evidence_of(
        &self,
        proof: &crate::store::ProofRow,
        item: &Item,
    ) -> Result<Vec<api::EvidenceFact>, Status> {
        if proof.level != ProofLevel::Booted {
            return Ok(Vec::new());
        }
        let run = self.store.run(proof.run).await.map_err(unavailable)?;
        // After a rebuild its number may be that of another run.
        let result = run.filter(|r| r.item == Some(item.id)).and_then(|r| r.result);
        let result = result.unwrap_or_default();
        let of = ["dr_test", "restore"].map(|kind| convert::evidence(&result[kind]));
        Ok(of.into_iter().flatten().collect())
    }

    /// What keeps a point in each region, and until when.
    pub(super) async fn explanation(
        &self,
        point: &PointRow,
        item: &Item,
    ) -> Result<Vec<api::RegionExplanation>, Status> {
        let present = self.present_of_item(item).await?;
        let name = point.name.clone();
        let explained = self.store.compute(move || forecast::explain(&present.as_it_is(), &name));
        let explained = explained.await.map_err(unavailable)?;
        let region = |e: &forecast::Explanation| api::RegionExplanation {
            region: e.region.to_string(),
            reasons: e.reasons.iter().map(convert::keep_reason).collect(),
            until: Some(convert::kept_until(&e.fate)),
        };
        Ok(explained.iter().map(region).collect())
    }
}

fn lun(lun: Option<u32>) -> i32 {
    lun.map_or(-1, |n| n as i32)
}

fn snapshots(point: &PointRow) -> Vec<api::PointSnapshot> {
    let snapshot = |s: &crate::store::SnapshotRow| api::PointSnapshot {
        region: s.region.clone(),
        lun: lun(s.lun),
        snapshot_id: s.id.to_string(),
        source_disk_id: s.source_disk.to_string(),
        size_bytes: s.size_bytes,
    };
    point.snapshots.iter().map(snapshot).collect()
}

fn capture(record: &azdr_domain::CaptureRecord) -> api::CaptureRecord {
    let disk = |d: &azdr_domain::capture_record::DiskCapture| api::DiskCapture {
        lun: lun(d.lun),
        asked_ms: d.asked_ms,
        done_ms: d.done_ms,
        frozen_ms: record.frozen_ms(d),
        level: record
            .disk_level(d)
            .map_or(api::Consistency::Unspecified, convert::consistency)
            .into(),
        reason: record.disk_reason(d),
    };
    let file_system = |f: &azdr_domain::capture_record::FileSystemFreeze| api::FileSystemFreeze {
        mount_point: f.mount_point.clone(),
        frozen_from_unix_ms: f.from_unix_ms,
        frozen_ms: f.frozen_ms,
        thawed_by_agent: f.thawed_by_agent,
        file_system_type: f.file_system_type.clone(),
        device: f.device.clone(),
        canary_blocked: f.canary.map(|canary| canary.blocked),
        canary_released_ms: f.canary.and_then(|canary| canary.released_ms),
        canary_released_by_thaw: f.canary.map(|canary| canary.released_by_thaw),
        level: f.level().map_or(api::Consistency::Unspecified, convert::consistency).into(),
        reason: f.level().and(f.doubt()).unwrap_or_default().to_owned(),
        note: f.note.clone(),
        disks: disks(f.disks.as_deref()),
    };
    let not_frozen =
        |f: &azdr_domain::capture_record::FileSystemNotFrozen| api::FileSystemNotFrozen {
            mount_point: f.mount_point.clone(),
            file_system_type: f.file_system_type.clone(),
            device: f.device.clone(),
            reason: f.reason.clone(),
            disks: disks(f.disks.as_deref()),
        };
    api::CaptureRecord {
        not_frozen: record.not_frozen.iter().map(not_frozen).collect(),
        disks: record.disks.iter().map(disk).collect(),
        file_systems: record.file_systems.iter().map(file_system).collect(),
        thaw_asked_ms: record.thaw_asked_ms,
        unbroken: record.unbroken,
        hooks: record.hooks.iter().map(hook).collect(),
    }
}

fn disks(disks: Option<&[MachineDisk]>) -> Vec<String> {
    disks.unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn hook(record: &HookRecord) -> api::HookRecord {
    let run = |run: &HookRunRecord| api::HookRun {
        verb: match run.verb {
            HookVerb::Pre => api::HookVerb::Pre,
            HookVerb::Post => api::HookVerb::Post,
            HookVerb::Abort => api::HookVerb::Abort,
        }
        .into(),
        end: run.end.clone(),
        succeeded: run.succeeded,
        exit_code: run.exit_code,
        took_ms: run.took_ms,
        output: run.output.clone(),
        in_cgroup: run.in_cgroup,
        left_behind: run.left_behind,
    };
    api::HookRecord {
        name: record.name.clone(),
        kind: match record.kind {
            HookKind::Oneshot => api::HookKind::Oneshot,
            HookKind::Hold => api::HookKind::Hold,
        }
        .into(),
        application: record.application,
        runs: record.runs.iter().map(run).collect(),
        problem: record.problem.clone(),
        check: record.check,
    }
}

fn hashed_disk(row: &crate::store::ContentRow) -> api::HashedDisk {
    let (blocks, sampled, problem) = match &row.hashes {
        Ok(hashes) => (hashes.blocks(), hashes.hashed(), String::new()),
        Err(e) => (0, 0, e.to_string()),
    };
    let (span_bytes, spans) = match &row.hashes {
        Ok(Hashes::All(manifest)) => (manifest.span_bytes(), manifest.spans()),
        _ => (0, 0),
    };
    api::HashedDisk {
        lun: lun(row.lun),
        blocks,
        sampled,
        taken_unix_ms: row.taken.unix_ms(),
        job_id: row.run.0,
        problem,
        span_bytes,
        spans,
    }
}

fn proof(row: &crate::store::ProofRow) -> api::Proof {
    api::Proof {
        job_id: row.run.0,
        region: row.region.clone(),
        level: match row.level {
            ProofLevel::Unproved => api::ProofLevel::Unproved,
            ProofLevel::Restorable => api::ProofLevel::Restorable,
            ProofLevel::Booted => api::ProofLevel::Booted,
            ProofLevel::Content => api::ProofLevel::Content,
        }
        .into(),
        passed: row.passed,
        tried_unix_ms: row.at.unix_ms(),
        detail: row.detail.clone(),
        evidence: Vec::new(),
    }
}
