//! `azdr job …`

pub(crate) mod abandon;
pub(crate) mod approve;
pub(crate) mod cancel;
pub(crate) mod list;
pub(crate) mod retry;
pub(crate) mod show;
pub(crate) mod undo;
pub(crate) mod watch;

use azdr_proto::admin::Job as Answer;
use clap::Subcommand;

use crate::names::{self, or_dash};
use crate::session::Session;
use crate::{json, outcome};

#[derive(Subcommand, Debug)]
pub(crate) enum Job {
    List(list::List),
    Show(show::Show),
    Cancel(cancel::Cancel),
    Retry(retry::Retry),
    Undo(undo::Undo),
    Abandon(abandon::Abandon),
    Approve(approve::Approve),
    Watch(watch::Watch),
}

/// Shows what a decision about a job came to, or that it changed nothing.
fn decided(s: &Session, job: &Answer, headline: &str) {
    s.out.result(json::job(job), |style| {
        let state = or_dash(names::job_state(job.state));
        let mut text = if job.note.is_empty() {
            format!(
                "{}\n  State: {state}\n",
                style.headline(true, &format!("{headline}: job {}", job.id))
            )
        } else {
            format!("Nothing changed: {}\n", job.note)
        };
        text.push_str(&outcome::left_behind(job));
        text
    });
}
