//! Findings for the author of a graph: a code, a place, labels and what to do about it.
//!
//! Invariant: a place comes from the parser, as bytes of a registered source; rendering turns bytes into
//! lines and columns once, at the end.

mod codes;
mod export;
mod lines;
mod render;
mod suggest;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

pub use codes::{CODES, CodeInfo, code_info};
pub use export::{render_github, render_sarif};
pub use lines::Lines;
pub use render::{finding_json, render_json, render_one, render_text};
pub use suggest::{did_you_mean, look_alike, our_letters, suggest};

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

/// A place in lines and columns; columns count code points from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first line, from 1.
    pub line: usize,
    /// The first column.
    pub column: usize,
    /// The last line.
    pub end_line: usize,
    /// The column after the last.
    pub end_column: usize,
}

/// The sources and the findings of one project.
#[derive(Debug, Clone, Default)]
pub struct Bag {
    sources: Vec<(String, Arc<str>)>,
    findings: Vec<Diagnostic>,
    /// What is read was checked by an earlier build: see [`Bag::trusting`].
    trusting: bool,
    /// Where secrets are.
    masked: Vec<Span>,
    /// What is told as a whole.
    told: Vec<Span>,
    /// How many findings of each weight there were in each file.
    seen: BTreeMap<(FileId, Severity), usize>,
}

/// What is wrong in one place, seen from several others, is one mistake: the first finding shows the others.
fn fold_same(findings: &mut Vec<Diagnostic>) {
    findings.dedup_by(|next, told| {
        let same = next.label == told.label && next.code == told.code && next.message == told.message;
        if same {
            let more = std::mem::take(&mut next.related);
            let new = more.into_iter().filter(|label| !told.related.contains(label));
            let room = SHOWN.saturating_sub(told.related.len());
            told.related.extend(new.collect::<Vec<_>>().into_iter().take(room));
        }
        same
    });
}

/// A name that is unknown in several places of a file is one mistake: the first finding shows the others.
fn fold_unknown(findings: &mut Vec<Diagnostic>) {
    const NAMES: [&str; 11] =
        ["E102", "E107", "G102", "G201", "M501", "M506", "S401", "S402", "S409", "T302", "T305"];
    let mut first: BTreeMap<(FileId, &str, String, String), usize> = BTreeMap::new();
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(findings.len());
    for finding in std::mem::take(findings) {
        // A name in `with` that nothing takes.
        let untaken = matches!(finding.code, "M507" | "S414" | "T304") && finding.label.text == UNTAKEN;
        if !untaken && !NAMES.contains(&finding.code) {
            kept.push(finding);
            continue;
        }
        // What has no such field may be something else in each place.
        let message = finding.message.replace("`state.", "`");
        // The label of an unknown key names what it stands in; the help says what was meant.
        let meant = match finding.code {
            "G102" => finding.help.clone().unwrap_or_default(),
            _ => finding.label.text.clone(),
        };
        let key = (finding.label.span.file, finding.code, message, meant);
        match first.get(&key).and_then(|&at| kept.get_mut(at)) {
            Some(told) => told.also(&finding),
            None => {
                first.insert(key, kept.len());
                kept.push(finding);
            }
        }
    }
    *findings = kept;
}

/// What is said of a name by which a value is given that nothing takes.
pub const UNTAKEN: &str = "nothing takes this";

/// The most other places that a finding shows.
pub const SHOWN: usize = 5;

/// The most findings of one weight in one file that are kept: nobody reads more, and a hostile file must not
/// fill the memory.
const MAX_FINDINGS: usize = 100;

impl Span {
    /// Returns a part of this place, by bytes from its start.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        let at = |offset: usize| self.start + u32::try_from(offset).unwrap_or(u32::MAX - self.start);
        Self { file: self.file, start: at(range.start), end: at(range.end) }
    }
}

impl Diagnostic {
    fn new(severity: Severity, code: &'static str, message: String, span: Span, label: String) -> Self {
        let label = Label { span, text: label };
        Self { code, severity, message, label, related: Vec::new(), help: None, notes: Vec::new() }
    }

    /// Makes an error.
    pub fn error(
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Error, code, message.into(), span, label.into())
    }

    /// Makes a warning.
    pub fn warning(
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, code, message.into(), span, label.into())
    }

    /// Makes a lint.
    pub fn lint(
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Lint, code, message.into(), span, label.into())
    }

    /// Shows another place of the same mistake, as long as there is room.
    pub fn also(&mut self, other: &Self) {
        let label = Label { span: other.label.span, text: "and here".to_owned() };
        if self.related.len() < SHOWN && !self.related.contains(&label) && other.label.span != self.label.span
        {
            self.related.push(label);
        }
    }

    /// Adds another place.
    #[must_use]
    pub fn related(mut self, span: Span, text: impl Into<String>) -> Self {
        self.related.push(Label { span, text: text.into() });
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Says what to do, when that is known.
    #[must_use]
    pub fn help_maybe(mut self, text: Option<String>) -> Self {
        self.help = text.or(self.help);
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Says all of the finding in one text, for programs that show no more than a message.
    pub fn sentence(&self) -> String {
        let mut text = self.message.clone();
        if !self.label.text.is_empty() {
            text += ": ";
            text += &self.label.text;
        }
        for more in self.notes.iter().chain(&self.help) {
            text += "\n";
            text += more;
        }
        text
    }
}

impl Bag {
    /// Makes a bag for a project that an earlier build has checked and run: what was fine then is not judged by the
    /// rules of this build, only read.
    #[must_use]
    pub fn trusting() -> Self {
        Self { trusting: true, ..Self::default() }
    }

    /// Says whether the project was checked before.
    pub fn is_trusting(&self) -> bool {
        self.trusting
    }

    /// Registers a source under the path that is shown.
    pub fn add_source(&mut self, path: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        self.sources.push((path.into(), text.into()));
        FileId(u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX))
    }

    /// Returns the path and the text of a source.
    pub fn source(&self, file: FileId) -> (&str, &str) {
        self.sources.get(file.0 as usize).map_or(("", ""), |(path, text)| (path, text))
    }

    /// Adds a finding, up to a limit for its file and weight.
    pub fn report(&mut self, finding: Diagnostic) {
        let at = finding.label.span;
        let hidden = |span: &Span| span.file == at.file && span.start < at.end && at.start < span.end;
        if finding.code != "M504" && self.masked.iter().any(hidden) {
            return;
        }
        let within = |span: &Span| span.file == at.file && span.start <= at.start && at.end <= span.end;
        if self.told.iter().any(within) {
            return;
        }
        let seen = self.seen.entry((finding.label.span.file, finding.severity)).or_default();
        *seen += 1;
        if *seen <= MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// Says whether a further error of a file would not be kept: what is dear to find out need not be.
    pub fn is_full(&self, file: FileId) -> bool {
        self.errors_in(file) >= MAX_FINDINGS
    }

    /// Counts the findings that were over the limit.
    pub fn left_out(&self) -> usize {
        self.seen.values().map(|seen| seen.saturating_sub(MAX_FINDINGS)).sum()
    }

    /// Returns the findings.
    pub fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// Says whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Says whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }

    /// Counts the errors of a file.
    pub fn errors_in(&self, file: FileId) -> usize {
        self.seen.get(&(file, Severity::Error)).copied().unwrap_or(0)
    }

    /// Hides a secret: no output shows it, and what else is wrong with it is not told.
    pub fn mask(&mut self, span: Span) {
        self.masked.push(span);
        let Some((_, text)) = self.sources.get_mut(span.file.0 as usize) else { return };
        let (start, end) = (span.start as usize, (span.end as usize).min(text.len()));
        if let (Some(before), Some(hidden), Some(after)) =
            (text.get(..start), text.get(start..end), text.get(end..))
        {
            // Byte for byte, so that places stay true.
            let hidden: String = hidden.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
            *text = format!("{before}{hidden}{after}").into();
        }
    }

    /// Adds a finding, if there is one.
    pub fn report_maybe(&mut self, finding: Option<Diagnostic>) {
        if let Some(finding) = finding {
            self.report(finding);
        }
    }

    /// Reports a value that cannot be what it seems: what else is wrong with it is not told.
    pub fn report_whole(&mut self, finding: Diagnostic, value: Span) {
        self.report(finding);
        self.told.push(value);
    }

    /// Takes back the findings of a code in a file that another finding tells better; `path` is the end of its path.
    pub fn retract(&mut self, code: &str, path: &str) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.retain(|f| f.code != code || !self.source(f.label.span.file).0.ends_with(path));
        self.findings = findings;
    }

    /// Takes back findings that another one tells better.
    pub fn take_back(&mut self, told: &[Diagnostic]) {
        self.findings.retain(|finding| !told.contains(finding));
    }

    /// Forgets all findings in files whose path begins like this.
    pub fn forget(&mut self, prefix: &str) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.retain(|f| !self.source(f.label.span.file).0.starts_with(prefix));
        self.findings = findings;
    }

    /// Returns a bag with the same sources and without findings.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let (sources, masked, told) = (self.sources.clone(), self.masked.clone(), self.told.clone());
        Self { sources, masked, told, trusting: self.trusting, ..Self::default() }
    }

    /// Counts errors, warnings and lints.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |severity| self.findings.iter().filter(|f| f.severity == severity).count();
        (count(Severity::Error), count(Severity::Warning), count(Severity::Lint))
    }

    /// Brings the findings into their order: by file, place and code, each once.
    pub fn sort(&mut self) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.sort_by(|a, b| {
            let key = |f: &Diagnostic| (f.label.span.start, f.code);
            let (a_file, b_file) = (self.source(a.label.span.file).0, self.source(b.label.span.file).0);
            a_file.cmp(b_file).then_with(|| key(a).cmp(&key(b)))
        });
        findings.dedup();
        fold_same(&mut findings);
        fold_unknown(&mut findings);
        // What is an error needs no hint as well.
        let errors: BTreeSet<(FileId, u32)> = findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| (f.label.span.file, f.label.span.start))
            .collect();
        findings.retain(|f| {
            f.severity == Severity::Error || !errors.contains(&(f.label.span.file, f.label.span.start))
        });
        self.findings = findings;
    }

    /// Forgets the lints: they are for `check`.
    pub fn drop_lints(&mut self) {
        self.findings.retain(|f| f.severity != Severity::Lint);
    }

    /// Silences warnings and lints of a code within a place, as an `allow` there asks for.
    pub fn allow(&mut self, code: &str, within: Span) {
        self.findings.retain(|f| {
            let at = f.label.span;
            let inside = at.file == within.file && within.start <= at.start && at.end <= within.end;
            f.severity == Severity::Error || f.code != code || !inside
        });
    }

    /// Returns the lines and columns of a place.
    pub fn place(&self, span: Span) -> Place {
        let text = self.source(span.file).1;
        let at = |offset: u32| {
            let mut end = (offset as usize).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let before = &text[..end];
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
        };
        let ((line, column), (end_line, end_column)) = (at(span.start), at(span.end));
        Place { line, column, end_line, end_column }
    }
}
