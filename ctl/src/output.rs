//! Where results, words and errors go, and in which format.
//!
//! A command answers with one document, the JSON value; every other format is made from it, but for the
//! text that a command writes for people itself.

mod csv;
mod escape;
mod plain;
pub(crate) mod rows;
mod spread;
mod yaml;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::cli::OutputFormat;
use crate::error::CliError;
use crate::style::Style;
use rows::Rows;

/// The promise of which `docs/output.md` speaks: it changes when a field is renamed or taken away.
const FORMAT_VERSION: u32 = 1;

/// What a command answers, not printed yet.
#[derive(Debug)]
pub(crate) struct Shown {
    /// With its version, its fields in order.
    document: Value,
    rows: Option<&'static Rows>,
    /// For people; empty unless that is the format.
    text: String,
}

impl Shown {
    /// For comparing one answer with another.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// As JSON, in one line.
    pub(crate) fn json_line(&self) -> String {
        format!("{}\n", escape::escaped(&self.document.to_string()))
    }

    /// The lines of this answer as CSV, without the heading.
    pub(crate) fn csv_lines(&self) -> Vec<String> {
        csv::lines(&self.document, self.rows)
    }
}

/// The two streams of this process. Writing to a closed one is not an error: `azdr … | head`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: OutputFormat,
    /// Of stdout.
    pub(crate) out: Style,
    /// Of stderr.
    pub(crate) err: Style,
}

impl Output {
    pub(crate) fn detect(format: OutputFormat) -> Self {
        Self { format, out: Style::of(&io::stdout()), err: Style::of(&io::stderr()) }
    }

    /// Sentences for people, as a command writes them.
    pub(crate) fn is_text(self) -> bool {
        self.format == OutputFormat::Text
    }

    /// Something that a program reads: no words beside it, and an error is an object.
    pub(crate) fn is_for_programs(self) -> bool {
        match self.format {
            OutputFormat::Text | OutputFormat::Table => false,
            OutputFormat::Json | OutputFormat::Yaml | OutputFormat::Csv => true,
        }
    }

    /// An answer about one thing.
    pub(crate) fn one(self, document: Value, text: impl FnOnce(Style) -> String) -> Shown {
        self.shown(document, None, text)
    }

    /// An answer of which a part is a list: that part is what CSV and tables show.
    pub(crate) fn many(
        self,
        rows: &'static Rows,
        document: Value,
        text: impl FnOnce(Style) -> String,
    ) -> Shown {
        debug_assert!(rows.shown.iter().all(|column| rows.columns.contains(column)), "{rows:?}");
        self.shown(document, Some(rows), text)
    }

    fn shown(
        self,
        mut document: Value,
        rows: Option<&'static Rows>,
        text: impl FnOnce(Style) -> String,
    ) -> Shown {
        if let Some(fields) = document.as_object_mut() {
            fields.insert("format_version".to_owned(), FORMAT_VERSION.into());
        }
        // The order of keys must not depend on how serde_json was built.
        document.sort_all_objects();
        let text = if self.is_text() { text(self.out) } else { String::new() };
        Shown { document, rows, text }
    }

    /// Prints an answer.
    pub(crate) fn show(self, shown: &Shown) {
        write_to(io::stdout(), &self.rendered(shown));
    }

    /// An answer as it is printed.
    pub(crate) fn rendered(self, shown: &Shown) -> String {
        match self.format {
            OutputFormat::Text if shown.text.is_empty() => String::new(),
            OutputFormat::Text => lines(&shown.text),
            OutputFormat::Table => {
                lines(&plain::of(&shown.document, shown.rows, self.window().map(|w| w.columns)))
            }
            OutputFormat::Json => escape::escaped(&format!("{:#}\n", shown.document)),
            OutputFormat::Yaml => yaml::of(&shown.document),
            OutputFormat::Csv => csv::of(&shown.document, shown.rows),
        }
    }

    /// Prints an answer about one thing.
    pub(crate) fn result(self, document: Value, text: impl FnOnce(Style) -> String) {
        self.show(&self.one(document, text));
    }

    /// Prints a document that is of another standard than ours, as it is; people read it as JSON.
    pub(crate) fn foreign(self, mut document: Value) {
        document.sort_all_objects();
        let text = format!("{document:#}\n");
        self.show(&Shown { document, rows: None, text });
    }

    /// Text for people on stdout, before the result; nothing in other formats.
    pub(crate) fn text(self, text: &str) {
        if self.is_text() && !text.is_empty() {
            write_to(io::stdout(), &lines(text));
        }
    }

    /// Words for people on stderr; nothing if a program reads.
    pub(crate) fn words(self, text: &str) {
        if !self.is_for_programs() {
            write_to(io::stderr(), &lines(text));
        }
    }

    /// [`Self::words`], if there are any.
    pub(crate) fn words_unless_empty(self, text: &str) {
        if !text.is_empty() {
            self.words(text);
        }
    }

    /// Words on stderr as they are, without a line end.
    pub(crate) fn raw_words(self, text: &str) {
        if !self.is_for_programs() {
            write_to(io::stderr(), text);
        }
    }

    /// What has been made ready for stdout already.
    pub(crate) fn raw(self, text: &str) {
        write_to(io::stdout(), text);
    }

    /// For the person at the terminal who is about to be asked, whatever the output format.
    pub(crate) fn aside(self, text: &str) {
        write_to(io::stderr(), &lines(text));
    }

    pub(crate) fn error(self, error: &CliError) {
        if self.is_for_programs() {
            let mut object = json!({
                "kind": error.kind,
                "message": error.message,
                "hint": error.hint,
            });
            if let Some(id) = error.job_id {
                object["job_id"] = id.into();
            }
            let shown = self.one(object, |_| String::new());
            write_to(io::stderr(), &self.rendered(&shown));
            return;
        }
        let mut text = format!("Error: {}\n", error.message);
        for detail in &error.details {
            text.push_str(&format!("  {detail}\n"));
        }
        if let Some(hint) = &error.hint {
            text.push_str(&format!("Hint: {hint}\n"));
        }
        write_to(io::stderr(), &printable(&text));
    }

    /// The size of the window that stdout is; none if it is no terminal or does not say.
    pub(crate) fn window(self) -> Option<Window> {
        let stdout = io::stdout();
        let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok())??;
        let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
        (columns > 0 && rows > 0).then_some(Window { columns, rows })
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

fn lines(text: &str) -> String {
    let text = printable(text);
    if text.ends_with('\n') { text } else { format!("{text}\n") }
}

/// Text that cannot do more to a terminal than to stand there in the order in which it is written:
/// what others have named or written is not obeyed.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

fn write_to(mut stream: impl Write, text: &str) {
    if text.is_empty() {
        return;
    }
    let written = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    if let Err(e) = written
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Something that should have been printed was not: the disk is full, say.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether output was lost; then the command has failed, whatever else it did.
pub(crate) fn was_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Whether nobody reads stdout any more: the pipe's other end is closed.
pub(crate) fn is_unread() -> bool {
    let stdout = io::stdout();
    let mut looked_at = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let found = poll(&mut looked_at, Some(&at_once));
    found.is_ok() && looked_at[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_cannot_move_the_cursor_or_turn_the_text() {
        let shown = printable("\u{1b}[2Jx\u{202e}gpj.exe\r\tשלום\n\u{9b}");
        assert_eq!(shown, "\u{fffd}[2Jx\u{fffd}gpj.exe\u{fffd}\tשלום\n\u{fffd}");
    }
}
