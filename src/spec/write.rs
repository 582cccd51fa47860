//! Writes YAML that this house reads back: block style, what is short on one line, comments where they are wanted.
//!
//! Invariant: what is written reads back as the same value, or is refused.

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value as Json;
use serde_yaml::{FlowMap, FlowSeq, LitStr};

use super::parse::parse;
use crate::diagnostic::Bag;

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
    /// It is too deep, too large, or a number that YAML does not carry.
    #[error("at `{0}`: what is written as YAML reads back as something else")]
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
                        notes.push(note.split_whitespace().collect::<Vec<_>>().join(" "));
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

/// Says whether a text is long and would stand in quotes: in a block it needs no escapes.
fn is_quoted(text: &str) -> bool {
    let quoted = |written: String| written.starts_with(['"', '\'']);
    text.len() > ONE_LINE && serde_yaml::to_string(&text).is_ok_and(quoted)
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
    // No text of the value has this, so that every line with it is a comment's.
    let mark = format!("x-{}-", uuid::Uuid::now_v7().simple());
    let mut notes = Vec::new();
    let marked = value.marked(&mark, &mut notes);
    let options = serde_yaml::ser_options! { compact_list_indent: false };
    let text = serde_yaml::to_string_with_options(&marked, options)
        .map_err(|error| WriteError::Unwritable(error.to_string()))?;
    let text = commented(&text, &mark, &notes);
    let mut bag = Bag::default();
    let file = bag.add_source("written.yaml", text.as_str());
    let read = parse(&text, file, 0, &mut bag).map(|node| node.to_json());
    if let Some(finding) = bag.findings().first() {
        return Err(WriteError::Unwritable(finding.sentence()));
    }
    match differs(&value.json(), &read.unwrap_or_default()) {
        None => Ok(text),
        Some(place) => Err(WriteError::Other(place)),
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
        let refused = write(&Yaml::Plain(json!([1, u64::MAX]))).unwrap_err().to_string();
        assert!(refused.contains("is out of range"), "{refused}");
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
