//! What the guide says that can be typed: pure.

use anyhow::{Result, ensure};

/// Something that a guide tells people to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// One command as a shell reads it: continuation lines joined; a compound command (a loop) with its
    /// line ends. Comments and empty lines are no commands.
    pub(crate) text: String,
    /// Where, for people.
    pub(crate) number: usize,
}

impl Line {
    /// Whether it runs the command, alone, in a pipe or in a loop.
    pub(crate) fn runs(&self, command: &str) -> bool {
        words(&self.text).any(|word| word == command)
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || "|;&()`".contains(c)).filter(|word| !word.is_empty())
}

/// What the guide holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Guide {
    /// The commands of its shell blocks, in order.
    pub(crate) commands: Vec<Line>,
    /// Command lines that are named elsewhere: in printed output, and between backticks in the text.
    pub(crate) mentions: Vec<Line>,
}

/// Reads a guide (Markdown) to a command, by its name there.
///
/// # Errors
/// When a block, a command or a loop has no end, or when the name stands in a block and was not
/// understood as a command: nothing is passed over in silence.
pub(crate) fn read(text: &str, name: &str) -> Result<Guide> {
    let mut guide = Guide::default();
    let mut block: Option<(&str, usize)> = None;
    let mut open: Option<Line> = None;
    let mut in_blocks = 0;
    for (position, raw) in text.lines().enumerate() {
        let number = position + 1;
        if let Some(language) = raw.trim_start().strip_prefix("```") {
            ensure!(open.is_none(), "line {number}: the block ends within a command");
            block = if block.is_some() { None } else { Some((language.trim(), number)) };
            continue;
        }
        match block {
            Some((language, _)) => {
                in_blocks += words(raw).filter(|word| *word == name).count();
                if matches!(language, "bash" | "sh" | "shell" | "console") {
                    shell_line(raw, number, &mut open, &mut guide.commands);
                } else if let Some(at) = raw.find(&format!("{name} ")) {
                    guide.mentions.push(Line { text: raw[at..].trim_end().to_owned(), number });
                }
            }
            None => {
                let spans = raw.split('`').skip(1).step_by(2);
                let ours = spans.filter(|span| span.starts_with(&format!("{name} ")));
                guide.mentions.extend(ours.map(|span| Line { text: span.to_owned(), number }));
            }
        }
    }
    if let Some((_, number)) = block {
        anyhow::bail!("the block of line {number} has no end");
    }
    let ours = |line: &Line| words(&line.text).filter(|word| *word == name).count();
    let in_prose =
        |line: &&Line| text.lines().nth(line.number - 1).is_some_and(|l| l.contains('`'));
    let understood: usize = guide.commands.iter().map(ours).sum::<usize>()
        + guide.mentions.iter().filter(|line| !in_prose(line)).map(ours).sum::<usize>();
    ensure!(understood == in_blocks, "{understood} of {in_blocks} times {name} is understood");
    Ok(guide)
}

/// Takes in one line of a shell block.
fn shell_line(raw: &str, number: usize, open: &mut Option<Line>, commands: &mut Vec<Line>) {
    let text = raw.trim().trim_start_matches("$ ");
    let goes_on = open.as_ref().is_some_and(|line| line.text.ends_with('\\'));
    if !goes_on && (text.is_empty() || text.starts_with('#')) {
        return;
    }
    let line = match open.take() {
        None => Line { text: text.to_owned(), number },
        Some(mut line) => {
            match line.text.strip_suffix('\\') {
                Some(begun) => line.text = format!("{} {text}", begun.trim_end()),
                None => line.text = format!("{}\n{text}", line.text),
            }
            line
        }
    };
    if line.text.ends_with('\\') || depth(&line.text) > 0 {
        *open = Some(line);
    } else {
        commands.push(line);
    }
}

/// How many compound commands are open.
fn depth(text: &str) -> i32 {
    let first_words =
        text.split(['\n', ';', '|']).filter_map(|part| part.split_whitespace().next());
    first_words
        .map(|word| match word {
            "for" | "while" | "until" | "if" | "case" => 1,
            "done" | "fi" | "esac" => -1,
            _ => 0,
        })
        .sum()
}

/// That all this is so, by an example.
pub(crate) fn example(_: &crate::setup::Stage) -> Result<()> {
    let text = "Type `azlin backup list VM`, with azlin v2.\n\n```bash\n# azlin in a comment\nazlin a \\\n  \
                --b c   \\\n  --d\n\nfor vm in x y; do\n  azlin e $vm | grep z\ndone\nother\n```\n```\n\
                Track: azlin f g\n```\n";
    // A comment that names it is not understood, and that is said.
    let said = read(text, "azlin").err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(said.contains("3 of 4 times azlin"), "{said}");
    let guide = read(&text.replace("# azlin", "#"), "azlin")?;
    let texts = |lines: &[Line]| lines.iter().map(|l| l.text.clone()).collect::<Vec<_>>();
    let loop_ = "for vm in x y; do\nazlin e $vm | grep z\ndone";
    ensure!(texts(&guide.commands) == ["azlin a --b c --d", loop_, "other"], "{guide:#?}");
    ensure!(texts(&guide.mentions) == ["azlin backup list VM", "azlin f g"], "{guide:#?}");
    let ours: Vec<bool> = guide.commands.iter().map(|line| line.runs("azlin")).collect();
    ensure!(ours == [true, true, false], "{ours:?}");
    ensure!(read("```bash\nazlin a \\\n```\n", "azlin").is_err(), "half a command is a command");
    ensure!(read("```bash\nazlin a\n", "azlin").is_err(), "a block needs no end");
    Ok(())
}
