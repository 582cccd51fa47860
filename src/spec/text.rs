//! A text as written, and the way from a place in it back to the file.

use std::ops::Range;

use super::reader::Reader;
use super::tree::{Node, Style, Tree};
use crate::diagnostic::{Bag, Span, Spanned};

/// A text or an expression with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// What YAML makes of it.
    pub value: String,
    /// The scalar in the file; of a block scalar its first line.
    pub span: Span,
    /// Where pieces of the value stand in the file: offset in the value, offset in the file. A piece ends where
    /// the next one begins.
    pieces: Vec<(usize, usize)>,
}

/// The offset of a piece that is not found in the file.
const UNKNOWN: usize = usize::MAX;

impl Text {
    /// Takes a scalar, and finds its characters in the file again.
    pub(super) fn new(node: &Node, value: &str, bag: &Bag) -> Self {
        let source = bag.source(node.span.file).1;
        let (start, end) = (node.span.start as usize, (node.span.end as usize).min(source.len()));
        let raw = source.get(start..end).unwrap_or_default();
        let mut pieces = align(raw, value, node.style == Style::Quoted);
        for (_, at) in &mut pieces {
            *at = at.saturating_add(start);
        }
        let first_line = raw.find(['\n', '\r']).unwrap_or(raw.len());
        let span = if node.style == Style::Lines { node.span.part(0..first_line) } else { node.span };
        Self { value: value.to_owned(), span, pieces }
    }

    /// Takes a part of a file as it is.
    pub(super) fn verbatim(value: &str, span: Span) -> Self {
        Self { value: value.to_owned(), span, pieces: vec![(0, span.start as usize)] }
    }

    /// Takes a text that does not stand in the file itself, but belongs to a place in it.
    pub fn at(value: &str, span: Span) -> Self {
        Self { value: value.to_owned(), span, pieces: vec![(0, UNKNOWN)] }
    }

    /// Returns the place of a part of the value, or of the scalar when that is all that is known.
    pub fn locate(&self, range: Range<usize>) -> Span {
        let place = |offset: usize| {
            let at = self.pieces.partition_point(|(value, _)| *value <= offset).checked_sub(1)?;
            let (value, file) = self.pieces[at];
            (file != UNKNOWN).then(|| u32::try_from(file + offset - value).ok())?
        };
        match (place(range.start), place(range.end.max(range.start + 1) - 1)) {
            (Some(start), Some(last)) if start <= last => {
                let end = if range.end > range.start { last + 1 } else { start };
                Span { file: self.span.file, start, end }
            }
            _ => self.span,
        }
    }
}

/// Walks along a scalar as written and its value, and notes where they part: at the breaks of folded and
/// indented lines, and at escapes.
fn align(raw: &str, value: &str, quoted: bool) -> Vec<(usize, usize)> {
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    let mut put = |value: usize, file: usize| {
        if pieces.last().is_none_or(|(v, f)| f.wrapping_add(value - v) != file) {
            pieces.push((value, file));
        }
    };
    let quote = raw.chars().next().filter(|_| quoted);
    let (mut v, mut r) = (0, usize::from(quoted));
    put(v, r);
    while v < value.len() {
        let (rest, raw_rest) = (&value[v..], &raw[r..]);
        let (Some(c), Some(written)) = (rest.chars().next(), raw_rest.chars().next()) else { break };
        let escape = match quote {
            Some('"') if written == '\\' => escape(raw_rest),
            Some('\'') if raw_rest.starts_with("''") => 2,
            _ => 0,
        };
        if raw_rest.starts_with("\\\n") || raw_rest.starts_with("\\\r") {
            // An escaped line break, with the indent that follows, stands for nothing.
            r += 1 + blank(&raw_rest[1..]);
        } else if escape > 0 {
            put(v, r);
            v += c.len_utf8();
            r += escape;
        } else if blank(rest) > 0 || blank(raw_rest) > 0 {
            let found = &raw_rest[..blank(raw_rest)];
            // Where no line breaks, spaces stand as they are; what follows them may be an escaped one.
            let folded = found.is_empty() || found.contains(['\n', '\r']);
            let given = if folded { blank(rest) } else { blank(rest).min(found.len()) };
            let given = &rest[..given];
            put(v, r);
            // What stands before the next word stands there in both.
            let same = given.bytes().rev().zip(found.bytes().rev()).take_while(|(a, b)| a == b).count();
            v += given.len();
            r += found.len();
            put(v - same, r - same);
        } else if c == written {
            put(v, r);
            v += c.len_utf8();
            r += c.len_utf8();
        } else {
            break;
        }
    }
    if v < value.len() {
        pieces.push((v, UNKNOWN));
    }
    pieces
}

/// Counts the white space at the start.
fn blank(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\t', '\n', '\r']).len()
}

/// Measures an escape of a text in double quotes.
fn escape(raw: &str) -> usize {
    let kind = raw[1..].chars().next().unwrap_or(' ');
    match kind {
        'x' => 4,
        // A character beyond U+FFFF may be written as two halves.
        'u' if raw[2..].starts_with(['d', 'D']) && raw.get(6..8) == Some("\\u") => 12,
        'u' => 6,
        'U' => 10,
        _ => 1 + kind.len_utf8(),
    }
    .min(raw.len())
}

/// An expression, or a list or map whose leaves are expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprSpec {
    /// A number, a boolean or null: itself.
    Const(serde_json::Value, Span),
    /// An expression.
    Text(Text),
    /// A list.
    List(Vec<ExprSpec>, Span),
    /// A map.
    Map(Vec<(Spanned<String>, ExprSpec)>, Span),
}

impl ExprSpec {
    /// Returns the place of the value.
    pub fn span(&self) -> Span {
        match self {
            Self::Const(_, span) | Self::List(_, span) | Self::Map(_, span) => *span,
            Self::Text(text) => text.span,
        }
    }

    /// Returns the place of a field of a map that is written out.
    pub fn key(&self, name: &str) -> Option<Span> {
        match self {
            Self::Map(fields, _) => fields.iter().find(|(key, _)| key.value == name).map(|(key, _)| key.span),
            _ => None,
        }
    }

    /// Calls `visit` with every expression, in the order written.
    pub fn for_each_text<'a>(&'a self, visit: &mut dyn FnMut(&'a Text)) {
        match self {
            Self::Const(..) => {}
            Self::Text(text) => visit(text),
            Self::List(items, _) => items.iter().for_each(|item| item.for_each_text(visit)),
            Self::Map(fields, _) => fields.iter().for_each(|(_, value)| value.for_each_text(visit)),
        }
    }
}

impl Node {
    /// Returns a text with the way back to the file; a number or a boolean stands for itself.
    pub fn text(&self, bag: &Bag) -> Option<Text> {
        match &self.tree {
            Tree::Str(value) => Some(Text::new(self, value, bag)),
            Tree::Bool(_) | Tree::Int(_) | Tree::Float(_) => {
                let source = bag.source(self.span.file).1;
                let raw = source.get(self.span.start as usize..self.span.end as usize)?;
                Some(Text::verbatim(raw, self.span))
            }
            _ => None,
        }
    }
}

impl Reader<'_> {
    /// Reads an expression, or a list or map of them.
    pub(super) fn expr(&mut self, node: &Node) -> Option<ExprSpec> {
        if Self::is_secret(node) {
            self.no_secret(node);
            return None;
        }
        match &node.tree {
            Tree::Str(_) => self.expression(node).map(ExprSpec::Text),
            Tree::Seq(items) => {
                let items: Vec<_> = items.iter().map(|item| self.expr(item)).collect();
                items.into_iter().collect::<Option<_>>().map(|items| ExprSpec::List(items, node.span))
            }
            Tree::Map(entries) => {
                let fields: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| {
                        Some((Spanned { value: key.key_text(), span: key.span }, self.expr(value)?))
                    })
                    .collect();
                fields.into_iter().collect::<Option<_>>().map(|fields| ExprSpec::Map(fields, node.span))
            }
            Tree::Null if node.style == Style::Absent => {
                self.wrong(node, "an expression");
                None
            }
            _ => Some(ExprSpec::Const(node.to_json(), node.span)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    /// Finds each word of a value in the file again.
    #[test]
    fn a_word_of_a_text_is_found_where_it_was_written() {
        for source in [
            "a: one two three",
            "a: 'one two three'",
            "a: \"one two three\"",
            "a: |\n  one two\n    three\n",
            "a: |-\n\n  one\n\n  two\n  three",
            "a: >\n  one\n  two\n\n  three\n",
            "a: one\n  two\n  three\n",
            "a: 'it''s one two\n\n  three'",
            "a: \"\\u00fc \\\"one\\\" \\U0001f600 two \\\n   three\"",
            "a: {b: [ü, one two three]}",
            "a: |\r\n  one\r\n  two three\r\n",
        ] {
            let mut bag = Bag::default();
            let file = bag.add_source("a.yaml", source);
            let mut node = parse(source, file, 0, &mut bag).unwrap();
            while let Tree::Map(mut entries) = node.tree {
                node = entries.remove(0).1;
            }
            if let Tree::Seq(mut items) = node.tree {
                node = items.remove(1);
            }
            let text = Text::new(&node, node.as_str().unwrap(), &bag);
            for word in ["one", "two", "three"] {
                let at = text.value.find(word).unwrap();
                let span = text.locate(at..at + word.len());
                assert_eq!(&source[span.start as usize..span.end as usize], word, "{source}");
            }
        }
    }
}
