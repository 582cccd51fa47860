//! What is known of a value before it is there.

use std::fmt;

use serde_json::Value as Json;

use super::turn;
use crate::state::{Field, Type, either, nullable};

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
    /// It is a list of lists that have exactly these parts each.
    pub(crate) parts: Option<Vec<Type>>,
    /// The name that it was read from: `state.triage.intent`.
    pub path: Option<String>,
}

/// What can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Text,
    Number,
    Boolean,
    List,
    Object,
    Unknown,
    /// One or the other, as a branch gives it.
    Mixed,
}

impl Typed {
    /// Makes a value of which only the type is known.
    pub fn of(ty: Type) -> Self {
        let ty =
            if matches!(ty, Type::Named(_) | Type::Nullable(_) | Type::Union(_)) { ty.opened() } else { ty };
        Self {
            ty,
            null: false,
            literal: false,
            empty: false,
            gradual: false,
            untrusted: false,
            parts: None,
            path: None,
        }
    }

    /// Makes a value of which nothing is known.
    pub fn any() -> Self {
        Self::of(Type::Any)
    }

    /// Makes a list of lists that have these parts each.
    pub(super) fn rows(parts: Vec<Type>) -> Self {
        let item = parts.iter().cloned().reduce(either).unwrap_or(Type::Any);
        let ty = Type::List(Box::new(Type::List(Box::new(item))));
        Self { parts: Some(parts), ..Self::of(ty) }
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

    /// Says whether the value can be asked for as it is: it is a boolean, as far as that is known.
    pub fn is_condition(&self) -> bool {
        self.must_be(&[Family::Boolean]) && !matches!(self.ty, Type::Nullable(_))
    }

    /// Says whether null may be there where the type promises a value.
    pub fn may_be_null(&self) -> bool {
        self.null || matches!(self.ty, Type::Nullable(_))
    }

    /// Says whether nothing may be known of the value: it may be null as well.
    pub fn may_be_any(&self) -> bool {
        self.ty.each().contains(&Type::Any)
    }

    /// Returns what is known of a value that is one or the other.
    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        let untrusted = self.untrusted || other.untrusted;
        let literal = self.literal && other.literal;
        let gradual = self.gradual || other.gradual;
        let empty = self.empty && other.empty;
        let ty = match (self.null, other.null) {
            (true, true) => return Self { untrusted, ..Self::null() },
            (true, false) => nullable(other.ty),
            (false, true) => nullable(self.ty),
            // `[]` takes the type of a list that it stands beside.
            (false, false) if self.empty && other.ty.is_list() => other.ty,
            (false, false) if other.empty && self.ty.is_list() => self.ty,
            (false, false) => either(self.ty, other.ty),
        };
        Self { literal, empty, gradual, untrusted, ..Self::of(ty) }
    }

    pub(crate) fn family(&self) -> Family {
        family(&self.ty)
    }

    /// Says whether the value may be of one of these families.
    pub(crate) fn may_be(&self, families: &[Family]) -> bool {
        self.ty.non_null().each().iter().any(|ty| families.contains(&family(ty)))
    }

    /// Says whether the value is of one of these families, as far as it is known.
    pub(crate) fn must_be(&self, families: &[Family]) -> bool {
        let fits = |ty: &Type| matches!(family(ty), Family::Unknown) || families.contains(&family(ty));
        self.ty.non_null().each().iter().all(fits)
    }

    /// Returns what the items are, when the value is a list.
    pub(crate) fn items(&self) -> Option<Type> {
        let items = self.ty.non_null().each().iter().map(|ty| match ty {
            Type::List(item) => Some(item.opened()),
            Type::Messages => Some(turn()),
            Type::Any => Some(Type::Any),
            _ => None,
        });
        items.collect::<Option<Vec<_>>>()?.into_iter().reduce(either)
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
        Type::Named(named) => family(&named.open()),
        Type::Any => Family::Unknown,
        Type::Union(all) => {
            let all: Vec<Family> = all.iter().map(family).collect();
            match all.first() {
                Some(first) if all.iter().all(|family| family == first) => *first,
                _ if all.contains(&Family::Unknown) => Family::Unknown,
                _ => Family::Mixed,
            }
        }
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
