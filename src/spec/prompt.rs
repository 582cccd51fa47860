//! Prompt files as written: front-matter and body.

use super::grammar;
use super::graph::ANY;
use super::llm::ParamsSpec;
use super::parse::parse;
use super::reader::Reader;
use super::text::Text;
use super::tree::Node;
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, FileId, Span, Spanned};

/// A prompt file.
#[derive(Debug, Clone)]
pub struct PromptFile {
    /// The file.
    pub file: FileId,
    /// The front-matter as a tree.
    pub front: Option<Node>,
    /// For people.
    pub description: Option<String>,
    /// The only names visible in the body.
    pub inputs: Vec<(Spanned<String>, TypeSpec)>,
    /// Values for a preview, and for a first rendering at start-up.
    pub sample: Option<Node>,
    /// Parameters of calls with this prompt.
    pub params: ParamsSpec,
    /// The template, with its roles.
    pub body: Text,
    /// Codes that are silenced in this file.
    pub allow: Vec<String>,
    /// Names of inputs that are there but cannot be read.
    pub broken: Vec<String>,
}

impl Reader<'_> {
    /// Reads a prompt file; without front-matter it has no inputs.
    pub(super) fn prompt(&mut self, file: FileId) -> Option<PromptFile> {
        let source = self.bag.source(file).1.to_owned();
        // The mark is said by whoever read the file; it is no text.
        let begin = if source.starts_with('\u{feff}') { 3 } else { 0 };
        let mut prompt = PromptFile {
            file,
            front: None,
            description: None,
            inputs: Vec::new(),
            sample: None,
            params: ParamsSpec::default(),
            body: Text::verbatim(
                &source[begin..],
                Span { file, start: begin as u32, end: source.len() as u32 },
            ),
            allow: Vec::new(),
            broken: Vec::new(),
        };
        let first = source[begin..].lines().next().unwrap_or_default();
        if first.trim_end() != "---" {
            let keys = grammar::FRONT_MATTER.names().any(|key| first.starts_with(&format!("{key}:")));
            if keys && source.lines().any(|line| line.trim_end() == "---") {
                let span = Span { file, start: begin as u32, end: (begin + first.len()) as u32 };
                let message = "the front-matter has no beginning";
                let finding = Diagnostic::error("T306", message, span, "a key of the front-matter");
                self.bag.report(finding.help("write a line `---` above it"));
                return None;
            }
            return Some(prompt);
        }
        let start = source.find('\n').map_or(source.len(), |at| at + 1);
        let mut at = start;
        let close = source[start..].split_inclusive('\n').find_map(|line| {
            let begin = at;
            at += line.len();
            (line.trim_end() == "---").then_some((begin, at))
        });
        let Some((end, body)) = close else {
            let span = Span { file, start: begin as u32, end: begin as u32 + 3 };
            let finding = Diagnostic::error("T306", "the front-matter has no end", span, "it begins here");
            self.bag.report(finding.help("write a line `---` after it"));
            return None;
        };
        prompt.body =
            Text::verbatim(&source[body..], Span { file, start: body as u32, end: source.len() as u32 });
        if source[start..end].trim().is_empty() {
            return Some(prompt);
        }
        let node = parse(&source[start..end], file, start, self.bag)?;
        let mut fields = self.fields(&node, &grammar::FRONT_MATTER, "the front-matter")?;
        prompt.description = fields.take("description").and_then(|n| self.text(n, "a text")).map(|t| t.value);
        if fields.is_odd() && fields.place("inputs").is_none() {
            prompt.broken.push(ANY.to_owned());
        }
        if let Some(inputs) = fields.take("inputs") {
            prompt.inputs = self.typed(inputs, "an input", false, &mut prompt.broken);
        }
        prompt.sample = fields.take("sample").cloned();
        if let Some(model) = fields.take("model")
            && let Some(mut params) = self.fields(model, &grammar::MODEL_PARAMS, "the model's parameters")
        {
            prompt.params = self.params(&mut params);
            params.finish(self, |_| None);
        }
        prompt.allow = self.allow(fields.take("allow"));
        fields.finish(self, |_| None);
        prompt.front = Some(node);
        Some(prompt)
    }
}
