//! The type language and what a channel is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::{Named, either};

/// One type language for state, input, output and prompt inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// A text, with optional rules.
    String {
        /// A regular expression that the text matches somewhere.
        pattern: Option<String>,
        /// The fewest characters.
        min: Option<u64>,
        /// The most characters.
        max: Option<u64>,
    },
    /// A whole number within optional bounds.
    Integer {
        /// The least value.
        min: Option<i64>,
        /// The greatest value.
        max: Option<i64>,
    },
    /// A number within optional bounds.
    Number {
        /// The least value.
        min: Option<f64>,
        /// The greatest value.
        max: Option<f64>,
    },
    /// `true` or `false`.
    Boolean,
    /// An object of which nothing is known.
    Object,
    /// Anything; its fields are checked when they are read.
    Any,
    /// The conversation: chat turns, merged by id.
    Messages,
    /// One of these texts.
    Enum(Vec<String>),
    /// A list.
    List(Box<Type>),
    /// An object with exactly these fields, in the order written.
    Record(IndexMap<String, Field>),
    /// The type, or null.
    Nullable(Box<Type>),
    /// A declared type that values of it hold again: it stands by its name where it comes round.
    Named(Named),
    /// One of these, as the branches of an expression give it. No YAML spells it, so no channel holds it.
    Union(Vec<Type>),
}

/// A field of a record, an input, or what a channel holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its type; `Nullable` when it may be left out.
    pub ty: Type,
    /// Used when it is left out.
    pub default: Option<Json>,
    /// For people and for models.
    pub description: Option<String>,
}

/// How a write joins its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merge {
    /// The write takes the place of what was there.
    #[default]
    Replace,
    /// A list extends the list, an item is pushed.
    Append,
    /// Numbers add up.
    Add,
    /// Like `append`, without items that are there already.
    Union,
    /// The fields of an object replace those of the same name.
    Merge,
    /// The first write stays; a default does not count.
    First,
    /// The greatest value stays.
    Max,
    /// The least value stays.
    Min,
    /// Messages join by id: the same id replaces in place, a new one appends, `{remove: ID}` deletes.
    Messages,
}

/// One key of the state.
#[derive(Debug, Clone, PartialEq)]
pub struct Channel {
    /// What it holds.
    pub field: Field,
    /// How writes join it.
    pub merge: Merge,
    /// Kept out of outputs, events and the public state.
    pub private: bool,
    /// Starts anew with each run (`keep: run`).
    pub per_run: bool,
}

/// The channels of a graph by name.
pub type Channels = BTreeMap<String, Channel>;

/// A text that names no merge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no merge `{0}`")]
pub struct UnknownMerge(pub String);

/// The roles of a chat turn.
pub(crate) const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

impl Type {
    /// A text without rules.
    pub const STRING: Self = Self::String { pattern: None, min: None, max: None };
    /// A whole number without bounds.
    pub const INTEGER: Self = Self::Integer { min: None, max: None };
    /// Any integer from 0 on.
    pub const NATURAL: Self = Self::Integer { min: Some(0), max: None };
    /// A number without bounds.
    pub const NUMBER: Self = Self::Number { min: None, max: None };

    /// Returns the type without its `?`.
    pub fn non_null(&self) -> &Self {
        match self {
            Self::Nullable(inner) => inner.non_null(),
            other => other,
        }
    }

    /// Tells whether null is a value of the type.
    pub fn is_nullable(&self) -> bool {
        matches!(self, Self::Nullable(_) | Self::Any)
    }

    /// Returns the type with what it is made of at its top, where a name may stand.
    #[must_use]
    pub fn opened(&self) -> Self {
        match self {
            Self::Named(named) => named.open(),
            Self::Nullable(inner) => Self::Nullable(Box::new(inner.opened())),
            Self::Union(all) => all.iter().map(Self::opened).reduce(either).unwrap_or(Self::Any),
            other => other.clone(),
        }
    }

    /// Returns the types that a value may have: more than one for the branches of an expression.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Union(all) => all,
            other => std::slice::from_ref(other),
        }
    }

    /// Tells whether its values are lists.
    pub fn is_list(&self) -> bool {
        match self {
            Self::List(_) | Self::Messages => true,
            Self::Nullable(inner) => inner.is_list(),
            Self::Named(named) => named.open().is_list(),
            Self::Union(all) => all.iter().all(Self::is_list),
            _ => false,
        }
    }

    /// Returns the type of a field of a record.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Record(fields) => fields.get(name).map(|field| &field.ty),
            _ => None,
        }
    }
}

impl Field {
    /// Makes a field of a type, without default and description.
    pub fn of(ty: Type) -> Self {
        Self { ty, default: None, description: None }
    }

    /// Tells whether the field need not be given.
    pub fn may_be_left_out(&self) -> bool {
        self.default.is_some() || matches!(self.ty, Type::Nullable(_))
    }
}

/// Prints the type as it is written in a graph; rules such as `min` are left out.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String { .. } => f.write_str("string"),
            Self::Integer { .. } => f.write_str("integer"),
            Self::Number { .. } => f.write_str("number"),
            Self::Boolean => f.write_str("boolean"),
            Self::Object => f.write_str("object"),
            Self::Any => f.write_str("any"),
            Self::Messages => f.write_str("messages"),
            Self::Enum(values) => write!(f, "enum({})", values.join(", ")),
            Self::List(item) => write!(f, "[{item}]"),
            Self::Record(fields) => {
                f.write_str("{")?;
                for (n, (name, field)) in fields.iter().enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}{name}: {}", field.ty)?;
                }
                f.write_str("}")
            }
            Self::Nullable(inner) if matches!(**inner, Self::Union(_)) => write!(f, "{inner} or null"),
            Self::Nullable(inner) => write!(f, "{inner}?"),
            Self::Named(named) => f.write_str(&named.name),
            Self::Union(all) => {
                for (n, ty) in all.iter().enumerate() {
                    write!(f, "{}{ty}", if n == 0 { "" } else { " or " })?;
                }
                Ok(())
            }
        }
    }
}

impl Channel {
    /// Returns the value that the channel starts with, if any: its default, else what its merge begins
    /// with, else null where that is allowed.
    pub fn start(&self) -> Option<Json> {
        if let Some(default) = &self.field.default {
            let mut value = default.clone();
            self.field.ty.fill(&mut value);
            return Some(value);
        }
        match self.merge {
            Merge::Append | Merge::Union | Merge::Messages => Some(json!([])),
            Merge::Add => Some(json!(0)),
            Merge::Merge => Some(json!({})),
            Merge::Replace | Merge::First | Merge::Max | Merge::Min => {
                matches!(self.field.ty, Type::Nullable(_)).then_some(Json::Null)
            }
        }
    }
}

impl Merge {
    /// All merges, in the order of the language's page.
    pub const ALL: [Self; 9] = [
        Self::Replace,
        Self::Append,
        Self::Add,
        Self::Union,
        Self::Merge,
        Self::First,
        Self::Max,
        Self::Min,
        Self::Messages,
    ];

    /// Returns the merge of a channel that names none.
    pub fn default_of(ty: &Type) -> Self {
        if matches!(ty, Type::Messages) { Self::Messages } else { Self::Replace }
    }

    /// Tells whether writes can join a channel of this type this way.
    pub fn applies_to(self, ty: &Type) -> bool {
        let ty = ty.non_null();
        match self {
            Self::Replace | Self::First => !matches!(ty, Type::Messages),
            Self::Append | Self::Union => matches!(ty, Type::List(_)),
            Self::Add => matches!(ty, Type::Integer { .. } | Type::Number { .. }),
            Self::Merge => matches!(ty, Type::Object | Type::Record(_)),
            Self::Max | Self::Min => {
                matches!(ty, Type::Integer { .. } | Type::Number { .. } | Type::String { .. })
            }
            Self::Messages => matches!(ty, Type::Messages),
        }
    }

    /// Returns the name as it is written in a graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Add => "add",
            Self::Union => "union",
            Self::Merge => "merge",
            Self::First => "first",
            Self::Max => "max",
            Self::Min => "min",
            Self::Messages => "messages",
        }
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Merge {
    type Err = UnknownMerge;

    fn from_str(name: &str) -> Result<Self, UnknownMerge> {
        Self::ALL.into_iter().find(|merge| merge.name() == name).ok_or_else(|| UnknownMerge(name.to_owned()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::state) fn record(fields: &[(&str, Type)]) -> Type {
        Type::Record(fields.iter().map(|(name, ty)| ((*name).to_owned(), Field::of(ty.clone()))).collect())
    }

    pub(in crate::state) fn nullable(ty: Type) -> Type {
        Type::Nullable(Box::new(ty))
    }

    pub(in crate::state) fn list(ty: Type) -> Type {
        Type::List(Box::new(ty))
    }

    pub(in crate::state) fn one_of(values: &[&str]) -> Type {
        Type::Enum(values.iter().map(|&value| value.to_owned()).collect())
    }

    #[test]
    fn a_type_prints_as_it_is_written() {
        let hit = record(&[("id", Type::STRING), ("score", nullable(Type::NUMBER))]);
        assert_eq!(list(hit).to_string(), "[{id: string, score: number?}]");
        assert_eq!(nullable(one_of(&["a", "b"])).to_string(), "enum(a, b)?");
    }

    #[test]
    fn a_merge_reads_back_what_it_prints() {
        for merge in Merge::ALL {
            assert_eq!(merge.to_string().parse(), Ok(merge));
        }
        assert_eq!("set".parse::<Merge>(), Err(UnknownMerge("set".to_owned())));
    }

    #[test]
    fn a_channel_starts_with_its_default_or_with_what_its_merge_begins_with() {
        let channel = |ty: Type, merge, default: Option<Json>| Channel {
            field: Field { ty, default, description: None },
            merge,
            private: false,
            per_run: false,
        };
        for (channel, start) in [
            (channel(list(Type::Any), Merge::Append, None), Some(json!([]))),
            (channel(Type::Messages, Merge::Messages, None), Some(json!([]))),
            (channel(nullable(Type::INTEGER), Merge::Add, None), Some(json!(0))),
            (channel(Type::Object, Merge::Merge, None), Some(json!({}))),
            (channel(nullable(Type::STRING), Merge::Replace, None), Some(json!(null))),
            (channel(Type::STRING, Merge::Replace, None), None),
            (channel(Type::STRING, Merge::First, Some(json!("d"))), Some(json!("d"))),
            (channel(list(Type::Any), Merge::Replace, None), None),
        ] {
            assert_eq!(channel.start(), start, "{channel:?}");
        }
    }
}
