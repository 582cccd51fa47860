//! Which types take values of which others.

use indexmap::IndexMap;

use super::types::{ROLES, Type};
use super::{Field, Named};

impl Type {
    /// Tells whether a value of `other` may be written where `self` is due. Rules such as `min` and
    /// `pattern` are left to the check of the value; `any` goes both ways.
    pub fn accepts(&self, other: &Self) -> bool {
        accepts(self, other, &mut Vec::new())
    }

    /// Says which field of a value of `other` differs from what is due, and how; nothing when it is more than a field.
    pub fn differs(&self, other: &Self) -> Option<(String, String)> {
        let (Self::Record(due), Self::Record(given)) = (self.non_null(), other.non_null()) else {
            return None;
        };
        let missing = due.iter().find(|(name, field)| !given.contains_key(*name) && !field.may_be_left_out());
        if let Some((name, _)) = missing {
            return Some((name.clone(), format!("the field `{name}` is missing")));
        }
        given.iter().find_map(|(name, found)| {
            let how = match due.get(name) {
                None => format!("the field `{name}` is not part of it"),
                Some(field) if !field.ty.accepts(&found.ty) => {
                    format!("the field `{name}` is {}, not {}", found.ty, field.ty)
                }
                Some(_) => return None,
            };
            Some((name.clone(), how))
        })
    }
}

/// `open` holds the pairs of names that are looked at: where one comes round, nothing has spoken against it.
fn accepts(due: &Type, given: &Type, open: &mut Vec<(Named, Named)>) -> bool {
    match (due, given) {
        (Type::Any, _)
        | (_, Type::Any)
        | (Type::String { .. }, Type::String { .. } | Type::Enum(_))
        | (Type::Integer { .. }, Type::Integer { .. })
        | (Type::Number { .. }, Type::Number { .. } | Type::Integer { .. })
        | (Type::Boolean, Type::Boolean)
        | (Type::Object, Type::Object | Type::Record(_))
        | (Type::Messages, Type::Messages) => true,
        (Type::Named(due), Type::Named(given)) if due == given => true,
        (Type::Named(due), Type::Named(given)) => {
            let pair = (due.clone(), given.clone());
            if open.contains(&pair) {
                return true;
            }
            let before = open.len();
            open.push(pair);
            let fits = accepts(&due.open(), &given.open(), open);
            if !fits {
                open.truncate(before);
            }
            fits
        }
        (_, Type::Union(all)) => all.iter().all(|given| accepts(due, given, open)),
        (Type::Nullable(due), Type::Nullable(given)) | (Type::List(due), Type::List(given)) => {
            accepts(due, given, open)
        }
        (Type::Nullable(due), given) => accepts(due, given, open),
        (Type::Named(due), given) => accepts(&due.open(), given, open),
        (due, Type::Named(given)) => accepts(due, &given.open(), open),
        (Type::Union(any), given) => any.iter().any(|due| accepts(due, given, open)),
        (Type::Enum(due), Type::Enum(given)) => given.iter().all(|value| due.contains(value)),
        (Type::List(due), Type::Messages) => match due.opened() {
            Type::Any | Type::Object => true,
            Type::Record(fields) => fields.iter().all(|(name, field)| match name.as_str() {
                "id" | "role" => field.ty.accepts(&Type::STRING),
                "content" => field.ty == Type::Any,
                _ => false,
            }),
            _ => false,
        },
        (Type::Messages, Type::List(given)) => given.opened().each().iter().all(|given| match given {
            Type::Any | Type::Object => true,
            Type::Record(fields) => is_turn(fields),
            _ => false,
        }),
        (Type::Record(due), Type::Record(given)) => {
            given.keys().all(|name| due.contains_key(name))
                && due.iter().all(|(name, field)| match given.get(name) {
                    Some(found) => accepts(&field.ty, &found.ty, open),
                    None => Field::may_be_left_out(field),
                })
        }
        _ => false,
    }
}

/// Says whether an object with these fields can be a chat turn: a role that there is, and as content a text or a list.
/// Null is looked at elsewhere.
pub(crate) fn is_turn(fields: &IndexMap<String, Field>) -> bool {
    let all = |name: &str, fits: &dyn Fn(&Type) -> bool| {
        fields.get(name).is_some_and(|field| field.ty.opened().non_null().each().iter().all(fits))
    };
    let role = all("role", &|ty| match ty {
        Type::Enum(values) => values.iter().all(|value| ROLES.contains(&value.as_str())),
        ty => matches!(ty, Type::Any),
    });
    let content = |ty: &Type| matches!(ty, Type::String { .. } | Type::Enum(_) | Type::List(_) | Type::Any);
    role && all("content", &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::types::tests::{list, nullable, one_of, record};

    #[test]
    fn a_value_may_be_written_where_its_type_is_accepted() {
        let (any, int, num, text) = (Type::Any, Type::INTEGER, Type::NUMBER, Type::STRING);
        let (ab, abc) = (one_of(&["a", "b"]), one_of(&["a", "b", "c"]));
        let hit = record(&[("id", text.clone()), ("note", nullable(text.clone()))]);
        let bare = record(&[("id", text.clone())]);
        for (due, given, fits) in [
            (&num, &int, true),
            (&int, &num, false),
            (&text, &ab, true),
            (&abc, &ab, true),
            (&ab, &abc, false),
            (&ab, &text, false),
            (&any, &hit, true),
            (&hit, &any, true),
            (&nullable(num.clone()), &int, true),
            (&nullable(num.clone()), &nullable(int.clone()), true),
            (&num, &nullable(num.clone()), false),
            (&hit, &bare, true),
            (&bare, &hit, false),
            (&Type::Object, &hit, true),
            (&hit, &Type::Object, false),
            (&list(num.clone()), &list(int.clone()), true),
            (&list(int.clone()), &int, false),
            (&list(any.clone()), &Type::Messages, true),
            (&Type::Messages, &text, false),
        ] {
            assert_eq!(due.accepts(given), fits, "{due} <- {given}");
        }
    }
}
