//! A job's progress in lines: each step once it has ended and, on a terminal, the one under way. Of a
//! bulk job its parts instead.

pub(crate) mod items;

use std::collections::BTreeMap;

use azdr_proto::admin::{Job, JobState, JobStep, StepState};

use crate::output::printable;
use crate::quantity;
use crate::style::Style;

/// Moves to the line's beginning and clears it.
const CLEAR: &str = "\r\x1b[K";
/// Moves to the line above.
const UP: &str = "\x1b[A";

/// A live line must not wrap, or it could not be cleared.
const LIVE_WIDTH: usize = 78;

/// What has been shown of one job.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    /// State last shown of each step, by position.
    shown: BTreeMap<usize, StepState>,
    waiting_for: String,
    undoing: bool,
    /// How many lines will be written over.
    live: usize,
    /// State last shown of each part, by position.
    items: BTreeMap<usize, i32>,
}

impl Progress {
    pub(crate) fn new(style: Style) -> Self {
        let (shown, waiting_for) = (BTreeMap::new(), String::new());
        let items = BTreeMap::new();
        Self { style, shown, waiting_for, undoing: false, live: 0, items }
    }

    /// The text that brings the screen from what was shown to `job`.
    pub(crate) fn update(&mut self, job: &Job) -> String {
        let mut text = self.end_live_line();
        if job.waiting_for != self.waiting_for {
            self.waiting_for.clone_from(&job.waiting_for);
            if !job.waiting_for.is_empty() {
                text.push_str(&printable(&format!("Waiting: {}\n", job.waiting_for)));
            }
        }
        if !job.items.is_empty() {
            text.push_str(&self.parts(job));
            return text;
        }
        for (position, step) in job.steps.iter().enumerate() {
            if matches!(step.state(), StepState::Done | StepState::Failed) {
                self.show(position, step, &mut text);
            }
        }
        let undone = |step: &&JobStep| step.state() == StepState::Undone;
        // Temporaries go on success too: that is cleaning up, not turning back.
        let turned_back = matches!(
            job.state(),
            JobState::Undoing | JobState::Failed | JobState::Cancelled | JobState::Stuck
        );
        if turned_back && !self.undoing {
            self.undoing = true;
            text.push_str("Undoing what was done...\n");
        }
        // Steps are undone last to first.
        for (position, step) in job.steps.iter().enumerate().rev().filter(|(_, s)| undone(s)) {
            self.show(position, step, &mut text);
        }
        if self.style.fancy
            && let Some(step) = job.steps.iter().find(|step| step.state() == StepState::Running)
        {
            let line = format!("{}...  {}", title(step), so_far(step));
            text.push_str(&self.write_over(&[line]));
        }
        text
    }

    /// Removes the live line, for whoever writes next.
    pub(crate) fn end_live_line(&mut self) -> String {
        match std::mem::take(&mut self.live) {
            0 => String::new(),
            n => vec![CLEAR; n].join(UP),
        }
    }

    /// Lines that the next text replaces.
    fn write_over(&mut self, lines: &[String]) -> String {
        self.live = lines.len();
        let cut = |line: &String| {
            printable(line.trim_end())
                .replace('\n', " ")
                .chars()
                .take(LIVE_WIDTH)
                .collect::<String>()
        };
        lines.iter().map(cut).collect::<Vec<_>>().join("\n")
    }

    fn parts(&mut self, job: &Job) -> String {
        let mut text = String::new();
        for (position, item) in job.items.iter().enumerate() {
            let Some(line) = items::ended(job, position, self.style) else { continue };
            if self.items.insert(position, item.state) != Some(item.state) {
                text.push_str(&printable(&format!("{line}\n")));
            }
        }
        if self.style.fancy {
            let lines = items::live(job, self.style);
            text.push_str(&self.write_over(&lines));
        }
        text
    }

    /// Ends the account: removes the live line, and sets off what follows.
    pub(crate) fn close(&mut self) -> String {
        let nothing = self.shown.is_empty() && self.items.is_empty();
        let blank = if nothing { "" } else { "\n" };
        format!("{}{blank}", self.end_live_line())
    }

    fn show(&mut self, position: usize, step: &JobStep, text: &mut String) {
        let state = step.state();
        if self.shown.insert(position, state) == Some(state) {
            return;
        }
        text.push_str(&printable(&self.line(step)));
        text.push('\n');
    }

    fn line(&self, step: &JobStep) -> String {
        let state = step.state();
        if state == StepState::Undone {
            let what = if self.undoing { "undone" } else { "cleaned up after" };
            return format!("  {what}: {}", title(step));
        }
        let took = quantity::between(step.started_unix_ms, step.finished_unix_ms);
        let took = took.map(quantity::duration).unwrap_or_default();
        let mark = self.style.mark(state == StepState::Done);
        let mut line = format!("{:<44} {mark}  {took}", format!("{}...", title(step)));
        if !step.detail.is_empty() {
            line.push_str(&format!("  ({})", step.detail));
        }
        line.trim_end().to_owned()
    }
}

fn title(step: &JobStep) -> &str {
    if step.title.is_empty() { &step.name } else { &step.title }
}

fn so_far(step: &JobStep) -> String {
    if !step.detail.is_empty() {
        step.detail.clone()
    } else if step.percent > 0.0 {
        format!("{:.0}%", step.percent.floor())
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(title: &str, state: StepState, seconds: i64) -> JobStep {
        JobStep {
            title: title.to_owned(),
            state: state as i32,
            started_unix_ms: 1_000,
            finished_unix_ms: if seconds == 0 { 0 } else { 1_000 + seconds * 1_000 },
            percent: -1.0,
            ..JobStep::default()
        }
    }

    fn job(state: JobState, steps: Vec<JobStep>) -> Job {
        Job { state: state as i32, steps, ..Job::default() }
    }

    fn story() -> Vec<Job> {
        use StepState::{Done, Failed, Pending, Running, Undone};
        let mut waiting = job(JobState::Queued, vec![step("Stopping VM", Pending, 0)]);
        waiting.waiting_for = "job 17 holds vm:web-1".to_owned();
        let mut swapping = step("Swapping OS disk", Running, 0);
        swapping.detail = "copied 40 %".to_owned();
        vec![
            waiting,
            job(JobState::Running, vec![step("Stopping VM", Running, 0)]),
            job(JobState::Running, vec![step("Stopping VM", Done, 12), swapping.clone()]),
            job(JobState::Running, vec![step("Stopping VM", Done, 12), swapping]),
            job(
                JobState::Undoing,
                vec![step("Stopping VM", Done, 12), step("Swapping OS disk", Failed, 95)],
            ),
            job(
                JobState::Failed,
                vec![step("Stopping VM", Undone, 12), step("Swapping OS disk", Undone, 95)],
            ),
        ]
    }

    fn told(style: Style) -> String {
        let mut progress = Progress::new(style);
        story().iter().map(|job| progress.update(job)).collect()
    }

    #[test]
    fn without_a_terminal_each_ended_step_is_one_line() {
        assert_eq!(
            told(Style::PLAIN),
            "Waiting: job 17 holds vm:web-1\n\
             Stopping VM...                               ok  0m 12s\n\
             Swapping OS disk...                          FAILED  1m 35s\n\
             Undoing what was done...\n  \
               undone: Swapping OS disk\n  \
               undone: Stopping VM\n"
        );
    }

    #[test]
    fn what_azure_has_written_does_not_move_the_cursor() {
        let mut failed = step("Stopping VM", StepState::Failed, 1);
        failed.detail = "\u{1b}[2J\r\u{202e}".to_owned();
        let mut running = step("Stopping VM", StepState::Running, 0);
        running.detail = "one\ntwo\u{1b}[A".to_owned();
        let mut progress = Progress::new(Style::FANCY);
        let told = progress.update(&job(JobState::Running, vec![failed, running]));
        assert!(!told.contains(['\u{1b}', '\r', '\u{202e}']), "{told:?}");
        // The live line is one line, or it could not be cleared.
        assert_eq!(told.lines().count(), 2, "{told:?}");
    }

    #[test]
    fn what_goes_on_success_was_cleaned_up_and_not_turned_back() {
        let mut progress = Progress::new(Style::PLAIN);
        let done = job(JobState::Running, vec![step("Creating test disk", StepState::Done, 1)]);
        let gone = job(JobState::Succeeded, vec![step("Creating test disk", StepState::Undone, 1)]);
        progress.update(&done);
        assert_eq!(progress.update(&gone), "  cleaned up after: Creating test disk\n");
    }

    #[test]
    fn on_a_terminal_the_running_step_is_a_line_that_is_written_over() {
        assert_eq!(
            told(Style::FANCY),
            "Waiting: job 17 holds vm:web-1\n\
             Stopping VM...\
             \r\x1b[KStopping VM...                               ✓  0m 12s\n\
             Swapping OS disk...  copied 40 %\
             \r\x1b[KSwapping OS disk...  copied 40 %\
             \r\x1b[KSwapping OS disk...                          ✗  1m 35s\n\
             Undoing what was done...\n  \
               undone: Swapping OS disk\n  \
               undone: Stopping VM\n"
        );
    }
}
