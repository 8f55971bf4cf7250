//! The part of YAML that files for azdr are written in: mappings, lists and single values.
//!
//! Anchors, aliases, tags and second documents are refused, so that no file can grow while it is read;
//! depth and number of values are limited; and what a person would not see in an editor (control
//! characters, characters that turn the direction of writing) is refused anywhere in the file.

use std::io::Read;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::CliError;

/// The largest file that is read.
const LIMIT: u64 = 1 << 20;
/// Mappings and lists within each other.
const DEPTH: usize = 6;
/// Values, mappings and lists in one file.
const NODES: usize = 20_000;

/// A place in a file; both from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    fn of(span: Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// What is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wrong {
    pub(crate) at: Place,
    pub(crate) message: String,
}

impl Wrong {
    /// What the message repeats of the file stands in one line: tabs and the like are shown as `\t`.
    pub(crate) fn at(at: Place, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let shown = |c: char| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        };
        Self { at, message: message.chars().map(shown).collect() }
    }
}

/// Something in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// A single value; without quotes, `null` is none.
    Text {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    /// Each name once, in the order of the file.
    Mapping(Vec<Field>),
}

/// A field of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Field {
    pub(crate) at: Place,
    pub(crate) name: String,
    pub(crate) node: Node,
}

/// For messages: as much of a text as a person wants to see.
pub(crate) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Reads a file and what `meaning` sees in it.
///
/// # Errors
/// A usage error that names the file and, where there is one, line and column.
pub(crate) fn read_file<T>(
    path: &Path,
    meaning: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Result<T, CliError> {
    let shown = path.display();
    let unreadable = |e: std::io::Error| CliError::usage(format!("{shown} cannot be read: {e}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LIMIT {
        return Err(CliError::usage(format!("{shown} is larger than 1 MB: it must be a policy")));
    }
    meaning(&text).map_err(|Wrong { at, message }| {
        CliError::usage(format!("{shown}:{}:{}: {message}", at.line, at.column))
    })
}

/// Reads a document; `None`: there is nothing in it.
///
/// # Errors
/// At the first thing that is no YAML, or not of this part of it.
pub(crate) fn read(text: &str) -> Result<Option<Node>, Wrong> {
    refuse_unseen(text)?;
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span): (Event<'_>, Span) = event.map_err(|e| {
            let at = Place { line: e.marker().line(), column: e.marker().col() + 1 };
            Wrong::at(at, format!("this is no YAML: {}", short(e.info())))
        })?;
        reader.take(event, Place::of(span))?;
    }
    Ok(reader.root)
}

fn refuse_unseen(text: &str) -> Result<(), Wrong> {
    let mut at = Place::START;
    for c in text.chars() {
        match c {
            '\n' => at = Place { line: at.line + 1, column: 0 },
            '\r' | '\t' => {}
            '\u{feff}' if at == Place::START => {}
            c if c.is_control() || is_unseen(c) => {
                let message = format!("the character U+{:04X} is not allowed", u32::from(c));
                return Err(Wrong::at(at, message));
            }
            _ => {}
        }
        at.column += 1;
    }
    Ok(())
}

/// Not shown, but changes how others are.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A mapping or list that has begun.
enum Open {
    List(Place, Vec<Node>),
    Mapping(Place, Vec<Field>, Option<(Place, String)>),
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, at: Place) -> Result<(), Wrong> {
        let fail = |message: &str| Err(Wrong::at(at, message));
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return fail("there is a second document: a file has one");
                }
            }
            Event::Alias(_) => return fail("aliases are not allowed"),
            Event::Scalar(_, _, anchor, _)
            | Event::MappingStart(anchor, _)
            | Event::SequenceStart(anchor, _)
                if anchor != 0 =>
            {
                return fail("anchors are not allowed");
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::MappingStart(_, Some(_))
            | Event::SequenceStart(_, Some(_)) => return fail("types (\"!…\") are not allowed"),
            Event::Scalar(text, style, ..) => {
                let quoted = style != ScalarStyle::Plain;
                return self.value(at, text.into_owned(), quoted);
            }
            Event::MappingStart(..) => self.begin(at, Open::Mapping(at, vec![], None))?,
            Event::SequenceStart(..) => self.begin(at, Open::List(at, vec![]))?,
            Event::MappingEnd | Event::SequenceEnd => {
                let node = match self.open.pop() {
                    Some(Open::List(at, list)) => Node { at, value: Value::List(list) },
                    Some(Open::Mapping(at, fields, _)) => {
                        Node { at, value: Value::Mapping(fields) }
                    }
                    None => return fail("this is no YAML"),
                };
                self.put(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, at: Place, open: Open) -> Result<(), Wrong> {
        self.count(at)?;
        if let Some(Open::Mapping(_, _, None)) = self.open.last() {
            return Err(Wrong::at(at, "the name of a field must be a single value"));
        }
        if self.open.len() == DEPTH {
            return Err(Wrong::at(at, format!("at most {DEPTH} levels are allowed")));
        }
        self.open.push(open);
        Ok(())
    }

    fn count(&mut self, at: Place) -> Result<(), Wrong> {
        self.nodes += 1;
        if self.nodes > NODES {
            return Err(Wrong::at(at, format!("at most {NODES} values are allowed")));
        }
        Ok(())
    }

    fn value(&mut self, at: Place, text: String, quoted: bool) -> Result<(), Wrong> {
        self.count(at)?;
        if let Some(Open::Mapping(_, fields, name @ None)) = self.open.last_mut() {
            if fields.iter().any(|field| field.name == text) {
                return Err(Wrong::at(at, format!("{} is given twice", short(&text))));
            }
            *name = Some((at, text));
            return Ok(());
        }
        self.put(Node { at, value: Value::Text { text, quoted } });
        Ok(())
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, list)) => list.push(node),
            Some(Open::Mapping(_, fields, name)) => {
                if let Some((at, name)) = name.take() {
                    fields.push(Field { at, name, node });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_where_they_stand() {
        let node = read("a: 1\nb:\n  - x\n  - c: \"null\"\n").unwrap().unwrap();
        let Value::Mapping(fields) = node.value else { panic!() };
        assert_eq!((fields[0].at, fields[0].node.at.column), (Place::START, 4));
        let Value::List(list) = &fields[1].node.value else { panic!() };
        assert_eq!(list[0].at, Place { line: 3, column: 5 });
        let Value::Mapping(inner) = &list[1].value else { panic!() };
        let text = Value::Text { text: "null".into(), quoted: true };
        assert_eq!((&inner[0].name[..], &inner[0].node.value), ("c", &text));
        assert_eq!(read("# nothing\n").unwrap(), None);
    }

    #[test]
    fn what_is_not_seen_is_not_read() {
        for (text, line, column) in [
            ("a: 1\nb: x\u{0}y\n", 2, 5),
            ("\u{202e}a: 1\n", 1, 1),
            ("a: \"\u{2066}x\"\n", 1, 5),
            ("# \u{200f}\n", 1, 3),
            ("a: \u{1b}[2J\n", 1, 4),
        ] {
            let wrong = read(text).unwrap_err();
            assert_eq!(wrong.at, Place { line, column }, "{text:?}");
            assert!(wrong.message.contains("is not allowed"), "{}", wrong.message);
        }
        // Names that are written from right to left are just letters.
        assert!(read("a: \u{5d0}\u{5d1}\n").is_ok());
    }
}
