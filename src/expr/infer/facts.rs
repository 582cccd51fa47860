//! What a condition tells of the names that it asks about.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, UnaryOpKind};
use minijinja::value::ValueKind;

use crate::expr::Place;
use crate::expr::walk::chain;

/// What is known of paths such as `state.order` at a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// They have a value, perhaps null.
    defined: BTreeSet<String>,
    /// They have a value other than null.
    some: BTreeSet<String>,
}

impl Facts {
    /// Says whether the path has a value.
    pub fn is_defined(&self, path: &str) -> bool {
        self.defined.contains(path)
    }

    /// Says whether the path has a value other than null.
    pub fn is_some(&self, path: &str) -> bool {
        self.some.contains(path)
    }

    /// Notes that the path has a value.
    pub fn define(&mut self, path: impl Into<String>) {
        self.defined.insert(path.into());
    }

    /// Notes that the path has a value other than null.
    pub fn fill(&mut self, path: impl Into<String>) {
        let path = path.into();
        self.defined.insert(path.clone());
        self.some.insert(path);
    }

    /// Forgets what was known of the path and of its fields; it may still have a value.
    pub fn forget(&mut self, path: &str) {
        let below = |known: &String| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.some.retain(|known| !below(known));
        self.defined.retain(|known| known == path || !below(known));
    }

    /// Forgets also that the path has a value.
    pub fn unset(&mut self, path: &str) {
        self.forget(path);
        self.defined.remove(path);
    }

    /// Adds what else is known.
    pub fn extend(&mut self, other: &Self) {
        self.defined.extend(other.defined.iter().cloned());
        self.some.extend(other.some.iter().cloned());
    }

    /// Returns what is known on both ways.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        Self {
            defined: self.defined.intersection(&other.defined).cloned().collect(),
            some: self.some.intersection(&other.some).cloned().collect(),
        }
    }

    /// Returns what is known on one way or the other.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.extend(other);
        self
    }
}

/// Returns what is known where the condition gave `truth`.
pub(super) fn narrow(expr: &ast::Expr<'_>, truth: bool, place: Place) -> Facts {
    let (yes, no) = both(expr, place);
    if truth { yes } else { no }
}

/// Returns what is known where the condition gave `true`, and where it gave `false`. Each part is looked at once: asked
/// for one of the two, an `and` would ask its left side for both, and that its own, twice as often at each level.
fn both(expr: &ast::Expr<'_>, place: Place) -> (Facts, Facts) {
    match expr {
        ast::Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => {
            let (yes, no) = both(&op.expr, place);
            (no, yes)
        }
        ast::Expr::BinOp(op) if matches!(op.op, BinOpKind::ScAnd | BinOpKind::ScOr) => {
            let (left, right) = (both(&op.left, place), both(&op.right, place));
            // The right side was looked at only where the left one gave the other answer.
            if matches!(op.op, BinOpKind::ScAnd) {
                let no = left.1.meet(&left.0.clone().and(&right.1));
                (left.0.and(&right.0), no)
            } else {
                let yes = left.0.meet(&left.1.clone().and(&right.0));
                (yes, left.1.and(&right.1))
            }
        }
        other => (leaf(other, true, place), leaf(other, false, place)),
    }
}

/// The same for a condition that is not made of others.
fn leaf(expr: &ast::Expr<'_>, truth: bool, place: Place) -> Facts {
    let mut facts = Facts::default();
    match expr {
        ast::Expr::BinOp(op) => match op.op {
            BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::Ne
            | BinOpKind::Eq
            | BinOpKind::Lt
            | BinOpKind::Lte
                if counts(op, truth, &mut facts) => {}
            BinOpKind::Eq => equal(&op.left, &op.right, truth, &mut facts),
            BinOpKind::Ne => equal(&op.left, &op.right, !truth, &mut facts),
            BinOpKind::In if truth => member(&op.left, &op.right, &mut facts),
            _ => {}
        },
        ast::Expr::Compare(compare) if truth => {
            let mut left = &compare.expr;
            for op in &compare.ops {
                match op.op {
                    CompareOpKind::Eq => equal(left, &op.expr, true, &mut facts),
                    CompareOpKind::Ne => equal(left, &op.expr, false, &mut facts),
                    CompareOpKind::In => member(left, &op.expr, &mut facts),
                    _ => {}
                }
                left = &op.expr;
            }
        }
        ast::Expr::Compare(compare) => {
            if let [op] = compare.ops.as_slice() {
                match op.op {
                    CompareOpKind::Eq => equal(&compare.expr, &op.expr, false, &mut facts),
                    CompareOpKind::Ne => equal(&compare.expr, &op.expr, true, &mut facts),
                    _ => {}
                }
            }
        }
        ast::Expr::Test(test) => {
            if let Some(path) = path_of(&test.expr) {
                match (test.name, truth) {
                    ("defined", true) | ("undefined", false) => facts.define(path),
                    ("none", false)
                    | (
                        "string" | "number" | "integer" | "int" | "float" | "boolean" | "true" | "false"
                        | "sequence" | "mapping" | "odd" | "even",
                        true,
                    ) => facts.fill(path),
                    _ => {}
                }
            }
        }
        // In a template whatever is null or empty counts as false.
        other if truth && place == Place::Template => {
            if let Some(path) = path_of(other) {
                facts.fill(format!("{path}[]"));
                facts.fill(path);
            } else if let Some(path) = length_of(other) {
                facts.fill(format!("{path}[]"));
            }
        }
        // Only the first round has none before it, and only the last one none after it.
        other if !truth && place == Place::Template => match path_of(other).as_deref() {
            Some("loop.first") => facts.define("loop.previtem"),
            Some("loop.last") => facts.define("loop.nextitem"),
            _ => {}
        },
        _ => {}
    }
    facts
}

/// Returns the path of a list whose length is asked for.
fn length_of(expr: &ast::Expr<'_>) -> Option<String> {
    match expr {
        ast::Expr::Filter(filter) if matches!(filter.name, "length" | "count") => {
            path_of(filter.expr.as_ref()?)
        }
        _ => None,
    }
}

/// The most items of a list that are known one by one.
const COUNTED: usize = 32;

/// The length of a list is compared with a number: where that leaves out zero, the list has items.
fn counts(op: &ast::BinOp<'_>, truth: bool, facts: &mut Facts) -> bool {
    let (Some(path), ast::Expr::Const(number)) = (length_of(&op.left), &op.right) else { return false };
    let Some(number) = number.value.as_usize() else { return false };
    let least = match (&op.op, truth) {
        (BinOpKind::Gt, true) | (BinOpKind::Lte, false) => number.saturating_add(1),
        (BinOpKind::Gte | BinOpKind::Eq, true) | (BinOpKind::Lt | BinOpKind::Ne, false) => number,
        (BinOpKind::Ne, true) | (BinOpKind::Eq, false) => usize::from(number == 0),
        _ => 0,
    };
    if least > 0 {
        facts.fill(format!("{path}[]"));
    }
    for n in 1..least.min(COUNTED) {
        facts.define(format!("{path}.{n}"));
        facts.define(format!("{path}.-{}", n + 1));
    }
    true
}

/// Two values are equal, or are not: what equals something other than null is not null.
fn equal(left: &ast::Expr<'_>, right: &ast::Expr<'_>, truth: bool, facts: &mut Facts) {
    for (asked, other) in [(left, right), (right, left)] {
        let Some(path) = path_of(asked) else { continue };
        match other {
            ast::Expr::Const(literal) if (literal.value.kind() == ValueKind::None) != truth => {
                facts.fill(path);
            }
            ast::Expr::List(_) | ast::Expr::Map(_) | ast::Expr::Tuple(_) if truth => facts.fill(path),
            _ => {}
        }
    }
}

/// A value is one of a list of literals.
fn member(item: &ast::Expr<'_>, holder: &ast::Expr<'_>, facts: &mut Facts) {
    let items = match holder {
        ast::Expr::List(list) => &list.items,
        ast::Expr::Tuple(list) => &list.items,
        _ => return,
    };
    let literal = |item: &ast::Expr<'_>| matches!(item, ast::Expr::Const(literal) if literal.value.kind() != ValueKind::None);
    if let Some(path) = path_of(item)
        && items.iter().all(literal)
    {
        facts.fill(path);
    }
}

/// Returns the path of a name with fixed fields.
pub(super) fn path_of(expr: &ast::Expr<'_>) -> Option<String> {
    let (root, path) = chain(expr)?;
    Some(std::iter::once(root.to_owned()).chain(path).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_tells_what_has_a_value() {
        for (condition, when_true, when_false) in [
            ("state.a is defined", "a?", ""),
            ("state.a is undefined", "", "a?"),
            ("state.a is none", "", "a"),
            ("state.a is not none", "a", ""),
            ("state.a == 'x'", "a", ""),
            ("state.a != none", "a", ""),
            ("none == state.a", "", "a"),
            ("state.a == state.b", "", ""),
            ("state.a in ['x', 'y']", "a", ""),
            ("state.a in ['x', none]", "", ""),
            ("not state.a is none", "a", ""),
            ("state.a is not none and state.b is not none", "a b", ""),
            ("state.a is none or state.b is none", "", "a b"),
            ("state.a is not none or state.b is not none", "", ""),
            ("state.a is none or state.a.b == 1", "", "a"),
            ("state.a is not none or (state.a is none and state.b is not none)", "", ""),
            ("state.a | length > 0", "a[]", ""),
            ("state.a | length == 0", "", "a[]"),
            ("state.a | length >= 1", "a[]", ""),
            ("state.a | length < 3", "", "a.-2? a.-3? a.1? a.2? a[]"),
            ("state.a | length > 0 and state.b is not none", "a[] b", ""),
        ] {
            let expr = minijinja::machinery::parse_expr(condition).unwrap();
            let shown = |truth| {
                let facts = narrow(&expr, truth, Place::Key);
                let names = facts.defined.iter().map(|path| {
                    let mark = if facts.some.contains(path) { "" } else { "?" };
                    format!("{}{mark}", path.trim_start_matches("state."))
                });
                names.collect::<Vec<_>>().join(" ")
            };
            assert_eq!((shown(true).as_str(), shown(false).as_str()), (when_true, when_false), "{condition}");
        }
    }

    #[test]
    fn a_write_takes_back_what_was_known() {
        let mut facts = Facts::default();
        facts.fill("state.order");
        facts.fill("state.order.total");
        facts.fill("state.orders");
        facts.forget("state.order");
        assert!(facts.is_defined("state.order") && !facts.is_some("state.order"));
        assert!(!facts.is_defined("state.order.total") && facts.is_some("state.orders"));
        facts.unset("state.order");
        assert!(!facts.is_defined("state.order"));
    }
}
