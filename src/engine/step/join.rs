//! Which branches wait for others, and which run now.

use std::collections::{BTreeMap, BTreeSet};

use super::{Activation, Token};
use crate::failure::Caught;
use crate::plan::{Plan, Target};

/// Sorts the live branches, and drops a fan-out that only one of them remembers.
pub(super) fn settle(tokens: &mut [Token]) {
    let mut carriers: BTreeMap<Activation, usize> = BTreeMap::new();
    for activation in tokens.iter().flat_map(|t| &t.open) {
        *carriers.entry(activation.clone()).or_default() += 1;
    }
    for token in &mut *tokens {
        token.open.retain(|activation| carriers.get(activation).is_some_and(|n| *n > 1));
    }
    tokens.sort_by(|a, b| a.rank().cmp(&b.rank()));
}

/// Branches that one task takes up.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) node: String,
    pub(super) arrivals: Vec<Token>,
}

impl Group {
    pub(super) fn open(&self) -> BTreeSet<Activation> {
        self.arrivals.iter().flat_map(|t| t.open.iter().cloned()).collect()
    }

    pub(super) fn error(&self) -> Option<Caught> {
        self.arrivals.iter().find_map(|t| t.error.clone())
    }

    /// Says whether its task began in an earlier superstep.
    pub(super) fn is_held(&self) -> bool {
        self.arrivals.iter().any(|t| t.held.is_some())
    }

    fn rank(&self, other: &Self) -> std::cmp::Ordering {
        self.node
            .cmp(&other.node)
            .then_with(|| self.arrivals.iter().map(Token::rank).cmp(other.arrivals.iter().map(Token::rank)))
    }
}

/// Splits the live branches into the groups that run now, by node and then by sender, and the rest.
pub(super) fn ready(plan: &Plan, tokens: &[Token]) -> (Vec<Group>, Vec<Token>) {
    let mut single = Vec::new();
    let mut joins: BTreeMap<&str, Vec<Token>> = BTreeMap::new();
    for token in tokens {
        if token.held.is_none() && plan.joins(&token.at) {
            joins.entry(&token.at).or_default().push(token.clone());
        } else {
            single.push(Group { node: token.at.clone(), arrivals: vec![token.clone()] });
        }
    }
    let groups: Vec<Group> =
        joins.into_iter().map(|(node, arrivals)| Group { node: node.to_owned(), arrivals }).collect();
    // A group may run when everything that it waits for, directly or through other groups, is a group that
    // waits for it in turn: a component of the waits-for graph without a way out.
    let waits: Vec<BTreeSet<usize>> = (0..groups.len())
        .map(|g| {
            let others = (0..groups.len()).filter(|&other| other != g);
            others.filter(|&other| waits_for(plan, &groups[g], &groups[other])).collect()
        })
        .collect();
    let blocked: Vec<bool> =
        groups.iter().map(|group| single.iter().any(|other| waits_for(plan, group, other))).collect();
    let reach: Vec<BTreeSet<usize>> = (0..groups.len()).map(|g| closure(&waits, g)).collect();
    let runs = |g: usize| {
        !blocked[g]
            && reach[g].iter().all(|&other| !blocked[other] && (other == g || reach[other].contains(&g)))
    };
    let (mut now, mut waiting) = (single, Vec::new());
    for (g, group) in groups.iter().enumerate() {
        if runs(g) {
            now.push(group.clone());
        } else {
            waiting.extend(group.arrivals.iter().cloned());
        }
    }
    now.sort_by(Group::rank);
    (now, waiting)
}

fn closure(waits: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<usize> = waits[from].iter().copied().collect();
    while let Some(g) = todo.pop() {
        if seen.insert(g) {
            todo.extend(&waits[g]);
        }
    }
    seen
}

/// Says whether a branch of `other` can still reach `group`'s node without passing through a fan-out
/// that it shares with a member of the group.
fn waits_for(plan: &Plan, group: &Group, other: &Group) -> bool {
    let open = group.open();
    other.arrivals.iter().any(|token| {
        let shared: BTreeSet<&str> = token.open.intersection(&open).map(|a| a.2.as_str()).collect();
        reaches(plan, &token.at, &group.node, &shared)
    })
}

fn reaches(plan: &Plan, from: &str, to: &str, barred: &BTreeSet<&str>) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        if barred.contains(at) || !seen.insert(at) {
            continue;
        }
        let Some((_, node)) = plan.nodes.get_key_value(at) else { continue };
        for target in node.successors() {
            if let Target::Node(name) = target {
                if name == to {
                    return true;
                }
                if let Some((key, _)) = plan.nodes.get_key_value(&name) {
                    todo.push(key);
                }
            }
        }
    }
    false
}
