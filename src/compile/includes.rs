//! What partials come to when what they include is written out. It must stay small, and no partial may include itself:
//! a few files that include each other twice make more text than a machine holds.

use std::collections::BTreeMap;

use super::knots::{is_round, knots};
use crate::diagnostic::{Diagnostic, Span};
use crate::template::{DEEPEST_INCLUDE, MOST_INCLUDES, Parsed};

/// What a partial comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    /// How many files it is, itself included; a file counts as often as it is included.
    pub(super) files: usize,
    /// How deep its includes go; 1 for one without.
    pub(super) depth: usize,
}

impl Weight {
    /// Says whether it is little enough to be included.
    pub(super) fn fits(self) -> bool {
        self.files <= MOST_INCLUDES && self.depth <= DEEPEST_INCLUDE
    }
}

/// What the includes of a text come to, as far as it was gone through.
#[derive(Debug, Default)]
pub(super) struct Sum {
    files: usize,
    /// It is a partial, and one deeper than what it includes.
    partial: bool,
    told: bool,
}

impl Sum {
    /// Begins with a partial itself.
    pub(super) fn of_partial() -> Self {
        Self { files: 1, partial: true, told: false }
    }

    /// Adds an include that fits by itself; returns what is wrong where that is too much, once.
    pub(super) fn add(&mut self, weight: Weight, span: Span) -> Option<Diagnostic> {
        self.files = self.files.saturating_add(weight.files);
        let finding = if self.partial && weight.depth == DEEPEST_INCLUDE {
            let message = format!("includes within includes are more than {DEEPEST_INCLUDE} deep");
            Diagnostic::error("T305", message, span, "this one is as deep as it may be already")
                .help("put what they hold into one file")
        } else if self.files > MOST_INCLUDES {
            let message = format!("more than {MOST_INCLUDES} includes, those within them counted");
            Diagnostic::error("T305", message, span, "one too many")
                .help("write the text once, or put it into one file")
        } else {
            return None;
        };
        (!std::mem::replace(&mut self.told, true)).then_some(finding)
    }
}

/// The partials of a project by name.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Those that come to an end.
    known: BTreeMap<String, Weight>,
    /// Those that lie on a circle, and on which.
    circles: BTreeMap<String, usize>,
}

impl Weights {
    /// Weighs all partials, each once, after those that it includes.
    pub(super) fn of(partials: &BTreeMap<String, Parsed>) -> Self {
        let list_of = |parsed: &'_ Parsed| -> Vec<String> {
            parsed
                .includes
                .iter()
                .map(|(name, _)| name.clone())
                .filter(|name| partials.contains_key(name))
                .collect()
        };
        let lists: BTreeMap<&str, Vec<String>> =
            partials.iter().map(|(name, parsed)| (name.as_str(), list_of(parsed))).collect();
        let includes: BTreeMap<&str, Vec<&str>> =
            lists.iter().map(|(name, list)| (*name, list.iter().map(String::as_str).collect())).collect();
        let mut weights = Self::default();
        for (n, part) in knots(&includes).into_iter().enumerate() {
            if is_round(&part, &includes) {
                weights.circles.extend(part.into_iter().map(|name| (name.to_owned(), n)));
                continue;
            }
            for name in part {
                let inner: Option<Vec<Weight>> =
                    includes[name].iter().map(|name| weights.get(name)).collect();
                // One that leads to a circle comes to no end.
                let Some(inner) = inner else { continue };
                let files = inner.iter().fold(1_usize, |sum, weight| sum.saturating_add(weight.files));
                let depth = 1 + inner.iter().map(|weight| weight.depth).max().unwrap_or(0);
                weights.known.insert(name.to_owned(), Weight { files, depth });
            }
        }
        weights
    }

    /// Returns what a partial comes to; nothing for one that does not come to an end.
    pub(super) fn get(&self, name: &str) -> Option<Weight> {
        self.known.get(name).copied()
    }

    /// Returns the circle by which an include leads back to the partial that it stands in.
    pub(super) fn leads_back(&self, from: &str, to: &str) -> Option<usize> {
        self.circles.get(from).filter(|circle| self.circles.get(to) == Some(circle)).copied()
    }
}
