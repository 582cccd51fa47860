//! What is to come of a turn, as written.

use super::Values;
use crate::diagnostic::{Diagnostic, Span, Spanned};
use crate::spec::grammar;
use crate::spec::reader::Reader;
use crate::spec::text::Text;
use crate::spec::tree::{Node, Tree};

/// What is to come of a turn.
#[derive(Debug, Clone)]
pub struct ExpectSpec {
    /// Where it stands.
    pub span: Span,
    /// The nodes that start.
    pub path: Option<PathSpec>,
    /// What channels hold.
    pub state: Values,
    /// What the run gives.
    pub output: Values,
    /// What is said.
    pub reply: Option<ReplySpec>,
    /// The nodes that ask when the run waits.
    pub paused_at: Option<Vec<Spanned<String>>>,
    /// What is asked.
    pub ask: Option<ReplySpec>,
    /// How nodes call their model.
    pub calls: Vec<(Spanned<String>, CallSpec)>,
    /// How many attempts nodes take.
    pub attempts: Vec<(Spanned<String>, Spanned<u64>)>,
    /// The error that the run ends with.
    pub error: Option<FailureSpec>,
    /// Events in this order.
    pub events: Vec<Spanned<String>>,
    /// What nodes send to their model.
    pub prompt: Vec<(Spanned<String>, PromptSpec)>,
}

/// The nodes that start.
#[derive(Debug, Clone)]
pub enum PathSpec {
    /// All of them, by superstep.
    Exact(Span, Vec<Vec<Spanned<String>>>),
    /// Some of them in this order, and those that do not.
    Part {
        /// In this order, others between them.
        contains: Vec<Spanned<String>>,
        /// Not at all.
        never: Vec<Spanned<String>>,
    },
}

/// What a reply is like.
#[derive(Debug, Clone, Default)]
pub struct ReplySpec {
    /// The whole text.
    pub equals: Option<Text>,
    /// Texts in it.
    pub contains: Vec<Text>,
    /// A regular expression.
    pub matches: Option<Text>,
    /// The most words.
    pub max_words: Option<Spanned<u64>>,
}

/// How a node calls its model.
#[derive(Debug, Clone, Default)]
pub struct CallSpec {
    /// How often.
    pub times: Option<Spanned<u64>>,
    /// With which parameters.
    pub with: Values,
}

/// The error that a run ends with.
#[derive(Debug, Clone, Default)]
pub struct FailureSpec {
    /// Kind or code.
    pub any: Option<Text>,
    /// Its kind.
    pub kind: Option<Text>,
    /// Its code.
    pub code: Option<Text>,
    /// Texts in its message.
    pub message: Vec<Text>,
}

/// What a node sends to its model.
#[derive(Debug, Clone, Default)]
pub struct PromptSpec {
    /// Texts in it.
    pub contains: Vec<Text>,
    /// A file that holds all of it.
    pub snapshot: Option<Spanned<SnapshotSpec>>,
}

/// Which file holds a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotSpec {
    /// One named after the case.
    OfCase,
    /// This one.
    Named(String),
}

impl ExpectSpec {
    /// Returns what is expected where nothing is written.
    pub(super) fn default_at(span: Span) -> Self {
        Self {
            span,
            path: None,
            state: Vec::new(),
            output: Vec::new(),
            reply: None,
            paused_at: None,
            ask: None,
            calls: Vec::new(),
            attempts: Vec::new(),
            error: None,
            events: Vec::new(),
            prompt: Vec::new(),
        }
    }
}

impl Reader<'_> {
    pub(super) fn expect(&mut self, node: &Node, span: Span) -> ExpectSpec {
        let mut expect = ExpectSpec::default_at(span);
        let Some(mut fields) = self.fields(node, &grammar::EXPECT, "`expect`") else { return expect };
        expect.path = fields.take("path").and_then(|node| self.path(node));
        expect.state = fields.take("state").map(|node| self.values(node, "channels")).unwrap_or_default();
        expect.output = fields.take("output").map(|node| self.values(node, "outputs")).unwrap_or_default();
        expect.reply = fields.take("reply").and_then(|node| self.reply(node));
        expect.ask = fields.take("ask").and_then(|node| self.reply(node));
        expect.paused_at = fields.take("paused_at").map(|node| {
            let items =
                if let Tree::Seq(items) = &node.tree { items.as_slice() } else { std::slice::from_ref(node) };
            items.iter().filter_map(|item| self.name(item, "the name of a node")).collect()
        });
        for (name, value) in fields.take("calls").map(|n| self.names(n, "nodes")).unwrap_or_default() {
            if let Some(call) = self.call(value) {
                expect.calls.push((name, call));
            }
        }
        for (name, value) in fields.take("attempts").map(|n| self.names(n, "nodes")).unwrap_or_default() {
            if let Some(count) = self.count(value, 1) {
                expect.attempts.push((name, count));
            }
        }
        expect.error = fields.take("error").and_then(|node| self.failure(node));
        if let Some(events) = fields.take("events") {
            let names = self.list(events, "names of events").iter();
            expect.events = names.filter_map(|item| self.name(item, "the name of an event")).collect();
        }
        for (name, value) in fields.take("prompt").map(|n| self.names(n, "nodes")).unwrap_or_default() {
            if let Some(prompt) = self.asked(value) {
                expect.prompt.push((name, prompt));
            }
        }
        fields.finish(self, |_| None);
        expect
    }

    fn path(&mut self, node: &Node) -> Option<PathSpec> {
        if matches!(node.tree, Tree::Map(_)) {
            let mut fields = self.fields(node, &grammar::WAY, "a path in part")?;
            let part = PathSpec::Part {
                contains: fields.take("contains_in_order").map(|n| self.nodes_of(n)).unwrap_or_default(),
                never: fields.take("never").map(|n| self.nodes_of(n)).unwrap_or_default(),
            };
            self.one_at_least(node, fields.len(), "contains_in_order: [a, b]");
            fields.finish(self, |_| None);
            return Some(part);
        }
        let mut steps = Vec::new();
        for item in self.list(node, "nodes") {
            steps.push(match &item.tree {
                Tree::Seq(_) => self
                    .filled(item, "nodes")
                    .iter()
                    .map(|node| self.name(node, "the name of a node"))
                    .collect::<Option<_>>()?,
                _ => vec![self.name(item, "the name of a node")?],
            });
        }
        matches!(node.tree, Tree::Seq(_)).then_some(PathSpec::Exact(node.span, steps))
    }

    fn nodes_of(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let items = self.list(node, "nodes");
        items.iter().filter_map(|item| self.name(item, "the name of a node")).collect()
    }

    fn reply(&mut self, node: &Node) -> Option<ReplySpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            let equals = self.text(node, "a text, or a map like `{contains: …}`")?;
            return Some(ReplySpec { equals: Some(equals), ..ReplySpec::default() });
        }
        let mut fields = self.fields(node, &grammar::SAID, "a reply")?;
        let reply = ReplySpec {
            equals: fields.take("equals").and_then(|node| self.text(node, "a text")),
            contains: fields.take("contains").map(|node| self.texts(node)).unwrap_or_default(),
            matches: fields.take("matches").and_then(|node| self.text(node, "a regular expression")),
            max_words: fields.take("max_words").and_then(|node| self.count(node, 1)),
        };
        self.one_at_least(node, fields.len(), "contains: refunded");
        fields.finish(self, |_| None);
        Some(reply)
    }

    fn call(&mut self, node: &Node) -> Option<CallSpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            let times = Some(self.count(node, 0)?);
            return Some(CallSpec { times, ..CallSpec::default() });
        }
        let mut fields = self.fields(node, &grammar::CALL, "calls")?;
        let call = CallSpec {
            times: fields.take("times").and_then(|node| self.count(node, 0)),
            with: fields.take("with").map(|node| self.values(node, "parameters")).unwrap_or_default(),
        };
        self.one_at_least(node, fields.len(), "times: 1");
        fields.finish(self, |_| None);
        Some(call)
    }

    fn failure(&mut self, node: &Node) -> Option<FailureSpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            let any = Some(self.text(node, "the kind or the code of an error")?);
            return Some(FailureSpec { any, ..FailureSpec::default() });
        }
        let mut fields = self.fields(node, &grammar::FAILURE, "an error")?;
        let error = FailureSpec {
            any: None,
            kind: fields.take("kind").and_then(|node| self.text(node, "a kind of error")),
            code: fields.take("code").and_then(|node| self.text(node, "a code")),
            message: fields.take("message").map(|node| self.texts(node)).unwrap_or_default(),
        };
        self.one_at_least(node, fields.len(), "kind: timeout");
        fields.finish(self, |_| None);
        Some(error)
    }

    fn asked(&mut self, node: &Node) -> Option<PromptSpec> {
        let mut fields = self.fields(node, &grammar::PROMPT, "a prompt")?;
        let prompt = PromptSpec {
            contains: fields.take("contains").map(|node| self.texts(node)).unwrap_or_default(),
            snapshot: fields.take("snapshot").and_then(|node| self.snapshot(node)),
        };
        self.one_at_least(node, fields.len(), "contains: refunded");
        fields.finish(self, |_| None);
        Some(prompt)
    }

    fn snapshot(&mut self, node: &Node) -> Option<Spanned<SnapshotSpec>> {
        if let Tree::Bool(wanted) = node.tree {
            return wanted.then_some(Spanned { value: SnapshotSpec::OfCase, span: node.span });
        }
        let name = self.text(node, "`true`, or the name of a file")?;
        let fits = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if name.value.split('/').all(fits) {
            return Some(Spanned { value: SnapshotSpec::Named(name.value), span: name.span });
        }
        let message = format!("`{}` cannot be the name of a file", name.value);
        let finding = Diagnostic::error("G106", message, name.span, "letters, digits, `_`, `-`, `.` and `/`");
        self.bag.report(finding.help("write a name like `refund/answer`, or `true`"));
        None
    }

    /// Reads one text or a list of them.
    fn texts(&mut self, node: &Node) -> Vec<Text> {
        let items =
            if let Tree::Seq(items) = &node.tree { items.as_slice() } else { std::slice::from_ref(node) };
        items.iter().filter_map(|item| self.text(item, "a text")).collect()
    }

    fn one_at_least(&mut self, node: &Node, keys: usize, example: &str) {
        if keys == 0 {
            let finding = Diagnostic::error("G104", "nothing is expected here", node.span, "an empty map");
            self.bag.report(finding.help(format!("write  {{{example}}}")));
        }
    }
}
