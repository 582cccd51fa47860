//! Types and channels.

use super::{Key, Map, Named, Rule, Shape, Shared, Word, key, word};

/// A type.
pub static TYPE: Shared = Shared {
    name: "type",
    doc: "A type: `string integer number boolean object any messages` or a type of project.yaml, with `?` when it may \
          be null; `[T]`; `{field: T, …}`; or a descriptor with one of the keys `type enum fields schema`.",
    shape: Shape::OneOf(&TYPE_FORMS),
};

/// A channel.
pub static CHANNEL: Shared = Shared {
    name: "channel",
    doc: "A channel: a type such as `string`, `[string]` or `messages`, or a map with one of the keys `type enum \
          fields schema` and rules such as `merge` and `default`.",
    shape: Shape::OneOf(&CHANNEL_FORMS),
};

static TYPE_FORMS: [Shape; 3] = [
    Shape::Name(Named::Type),
    Shape::One(&Shape::Shared(&TYPE)),
    Shape::Marked { by: &BASES, map: &TYPE_RULES, fields: &Shape::Shared(&TYPE) },
];

static CHANNEL_FORMS: [Shape; 3] = [
    Shape::Name(Named::Type),
    Shape::One(&Shape::Shared(&TYPE)),
    Shape::Marked { by: &BASES, map: &CHANNEL_RULES, fields: &Shape::Shared(&TYPE) },
];

/// A type with its rules.
pub static TYPE_RULES: Map = Map {
    name: "type_rules",
    doc: "A type with its rules.",
    groups: &[&BASES, &RULES],
    rules: &[Rule::OneOf(&["type", "enum", "fields", "schema"])],
};

/// A channel with its rules.
pub static CHANNEL_RULES: Map = Map {
    name: "channel_rules",
    doc: "A channel with its rules.",
    groups: &[&BASES, &RULES, &CHANNEL_ONLY],
    rules: &[Rule::OneOf(&["type", "enum", "fields", "schema"])],
};

/// The keys that make a map a descriptor.
pub(in crate::spec) static BASES: [Key; 4] = [
    key(
        "type",
        Shape::Shared(&TYPE),
        "What it holds: a built-in type, a type of project.yaml, `[T]` or `{field: T, …}`.",
    ),
    key("enum", Shape::Filled(&Shape::Text), "The texts that it can be: `[low, high]`."),
    key(
        "fields",
        Shape::Names(Named::Field, &Shape::Shared(&TYPE)),
        "The fields of an object and their types; needed where a field is called `type`, `enum`, `fields` or `schema`.",
    ),
    key(
        "schema",
        Shape::Name(Named::Schema),
        "A JSON Schema file of the project, by its path: `schemas/order.json`.",
    ),
];

static RULES: [Key; 6] = [
    key("default", Shape::Any, "The value where none is written. It has to fit the type."),
    key("min", Shape::Number, "The least number, or the fewest characters of a text."),
    key("max", Shape::Number, "The greatest number, or the most characters of a text."),
    key("pattern", Shape::Name(Named::Pattern), "A regular expression that a text has to match somewhere."),
    key("description", Shape::Text, "What it is, for people and for models."),
    key("optional", Shape::Boolean, "May be null, the same as `?` after the type. Default: `false`."),
];

/// The keys that only a channel has.
pub(in crate::spec) static CHANNEL_ONLY: [Key; 3] = [
    key(
        "merge",
        Shape::Word(&MERGES),
        "How a write joins what is there. Default: `replace`; for `messages` it is `messages`.",
    ),
    key(
        "private",
        Shape::Boolean,
        "Keeps the channel out of outputs, events and the public state. Default: `false`.",
    ),
    key("keep", Shape::Word(&KEEPS), "How long the value stays. Default: `thread`."),
];

static KEEPS: [Word; 2] = [
    word("thread", "From run to run, as long as the thread is there."),
    word("run", "Until the run ends: each run starts anew."),
];

static MERGES: [Word; 9] = [
    word("replace", "The write takes the place of what was there."),
    word("append", "A list extends the list, and an item is pushed."),
    word("add", "Numbers add up."),
    word("union", "Like `append`, without items that are there already."),
    word("merge", "The fields of an object replace those of the same name."),
    word("first", "The first write stays; a default does not count."),
    word("max", "The greatest value stays."),
    word("min", "The least value stays."),
    word(
        "messages",
        "Chat turns join by id: the same id replaces, a new one appends, `{remove: ID}` deletes.",
    ),
];

/// The types that are always there.
pub(super) static BUILT_IN: [Word; 7] = [
    word("string", "A text."),
    word("integer", "A whole number."),
    word("number", "A number."),
    word("boolean", "`true` or `false`."),
    word("object", "An object of which nothing is known."),
    word("any", "Anything; its fields are checked when they are read."),
    word("messages", "The conversation: chat turns, merged by id. A graph has at most one such channel."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Merge;

    #[test]
    fn the_merges_are_those_of_the_state() {
        assert!(MERGES.iter().map(|word| word.name).eq(Merge::ALL.into_iter().map(Merge::name)));
    }
}
