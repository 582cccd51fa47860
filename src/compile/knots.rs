//! Which of some things lead to one another.

use std::collections::{BTreeMap, BTreeSet};

/// Divides things into parts that lead to one another, by Kosaraju's algorithm: what a part leads to comes before it. A
/// thing by itself is a part, too. `forth` knows all of them, and names that it does not know lead nowhere.
pub(super) fn knots<'a>(forth: &BTreeMap<&'a str, Vec<&'a str>>) -> Vec<Vec<&'a str>> {
    let mut back: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, next) in forth {
        for next in next.iter().filter(|next| forth.contains_key(*next)) {
            back.entry(next).or_default().push(name);
        }
    }
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for &root in forth.keys() {
        if !seen.insert(root) {
            continue;
        }
        let mut stack = vec![(root, 0)];
        while let Some((name, next)) = stack.pop() {
            match forth.get(name).and_then(|all| all.get(next)) {
                Some(to) => {
                    stack.push((name, next + 1));
                    if forth.contains_key(to) && seen.insert(to) {
                        stack.push((to, 0));
                    }
                }
                None => order.push(name),
            }
        }
    }
    let (mut parts, mut done) = (Vec::new(), BTreeSet::new());
    for &root in order.iter().rev() {
        let (mut part, mut todo) = (Vec::new(), vec![root]);
        while let Some(name) = todo.pop() {
            if done.insert(name) {
                part.push(name);
                todo.extend(back.get(name).into_iter().flatten());
            }
        }
        if !part.is_empty() {
            part.sort_unstable();
            parts.push(part);
        }
    }
    parts.reverse();
    parts
}

/// Says whether the things of a part lead round in a circle.
pub(super) fn is_round(part: &[&str], forth: &BTreeMap<&str, Vec<&str>>) -> bool {
    part.len() > 1 || part.iter().any(|name| forth.get(name).is_some_and(|next| next.contains(name)))
}
