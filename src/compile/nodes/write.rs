//! Values that are written to channels.

use serde_json::Value as Json;

use super::Scene;
use super::misfit::misfit;
use crate::compile::names::Names;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned};
use crate::expr::{ExprTree, Facts, Scope, Typed};
use crate::spec::ExprSpec;
use crate::state::{Channel, Merge, Type, is_turn};

impl Scene<'_> {
    /// Checks a written value against its channel, as far as its type is known. Whether it may be null is a matter of
    /// the way that leads here: see `flow`.
    pub(in crate::compile) fn fits(
        &self,
        names: &Names,
        channel: &Spanned<String>,
        spec: &ExprSpec,
        tree: &ExprTree,
        bag: &mut Bag,
    ) -> bool {
        let Some(target) = self.channels.get(&channel.value).filter(|_| !bag.is_trusting()) else {
            return true;
        };
        let typed = names.type_of_tree(tree, &Facts::default());
        let mut span = spec.span();
        let why = match tree {
            ExprTree::Const(value)
                if value.is_null()
                    && !takes_null(target)
                    && !matches!(target.merge, Merge::Replace | Merge::First | Merge::Messages) =>
            {
                Some(format!("null cannot join by `{}`", target.merge))
            }
            ExprTree::Const(value) if !joins_items(target.merge) => {
                target.field.ty.check(value).err().map(|mismatch| mismatch.why)
            }
            _ if takes(target.merge, &target.field.ty, &typed) => match constant(tree) {
                Some(value) => target.check_write(&value).err().map(|wrong| {
                    span = place(spec, &wrong.pointer);
                    wrong.why
                }),
                None => breaks_rules(target, &typed.ty),
            },
            _ if target.merge == Merge::Messages => Some(
                "a turn is {role: …, content: …}: a role that there is, and a text or a list of parts"
                    .to_owned(),
            ),
            _ => {
                let fits = |typed: &Typed| takes(target.merge, &target.field.ty, typed);
                let (at, why) = misfit(names, spec, &typed, &target.field.ty, &fits);
                span = at;
                Some(why)
            }
        };
        let Some(why) = why else { return true };
        let message = format!("`{}` holds {}", channel.value, target.field.ty);
        let finding = Diagnostic::error("S403", message, span, why);
        let declared = names.declared(&format!("state.{}", channel.value));
        bag.report(match declared {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        });
        false
    }
}

/// Returns what an expression that reads nothing comes to; nothing where it reads something, or is null.
fn constant(tree: &ExprTree) -> Option<Json> {
    let mut reads = false;
    tree.for_each_expr(&mut |expr| reads |= !expr.reads().is_empty());
    if reads { None } else { tree.eval(&Scope::new()).ok().filter(|value| !value.is_null()) }
}

/// Returns where a part of a value is written.
fn place(spec: &ExprSpec, pointer: &str) -> Span {
    let Some((first, rest)) =
        pointer.strip_prefix('/').map(|path| path.split_at(path.find('/').unwrap_or(path.len())))
    else {
        return spec.span();
    };
    match spec {
        ExprSpec::List(items, _) => first.parse().ok().and_then(|n: usize| items.get(n)),
        ExprSpec::Map(fields, _) => fields.iter().find(|(name, _)| name.value == first).map(|(_, part)| part),
        _ => None,
    }
    .map_or(spec.span(), |part| place(part, rest))
}

/// Says which of the words that a value may be breaks the rules of its channel.
fn breaks_rules(channel: &Channel, given: &Type) -> Option<String> {
    let due = taken_type(channel);
    let words = given.non_null().each().iter().filter_map(|ty| match ty.non_null() {
        Type::Enum(words) if matches!(due, Type::String { .. }) => Some(words),
        _ => None,
    });
    words.flatten().find_map(|word| {
        let wrong = due.check(&Json::String(word.clone())).err()?;
        Some(format!("may be `{word}`: {}", wrong.why))
    })
}

/// Returns the type of a single value that a channel takes.
pub(in crate::compile) fn taken_type(channel: &Channel) -> Type {
    let ty = match (channel.merge, channel.field.ty.non_null()) {
        (Merge::Append | Merge::Union, Type::List(item)) => item.opened(),
        (_, ty) => ty.opened(),
    };
    ty.non_null().clone()
}

/// Writes the rules of a type as they stand in a graph; nothing where it has none.
pub(in crate::compile) fn rules_of(ty: &Type) -> Option<String> {
    let mut rules = Vec::new();
    let mut bounds = |min: Option<String>, max: Option<String>| {
        rules.extend(min.map(|min| format!("min: {min}")));
        rules.extend(max.map(|max| format!("max: {max}")));
    };
    match ty {
        Type::String { min, max, .. } => bounds(min.map(|n| n.to_string()), max.map(|n| n.to_string())),
        Type::Integer { min, max } => bounds(min.map(|n| n.to_string()), max.map(|n| n.to_string())),
        Type::Number { min, max } => bounds(min.map(|n| n.to_string()), max.map(|n| n.to_string())),
        _ => {}
    }
    if let Type::String { pattern: Some(pattern), .. } = ty {
        rules.insert(0, format!("pattern: {}", Json::from(pattern.as_str())));
    }
    (!rules.is_empty()).then(|| rules.join(", "))
}

/// Says whether whatever keeps the rules of one type keeps those of another, as far as both are texts or numbers.
pub(in crate::compile) fn within_rules(given: &Type, due: &Type) -> bool {
    fn within<T: PartialOrd>(given: (Option<T>, Option<T>), due: (Option<T>, Option<T>)) -> bool {
        let above = due.0.is_none_or(|due| given.0.is_some_and(|given| given >= due));
        above && due.1.is_none_or(|due| given.1.is_some_and(|given| given <= due))
    }
    match (given, due) {
        (Type::Enum(words), Type::String { .. }) => {
            words.iter().all(|word| due.check(&Json::String(word.clone())).is_ok())
        }
        (
            Type::String { pattern, min, max },
            Type::String { pattern: due_pattern, min: due_min, max: due_max },
        ) => (due_pattern.is_none() || pattern == due_pattern) && within((*min, *max), (*due_min, *due_max)),
        (Type::Integer { min, max }, Type::Integer { min: due_min, max: due_max }) => {
            within((*min, *max), (*due_min, *due_max))
        }
        (Type::Number { min, max }, Type::Number { min: due_min, max: due_max }) => {
            within((*min, *max), (*due_min, *due_max))
        }
        (Type::Integer { min, max }, Type::Number { min: due_min, max: due_max }) => {
            within((min.map(|n| n as f64), max.map(|n| n as f64)), (*due_min, *due_max))
        }
        _ => true,
    }
}

/// Says whether null can be written to a channel: it joins a list as one of its items only, and nothing else.
pub(in crate::compile) fn takes_null(channel: &Channel) -> bool {
    match channel.merge {
        Merge::Append | Merge::Union => {
            matches!(channel.field.ty.non_null(), Type::List(item) if item.opened().is_nullable())
        }
        Merge::Add | Merge::Max | Merge::Min | Merge::Merge => false,
        Merge::Replace | Merge::First | Merge::Messages => channel.field.ty.is_nullable(),
    }
}

fn joins_items(merge: Merge) -> bool {
    matches!(merge, Merge::Append | Merge::Union)
}

/// Says whether a value of this type can join a conversation: a turn, a list of such, or what removes one.
fn joins_conversation(ty: &Type) -> bool {
    match ty {
        Type::Union(all) => all.iter().all(joins_conversation),
        Type::Named(named) => match named.open() {
            Type::List(item) => {
                matches!(item.opened(), Type::Record(_)) && joins_conversation(&item.opened())
            }
            ty => joins_conversation(&ty),
        },
        Type::Any | Type::Messages | Type::Object => true,
        Type::List(item) => joins_conversation(item.non_null()),
        Type::Record(fields) if fields.contains_key("remove") => true,
        Type::Record(fields) => is_turn(fields),
        _ => false,
    }
}

/// Says whether a write of this type can join a channel; null is looked at elsewhere.
pub(in crate::compile) fn takes(merge: Merge, channel: &Type, written: &Typed) -> bool {
    if written.null {
        return true;
    }
    let due = channel.non_null();
    written.ty.non_null().each().iter().all(|ty| match (merge, due) {
        (Merge::Messages, _) => joins_conversation(ty),
        (Merge::Append | Merge::Union, Type::List(item)) => {
            let whole = if written.may_be_null() { &written.ty } else { ty };
            written.empty || channel.accepts(ty) || item.accepts(whole)
        }
        // Fields that are not written stay.
        (Merge::Merge, Type::Record(due)) => match ty {
            Type::Record(given) => {
                given.iter().all(|(name, field)| due.get(name).is_some_and(|due| due.ty.accepts(&field.ty)))
            }
            ty => channel.accepts(ty),
        },
        (_, Type::List(_)) if written.empty => true,
        _ => channel.accepts(ty),
    })
}
