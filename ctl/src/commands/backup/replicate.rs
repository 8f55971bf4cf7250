//! `azdr backup replicate`

use azdr_proto::admin::{
    GetReplicationStatusRequest, Job, RecoveryPoint, Replica, ReplicaState, ReplicationEntry,
    StartReplicateRequest,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::all_points;
use crate::cli::Wait;
use crate::error::CliError;
use crate::quantity::{estimate, size};
use crate::session::Session;
use crate::style::Style;
use crate::which_point::WhichPoint;
use crate::{json, names, watch};

/// Copy a backup to another region
///
/// Ctrl-C ends the watching; the copying goes on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup replicate prod-db-vm-backup-daily-20251201-0800 \
    --target-region westus2")]
pub(crate) struct Replicate {
    #[command(flatten)]
    which: WhichPoint,
    /// Region to copy it to, other than the VM's own
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    target_region: String,
    #[command(flatten)]
    wait: Wait,
}

impl Replicate {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartReplicateRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            target_region: self.target_region.clone(),
        };
        let job = s.client.start_replicate(request).await?.into_inner();
        if s.out.is_text() {
            // Only decorates the answer: if it cannot be had, the copying goes on all the same.
            let points = all_points(s, Session::vm_by_id(&job.vm_resource_id)).await;
            let points = points.unwrap_or_default();
            let name = self.which.chosen(&job);
            let point = points.iter().find(|p| p.name == name);
            let vm = Session::vm_by_id(&job.vm_resource_id);
            let earlier = s.client.get_replication_status(GetReplicationStatusRequest { vm }).await;
            let earlier = earlier.map(|answer| answer.into_inner().entries).unwrap_or_default();
            let text = self.text(point, &job, &earlier);
            // What came of it follows after a blank line.
            s.out.text(&if self.wait.no_wait { text } else { format!("{text}\n") });
            let overtaken = point.map_or(0, |point| self.overtaken(point, &points));
            if overtaken > 0 {
                s.out.words(&self.overtaking(overtaken, &job, s.out.err));
            }
        }
        if self.wait.no_wait {
            // Its text is printed already.
            s.out.result(json::job(&job), |_| String::new());
            return Ok(());
        }
        watch::conclude(s, job, self.wait).await
    }

    fn text(
        &self,
        point: Option<&RecoveryPoint>,
        job: &Job,
        earlier: &[ReplicationEntry],
    ) -> String {
        let (name, target) = (self.which.chosen(job), &self.target_region);
        let mut text = format!("Replicating backup to {target}...\n");
        let source = point.map(|point| format!(" ({})", point.region)).unwrap_or_default();
        text.push_str(&format!("  Source: {name}{source}\n"));
        text.push_str(&format!("  Target: {name} ({target})\n"));
        if let Some(point) = point {
            text.push_str(&format!("  Size: {}\n", size(point.size_bytes)));
        }
        text.push_str(&format!("\nReplication started (job ID: {})\n", job.id));
        text.push_str(&self.estimated(earlier));
        let vm = names::job_subject(job);
        text.push_str(&format!("\nTrack progress: azdr backup replication-status {vm}\n"));
        text
    }

    /// How many backups this copy overtakes: older ones that could still be copied.
    fn overtaken(&self, point: &RecoveryPoint, points: &[RecoveryPoint]) -> usize {
        let is_copied = |p: &&RecoveryPoint| {
            let there = |r: &Replica| r.region == self.target_region;
            p.replicas.iter().any(|r| there(r) && r.state() == ReplicaState::Complete)
        };
        let newest = points.iter().filter(is_copied).map(|p| p.created_unix_ms).max().unwrap_or(0);
        let between = newest + 1..point.created_unix_ms;
        let same_chain = |p: &&RecoveryPoint| p.region == point.region;
        points.iter().filter(same_chain).filter(|p| between.contains(&p.created_unix_ms)).count()
    }

    fn overtaking(&self, overtaken: usize, job: &Job, style: Style) -> String {
        let (region, vm) = (&self.target_region, names::job_subject(job));
        let (older, backups) = (overtaken, names::backups(overtaken));
        format!(
            "{}: {older} older {backups} can never be copied to {region} once this one is: Azure copies \
             the snapshots of a disk in the order of their creation.\n  To copy all, oldest first: \
             azdr job cancel {}; azdr backup replicate-all {vm} --target-region {region}\n",
            style.warning(),
            job.id
        )
    }

    /// What earlier copies of this VM into that region took; nothing while there is none.
    fn estimated(&self, earlier: &[ReplicationEntry]) -> String {
        let complete = earlier.iter().filter(|entry| {
            entry.state() == ReplicaState::Complete && entry.target_region == self.target_region
        });
        let took: Vec<u32> = complete.map(|entry| entry.elapsed_secs.max(1)).collect();
        let (low, high) = (took.iter().min(), took.iter().max());
        let Some(time) = low.zip(high).and_then(|(low, high)| estimate(*low, *high)) else {
            return String::new();
        };
        let copies = match took.len() {
            1 => "1 copy".to_owned(),
            n => format!("{n} copies"),
        };
        format!("Estimated time: {time} (measured: {copies} of this VM)\n")
    }
}
