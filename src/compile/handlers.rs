//! Where errors go: the rules of `on_error` as written become edges, and which nodes may read `error`.
//!
//! A node may read it when every way from the start comes to it by an error: then there is always one. The graph's
//! rules cover each node that a way reaches without them, but for those that its handlers are or lead to: so they never
//! lead round in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::edges::Edges;
use crate::diagnostic::{Bag, Diagnostic, Spanned, suggest};
use crate::plan::{Catch, Pattern};
use crate::spec::grammar::Named;
use crate::spec::{CatchSpec, ErrorSpec, Graph, NodeSpec, OnErrorSpec};

/// Checks the kind of an error; false when there is no such kind.
pub(super) fn check_kind(kind: &Spanned<String>, bag: &mut Bag) -> bool {
    let name = kind.value.as_str();
    let status =
        name.strip_prefix("http_").is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()));
    let kinds = Named::ErrorKind.words().iter().map(|word| word.name);
    if status || kinds.clone().any(|kind| kind == name) {
        return true;
    }
    bag.report(match name {
        "limit" => {
            let message = "a limit is not caught by kind";
            let finding =
                Diagnostic::error("M513", message, kind.span, "ends the run, or goes to `on_limit`");
            finding.help("write  on_limit: <node>  at the top of the graph")
        }
        "cancelled" => Diagnostic::error(
            "M513",
            "a cancelled run cannot be caught",
            kind.span,
            "ends the run in any case",
        ),
        _ => {
            let message = format!("unknown error kind `{name}`");
            let finding = Diagnostic::error("M513", message, kind.span, "no error has this kind");
            finding.help(meant_kind(name, kinds))
        }
    });
    false
}

/// Says what a kind was meant to be, or which there are: all of them.
fn meant_kind(name: &str, kinds: impl Iterator<Item = &'static str> + Clone) -> String {
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    if name.to_ascii_lowercase().starts_with("http") && digits.len() == 3 {
        return format!("did you mean `http_{digits}`?");
    }
    if let Some(near) = suggest(name, kinds.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<String> = kinds.chain(["http_NNN"]).map(|kind| format!("`{kind}`")).collect();
    format!("there are: {}", all.join(", "))
}

/// Says whether every error of one pattern is one of another, too.
fn is_within(inner: &ErrorSpec, outer: &ErrorSpec) -> bool {
    match (inner, outer) {
        (_, ErrorSpec::Kind(outer)) if outer.value == "any" => true,
        (ErrorSpec::Code(inner), ErrorSpec::Code(outer)) => inner.value == outer.value,
        (ErrorSpec::Kind(inner), ErrorSpec::Kind(outer)) => {
            match (inner.value.as_str(), outer.value.as_str()) {
                (inner, outer) if inner == outer => true,
                ("http_5xx", "server_error") | ("http_429", "rate_limit") | ("http_408", "timeout") => true,
                ("http_4xx" | "http_5xx", _) => false,
                (inner, "http_4xx") => inner.starts_with("http_4"),
                (inner, "http_5xx" | "server_error") => inner.starts_with("http_5"),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Which nodes of a graph errors lead to, by the names that are written.
pub(super) struct Handlers<'a> {
    graph: &'a Graph,
    specs: BTreeMap<&'a str, &'a NodeSpec>,
    /// The nodes that a way without an error leads to.
    plain: BTreeSet<&'a str>,
    /// The nodes whose errors go to the graph's rules.
    covered: BTreeSet<&'a str>,
}

impl<'a> Handlers<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let specs = graph.nodes.iter().filter_map(|(name, spec)| Some((name.value.as_str(), spec.as_ref()?)));
        let mut handlers =
            Self { graph, specs: specs.collect(), plain: BTreeSet::new(), covered: BTreeSet::new() };
        let start = || graph.start.iter().flat_map(|start| start.targets()).map(|name| name.value.as_str());
        let limit = graph.on_limit.iter().map(|name| name.value.as_str());
        handlers.plain = handlers.reach(start(), false);
        handlers.covered = handlers.reach(start().chain(limit), true);
        let own =
            graph.on_error.iter().flat_map(|on_error| &on_error.rules).map(|rule| rule.to.value.as_str());
        let own = handlers.reach(own, true);
        handlers.covered.retain(|name| !own.contains(name));
        handlers
    }

    /// Returns the nodes that some lead to by their edges, with or without their own error edges.
    fn reach(&self, from: impl Iterator<Item = &'a str>, errors: bool) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&str> = from.collect();
        while let Some(name) = todo.pop() {
            let Some(&spec) = self.specs.get(name) else { continue };
            if !seen.insert(name) {
                continue;
            }
            let next = spec.next.iter().flat_map(|next| next.targets());
            todo.extend(next.chain(&spec.on_max).chain(spec.on_timeout()).map(|name| name.value.as_str()));
            let own = spec.on_error.iter().flat_map(|on_error| &on_error.rules);
            todo.extend(own.filter(|_| errors).map(|rule| rule.to.value.as_str()));
        }
        seen
    }

    /// Says whether every way to a node comes by an error.
    pub(super) fn handles(&self, node: &str) -> bool {
        !self.plain.contains(node)
    }

    /// Says whether the graph's rules are for the errors of a node that its own rules do not catch.
    fn falls_through(&self, node: &str, spec: &NodeSpec) -> bool {
        let own = spec.on_error.iter().flat_map(|on_error| &on_error.rules);
        self.covered.contains(node) && !own.into_iter().any(catches_all)
    }

    /// Returns the rules that the errors of a node meet, in order.
    pub(super) fn rules(&self, node: &str, spec: &'a NodeSpec) -> Vec<&'a CatchSpec> {
        let graph = self.graph.on_error.as_ref().filter(|_| self.falls_through(node, spec));
        spec.on_error.iter().chain(graph).flat_map(|on_error| &on_error.rules).collect()
    }

    /// Returns the edges of a node's errors. `own` and `graph` are those of its own rules and of the graph's.
    pub(super) fn edges(&self, node: &str, spec: &NodeSpec, own: Vec<Catch>, graph: &[Catch]) -> Vec<Catch> {
        let more = if self.falls_through(node, spec) { graph } else { &[] };
        own.into_iter().chain(more.iter().cloned()).collect()
    }
}

/// Says whether nothing is left for the rules after this one.
fn catches_all(rule: &CatchSpec) -> bool {
    let any = |error: &ErrorSpec| matches!(error, ErrorSpec::Kind(kind) if kind.value == "any");
    rule.errors.as_ref().is_none_or(|errors| errors.iter().any(any))
}

/// Resolves rules; `node` is the one that they belong to, if it is not the graph.
pub(super) fn resolve(
    spec: &OnErrorSpec,
    node: Option<&Spanned<String>>,
    edges: &Edges<'_>,
    bag: &mut Bag,
) -> Option<Vec<Catch>> {
    let mut catches = Vec::new();
    let mut fine = true;
    for (n, rule) in spec.rules.iter().enumerate() {
        let to = edges.target(&rule.to, bag);
        let errors = rule.errors.iter().flatten();
        let kinds: Vec<bool> = errors
            .map(|error| match error {
                ErrorSpec::Kind(kind) => check_kind(kind, bag),
                ErrorSpec::Code(_) => true,
            })
            .collect();
        fine &= to.is_some() && kinds.iter().all(|&fine| fine);
        if fine {
            fine &= check_reached(rule, &spec.rules[..n], bag);
        }
        if let Some(node) = node.filter(|node| node.value == rule.to.value) {
            let message = format!("the errors of `{}` lead to itself", node.value);
            let finding = Diagnostic::error("G217", message, rule.to.span, "fails again for the same reason");
            bag.report(finding.help("`retry: <policy>` makes another attempt; name another node here"));
            fine = false;
        }
        let pattern = |error: &ErrorSpec| match error {
            ErrorSpec::Kind(name) => Pattern::Kind(name.value.clone()),
            ErrorSpec::Code(name) => Pattern::Code(name.value.clone()),
        };
        if let Some(to) = to {
            let errors = rule.errors.as_ref().map(|errors| errors.iter().map(pattern).collect());
            catches.push(Catch { errors, to });
        }
    }
    fine.then_some(catches)
}

/// Reports a rule of which earlier ones catch everything; false when it is one.
fn check_reached(rule: &CatchSpec, before: &[CatchSpec], bag: &mut Bag) -> bool {
    let all = before.iter().find(|rule| catches_all(rule));
    let (span, first) = match (all, &rule.errors) {
        (Some(all), _) => (rule.span, all.span),
        (None, None) => return true,
        (None, Some(errors)) => {
            let earlier = || before.iter().flat_map(|rule| rule.errors.iter().flatten());
            let caught =
                |error: &ErrorSpec| earlier().find(|outer| is_within(error, outer)).map(ErrorSpec::span);
            match errors.iter().map(caught).collect::<Option<Vec<_>>>() {
                Some(spans) => match (errors.first(), spans.first()) {
                    (Some(error), Some(first)) => (error.span(), *first),
                    _ => return true,
                },
                None => return true,
            }
        }
    };
    let finding = Diagnostic::error("M513", "a rule that catches nothing", span, "never reached");
    bag.report(finding.related(first, "caught here already").help("move it up, or remove it"));
    false
}
