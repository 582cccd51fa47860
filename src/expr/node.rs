//! An expression in the form that is evaluated.
//!
//! Expression keys are evaluated here and not by the template engine, because here a condition must be a
//! boolean and values of different types do not compare, and because every failure has its place.

use std::ops::Range;

use minijinja::Value;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, UnaryOpKind};

use super::ExprError;
use super::places::range;

/// A part of an expression and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) range: Range<usize>,
    pub(super) op: Op,
}

#[derive(Debug)]
pub(super) enum Op {
    Const(Value),
    Name(Box<str>),
    Attr(Box<Node>, Box<str>),
    Item(Box<[Node; 2]>),
    Slice(Box<Node>, [Option<Box<Node>>; 3]),
    Not(Box<Node>),
    Math(Math, Vec<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Concat(Box<[Node; 2]>),
    /// A chain: `a < b < c`.
    Compare(Box<Node>, Vec<(Comparison, Node)>),
    /// The condition, and what to give when it is true and when it is false.
    If(Box<[Node; 3]>),
    Filter(Box<str>, Box<Node>, Args),
    Test(Box<str>, Box<Node>, Args),
    Call(Box<str>, Args),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Node>,
    pub(super) named: Vec<(Box<str>, Node)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Lte,
    Gt,
    Gte,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Math {
    Neg,
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
}

/// How deep an expression may nest; bounds the stack of the evaluator.
const DEEPEST: usize = 64;

/// The message of an expression that nests deeper.
pub(crate) const TOO_DEEP: &str = "the expression is nested too deeply";

/// Brings a checked expression into the form that is evaluated.
pub(super) fn lower(expr: &ast::Expr<'_>) -> Result<Node, ExprError> {
    lower_at(expr, 0)
}

fn lower_at(expr: &ast::Expr<'_>, depth: usize) -> Result<Node, ExprError> {
    if depth > DEEPEST {
        return Err(unsupported(expr, TOO_DEEP));
    }
    let sub = |expr: &ast::Expr<'_>| lower_at(expr, depth + 1);
    let boxed = |expr: &ast::Expr<'_>| sub(expr).map(Box::new);
    let optional = |expr: &Option<ast::Expr<'_>>| expr.as_ref().map(boxed).transpose();
    let list = |items: &[ast::Expr<'_>]| items.iter().map(sub).collect::<Result<Vec<_>, _>>();
    let args = |args: &[CallArg<'_>]| {
        let mut found = Args::default();
        for arg in args {
            match arg {
                CallArg::Pos(value) => found.positional.push(sub(value)?),
                CallArg::Kwarg(name, value) => found.named.push(((*name).into(), sub(value)?)),
                CallArg::PosSplat(value) | CallArg::KwargSplat(value) => {
                    return Err(unsupported(value, "arguments cannot be unpacked here"));
                }
            }
        }
        Ok(found)
    };
    let op = match expr {
        ast::Expr::Var(var) => Op::Name(var.id.into()),
        ast::Expr::Const(literal) => Op::Const(literal.value.clone()),
        ast::Expr::GetAttr(attr) => Op::Attr(boxed(&attr.expr)?, attr.name.into()),
        ast::Expr::GetItem(item) => Op::Item(Box::new([sub(&item.expr)?, sub(&item.subscript_expr)?])),
        ast::Expr::Slice(slice) => Op::Slice(
            boxed(&slice.expr)?,
            [optional(&slice.start)?, optional(&slice.stop)?, optional(&slice.step)?],
        ),
        ast::Expr::UnaryOp(op) => match op.op {
            UnaryOpKind::Not => Op::Not(boxed(&op.expr)?),
            UnaryOpKind::Neg => Op::Math(Math::Neg, vec![sub(&op.expr)?]),
        },
        ast::Expr::BinOp(op) => {
            let (left, right) = (sub(&op.left)?, sub(&op.right)?);
            match operator(op.op) {
                Operator::And => Op::And(Box::new([left, right])),
                Operator::Or => Op::Or(Box::new([left, right])),
                Operator::Concat => Op::Concat(Box::new([left, right])),
                Operator::Compare(how) => Op::Compare(Box::new(left), vec![(how, right)]),
                Operator::Math(math) => Op::Math(math, vec![left, right]),
            }
        }
        ast::Expr::Compare(compare) => {
            let rest = compare.ops.iter().map(|op| Ok((comparison(op.op), sub(&op.expr)?)));
            Op::Compare(boxed(&compare.expr)?, rest.collect::<Result<_, ExprError>>()?)
        }
        ast::Expr::IfExpr(cond) => {
            let Some(other) = &cond.false_expr else {
                return Err(unsupported(expr, "an `if` in an expression needs an `else`"));
            };
            Op::If(Box::new([sub(&cond.test_expr)?, sub(&cond.true_expr)?, sub(other)?]))
        }
        ast::Expr::Filter(filter) => {
            let Some(value) = &filter.expr else {
                return Err(unsupported(expr, "a filter needs a value"));
            };
            Op::Filter(filter.name.into(), boxed(value)?, args(&filter.args)?)
        }
        ast::Expr::Test(test) => Op::Test(test.name.into(), boxed(&test.expr)?, args(&test.args)?),
        ast::Expr::Call(call) => {
            let ast::Expr::Var(function) = &call.expr else {
                return Err(unsupported(expr, "there are no methods"));
            };
            Op::Call(function.id.into(), args(&call.args)?)
        }
        ast::Expr::List(items) => Op::List(list(&items.items)?),
        ast::Expr::Tuple(items) => Op::List(list(&items.items)?),
        ast::Expr::Map(map) => {
            let fields = map.keys.iter().zip(&map.values).map(|(key, value)| Ok((sub(key)?, sub(value)?)));
            Op::Map(fields.collect::<Result<_, ExprError>>()?)
        }
    };
    Ok(Node { range: range(expr), op })
}

fn unsupported(expr: &ast::Expr<'_>, why: &str) -> ExprError {
    ExprError {
        code: "E101",
        message: why.to_owned(),
        label: "here".to_owned(),
        help: None,
        range: range(expr),
    }
}

enum Operator {
    And,
    Or,
    Concat,
    Compare(Comparison),
    Math(Math),
}

fn operator(op: BinOpKind) -> Operator {
    match op {
        BinOpKind::ScAnd => Operator::And,
        BinOpKind::ScOr => Operator::Or,
        BinOpKind::Concat => Operator::Concat,
        BinOpKind::Eq => Operator::Compare(Comparison::Eq),
        BinOpKind::Ne => Operator::Compare(Comparison::Ne),
        BinOpKind::Lt => Operator::Compare(Comparison::Lt),
        BinOpKind::Lte => Operator::Compare(Comparison::Lte),
        BinOpKind::Gt => Operator::Compare(Comparison::Gt),
        BinOpKind::Gte => Operator::Compare(Comparison::Gte),
        BinOpKind::In => Operator::Compare(Comparison::In),
        BinOpKind::Add => Operator::Math(Math::Add),
        BinOpKind::Sub => Operator::Math(Math::Sub),
        BinOpKind::Mul => Operator::Math(Math::Mul),
        BinOpKind::Div => Operator::Math(Math::Div),
        BinOpKind::FloorDiv => Operator::Math(Math::FloorDiv),
        BinOpKind::Rem => Operator::Math(Math::Rem),
        BinOpKind::Pow => Operator::Math(Math::Pow),
    }
}

fn comparison(op: CompareOpKind) -> Comparison {
    match op {
        CompareOpKind::Eq => Comparison::Eq,
        CompareOpKind::Ne => Comparison::Ne,
        CompareOpKind::Lt => Comparison::Lt,
        CompareOpKind::Lte => Comparison::Lte,
        CompareOpKind::Gt => Comparison::Gt,
        CompareOpKind::Gte => Comparison::Gte,
        CompareOpKind::In => Comparison::In,
        CompareOpKind::NotIn => Comparison::NotIn,
    }
}
