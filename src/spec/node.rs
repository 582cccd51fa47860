//! Nodes as written.

use std::time::Duration;

use super::call::{AskSpec, CustomSpec, GraphNodeSpec, HttpSpec, MapSpec, ToolNodeSpec};
use super::fields::Fields;
use super::grammar::{CACHE, KINDS, Kind, Map, NODE};
use super::graph::TimeoutSpec;
use super::keys::{elsewhere, meant};
use super::llm::{IntoSpec, LlmSpec};
use super::next::NextSpec;
use super::on_error::OnErrorSpec;
use super::reader::Reader;
use super::text::{ExprSpec, Text};
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, Spanned, did_you_mean, suggest};

/// The longest time that a result is kept, far from what clocks can count to.
const LONGEST_TTL: Duration = Duration::from_hours(3650 * 24);

/// A node.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its kind, with the place of the word.
    pub kind: Spanned<&'static str>,
    /// What only its kind has.
    pub body: KindSpec,
    /// What comes next.
    pub next: Option<NextSpec>,
    /// The place of the word `next`.
    pub next_key: Option<Span>,
    /// Where an error goes.
    pub on_error: Option<OnErrorSpec>,
    /// The name of a retry policy.
    pub retry: Option<Spanned<String>>,
    /// How long it may take.
    pub timeout: TimeoutSpec,
    /// `none`, `idempotent` or `at_most_once`.
    pub effects: Option<Spanned<&'static str>>,
    /// How long its result is kept.
    pub cache: Option<CacheSpec>,
    /// Where its result goes.
    pub into: Option<IntoSpec>,
    /// Events over `result`, by name.
    pub emit: Vec<(Spanned<String>, ExprSpec)>,
    /// The most visits in a run.
    pub max_visits: Option<Spanned<u64>>,
    /// Where to go instead of one visit more.
    pub on_max: Option<Spanned<String>>,
    /// `all` or `each`.
    pub join: Option<Spanned<&'static str>>,
    /// For people.
    pub description: Option<String>,
    /// Codes that are silenced in this node.
    pub allow: Vec<String>,
    /// The whole node.
    pub extent: Span,
    /// A part of it cannot be read: what is missing may be what is wrong.
    pub partial: bool,
}

/// `cache:` as written.
#[derive(Debug, Clone)]
pub struct CacheSpec {
    /// The place of the word.
    pub at: Span,
    /// How long a result is kept; absent where that cannot be read.
    pub ttl: Option<Duration>,
    /// By what it is found again.
    pub key: Option<ExprSpec>,
}

/// What only one kind has.
#[derive(Debug, Clone)]
pub enum KindSpec {
    /// Calls a chat model.
    Llm(Box<LlmSpec>),
    /// Calls a tool.
    Tool(ToolNodeSpec),
    /// Sends a request.
    Http(Box<HttpSpec>),
    /// Asks a person.
    Ask(Box<AskSpec>),
    /// The same for each item of a list.
    Map(Box<MapSpec>),
    /// Runs another graph.
    Graph(GraphNodeSpec),
    /// What a host program has registered.
    Custom(CustomSpec),
    /// A reply, emitted whole.
    Say {
        /// The text.
        text: Option<Text>,
    },
    /// An update of the state.
    Set {
        /// What is written.
        set: Vec<(Spanned<String>, ExprSpec)>,
        /// What is reset before.
        clear: Vec<Spanned<String>>,
    },
    /// Only `next`.
    Route,
    /// The end of the run, with an error.
    Fail {
        /// The message.
        error: Option<Text>,
        /// The code.
        code: Option<String>,
    },
}

/// Says whether an entry of `nodes` is what a node has, and not one.
fn is_outdented(name: &str, body: &Node) -> bool {
    let has_kind = match &body.tree {
        Tree::Map(entries) => entries.iter().any(|(key, _)| key.as_str() == Some("kind")),
        _ => false,
    };
    let of_a_node = NODE.key(name).is_some() || KINDS.iter().any(|kind| kind.map.key(name).is_some());
    of_a_node && !has_kind
}

impl NodeSpec {
    /// Returns where it goes when a question has no answer in time.
    pub fn on_timeout(&self) -> Option<&Spanned<String>> {
        match &self.body {
            KindSpec::Ask(ask) => ask.on_timeout.as_ref(),
            _ => None,
        }
    }
}

impl Reader<'_> {
    /// Reads `nodes`; the name of a node is kept also when its body cannot be read.
    pub(super) fn nodes(&mut self, node: &Node) -> Vec<(Spanned<String>, Option<NodeSpec>)> {
        if let Tree::Map(entries) = &node.tree
            && let Some((kind, _)) = entries
                .iter()
                .find(|(key, value)| key.as_str() == Some("kind") && !matches!(value.tree, Tree::Map(_)))
        {
            let finding = Diagnostic::error("G105", "a node without a name", kind.span, "belongs to a node");
            self.bag
                .report(finding.help("write the name of the node above it, and indent what belongs to it"));
            return Vec::new();
        }
        let entries = self.names(node, "nodes");
        if matches!(&node.tree, Tree::Map(entries) if entries.is_empty()) {
            self.wrong(node, "at least one node");
        }
        let mut nodes: Vec<(Spanned<String>, Option<NodeSpec>)> = Vec::new();
        let mut entries = entries.into_iter().peekable();
        while let Some((name, body)) = entries.next() {
            if let Some((above, spec)) = nodes.last_mut()
                && is_outdented(&name.value, body)
            {
                let message = format!("`{}` stands among the nodes", name.value);
                let finding = Diagnostic::error("G105", message, name.span, "a key of a node");
                let finding = finding.related(above.span, "of this one?");
                self.bag.report(finding.help(format!("indent it, so that it belongs to `{}`", above.value)));
                if let Some(spec) = spec {
                    spec.partial = true;
                }
                continue;
            }
            let fits = self.identifier(&name, "a node");
            // What it lacks may stand below it, at its own indent.
            let whole = entries.peek().is_none_or(|(name, body)| !is_outdented(&name.value, body));
            let mut spec = self.node(&name, body, whole);
            if let Some(spec) = &mut spec {
                spec.partial |= !fits;
            }
            nodes.push((name, spec));
        }
        nodes
    }

    fn node(&mut self, name: &Spanned<String>, node: &Node, whole: bool) -> Option<NodeSpec> {
        let errors = self.bag.errors_in(name.span.file);
        let mut fields = self.fields(node, &NODE, format!("node `{}`", name.value))?;
        let (kind, map) = self.kind(&mut fields, &KINDS, &format!("node `{}`", name.value), name.span)?;
        fields.becomes(map);
        let body = self.kind_body(kind.value, &mut fields, name.span);
        let into = match map.key("into") {
            Some(_) => fields.take("into").and_then(|node| self.into(node)),
            None => None,
        };
        let (retry, timeout, effects) = match &body {
            KindSpec::Ask(_) => (None, TimeoutSpec::default(), None),
            body => self.tried(&mut fields, body),
        };
        let (next_key, next) = match fields.take_entry("next") {
            Some((span, node)) => (Some(span), self.next(node)),
            None => (None, None),
        };
        if next_key.is_none() && whole && kind.value != "fail" && !fields.is_odd() {
            let finding = Diagnostic::error(
                "G202",
                format!("node `{}` has no `next`", name.value),
                name.span,
                "flow stops here",
            );
            self.bag.report(finding.help("write  next: end  or the node that comes next"));
        }
        let mut spec = NodeSpec {
            partial: false,
            body,
            next,
            next_key,
            on_error: fields.take("on_error").and_then(|node| self.on_error(node)),
            retry,
            timeout,
            effects,
            cache: self.cache(&mut fields),
            into,
            emit: fields.take("emit").map(|node| self.events(node)).unwrap_or_default(),
            max_visits: fields.take("max_visits").and_then(|node| self.count(node, 1)),
            on_max: fields.take("on_max").and_then(|node| self.name(node, "the name of a node")),
            join: fields.take("join").and_then(|node| self.word(node, &["all", "each"])),
            description: fields
                .take("description")
                .and_then(|node| self.text(node, "a text"))
                .map(|t| t.value),
            allow: self.allow(fields.take("allow")),
            extent: Span { start: name.span.start, ..node.extent() },
            kind: kind.clone(),
        };
        fields.finish(self, elsewhere);
        spec.partial = self.bag.errors_in(name.span.file) > errors;
        Some(spec)
    }

    /// Reads the kind; with it come the keys of the node, or of the body of a `map`.
    pub(super) fn kind(
        &mut self,
        fields: &mut Fields<'_>,
        kinds: &'static [Kind],
        what: &str,
        at: Span,
    ) -> Option<(Spanned<&'static str>, &'static Map)> {
        let names = || kinds.iter().map(|kind| kind.name);
        let Some(node) = fields.take("kind") else {
            let meant = |key: &str| meant(key) == Some("kind") || suggest(key, ["kind"]).is_some();
            match fields.other(meant) {
                Some((key, span)) => {
                    let label = format!("not a key of {what}");
                    let finding = Diagnostic::error("G102", format!("unknown key `{key}`"), span, label);
                    self.bag.report(finding.help("did you mean `kind`?"));
                }
                None => {
                    let message = format!("{what} needs `kind`");
                    let finding = Diagnostic::error("G104", message, at, "`kind` is missing");
                    let names = names().collect::<Vec<_>>().join(", ");
                    self.bag.report(finding.help(format!("write  kind: llm    (kinds: {names})")));
                }
            }
            return None;
        };
        let name = self.name(node, "a kind")?;
        if let Some(kind) = kinds.iter().find(|kind| kind.name == name.value) {
            return Some((Spanned { value: kind.name, span: name.span }, kind.map));
        }
        let finding = if KINDS.iter().any(|kind| kind.name == name.value) {
            let message = format!("kind `{}` cannot be the body of a `map`", name.value);
            let finding = Diagnostic::error("G215", message, name.span, "not for one item");
            finding.help("put these steps into a graph of their own, and write  kind: graph")
        } else {
            Diagnostic::error(
                "G103",
                format!("unknown kind `{}`", name.value),
                name.span,
                "there is no such kind",
            )
            .help_maybe(did_you_mean(&name.value, names().collect::<Vec<_>>()))
        };
        self.bag.report(finding);
        None
    }

    /// Reads what only a kind has.
    pub(super) fn kind_body(&mut self, kind: &str, fields: &mut Fields<'_>, at: Span) -> KindSpec {
        match kind {
            "llm" => KindSpec::Llm(Box::new(self.llm(fields, at))),
            "tool" => KindSpec::Tool(self.tool_node(fields, at)),
            "http" => KindSpec::Http(Box::new(self.http(fields, at))),
            "ask" => KindSpec::Ask(Box::new(self.ask(fields, at))),
            "map" => KindSpec::Map(Box::new(self.map(fields, at))),
            "graph" => KindSpec::Graph(self.graph_node(fields, at)),
            "custom" => KindSpec::Custom(self.custom(fields, at)),
            "say" => {
                let text = fields.require(self, "text", "text: \"Hello\"", at);
                KindSpec::Say { text: text.and_then(|node| self.text(node, "a text")) }
            }
            "set" => self.set(fields, at),
            "fail" => {
                let error = fields.require(self, "error", "error: \"Nobody can answer this\"", at);
                let error = error.and_then(|node| self.text(node, "a text"));
                let code = fields.take("code").and_then(|node| self.name(node, "a code"));
                KindSpec::Fail { error, code: code.map(|code| code.value) }
            }
            _ => KindSpec::Route,
        }
    }

    /// Reads how a node, or the body of a `map`, is tried.
    pub(super) fn tried(
        &mut self,
        fields: &mut Fields<'_>,
        body: &KindSpec,
    ) -> (Option<Spanned<String>>, TimeoutSpec, Option<Spanned<&'static str>>) {
        let retry = fields.take("retry").and_then(|node| self.name(node, "the name of a retry policy"));
        let timeout = fields.take("timeout").map(|node| self.timeout(node)).unwrap_or_default();
        if let Some((at, key)) = timeout.parts
            && !matches!(body, KindSpec::Llm(_) | KindSpec::Http(_))
        {
            let message = format!("`{key}` is for what comes in parts");
            let label = "only `llm` and `http` are waited for part by part";
            let finding = Diagnostic::error("G102", message, at, label);
            self.bag.report(finding.help("write  timeout: 30s  for all of an attempt"));
        }
        (retry, timeout, fields.take("effects").and_then(|node| self.effects(node)))
    }

    /// Reads `cache`.
    pub(super) fn cache(&mut self, fields: &mut Fields<'_>) -> Option<CacheSpec> {
        let (at, node) = fields.take_entry("cache")?;
        let mut fields = self.fields(node, &CACHE, "`cache`")?;
        let ttl = fields.require(self, "ttl", "ttl: 1h", at);
        let ttl = ttl.and_then(|node| {
            let ttl = self.time(node)?;
            if ttl > LONGEST_TTL {
                let finding = Diagnostic::error(
                    "M511",
                    "results are not kept for so long",
                    node.span,
                    "more than ten years",
                );
                self.bag.report(finding.help("write at most `3650d`"));
                return None;
            }
            Some(ttl)
        });
        let cache = CacheSpec { at, ttl, key: fields.take("key").and_then(|node| self.expr(node)) };
        fields.finish(self, elsewhere);
        Some(cache)
    }

    /// Reads `effects`.
    pub(super) fn effects(&mut self, node: &Node) -> Option<Spanned<&'static str>> {
        self.word(node, &["none", "idempotent", "at_most_once"])
    }

    /// Reads `into`.
    fn into(&mut self, node: &Node) -> Option<IntoSpec> {
        match node.tree {
            Tree::Map(_) => Some(IntoSpec::Map(self.expressions(node))),
            _ => self.name(node, "the name of a channel").map(IntoSpec::Channel),
        }
    }

    /// Reads `emit`.
    fn events(&mut self, node: &Node) -> Vec<(Spanned<String>, ExprSpec)> {
        let mut events = self.expressions(node);
        events.retain(|(name, _)| self.identifier(name, "an event"));
        events
    }

    fn set(&mut self, fields: &mut Fields<'_>, at: Span) -> KindSpec {
        let set = fields.take("set").map(|node| self.expressions(node));
        let clear = fields.take("clear").map(|node| {
            let items = self.list(node, "channels");
            items.iter().filter_map(|item| self.name(item, "the name of a channel")).collect::<Vec<_>>()
        });
        if set.is_none() && clear.is_none() && !fields.is_odd() {
            let finding =
                Diagnostic::error("G104", "a `set` node needs `set` or `clear`", at, "it sets nothing");
            self.bag.report(finding.help("write  set: {done: true}"));
        }
        KindSpec::Set { set: set.unwrap_or_default(), clear: clear.unwrap_or_default() }
    }
}
