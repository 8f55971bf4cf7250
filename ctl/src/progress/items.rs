//! The parts of a bulk job in lines: each once it has ended and, on a terminal, those under way and next.

use azdr_proto::admin::{Job, JobItem, JobState};

use crate::quantity::{between, duration, millis};
use crate::style::Style;

/// Most lines of parts under way, and of parts that come next, that are shown at once.
const MOST_ACTIVE: usize = 8;
const MOST_QUEUED: usize = 3;

/// The line of a part that has ended; none before.
pub(super) fn ended(job: &Job, position: usize, style: Style) -> Option<String> {
    let item = &job.items[position];
    let words = match item.state() {
        JobState::Succeeded => {
            let took = between(item.started_unix_ms, item.finished_unix_ms);
            let took = took.map(duration).unwrap_or_default();
            let rto = match item.rto_ms {
                0 => String::new(),
                ms => format!("  RTO: {}", millis(ms)),
            };
            format!("{}  {took}{rto}", style.mark(true))
        }
        JobState::Failed => format!("{}  {}", style.mark(false), item.error),
        JobState::Cancelled if item.job_id == 0 => "not started".to_owned(),
        JobState::Cancelled => "cancelled".to_owned(),
        JobState::Stuck => {
            format!("{}  stuck, see: azdr job show {}", style.mark(false), item.job_id)
        }
        _ => return None,
    };
    Some(line(job, position, &words))
}

/// All parts, one line each, as they stand.
pub(crate) fn all(job: &Job, style: Style) -> String {
    let mut text = String::new();
    for (position, item) in job.items.iter().enumerate() {
        let words = match item.state() {
            JobState::Queued => style.queued().to_owned(),
            _ => under_way(item, style),
        };
        let ended = ended(job, position, style);
        text.push_str(&ended.unwrap_or_else(|| line(job, position, &words)));
        text.push('\n');
    }
    text
}

/// The lines of parts under way, then of those that come next.
pub(super) fn live(job: &Job, style: Style) -> Vec<String> {
    let with = |queued: bool| {
        let of = move |item: &JobItem| match item.state() {
            JobState::Queued => queued,
            JobState::Running | JobState::Undoing => !queued,
            _ => false,
        };
        (0..job.items.len()).filter(move |&i| of(&job.items[i]))
    };
    let mut lines = Vec::new();
    let active: Vec<usize> = with(false).collect();
    for &i in active.iter().take(MOST_ACTIVE) {
        lines.push(line(job, i, &under_way(&job.items[i], style)));
    }
    let queued: Vec<usize> = with(true).collect();
    for &i in queued.iter().take(MOST_QUEUED) {
        lines.push(line(job, i, style.queued()));
    }
    let shown = active.len().min(MOST_ACTIVE) + queued.len().min(MOST_QUEUED);
    match active.len() + queued.len() - shown {
        0 => {}
        more => lines.push(format!("  ... and {more} more")),
    }
    lines
}

fn under_way(item: &JobItem, style: Style) -> String {
    let mut text = style.in_progress().to_owned();
    if item.state() == JobState::Undoing {
        text.push_str(", undoing");
    }
    if item.percent >= 0.0 {
        text.push_str(&format!("  {} {:.0}%", style.bar(item.percent), item.percent.floor()));
    } else if !item.detail.is_empty() {
        text.push_str(&format!("  {}", item.detail));
    }
    text
}

/// "  [2/5] name  words"
fn line(job: &Job, position: usize, words: &str) -> String {
    let (n, all) = (position + 1, job.items.len());
    let digits = all.to_string().len();
    let width = job.items.iter().map(|item| item.name.chars().count()).max().unwrap_or(0);
    let name = &job.items[position].name;
    format!("  [{n:>digits$}/{all}] {name:<width$}  {words}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Progress;
    use super::*;

    fn item(name: &str, state: JobState, seconds: i64) -> JobItem {
        JobItem {
            name: name.to_owned(),
            job_id: 7,
            state: state as i32,
            started_unix_ms: 1000,
            finished_unix_ms: 1000 + seconds * 1000,
            percent: -1.0,
            ..JobItem::default()
        }
    }

    fn story() -> Vec<Job> {
        use JobState::{Failed, Queued, Running, Succeeded};
        let job = |items: Vec<JobItem>| Job { state: Running as i32, items, ..Job::default() };
        let copying = JobItem { percent: 45.5, ..item("second", Running, 0) };
        let failed = JobItem { error: "no capacity".to_owned(), ..item("second", Failed, 3) };
        let drill = JobItem { rto_ms: 62_000, ..item("one", Succeeded, 75) };
        vec![
            job(vec![item("one", Running, 0), copying.clone(), item("third", Queued, 0)]),
            job(vec![drill.clone(), copying, item("third", Running, 0)]),
            job(vec![drill, failed, item("third", Running, 0)]),
        ]
    }

    #[test]
    fn without_a_terminal_each_part_is_one_line_when_it_ends() {
        let mut progress = Progress::new(Style::PLAIN);
        let told: String = story().iter().map(|job| progress.update(job)).collect();
        assert_eq!(
            told,
            "  [1/3] one     ok  1m 15s  RTO: 1m 02s\n\
             \x20 [2/3] second  FAILED  no capacity\n"
        );
    }

    #[test]
    fn on_a_terminal_what_is_under_way_is_written_over() {
        let mut progress = Progress::new(Style::FANCY);
        let story = story();
        assert_eq!(
            progress.update(&story[0]),
            "  [1/3] one     ⟳ in progress\n\
             \x20 [2/3] second  ⟳ in progress  [████░░░░░░] 45%\n\
             \x20 [3/3] third   ⏸ queued"
        );
        assert_eq!(
            progress.update(&story[1]),
            "\r\x1b[K\x1b[A\r\x1b[K\x1b[A\r\x1b[K  [1/3] one     ✓  1m 15s  RTO: 1m 02s\n\
             \x20 [2/3] second  ⟳ in progress  [████░░░░░░] 45%\n\
             \x20 [3/3] third   ⟳ in progress"
        );
    }

    #[test]
    fn of_many_parts_only_some_are_shown_at_once() {
        let items = (0..200).map(|i| item(&format!("vm-{i}"), JobState::Queued, 0)).collect();
        let job = Job { items, ..Job::default() };
        let lines = live(&job, Style::FANCY);
        assert_eq!(lines.len(), MOST_QUEUED + 1);
        assert_eq!(lines[0], "  [  1/200] vm-0    ⏸ queued");
        assert_eq!(lines[MOST_QUEUED], "  ... and 197 more");
    }
}
