//! Nodes of kind `llm`, and the parameters of a model call.

use serde_json::{Map, Value as Json};

use super::fields::Fields;
use super::grammar;
use super::reader::Reader;
use super::text::{ExprSpec, Text};
use super::tree::{Node, Tree};
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// A node of kind `llm`.
#[derive(Debug, Clone)]
pub struct LlmSpec {
    /// The name of a prompt file.
    pub prompt: Option<Spanned<String>>,
    /// The prompt itself.
    pub text: Option<Text>,
    /// Inputs of the prompt file.
    pub with: Vec<(Spanned<String>, ExprSpec)>,
    /// The model.
    pub model: Option<Spanned<String>>,
    /// Parameters of the call.
    pub params: ParamsSpec,
    /// How much of the conversation is sent.
    pub history: Option<HistorySpec>,
    /// The type of the answer, with the place of the word.
    pub output: Option<(Span, TypeSpec)>,
    /// The tools that the model may call.
    pub tools: Vec<Spanned<String>>,
    /// How often it may ask for them.
    pub max_tool_rounds: Option<Spanned<u64>>,
    /// `answer` or `fail`.
    pub on_tool_error: Option<Spanned<&'static str>>,
    /// It is said to the user, with the place of the word.
    pub reply: Option<Spanned<bool>>,
    /// `tokens`, `final` or `none`.
    pub stream: Option<Spanned<&'static str>>,
}

/// `history:` as written.
#[derive(Debug, Clone, Copy)]
pub enum HistorySpec {
    /// So many turns.
    Last(u64),
    /// About so many tokens.
    Tokens(u64),
}

/// `into:` as written.
#[derive(Debug, Clone)]
pub enum IntoSpec {
    /// A channel.
    Channel(Spanned<String>),
    /// Expressions over `result`, by channel.
    Map(Vec<(Spanned<String>, ExprSpec)>),
}

/// Parameters of a model call as written.
#[derive(Debug, Clone, Default)]
pub struct ParamsSpec {
    /// 0 to 2.
    pub temperature: Option<Spanned<f64>>,
    /// 0 to 1.
    pub top_p: Option<Spanned<f64>>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u64>,
    /// For the same answer to the same request.
    pub seed: Option<Spanned<i64>>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// As the provider names it.
    pub reasoning_effort: Option<Spanned<String>>,
    /// Further keys of the request.
    pub extra: Map<String, Json>,
}

impl Reader<'_> {
    /// Reads the keys of an `llm` node.
    pub(super) fn llm(&mut self, fields: &mut Fields<'_>, at: Span) -> LlmSpec {
        let prompt = fields.take("prompt");
        let prompt_given = prompt.is_some();
        let prompt = prompt.and_then(|node| self.name(node, "the name of a prompt file"));
        let text = fields.take_entry("text");
        match (prompt_given, &text) {
            (true, Some((span, _))) => {
                let finding =
                    Diagnostic::error("G102", "`prompt` and `text` exclude each other", *span, "two prompts");
                self.bag.report(finding.help("keep one of them"));
            }
            (false, None) if !fields.is_odd() => {
                let finding = Diagnostic::error(
                    "G104",
                    "an `llm` node needs `prompt` or `text`",
                    at,
                    "it asks nothing",
                );
                self.bag.report(finding.help("write  prompt: chat/answer  for prompts/chat/answer.md"));
            }
            _ => {}
        }
        LlmSpec {
            prompt,
            text: text.and_then(|(_, node)| self.text(node, "a text")),
            with: fields.take("with").map(|node| self.expressions(node)).unwrap_or_default(),
            model: fields.take("model").and_then(|node| self.name(node, "the name of a model")),
            params: self.params(fields),
            history: fields.take("history").and_then(|node| self.history(node)),
            output: fields.take_entry("output").and_then(|(at, node)| Some((at, self.ty(node, false)?))),
            tools: fields.take("tools").map(|node| self.tool_names(node)).unwrap_or_default(),
            max_tool_rounds: fields.take("max_tool_rounds").and_then(|node| self.count(node, 1)),
            on_tool_error: fields.take("on_tool_error").and_then(|node| self.word(node, &["answer", "fail"])),
            reply: fields
                .take_entry("reply")
                .and_then(|(span, node)| self.boolean(node).map(|value| Spanned { value, span })),
            stream: fields.take("stream").and_then(|node| self.word(node, &["tokens", "final", "none"])),
        }
    }

    /// Reads the names of tools; a name that is there twice is told.
    fn tool_names(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let mut names: Vec<Spanned<String>> = Vec::new();
        for item in self.filled(node, "tools") {
            let Some(name) = self.name(item, "the name of a tool") else { continue };
            if let Some(first) = names.iter().find(|known| known.value == name.value) {
                let message = format!("tool `{}` is there twice", name.value);
                let finding = Diagnostic::error("G105", message, name.span, "the second one");
                self.bag.report(finding.related(first.span, "the first one").help("remove one of them"));
                continue;
            }
            names.push(name);
        }
        names
    }

    fn history(&mut self, node: &Node) -> Option<HistorySpec> {
        let mut fields = self.fields(node, &grammar::HISTORY, "`history`")?;
        let (last, tokens) = (fields.take("last"), fields.take("tokens"));
        let given = usize::from(last.is_some()) + usize::from(tokens.is_some());
        let last = last.and_then(|node| self.count(node, 1));
        let tokens = tokens.and_then(|node| self.count(node, 1));
        fields.finish(self, |_| None);
        match (last, tokens) {
            (Some(last), None) => Some(HistorySpec::Last(last.value)),
            (None, Some(tokens)) => Some(HistorySpec::Tokens(tokens.value)),
            (Some(_), Some(tokens)) => {
                let message = "`last` and `tokens` exclude each other";
                let finding = Diagnostic::error("G105", message, tokens.span, "a second measure");
                self.bag.report(finding.help("keep one of them"));
                None
            }
            (None, None) => {
                if given == 0 {
                    let finding = Diagnostic::error(
                        "G104",
                        "`history` needs `last` or `tokens`",
                        node.span,
                        "no measure",
                    );
                    self.bag.report(finding.help("write  history: {last: 20}"));
                }
                None
            }
        }
    }

    /// Reads the parameters of a model call.
    pub(super) fn params(&mut self, fields: &mut Fields<'_>) -> ParamsSpec {
        let stop = fields.take("stop").map(|node| {
            let items =
                if let Tree::Seq(items) = &node.tree { items.as_slice() } else { std::slice::from_ref(node) };
            items.iter().filter_map(|item| self.text(item, "a text")).map(|text| text.value).collect()
        });
        let extra = fields.take("extra").map(|node| {
            if let Json::Object(extra) = node.to_json() {
                return extra;
            }
            self.wrong(node, "a map");
            Map::new()
        });
        ParamsSpec {
            temperature: fields.take("temperature").and_then(|node| self.range(node, 0.0, 2.0)),
            top_p: fields.take("top_p").and_then(|node| self.range(node, 0.0, 1.0)),
            max_tokens: fields.take("max_tokens").and_then(|node| self.count(node, 1)).map(|n| n.value),
            seed: fields.take("seed").and_then(|node| {
                if let Tree::Int(n) = node.tree {
                    return Some(Spanned { value: n, span: node.span });
                }
                self.wrong(node, "a whole number");
                None
            }),
            stop: stop.unwrap_or_default(),
            reasoning_effort: fields
                .take("reasoning_effort")
                .and_then(|node| self.words(node, "a word such as `low`"))
                .map(|text| Spanned { value: text.value, span: text.span }),
            extra: extra.unwrap_or_default(),
        }
    }

    fn range(&mut self, node: &Node, least: f64, most: f64) -> Option<Spanned<f64>> {
        let number = self.number(node)?;
        if (least..=most).contains(&number.value) {
            return Some(number);
        }
        let message = format!("{} is outside {least} to {most}", number.value);
        let finding = Diagnostic::error("M502", message, node.span, "out of range");
        self.bag.report(finding.help(format!("write a number from {least} to {most}")));
        None
    }
}
