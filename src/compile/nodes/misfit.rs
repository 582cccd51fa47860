//! Where in a value that does not fit the reason is, so that a finding points at the branch, the item or the field.

use crate::compile::names::Names;
use crate::diagnostic::Span;
use crate::expr::{Facts, Typed, odd_part};
use crate::spec::ExprSpec;
use crate::state::Type;

/// Returns the place of the part that does not fit `due`, and says what it is. `fits` says whether a value can go where
/// the whole goes, by whichever merge; `typed` is the whole.
pub(in crate::compile) fn misfit(
    names: &Names,
    spec: &ExprSpec,
    typed: &Typed,
    due: &Type,
    fits: &dyn Fn(&Typed) -> bool,
) -> (Span, String) {
    if let Some((span, odd)) = part(names, spec, due, fits) {
        let how = due.differs(&odd.ty).filter(|_| span == spec.span());
        return (span, how.map_or_else(|| format!("this is {odd}"), |(_, how)| how));
    }
    match due.differs(&typed.ty) {
        Some((field, how)) => (spec.key(&field).unwrap_or(spec.span()), how),
        None => (spec.span(), format!("this is {typed}")),
    }
}

fn part(names: &Names, spec: &ExprSpec, due: &Type, fits: &dyn Fn(&Typed) -> bool) -> Option<(Span, Typed)> {
    match spec {
        ExprSpec::Text(text) => {
            let (range, typed) = odd_part(&text.value, &names.roots, due, fits)?;
            Some((text.locate(range), typed))
        }
        ExprSpec::List(items, _) => {
            let Type::List(item) = due.non_null() else { return None };
            let item = item.opened();
            items.iter().find_map(|value| odd(names, value, &item))
        }
        ExprSpec::Map(values, _) => {
            let Type::Record(fields) = due.non_null() else { return None };
            values.iter().find_map(|(name, value)| odd(names, value, &fields.get(&name.value)?.ty.opened()))
        }
        ExprSpec::Const(..) => None,
    }
}

/// Looks at an item or a field.
fn odd(names: &Names, spec: &ExprSpec, due: &Type) -> Option<(Span, Typed)> {
    let fits = |typed: &Typed| due.accepts(&typed.whole()) || (typed.empty && due.is_list());
    let typed = names.type_of_spec(spec, &Facts::default());
    if fits(&typed) {
        return None;
    }
    Some(part(names, spec, due, &fits).unwrap_or_else(|| (spec.span(), typed)))
}
