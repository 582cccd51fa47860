//! Of the reads of a value that may not be there, the first on each way is told: those that follow are the same mistake.

use std::collections::{BTreeMap, BTreeSet};

use super::Flow;
use super::assigned::Known;
use super::cfg::{START, Sort};
use crate::diagnostic::{Bag, Diagnostic};

/// A read of a value that may be unset, or null.
pub(super) struct Hit {
    pub(super) vertex: usize,
    pub(super) path: String,
    pub(super) finding: Diagnostic,
}

impl Hit {
    /// Says whether somebody writes what is read, so that it is known on some ways and not on others.
    pub(super) fn is_of_graph(path: &str) -> bool {
        path.starts_with("state.") || path.starts_with("input.")
    }
}

impl Flow<'_> {
    /// Reports the first reads, each with those that follow.
    pub(super) fn report_firsts(&self, hits: Vec<Hit>, known: &Known, bag: &mut Bag) {
        let mut values: BTreeMap<(String, &str), BTreeMap<usize, Diagnostic>> = BTreeMap::new();
        for Hit { vertex, path, finding } in hits {
            let vertices = values.entry((path, finding.code)).or_default();
            match vertices.get_mut(&vertex) {
                Some(first) => first.also(&finding),
                None => drop(vertices.insert(vertex, finding)),
            }
        }
        for ((path, code), mut vertices) in values {
            let before = self.read_before(&path, code == "S404", &vertices, known);
            let first = |vertex: usize| {
                let mut seen = BTreeSet::from([vertex]);
                let mut at = vertex;
                while let Some(&up) = before.get(&at).filter(|up| seen.insert(**up)) {
                    at = up;
                }
                at
            };
            for &vertex in before.keys() {
                let told = first(vertex);
                if !before.contains_key(&told)
                    && let Some(follows) = vertices.remove(&vertex)
                    && let Some(told) = vertices.get_mut(&told)
                {
                    told.also(&follows);
                }
            }
            for finding in vertices.into_values() {
                bag.report(finding);
            }
        }
    }

    /// Returns the reads that every way without the value comes to by another one, which is named.
    fn read_before(
        &self,
        path: &str,
        unset: bool,
        reads: &BTreeMap<usize, Diagnostic>,
        known: &Known,
    ) -> BTreeMap<usize, usize> {
        let cfg = &self.cfg;
        if reads.len() < 2 {
            return BTreeMap::new();
        }
        let has =
            |facts: &crate::expr::Facts| if unset { facts.is_defined(path) } else { facts.is_some(path) };
        let without = |edge| known.along(edge).is_some_and(|facts| !has(&facts));
        let without: Vec<bool> = cfg.edges.iter().map(without).collect();
        let channel = path.split(['.', '[']).nth(1).filter(|_| path.starts_with("state."));
        // What is written or cleared there is lost anew.
        let loses = |vertex: usize| {
            let access = vertex.checked_sub(1).and_then(|at| self.accesses.get(at));
            let touched = access.into_iter().flat_map(|access| {
                access.writes.iter().map(|write| write.channel).chain(access.clears.iter().copied())
            });
            touched.into_iter().any(|name| Some(name.value.as_str()) == channel)
                || known.before(vertex).is_some_and(has)
        };
        let mut found = BTreeMap::new();
        'reads: for &read in reads.keys() {
            let mut by = None;
            let (mut seen, mut todo) = (BTreeSet::from([read]), vec![read]);
            while let Some(at) = todo.pop() {
                for edge in cfg.into[at].iter().filter(|edge| without[**edge]).map(|&edge| &cfg.edges[edge]) {
                    let wrote = !matches!(edge.sort, Sort::Error | Sort::Timeout);
                    if edge.from == START || (wrote && loses(edge.from)) {
                        continue 'reads;
                    }
                    if reads.contains_key(&edge.from) {
                        by = by.or(Some(edge.from).filter(|from| *from != read));
                    } else if seen.insert(edge.from) {
                        todo.push(edge.from);
                    }
                }
            }
            found.extend(by.map(|by| (read, by)));
        }
        found
    }
}
