//! Checks a project away from the editor: the same compiler as `check`, with what is open in the place of what is
//! stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gen_lsp_types as lsp;

use super::index::{Index, index};
use super::place::{range, uri};
use crate::compile::{Providers, compile};
use crate::diagnostic::{Bag, Diagnostic, FileId, Label, Lines, Severity};
use crate::spec::{Files, load_over};

/// A project to check.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) root: PathBuf,
    /// What is open, by path within the folder.
    pub(super) open: BTreeMap<String, Arc<str>>,
    /// Counts the changes that the project had seen.
    pub(super) change: u64,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) root: PathBuf,
    pub(super) change: u64,
    /// The files, and what is in those that can be read.
    pub(super) files: BTreeMap<String, (Arc<str>, Option<Index>)>,
    /// The findings of each file that has some.
    pub(super) findings: BTreeMap<PathBuf, Vec<lsp::Diagnostic>>,
    /// The check came to no end; what was known before still holds.
    pub(super) failed: bool,
}

impl Checked {
    /// Says that a check came to no end.
    pub(super) fn nothing(root: PathBuf, change: u64) -> Self {
        Self { root, change, files: BTreeMap::new(), findings: BTreeMap::new(), failed: true }
    }
}

/// Checks a project.
pub(super) fn check(job: Job, providers: &Providers) -> Checked {
    let mut bag = Bag::default();
    let open: Files = job.open.iter().map(|(path, text)| (path.clone(), text.as_bytes().to_vec())).collect();
    let mut files = BTreeMap::new();
    if let Some(folder) = load_over(&job.root, open, &mut bag) {
        let mut indexes = index(&folder, &bag, &job.root);
        for (path, content) in &folder.files {
            let index = indexes.remove(path);
            let text = index.as_ref().map(|index| Arc::clone(&index.text));
            let text = text.unwrap_or_else(|| Arc::from(String::from_utf8_lossy(content)));
            files.insert(path.clone(), (text, index));
        }
        compile(&folder, providers, &mut bag);
    }
    bag.sort();
    Checked { findings: findings(&bag), root: job.root, change: job.change, files, failed: false }
}

/// Turns findings into those of the protocol, by file.
fn findings(bag: &Bag) -> BTreeMap<PathBuf, Vec<lsp::Diagnostic>> {
    let labels =
        |finding: &Diagnostic| finding.related.iter().chain([&finding.label]).cloned().collect::<Vec<_>>();
    let files: BTreeSet<FileId> =
        bag.findings().iter().flat_map(labels).map(|label| label.span.file).collect();
    let lines: BTreeMap<FileId, Lines<'_>> =
        files.into_iter().map(|file| (file, Lines::of(bag.source(file).1))).collect();
    let mut found: BTreeMap<PathBuf, Vec<lsp::Diagnostic>> = BTreeMap::new();
    for finding in bag.findings() {
        let path = PathBuf::from(bag.source(finding.label.span.file).0);
        found.entry(path).or_default().extend(diagnostic(finding, bag, &lines));
    }
    found
}

fn diagnostic(
    finding: &Diagnostic,
    bag: &Bag,
    lines: &BTreeMap<FileId, Lines<'_>>,
) -> Option<lsp::Diagnostic> {
    let place = |label: &Label| {
        let span = label.span;
        Some(range(lines.get(&span.file)?, &(span.start as usize..span.end as usize)))
    };
    let related = finding.related.iter().filter_map(|label| {
        let location = lsp::Location::new(uri(Path::new(bag.source(label.span.file).0))?, place(label)?);
        Some(lsp::DiagnosticRelatedInformation::new(location, label.text.clone()))
    });
    let related: Vec<_> = related.collect();
    Some(lsp::Diagnostic {
        range: place(&finding.label)?,
        severity: Some(match finding.severity {
            Severity::Error => lsp::DiagnosticSeverity::Error,
            Severity::Warning => lsp::DiagnosticSeverity::Warning,
            Severity::Lint => lsp::DiagnosticSeverity::Information,
        }),
        code: Some(lsp::Code::String(finding.code.to_owned())),
        source: Some("graphloom".to_owned()),
        message: lsp::Message::String(finding.sentence()),
        related_information: (!related.is_empty()).then_some(related),
        ..lsp::Diagnostic::default()
    })
}
