//! `azdr backup replication-status`

use azdr_proto::admin::{GetReplicationStatusRequest, ReplicaState, ReplicationEntry};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{duration, eta};
use crate::session::Session;
use crate::style::Style;
use crate::{json, names};

/// Show how far the copies of a VM's backups have got
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup replication-status prod-db-vm")]
pub(crate) struct ReplicationStatus {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    #[command(flatten)]
    again: Again,
}

impl ReplicationStatus {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = GetReplicationStatusRequest { vm: s.vm(&self.vm) };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.get_replication_status(request.clone()).await?.into_inner();
            Ok(s.out.many(&rows::REPLICATION, json::replication_status(&answer), |style| {
                text(names::last_segment(&self.vm), &answer.entries, style)
            }))
        })
        .await
    }
}

pub(super) fn text(vm: &str, entries: &[ReplicationEntry], style: Style) -> String {
    let mut text = format!("Replication Status for {vm}:\n");
    let sections = [
        ("In Progress", ReplicaState::Copying),
        ("Queued", ReplicaState::Queued),
        ("Completed", ReplicaState::Complete),
        ("Failed", ReplicaState::Failed),
        ("Missing in Azure", ReplicaState::Missing),
    ];
    for (label, state) in sections {
        let members: Vec<_> = entries.iter().filter(|entry| entry.state() == state).collect();
        // Shown only when there are any.
        if members.is_empty() && matches!(state, ReplicaState::Queued | ReplicaState::Missing) {
            continue;
        }
        text.push_str(&format!("\n{label} ({}):\n", members.len()));
        if members.is_empty() {
            text.push_str(&format!("  {}\n", none_of(state)));
        }
        for entry in members {
            text.push_str(&format!("  {}\n", line(vm, entry, style)));
        }
    }
    text
}

/// What stands in an empty section.
pub(super) fn none_of(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Queued => "(no replications are pending)",
        ReplicaState::Copying => "(no replications in progress)",
        ReplicaState::Complete => "(no completed replications)",
        ReplicaState::Failed => "(no failed replications)",
        ReplicaState::Missing | ReplicaState::Unspecified => "",
    }
}

/// `vm`: its points are shown by the part of their names that tells them apart; empty: in full.
pub(super) fn line(vm: &str, entry: &ReplicationEntry, style: Style) -> String {
    let point = names::short_point(&entry.recovery_point, vm);
    let to = format!("{point} {} {}", style.arrow(), entry.target_region);
    // A copy can be known from Azure without one of our jobs having made it.
    let what = if entry.job_id == 0 { to } else { format!("Job {}: {to}", entry.job_id) };
    let took = duration(std::time::Duration::from_secs(entry.elapsed_secs.into()));
    match entry.state() {
        ReplicaState::Copying => {
            let percent = entry.percent.clamp(0.0, 100.0).floor();
            let left = match entry.eta_secs {
                0 => String::new(),
                seconds => format!("  ETA: {}", eta(seconds)),
            };
            let trouble = match entry.error.as_str() {
                "" => String::new(),
                trouble => format!("  ({trouble})"),
            };
            format!("{what}  {} {percent:.0}%{left}{trouble}", style.bar(percent))
        }
        ReplicaState::Complete => format!("{what}  {}  {took}", style.mark(true)),
        ReplicaState::Failed => format!("{what}  {}  {}", style.mark(false), entry.error),
        ReplicaState::Missing => format!("{what}  {}  deleted by somebody else", style.mark(false)),
        ReplicaState::Queued if !entry.error.is_empty() => {
            format!("{what}  (waits for {})", entry.error)
        }
        ReplicaState::Queued | ReplicaState::Unspecified => what,
    }
}
