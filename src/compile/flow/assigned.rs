//! What is known of channels and inputs before each node runs, over all ways that lead there.
//!
//! Invariant: a fact holds on every way. At a join the branches of a fan-out count together, because the join waits for
//! all of them; what another branch may take back at any time is never known.

use std::collections::{BTreeMap, BTreeSet};

use super::access::Access;
use super::cfg::{Cfg, Edge, START, reach};
use crate::compile::names::Names;
use crate::expr::{Facts, Typed};
use crate::state::{Channels, Merge, Type};

/// What is known before and after each vertex; nothing where no way leads.
pub(super) struct Known {
    before: Vec<Option<Facts>>,
    after: Vec<Option<Facts>>,
    /// Channels of which another branch may take back a value at any time.
    volatile: BTreeSet<String>,
    /// What each node makes defined, for the edge that is taken instead of one more visit.
    defines: Vec<Vec<String>>,
}

/// How often the whole graph is gone through before it is given up: each round only takes facts away.
const ROUNDS: usize = 100;
/// The most fan-outs that an edge is followed back to.
const NESTED: usize = 64;

/// Finds what is known at each vertex; nothing when it does not settle.
pub(super) fn known(
    cfg: &Cfg<'_>,
    accesses: &[Access<'_>],
    names: &Names,
    channels: &Channels,
) -> Option<Known> {
    let order = order(cfg);
    let together = together(cfg, &order);
    let defines = accesses
        .iter()
        .map(|access| access.writes.iter().map(|write| format!("state.{}", write.channel.value)).collect());
    let mut known = Known {
        before: vec![None; cfg.out.len()],
        after: vec![None; cfg.out.len()],
        volatile: volatile(cfg, accesses, names, channels),
        defines: std::iter::once(Vec::new()).chain(defines).collect(),
    };
    known.before[START] = Some(Facts::default());
    known.after[START] = Some(Facts::default());
    for _ in 0..ROUNDS {
        let mut changed = false;
        for &vertex in order.iter().filter(|&&vertex| vertex != START) {
            let before = known.entering(cfg, vertex, together.get(&vertex));
            if before == known.before[vertex] {
                continue;
            }
            changed = true;
            let after = before.clone().map(|facts| match accesses.get(vertex.wrapping_sub(1)) {
                Some(access) if vertex < cfg.end => Known::written(&facts, access, names, channels),
                _ => facts,
            });
            known.before[vertex] = before;
            known.after[vertex] = after;
        }
        if !changed {
            return Some(known);
        }
    }
    None
}

impl Known {
    /// Returns what is known before a vertex.
    pub(super) fn before(&self, vertex: usize) -> Option<&Facts> {
        self.before[vertex].as_ref()
    }

    /// Returns what is known after a node's own writes.
    pub(super) fn after(&self, vertex: usize) -> Option<&Facts> {
        self.after[vertex].as_ref()
    }

    /// Returns what is known when an edge is taken.
    pub(super) fn along(&self, edge: &Edge) -> Option<Facts> {
        let mut facts = if edge.on_max {
            let mut facts = self.before[edge.from].clone()?;
            for path in &self.defines[edge.from] {
                facts.define(path.clone());
            }
            facts
        } else {
            self.after[edge.from].clone()?.and(&edge.facts)
        };
        for path in &self.volatile {
            facts.forget(path);
        }
        Some(facts)
    }

    fn entering(&self, cfg: &Cfg<'_>, vertex: usize, together: Option<&Together>) -> Option<Facts> {
        let met = |edges: &[usize]| {
            let facts = edges.iter().filter_map(|&edge| self.along(&cfg.edges[edge]));
            facts.reduce(|a, b| a.meet(&b))
        };
        let Some(together) = together else { return met(&cfg.into[vertex]) };
        let branches: BTreeMap<usize, Facts> = together
            .fans
            .iter()
            .map(|(fan, exits)| {
                let facts = exits.iter().filter_map(|exits| met(exits)).reduce(|a, b| a.and(&b));
                (*fan, facts.unwrap_or_default())
            })
            .collect();
        let arrivals = cfg.into[vertex].iter().zip(&together.edges).filter_map(|(&edge, fans)| {
            let own = self.along(&cfg.edges[edge])?;
            Some(fans.iter().filter_map(|fan| branches.get(fan)).fold(own, Facts::and))
        });
        arrivals.reduce(|a, b| a.meet(&b))
    }

    /// Returns what is known after a node's writes.
    fn written(before: &Facts, access: &Access<'_>, names: &Names, channels: &Channels) -> Facts {
        let mut after = before.clone();
        for channel in &access.clears {
            let Some(target) = channels.get(&channel.value) else { continue };
            let path = format!("state.{}", channel.value);
            match target.start() {
                None => after.unset(&path),
                Some(start) if start.is_null() => after.forget(&path),
                Some(_) => {
                    after.forget(&path);
                    after.fill(path);
                }
            }
        }
        for write in &access.writes {
            let Some(target) = channels.get(&write.channel.value) else { continue };
            let path = format!("state.{}", write.channel.value);
            let typed = match write.value {
                // The node sees the state as it was.
                Some(value) => names.type_of_spec(value, before),
                None => Typed::of(access.answer.clone()),
            };
            let had = after.is_some(&path);
            after.forget(&path);
            after.define(path.clone());
            let stays = had && target.merge == Merge::First;
            if stays || !typed.may_be_null() && typed.ty != Type::Any {
                after.fill(path);
            }
        }
        after
    }
}

/// Returns the channels that a branch may clear, or set to null, while another one runs.
fn volatile(cfg: &Cfg<'_>, accesses: &[Access<'_>], names: &Names, channels: &Channels) -> BTreeSet<String> {
    let beside = reach(cfg.fans.iter().flatten().copied(), |vertex| cfg.after(vertex), |_| false);
    let mut volatile = BTreeSet::new();
    for vertex in cfg.nodes().filter(|vertex| beside.contains(vertex)) {
        let access = &accesses[vertex - 1];
        volatile.extend(access.clears.iter().map(|channel| format!("state.{}", channel.value)));
        for write in &access.writes {
            let nullable =
                channels.get(&write.channel.value).is_some_and(|target| target.field.ty.is_nullable());
            let typed = match write.value {
                Some(value) => names.type_of_spec(value, &Facts::default()),
                None => Typed::of(access.answer.clone()),
            };
            let null = typed.may_be_null() || typed.ty == Type::Any;
            if nullable && null {
                volatile.insert(format!("state.{}", write.channel.value));
            }
        }
    }
    volatile
}

/// Orders the vertices so that one comes after those that lead to it, loops aside.
fn order(cfg: &Cfg<'_>) -> Vec<usize> {
    let mut order = Vec::new();
    let mut seen = vec![false; cfg.out.len()];
    let mut stack = vec![(START, 0)];
    seen[START] = true;
    while let Some((vertex, next)) = stack.pop() {
        match cfg.out[vertex].get(next) {
            Some(&edge) => {
                stack.push((vertex, next + 1));
                let to = cfg.edges[edge].to;
                if !std::mem::replace(&mut seen[to], true) {
                    stack.push((to, 0));
                }
            }
            None => order.push(vertex),
        }
    }
    order.reverse();
    order
}

/// The fan-outs whose branches come together at a join.
struct Together {
    /// For each edge that enters the join, the fan-outs that all ways to it pass.
    edges: Vec<Vec<usize>>,
    /// For each fan-out and each of its branches, the edges by which the branch comes here, or goes where it cannot
    /// come here any more.
    fans: BTreeMap<usize, Vec<Vec<usize>>>,
}

fn together(cfg: &Cfg<'_>, order: &[usize]) -> BTreeMap<usize, Together> {
    let mut all = BTreeMap::new();
    if (cfg.end + 1..cfg.out.len()).next().is_none() {
        return all;
    }
    let tree = Dominators::new(cfg, order);
    for &join in order.iter().filter(|&&vertex| cfg.joins(vertex)) {
        let mut fans = BTreeMap::new();
        let edges: Vec<Vec<usize>> = cfg.into[join]
            .iter()
            .map(|&edge| {
                let passed = tree.fans_above(cfg, cfg.edges[edge].from, join);
                for &fan in &passed {
                    fans.entry(fan).or_insert_with(|| branches(cfg, fan, join));
                }
                passed
            })
            .collect();
        if !fans.is_empty() {
            all.insert(join, Together { edges, fans });
        }
    }
    all
}

/// Returns, for each branch of a fan-out, the edges by which it leaves the part from which the join can be reached.
fn branches(cfg: &Cfg<'_>, fan: usize, join: usize) -> Vec<Vec<usize>> {
    let stop = |vertex: usize| vertex == fan;
    let back = reach([join], |vertex| cfg.before(vertex), stop);
    let mut exits = Vec::new();
    for &first in &cfg.out[fan] {
        let target = cfg.edges[first].to;
        if target == join {
            exits.push(vec![first]);
            continue;
        }
        if !back.contains(&target) {
            continue;
        }
        let inside = reach(
            [target],
            |vertex| cfg.after(vertex),
            |vertex| vertex == join || vertex == fan || !back.contains(&vertex),
        );
        let leaves = inside.iter().flat_map(|&vertex| &cfg.out[vertex]).copied();
        exits.push(leaves.filter(|&edge| !inside.contains(&cfg.edges[edge].to)).collect());
    }
    exits
}

/// Which vertices every way to a vertex passes.
struct Dominators {
    /// The nearest one that is a fan-out or a join, by vertex.
    skip: Vec<Option<usize>>,
    /// When each vertex is entered and left on a walk through the tree.
    entered: Vec<usize>,
    left: Vec<usize>,
}

impl Dominators {
    fn new(cfg: &Cfg<'_>, order: &[usize]) -> Self {
        let mut place = vec![usize::MAX; cfg.out.len()];
        for (n, &vertex) in order.iter().enumerate() {
            place[vertex] = n;
        }
        let mut above: Vec<Option<usize>> = vec![None; cfg.out.len()];
        above[START] = Some(START);
        loop {
            let mut changed = false;
            for &vertex in order.iter().filter(|&&vertex| vertex != START) {
                let mut found: Option<usize> = None;
                for before in cfg.before(vertex).filter(|&before| above[before].is_some()) {
                    found = Some(match found {
                        None => before,
                        Some(other) => common(&above, &place, before, other),
                    });
                }
                if found.is_some() && above[vertex] != found {
                    above[vertex] = found;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        above[START] = None;
        let mut skip: Vec<Option<usize>> = vec![None; cfg.out.len()];
        for &vertex in order {
            skip[vertex] = above[vertex].and_then(|up| if notable(cfg, up) { Some(up) } else { skip[up] });
        }
        let mut below: Vec<Vec<usize>> = vec![Vec::new(); cfg.out.len()];
        for &vertex in order {
            if let Some(above) = above[vertex] {
                below[above].push(vertex);
            }
        }
        let (mut entered, mut left) = (vec![0; cfg.out.len()], vec![0; cfg.out.len()]);
        let (mut clock, mut stack) = (0, vec![(START, false)]);
        while let Some((vertex, done)) = stack.pop() {
            clock += 1;
            if done {
                left[vertex] = clock;
                continue;
            }
            entered[vertex] = clock;
            stack.push((vertex, true));
            stack.extend(below[vertex].iter().map(|&below| (below, false)));
        }
        Self { skip, entered, left }
    }

    fn dominates(&self, above: usize, below: usize) -> bool {
        self.entered[above] <= self.entered[below] && self.left[below] <= self.left[above]
    }

    /// Returns the fan-outs that every way to a vertex passes, up to the last join that every way to `join` passes:
    /// there the branches of those above have come together already.
    fn fans_above(&self, cfg: &Cfg<'_>, vertex: usize, join: usize) -> Vec<usize> {
        let mut fans = Vec::new();
        let mut at = if notable(cfg, vertex) { Some(vertex) } else { self.skip[vertex] };
        while let Some(vertex) = at.filter(|_| fans.len() < NESTED) {
            if cfg.is_fan(vertex) {
                fans.push(vertex);
            }
            if vertex != join && cfg.joins(vertex) && self.dominates(vertex, join) {
                break;
            }
            at = self.skip[vertex];
        }
        fans
    }
}

fn notable(cfg: &Cfg<'_>, vertex: usize) -> bool {
    cfg.is_fan(vertex) || cfg.joins(vertex)
}

fn common(above: &[Option<usize>], place: &[usize], a: usize, b: usize) -> usize {
    let (mut a, mut b) = (a, b);
    while a != b {
        let (later, other) = if place[a] > place[b] { (&mut a, b) } else { (&mut b, a) };
        match above[*later] {
            Some(up) if up != *later => *later = up,
            _ => return other,
        }
    }
    a
}
