//! What a condition tells of the names that it asks about.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, UnaryOpKind};
use minijinja::value::ValueKind;

use super::index;
use super::typed::{Family, Typed};
use crate::expr::Place;
use crate::state::{Type, either};

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

    /// Notes that an object has the field whose name another path holds.
    pub fn hold(&mut self, object: &str, name: &str) {
        self.defined.insert(format!("{object}.[{name}]in"));
    }

    /// Forgets what was known of the path and of its fields; it may still have a value.
    pub fn forget(&mut self, path: &str) {
        // An item by a number that is in a name is another one when that changes.
        let key = format!("[{path}");
        let below = |known: &String| {
            below(known, path).is_some()
                || known.split(&key).skip(1).any(|rest| rest.starts_with([']', '.', '[']))
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

    /// Returns what is known of a path, said of another name for it.
    #[must_use]
    pub fn renamed(&self, path: &str, name: &str) -> Self {
        let moved = |known: &BTreeSet<String>| {
            known.iter().filter_map(|known| Some(format!("{name}{}", below(known, path)?))).collect()
        };
        Self { defined: moved(&self.defined), some: moved(&self.some) }
    }

    /// Returns what is left of a type where tests of the value have told what it is.
    pub(super) fn told(&self, path: &str, ty: Type) -> Type {
        if ty.non_null().each().len() < 2 {
            return ty;
        }
        let left = |ty: &&Type| {
            KINDS.iter().all(|(test, kinds)| {
                let known = matches!(ty, Type::Any);
                let is = kinds.contains(&Typed::of((*ty).clone()).family());
                known
                    || ((is || !self.is_defined(&format!("{path}[is {test}]")))
                        && (!is || !self.is_defined(&format!("{path}[not {test}]"))))
            })
        };
        ty.non_null().each().iter().filter(left).cloned().reduce(either).unwrap_or(ty)
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

/// The tests that tell what a value is.
pub(super) const KINDS: [(&str, &[Family]); 5] = [
    ("boolean", &[Family::Boolean]),
    ("mapping", &[Family::Object]),
    // The engine counts `true` and `false` in.
    ("number", &[Family::Number, Family::Boolean]),
    ("sequence", &[Family::List]),
    ("string", &[Family::Text]),
];

/// Returns what follows the path in another that leads further.
fn below<'k>(known: &'k str, path: &str) -> Option<&'k str> {
    known.strip_prefix(path).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
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
            BinOpKind::In if truth => {
                member(&op.left, &op.right, &mut facts);
                held(&op.left, &op.right, &mut facts);
            }
            _ => {}
        },
        ast::Expr::Compare(compare) if truth => {
            let mut left = &compare.expr;
            for op in &compare.ops {
                match op.op {
                    CompareOpKind::Eq => equal(left, &op.expr, true, &mut facts),
                    CompareOpKind::Ne => equal(left, &op.expr, false, &mut facts),
                    CompareOpKind::In => member(left, &op.expr, &mut facts),
                    CompareOpKind::Lt => {
                        within(left, &op.expr, &mut facts);
                        natural(left, &op.expr, true, &mut facts);
                    }
                    CompareOpKind::Lte => natural(left, &op.expr, false, &mut facts),
                    CompareOpKind::Gt => natural(&op.expr, left, true, &mut facts),
                    CompareOpKind::Gte => natural(&op.expr, left, false, &mut facts),
                    CompareOpKind::NotIn => {}
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
            if let ("none", false, Some(list)) = (test.name, truth, end_of(&test.expr)) {
                facts.fill(format!("{list}[]"));
            }
            if let Some(path) = path_of(&test.expr) {
                if KINDS.iter().any(|(kind, _)| *kind == test.name) {
                    let word = if truth { "is" } else { "not" };
                    facts.define(format!("{path}[{word} {}]", test.name));
                }
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
            } else if let Some(path) = length_of(other).or_else(|| end_of(other)) {
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
pub(super) fn length_of(expr: &ast::Expr<'_>) -> Option<String> {
    match expr {
        ast::Expr::Filter(filter) if matches!(filter.name, "length" | "count") => {
            path_of(filter.expr.as_ref()?)
        }
        _ => None,
    }
}

/// Returns the path of a list of which one item is asked for: where it is not null, the list has items.
pub(super) fn end_of(expr: &ast::Expr<'_>) -> Option<String> {
    match expr {
        ast::Expr::Filter(filter) if matches!(filter.name, "first" | "last" | "min" | "max") => {
            path_of(filter.expr.as_ref()?)
        }
        _ => None,
    }
}

/// A number is less than the length of a list: unless it is below zero, the list has an item of that number.
fn within(number: &ast::Expr<'_>, length: &ast::Expr<'_>, facts: &mut Facts) {
    if let (Some(number), Some(list)) = (path_of(number), length_of(length)) {
        facts.define(format!("{list}.[{number}]<"));
    }
}

/// A number is less than another one, or not greater: that may tell that the other one is not below zero.
fn natural(less: &ast::Expr<'_>, more: &ast::Expr<'_>, strict: bool, facts: &mut Facts) {
    if let (Some(number), Some(path)) = (index(less), path_of(more))
        && number >= if strict { -1 } else { 0 }
    {
        facts.define(format!("{path}[>=0]"));
    }
}

/// A text is the name of a field that an object has.
fn held(name: &ast::Expr<'_>, object: &ast::Expr<'_>, facts: &mut Facts) {
    if let (Some(name), Some(object)) = (path_of(name), path_of(object)) {
        facts.hold(&object, &name);
    }
}

/// The most items of a list that are known one by one.
const COUNTED: usize = 32;

/// The length of a list is compared with a number: where that leaves out zero, the list has items.
fn counts(op: &ast::BinOp<'_>, truth: bool, facts: &mut Facts) -> bool {
    match (&op.op, truth) {
        (BinOpKind::Lt, true) | (BinOpKind::Gte, false) => {
            within(&op.left, &op.right, facts);
            natural(&op.left, &op.right, true, facts);
        }
        (BinOpKind::Gt, true) | (BinOpKind::Lte, false) => {
            within(&op.right, &op.left, facts);
            natural(&op.right, &op.left, true, facts);
        }
        (BinOpKind::Lte, true) | (BinOpKind::Gt, false) => natural(&op.left, &op.right, false, facts),
        (BinOpKind::Gte | BinOpKind::Eq, true) | (BinOpKind::Lt | BinOpKind::Ne, false) => {
            natural(&op.right, &op.left, false, facts);
        }
        _ => {}
    }
    // A loop that calls itself no deeper than a number comes to its end.
    if matches!(
        (&op.op, truth),
        (BinOpKind::Lt | BinOpKind::Lte, true) | (BinOpKind::Gt | BinOpKind::Gte, false)
    ) && matches!(path_of(&op.left).as_deref(), Some("loop.depth" | "loop.depth0"))
    {
        facts.define("loop[bounded]");
    }
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
        if let (ast::Expr::Const(literal), false, Some(list)) = (other, truth, end_of(asked))
            && literal.value.is_none()
        {
            facts.fill(format!("{list}[]"));
        }
        let Some(path) = path_of(asked) else { continue };
        match other {
            // A text that is not empty has signs.
            ast::Expr::Const(literal) if !truth && literal.value.as_str() == Some("") => {
                facts.fill(format!("{path}[]"));
            }
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

/// Returns the path of a name with its fields, and with items whose number is fixed or in a name.
pub(super) fn path_of(expr: &ast::Expr<'_>) -> Option<String> {
    match expr {
        ast::Expr::Var(var) => Some(var.id.to_owned()),
        ast::Expr::GetAttr(attr) => Some(format!("{}.{}", path_of(&attr.expr)?, attr.name)),
        ast::Expr::GetItem(item) => item_path(item),
        _ => None,
    }
}

/// The same for an item.
pub(super) fn item_path(item: &ast::GetItem<'_>) -> Option<String> {
    let object = path_of(&item.expr)?;
    Some(match &item.subscript_expr {
        ast::Expr::Const(key) if key.value.as_str().is_some() => format!("{object}.{}", key.value.as_str()?),
        number => match index(number) {
            Some(number) => format!("{object}.{number}"),
            None => format!("{object}.[{}]", path_of(number)?),
        },
    })
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
            ("state.i < state.a | length", "a.[state.i]<?", ""),
            ("state.a | length <= state.i", "", "a.[state.i]<?"),
            ("0 <= state.i < state.a | length", "a.[state.i]<? i[>=0]?", ""),
            ("state.i > -1", "i[>=0]?", ""),
            ("state.i < 0", "", "i[>=0]?"),
            ("state.k in state.a", "a.[state.k]in?", ""),
            ("state.a is string", "a a[is string]?", "a[not string]?"),
            ("state.a | first is not none", "a[]", ""),
            ("state.a != ''", "a[]", "a"),
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
        facts.define("state.orders.[state.i]");
        facts.forget("state.n");
        assert!(facts.is_defined("state.orders.[state.i]"));
        facts.forget("state.i");
        assert!(!facts.is_defined("state.orders.[state.i]"));
    }
}
