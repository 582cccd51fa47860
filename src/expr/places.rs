//! Where expressions stand in their text, and the paths that they are.

use std::ops::Range;

use minijinja::machinery::ast::{self, UnaryOpKind};
use minijinja::value::ValueKind;

/// Returns the name that an expression starts from and the fields that follow, if all of them are fixed.
pub(super) fn chain<'e, 'a>(expr: &'e ast::Expr<'a>) -> Option<(&'a str, Vec<String>)> {
    let mut path = Vec::new();
    let mut at: &'e ast::Expr<'a> = expr;
    loop {
        match at {
            ast::Expr::Var(var) => {
                path.reverse();
                return Some((var.id, path));
            }
            ast::Expr::GetAttr(attr) => {
                path.push(attr.name.to_owned());
                at = &attr.expr;
            }
            ast::Expr::GetItem(item) => {
                match &item.subscript_expr {
                    ast::Expr::Const(key) if key.value.kind() == ValueKind::String => {
                        path.push(key.value.as_str()?.to_owned());
                    }
                    number => path.push(index(number)?.to_string()),
                }
                at = &item.expr;
            }
            _ => return None,
        }
    }
}

/// Returns the number that a subscript is, where it is fixed.
pub(super) fn index(expr: &ast::Expr<'_>) -> Option<i64> {
    match expr {
        ast::Expr::Const(key) if key.value.is_integer() => key.value.as_i64(),
        ast::Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Neg) => index(&op.expr)?.checked_neg(),
        _ => None,
    }
}

/// Returns the place of an expression. The parser's own places of operators and postfixes may begin late.
pub(crate) fn range(expr: &ast::Expr<'_>) -> Range<usize> {
    start(expr)..expr.span().end_offset as usize
}

/// Takes the parentheses into a range that close in it and open before it: the parser leaves them out.
pub(crate) fn whole(source: &str, range: Range<usize>) -> Range<usize> {
    let Range { mut start, end } = range;
    let mut quote = None;
    let (mut open, mut lacking) = (0_usize, 0_usize);
    for c in source.get(start..end).unwrap_or_default().chars() {
        match (quote, c) {
            (Some(mark), _) => quote = (c != mark).then_some(mark),
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => open += 1,
            (None, ')') if open > 0 => open -= 1,
            (None, ')') => lacking += 1,
            _ => {}
        }
    }
    for _ in 0..lacking {
        let before = source.get(..start).unwrap_or_default().trim_end();
        let Some(before) = before.strip_suffix('(') else { break };
        start = before.len();
    }
    start..end
}

fn start(expr: &ast::Expr<'_>) -> usize {
    let own = expr.span().start_offset as usize;
    match expr {
        ast::Expr::GetAttr(attr) => start(&attr.expr),
        ast::Expr::GetItem(item) => start(&item.expr),
        ast::Expr::Slice(slice) => start(&slice.expr),
        ast::Expr::Call(call) => start(&call.expr),
        ast::Expr::Filter(filter) => filter.expr.as_ref().map_or(own, start),
        ast::Expr::Test(test) => start(&test.expr),
        ast::Expr::BinOp(op) => start(&op.left),
        ast::Expr::Compare(compare) => start(&compare.expr),
        ast::Expr::IfExpr(cond) => start(&cond.true_expr),
        // `x is not y` and `x not in y` are written after their operand.
        ast::Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => own.min(start(&op.expr)),
        _ => own,
    }
}
