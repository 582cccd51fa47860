//! A YAML value whose leaves are expressions.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::{EvalError, Expr, Scope};

/// A YAML value whose leaves are expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprTree {
    /// A number, a boolean or null: itself.
    Const(Json),
    /// An expression.
    Expr(Expr),
    /// A list of such values.
    List(Vec<ExprTree>),
    /// An object of such values, in the order written.
    Map(IndexMap<String, ExprTree>),
}

impl ExprTree {
    /// Evaluates every leaf.
    pub fn eval(&self, scope: &Scope) -> Result<Json, EvalError> {
        match self {
            Self::Const(value) => Ok(value.clone()),
            Self::Expr(expr) => expr.eval(scope),
            Self::List(items) => {
                items.iter().map(|item| item.eval(scope)).collect::<Result<_, _>>().map(Json::Array)
            }
            Self::Map(fields) => fields
                .iter()
                .map(|(name, tree)| Ok((name.clone(), tree.eval(scope)?)))
                .collect::<Result<_, _>>()
                .map(Json::Object),
        }
    }

    /// Calls `visit` with every expression, in the order written.
    pub fn for_each_expr<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::Const(_) => {}
            Self::Expr(expr) => visit(expr),
            Self::List(items) => items.iter().for_each(|item| item.for_each_expr(visit)),
            Self::Map(fields) => fields.values().for_each(|tree| tree.for_each_expr(visit)),
        }
    }
}
