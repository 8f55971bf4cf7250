//! `azdr job show`

use azdr_proto::admin::{GetJobRequest, Job, StepState};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::names::{job_subject, or_dash};
use crate::progress::items;
use crate::quantity::{between, duration, second};
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names, outcome};

/// Show a job: its steps, what it waits for, its error or its result
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job show 1234")]
pub(crate) struct Show {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
    #[command(flatten)]
    again: Again,
}

impl Show {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let job = s.client.get_job(GetJobRequest { id: self.id }).await?.into_inner();
            Ok(s.out.one(json::job(&job), |style| text(&job, style)))
        })
        .await
    }
}

pub(super) fn text(job: &Job, style: Style) -> String {
    let state = or_dash(names::job_state(job.state));
    let mut text = format!("Job {}: {} of {}\n", job.id, job.workflow, job_subject(job));
    text.push_str(&format!("  State: {state}\n"));
    text.push_str(&format!("  Requested by: {}\n", job.requested_by));
    if job.child_of != 0 {
        text.push_str(&format!("  Part of: job {}\n", job.child_of));
    }
    for (label, at) in [
        ("Created", job.created_unix_ms),
        ("Started", job.started_unix_ms),
        ("Finished", job.finished_unix_ms),
    ] {
        if at != 0 {
            text.push_str(&format!("  {label}: {}\n", second(at)));
        }
    }
    if job.cancel_requested {
        text.push_str("  Cancellation: requested\n");
    }
    if !job.waiting_for.is_empty() {
        text.push_str(&format!("  Waiting for: {}\n", job.waiting_for));
    }
    if !job.steps.is_empty() {
        text.push_str("\nSteps:\n");
        text.push_str(&steps(job, style));
    }
    if !job.items.is_empty() {
        text.push_str(&format!("\nParts:\n{}", items::all(job, style)));
    }
    if let Some(error) = &job.error {
        text.push_str(&format!("\nError: {} ({})\n", error.message, error.kind));
        for (label, value) in [
            ("Resource", &error.resource),
            ("Azure request id", &error.azure_request_id),
            ("Hint", &error.hint),
        ] {
            if !value.is_empty() {
                text.push_str(&format!("  {label}: {value}\n"));
            }
        }
    }
    text.push_str(&stuck(job));
    text.push_str(&approval(job));
    if !job.decisions.is_empty() {
        text.push_str("\nDecisions:\n");
    }
    for d in &job.decisions {
        let reason = if d.reason.is_empty() { String::new() } else { format!(": {}", d.reason) };
        let at = second(d.decided_unix_ms);
        text.push_str(&format!("  {at}  {} by {}{reason}\n", d.decision, d.by));
    }
    text.push_str(&outcome::left_behind(job));
    match outcome::of(job, style) {
        outcome if outcome.is_empty() => text,
        outcome => format!("{text}\n{outcome}"),
    }
}

/// Which way a stuck job was going, what is in the way, and what can be done.
fn stuck(job: &Job) -> String {
    let Some(stuck) = &job.stuck else { return String::new() };
    let way = if stuck.going_back { "going back (undoing)" } else { "going forward" };
    let mut text = format!("\nStuck {way}");
    match stuck.resources.as_slice() {
        [] => text.push('\n'),
        [one] => text.push_str(&format!(" at {one}\n")),
        many => {
            text.push_str(" at:\n");
            many.iter().for_each(|r| text.push_str(&format!("  {r}\n")));
        }
    }
    let id = job.id;
    text.push_str("Next: remove what is in the way, then one of\n");
    text.push_str(&format!(
        "  azdr job retry {id}    try again now (it also does so every 10 minutes)\n"
    ));
    if stuck.may_undo && !stuck.going_back {
        text.push_str(&format!("  azdr job undo {id}     give up and undo what it did\n"));
    }
    text.push_str(&format!(
        "  azdr job abandon {id} --reason TEXT    end it; what is left is yours (role admin)\n"
    ));
    text
}

/// What a job would delete, for the person who must decide.
fn approval(job: &Job) -> String {
    if !job.waits_for_approval {
        return String::new();
    }
    let id = job.id;
    let mut text = format!("\nWould delete ({}):\n", job.would_delete.len());
    job.would_delete.iter().for_each(|part| text.push_str(&format!("  {part}\n")));
    text.push_str("Next: one of\n");
    text.push_str(&format!("  azdr job approve {id}    delete them (another operator)\n"));
    text.push_str(&format!("  azdr job cancel {id}     keep them\n"));
    text
}

fn steps(job: &Job, style: Style) -> String {
    let mut table = Table::default();
    for step in &job.steps {
        let state = match step.state() {
            StepState::Done => style.mark(true).to_owned(),
            StepState::Failed => style.mark(false).to_owned(),
            _ => or_dash(names::step_state(step.state)),
        };
        let title = if step.title.is_empty() { &step.name } else { &step.title };
        let took = between(step.started_unix_ms, step.finished_unix_ms).map(duration);
        table.row([title.clone(), state, took.unwrap_or_default(), step.detail.clone()]);
    }
    table.render("  ")
}
