//! Watching a job to its end, through restarts of the controller.

use std::time::Duration;

use azdr_env::Monotonic;
use azdr_identity::{ConnectError, connect_error};
use azdr_proto::admin::{Job, JobState, WatchJobRequest, job_result};
use tonic::{Code, Status};

use crate::cli::Wait;
use crate::error::{CliError, Exit};
use crate::progress::Progress;
use crate::session::Session;
use crate::{json, names, outcome};

/// Between two attempts to reach a controller that was lost.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows a job that was just started: at once, or when it has ended; fails if it did not succeed.
pub(crate) async fn conclude(s: &mut Session, job: Job, wait: Wait) -> Result<(), CliError> {
    if wait.no_wait {
        s.out.result(json::job(&job), |_| started(&job));
        return Ok(());
    }
    let job = to_end(s, job, wait).await?;
    s.out.result(json::job(&job), |style| outcome::of(&job, style));
    verdict(&job)
}

/// What `--no-wait` says.
pub(crate) fn started(job: &Job) -> String {
    let what = outcome::workflow(&job.workflow);
    format!("{what} started (job ID: {id})\n\nTrack progress: azdr job watch {id}", id = job.id)
}

/// An error unless the job succeeded, and what it was to show is shown.
pub(crate) fn verdict(job: &Job) -> Result<(), CliError> {
    if job.state() != JobState::Succeeded {
        return Err(CliError::job(job));
    }
    match job.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(job_result::Result::DrTest(test)) if !test.passed => {
            let message = format!("the DR test of {} did not pass", names::job_subject(job));
            let hint = format!("See: azdr job show {}", job.id);
            Err(CliError::failed("dr_test_failed", message).hint(hint).about_job(job.id))
        }
        _ => Ok(()),
    }
}

/// Follows a job until it is terminal or stuck, and returns it as it then is.
///
/// Ctrl-C stops the watching only. A controller that is lost is tried again for
/// `wait.reconnect_for`, counted from the last sign of life.
pub(crate) async fn to_end(s: &mut Session, job: Job, wait: Wait) -> Result<Job, CliError> {
    until(s, job, wait, is_over).await
}

/// Like [`to_end`], or until the job is as wanted.
pub(crate) async fn until(
    s: &mut Session,
    job: Job,
    wait: Wait,
    wanted: impl Fn(&Job) -> bool,
) -> Result<Job, CliError> {
    let enough = |job: &Job| is_over(job) || wanted(job);
    let out = s.out;
    let id = job.id;
    let mut progress = Progress::new(out.err);
    let result = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(interrupted(id)),
        result = follow(s, job, Duration::from_secs(wait.reconnect_for.into()), &mut progress, &enough) => {
            result
        }
    };
    out.raw_words(&progress.close());
    result
}

async fn follow(
    s: &mut Session,
    mut job: Job,
    patience: Duration,
    progress: &mut Progress,
    enough: &dyn Fn(&Job) -> bool,
) -> Result<Job, CliError> {
    s.out.raw_words(&progress.update(&job));
    let mut lost_since: Option<Monotonic> = None;
    while !enough(&job) {
        let mut seen = false;
        let broken = listen(s, &mut job, progress, &mut seen, enough).await;
        let Err(status) = broken else { continue };
        if !may_pass(&status) {
            return Err(CliError::from(status).about_job(job.id));
        }
        let now = s.clock.monotonic();
        if seen || lost_since.is_none() {
            lost_since = Some(now);
            s.out.raw_words(&progress.end_live_line());
            s.out.words(&format!(
                "Lost the controller; trying again for {} s. The job goes on.",
                patience.as_secs()
            ));
        }
        if lost_since.is_some_and(|since| now.since(since) >= patience) {
            return Err(lost(job.id, status));
        }
        azdr_env::sleep(PAUSE).await;
    }
    Ok(job)
}

/// Takes in states until that is `enough` (Ok) or the stream breaks. Sets `seen` with the first one.
async fn listen(
    s: &mut Session,
    job: &mut Job,
    progress: &mut Progress,
    seen: &mut bool,
    enough: &dyn Fn(&Job) -> bool,
) -> Result<(), Status> {
    let mut states = s.client.watch_job(WatchJobRequest { id: job.id }).await?.into_inner();
    while let Some(state) = states.message().await? {
        *seen = true;
        *job = state;
        s.out.raw_words(&progress.update(job));
        if enough(job) {
            return Ok(());
        }
    }
    // A stream that ends early is a controller that shuts down.
    Err(Status::unavailable("the controller ended the watch before the job was over"))
}

fn is_over(job: &Job) -> bool {
    match job.state() {
        JobState::Stuck | JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        JobState::Unspecified | JobState::Queued | JobState::Running | JobState::Undoing => false,
    }
}

/// Whether the same call may work again soon: the connection is to blame, not the question.
fn may_pass(status: &Status) -> bool {
    match connect_error(status) {
        Some(ConnectError::Unreachable { .. }) => true,
        Some(_) => false,
        None => status.code() == Code::Unavailable || std::error::Error::source(status).is_some(),
    }
}

fn lost(id: i64, status: Status) -> CliError {
    let cause = CliError::from(status);
    let message = format!("lost the controller while watching job {id}: {}", cause.message);
    CliError::new(Exit::NoAccess, "unavailable", message)
        .hint(format!("The job goes on without this command. Follow it: azdr job watch {id}"))
        .about_job(id)
}

fn interrupted(id: i64) -> CliError {
    CliError::new(
        Exit::Interrupted,
        "interrupted",
        format!("stopped watching job {id}; it goes on"),
    )
    .hint(format!("Follow it: azdr job watch {id}. Stop it: azdr job cancel {id}"))
    .about_job(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_connection_is_tried_again() {
        assert!(may_pass(&Status::unavailable("shutting down")));
        assert!(may_pass(&Status::from_error(Box::new(std::io::Error::other("reset")))));
        assert!(!may_pass(&Status::not_found("no job 7")));
        assert!(!may_pass(&Status::permission_denied("revoked")));
    }
}
