//! `--watch`: the same question again and again, and what is new in the answer.
//!
//! At a terminal the answer is a picture that is drawn anew. Anywhere else, and in formats for programs,
//! what comes is appended, and only when something has changed: what tells no more than that time goes
//! by is no change. A controller that is away is asked again at the same pace until it is back.

use std::time::Duration;

use azdr_env::WallTime;
use clap::Args;
use serde_json::Value;

use crate::cli::OutputFormat;
use crate::error::{CliError, Exit};
use crate::output::{self, Output, Shown, Window, printable};
use crate::quantity::second;
use crate::session::Session;
use crate::whole::whole;

/// Options of commands whose answer changes by itself.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Again {
    /// Keep showing it until Ctrl-C (exit code 130): redrawn in place at a terminal, elsewhere only what
    /// has changed
    #[arg(long)]
    watch: bool,
    /// With --watch: how many seconds to wait between two looks, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "watch")]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 3600>)]
    interval: u32,
}

/// Asks and shows, once or until Ctrl-C.
///
/// # Errors
/// Those of the question. With `--watch` those only that will not pass by themselves, and at the first
/// time all of them; and [`Exit::Stopped`] after Ctrl-C.
pub(crate) async fn show(
    s: &mut Session,
    again: Again,
    mut ask: impl AsyncFnMut(&mut Session) -> Result<Shown, CliError>,
) -> Result<(), CliError> {
    if !again.watch {
        let shown = ask(s).await?;
        s.out.show(&shown);
        return Ok(());
    }
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {
            Err(CliError::new(Exit::Stopped, "interrupted", "stopped watching".to_owned()))
        }
        result = on_and_on(s, again.interval, &mut ask) => result,
    }
}

async fn on_and_on(
    s: &mut Session,
    interval: u32,
    ask: &mut impl AsyncFnMut(&mut Session) -> Result<Shown, CliError>,
) -> Result<(), CliError> {
    let mut view = View::new(s.out, interval);
    loop {
        let answer = ask(s).await;
        let now = s.clock.wall();
        match answer {
            Ok(shown) => {
                s.out.words_unless_empty(&view.found());
                s.out.raw(&view.update(shown, now, s.out.window()));
            }
            Err(error) if view.has_shown() && error.may_pass() => {
                let words = view.lost(&error, now);
                s.out.raw(&view.redrawn(now, s.out.window()));
                s.out.words_unless_empty(&words);
            }
            Err(error) => return Err(error),
        }
        if output::is_unread() {
            return Ok(());
        }
        azdr_env::sleep(Duration::from_secs(interval.into())).await;
    }
}

/// What has been shown, and how to bring it to what there is now.
#[derive(Debug)]
struct View {
    out: Output,
    interval: u32,
    /// A picture that is drawn anew, instead of lines that are appended.
    is_drawn: bool,
    last: Option<Shown>,
    lost_since: Option<WallTime>,
}

impl View {
    fn new(out: Output, interval: u32) -> Self {
        let is_drawn = out.out.fancy && !out.is_for_programs();
        Self { out, interval, is_drawn, last: None, lost_since: None }
    }

    fn has_shown(&self) -> bool {
        self.last.is_some()
    }

    /// What is to be said about a controller that does not answer; said once.
    fn lost(&mut self, error: &CliError, now: WallTime) -> String {
        if self.lost_since.is_some() || self.is_drawn {
            self.lost_since.get_or_insert(now);
            return String::new();
        }
        self.lost_since = Some(now);
        let (at, every) = (second(now.unix_ms()), self.interval);
        format!("{at}: lost the controller ({}); trying again every {every} s", error.message)
    }

    /// What is to be said about a controller that answers.
    fn found(&mut self) -> String {
        match self.lost_since.take() {
            Some(_) if !self.is_drawn => "The controller is back.".to_owned(),
            _ => String::new(),
        }
    }

    /// What to print for a new answer.
    fn update(&mut self, shown: Shown, now: WallTime, window: Option<Window>) -> String {
        let last = self.last.replace(shown);
        if self.is_drawn {
            // What stood on the screen moves up, to be found there again.
            let rows = window.filter(|_| last.is_none()).map_or(0, |window| window.rows);
            return "\n".repeat(rows) + &self.redrawn(now, window);
        }
        let Some(shown) = &self.last else { return String::new() };
        if last.as_ref().is_some_and(|last| is_same(last.document(), shown.document())) {
            // The next is compared with what was printed.
            self.last = last;
            return String::new();
        }
        appended(self.out, last.as_ref(), shown, now)
    }

    /// The picture; empty where none is drawn.
    fn redrawn(&self, now: WallTime, window: Option<Window>) -> String {
        let Some(shown) = self.last.as_ref().filter(|_| self.is_drawn) else {
            return String::new();
        };
        let at = second(now.unix_ms());
        let state = match self.lost_since {
            None => at,
            Some(since) => {
                format!("{at}  controller not reachable since {}", second(since.unix_ms()))
            }
        };
        let head = format!("Every {} s, until Ctrl-C  {state}\n\n", self.interval);
        drawn(&format!("{head}{}", self.out.rendered(shown)), window)
    }
}

/// A picture from the upper left corner on, over what is there.
fn drawn(text: &str, window: Option<Window>) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";
    let height = |line: &str| match window {
        Some(window) => line.chars().count().div_ceil(window.columns).max(1),
        None => 1,
    };
    // The last row stays free: a line end there would scroll.
    let mut room = window.map_or(usize::MAX, |window| window.rows.saturating_sub(1));
    let all: Vec<&str> = text.lines().collect();
    let fits = |room: usize| all.iter().map(|line| height(line)).sum::<usize>() <= room;
    let is_whole = fits(room);
    if !is_whole {
        room = room.saturating_sub(1);
    }
    let mut picture = HOME.to_owned();
    let mut shown = 0;
    for line in &all {
        if height(line) > room {
            break;
        }
        room -= height(line);
        shown += 1;
        picture.push_str(&format!("{line}{CLEAR_LINE}\n"));
    }
    if !is_whole {
        let hidden = all.len() - shown;
        picture
            .push_str(&format!("... {hidden} more lines: the window is too small{CLEAR_LINE}\n"));
    }
    picture + CLEAR_BELOW
}

/// What is printed below what was printed before.
fn appended(out: Output, last: Option<&Shown>, now: &Shown, at: WallTime) -> String {
    match (out.format, last) {
        (OutputFormat::Json, _) => now.json_line(),
        (OutputFormat::Yaml, _) => format!("---\n{}", out.rendered(now)),
        (_, None) => out.rendered(now),
        (OutputFormat::Csv, Some(last)) => {
            let before = last.csv_lines();
            let new = now.csv_lines().into_iter().filter(|line| !before.contains(line));
            new.collect()
        }
        (OutputFormat::Text | OutputFormat::Table, Some(last)) => {
            let changes = changes(&out.rendered(last), &out.rendered(now));
            let at = second(at.unix_ms());
            if changes.is_empty() { String::new() } else { format!("\n{at}\n{changes}") }
        }
    }
}

/// Lines that are gone behind a minus, new ones behind a plus, in the order of the texts. Spaces do not
/// count: the column of another line may have become wider.
fn changes(before: &str, now: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let without = |lines: &str, others: &str, sign: char| -> String {
        let mut others: Vec<String> = others.lines().map(words).collect();
        let is_new = |line: &&str| match others.iter().position(|other| *other == words(line)) {
            Some(same) => {
                others.swap_remove(same);
                false
            }
            None => true,
        };
        lines.lines().filter(is_new).map(|line| format!("{sign} {}\n", line.trim_end())).collect()
    };
    printable(&(without(before, now, '-') + &without(now, before, '+')))
}

/// Whether nothing has happened: fields that only tell that time goes by are not looked at.
fn is_same(one: &Value, other: &Value) -> bool {
    const CLOCKS: [&str; 4] = ["as_of_at", "vms_listed_at", "elapsed_secs", "eta_secs"];
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| {
                    let same = other.get(name).map(|other| is_same(value, other));
                    CLOCKS.contains(&name.as_str()) || same == Some(true)
                })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use azdr_proto::admin::FleetStatus;
    use serde_json::json;

    use super::*;
    use crate::output::rows::Rows;
    use crate::style::Style;

    static ROWS: Rows =
        Rows { list: "vms", columns: &["name", "state"], shown: &["name", "state"] };

    fn now() -> WallTime {
        WallTime::from_unix_ms(1_764_576_000_000)
    }

    fn view(format: OutputFormat, style: Style) -> View {
        View::new(Output { format, out: style, err: style }, 5)
    }

    fn state(out: Output, state: &str, age: u32) -> Shown {
        let vms = json!([{"name": "a", "state": state}, {"name": "long-name", "state": "off"}]);
        let document = json!({"vms": vms, "elapsed_secs": age});
        out.many(&ROWS, document, |_| format!("VMs:\n  a  {state}\n  long-name  off\n"))
    }

    fn told(format: OutputFormat) -> Vec<String> {
        let mut view = view(format, Style::PLAIN);
        let of = |(words, age)| {
            let shown = state(view.out, words, age);
            view.update(shown, now(), None)
        };
        [("on", 1), ("on", 2), ("half on", 3), ("half on", 4)].into_iter().map(of).collect()
    }

    #[test]
    fn without_a_terminal_only_what_has_changed_is_told() {
        assert_eq!(
            told(OutputFormat::Text),
            [
                "VMs:\n  a  on\n  long-name  off\n",
                "",
                "\n2025-12-01 08:00:00 UTC\n-   a  on\n+   a  half on\n",
                ""
            ]
        );
        assert_eq!(
            told(OutputFormat::Table),
            [
                "NAME       STATE\na          on\nlong-name  off\n",
                "",
                "\n2025-12-01 08:00:00 UTC\n- a          on\n+ a          half on\n",
                ""
            ]
        );
    }

    #[test]
    fn programs_get_a_document_or_the_changed_lines() {
        let [first, none, second, _] = told(OutputFormat::Json).try_into().unwrap();
        assert_eq!((first.lines().count(), none.as_str(), second.lines().count()), (1, "", 1));
        let read: Value = serde_json::from_str(&second).unwrap();
        assert_eq!(read["vms"][0]["state"], "half on");
        let yaml = told(OutputFormat::Yaml);
        assert!(yaml[0].starts_with("---\nelapsed_secs: 1\n") && yaml[1].is_empty(), "{yaml:?}");
        assert_eq!(
            told(OutputFormat::Csv),
            ["name,state\r\na,on\r\nlong-name,off\r\n", "", "a,half on\r\n", ""]
        );
    }

    #[test]
    fn a_terminal_shows_a_picture_that_is_drawn_over() {
        let mut view = view(OutputFormat::Table, Style::FANCY);
        let head = "\x1b[HEvery 5 s, until Ctrl-C  2025-12-01 08:00:00 UTC\x1b[K\n\x1b[K\n";
        let shown = state(view.out, "on", 1);
        let picture = view.update(shown, now(), None);
        let body = "NAME       STATE\x1b[K\na          on\x1b[K\nlong-name  off\x1b[K\n\x1b[J";
        assert_eq!(picture, format!("{head}{body}"));
        // Of five rows one stays free, and one says that there is more.
        let small = view.redrawn(now(), Some(Window { columns: 60, rows: 5 }));
        assert_eq!(
            small,
            format!(
                "{head}NAME       STATE\x1b[K\n\
                 ... 2 more lines: the window is too small\x1b[K\n\x1b[J"
            )
        );
        let whole = view.redrawn(now(), Some(Window { columns: 60, rows: 6 }));
        assert!(whole.contains("long-name"), "{whole:?}");
        // A line that the terminal wraps counts twice.
        let narrow = view.redrawn(now(), Some(Window { columns: 30, rows: 6 }));
        assert!(!narrow.contains("long-name"), "{narrow:?}");
    }

    #[test]
    fn a_controller_that_is_away_is_said_once_and_so_is_that_it_is_back() {
        let error = CliError::new(Exit::NoAccess, "unavailable", "shutting down".to_owned());
        let mut plain = view(OutputFormat::Text, Style::PLAIN);
        assert_eq!(plain.found(), "");
        assert_eq!(
            plain.lost(&error, now()),
            "2025-12-01 08:00:00 UTC: lost the controller (shutting down); trying again every 5 s"
        );
        assert_eq!(plain.lost(&error, now()), "");
        assert_eq!(plain.found(), "The controller is back.");
        assert_eq!(plain.found(), "");
        let mut drawn = view(OutputFormat::Text, Style::FANCY);
        let shown = state(drawn.out, "on", 1);
        drawn.update(shown, now(), None);
        assert_eq!(drawn.lost(&error, now()), "");
        let picture = drawn.redrawn(now(), None);
        assert!(picture.contains("controller not reachable since 2025-12-01 08:00:00 UTC"));
        assert_eq!(drawn.found(), "");
    }

    #[test]
    fn the_clocks_are_fields_that_there_are() {
        let fleet = crate::json::fleet_status(&FleetStatus::default());
        let copy = crate::json::replication_status(&azdr_proto::admin::ReplicationStatus {
            entries: vec![<_>::default()],
            ..<_>::default()
        });
        assert!(fleet.get("as_of_at").is_some() && fleet.get("vms_listed_at").is_some());
        assert!(copy["entries"][0].get("elapsed_secs").is_some());
        assert!(copy["entries"][0].get("eta_secs").is_some());
    }
}
