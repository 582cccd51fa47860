//! What is known of channels and inputs before each node runs, over all ways that lead there.
//!
//! Invariant: a fact holds on every way. At a join the branches of a fan-out count together, because the join waits for
//! all of them; what another branch may take back at any time is never known.

use std::collections::{BTreeMap, BTreeSet};

use super::access::Access;
use super::cfg::{Cfg, Edge, START, Sort, reach};
use crate::compile::names::Names;
use crate::expr::{Facts, Typed};
use crate::spec::ExprSpec;
use crate::state::{Channels, Merge, Type};

/// What is known before and after each vertex; nothing where no way leads.
pub(super) struct Known {
    before: Vec<Option<Facts>>,
    after: Vec<Option<Facts>>,
    /// What another branch may take back at any time.
    volatile: Volatile,
    /// The edges by which a bounded node is come to again.
    returns: BTreeMap<usize, Vec<Edge>>,
    /// What each node makes defined, for the edge that is taken instead of one more visit.
    defines: Vec<Vec<String>>,
}

/// How often a vertex is looked at on average before the graph is given up: each look only takes facts away.
const ROUNDS: usize = 1000;
/// The most fan-outs that an edge is followed back to.
const NESTED: usize = 64;

/// Finds what is known at each vertex; nothing when it does not settle.
pub(super) fn known(
    cfg: &Cfg<'_>,
    accesses: &[Access<'_>],
    names: &Names,
    channels: &Channels,
    twice: &BTreeSet<usize>,
    knots: &BTreeSet<usize>,
) -> Option<Known> {
    let order = order(cfg);
    let together = together(cfg, &order, knots)?;
    // What somebody clears may be gone again when a visit too many goes another way.
    let cleared: BTreeSet<&str> =
        accesses.iter().flat_map(|access| &access.clears).map(|channel| channel.value.as_str()).collect();
    let defines = accesses.iter().enumerate().map(|(n, access)| {
        // Of two arrivals in one superstep the second leaves before the first has written.
        let writes = if twice.contains(&(n + 1)) { &[] } else { access.writes.as_slice() };
        let written = writes.iter().map(|write| write.channel.value.as_str());
        written.filter(|name| !cleared.contains(name)).map(|name| format!("state.{name}")).collect()
    });
    let bounded = cfg
        .edges
        .iter()
        .filter(|edge| edge.sort == Sort::Max && !twice.contains(&edge.from))
        .map(|edge| edge.from);
    let returns = bounded.map(|vertex| {
        let ahead = reach(cfg.after(vertex), |vertex| cfg.after(vertex), |_| false);
        let back = cfg.into[vertex].iter().map(|&edge| &cfg.edges[edge]);
        (vertex, back.filter(|edge| ahead.contains(&edge.from) || edge.from == vertex).cloned().collect())
    });
    let returns = returns.collect();
    let mut known = Known {
        returns,
        before: vec![None; cfg.out.len()],
        after: vec![None; cfg.out.len()],
        volatile: volatile(cfg, accesses, names, channels),
        defines: std::iter::once(Vec::new()).chain(defines).collect(),
    };
    known.before[START] = Some(Facts::default());
    known.after[START] = Some(Facts::default());
    let place: BTreeMap<usize, usize> = order.iter().enumerate().map(|(n, &vertex)| (vertex, n)).collect();
    // A join is looked at again when a branch that comes together there changes, also where it has left for elsewhere.
    let mut leads: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (&join, together) in &together {
        for &edge in together.fans.iter().flat_map(|(_, branches)| branches.iter().flatten()) {
            leads.entry(cfg.edges[edge].from).or_default().insert(join);
        }
    }
    let mut todo: BTreeSet<usize> = (1..order.len()).collect();
    for _ in 0..ROUNDS.saturating_mul(order.len()) {
        let Some(vertex) = todo.pop_first().and_then(|at| order.get(at).copied()) else { return Some(known) };
        let before = known.entering(cfg, vertex, together.get(&vertex));
        if before == known.before[vertex] {
            continue;
        }
        let after = before.clone().map(|facts| match accesses.get(vertex.wrapping_sub(1)) {
            Some(access) if vertex < cfg.end => Known::written(&facts, access, names, channels),
            _ => facts,
        });
        known.before[vertex] = before;
        known.after[vertex] = after;
        let next = cfg.after(vertex).chain(leads.get(&vertex).into_iter().flatten().copied());
        todo.extend(next.filter(|&next| next != START).filter_map(|next| place.get(&next).copied()));
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
        let mut facts = match edge.sort {
            Sort::Max => {
                // Whoever is turned away has been here before: it came by a way back.
                let back = self.returns.get(&edge.from).map(Vec::as_slice).unwrap_or_default();
                let met = back.iter().filter_map(|back| self.along(back)).reduce(|a, b| a.meet(&b));
                let mut facts = met.or_else(|| self.before[edge.from].clone())?;
                for path in &self.defines[edge.from] {
                    facts.define(path.clone());
                }
                facts
            }
            // What failed, or had no answer, has written nothing.
            Sort::Error | Sort::Timeout => self.before[edge.from].clone()?,
            Sort::Next | Sort::Limit => self.after[edge.from].clone()?.and(&edge.facts),
        };
        for path in &self.volatile.replaced {
            facts.forget(path);
        }
        for path in &self.volatile.cleared {
            facts.unset(path);
        }
        Some(facts)
    }

    fn entering(&self, cfg: &Cfg<'_>, vertex: usize, together: Option<&Together>) -> Option<Facts> {
        let met = |edges: &[usize]| {
            let facts = edges.iter().filter_map(|&edge| self.along(&cfg.edges[edge]));
            facts.reduce(|a, b| a.meet(&b))
        };
        let Some(together) = together else { return met(&cfg.into[vertex]) };
        // The innermost fan-out first: what its branches bring together counts for the branch that it is in.
        let mut brought: BTreeMap<usize, Facts> = BTreeMap::new();
        let arriving = |edge: usize, upto: Option<usize>, brought: &BTreeMap<usize, Facts>| {
            let own = self.along(&cfg.edges[edge])?;
            let fans = together.edges.get(&edge).map(Vec::as_slice).unwrap_or_default();
            let inner = fans.iter().take_while(|fan| Some(**fan) != upto);
            Some(inner.filter_map(|fan| brought.get(fan)).fold(own, Facts::and))
        };
        for (fan, branches) in &together.fans {
            let met = |exits: &Vec<usize>| {
                let facts = exits.iter().filter_map(|&edge| arriving(edge, Some(*fan), &brought));
                facts.reduce(|a, b| a.meet(&b))
            };
            let all = branches.iter().filter_map(met).reduce(|a, b| a.and(&b));
            brought.insert(*fan, all.unwrap_or_default());
        }
        let arrivals = cfg.into[vertex].iter().filter_map(|&edge| arriving(edge, None, &brought));
        arrivals.reduce(|a, b| a.meet(&b))
    }

    /// Returns what is known after a node's writes.
    fn written(before: &Facts, access: &Access<'_>, names: &Names, channels: &Channels) -> Facts {
        let mut after = before.clone();
        // The result is a name of its own under `into`.
        let with_result = !access.results.is_empty();
        let and_result = with_result.then(|| names.clone().with("result", access.result.clone()));
        let names = and_result.as_ref().unwrap_or(names);
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
                None => Typed::of(access.taken.clone()),
            };
            let (joined, fields) = match (&target.merge, write.value) {
                (Merge::Merge, Some(ExprSpec::Map(fields, _))) => (true, fields.as_slice()),
                _ => (false, &[] as &[_]),
            };
            let had = after.is_some(&path);
            if joined {
                // Fields that are not written stay as they are.
                for (name, _) in fields {
                    after.forget(&format!("{path}.{}", name.value));
                }
            } else {
                after.forget(&path);
            }
            after.define(path.clone());
            for (name, value) in fields {
                let path = format!("{path}.{}", name.value);
                after.define(path.clone());
                if !names.type_of_spec(value, before).may_be_null() {
                    after.fill(path);
                }
            }
            // Of several first writes an earlier one stays, and that may have been null.
            let held = had && target.field.default.is_none();
            let sure =
                if target.merge == Merge::First { held } else { !typed.may_be_null() && !typed.may_be_any() };
            if sure {
                after.fill(path);
            }
        }
        after
    }
}

/// The channels that a branch may write or clear while another one runs.
#[derive(Default)]
struct Volatile {
    /// They may become null, or another object.
    replaced: BTreeSet<String>,
    /// They may become unset.
    cleared: BTreeSet<String>,
}

fn volatile(cfg: &Cfg<'_>, accesses: &[Access<'_>], names: &Names, channels: &Channels) -> Volatile {
    let beside = reach(cfg.fans.iter().flatten().copied(), |vertex| cfg.after(vertex), |_| false);
    let mut volatile = Volatile::default();
    for vertex in cfg.nodes().filter(|vertex| beside.contains(vertex)) {
        let access = &accesses[vertex - 1];
        for channel in &access.clears {
            let path = format!("state.{}", channel.value);
            match channels.get(&channel.value).map(|target| target.start().is_none()) {
                Some(true) => volatile.cleared.insert(path),
                _ => volatile.replaced.insert(path),
            };
        }
        for write in &access.writes {
            let nullable =
                channels.get(&write.channel.value).is_some_and(|target| target.field.ty.is_nullable());
            let typed = match write.value {
                Some(value) => names.type_of_spec(value, &Facts::default()),
                None => Typed::of(access.taken.clone()),
            };
            let null = typed.may_be_null() || typed.may_be_any();
            // What is known of the fields of an object goes with the object.
            let object = !matches!(
                typed.ty.non_null(),
                Type::String { .. }
                    | Type::Integer { .. }
                    | Type::Number { .. }
                    | Type::Boolean
                    | Type::Enum(_)
            );
            if (nullable && null) || object {
                volatile.replaced.insert(format!("state.{}", write.channel.value));
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
    /// For each edge that enters the join, the fan-outs that all ways to it pass, the innermost first.
    edges: BTreeMap<usize, Vec<usize>>,
    /// The innermost first: each fan-out, and for each of its branches the edges by which the branch comes here, or goes
    /// where it cannot come here any more.
    fans: Vec<(usize, Vec<Vec<usize>>)>,
}

/// The most vertices that are looked at to find which branches come together.
const LOOKS: usize = 5_000_000;

/// Finds what comes together at each join; nothing when the graph is too large for it. Joins that wait for one another
/// run although not all has come.
fn together(cfg: &Cfg<'_>, order: &[usize], knots: &BTreeSet<usize>) -> Option<BTreeMap<usize, Together>> {
    let mut all = BTreeMap::new();
    if (cfg.end + 1..cfg.out.len()).next().is_none() {
        return Some(all);
    }
    let tree = Dominators::new(cfg, order);
    let place: BTreeMap<usize, usize> = order.iter().enumerate().map(|(n, &vertex)| (vertex, n)).collect();
    let mut looks = 0;
    let waits =
        |vertex: usize| cfg.joins(vertex) && !knots.contains(&vertex) && (vertex != cfg.end || cfg.reads_end);
    for &join in order.iter().filter(|&&vertex| waits(vertex)) {
        let mut fans = BTreeMap::new();
        let mut edges = BTreeMap::new();
        for &edge in &cfg.into[join] {
            let passed = tree.fans_above(cfg, cfg.edges[edge].from, join);
            for &fan in &passed {
                fans.entry(fan).or_insert_with(|| branches(cfg, fan, join, &mut looks));
                if looks > LOOKS {
                    return None;
                }
            }
            edges.insert(edge, passed);
        }
        if !fans.is_empty() {
            let mut fans: Vec<_> = fans.into_iter().collect();
            fans.sort_by_key(|(fan, _)| std::cmp::Reverse(place.get(fan).copied()));
            all.insert(join, Together { edges, fans });
        }
    }
    Some(all)
}

/// Returns, for each branch of a fan-out, the edges by which it leaves the part from which the join can be reached.
fn branches(cfg: &Cfg<'_>, fan: usize, join: usize, looks: &mut usize) -> Vec<Vec<usize>> {
    let stop = |vertex: usize| vertex == fan;
    let back = reach([join], |vertex| cfg.before(vertex), stop);
    *looks += back.len();
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
        *looks += inside.len();
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
