//! `azdr job list`

use azdr_proto::admin::{Job, JobState, ListJobsRequest, ListJobsResponse};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::again::{self, Again};
use crate::error::CliError;
use crate::names::{job_subject, or_dash};
use crate::output::rows;
use crate::quantity::{between, duration, minute};
use crate::session::Session;
use crate::table::Table;
use crate::whole::whole;
use crate::{json, names};

/// List jobs, newest first
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  azdr job list --state running\n  azdr job list --vm prod-db-vm --watch"
)]
pub(crate) struct List {
    /// List only jobs of this VM: its name, or its ARM resource ID
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    /// List only jobs in this state
    #[arg(long, value_enum)]
    state: Option<StateName>,
    /// How many to list at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    limit: u32,
    #[command(flatten)]
    again: Again,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateName {
    Queued,
    Running,
    Undoing,
    Stuck,
    Succeeded,
    Failed,
    Cancelled,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let state = match self.state {
            None => JobState::Unspecified,
            Some(StateName::Queued) => JobState::Queued,
            Some(StateName::Running) => JobState::Running,
            Some(StateName::Undoing) => JobState::Undoing,
            Some(StateName::Stuck) => JobState::Stuck,
            Some(StateName::Succeeded) => JobState::Succeeded,
            Some(StateName::Failed) => JobState::Failed,
            Some(StateName::Cancelled) => JobState::Cancelled,
        };
        let vm = self.vm.as_deref().and_then(|vm| s.vm(vm));
        let request = ListJobsRequest { state: state as i32, limit: self.limit, vm };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_jobs(request.clone()).await?.into_inner();
            Ok(s.out.many(&rows::JOBS, json::jobs(&answer), |_| text(&answer)))
        })
        .await
    }
}

fn waiting(job: &Job) -> String {
    if job.waiting_for.is_empty() {
        String::new()
    } else {
        format!("waiting for {}", job.waiting_for)
    }
}

fn text(answer: &ListJobsResponse) -> String {
    if answer.jobs.is_empty() {
        return "No jobs".to_owned();
    }
    let mut table =
        Table::new(&["JOB", "WHAT", "VM", "STATE", "CREATED (UTC)", "TOOK", "BY", "NOTE"]);
    for job in &answer.jobs {
        let took = between(job.started_unix_ms, job.finished_unix_ms).map(duration);
        let error = job.error.as_ref().map(|error| error.message.clone());
        table.row([
            job.id.to_string(),
            job.workflow.clone(),
            or_dash(Some(job_subject(job).to_owned())),
            or_dash(names::job_state(job.state)),
            minute(job.created_unix_ms),
            or_dash(took),
            job.requested_by.clone(),
            error.filter(|error| !error.is_empty()).unwrap_or_else(|| waiting(job)),
        ]);
    }
    table.render("")
}
