//! Values that are written to channels.

use super::Scene;
use super::misfit::misfit;
use crate::compile::names::Names;
use crate::diagnostic::{Bag, Diagnostic, Spanned};
use crate::expr::{ExprTree, Facts, Typed};
use crate::spec::ExprSpec;
use crate::state::{Merge, Type, is_turn};

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
                    && matches!(target.merge, Merge::Add | Merge::Max | Merge::Min | Merge::Merge) =>
            {
                Some(format!("null cannot join by `{}`", target.merge))
            }
            ExprTree::Const(value) if !joins_items(target.merge) => {
                target.field.ty.check(value).err().map(|mismatch| mismatch.why)
            }
            _ if takes(target.merge, &target.field.ty, &typed) => None,
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
