//! The language as one table: each map with fixed keys, each key with its documentation and the shape of its value.
//!
//! The reader takes the known keys from here, and so do the JSON Schemas, an editor and the documentation.
//! Invariant: only what this build understands is in it. The reader asks for each key of a map and for no other
//! one; a debug build stops where the two part.

mod call;
mod graph;
mod next;
mod node;
mod project;
mod test;
mod tool;
pub(super) mod types;

pub use call::{ASK, BODIES, CUSTOM, DO, GRAPH_NODE, HTTP, MAP, TOOL_NODE};
pub use graph::{DEFAULTS, GRAPH, LIMITS, MIGRATION, TIMEOUT};
pub use next::{
    ALL, BRANCH, CATCH, CODE, ELSE, ERROR_RULE, MATCH, NEXT, ON_ERROR, OTHERWISE, RULE, SOME, WHEN,
};
pub use node::{CACHE, FAIL, HISTORY, KINDS, LLM, NODE, PARAMS, ROUTE, SAY, SET};
pub use project::{FRONT_MATTER, LINE, MODEL, MODEL_PARAMS, PRICE, PROJECT, RETENTION, RETRY, SECRET};
pub use test::{CALL, CASE, ENTRY, EXPECT, FAILURE, GIVEN, PROMPT, SAID, TEST, TURN, WAY};
pub use tool::{AUTH, BASIC, ENV, HOSTS, HTTP_CALL, MCP, SECRET_RULE, TOOL};
pub use types::{CHANNEL, CHANNEL_RULES, TYPE, TYPE_RULES};

/// A map with fixed keys. Keys that begin with `x-` are free in all of them.
pub struct Map {
    /// Its name, the same for good: `graph`, `llm`, `timeout`.
    pub name: &'static str,
    /// What it is, for the person who edits YAML.
    pub doc: &'static str,
    /// Its keys; groups are shared with other maps.
    pub groups: &'static [&'static [Key]],
    /// What holds between its keys.
    pub rules: &'static [Rule],
}

/// A key of a map.
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// The shape of its value.
    pub shape: Shape,
    /// What it does, for the person who edits YAML: with unit and default.
    pub doc: &'static str,
    /// It has to be there.
    pub required: bool,
}

/// The shape of a value.
#[derive(Clone, Copy)]
pub enum Shape {
    /// The number of the language's format.
    Format,
    /// A text.
    Text,
    /// A text in which `{{ … }}` is filled in.
    Template,
    /// An expression, without braces.
    Expression,
    /// An expression, or a list or map whose leaves are expressions.
    Value,
    /// A name of something, fixed: no braces.
    Name(Named),
    /// One of these words.
    Word(&'static [Word]),
    /// The kind of a node.
    Kind(&'static [Kind]),
    /// A number and a unit: `500ms`, `30s`.
    Duration,
    /// A whole number of 1 or more.
    Count,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A number from the first to the second.
    Range(f64, f64),
    /// `true` or `false`.
    Boolean,
    /// Anything.
    Any,
    /// A map of anything.
    AnyMap,
    /// A list.
    List(&'static Shape),
    /// A list that is not empty.
    Filled(&'static Shape),
    /// A list of exactly one.
    One(&'static Shape),
    /// A map whose keys are names of the author's choice.
    Names(Named, &'static Shape),
    /// A map with fixed keys.
    Map(&'static Map),
    /// A map with fixed keys where it has one of these, else the fields of a record and their types.
    Marked {
        /// The keys that tell.
        by: &'static [Key],
        /// The map with fixed keys.
        map: &'static Map,
        /// The types of the fields.
        fields: &'static Shape,
    },
    /// A node, or the body of one: a map whose keys depend on its kind.
    Kinds(&'static str, &'static [Kind]),
    /// One of several shapes; what the author wrote tells which.
    OneOf(&'static [Shape]),
    /// A shape that is used in many places, or within itself.
    Shared(&'static Shared),
}

/// A shape with a name.
pub struct Shared {
    /// Its name, the same for good: `next`, `type`.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// The shape.
    pub shape: Shape,
}

/// A kind of node.
pub struct Kind {
    /// As it is written after `kind:`.
    pub name: &'static str,
    /// The keys of such a node.
    pub map: &'static Map,
}

/// A word of a closed list.
pub struct Word {
    /// As it is written.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// What a name is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A graph: the stem of its file.
    Graph,
    /// A node; where one is named also `end`.
    Node,
    /// A channel of the state.
    Channel,
    /// A channel that only older versions of the graph had.
    Former,
    /// An input of a run or of a prompt.
    Input,
    /// A key of a graph's output.
    Output,
    /// A value that an expression after `match` can have.
    Case,
    /// A field of a type.
    Field,
    /// A type; where one is named also the built-in ones, with or without `?`.
    Type,
    /// A prompt file.
    Prompt,
    /// A chat model.
    Model,
    /// A retry policy.
    Retry,
    /// A secret.
    Secret,
    /// A tool.
    Tool,
    /// An argument of a tool.
    Argument,
    /// What a host program registered.
    Registered,
    /// An MCP server.
    Server,
    /// A setting, read as `env.NAME`.
    Setting,
    /// A variable of a program's environment.
    Variable,
    /// A host, with or without a port.
    Host,
    /// A header of a request.
    Header,
    /// An event for the reader of the stream.
    Event,
    /// An item of a list, in the body of a `map`.
    Item,
    /// A JSON Schema file.
    Schema,
    /// The code of a finding that can be silenced.
    Code,
    /// The code of a node's own error.
    ErrorCode,
    /// A kind of error.
    ErrorKind,
    /// A URL.
    Url,
    /// A regular expression.
    Pattern,
}

/// What holds between keys.
pub enum Rule {
    /// This key has to be there, though the group it belongs to does not say so.
    Due(&'static str),
    /// Exactly one of these.
    OneOf(&'static [&'static str]),
    /// At least one of these.
    AnyOf(&'static [&'static str]),
    /// At most one of these.
    NotBoth(&'static str, &'static str),
    /// All of these or none.
    Together(&'static [&'static str]),
    /// The first says nothing without the second.
    Needs(&'static str, &'static str),
    /// Where a key has a value, another one is due.
    If {
        /// The key.
        key: &'static str,
        /// Its value.
        is: &'static str,
        /// The other key.
        due: &'static str,
    },
}

/// Names that are something else everywhere.
pub const RESERVED: [&str; 6] = ["end", "start", "error", "item", "index", "result"];

impl Map {
    /// Returns the keys, in the order in which they are shown.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// Returns the names of the keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.keys().map(|key| key.name)
    }

    /// Finds a key.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// Tells whether the map is incomplete without a key.
    pub fn needs(&self, key: &Key) -> bool {
        key.required || self.rules.iter().any(|rule| matches!(rule, Rule::Due(name) if *name == key.name))
    }
}

impl Named {
    /// Returns the names that are always there.
    pub fn words(self) -> &'static [Word] {
        match self {
            Self::Node => &next::END,
            Self::Type => &types::BUILT_IN,
            Self::ErrorKind => &project::ERROR_KINDS,
            _ => &[],
        }
    }
}

/// A key that may be left out.
const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, doc, required: false }
}

/// A key that has to be there.
const fn due(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, doc, required: true }
}

const fn word(name: &'static str, doc: &'static str) -> Word {
    Word { name, doc }
}
