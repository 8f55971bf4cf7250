//! `azdr backup replication-jobs`

use azdr_proto::admin::{ListReplicationJobsRequest, ListReplicationJobsResponse, ReplicaState};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::replication_status::{line, none_of};
use crate::again::{self, Again};
use crate::error::CliError;
use crate::json;
use crate::output::rows;
use crate::session::Session;
use crate::style::Style;
use crate::whole::whole;

/// List the copies to other regions, of all VMs or of one, newest first
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup replication-jobs --status failed")]
pub(crate) struct ReplicationJobs {
    /// List only copies in this state
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// List only this VM's: its name, or its ARM resource ID
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    /// How many to list, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    limit: u32,
    #[command(flatten)]
    again: Again,
}

/// Where a copy stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Status {
    /// Waiting for their turn
    Pending,
    /// Under way
    #[value(name = "in_progress")]
    InProgress,
    /// Complete
    Completed,
    /// Failed, or cancelled
    Failed,
}

const SECTIONS: [(Status, &str, ReplicaState); 4] = [
    (Status::InProgress, "In Progress", ReplicaState::Copying),
    (Status::Pending, "Pending", ReplicaState::Queued),
    (Status::Completed, "Completed", ReplicaState::Complete),
    (Status::Failed, "Failed", ReplicaState::Failed),
];

impl ReplicationJobs {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let state = SECTIONS.iter().find(|(status, ..)| Some(*status) == self.status);
        let request = ListReplicationJobsRequest {
            state: state.map_or(ReplicaState::Unspecified, |(.., state)| *state).into(),
            vm: s.vm(self.vm.as_deref().unwrap_or_default()),
            limit: self.limit,
        };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_replication_jobs(request.clone()).await?.into_inner();
            Ok(s.out.many(&rows::REPLICATION_JOBS, json::replication_jobs(&answer), |style| {
                text(&answer, self.status, style)
            }))
        })
        .await
    }
}

fn text(answer: &ListReplicationJobsResponse, only: Option<Status>, style: Style) -> String {
    let mut text = "Replication Jobs:\n".to_owned();
    for (status, label, state) in SECTIONS {
        if only.is_some_and(|only| only != status) {
            continue;
        }
        let members: Vec<_> = answer.jobs.iter().filter(|job| job.state() == state).collect();
        text.push_str(&format!("\n{label} ({}):\n", members.len()));
        if members.is_empty() {
            text.push_str(&format!("  {}\n", none_of(state)));
        }
        for job in members {
            text.push_str(&format!("  {}\n", line("", job, style)));
        }
    }
    if answer.more {
        text.push_str("\nThere are older ones: see --limit.\n");
    }
    text
}
