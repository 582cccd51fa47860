//! Which branch of an expression does not fit where its value goes.

use std::ops::Range;

use minijinja::machinery::ast;

use super::{Infer, Place, Roots, Typed, facts, range};
use crate::expr::{Facts, syntax};
use crate::state::Type;

/// Says whether a value can go where it is due.
type Fits<'f> = &'f dyn Fn(&Typed) -> bool;

/// Finds the innermost part of an expression that is the reason why its value does not fit, its place and what it is:
/// a branch, the value for null, an item or a field. `due` is the type of where it goes, as far as that has parts.
pub fn odd_part(source: &str, roots: &Roots, due: &Type, fits: Fits<'_>) -> Option<(Range<usize>, Typed)> {
    let expr = syntax::parse(source).ok()?;
    let mut infer = Infer::new(source, Place::Key, roots, Facts::default(), "S402");
    infer.odd(&expr, due, fits)
}

impl Infer<'_> {
    /// Looks into the parts of an expression that does not fit.
    fn odd(&mut self, expr: &ast::Expr<'_>, due: &Type, fits: Fits<'_>) -> Option<(Range<usize>, Typed)> {
        match expr {
            ast::Expr::IfExpr(cond) => {
                for (branch, truth) in [(Some(&cond.true_expr), true), (cond.false_expr.as_ref(), false)] {
                    let Some(branch) = branch else { continue };
                    let before = self.facts.clone();
                    self.facts.extend(&facts::narrow(&cond.test_expr, truth, self.place));
                    let found = self.looked_at(branch, due, fits);
                    self.facts = before;
                    if found.is_some() {
                        return found;
                    }
                }
                None
            }
            ast::Expr::Filter(filter) if matches!(filter.name, "default" | "d") => {
                let value = filter.expr.as_ref()?;
                let given = self.maybe(value);
                let some = Typed { ty: given.ty.non_null().clone(), ..given };
                if !some.null && !fits(&some) {
                    return Some((range(value), some));
                }
                filter.args.iter().find_map(|arg| match arg {
                    ast::CallArg::Pos(other) => self.looked_at(other, due, fits),
                    _ => None,
                })
            }
            ast::Expr::List(list) => {
                let Type::List(item) = due.non_null() else { return None };
                let item = item.opened();
                list.items.iter().find_map(|part| self.looked_at(part, &item, &takes(&item)))
            }
            ast::Expr::Map(map) => {
                let Type::Record(fields) = due.non_null() else { return None };
                map.keys.iter().zip(&map.values).find_map(|(key, value)| {
                    let ast::Expr::Const(key) = key else { return None };
                    let ty = fields.get(key.value.as_str()?)?.ty.opened();
                    self.looked_at(value, &ty, &takes(&ty))
                })
            }
            _ => None,
        }
    }

    fn looked_at(
        &mut self,
        part: &ast::Expr<'_>,
        due: &Type,
        fits: Fits<'_>,
    ) -> Option<(Range<usize>, Typed)> {
        let typed = self.expr(part);
        if fits(&typed) {
            return None;
        }
        Some(self.odd(part, due, fits).unwrap_or_else(|| (range(part), typed)))
    }
}

/// Says of values whether they are of a type.
fn takes(due: &Type) -> impl Fn(&Typed) -> bool + '_ {
    move |typed| due.accepts(&typed.whole()) || (typed.empty && due.is_list())
}
