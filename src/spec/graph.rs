//! A graph file as written.

use std::time::Duration;

use super::fields::Fields;
use super::grammar;
use super::migrate::MigrateSpec;
use super::next::NextSpec;
use super::node::NodeSpec;
use super::on_error::OnErrorSpec;
use super::reader::Reader;
use super::text::ExprSpec;
use super::tree::{Node, Tree};
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, FileId, Span, Spanned};

/// A graph.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Its id: the stem of its file.
    pub id: String,
    /// Its file.
    pub file: FileId,
    /// The first byte of the file, for what is missing.
    pub top: Span,
    /// The whole tree, for the version hash.
    pub tree: Node,
    /// For people.
    pub description: Option<String>,
    /// The inputs of a run.
    pub input: Vec<(Spanned<String>, TypeSpec)>,
    /// What a run gives.
    pub output: Option<OutputSpec>,
    /// The channels of the state.
    pub state: Vec<(Spanned<String>, TypeSpec)>,
    /// Where a run begins.
    pub start: Option<NextSpec>,
    /// The nodes. A node whose body cannot be read is there by its name.
    pub nodes: Vec<(Spanned<String>, Option<NodeSpec>)>,
    /// Where the errors of its nodes go.
    pub on_error: Option<OnErrorSpec>,
    /// Where a run goes when a limit is used up.
    pub on_limit: Option<Spanned<String>>,
    /// What stops a run.
    pub limits: LimitsSpec,
    /// `sync`, `async` or `exit`.
    pub durability: Option<Spanned<&'static str>>,
    /// Settings of all nodes.
    pub defaults: DefaultsSpec,
    /// How states of older versions are brought to this one.
    pub migrate: Vec<MigrateSpec>,
    /// Codes that are silenced in this file.
    pub allow: Vec<String>,
    /// Names of inputs and channels that are there but cannot be read; [`ANY`] for all that is not declared.
    pub broken: Vec<String>,
    /// There are nodes that cannot be read.
    pub broken_nodes: bool,
}

/// `output:` as written.
#[derive(Debug, Clone)]
pub enum OutputSpec {
    /// Names of channels.
    Channels(Vec<Spanned<String>>),
    /// Expressions by name.
    Map(Vec<(Spanned<String>, ExprSpec)>),
}

/// `limits:` as written.
#[derive(Debug, Clone, Default)]
pub struct LimitsSpec {
    /// Supersteps.
    pub steps: Option<Spanned<u64>>,
    /// Time.
    pub time: Option<Duration>,
    /// Calls of models.
    pub calls: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
    /// US dollars, with the place of the number.
    pub cost_usd: Option<Spanned<f64>>,
    /// Tasks at once.
    pub parallel: Option<u64>,
}

impl LimitsSpec {
    /// Takes those of another where these say nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            steps: self.steps.clone().or_else(|| other.steps.clone()),
            time: self.time.or(other.time),
            calls: self.calls.or(other.calls),
            tokens: self.tokens.or(other.tokens),
            cost_usd: self.cost_usd.clone().or_else(|| other.cost_usd.clone()),
            parallel: self.parallel.or(other.parallel),
        }
    }
}

/// `defaults:` as written.
#[derive(Debug, Clone, Default)]
pub struct DefaultsSpec {
    /// The model of nodes that name none.
    pub model: Option<Spanned<String>>,
    /// The retry policy of nodes that name none.
    pub retry: Option<Spanned<String>>,
    /// The timeouts of nodes that name none.
    pub timeout: TimeoutSpec,
}

/// `timeout:` as written; a plain duration is the total.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeoutSpec {
    /// Where the time in all is written.
    pub span: Option<Span>,
    /// The first of its keys that is for answers in parts.
    pub parts: Option<(Span, &'static str)>,
    /// Until the first event of an answer.
    pub first: Option<Duration>,
    /// Between two events.
    pub idle: Option<Duration>,
    /// In all.
    pub total: Option<Duration>,
}

/// Stands among broken names for all names that are not declared.
pub const ANY: &str = "*";

/// Says whether a map holds names, and nothing else.
fn has_names(node: &Node) -> bool {
    match &node.tree {
        Tree::Map(entries) => {
            let nameless =
                |(key, value): &(Node, Node)| key.as_str() == Some("kind") && value.as_str().is_some();
            let name = |key: &Node| key.as_str().is_some_and(|name| !name.contains(' '));
            !entries.is_empty() && entries.iter().all(|(key, _)| name(key)) && !entries.iter().any(nameless)
        }
        _ => false,
    }
}

impl Reader<'_> {
    /// Reads the number of the language's format.
    pub(super) fn format(&mut self, fields: &mut Fields<'_>, top: Span) {
        let Some(node) = fields.take("format") else {
            if fields.is_odd() {
                return;
            }
            let finding = Diagnostic::error("G101", "`format` is missing", top, "this build understands 1");
            self.bag.report(finding.help("write  format: 1  as the first line"));
            return;
        };
        if node.tree != Tree::Int(1) {
            let finding =
                Diagnostic::error("G101", "an unknown format", node.span, "this build understands 1");
            self.bag.report(finding.help("write  format: 1"));
        }
    }

    /// Reads a graph file.
    pub(super) fn graph(&mut self, id: &str, file: FileId, tree: &Node) -> Option<Graph> {
        let top = Span { file, start: 0, end: 0 };
        let mut fields = self.fields(tree, &grammar::GRAPH, "a graph")?;
        self.format(&mut fields, top);
        let description = fields.take("description").and_then(|node| self.text(node, "a text"));
        let mut broken = Vec::new();
        let mut broken_nodes = false;
        if fields.is_odd() {
            // What nobody declares may stand under the odd key.
            let lacks = |part: &str| fields.place(part).is_none();
            if lacks("state") || lacks("input") {
                broken.push(ANY.to_owned());
            }
            broken_nodes = lacks("nodes");
        }
        let input = fields.take("input").map(|node| self.typed(node, "an input", false, &mut broken));
        let state = fields.take("state").map(|node| self.typed(node, "a channel", true, &mut broken));
        let output = fields.take("output").and_then(|node| self.output(node));
        let start = fields.require(self, "start", "start: answer", top).and_then(|node| self.next(node));
        let nodes =
            fields.require(self, "nodes", "nodes: {answer: {kind: say, text: Hello, next: end}}", top);
        broken_nodes |= nodes.is_none_or(|node| !has_names(node));
        let nodes = nodes.map(|node| self.nodes(node)).unwrap_or_default();
        let on_error = fields.take("on_error").map(|node| self.on_error(node));
        let on_limit = fields.take("on_limit").map(|node| self.name(node, "the name of a node"));
        // A node whose name is missing is in no list.
        let nameless =
            |f: &Diagnostic| (f.code, f.label.span.file) == ("Y002", file) && f.message.starts_with("`kind`");
        broken_nodes |= self.bag.findings().iter().any(nameless);
        // Nodes that only these lead to would look lost.
        broken_nodes |= matches!(on_error, Some(None)) || matches!(on_limit, Some(None));
        let limits = fields.take("limits").map(|node| self.limits(node)).unwrap_or_default();
        let durability =
            fields.take("durability").and_then(|node| self.word(node, &["sync", "async", "exit"]));
        let defaults = fields.take("defaults").map(|node| self.defaults(node)).unwrap_or_default();
        let migrate = fields.take("migrate").map(|node| self.migrate(node)).unwrap_or_default();
        let allow = self.allow(fields.take("allow"));
        fields.finish(self, |_| None);
        let description = description.map(|text| text.value);
        Some(Graph {
            id: id.to_owned(),
            file,
            top,
            description,
            input: input.unwrap_or_default(),
            output,
            state: state.unwrap_or_default(),
            start,
            nodes,
            on_error: on_error.flatten(),
            on_limit: on_limit.flatten(),
            limits,
            durability,
            defaults,
            migrate,
            allow,
            broken,
            broken_nodes,
            tree: tree.clone(),
        })
    }

    /// Reads a map of names and types; those that cannot be read leave their name in `broken`.
    pub(super) fn typed(
        &mut self,
        node: &Node,
        what: &str,
        channel: bool,
        broken: &mut Vec<String>,
    ) -> Vec<(Spanned<String>, TypeSpec)> {
        let mut typed = Vec::new();
        let empty = matches!(&node.tree, Tree::Map(entries) if entries.is_empty());
        if !has_names(node) && !empty {
            broken.push(ANY.to_owned());
        }
        for (name, value) in self.names(node, "names and types") {
            let fits = if what == "a type" { self.type_name(&name) } else { self.identifier(&name, what) };
            match self.ty(value, channel) {
                Some(ty) if fits => typed.push((name, ty)),
                _ => Self::broken(name.value, broken),
            }
        }
        typed
    }

    fn output(&mut self, node: &Node) -> Option<OutputSpec> {
        match &node.tree {
            Tree::Seq(items) => {
                let names =
                    items.iter().filter_map(|item| self.name(item, "the name of a channel")).collect();
                Some(OutputSpec::Channels(names))
            }
            Tree::Map(_) => Some(OutputSpec::Map(self.expressions(node))),
            _ => {
                self.wrong(node, "a list of channels, or a map of names and expressions");
                None
            }
        }
    }

    /// Reads a map of names and expressions.
    pub(super) fn expressions(&mut self, node: &Node) -> Vec<(Spanned<String>, ExprSpec)> {
        self.names(node, "names and expressions")
            .into_iter()
            .filter_map(|(name, value)| self.expr(value).map(|expr| (name, expr)))
            .collect()
    }

    /// Reads `limits`.
    pub(super) fn limits(&mut self, node: &Node) -> LimitsSpec {
        let Some(mut fields) = self.fields(node, &grammar::LIMITS, "the limits") else {
            return LimitsSpec::default();
        };
        let limits = LimitsSpec {
            steps: fields.take("steps").and_then(|node| self.count(node, 1)),
            time: fields.take("time").and_then(|node| self.time(node)),
            calls: fields.take("calls").and_then(|node| self.count(node, 1)).map(|n| n.value),
            tokens: fields.take("tokens").and_then(|node| self.count(node, 1)).map(|n| n.value),
            cost_usd: fields.take("cost_usd").and_then(|node| self.amount(node)),
            parallel: fields.take("parallel").and_then(|node| self.count(node, 1)).map(|n| n.value),
        };
        fields.finish(self, |_| None);
        limits
    }

    fn defaults(&mut self, node: &Node) -> DefaultsSpec {
        let Some(mut fields) = self.fields(node, &grammar::DEFAULTS, "the defaults") else {
            return DefaultsSpec::default();
        };
        let defaults = DefaultsSpec {
            model: fields.take("model").and_then(|node| self.name(node, "the name of a model")),
            retry: fields.take("retry").and_then(|node| self.name(node, "the name of a retry policy")),
            timeout: fields.take("timeout").map(|node| self.timeout(node)).unwrap_or_default(),
        };
        fields.finish(self, |_| None);
        defaults
    }

    /// Reads `timeout`.
    pub(super) fn timeout(&mut self, node: &Node) -> TimeoutSpec {
        if !matches!(node.tree, Tree::Map(_)) {
            return TimeoutSpec { total: self.time(node), span: Some(node.span), ..TimeoutSpec::default() };
        }
        let Some(mut fields) = self.fields(node, &grammar::TIMEOUT, "a timeout") else {
            return TimeoutSpec::default();
        };
        let timeout = TimeoutSpec {
            span: fields.place("total"),
            parts: ["first", "idle"].into_iter().find_map(|key| Some((fields.place(key)?, key))),
            first: fields.take("first").and_then(|node| self.time(node)),
            idle: fields.take("idle").and_then(|node| self.time(node)),
            total: fields.take("total").and_then(|node| self.time(node)),
        };
        fields.finish(self, |_| None);
        timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Bag;

    #[test]
    fn each_limit_that_a_graph_does_not_have_is_the_projects() {
        let span = Span { file: Bag::default().add_source("a.yaml", ""), start: 0, end: 0 };
        let all = |n: u64| LimitsSpec {
            steps: Some(Spanned { value: n, span }),
            time: Some(Duration::from_secs(n)),
            calls: Some(n),
            tokens: Some(n),
            cost_usd: Some(Spanned { value: n as f64, span }),
            parallel: Some(n),
        };
        let told = |limits: LimitsSpec| format!("{limits:?}");
        assert_eq!(told(LimitsSpec::default().or(&all(1))), told(all(1)));
        assert_eq!(told(all(2).or(&all(1))), told(all(2)));
        let own = LimitsSpec { calls: Some(2), ..LimitsSpec::default() };
        assert_eq!(told(own.or(&all(1))), told(LimitsSpec { calls: Some(2), ..all(1) }));
    }
}
