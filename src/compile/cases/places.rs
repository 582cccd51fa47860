//! Where in a test file something stands that is read as a whole, and where its graph declares what it is held against.

use std::cell::Cell;

use crate::diagnostic::{Diagnostic, Span};
use crate::spec::{Graph, KindSpec, Node, Tree};
use crate::state::Mismatch;

/// A test file and the graph that it tests.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) tree: &'a Node,
    pub(super) graph: &'a Graph,
    /// How often something was looked for.
    pub(super) looks: &'a Cell<usize>,
}

/// How often something is looked for in a file: nobody reads more findings.
const LOOKS: usize = 200;

impl<'a> Places<'a> {
    /// Returns the value that stands at a place.
    fn value(self, at: Span) -> Option<&'a Node> {
        if self.looks.replace(self.looks.get() + 1) >= LOOKS {
            return None;
        }
        let mut todo = vec![self.tree];
        while let Some(node) = todo.pop() {
            if node.span == at {
                return Some(node);
            }
            match &node.tree {
                Tree::Seq(items) => todo.extend(items),
                Tree::Map(entries) => todo.extend(entries.iter().map(|(_, value)| value)),
                _ => {}
            }
        }
        None
    }

    /// Returns the place of a key of the value at a place.
    pub(super) fn key(self, at: Span, name: &str) -> Option<Span> {
        entry(self.value(at)?, name).map(|(key, _)| key.span)
    }

    /// Returns the place of a part of the value at a place, and of its part that does not fit.
    pub(super) fn misfit(self, at: Span, part: &str, wrong: &Mismatch) -> Option<Span> {
        let mut node = self.value(at)?;
        if !part.is_empty() {
            node = &entry(node, part)?.1;
        }
        Some(place(node, wrong))
    }

    /// Returns the place of the name of a tool in a scripted answer, and of its arguments that do not fit.
    pub(super) fn call(self, at: Span, tool: &str, wrong: Option<&Mismatch>) -> Option<Span> {
        let Tree::Seq(calls) = &entry(self.value(at)?, "calls")?.1.tree else { return None };
        let named = calls.iter().filter_map(|call| entry(call, tool));
        let mut found = named.map(|(key, args)| (key.span, wrong.map(|wrong| place(args, wrong))));
        found.next().map(|(key, args)| args.unwrap_or(key))
    }

    /// Shows where a node is.
    pub(super) fn of_node(self, finding: Diagnostic, name: &str, label: &str) -> Diagnostic {
        let found = self.graph.nodes.iter().find(|(node, _)| node.value == name);
        show(finding, found.map(|(node, _)| node.span), label)
    }

    /// Shows where the type of a node's answer is.
    pub(super) fn of_output(self, finding: Diagnostic, name: &str) -> Diagnostic {
        let found = self.graph.nodes.iter().find(|(node, _)| node.value == name);
        let at = match found.and_then(|(_, spec)| Some(&spec.as_ref()?.body)) {
            Some(KindSpec::Llm(llm)) => llm.output.as_ref().map(|(at, _)| *at),
            _ => None,
        };
        show(finding, at, "declared here")
    }

    /// Shows where a channel is declared.
    pub(super) fn of_channel(self, finding: Diagnostic, name: &str) -> Diagnostic {
        let found = self.graph.state.iter().find(|(channel, _)| channel.value == name);
        show(finding, found.map(|(channel, _)| channel.span), "declared here")
    }

    /// Shows where an input is declared.
    pub(super) fn of_input(self, finding: Diagnostic, name: &str) -> Diagnostic {
        let found = self.graph.input.iter().find(|(input, _)| input.value == name);
        show(finding, found.map(|(input, _)| input.span), "declared here")
    }
}

fn show(finding: Diagnostic, at: Option<Span>, label: &str) -> Diagnostic {
    match at {
        Some(at) => finding.related(at, label),
        None => finding,
    }
}

fn entry<'n>(node: &'n Node, name: &str) -> Option<&'n (Node, Node)> {
    match &node.tree {
        Tree::Map(entries) => entries.iter().find(|(key, _)| key.as_str() == Some(name)),
        _ => None,
    }
}

/// Returns the place of what does not fit: a part of the value, or the name of a field that is none.
fn place(node: &Node, wrong: &Mismatch) -> Span {
    let mut node = node;
    for part in wrong.pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        let inner = match &node.tree {
            Tree::Seq(items) => name.parse().ok().and_then(|at: usize| items.get(at)),
            _ => entry(node, &name).map(|(_, value)| value),
        };
        let Some(inner) = inner else { break };
        node = inner;
    }
    let odd = wrong.why.strip_prefix("there is no field `").and_then(|rest| rest.strip_suffix('`'));
    odd.and_then(|name| entry(node, name)).map_or(node.span, |(key, _)| key.span)
}
