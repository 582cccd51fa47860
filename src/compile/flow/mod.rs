//! What depends on the ways through a graph: which values are there when they are read, and what runs together.
//!
//! Invariant: runs on graphs whose edges and writes are without another error, so that one mistake is told once.

mod access;
mod assigned;
mod beside;
mod cached;
mod cfg;
mod first;
mod trust;
mod usage;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::handlers::Handlers;
use super::heads::Head;
use super::names::{BY_FLOW, Names};
use super::nodes::{Gives, Shared};
use super::prompts::Prompts;
use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::expr::{Facts, Fault, infer};
use crate::spec::{Graph, Text};
use crate::state::Channels;
use access::{Access, Due, Site, access, output};
use assigned::{Known, known};
use beside::{Beside, beside};
use cfg::{Cfg, START};
use first::Hit;

/// A graph with what its nodes read and write.
pub(super) struct Flow<'a> {
    pub(super) graph: &'a Graph,
    pub(super) names: Names,
    pub(super) channels: &'a Channels,
    pub(super) messages: Option<&'a str>,
    pub(super) prompts: &'a Prompts,
    shared: &'a Shared<'a>,
    cfg: Cfg<'a>,
    /// By vertex, from 1.
    accesses: Vec<Access<'a>>,
    /// The channels that may be unset where they are read.
    unset: RefCell<BTreeSet<String>>,
}

impl<'a> Flow<'a> {
    /// Takes a graph all of whose nodes are fine, and what comes of them. `names` are those of all nodes together.
    pub(super) fn new(
        head: &'a Head<'a>,
        handlers: &Handlers<'a>,
        names: Names,
        prompts: &'a Prompts,
        shared: &'a Shared<'a>,
        gives: &[&Gives],
    ) -> Self {
        let graph = head.graph;
        let specs = graph.nodes.iter().filter_map(|(_, spec)| spec.as_ref());
        let accesses = specs
            .zip(gives)
            .map(|(spec, gives)| access(spec, gives, head, &names, prompts, shared))
            .collect();
        Self {
            graph,
            names,
            channels: &head.channels,
            messages: head.messages.as_deref(),
            prompts,
            shared,
            cfg: Cfg::new(graph, handlers),
            accesses,
            unset: RefCell::default(),
        }
    }

    /// Reports what the ways through the graph make wrong; of one that is not `whole` only what the work of its nodes does
    /// not change.
    pub(super) fn check(&self, whole: bool, bag: &mut Bag) {
        let beside = if self.cfg.fans.is_empty() { Beside::default() } else { beside(&self.cfg) };
        let knots = beside.deadlocks.iter().flat_map(|&(a, b)| [a, b]).collect();
        self.check_together(&beside, bag);
        if whole {
            self.check_trust(bag);
            self.check_keys(bag);
        }
        if let Some(known) =
            known(&self.cfg, &self.accesses, &self.names, self.channels, &beside.twice, &knots)
        {
            self.check_reads(&known, bag);
        }
        let unused = !whole || self.check_usage(bag);
        if !unused {
            self.check_overwritten(bag);
        }
    }

    fn check_reads(&self, known: &Known, bag: &mut Bag) {
        let names = &self.names;
        let mut hits = Vec::new();
        for vertex in self.cfg.nodes() {
            let Some(facts) = known.before(vertex) else { continue };
            let access = &self.accesses[vertex - 1];
            for site in &access.sites {
                self.check_site(site, vertex, names, facts, known, &mut hits, bag);
            }
            if !access.items.is_empty() {
                let inner = access.with_locals(names.clone());
                for site in &access.items {
                    self.check_site(site, vertex, &inner, facts, known, &mut hits, bag);
                }
            }
            if !access.results.is_empty() {
                // The result; what `into` reads besides is what the node saw.
                let inner = names.clone().with("result", access.result.clone());
                for site in &access.results {
                    self.check_site(site, vertex, &inner, facts, known, &mut hits, bag);
                }
            }
        }
        for condition in &self.cfg.conditions {
            let Some(after) = known.after(condition.from) else { continue };
            let facts = after.clone().and(&condition.facts);
            self.check_site(
                &Site::Expr(condition.text, None),
                condition.from,
                names,
                &facts,
                known,
                &mut hits,
                bag,
            );
        }
        if let Some(facts) = known.before(self.cfg.end) {
            for site in output(self.graph) {
                self.check_site(&site, self.cfg.end, names, facts, known, &mut hits, bag);
            }
        }
        self.report_firsts(hits, known, bag);
    }

    #[expect(clippy::too_many_arguments, reason = "what is around the place")]
    fn check_site(
        &self,
        site: &Site<'_>,
        vertex: usize,
        names: &Names,
        facts: &Facts,
        known: &Known,
        hits: &mut Vec<Hit>,
        bag: &mut Bag,
    ) {
        let (read, due) = match site {
            Site::Expr(text, due) => (Cow::Borrowed(*text), due),
            Site::Read(path, span, due) => (Cow::Owned(Text::at(path, *span)), due),
            Site::Template(text, _) => {
                let found = self.prompts.find_types(&text.value, &names.roots, facts, "S402");
                for (part, fault) in found.faults {
                    // What a partial reads is told at its own place.
                    let span = self.prompts.place(part.as_deref(), fault.error.range.clone(), text, 0);
                    let told = part.is_some();
                    self.report(fault, span, told, vertex, names, known, hits, bag);
                }
                return;
            }
        };
        let (typed, faults) = infer(&read.value, &names.roots, facts);
        let found = !faults.is_empty();
        for fault in faults {
            let span = read.locate(fault.error.range.clone());
            self.report(fault, span, false, vertex, names, known, hits, bag);
        }
        let Some(due) = due.as_ref().filter(|_| typed.may_be_null() && !found) else { return };
        let path = match site {
            Site::Read(path, ..) => Some(path.clone()),
            _ => typed.path.clone(),
        };
        let finding = null(read.span, path.as_deref(), &typed.to_string(), due, names);
        match path.filter(|path| Hit::is_of_graph(path)) {
            Some(path) => hits.push(Hit { vertex, path, finding }),
            None => bag.report(finding),
        }
    }

    /// Reports what depends on the way that leads to a vertex.
    #[expect(clippy::too_many_arguments, reason = "what is around the place")]
    fn report(
        &self,
        fault: Fault,
        span: Span,
        within: bool,
        vertex: usize,
        names: &Names,
        known: &Known,
        hits: &mut Vec<Hit>,
        bag: &mut Bag,
    ) {
        if !BY_FLOW.contains(&fault.error.code) {
            return;
        }
        // An item of a list has no way on which somebody writes it.
        let Some(path) = fault.about.clone().filter(|path| Hit::is_of_graph(path)) else {
            bag.report(names.fault(fault, span));
            return;
        };
        let finding = if fault.error.code == "S404" && !within {
            self.unset.borrow_mut().insert(path.clone());
            let label = match self.cfg.name(vertex) {
                Some(_) if vertex == self.cfg.end => "read at the end of the run".to_owned(),
                Some(_) if vertex == START => "read before the first node".to_owned(),
                name => format!("read in node `{}`", name.unwrap_or_default()),
            };
            let mut finding = Diagnostic::error("S404", fault.error.message, span, label);
            if let Some(at) = names.declared(&path) {
                finding = finding.related(at, format!("`{path}` has no start value"));
            }
            finding =
                finding.note(format!("path without a write: {}", self.way_without(&path, vertex, known)));
            finding.help_maybe(fault.error.help)
        } else {
            names.fault(fault, span)
        };
        hits.push(Hit { vertex, path, finding });
    }

    /// Spells a shortest way on which nobody writes.
    fn way_without(&self, path: &str, to: usize, known: &Known) -> String {
        let cfg = &self.cfg;
        let mut from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut todo = VecDeque::from([START]);
        while let Some(at) = todo.pop_front() {
            if at == to && at != START {
                break;
            }
            for edge in cfg.out[at].iter().map(|&edge| &cfg.edges[edge]) {
                let without = known.along(edge).is_some_and(|facts| !facts.is_defined(path));
                if without && edge.to != START && !from.contains_key(&edge.to) {
                    from.insert(edge.to, at);
                    todo.push_back(edge.to);
                }
            }
        }
        let mut way = vec![to];
        while let Some(&before) = from.get(&way[way.len() - 1]) {
            way.push(before);
            if before == START || way.len() > from.len() {
                break;
            }
        }
        way.reverse();
        // A value that was there once and was cleared is not told from one that never was.
        let cut = way.first() != Some(&START);
        let mut names: Vec<&str> = way.into_iter().filter_map(|vertex| cfg.name(vertex)).collect();
        if names.len() > 12 {
            names.splice(6..names.len() - 5, ["…"]);
        }
        if cut {
            names.insert(0, "start -> …");
        }
        names.join(" -> ")
    }
}

/// Tells of null where a value is due.
fn null(span: Span, path: Option<&str>, found: &str, due: &Due, names: &Names) -> Diagnostic {
    let subject = path.map_or_else(|| "the value".to_owned(), |path| format!("`{path}`"));
    let message = format!("{subject} may be null, {} is {}", due.what, due.ty);
    let finding = Diagnostic::error("S412", message, span, format!("this is {found}"));
    let finding = match path.and_then(|path| names.declared(path)) {
        Some(at) if at != span => finding.related(at, "may be null"),
        _ => finding,
    };
    let value = path.unwrap_or("x");
    finding.help(format!(
        "give a value for null:  {value} | default(…)  or come here only by a rule  {value} is not none"
    ))
}
