//! Which nodes can run in one superstep.

use std::collections::{BTreeMap, BTreeSet};

use super::cfg::{Cfg, Sort, reach};

/// What can happen in one superstep.
#[derive(Default)]
pub(super) struct Beside {
    /// Two nodes run, the smaller vertex first.
    pub(super) pairs: BTreeSet<(usize, usize)>,
    /// One node runs twice.
    pub(super) twice: BTreeSet<usize>,
    /// Two joins run because they wait only for one another.
    pub(super) deadlocks: BTreeSet<(usize, usize)>,
}

/// The most states that are looked at. What lies beyond is found when it happens.
const MOST: usize = 200_000;
/// The most vertices that are looked at to find who waits for whom.
const LOOKS: usize = 5_000_000;

/// Walks two branches of each fan-out side by side, superstep by superstep.
pub(super) fn beside(cfg: &Cfg<'_>) -> Beside {
    let mut found = Beside::default();
    let mut seen = BTreeSet::new();
    let mut looks = 0;
    let mut reaches: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    for (fan, targets) in cfg.fans.iter().enumerate() {
        let mut todo = Vec::new();
        for (n, &a) in targets.iter().enumerate() {
            todo.extend(targets[n + 1..].iter().filter(|&&b| a != b).map(|&b| (a.min(b), a.max(b))));
            if todo.len() > MOST {
                break;
            }
        }
        while let Some((a, b)) = todo.pop() {
            if b == cfg.end || a == cfg.end || !seen.insert((fan, a, b)) {
                continue;
            }
            if seen.len() > MOST || looks > LOOKS {
                return found;
            }
            if a == b {
                if cfg.joins(a) {
                    continue;
                }
                found.twice.insert(a);
            }
            let mut waits = |join: usize, other: usize| {
                join != other
                    && cfg.joins(join)
                    && reaches
                        .entry((fan, join))
                        .or_insert_with(|| {
                            let owner = cfg.owners[fan];
                            let back = reach(
                                [join],
                                |vertex| cfg.before(vertex),
                                |vertex| vertex == owner && vertex != join,
                            );
                            looks += back.len();
                            back
                        })
                        .contains(&other)
            };
            let (first, second) = (waits(a, b), waits(b, a));
            // When a third branch can come to a join, nobody knows when the join runs: what follows is not provable.
            let open = |join: usize| {
                cfg.joins(join)
                    && (reaches
                        .get(&(fan, join))
                        .is_some_and(|back| targets.iter().filter(|t| back.contains(t)).count() > 2)
                        || reaches.get(&(fan, join)).is_some_and(|back| {
                            let mut others = cfg.fans.iter().enumerate().filter(|(other, _)| *other != fan);
                            others.any(|(_, targets)| targets.iter().any(|target| back.contains(target)))
                        }))
            };
            // Visits are counted where a node runs: what was visited too often is left in the same superstep.
            let spent = |vertex: usize, waits: bool| -> Vec<usize> {
                if open(vertex) || (waits && !(first && second)) {
                    return Vec::new();
                }
                let out = cfg.out[vertex].iter().map(|&edge| &cfg.edges[edge]);
                out.filter(|edge| edge.sort == Sort::Max).map(|edge| edge.to).collect()
            };
            let (left, right) = (spent(a, first), spent(b, second));
            let one = left.iter().map(|&a| (a, b)).chain(right.iter().map(|&b| (a, b)));
            let both = left.iter().flat_map(|&a| right.iter().map(move |&b| (a, b)));
            todo.extend(one.chain(both).map(|(a, b)| (a.min(b), a.max(b))));
            if !first && !second && (open(a) || open(b)) {
                continue;
            }
            let steps = |vertex: usize| {
                let mut to = Vec::new();
                for edge in
                    cfg.out[vertex].iter().map(|&edge| &cfg.edges[edge]).filter(|edge| edge.sort != Sort::Max)
                {
                    if cfg.is_fan(edge.to) { to.extend(cfg.after(edge.to)) } else { to.push(edge.to) }
                }
                to
            };
            match (first, second) {
                (true, false) => todo.extend(steps(b).into_iter().map(|b| (a.min(b), a.max(b)))),
                (false, true) => todo.extend(steps(a).into_iter().map(|a| (a.min(b), a.max(b)))),
                (both, _) => {
                    if both {
                        found.deadlocks.insert((a, b));
                    }
                    if a != b {
                        found.pairs.insert((a, b));
                    }
                    for a in steps(a) {
                        todo.extend(steps(b).into_iter().map(|b| (a.min(b), a.max(b))));
                    }
                }
            }
        }
    }
    found
}
