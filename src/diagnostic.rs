//! Findings for the author of a graph: a code, a place, labels and what to do about it.
//!
//! Invariant: a place comes from the parser, as bytes of a registered source; rendering turns bytes into
//! lines and columns once, at the end.

use std::ops::Range;
use std::sync::Arc;

/// A registered source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

/// A place in a source: bytes `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The source.
    pub file: FileId,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Blocks start-up and reload.
    Error,
    /// Is printed; blocks under `--deny-warnings`.
    Warning,
    /// Is shown by `check` only.
    Lint,
}

/// A text at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is to be said of it.
    pub text: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code, for instance `G201`.
    pub code: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, and what is there.
    pub label: Label,
    /// Other places that matter.
    pub related: Vec<Label>,
    /// What to do about it.
    pub help: Option<String>,
    /// Further facts.
    pub notes: Vec<String>,
}

/// The sources and the findings of one project.
#[derive(Debug, Default)]
pub struct Bag {
    sources: Vec<(String, Arc<str>)>,
    findings: Vec<Diagnostic>,
}
