//! What is known of a value before it is there.

use std::fmt;

use serde_json::Value as Json;

use crate::state::{Field, Type};

/// What is known of a value.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own readers")]
pub struct Typed {
    /// Its type; `any` for null.
    pub ty: Type,
    /// It is the word `none`.
    pub null: bool,
    /// It is a text that stands in the expression: the type is an enum of it.
    pub literal: bool,
    /// It is `[]`, which fits every list.
    pub empty: bool,
    /// It is an object whose fields are written one by one: each may be missing.
    pub gradual: bool,
    /// It holds text from outside.
    pub untrusted: bool,
    /// The name that it was read from: `state.triage.intent`.
    pub path: Option<String>,
}

/// What can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Text,
    Number,
    Boolean,
    List,
    Object,
    Unknown,
}

impl Typed {
    /// Makes a value of which only the type is known.
    pub fn of(ty: Type) -> Self {
        Self { ty, null: false, literal: false, empty: false, gradual: false, untrusted: false, path: None }
    }

    /// Makes a value of which nothing is known.
    pub fn any() -> Self {
        Self::of(Type::Any)
    }

    pub(super) fn null() -> Self {
        Self { null: true, ..Self::any() }
    }

    pub(super) fn text(text: &str) -> Self {
        Self { literal: true, ..Self::of(Type::Enum(vec![text.to_owned()])) }
    }

    /// Makes what is known of a value that is there.
    pub fn of_json(value: &Json) -> Self {
        match value {
            Json::Null => Self::null(),
            Json::Bool(_) => Self::of(Type::Boolean),
            Json::Number(n) if n.is_f64() => Self::of(Type::NUMBER),
            Json::Number(_) => Self::of(Type::INTEGER),
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::list(items.iter().map(Self::of_json)),
            Json::Object(fields) => {
                Self::record(fields.iter().map(|(name, value)| (name.clone(), Self::of_json(value))))
            }
        }
    }

    /// Makes what is known of a list.
    pub fn list(items: impl Iterator<Item = Self>) -> Self {
        let Some(all) = items.reduce(Self::union) else {
            return Self { empty: true, ..Self::of(Type::List(Box::new(Type::Any))) };
        };
        Self { untrusted: all.untrusted, ..Self::of(Type::List(Box::new(all.whole()))) }
    }

    /// Makes what is known of an object.
    pub fn record(fields: impl Iterator<Item = (String, Self)>) -> Self {
        let mut untrusted = false;
        let fields = fields.map(|(name, typed)| {
            untrusted |= typed.untrusted;
            (name, Field::of(typed.whole()))
        });
        let ty = Type::Record(fields.collect());
        Self { untrusted, ..Self::of(ty) }
    }

    /// Takes over where the text of another value comes from.
    #[must_use]
    pub(super) fn trust(mut self, from: &Self) -> Self {
        self.untrusted |= from.untrusted;
        self
    }

    /// Returns the type with what is known besides: null is a nullable anything.
    pub fn whole(&self) -> Type {
        if self.null { Type::Nullable(Box::new(Type::Any)) } else { self.ty.clone() }
    }

    /// Says whether null may be there where the type promises a value.
    pub fn may_be_null(&self) -> bool {
        self.null || matches!(self.ty, Type::Nullable(_))
    }

    /// Returns what is known of a value that is one or the other.
    #[must_use]
    pub(super) fn union(self, other: Self) -> Self {
        let untrusted = self.untrusted || other.untrusted;
        let literal = self.literal && other.literal;
        let ty = match (self.null, other.null) {
            (true, true) => return Self { untrusted, ..Self::null() },
            (true, false) => nullable(other.ty),
            (false, true) => nullable(self.ty),
            // `[]` takes the type of whatever it stands beside.
            (false, false) if self.empty => other.ty,
            (false, false) if other.empty => self.ty,
            (false, false) => either(self.ty, other.ty),
        };
        Self { literal, untrusted, ..Self::of(ty) }
    }

    pub(super) fn family(&self) -> Family {
        family(&self.ty)
    }
}

pub(super) fn family(ty: &Type) -> Family {
    match ty {
        Type::String { .. } | Type::Enum(_) => Family::Text,
        Type::Integer { .. } | Type::Number { .. } => Family::Number,
        Type::Boolean => Family::Boolean,
        Type::List(_) | Type::Messages => Family::List,
        Type::Object | Type::Record(_) => Family::Object,
        Type::Nullable(inner) => family(inner),
        Type::Any => Family::Unknown,
    }
}

pub(super) fn nullable(ty: Type) -> Type {
    if ty.is_nullable() { ty } else { Type::Nullable(Box::new(ty)) }
}

/// Returns the narrowest type that takes both.
fn either(a: Type, b: Type) -> Type {
    match (a, b) {
        (Type::Nullable(a), b) | (b, Type::Nullable(a)) => nullable(either(*a, b.non_null().clone())),
        (Type::Enum(mut a), Type::Enum(b)) => {
            let more: Vec<String> = b.into_iter().filter(|value| !a.contains(value)).collect();
            a.extend(more);
            Type::Enum(a)
        }
        (Type::List(a), Type::List(b)) => Type::List(Box::new(either(*a, *b))),
        (a, b) if a.accepts(&b) => a,
        (a, b) if b.accepts(&a) => b,
        _ => Type::Any,
    }
}

/// Prints what a message says of the value: its type, or the literal itself.
impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ty {
            _ if self.null => f.write_str("null"),
            Type::Enum(values) if self.literal => match values.as_slice() {
                [one] => write!(f, "the text '{one}'"),
                _ => f.write_str("a text"),
            },
            Type::List(_) if self.empty => f.write_str("an empty list"),
            ty => ty.fmt(f),
        }
    }
}
