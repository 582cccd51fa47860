//! Whether conditions that are asked one after another leave nothing out.
//!
//! Invariant: what is said to be total is. Where it cannot be seen, it is not.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, UnaryOpKind};

use super::{Facts, Roots, infer, range, syntax};
use crate::state::Type;

/// What some of the conditions hold for.
#[derive(Default)]
struct Held<'s> {
    source: &'s str,
    /// Parts of conditions, and whether they hold where these are true.
    parts: BTreeSet<(String, bool)>,
    /// Values of names and of other expressions.
    values: BTreeMap<String, BTreeSet<String>>,
}

/// Says whether one of the conditions always holds: one is the opposite of another, or all values are asked for.
pub fn is_total(conditions: &[&str], roots: &Roots) -> bool {
    let mut held = Held::default();
    for source in conditions {
        let Ok(expr) = syntax::parse(source) else { return false };
        held.or(source, &expr);
    }
    if held.parts.iter().any(|(part, truth)| held.parts.contains(&(part.clone(), !truth))) {
        return true;
    }
    held.values.iter().any(|(asked, found)| {
        let ty = infer(asked, roots, &Facts::default()).0.ty;
        all_of(&ty).is_some_and(|all| all.iter().all(|value| found.contains(value)))
    })
}

/// Lists the values of a type, as JSON.
fn all_of(ty: &Type) -> Option<Vec<String>> {
    match ty {
        Type::Boolean => Some(vec!["true".to_owned(), "false".to_owned()]),
        Type::Enum(values) => {
            Some(values.iter().map(|value| serde_json::Value::from(value.as_str()).to_string()).collect())
        }
        Type::Nullable(inner) => {
            let mut all = all_of(inner)?;
            all.push("null".to_owned());
            Some(all)
        }
        _ => None,
    }
}

impl<'s> Held<'s> {
    fn or(&mut self, source: &'s str, expr: &ast::Expr<'_>) {
        self.source = source;
        self.holds(expr, true);
    }

    fn text(&self, expr: &ast::Expr<'_>) -> String {
        self.source.get(range(expr)).unwrap_or_default().to_owned()
    }

    /// Takes in what is enough for a condition to be `truth`: of several parts one is.
    fn holds(&mut self, expr: &ast::Expr<'_>, truth: bool) {
        match expr {
            ast::Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => self.holds(&op.expr, !truth),
            ast::Expr::BinOp(op) => match (&op.op, truth) {
                (BinOpKind::ScOr, true) | (BinOpKind::ScAnd, false) => {
                    self.part(self.text(expr), truth);
                    self.holds(&op.left, truth);
                    self.holds(&op.right, truth);
                }
                (BinOpKind::Eq, _) => self.compared("==", &op.left, &op.right, truth),
                (BinOpKind::Ne, _) => self.compared("==", &op.left, &op.right, !truth),
                (BinOpKind::In, _) => self.compared("in", &op.left, &op.right, truth),
                (BinOpKind::Lt, _) => self.compared("<", &op.left, &op.right, truth),
                (BinOpKind::Gte, _) => self.compared("<", &op.left, &op.right, !truth),
                (BinOpKind::Gt, _) => self.compared(">", &op.left, &op.right, truth),
                (BinOpKind::Lte, _) => self.compared(">", &op.left, &op.right, !truth),
                _ => self.part(self.text(expr), truth),
            },
            ast::Expr::Compare(compare) => match compare.ops.as_slice() {
                [op] => {
                    let (sign, same) = match op.op {
                        CompareOpKind::Eq => ("==", true),
                        CompareOpKind::Ne => ("==", false),
                        CompareOpKind::In => ("in", true),
                        CompareOpKind::NotIn => ("in", false),
                        CompareOpKind::Lt => ("<", true),
                        CompareOpKind::Gte => ("<", false),
                        CompareOpKind::Gt => (">", true),
                        CompareOpKind::Lte => (">", false),
                    };
                    self.compared(sign, &compare.expr, &op.expr, same == truth);
                }
                _ => self.part(self.text(expr), truth),
            },
            ast::Expr::Test(test) if test.name == "none" => {
                self.value(&test.expr, "null", truth);
                self.part(format!("{} == none", self.text(&test.expr)), truth);
            }
            other => {
                self.value(other, if truth { "true" } else { "false" }, true);
                self.part(self.text(other), truth);
            }
        }
    }

    fn compared(&mut self, sign: &str, left: &ast::Expr<'_>, right: &ast::Expr<'_>, truth: bool) {
        self.part(format!("{} {sign} {}", self.text(left), self.text(right)), truth);
        let items = match right {
            ast::Expr::List(list) if sign == "in" => list.items.as_slice(),
            other if sign == "==" => std::slice::from_ref(other),
            _ => return,
        };
        for item in items {
            if let ast::Expr::Const(literal) = item
                && let Ok(json) = serde_json::to_string(&literal.value)
            {
                self.value(left, &json, truth);
            }
        }
    }

    fn part(&mut self, text: String, truth: bool) {
        self.parts.insert((text, truth));
    }

    fn value(&mut self, of: &ast::Expr<'_>, value: &str, truth: bool) {
        if truth {
            self.values.entry(self.text(of)).or_default().insert(value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Root, Slot};

    #[test]
    fn conditions_are_total_when_one_of_them_always_holds() {
        let maybe = |ty: Type| Type::Nullable(Box::new(ty));
        let sort = || Type::Enum(vec!["a".to_owned(), "b".to_owned()]);
        let inputs = [
            ("b", Type::Boolean),
            ("c", Type::Boolean),
            ("n", Type::INTEGER),
            ("e", sort()),
            ("m", maybe(sort())),
            ("o", maybe(Type::Boolean)),
        ];
        let fields = inputs.map(|(name, ty)| (name.to_owned(), Slot::of(ty)));
        let roots = Roots::from([("input".to_owned(), Root::Fields(fields.into()))]);
        for (conditions, total) in [
            (&["input.b", "not input.b"][..], true),
            (&["input.b", "not input.c"], false),
            (&["input.b or input.c", "not input.c"], true),
            (&["input.b and input.c", "not input.b", "not input.c"], false),
            (&["input.b", "not (input.b and input.c)"], true),
            (&["input.b and input.c", "not input.b"], false),
            (&["input.b and input.c", "not (input.b and input.c)"], true),
            (&["input.m is none", "input.m is not none"], true),
            (&["input.m == none", "input.m is not none"], true),
            (&["input.m != none", "input.m is none"], true),
            (&["input.e == 'a'", "input.e == 'b'"], true),
            (&["input.e == 'a' or input.e == 'b'"], true),
            (&["input.e in ['a', 'b']"], true),
            (&["input.e not in ['a']", "input.e == 'a'"], false),
            (&["input.e not in ['a']", "input.e in ['a']"], true),
            (&["input.e == 'a'", "input.e != 'a'"], true),
            (&["input.e == 'a'"], false),
            (&["input.m == 'a'", "input.m == 'b'"], false),
            (&["input.m == 'a'", "input.m == 'b'", "input.m is none"], true),
            (&["input.b == true", "input.b == false"], true),
            (&["input.o == true", "input.o == false"], false),
            (&["input.n < 3", "input.n >= 3"], true),
            (&["input.n < 3", "input.n > 3"], false),
            (&["input.n == 1", "input.n == 2"], false),
            (&["input.e == 'a  b'", "input.e != 'a b'"], false),
        ] {
            assert_eq!(is_total(conditions, &roots), total, "{conditions:?}");
        }
    }
}
