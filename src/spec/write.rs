//! Writes YAML that this house reads back: block style, what is short on one line, comments where they are wanted.
//!
//! Invariant: what is written reads back as the same value, or is refused.

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value as Json;
use serde_yaml::{FlowMap, FlowSeq, LitStr};

use super::parse::{self, MAX_BYTES, parse};
use crate::diagnostic::Bag;

/// How many lists and maps may be in each other.
pub const MAX_DEPTH: usize = parse::MAX_DEPTH;

/// The longest list or map that stands on one line, in bytes of its JSON.
const ONE_LINE: usize = 90;

/// A value to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// A plain value; one line where it is short.
    Plain(Json),
    /// A map, a key a line.
    Map(Vec<(String, Yaml)>),
    /// A list, an item a line.
    List(Vec<Yaml>),
    /// A map or a list with comments before it.
    Noted(Vec<String>, Box<Yaml>),
}

/// Why a value cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The writer refuses it.
    #[error("the value cannot be written as YAML: {0}")]
    Unwritable(String),
    /// It holds a number that is not read back.
    #[error("at `{0}`: {1} is above 9223372036854775807, the largest whole number that is read back")]
    Number(String, u64),
    /// It is too deep.
    #[error("at `{0}`: it is nested deeper than {MAX_DEPTH} lists and maps, of which no more are read back")]
    Deep(String),
    /// It is too large.
    #[error("it takes {} KiB, and files of more than {} KiB are not read back", .0.div_ceil(1024), MAX_BYTES / 1024)]
    Large(usize),
    /// It reads back as something else.
    #[error("at `{0}`: what is written as YAML reads back as something else; leave the value out")]
    Other(String),
}

impl Yaml {
    /// Returns the value without its comments.
    fn json(&self) -> Json {
        match self {
            Self::Plain(value) => value.clone(),
            Self::Map(entries) => entries.iter().map(|(name, value)| (name.clone(), value.json())).collect(),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Noted(_, value) => value.json(),
        }
    }

    /// Puts marks where comments are to stand: keys and items of their own, that are lines of their own.
    fn marked(&self, mark: &str, notes: &mut Vec<String>) -> Self {
        match self {
            Self::Plain(value) => Self::Plain(value.clone()),
            Self::Map(entries) => {
                let entry = |(name, value): &(String, Self)| (name.clone(), value.marked(mark, notes));
                Self::Map(entries.iter().map(entry).collect())
            }
            Self::List(items) => Self::List(items.iter().map(|item| item.marked(mark, notes)).collect()),
            Self::Noted(said, value) => {
                let marks: Vec<String> = said
                    .iter()
                    .map(|note| {
                        notes.push(printable(note));
                        format!("{mark}{}", notes.len() - 1)
                    })
                    .collect();
                match value.marked(mark, notes) {
                    Self::Map(entries) => {
                        let marks = marks.into_iter().map(|mark| (mark, Self::Plain(0.into())));
                        Self::Map(marks.chain(entries).collect())
                    }
                    Self::List(items) => {
                        let marks = marks.into_iter().map(|mark| Self::Plain(mark.into()));
                        Self::List(marks.chain(items).collect())
                    }
                    other => other,
                }
            }
        }
    }
}

/// Makes one line of a text, without what a comment may not hold or a terminal would obey.
fn printable(text: &str) -> String {
    let shown = |c: char| if is_odd(c) { char::REPLACEMENT_CHARACTER } else { c };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().map(shown).collect()
}

/// Says whether a character is no text: it has no place in a comment or a block, or changes how what is around it looks.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Serialize for Yaml {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => Plain(value).serialize(serializer),
            Self::Noted(_, value) => value.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
        }
    }
}

/// A plain value; its lists and maps stand on one line where they are short.
struct Plain<'j>(&'j Json);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Json::Array(items) if is_short(self.0) => FlowSeq(items).serialize(serializer),
            Json::Object(fields) if is_short(self.0) => FlowMap(fields).serialize(serializer),
            Json::Array(items) => serializer.collect_seq(items.iter().map(Plain)),
            Json::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, Plain(value))))
            }
            Json::String(text) if is_quoted(text) => LitStr(text).serialize(serializer),
            other => other.serialize(serializer),
        }
    }
}

/// Says whether a text is long and would stand in quotes without need: in a block nothing is escaped.
fn is_quoted(text: &str) -> bool {
    let quoted = |written: String| written.starts_with(['"', '\'']);
    let escaped = |c: char| is_odd(c) && !matches!(c, '\n' | '\t');
    text.len() > ONE_LINE && !text.contains(escaped) && serde_yaml::to_string(&text).is_ok_and(quoted)
}

fn is_short(value: &Json) -> bool {
    fn is_flat(value: &Json) -> bool {
        match value {
            Json::String(text) => !text.contains('\n'),
            Json::Array(items) => items.iter().all(is_flat),
            Json::Object(fields) => fields.values().all(is_flat),
            _ => true,
        }
    }
    is_flat(value) && value.to_string().len() <= ONE_LINE
}

/// Writes a value as a file.
pub fn write(value: &Yaml) -> Result<String, WriteError> {
    let plain = value.json();
    if let Some(error) = unwritable(&plain, MAX_DEPTH) {
        return Err(error);
    }
    // No text of the value has this, so that every line with it is a comment's.
    let mark = format!("x-{}-", uuid::Uuid::now_v7().simple());
    let mut notes = Vec::new();
    let marked = value.marked(&mark, &mut notes);
    let options = serde_yaml::ser_options! { compact_list_indent: false };
    let text = serde_yaml::to_string_with_options(&marked, options)
        .map_err(|error| WriteError::Unwritable(error.to_string()))?;
    let text = commented(&text, &mark, &notes);
    if text.len() as u64 > MAX_BYTES {
        return Err(WriteError::Large(text.len()));
    }
    let mut bag = Bag::default();
    let file = bag.add_source("written.yaml", text.as_str());
    let read = parse(&text, file, 0, &mut bag).map(|node| node.to_json());
    if let Some(finding) = bag.findings().first() {
        return Err(WriteError::Unwritable(finding.sentence()));
    }
    match differs(&plain, &read.unwrap_or_default()) {
        None => Ok(text),
        Some(place) => Err(WriteError::Other(place)),
    }
}

/// Finds the first thing in a value that is not read back, and names its place by a JSON Pointer.
fn unwritable(value: &Json, depth: usize) -> Option<WriteError> {
    let below = |name: &str, value: &Json| {
        let mut error = unwritable(value, depth - 1)?;
        if let WriteError::Number(place, _) | WriteError::Deep(place) = &mut error {
            place.insert_str(0, &format!("/{name}"));
        }
        Some(error)
    };
    match value {
        Json::Number(number) => {
            let large = number.as_u64().filter(|number| i64::try_from(*number).is_err());
            large.map(|number| WriteError::Number(String::new(), number))
        }
        Json::Array(_) | Json::Object(_) if depth == 0 => Some(WriteError::Deep(String::new())),
        Json::Array(items) => items.iter().enumerate().find_map(|(n, item)| below(&n.to_string(), item)),
        Json::Object(fields) => fields.iter().find_map(|(name, value)| below(name, value)),
        _ => None,
    }
}

/// Returns the first place where two values differ, as a JSON Pointer.
fn differs(a: &Json, b: &Json) -> Option<String> {
    let below = |name: &str, a: &Json, b: &Json| differs(a, b).map(|rest| format!("/{name}{rest}"));
    match (a, b) {
        (Json::Object(a), Json::Object(b)) if a.len() == b.len() => {
            a.iter().find_map(|(name, a)| below(name, a, b.get(name).unwrap_or(&Json::Null)))
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(n, (a, b))| below(&n.to_string(), a, b))
        }
        (a, b) => (a != b).then(String::new),
    }
}

/// Puts comments where their marks are.
fn commented(text: &str, mark: &str, notes: &[String]) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let note = line.find(mark).and_then(|at| {
            let number = line[at + mark.len()..].trim_end_matches(": 0").parse::<usize>().ok()?;
            Some((at, notes.get(number)?))
        });
        // Writing into memory cannot fail.
        let _infallible = match note {
            Some((at, note)) => {
                // Of an item that begins with a comment the dash stays; one that is a comment is none.
                let before = &line[..at];
                let is_key = line.ends_with(": 0");
                let before = if is_key { before.to_owned() } else { before.replacen("- ", "", 1) };
                writeln!(out, "{before}# {note}")
            }
            None => writeln!(out, "{line}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_reads_back_and_what_is_long_stands_in_a_block() {
        let long = "word ".repeat(30).trim().to_owned();
        for text in [
            "",
            " ",
            "yes",
            "null",
            "~",
            "1e3",
            "0x1",
            "1_000",
            "12:30",
            "- a",
            "a: b",
            "a #b",
            "#",
            "{{ row.x }}",
            "|",
            ">",
            "%",
            "@a",
            "`",
            "*a",
            "&a",
            "!a",
            "'",
            "\"",
            "\\",
            "\t",
            " a",
            "a ",
            "a\n",
            "\na",
            "a\n\n",
            "a\n  b\n",
            "- a\n# b: c",
            "\u{85}",
            "\u{feff}",
            "\u{0}",
            "Grüße 🌍",
            "a\r\nb",
            "---",
            "...",
            &long,
            &format!("{long}\n{long}"),
            &format!("# {long}: it's \"so\""),
            &format!("{long}  {long}"),
        ] {
            let value = Yaml::Map(vec![("a".into(), Yaml::Plain(json!({"b": [text, {"c": text}]})))]);
            let written = write(&value).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let is_block = written.contains("- >-\n") || written.contains("- |-\n");
            assert!(is_block || text.len() <= ONE_LINE, "{written}");
        }
    }

    /// Where it was, and why, was not said.
    #[test]
    fn what_does_not_read_back_is_refused_with_its_place() {
        let deep = |levels: usize| (1..levels).fold(json!([]), |inner, _| json!({"a": inner}));
        assert!(write(&Yaml::Plain(deep(MAX_DEPTH))).is_ok());
        let words: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
        for (value, why) in [
            (json!({"a": [1, u64::MAX]}), "at `/a/1`: 18446744073709551615 is above 9223372036854775807"),
            (
                deep(MAX_DEPTH + 1),
                "at `/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a`: it is nested deeper than 24",
            ),
            (json!("long ".repeat(300_000)), "it takes 1502 KiB, and files of more than 1024 KiB"),
            (json!({ "a": [words] }), "KiB, and files of more than 1024 KiB"),
        ] {
            let refused = write(&Yaml::Plain(value)).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    /// They stood there as they were: a terminal obeyed them, and a zero in a comment or a long text made all of it unreadable.
    #[test]
    fn no_character_that_a_terminal_obeys_is_written() {
        let long = "word ".repeat(30);
        for odd in
            ['\u{0}', '\u{7}', '\u{1b}', '\u{7f}', '\u{9b}', '\u{feff}', '\u{202e}', '\u{2066}', '\u{85}']
        {
            for text in [format!("a{odd}[31mb"), format!("{long}{odd}[31mb"), format!("{long}\n{odd}[31mb\n")]
            {
                let map = Yaml::Map(vec![(text.clone(), Yaml::Plain(json!([text])))]);
                let written = write(&Yaml::Noted(vec![text.clone()], Box::new(map))).unwrap();
                assert!(!written.contains(|c: char| c.is_control() && c != '\n'), "{odd:?}: {written:?}");
                let comment = written.lines().next().unwrap();
                assert!(comment.starts_with("# ") && !comment.contains(is_odd), "{comment:?}");
            }
        }
    }

    #[test]
    fn comments_stand_before_what_they_are_of() {
        let noted = |value| Yaml::Noted(vec!["why\nso".into(), "and".into()], Box::new(value));
        let map = || Yaml::Map(vec![("x".into(), Yaml::Plain(json!(1)))]);
        let value = Yaml::Map(vec![
            ("a".into(), noted(map())),
            ("b".into(), Yaml::List(vec![noted(map()), Yaml::Plain(json!("t"))])),
        ]);
        let written = write(&value).unwrap();
        assert_eq!(
            written,
            "a:\n  # why so\n  # and\n  x: 1\nb:\n  - # why so\n    # and\n    x: 1\n  - t\n"
        );
    }
}
