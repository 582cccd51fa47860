//! What a value is that has one type or another: the branches of an expression.

use indexmap::map::Entry;

use super::Type;

/// The most records that are told apart; beyond that they are objects of which nothing is known.
const MOST: usize = 8;

/// Returns the type, or null.
pub(crate) fn nullable(ty: Type) -> Type {
    if ty.is_nullable() { ty } else { Type::Nullable(Box::new(ty)) }
}

/// Returns the type of a value that has one of two. Nothing is lost: what takes both takes the result.
pub(crate) fn either(a: Type, b: Type) -> Type {
    match (a, b) {
        (Type::Nullable(a), Type::Nullable(b)) => Type::Nullable(Box::new(either(*a, *b))),
        (Type::Nullable(a), b) => Type::Nullable(Box::new(either(*a, b))),
        (a, Type::Nullable(b)) => Type::Nullable(Box::new(either(a, *b))),
        (Type::Union(all), b) => {
            let more = if let Type::Union(more) = b { more } else { vec![b] };
            let mut all = more.into_iter().fold(all, add);
            if all.len() == 1 { all.remove(0) } else { Type::Union(all) }
        }
        (a, b) => either(Type::Union(vec![a]), b),
    }
}

/// Adds a type to those of a union.
fn add(mut all: Vec<Type>, mut ty: Type) -> Vec<Type> {
    for known in &mut all {
        match join(std::mem::replace(known, Type::Any), ty) {
            Ok(joined) => {
                *known = joined;
                return all;
            }
            Err(pair) => (*known, ty) = *pair,
        }
    }
    let records = |ty: &Type| matches!(ty, Type::Record(_));
    if records(&ty) && all.iter().filter(|ty| records(ty)).count() == MOST {
        all.retain(|ty| !records(ty));
        ty = Type::Object;
    }
    all.push(ty);
    all
}

/// Joins two types that are one sort of value; gives them back when they are not.
fn join(a: Type, b: Type) -> Result<Type, Box<(Type, Type)>> {
    Ok(match (a, b) {
        (a, b) if a == b => a,
        (Type::Enum(mut a), Type::Enum(b)) => {
            let more: Vec<String> = b.into_iter().filter(|value| !a.contains(value)).collect();
            a.extend(more);
            Type::Enum(a)
        }
        (Type::String { .. } | Type::Enum(_), Type::String { .. } | Type::Enum(_)) => Type::STRING,
        (Type::Integer { .. }, Type::Integer { .. }) => Type::INTEGER,
        (Type::Integer { .. } | Type::Number { .. }, Type::Integer { .. } | Type::Number { .. }) => {
            Type::NUMBER
        }
        (Type::List(a), Type::List(b)) => Type::List(Box::new(either(*a, *b))),
        (Type::Object, Type::Record(_)) | (Type::Record(_), Type::Object) => Type::Object,
        (Type::Record(mut a), Type::Record(mut b))
            if a.len() == b.len() && a.keys().all(|name| b.contains_key(name)) =>
        {
            for (name, field) in &mut a {
                if let Entry::Occupied(other) = b.entry(name.clone()) {
                    let ty = std::mem::replace(&mut field.ty, Type::Any);
                    field.ty = either(ty, other.swap_remove().ty);
                }
            }
            Type::Record(a)
        }
        (a, b) => return Err(Box::new((a, b))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::types::tests::record;

    #[test]
    fn what_takes_both_types_takes_what_they_make_and_nothing_else_does() {
        let list = |ty: &Type| Type::List(Box::new(ty.clone()));
        let maybe = |ty: &Type| Type::Nullable(Box::new(ty.clone()));
        let word = Type::Enum(vec!["a".to_owned()]);
        let (x, xy) = (record(&[("x", Type::STRING)]), record(&[("x", Type::STRING), ("y", maybe(&word))]));
        let mut all = vec![Type::STRING, Type::INTEGER, Type::NUMBER, Type::Boolean, Type::Any, word, x, xy];
        all.extend([Type::Object, Type::Messages]);
        all.extend(all.clone().iter().map(list).collect::<Vec<_>>());
        all.extend(all.clone().iter().map(maybe).collect::<Vec<_>>());
        for a in &all {
            for b in &all {
                let made = either(a.clone(), b.clone());
                assert_eq!(made, either(made.clone(), b.clone()), "{a} and {b}");
                // A conversation takes objects of which nothing is known.
                for due in all.iter().filter(|due| *due.non_null() != Type::Messages) {
                    let both = due.accepts(a) && due.accepts(b);
                    assert!(both || !due.accepts(&made), "{due} takes {made}, but not both of {a} and {b}");
                }
            }
        }
    }
}
