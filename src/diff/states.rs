//! What becomes of stored states when a graph changes.
//!
//! Invariant: `refused` is said of every change of a channel after which the engine may refuse a state, and of no other.
//! Whether the expression of a `default` gives a value is seen only with the state.

use serde::Serialize;
use serde_json::json;

use super::between_types;
use crate::plan::Plan;
use crate::state::{Channel, Field, Merge, Named, Type};

/// What becomes of what threads hold in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// The channel, by its old name when it has one.
    pub channel: String,
    /// What happens.
    pub effect: Fate,
    /// More about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What becomes of a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It fits the new channel.
    Fits,
    /// A rule moves it to another channel.
    Moved,
    /// A rule deletes it.
    Dropped,
    /// No channel has its name: it stays stored and nobody sees it.
    Aside,
    /// A rule gives one where there is none.
    Given,
    /// Where it does not fit, the next run of the thread is refused.
    Refused,
}

/// Says what the next run of a thread of the old version does with its state.
pub(super) fn effects(old: &Plan, new: &Plan) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut push = |channel: &str, effect, detail: String| {
        effects.push(Effect { channel: channel.to_owned(), effect, detail });
    };
    let migration = &new.migration;
    for (name, before) in &old.channels {
        if let Some(after) = new.channels.get(name) {
            if after.per_run {
                continue;
            }
            if holds_all(before, after) {
                let ty = (before.field.ty != after.field.ty)
                    .then(|| between_types(&before.field.ty, &after.field.ty));
                let merge =
                    (before.merge != after.merge).then(|| format!("later writes join by `{}`", after.merge));
                let details: Vec<String> = ty.into_iter().chain(merge).collect();
                if !details.is_empty() {
                    push(name, Fate::Fits, details.join(", "));
                }
            } else {
                push(name, Fate::Refused, between_types(&before.field.ty, &after.field.ty));
            }
        } else if let Some((_, to)) = migration.renames.iter().find(|(from, _)| from == name)
            && let Some(after) = new.channels.get(to)
        {
            if holds_all(before, after) {
                let unless = if old.channels.contains_key(to) { ", unless that was written" } else { "" };
                push(name, Fate::Moved, format!("to `{to}`{unless}"));
            } else {
                let types = between_types(&before.field.ty, &after.field.ty);
                push(name, Fate::Refused, format!("as `{to}`: {types}"));
            }
        } else if migration.drops.contains(name) {
            push(name, Fate::Dropped, String::new());
        } else {
            push(name, Fate::Aside, String::new());
        }
    }
    for name in migration.defaults.keys() {
        // What has a start value has a value in every thread.
        if old.channels.get(name).is_none_or(|channel| channel.start().is_none()) {
            push(name, Fate::Given, String::new());
        }
    }
    effects
}

/// Says whether the new channel can hold whatever the old one did.
fn holds_all(old: &Channel, new: &Channel) -> bool {
    // What grows by `merge` may lack fields, and only such a channel may hold that.
    let partial = |channel: &Channel| {
        channel.merge == Merge::Merge && matches!(channel.field.ty.non_null(), Type::Record(_))
    };
    if partial(old) && !partial(new) && !matches!(new.field.ty.non_null(), Type::Object | Type::Any) {
        return false;
    }
    widens(&old.field.ty, &new.field.ty)
}

/// Says whether every value of the old type is one of the new type.
fn widens(old: &Type, new: &Type) -> bool {
    widens_within(old, new, &mut Vec::new())
}

/// `open` holds the pairs of names that are looked at: where one comes round, nothing has spoken against it.
fn widens_within(old: &Type, new: &Type, open: &mut Vec<(Named, Named)>) -> bool {
    let mut widens = |old: &Type, new: &Type| widens_within(old, new, open);
    match (new, old) {
        (Type::Any, _)
        | (Type::Boolean, Type::Boolean)
        | (Type::Messages, Type::Messages)
        | (Type::Object, Type::Object | Type::Record(_)) => true,
        (Type::Nullable(new), Type::Nullable(old)) | (Type::List(new), Type::List(old)) => widens(old, new),
        (Type::Nullable(new), old) => widens(old, new),
        (Type::Named(new), Type::Named(old)) => {
            let pair = (new.clone(), old.clone());
            let known = new == old || open.contains(&pair);
            known || {
                open.push(pair);
                widens_within(&old.open(), &new.open(), open)
            }
        }
        (Type::Named(new), old) => widens(old, &new.open()),
        (new, Type::Named(old)) => widens(&old.open(), new),
        (
            Type::String { pattern, min, max },
            Type::String { pattern: old_pattern, min: old_min, max: old_max },
        ) => (pattern.is_none() || pattern == old_pattern) && within((*old_min, *old_max), (*min, *max)),
        (Type::String { .. }, Type::Enum(values)) => {
            values.iter().all(|value| new.check(&json!(value)).is_ok())
        }
        (Type::Enum(new), Type::Enum(old)) => old.iter().all(|value| new.contains(value)),
        (Type::Integer { min, max }, Type::Integer { min: old_min, max: old_max }) => {
            within((*old_min, *old_max), (*min, *max))
        }
        (Type::Number { min, max }, Type::Number { min: old_min, max: old_max }) => {
            within((*old_min, *old_max), (*min, *max))
        }
        (Type::Number { min, max }, Type::Integer { min: old_min, max: old_max }) => {
            within((old_min.map(|n| n as f64), old_max.map(|n| n as f64)), (*min, *max))
        }
        (Type::List(item), Type::Messages) => matches!(**item, Type::Any | Type::Object),
        (Type::Record(new), Type::Record(old)) => {
            old.iter().all(|(name, field)| new.get(name).is_some_and(|new| widens(&field.ty, &new.ty)))
                && new.iter().all(|(name, field)| old.contains_key(name) || Field::may_be_left_out(field))
        }
        _ => false,
    }
}

/// Says whether the old bounds lie within the new ones.
fn within<T: PartialOrd>(old: (Option<T>, Option<T>), new: (Option<T>, Option<T>)) -> bool {
    let above = new.0.is_none_or(|new| old.0.is_some_and(|old| old >= new));
    above && new.1.is_none_or(|new| old.1.is_some_and(|old| old <= new))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compile::{Providers, compile};
    use crate::diagnostic::{Bag, render_text};
    use crate::spec::{Files, load_files};

    const TYPES: &str = "format: 1\ntypes: {Tree: {value: string, children: [Tree]}, \
                         Wood: {value: string, children: [Wood], note: 'string?'}}\n";

    fn plan(state: &str, rules: &str) -> std::sync::Arc<Plan> {
        let graph = format!(
            "format: 1\nstate: {{{state}}}\n{rules}\nstart: a\nnodes: {{a: {{kind: route, next: end}}}}\n"
        );
        let mut bag = Bag::default();
        let files = [("g.yaml".to_owned(), graph.into_bytes()), ("project.yaml".to_owned(), TYPES.into())];
        let folder = load_files("", Files::from(files), &mut bag);
        let catalog = compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
        catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false))).graphs["g"].plan.clone()
    }

    #[test]
    fn a_state_may_be_refused_where_a_value_of_the_old_type_is_none_of_the_new() {
        for (old, new, refused) in [
            ("string", "string?", false),
            ("string?", "string", true),
            ("integer", "number", false),
            ("number", "integer", true),
            ("string", "any", false),
            ("any", "string", true),
            ("{enum: [a, b]}", "{enum: [a, b, c]}", false),
            ("{enum: [a, b]}", "{enum: [a]}", true),
            ("{enum: [a, b]}", "{type: string, max: 1}", false),
            ("{enum: [a, bb]}", "{type: string, max: 1}", true),
            ("string", "{enum: [a]}", true),
            ("{type: integer, min: 1}", "{type: integer, min: 0}", false),
            ("{type: integer, max: 9}", "{type: integer, max: 8}", true),
            ("integer", "{type: number, min: 0}", true),
            ("{type: string, pattern: a}", "string", false),
            ("string", "{type: string, pattern: a}", true),
            ("[integer]", "[number]", false),
            ("[integer]", "integer", true),
            ("{fields: {a: string}}", "{fields: {a: string, b: 'string?'}}", false),
            ("{fields: {a: string}}", "{fields: {a: string, b: string}}", true),
            ("{fields: {a: string, b: string}}", "{fields: {a: string}}", true),
            ("{fields: {a: string}}", "object", false),
            ("object", "{fields: {a: string}}", true),
            ("{fields: {a: string}, merge: merge}", "{fields: {a: string}}", true),
            ("{fields: {a: string}}", "{fields: {a: string}, merge: merge}", false),
            ("string", "{type: [string], keep: run}", false),
            ("Tree", "Tree", false),
            ("Tree", "Wood", false),
            ("Wood", "Tree", true),
            ("Tree", "{fields: {value: string, children: [any]}}", false),
            ("{fields: {value: string, children: [any]}}", "Tree", true),
            ("[Tree]", "Tree", true),
            ("{type: [string], merge: append}", "{type: [string], merge: union}", false),
            ("{type: [string], merge: union}", "{type: [any], merge: append}", false),
        ] {
            let found = effects(&plan(&format!("x: {old}"), ""), &plan(&format!("x: {new}"), ""));
            let says = found.iter().any(|effect| effect.effect == Fate::Refused);
            assert_eq!(says, refused, "{old} -> {new}: {found:?}");
        }
    }

    #[test]
    fn each_channel_of_old_has_its_fate() {
        let old = plan("a: string, b: string, c: integer, d: string, e: string, f: integer", "");
        let rules = "migrate: [{rename: {a: x, b: y}}, {drop: d}, {default: {z: 1, f: 2}}]";
        let new = plan("x: string, y: integer, c: number, z: integer, f: integer", rules);
        let found: BTreeMap<String, (Fate, String)> =
            effects(&old, &new).into_iter().map(|e| (e.channel, (e.effect, e.detail))).collect();
        let expected = [
            ("a", Fate::Moved, "to `x`"),
            ("b", Fate::Refused, "as `y`: string -> integer"),
            ("c", Fate::Fits, "integer -> number"),
            ("d", Fate::Dropped, ""),
            ("e", Fate::Aside, ""),
            ("f", Fate::Given, ""),
            ("z", Fate::Given, ""),
        ];
        let expected = expected.map(|(name, fate, detail)| (name.to_owned(), (fate, detail.to_owned())));
        assert_eq!(found, expected.into());
    }
}
