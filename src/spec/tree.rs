//! YAML as a tree with exact places: the strict subset that graphs are written in.
//!
//! Invariant: every scalar, key and container knows its bytes in the file, and nothing is interpreted.

use crate::diagnostic::Span;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The bytes in the file: of a map or list in braces its first line, of one in lines its first token, of
    /// a missing value its key.
    pub span: Span,
    /// The value.
    pub tree: Tree,
    /// How it is written.
    pub(super) style: Style,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Not at all: a key without a value.
    Absent,
    /// Without quotes.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// In a table's row; a number serves as a text there.
    Row,
    /// After `|` or `>`.
    Lines,
    /// In braces or brackets.
    Flow,
    /// A key or a dash a line.
    Block,
}

/// What YAML says.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map; its keys may be scalars of any sort.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Names the sort of the value for messages.
    pub fn sort(&self) -> &'static str {
        match self.tree {
            Tree::Null => "nothing",
            Tree::Bool(_) => "a boolean",
            Tree::Int(_) | Tree::Float(_) => "a number",
            Tree::Str(_) => "a text",
            Tree::Seq(_) => "a list",
            Tree::Map(_) => "a map",
        }
    }

    /// Returns the text, when it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.tree {
            Tree::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as JSON, keys in the order written.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.tree {
            Tree::Null => Json::Null,
            Tree::Bool(b) => Json::Bool(*b),
            Tree::Int(n) => (*n).into(),
            Tree::Float(x) => (*x).into(),
            Tree::Str(text) => text.clone().into(),
            Tree::Seq(items) => items.iter().map(Self::to_json).collect(),
            Tree::Map(entries) => {
                entries.iter().map(|(key, value)| (key.key_text(), value.to_json())).collect()
            }
        }
    }

    /// Returns a key as a text.
    pub fn key_text(&self) -> String {
        match &self.tree {
            Tree::Str(text) => text.clone(),
            _ => self.to_json().to_string(),
        }
    }
}
