//! Nodes that call something, as written: tools, requests, people, other graphs.

use std::time::Duration;

use super::fields::Fields;
use super::grammar::{BODIES, DO};
use super::graph::TimeoutSpec;
use super::keys::elsewhere;
use super::node::{CacheSpec, KindSpec};
use super::reader::Reader;
use super::request::RequestSpec;
use super::text::{ExprSpec, Text};
use super::tree::Node;
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// A node of kind `tool`.
#[derive(Debug, Clone)]
pub struct ToolNodeSpec {
    /// The tool.
    pub tool: Option<Spanned<String>>,
    /// Its arguments.
    pub with: Vec<(Spanned<String>, ExprSpec)>,
}

/// A node of kind `http`.
#[derive(Debug, Clone)]
pub struct HttpSpec {
    /// What is sent.
    pub request: RequestSpec,
    /// The type of the response's body.
    pub response: Option<TypeSpec>,
}

/// A node of kind `ask`.
#[derive(Debug, Clone)]
pub struct AskSpec {
    /// What is asked.
    pub question: Option<Text>,
    /// `user` or `agent`.
    pub who: Option<Spanned<&'static str>>,
    /// The answers that there are, with the place of the word.
    pub options: Option<(Span, Vec<Spanned<String>>)>,
    /// The type of the answer, with the place of the word.
    pub schema: Option<(Span, TypeSpec)>,
    /// How long an answer is waited for, with the place of the word.
    pub timeout: Option<(Span, Duration)>,
    /// Where to go then.
    pub on_timeout: Option<Spanned<String>>,
    /// `answer`, `refuse` or `restart`.
    pub on_message: Option<Spanned<&'static str>>,
}

/// A node of kind `map`.
#[derive(Debug, Clone)]
pub struct MapSpec {
    /// The list.
    pub over: Option<ExprSpec>,
    /// The name of an item.
    pub name: Option<Spanned<String>>,
    /// What is done for an item.
    pub body: Option<BodySpec>,
    /// The most items at once.
    pub max_parallel: Option<u64>,
    /// `fail`, `skip` or `null`.
    pub on_item_error: Option<Spanned<&'static str>>,
}

/// What a `map` does for an item.
#[derive(Debug, Clone)]
pub struct BodySpec {
    /// Its kind, with the place of the word.
    pub kind: Spanned<&'static str>,
    /// What only its kind has.
    pub body: KindSpec,
    /// The name of a retry policy.
    pub retry: Option<Spanned<String>>,
    /// How long it may take.
    pub timeout: TimeoutSpec,
    /// `none`, `idempotent` or `at_most_once`.
    pub effects: Option<Spanned<&'static str>>,
    /// How long the result for an item is kept.
    pub cache: Option<CacheSpec>,
}

/// A node of kind `graph`.
#[derive(Debug, Clone)]
pub struct GraphNodeSpec {
    /// The graph.
    pub graph: Option<Spanned<String>>,
    /// Its inputs.
    pub with: Vec<(Spanned<String>, ExprSpec)>,
    /// `call` or `thread`.
    pub scope: Option<Spanned<&'static str>>,
}

/// A node of kind `custom`.
#[derive(Debug, Clone)]
pub struct CustomSpec {
    /// The name under which it is registered.
    pub name: Option<Spanned<String>>,
    /// Its arguments.
    pub with: Vec<(Spanned<String>, ExprSpec)>,
}

impl Reader<'_> {
    fn with(&mut self, fields: &mut Fields<'_>) -> Vec<(Spanned<String>, ExprSpec)> {
        fields.take("with").map(|node| self.expressions(node)).unwrap_or_default()
    }

    pub(super) fn tool_node(&mut self, fields: &mut Fields<'_>, at: Span) -> ToolNodeSpec {
        let tool = fields.require(self, "tool", "tool: search_kb", at);
        ToolNodeSpec {
            tool: tool.and_then(|node| self.name(node, "the name of a tool")),
            with: self.with(fields),
        }
    }

    pub(super) fn http(&mut self, fields: &mut Fields<'_>, at: Span) -> HttpSpec {
        HttpSpec {
            request: self.request(fields, at),
            response: fields.take("response").and_then(|node| self.ty(node, false)),
        }
    }

    pub(super) fn ask(&mut self, fields: &mut Fields<'_>, at: Span) -> AskSpec {
        let question = fields.require(self, "question", "question: \"Is that right?\"", at);
        let question = question.and_then(|node| self.text(node, "a text"));
        let options = fields.take_entry("options").map(|(span, node)| (span, self.options(node)));
        let schema = fields.take_entry("schema");
        if let (Some((first, _)), Some((second, _))) = (&options, schema) {
            let message = "`options` and `schema` exclude each other";
            let finding = Diagnostic::error("G105", message, second, "a second description of the answer");
            self.bag.report(finding.related(*first, "the first one").help("keep one of them"));
        }
        AskSpec {
            question,
            who: fields.take("who").and_then(|node| self.word(node, &["user", "agent"])),
            options,
            schema: schema.and_then(|(span, node)| Some((span, self.ty(node, false)?))),
            timeout: fields.take_entry("timeout").and_then(|(span, node)| Some((span, self.time(node)?))),
            on_timeout: fields.take("on_timeout").and_then(|node| self.name(node, "the name of a node")),
            on_message: fields
                .take("on_message")
                .and_then(|node| self.word(node, &["answer", "refuse", "restart"])),
        }
    }

    fn options(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let items = self.filled(node, "answers").iter();
        let texts = items.filter_map(|item| self.text(item, "a text"));
        let options: Vec<_> = texts.map(|text| Spanned { value: text.value, span: text.span }).collect();
        self.once(&options, "the answer");
        options
    }

    pub(super) fn map(&mut self, fields: &mut Fields<'_>, at: Span) -> MapSpec {
        let over = fields.require(self, "over", "over: state.questions", at);
        let over = over.and_then(|node| self.expr(node));
        let body = fields.require(self, "do", "do: {kind: tool, tool: search_kb, with: {query: item}}", at);
        MapSpec {
            over,
            name: fields.take("as").and_then(|node| self.name(node, "the name of an item")),
            body: body.and_then(|node| self.body(node)),
            max_parallel: fields.take("max_parallel").and_then(|node| self.count(node, 1)).map(|n| n.value),
            on_item_error: fields
                .take("on_item_error")
                .and_then(|node| self.word(node, &["fail", "skip", "null"])),
        }
    }

    /// Reads what a `map` does for an item.
    fn body(&mut self, node: &Node) -> Option<BodySpec> {
        let mut fields = self.fields(node, &DO, "the body of a `map`")?;
        for key in ["next", "into"] {
            if let Some(span) = fields.place(key) {
                let message = format!("the body of a `map` has no `{key}`");
                let (label, help) = match key {
                    "next" => (
                        "there is one step for an item",
                        "put several steps into a graph of their own, and write  kind: graph",
                    ),
                    _ => (
                        "what comes of an item belongs to the list",
                        "write `into` beside `over`: it takes the whole list",
                    ),
                };
                self.bag.report(Diagnostic::error("G215", message, span, label).help(help));
                return None;
            }
        }
        let (kind, map) = self.kind(&mut fields, &BODIES, "the body of a `map`", node.span)?;
        fields.becomes(map);
        let body = self.kind_body(kind.value, &mut fields, kind.span);
        if let KindSpec::Graph(GraphNodeSpec { scope: Some(scope), .. }) = &body
            && scope.value == "thread"
        {
            let message = "the items of a `map` keep nothing between runs";
            let label = "an item of the next run is not this one";
            let finding = Diagnostic::error("G215", message, scope.span, label);
            self.bag.report(finding.help("leave `scope` out, and give what has to last in `with`"));
        }
        let (retry, timeout, effects) = self.tried(&mut fields, &body);
        let cache = self.cache(&mut fields);
        fields.take("description").and_then(|node| self.text(node, "a text"));
        fields.finish(self, elsewhere);
        Some(BodySpec { kind, body, retry, timeout, effects, cache })
    }

    pub(super) fn graph_node(&mut self, fields: &mut Fields<'_>, at: Span) -> GraphNodeSpec {
        let graph = fields.require(self, "use", "use: legal    (for legal.yaml)", at);
        GraphNodeSpec {
            graph: graph.and_then(|node| self.name(node, "the name of a graph")),
            with: self.with(fields),
            scope: fields.take("scope").and_then(|node| self.word(node, &["call", "thread"])),
        }
    }

    pub(super) fn custom(&mut self, fields: &mut Fields<'_>, at: Span) -> CustomSpec {
        let name = fields.require(self, "use", "use: tickets::open", at);
        CustomSpec {
            name: name.and_then(|node| self.name(node, "a registered name")),
            with: self.with(fields),
        }
    }
}
