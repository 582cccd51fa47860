//! What can be said of unused things where a project has errors.
//!
//! Invariant: what follows from another mistake is not told. A broken node may use what it could not be asked for, and a
//! misspelt name may mean what nothing else names.

use std::collections::{BTreeMap, BTreeSet};

use super::Folder;
use crate::diagnostic::{Bag, FileId, Severity};

/// Errors of values, types and ways: the names of things beside them are those that were meant.
const OF_VALUES: [&str; 30] = [
    "E101", "E102", "E103", "E104", "E106", "G205", "G207", "G208", "G210", "G211", "G218", "M502", "M508",
    "M510", "M511", "M514", "S401", "S402", "S403", "S404", "S406", "S408", "S412", "S416", "T301", "T302",
    "T303", "T304", "T307", "T308",
];

/// Errors of names that are nowhere, and the sorts that they may mean.
const OF_NAMES: [(&str, &[&str]); 5] = [
    ("E107", &["setting", "secret"]),
    ("M501", &["model", "retry policy"]),
    ("M506", &["tool", "MCP server"]),
    ("S409", &["type"]),
    ("T305", &["prompt"]),
];

/// What the files of a project name.
pub(super) struct Used {
    /// How often each word stands in the files, where there are errors.
    words: Option<BTreeMap<String, usize>>,
    /// The codes of errors that are not of values.
    codes: BTreeSet<&'static str>,
}

impl Used {
    pub(super) fn new(folder: &Folder, bag: &Bag) -> Self {
        let errors = bag.findings().iter().filter(|finding| finding.severity == Severity::Error);
        let codes = errors.map(|finding| finding.code).filter(|code| !OF_VALUES.contains(code)).collect();
        Self { words: bag.has_errors().then(|| words(folder)), codes }
    }

    /// Says whether what is used of a sort is known in spite of all errors.
    pub(super) fn knows(&self, sort: &str) -> bool {
        // Hosts are not named by a word of their own.
        if sort == "host" && self.words.is_some() {
            return false;
        }
        let other = |code: &&str| OF_NAMES.iter().any(|(of, sorts)| *of == *code && !sorts.contains(&sort));
        self.codes.iter().all(other)
    }

    /// Says whether a name may be used by what is broken: it stands in the files more often than it is declared.
    pub(super) fn mentioned(&self, name: &str, declared: usize) -> bool {
        let times = |words: &BTreeMap<String, usize>| words.get(name).copied().unwrap_or_default();
        self.words.as_ref().is_some_and(|words| times(words) > declared)
    }
}

/// Counts the words of all files. A path is a word, and so is each of its parts.
fn words(folder: &Folder) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    let mut count = |word: &str| {
        if !word.is_empty() {
            *words.entry(word.to_owned()).or_default() += 1;
        }
    };
    for content in folder.files.values() {
        let text = String::from_utf8_lossy(content);
        for word in text.split(|c: char| !(c.is_alphanumeric() || "_-/.".contains(c))) {
            let word = word.trim_end_matches('.');
            count(word);
            if word.contains(['/', '.']) {
                word.split(['/', '.']).for_each(&mut count);
            }
        }
    }
    words
}

/// Says whether all errors of a file are of values: the names that it declares are those that were meant.
pub(super) fn only_values(file: FileId, bag: &Bag) -> bool {
    let errors = bag.findings().iter().filter(|found| found.severity == Severity::Error);
    errors.filter(|found| found.label.span.file == file).all(|found| OF_VALUES.contains(&found.code))
}
