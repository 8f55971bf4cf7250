//! Icons, and the words that stand for them where icons cannot be shown.

use std::io::IsTerminal;

/// How to write to one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Style {
    /// Icons may be used, and a line be written over: a terminal that shows UTF-8, can move its cursor
    /// (`TERM` is not `dumb`), and whose user has not asked for plain text (`NO_COLOR`).
    pub(crate) fancy: bool,
}

impl Style {
    #[cfg(test)]
    pub(crate) const FANCY: Self = Self { fancy: true };
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { fancy: false };

    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { fancy: stream.is_terminal() && !no_color && !dumb && locale_is_utf8() }
    }

    fn pick(self, icon: &'static str, words: &'static str) -> &'static str {
        if self.fancy { icon } else { words }
    }

    /// The mark behind something that went well or not.
    pub(crate) fn mark(self, ok: bool) -> &'static str {
        if ok { self.pick("✓", "ok") } else { self.pick("✗", "FAILED") }
    }

    /// A verdict: the mark before a sentence.
    pub(crate) fn headline(self, ok: bool, sentence: &str) -> String {
        let mark = if ok { self.pick("✓", "[ok]") } else { self.pick("✗", "[failed]") };
        format!("{mark} {sentence}")
    }

    /// Like [`Self::mark`], behind a word that says it all by itself.
    pub(crate) fn good(self, word: &str) -> String {
        if self.fancy { format!("{word} ✓") } else { word.to_owned() }
    }

    pub(crate) fn warning(self) -> &'static str {
        self.pick("⚠ WARNING", "WARNING")
    }

    pub(crate) fn in_progress(self) -> &'static str {
        self.pick("⟳ in progress", "in progress")
    }

    pub(crate) fn queued(self) -> &'static str {
        self.pick("⏸ queued", "queued")
    }

    pub(crate) fn arrow(self) -> &'static str {
        self.pick("→", "->")
    }

    /// Ten places, as many filled as are wholly done.
    pub(crate) fn bar(self, percent: f64) -> String {
        let filled = (percent.clamp(0.0, 100.0) / 10.0) as usize;
        let (full, empty) = (self.pick("█", "#"), self.pick("░", "."));
        format!("[{}{}]", full.repeat(filled), empty.repeat(10 - filled))
    }
}

/// The first variable that is set decides, as in POSIX; none of them set is the C locale.
fn locale_is_utf8() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_ten_places_and_never_round_up() {
        assert_eq!(Style::FANCY.bar(70.0), "[███████░░░]");
        assert_eq!(Style::FANCY.bar(45.0), "[████░░░░░░]");
        assert_eq!(Style::PLAIN.bar(99.9), "[#########.]");
        assert_eq!(Style::PLAIN.bar(250.0), "[##########]");
        assert_eq!(Style::PLAIN.bar(-1.0), "[..........]");
    }
}
