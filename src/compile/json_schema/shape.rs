//! What the keywords of JSON Schema hold: a value of another shape is a mistake, not a remark.

use serde_json::Value as Json;

/// What a keyword holds.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    Text,
    Boolean,
    List,
    Texts,
    Map,
}

/// Keywords that would say nothing, or something else, with a value of another shape. Those that are missing here are
/// looked at where they are read.
pub(super) const SHAPES: [(&str, Holds); 18] = [
    ("$id", Holds::Text),
    ("$comment", Holds::Text),
    ("$ref", Holds::Text),
    ("title", Holds::Text),
    ("description", Holds::Text),
    ("format", Holds::Text),
    ("pattern", Holds::Text),
    ("readOnly", Holds::Boolean),
    ("writeOnly", Holds::Boolean),
    ("deprecated", Holds::Boolean),
    ("examples", Holds::List),
    ("enum", Holds::List),
    ("anyOf", Holds::List),
    ("oneOf", Holds::List),
    ("required", Holds::Texts),
    ("properties", Holds::Map),
    ("$defs", Holds::Map),
    ("definitions", Holds::Map),
];

impl Holds {
    pub(super) fn fits(self, value: &Json) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Texts => value.as_array().is_some_and(|items| items.iter().all(Json::is_string)),
            Self::Map => value.is_object(),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Texts => "a list of texts",
            Self::Map => "an object",
        }
    }
}
