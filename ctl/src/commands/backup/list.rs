//! `azdr backup list`

use azdr_proto::admin::{
    ListRecoveryPointsRequest, ProofLevel, RecoveryPoint, RecoveryPointDisk, Replica, ReplicaState,
    Tier,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{TierName, tier_or_all};
use crate::again::{self, Again};
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{minute, size};
use crate::session::Session;
use crate::since::Since;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names};

/// List a VM's backups by tier, newest first
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup list prod-db-vm --tier weekly --since 30d")]
pub(crate) struct List {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// List only backups that carry this tier
    #[arg(long, value_enum)]
    tier: Option<TierName>,
    /// List only backups taken since then: 12h or 7d ago (m, h, d or w), a date in UTC (2025-12-01), or a
    /// time in RFC 3339 (2025-12-01T08:00:00Z)
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let request = ListRecoveryPointsRequest {
                vm: s.vm(&self.vm),
                tier: tier_or_all(self.tier),
                since_unix_ms: self.since.map_or(0, |since| since.unix_ms(s.clock.wall())),
            };
            let answer = s.client.list_recovery_points(request).await?.into_inner();
            Ok(s.out.many(&rows::POINTS, json::recovery_points(&answer), |style| {
                text(names::last_segment(&self.vm), &answer.points, style)
            }))
        })
        .await
    }
}

/// Each point is listed once, under its highest tier.
pub(super) fn text(vm: &str, points: &[RecoveryPoint], style: Style) -> String {
    let mut text = format!("Backups for {vm} ({} total):\n", points.len());
    let highest = |point: &RecoveryPoint| point.tiers.first().copied().unwrap_or_default();
    let groups = [
        ("Daily", Tier::Daily),
        ("Weekly", Tier::Weekly),
        ("Monthly", Tier::Monthly),
        ("Yearly", Tier::Yearly),
        ("No tier", Tier::Unspecified),
    ];
    for (label, tier) in groups {
        let members: Vec<_> = points.iter().filter(|p| highest(p) == tier as i32).collect();
        if members.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{label} ({}):\n", members.len()));
        let mut table = Table::default();
        for point in members {
            table.row([
                point.name.clone(),
                size(point.size_bytes),
                proof(point, style),
                replication(&point.replicas, style),
                names::or_dash(names::consistency(point.consistency)),
                held(point),
            ]);
        }
        text.push_str(&table.render("  "));
    }
    text
}

/// What is special about the point's keeping; empty when the policy alone decides.
fn held(point: &RecoveryPoint) -> String {
    if point.deleting_job_id != 0 {
        return format!("being deleted (job {})", point.deleting_job_id);
    }
    let last = point.pins.iter().map(|p| p.until_unix_ms).max();
    match last {
        None => String::new(),
        Some(_) if point.pins.iter().any(|p| p.until_unix_ms == 0) => "pinned for ever".to_owned(),
        Some(until) => format!("pinned until {}", minute(until)),
    }
}

fn proof(point: &RecoveryPoint, style: Style) -> String {
    let missing = point.missing_snapshots.len();
    let originals = |d: &RecoveryPointDisk| point.missing_snapshots.contains(&d.snapshot_id);
    if point.disks.iter().any(originals) {
        return format!("{missing} snapshots missing in Azure {}", style.mark(false));
    }
    if point.proof_failed {
        return format!("verification {}", style.mark(false));
    }
    match point.proof() {
        ProofLevel::Unproved => "unverified".to_owned(),
        ProofLevel::Restorable | ProofLevel::Booted | ProofLevel::Content => style.good("verified"),
    }
}

/// Of several copies the one that is worst off.
fn replication(replicas: &[Replica], style: Style) -> String {
    let worst = replicas.iter().min_by_key(|replica| match replica.state() {
        ReplicaState::Failed | ReplicaState::Missing => 0,
        ReplicaState::Unspecified | ReplicaState::Queued => 1,
        ReplicaState::Copying => 2,
        ReplicaState::Complete => 3,
    });
    let Some(worst) = worst else { return "not replicated".to_owned() };
    match worst.state() {
        ReplicaState::Failed => format!("replication {}", style.mark(false)),
        ReplicaState::Missing => format!("copy missing in Azure {}", style.mark(false)),
        ReplicaState::Unspecified | ReplicaState::Queued => "replication queued".to_owned(),
        ReplicaState::Copying => format!("replicating {:.0}%", worst.percent.floor()),
        ReplicaState::Complete => style.good("replicated"),
    }
}
