//! Text keys and prompt files: parsed templates, the names they read, and rendering.
//!
//! Invariant: a template is text of the project. What a template prints is never parsed again.

mod macros;
mod names;
mod pieces;
pub mod prompt;
mod spaces;
mod typed;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use minijinja::Environment;
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;

pub use typed::{Found, check_types};

use crate::expr::{
    EvalError, EvalErrorKind, Read, Scope, TOO_DEEP, environment, explain, foreign_word, too_deep, within,
};

/// A further place that matters to an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// What is to be said of the place.
    pub label: String,
    /// The place, as bytes of the source.
    pub range: Range<usize>,
}

/// What is wrong with a template, with its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// The stable code, for instance `T301`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// What is to be said of the place.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The place, as bytes of the source.
    pub range: Range<usize>,
    /// Another place that matters, such as the opening tag.
    pub related: Option<Related>,
}

/// What a template asks of its surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Every free name that is read, in the order written.
    pub reads: Vec<Read>,
    /// The templates that it includes or imports, in the order written.
    pub includes: Vec<(String, Range<usize>)>,
    /// For each include the names that are bound around it: it sees them.
    pub bound: Vec<Vec<String>>,
    /// What is wrong with its names. The rest is known nevertheless, but it cannot be rendered.
    pub errors: Vec<TemplateError>,
    /// Its length in bytes.
    pub len: usize,
}

/// What one rendering may cost: instructions, and the bytes that it handles.
const FUEL: u64 = 500_000;

/// The longest tag in bytes: the parser goes as deep as an expression is long.
const LONGEST_TAG: usize = 8 * 1024;

/// The most includes of a text, those within them counted.
pub const MOST_INCLUDES: usize = 200;

/// How deep includes may nest. A rendering stops when all that nests in it, of which an include is the dearest, goes
/// beyond what its stack bears: see `expr::environment`.
pub const DEEPEST_INCLUDE: usize = 8;

/// The longest text that a rendering may give.
pub const LONGEST: usize = 1024 * 1024;

/// A tag alone on a line leaves no empty line behind.
fn syntax() -> SyntaxConfig {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.expect("the delimiters are the usual ones")
}

/// Returns what a template reads and includes.
pub fn reads(source: &str) -> Result<Parsed, Vec<TemplateError>> {
    parsed("template", source)
}

/// Finds what looks like something to fill in but stands without double braces, and how it is written right.
pub fn unbraced(source: &str) -> Option<(Range<usize>, String)> {
    let path = |text: &str| {
        let mut parts = text.split('.');
        matches!(parts.next(), Some("state" | "input" | "run"))
            && text.contains('.')
            && parts
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    let bare = source.trim();
    if path(bare) {
        let start = source.len() - source.trim_start().len();
        return Some((start..start + bare.len(), format!("{{{{ {bare} }}}}")));
    }
    let (pieces, _) = pieces::pieces(source);
    pieces.iter().filter(|piece| piece.kind == pieces::Kind::Text).find_map(|piece| {
        let text = &source[piece.range.clone()];
        text.match_indices('{').find_map(|(at, _)| {
            let end = at + text[at..].find('}')?;
            let inner = text[at + 1..end].trim();
            let dollar = text[..at].ends_with('$');
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let variable = dollar && !inner.is_empty() && inner.chars().all(name);
            let from = piece.range.start + at - usize::from(dollar);
            let fixed =
                if path(inner) { format!("{{{{ {inner} }}}}") } else { "{{ input.NAME }}".to_owned() };
            (variable || path(inner)).then(|| (from..piece.range.start + end + 1, fixed))
        })
    })
}

/// Parses a template.
fn parsed(name: &str, source: &str) -> Result<Parsed, Vec<TemplateError>> {
    let (pieces, mut errors) = pieces::pieces(source);
    if !errors.is_empty() {
        errors.sort_by_key(|error| (error.range.start, error.range.end));
        return Err(errors);
    }
    let long = |piece: &&pieces::Piece| {
        matches!(piece.kind, pieces::Kind::Print | pieces::Kind::Tag) && piece.range.len() > LONGEST_TAG
    };
    if let Some(piece) = pieces.iter().find(long) {
        return Err(vec![TemplateError {
            code: "T301",
            message: format!("a tag of {} bytes", piece.range.len()),
            label: format!("the limit is {LONGEST_TAG} bytes"),
            help: Some("split it, for instance with `{% set %}`".to_owned()),
            range: piece.range.start..piece.range.start + 2,
            related: None,
        }]);
    }
    let deep = pieces.iter().find_map(|piece| {
        let inner = match piece.kind {
            pieces::Kind::Print | pieces::Kind::Tag => piece.range.start + 2..piece.range.end - 2,
            _ => return None,
        };
        too_deep(&source[inner.clone()]).map(|at| inner.start + at)
    });
    if let Some(at) = deep {
        return Err(vec![TemplateError {
            code: "T301",
            message: TOO_DEEP.to_owned(),
            label: "one level too many".to_owned(),
            help: Some("split it, for instance with `{% set %}`".to_owned()),
            range: within(source, Some(at..at)),
            related: None,
        }]);
    }
    let template = parse(source, name, syntax()).map_err(|found| {
        let range = within(source, found.range());
        // The tag around the place may hold a word of another language.
        let tag = pieces.iter().find(|piece| {
            matches!(piece.kind, pieces::Kind::Print | pieces::Kind::Tag)
                && piece.range.contains(&range.start)
        });
        let foreign = tag.and_then(|tag| {
            let inner = tag.range.start + 2..tag.range.end - 2;
            let assigns = tag.kind == pieces::Kind::Tag;
            let mut found = foreign_word(&source[inner.clone()], assigns)?;
            found.range = found.range.start + inner.start..found.range.end + inner.start;
            Some(TemplateError::from(found))
        });
        vec![foreign.unwrap_or_else(|| TemplateError {
            code: "T301",
            message: found.detail().unwrap_or("the template has no meaning").to_owned(),
            label: "here".to_owned(),
            help: tag.and_then(|tag| of_another_language(&source[tag.range.clone()])).map(str::to_owned),
            range,
            related: None,
        })]
    })?;
    let parsed = names::names(source, &template);
    // What is no template, or nests too deeply, is looked at no further.
    if parsed.errors.iter().any(|error| error.code == "T301") { Err(parsed.errors) } else { Ok(parsed) }
}

/// Returns what to write for a tag as other template languages have it.
fn of_another_language(tag: &str) -> Option<&'static str> {
    let words: Vec<&str> = tag.split(|c: char| c.is_whitespace() || "{}%-".contains(c)).collect();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    if tag.starts_with("{{{") {
        return Some("write two braces:  {{ x }}");
    }
    (words.next() == Some("else") && words.next() == Some("if")).then_some("write  {% elif … %}")
}

/// The templates of a project while they are being read.
pub struct Set {
    env: Environment<'static>,
    sources: BTreeMap<String, String>,
}

impl Default for Set {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sources.keys()).finish()
    }
}

impl Set {
    /// Returns an empty set.
    #[must_use]
    pub fn new() -> Self {
        let mut env = environment(FUEL);
        env.set_syntax(syntax());
        Self { env, sources: BTreeMap::new() }
    }

    /// Parses a template and adds it under a name; a second one of that name replaces the first. One with errors in its
    /// names is not added.
    pub fn add(&mut self, name: &str, source: &str) -> Result<Parsed, Vec<TemplateError>> {
        let parsed = parsed(name, source)?;
        if !parsed.errors.is_empty() {
            return Ok(parsed);
        }
        self.env.template_from_named_str(name, source).map(drop).map_err(|found| {
            vec![TemplateError {
                code: "T301",
                message: found.detail().unwrap_or("the template has no meaning").to_owned(),
                label: "here".to_owned(),
                help: None,
                range: within(source, found.range()),
                related: None,
            }]
        })?;
        self.sources.insert(name.to_owned(), source.to_owned());
        Ok(parsed)
    }

    /// Closes the set. A template is compiled when it is first rendered: compiled, it takes several times its text, and of
    /// a large project few are.
    pub fn freeze(self) -> Templates {
        let Self { mut env, sources } = self;
        env.set_loader(move |name| Ok(sources.get(name).cloned()));
        Templates(Arc::new(env))
    }
}

/// The templates of a project; cheap to clone.
#[derive(Clone)]
pub struct Templates(Arc<Environment<'static>>);

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").finish_non_exhaustive()
    }
}

impl Templates {
    /// Renders a template. Names without a value, null, lists and objects do not print but fail; booleans
    /// print as `true` and `false`.
    pub fn render(&self, name: &str, scope: &Scope) -> Result<String, EvalError> {
        let mut out = Capped(Vec::new());
        let template = self.0.get_template(name).map_err(|e| self.failed(name, &e))?;
        let done = template.render_captured_to(scope.root(), &mut out).map(|_| ());
        done.map_err(|e| self.failed(name, &e))?;
        // The engine writes whole texts only.
        String::from_utf8(out.0).map_err(|_| EvalError {
            message: format!("`{name}` gives no text"),
            range: None,
            kind: EvalErrorKind::Other,
        })
    }

    /// Turns the engine's error into one without values: only the project's own text is quoted.
    fn failed(&self, name: &str, error: &minijinja::Error) -> EvalError {
        // An include wraps what went wrong within it.
        let mut error = error;
        while let Some(inner) =
            std::error::Error::source(error).and_then(|inner| inner.downcast_ref::<minijinja::Error>())
        {
            error = inner;
        }
        let (kind, why) = explain(error);
        let place = error.name().unwrap_or(name);
        let range = error.range();
        let template = self.0.get_template(place).ok();
        let text = range.clone().and_then(|range| template.as_ref()?.source().get(range));
        let subject = match text {
            Some(text) if kind != EvalErrorKind::Limit => text.trim(),
            _ => place,
        };
        let within = if place == name { String::new() } else { format!(" (in `{place}`)") };
        EvalError {
            message: format!("`{subject}` {why}{within}"),
            // A place in another file would point at the wrong text.
            range: range.filter(|_| place == name),
            kind,
        }
    }
}

/// Takes text up to a limit.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
