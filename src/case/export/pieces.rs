//! Puts a result together from the expressions that it went through.
//!
//! Invariant: only what has one way back is taken: `result`, a field of it, and lists and maps of such.

use serde_json::{Map, Value as Json};

use super::into::{Found, Parts, result_type};
use crate::expr::ExprTree;
use crate::plan::{Output, Plan, PlanNode, Work};
use crate::state::Type;

/// A result that is put together.
#[derive(Default)]
pub(super) struct Pieces {
    whole: Option<Json>,
    fields: Option<Json>,
}

impl Pieces {
    /// Takes what an expression over `result` gave; false: it does not tell anything.
    pub(super) fn take(&mut self, tree: &ExprTree, value: &Json) -> bool {
        match tree {
            ExprTree::Const(_) => false,
            ExprTree::Expr(expr) => {
                let [read] = expr.reads() else { return false };
                let source = expr.source().trim();
                let names = [read.root.as_str()].into_iter().chain(read.path.iter().map(String::as_str));
                // Anything but the bare name may be another value.
                if read.root != "result" || names.collect::<Vec<_>>().join(".") != source {
                    return false;
                }
                if read.path.is_empty() {
                    self.whole = Some(value.clone());
                } else {
                    put(self.fields.get_or_insert_with(|| Json::Object(Map::new())), &read.path, value);
                }
                true
            }
            ExprTree::List(trees) => match value {
                Json::Array(items) if items.len() == trees.len() => {
                    let told: Vec<bool> =
                        trees.iter().zip(items).map(|(tree, item)| self.take(tree, item)).collect();
                    told.contains(&true)
                }
                // A list of one was pushed as an item.
                item => matches!(trees.as_slice(), [tree] if self.take(tree, item)),
            },
            ExprTree::Map(trees) => {
                let told: Vec<bool> =
                    trees.iter().filter_map(|(name, tree)| Some(self.take(tree, value.get(name)?))).collect();
                told.contains(&true)
            }
        }
    }

    pub(super) fn found(self, node: &PlanNode, plan: &Plan) -> Option<Found> {
        if let Some(value) = self.whole {
            return Some(Found { value, parts: Parts::All });
        }
        let value = self.fields?;
        let missing = match (&node.job.work, result_type(node)) {
            (Work::Graph(call), _) => plan.children.get(&call.graph).and_then(|child| {
                let left = outputs(child)?.into_iter().filter(|name| value.get(name.as_str()).is_none());
                Some(left.cloned().collect())
            }),
            (_, Some(ty)) => missing(ty, &value),
            (_, None) => None,
        };
        let parts = match missing {
            None => Parts::Some,
            Some(missing) if missing.is_empty() => Parts::All,
            Some(missing) => Parts::Without(missing),
        };
        Some(Found { value, parts })
    }
}

/// Returns the fields of a type that a value lacks; nothing: it is not known what it has.
fn missing(ty: &Type, value: &Json) -> Option<Vec<String>> {
    let Type::Record(fields) = ty.opened().non_null().clone() else { return None };
    let mut left = Vec::new();
    for (name, field) in &fields {
        match value.get(name) {
            None => left.push(name.clone()),
            Some(inner @ Json::Object(_)) => {
                let inner = missing(&field.ty, inner).unwrap_or_default();
                left.extend(inner.into_iter().map(|below| format!("{name}.{below}")));
            }
            Some(_) => {}
        }
    }
    Some(left)
}

/// Returns the type of what an expression over `result` gives, where it is known.
pub(super) fn type_of(node: &PlanNode, tree: &ExprTree) -> Option<Type> {
    match tree {
        ExprTree::List(_) => Some(Type::List(Box::new(Type::Any))),
        ExprTree::Map(_) => Some(Type::Object),
        ExprTree::Const(_) => None,
        ExprTree::Expr(expr) => {
            let mut ty = result_type(node)?.opened();
            let mut names = expr.source().trim().split('.');
            if names.next() != Some("result") {
                return None;
            }
            for name in names {
                ty = ty.opened().non_null().field(name)?.clone();
            }
            Some(ty.opened())
        }
    }
}

/// Returns the names of what a graph gives.
fn outputs(plan: &Plan) -> Option<Vec<&String>> {
    match &plan.output {
        Output::Public => None,
        Output::Channels(names) => Some(names.iter().collect()),
        Output::Map(map) => Some(map.keys().collect()),
    }
}

/// Puts a value at a place of an object.
pub(super) fn put(into: &mut Json, path: &[String], value: &Json) {
    let Json::Object(fields) = into else { return };
    match path {
        [] => {}
        [name] => {
            fields.insert(name.clone(), value.clone());
        }
        [name, rest @ ..] => {
            put(fields.entry(name.clone()).or_insert_with(|| Json::Object(Map::new())), rest, value);
        }
    }
}
