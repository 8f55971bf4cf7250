//! Where results, words and errors go.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::cli::OutputFormat;
use crate::error::CliError;
use crate::style::Style;

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

    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints a result: the document, or the text that says the same to people.
    pub(crate) fn result(self, document: Value, text: impl FnOnce(Style) -> String) {
        if self.is_json() { self.document(document) } else { self.text(&text(self.out)) }
    }

    pub(crate) fn document(self, mut document: Value) {
        // The order of keys must not depend on how serde_json was built.
        document.sort_all_objects();
        write_to(io::stdout(), &format!("{document:#}\n"));
    }

    /// Text for people on stdout; nothing with `--output json`.
    pub(crate) fn text(self, text: &str) {
        if !self.is_json() && !text.is_empty() {
            write_to(io::stdout(), &lines(text));
        }
    }

    /// Words for people on stderr; nothing with `--output json`.
    pub(crate) fn words(self, text: &str) {
        if !self.is_json() {
            write_to(io::stderr(), &lines(text));
        }
    }

    /// Words on stderr as they are, without a line end.
    pub(crate) fn raw_words(self, text: &str) {
        if !self.is_json() {
            write_to(io::stderr(), text);
        }
    }

    /// For the person at the terminal who is about to be asked, whatever the output format.
    pub(crate) fn aside(self, text: &str) {
        write_to(io::stderr(), &lines(text));
    }

    pub(crate) fn error(self, error: &CliError) {
        if self.is_json() {
            let mut object = json!({
                "kind": error.kind,
                "message": error.message,
                "hint": error.hint,
            });
            if let Some(id) = error.job_id {
                object["job_id"] = id.into();
            }
            object.sort_all_objects();
            write_to(io::stderr(), &format!("{object:#}\n"));
            return;
        }
        let mut text = format!("Error: {}\n", error.message);
        for detail in &error.details {
            text.push_str(&format!("  {detail}\n"));
        }
        if let Some(hint) = &error.hint {
            text.push_str(&format!("Hint: {hint}\n"));
        }
        write_to(io::stderr(), &text);
    }
}

fn lines(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

fn write_to(mut stream: impl Write, text: &str) {
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
