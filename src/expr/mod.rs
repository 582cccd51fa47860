//! Expression keys: parsed expressions, the names they read, and what they are evaluated on.
//!
//! Invariant: only a graph's own text is ever parsed; values are data.

mod builtins;
mod eval;
mod infer;
mod node;
mod places;
mod scope;
mod syntax;
mod table;
mod total;
mod tree;
mod walk;
mod words;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::ValueKind;
use serde_json::Value as Json;

pub(crate) use builtins::environment;
pub(crate) use eval::explain;
pub(crate) use infer::{
    Around, Called, Family, Infer, Local, Macro, Module, SpaceField, boolean_help, parts_of_group,
};
pub use infer::{Facts, Fault, Root, Roots, Slot, Typed, infer, narrow, odd_part};
pub(crate) use node::TOO_DEEP;
pub(crate) use places::range;
pub use scope::Scope;
pub(crate) use syntax::{foreign_word, too_deep, within};
pub use table::{Argument, Builtin, FILTERS, FUNCTIONS, Given, Gives, TEMPLATE_FUNCTIONS, TESTS, Takes};
pub use total::is_total;
pub use tree::ExprTree;
pub(crate) use walk::{Place, Walk};

/// What is wrong with an expression, with its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExprError {
    /// The stable code, for instance `E101`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// What is to be said of the place.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The place, as bytes of the source.
    pub range: Range<usize>,
}

/// A name that an expression or a template reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The name: `state` of `state.triage.intent`.
    pub root: String,
    /// The fields that follow as far as they are known: `triage`, `intent`.
    pub path: Vec<String>,
    /// A name that the template itself binds there and that is spelt alike.
    pub near: Option<String>,
    /// The place, as bytes of the source.
    pub range: Range<usize>,
}

/// The sort of a failure at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalErrorKind {
    /// A name or a field has no value.
    Undefined,
    /// A value has a type that does not fit.
    Type,
    /// Fuel, depth or output ran out.
    Limit,
    /// Anything else.
    Other,
}

/// Why an expression or a template gave nothing. Its message never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// One line for the author of the graph.
    pub message: String,
    /// The place, as bytes of the source, where it is known.
    pub range: Option<Range<usize>>,
    /// The sort.
    pub kind: EvalErrorKind,
}

/// A parsed expression; cheap to clone.
///
/// What is checked when: the syntax, the names of filters, tests and functions and the number of their
/// arguments are checked by `parse`, and so are operands of `and`, `or` and `not` that their form shows to
/// be no booleans. Whatever depends on values is checked by `eval`: every operand of `and`, `or` and `not`
/// and every condition is a boolean, both sides of a comparison are of one kind or null, every name has a
/// value. Only `is defined`, `is undefined` and `default` take a name without one.
#[derive(Clone)]
pub struct Expr(Arc<Parsed>);

struct Parsed {
    source: String,
    reads: Vec<Read>,
    node: node::Node,
    /// What it gives when that can never be a boolean.
    no_boolean: Option<&'static str>,
}

impl Expr {
    /// Parses an expression and checks what can be seen without types.
    pub fn parse(source: &str) -> Result<Self, Vec<ExprError>> {
        let expr = syntax::parse(source).map_err(|e| vec![e])?;
        // Before the walk: it bounds the depth.
        let node = node::lower(&expr);
        if let Err(error) = &node
            && error.message == node::TOO_DEEP
        {
            return Err(vec![error.clone()]);
        }
        let mut walk = Walk::new(source, Place::Key);
        walk.expr(&expr);
        if !walk.errors.is_empty() {
            walk.errors.sort_by_key(|error| (error.range.start, error.range.end));
            return Err(walk.errors);
        }
        let node = node.map_err(|e| vec![e])?;
        let no_boolean = walk::no_boolean(&expr);
        Ok(Self(Arc::new(Parsed { source: source.to_owned(), reads: walk.reads, node, no_boolean })))
    }

    /// Returns what an expression reads that is wrong in some of its words; nothing where it is not understood.
    pub fn reads_of_wrong(source: &str) -> Option<Vec<Read>> {
        let expr = syntax::parse(source).ok()?;
        if node::lower(&expr).is_err_and(|error| error.message == node::TOO_DEEP) {
            return None;
        }
        let mut walk = Walk::new(source, Place::Key);
        walk.expr(&expr);
        walk.errors.iter().all(|error| error.code != "E101").then_some(walk.reads)
    }

    /// Returns the text as it was written.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns every name that is read, in the order written.
    pub fn reads(&self) -> &[Read] {
        &self.0.reads
    }

    /// Says what the expression gives when that can never be a boolean.
    pub fn never_boolean(&self) -> Option<&'static str> {
        self.0.no_boolean
    }

    /// Evaluates the expression. An undefined result is an error.
    pub fn eval(&self, scope: &Scope) -> Result<Json, EvalError> {
        let value = eval::eval(&self.0.node, self.source(), scope)?;
        scope::to_json(&value).map_err(|error| self.failed(&error))
    }

    /// Evaluates a condition, which must give `true` or `false`.
    pub fn eval_bool(&self, scope: &Scope) -> Result<bool, EvalError> {
        let value = eval::eval(&self.0.node, self.source(), scope)?;
        match value.kind() {
            ValueKind::Bool => Ok(value.is_true()),
            _ => Err(EvalError {
                message: format!("`{}` is a condition and must give `true` or `false`", self.source()),
                range: Some(self.0.node.range.clone()),
                kind: EvalErrorKind::Type,
            }),
        }
    }

    fn failed(&self, error: &minijinja::Error) -> EvalError {
        let (kind, why) = explain(error);
        EvalError {
            message: format!("`{}` {why}", self.source()),
            range: Some(self.0.node.range.clone()),
            kind,
        }
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expr").field(&self.source()).finish()
    }
}

#[cfg(test)]
mod tests;
