//! What depends on the ways through a graph: which values are there when they are read, and what runs together.
//!
//! Invariant: runs on graphs without another error, so that one mistake is told once.

mod access;
mod assigned;
mod beside;
mod cached;
mod cfg;
mod trust;
mod usage;

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

    /// Reports what the ways through the graph make wrong.
    pub(super) fn check(&self, bag: &mut Bag) {
        let beside = if self.cfg.fans.is_empty() { Beside::default() } else { beside(&self.cfg) };
        let knots = beside.deadlocks.iter().flat_map(|&(a, b)| [a, b]).collect();
        self.check_together(&beside, bag);
        self.check_trust(bag);
        self.check_keys(bag);
        if let Some(known) =
            known(&self.cfg, &self.accesses, &self.names, self.channels, &beside.twice, &knots)
        {
            self.check_reads(&known, bag);
        }
        let unused = self.check_usage(bag);
        if !unused {
            self.check_overwritten(bag);
        }
    }

    fn check_reads(&self, known: &Known, bag: &mut Bag) {
        let names = &self.names;
        for vertex in self.cfg.nodes() {
            let Some(facts) = known.before(vertex) else { continue };
            let access = &self.accesses[vertex - 1];
            for site in &access.sites {
                self.check_site(site, vertex, names, facts, known, bag);
            }
            if !access.items.is_empty() {
                let inner = access.with_locals(names.clone());
                for site in &access.items {
                    self.check_site(site, vertex, &inner, facts, known, bag);
                }
            }
            if !access.results.is_empty() {
                // The result; what `into` reads besides is what the node saw.
                let inner = names.clone().with("result", access.result.clone());
                for site in &access.results {
                    self.check_site(site, vertex, &inner, facts, known, bag);
                }
            }
        }
        for condition in &self.cfg.conditions {
            let Some(after) = known.after(condition.from) else { continue };
            let facts = after.clone().and(&condition.facts);
            self.check_site(&Site::Expr(condition.text, None), condition.from, names, &facts, known, bag);
        }
        if let Some(facts) = known.before(self.cfg.end) {
            for site in output(self.graph) {
                self.check_site(&site, self.cfg.end, names, facts, known, bag);
            }
        }
    }

    fn check_site(
        &self,
        site: &Site<'_>,
        vertex: usize,
        names: &Names,
        facts: &Facts,
        known: &Known,
        bag: &mut Bag,
    ) {
        match site {
            Site::Expr(text, due) => {
                let (typed, faults) = infer(&text.value, &names.roots, facts);
                let found = !faults.is_empty();
                self.report(faults, text, vertex, names, known, bag);
                if let Some(due) = due.as_ref().filter(|_| typed.may_be_null() && !found) {
                    report_null(text.span, typed.path.as_deref(), &typed.to_string(), due, names, bag);
                }
            }
            Site::Template(text, _) => {
                let found = self.prompts.find_types(&text.value, &names.roots, facts, "S402");
                // What a partial reads is told at its own place.
                let (own, parts): (Vec<_>, Vec<_>) =
                    found.faults.into_iter().partition(|(part, _)| part.is_none());
                self.report(
                    own.into_iter().map(|(_, fault)| fault).collect(),
                    text,
                    vertex,
                    names,
                    known,
                    bag,
                );
                let found = crate::template::Found { faults: parts, untrusted: Vec::new() };
                self.prompts.report_types(found, |code| BY_FLOW.contains(&code), text, 0, names, bag);
            }
            Site::Read(path, span, due) => {
                let (typed, faults) = infer(path, &names.roots, facts);
                let text = Text::at(path, *span);
                let found = !faults.is_empty();
                self.report(faults, &text, vertex, names, known, bag);
                if let Some(due) = due.as_ref().filter(|_| typed.may_be_null() && !found) {
                    report_null(*span, Some(path), &typed.to_string(), due, names, bag);
                }
            }
        }
    }

    /// Reports what depends on the way that leads to a vertex.
    fn report(
        &self,
        faults: Vec<Fault>,
        text: &Text,
        vertex: usize,
        names: &Names,
        known: &Known,
        bag: &mut Bag,
    ) {
        for mut fault in faults.into_iter().filter(|fault| BY_FLOW.contains(&fault.error.code)) {
            // An item of a list has no way on which somebody writes it.
            if fault.error.code != "S404" || fault.about.is_none() {
                names.faults(vec![fault], |_| true, |range| text.locate(range), bag);
                continue;
            }
            let path = fault.about.take().unwrap_or_default();
            self.unset.borrow_mut().insert(path.clone());
            let label = match self.cfg.name(vertex) {
                Some(_) if vertex == self.cfg.end => "read at the end of the run".to_owned(),
                Some(_) if vertex == START => "read before the first node".to_owned(),
                name => format!("read in node `{}`", name.unwrap_or_default()),
            };
            let span = text.locate(fault.error.range);
            let mut finding = Diagnostic::error("S404", fault.error.message, span, label);
            if let Some(at) = names.declared(&path) {
                finding = finding.related(at, format!("`{path}` has no start value"));
            }
            finding =
                finding.note(format!("path without a write: {}", self.way_without(&path, vertex, known)));
            bag.report(finding.help_maybe(fault.error.help));
        }
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

/// Reports null where a value is due.
fn report_null(span: Span, path: Option<&str>, found: &str, due: &Due, names: &Names, bag: &mut Bag) {
    let subject = path.map_or_else(|| "the value".to_owned(), |path| format!("`{path}`"));
    let message = format!("{subject} may be null, {} is {}", due.what, due.ty);
    let finding = Diagnostic::error("S412", message, span, format!("this is {found}"));
    let finding = match path.and_then(|path| names.declared(path)) {
        Some(at) if at != span => finding.related(at, "may be null"),
        _ => finding,
    };
    let value = path.unwrap_or("x");
    bag.report(finding.help(format!(
        "give a value for null:  {value} | default(…)  or come here only by a rule  {value} is not none"
    )));
}
