//! The JSON Schemas of a graph: what a run takes, what it gives, what its thread shows.
//!
//! Invariant: in the dialect of OpenAPI 3.0. Only a type that contains itself is referred to.

use serde_json::{Map, Value as Json, json};

use crate::expr::ExprTree;
use crate::plan::{Output, Plan};
use crate::state::{Channel, Schemas};

fn object(properties: Map<String, Json>, required: Vec<&str>, closed: bool) -> Json {
    let mut schema = json!({"type": "object"});
    if let Json::Object(fields) = &mut schema {
        if !required.is_empty() {
            fields.insert("required".into(), required.into());
        }
        fields.insert("properties".into(), properties.into());
        if closed {
            fields.insert("additionalProperties".into(), false.into());
        }
    }
    schema
}

/// Returns the schema of a run's `input`.
pub(super) fn input(plan: &Plan, schemas: &mut Schemas) -> Json {
    let required =
        plan.input.iter().filter(|(_, field)| !field.may_be_left_out()).map(|(name, _)| name.as_str());
    let properties = plan.input.iter().map(|(name, field)| (name.clone(), schemas.field(field)));
    object(properties.collect(), required.collect(), true)
}

/// Returns the schema of a run's output.
pub(super) fn output(plan: &Plan, schemas: &mut Schemas) -> Json {
    match &plan.output {
        Output::Channels(names) => channels(plan, schemas, |name, _| names.iter().any(|n| n == name)),
        Output::Public => {
            let shown =
                |name: &str, channel: &Channel| !channel.private && plan.messages.as_deref() != Some(name);
            channels(plan, schemas, shown)
        }
        Output::Map(trees) => {
            let properties = trees.iter().map(|(name, t)| (name.clone(), tree(t)));
            object(properties.collect(), trees.keys().map(String::as_str).collect(), false)
        }
    }
}

/// Returns the schema of the public state.
pub(super) fn state(plan: &Plan, schemas: &mut Schemas) -> Json {
    channels(plan, schemas, |_, channel| !channel.private)
}

/// Returns a schema that stands alone.
pub(super) fn alone(plan: &Plan, part: fn(&Plan, &mut Schemas) -> Json) -> Json {
    let mut schemas = Schemas::alone();
    let schema = part(plan, &mut schemas);
    schemas.close(schema)
}

fn channels(plan: &Plan, schemas: &mut Schemas, wanted: impl Fn(&str, &Channel) -> bool) -> Json {
    let shown = plan.channels.iter().filter(|(name, channel)| wanted(name, channel));
    // A channel that nothing was written to is absent, so none is required.
    object(
        shown.map(|(name, channel)| (name.clone(), schemas.field(&channel.field))).collect(),
        Vec::new(),
        false,
    )
}

/// Returns what is known of the value of an expression tree: its shape, but not the types of its leaves.
fn tree(tree: &ExprTree) -> Json {
    match tree {
        ExprTree::Const(Json::Null) | ExprTree::Expr(_) => json!({}),
        ExprTree::Const(value) => json!({"enum": [value]}),
        ExprTree::List(_) => json!({"type": "array", "items": {}}),
        ExprTree::Map(fields) => {
            let properties = fields.iter().map(|(name, t)| (name.clone(), self::tree(t)));
            object(properties.collect(), fields.keys().map(String::as_str).collect(), false)
        }
    }
}
