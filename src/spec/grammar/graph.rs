//! A graph file.

use super::next::{NEXT, ON_ERROR, TO};
use super::node::KINDS;
use super::types::{CHANNEL, TYPE};
use super::{Key, Map, Named, Rule, Shape, Word, due, key, word};

/// A graph file.
pub static GRAPH: Map = Map {
    name: "graph",
    doc: "A graph: its nodes, the edges between them, and the state that they share. The file's name is its id.",
    groups: &[&TOP],
    rules: &[],
};

static TOP: [Key; 14] = [
    FORMAT,
    key("description", Shape::Text, "What the graph does, for people: shown where graphs are listed."),
    key("input", INPUTS, "The inputs of a run, by name: read as `input.NAME`, never written."),
    key(
        "output",
        Shape::OneOf(&OUTPUTS),
        "What a run gives at its end: a list of channels, or a map of names and expressions. Default: the public \
         state without the conversation.",
    ),
    key(
        "state",
        CHANNELS,
        "The channels of the state, by name: read as `state.NAME`, written by nodes, kept with the thread.",
    ),
    due("start", Shape::Shared(&NEXT), "Where a run begins: a node, or any other form of `next`."),
    due("nodes", NODES, "The nodes, by name. Their order means nothing."),
    key(
        "on_error",
        Shape::Shared(&ON_ERROR),
        "Where to go when a node fails whose own `on_error` does not say: a node, or rules. It does not cover its own \
         handlers, nor what they lead to. Default: the run fails.",
    ),
    key(
        "on_limit",
        TO,
        "Where to go when a limit of `limits` is used up, with `error.kind` `limit`: what is under way is cancelled, \
         and as much again of that limit is granted, once. Default: the run fails.",
    ),
    key("limits", Shape::Map(&LIMITS), "What stops a run that goes on for too long."),
    key(
        "durability",
        Shape::Word(&DURABILITIES),
        "When supersteps are stored, where a request does not say. Default: `sync`.",
    ),
    key("defaults", Shape::Map(&DEFAULTS), "Settings of all nodes that do not say otherwise."),
    key(
        "migrate",
        Shape::Filled(&Shape::Map(&MIGRATION)),
        "How the states of older versions of the graph are brought to this one, at the next run of each thread: first \
         the renames, then the drops, then the defaults.",
    ),
    key(
        "allow",
        ALLOW,
        "Warnings and lints that are silent in this file, each with a reason: `{G216: why}`.",
    ),
];

static DURABILITIES: [Word; 3] = [
    word("sync", "Each before the next one begins: a crash costs the superstep that is under way."),
    word("async", "Each while the next one works: faster, and a crash can cost one superstep more."),
    word(
        "exit",
        "All together at the end of the run, or when it waits for a person: fastest, and a crash costs all since the \
         last of these.",
    ),
];

/// `format`, everywhere.
pub(super) const FORMAT: Key =
    due("format", Shape::Format, "The version of the language that the file is written in: 1.");

/// `allow`, everywhere.
pub(super) const ALLOW: Shape = Shape::Names(Named::Code, &Shape::Text);

const CHANNELS: Shape = Shape::Names(Named::Channel, &Shape::Shared(&CHANNEL));
const NODES: Shape = Shape::Names(Named::Node, &Shape::Kinds("node", &KINDS));

/// Names with types.
pub(super) const INPUTS: Shape = Shape::Names(Named::Input, &Shape::Shared(&TYPE));

static OUTPUTS: [Shape; 2] =
    [Shape::List(&Shape::Name(Named::Channel)), Shape::Names(Named::Output, &Shape::Value)];

/// What stops a run.
pub static LIMITS: Map = Map {
    name: "limits",
    doc: "What stops a run that goes on for too long. It ends with an error of the kind `limit`.",
    groups: &[&LIMIT_KEYS],
    rules: &[],
};

static LIMIT_KEYS: [Key; 6] = [
    key("steps", Shape::Count, "The most supersteps of a run. Default: 100."),
    key("time", Shape::Duration, "The longest time of a run, from its start or resume. Default: `15m`."),
    key("calls", Shape::Count, "The most calls of models in a run. Default: no limit."),
    key("tokens", Shape::Count, "The most tokens of all model calls of a run together. Default: no limit."),
    key(
        "cost_usd",
        Shape::Range(0.0, 1e6),
        "What all model calls of a run may cost together, in US dollars, by the `price` of the models. Default: no limit.",
    ),
    key("parallel", Shape::Count, "The most nodes of one superstep that work at once. Default: 100."),
];

/// Settings of all nodes.
pub static DEFAULTS: Map = Map {
    name: "defaults",
    doc: "Settings of all nodes that do not say otherwise. They go before those of the model.",
    groups: &[&DEFAULT_KEYS],
    rules: &[],
};

static DEFAULT_KEYS: [Key; 3] = [
    key(
        "model",
        Shape::Name(Named::Model),
        "The model of `llm` nodes that name none. Default: `default_model` of project.yaml.",
    ),
    key(
        "retry",
        Shape::Name(Named::Retry),
        "The retry policy of nodes that name none. Default: the model's.",
    ),
    key(
        "timeout",
        TIMEOUTS,
        "How long an attempt of a node may take. Default: the model's, else `2m` in all.",
    ),
];

/// A rule of `migrate`.
pub static MIGRATION: Map = Map {
    name: "migration",
    doc: "A rule by which states of older versions are brought to this one.",
    groups: &[&MIGRATION_KEYS],
    rules: &[Rule::OneOf(&["rename", "drop", "default"])],
};

static MIGRATION_KEYS: [Key; 3] = [
    key(
        "rename",
        Shape::Names(Named::Former, &Shape::Name(Named::Channel)),
        "Channels of today for those of old: `{old_name: new_name}`. The value moves, unless the channel of today was \
         written in the meantime.",
    ),
    key(
        "drop",
        Shape::Name(Named::Former),
        "A channel of old whose value is deleted. Without a rule it is kept aside, and nobody sees it.",
    ),
    key(
        "default",
        Shape::Names(Named::Channel, &Shape::Value),
        "Values for channels that have none, as expressions over `state`: `{size: state.log | length}`.",
    ),
];

/// Any form of `timeout`.
pub(super) const TIMEOUTS: Shape = Shape::OneOf(&TIMEOUT_FORMS);

static TIMEOUT_FORMS: [Shape; 2] = [Shape::Duration, Shape::Map(&TIMEOUT)];

/// `timeout` with its parts.
pub static TIMEOUT: Map = Map {
    name: "timeout",
    doc: "How long an attempt may take. A plain duration stands for `total`.",
    groups: &[&TIMEOUT_KEYS],
    rules: &[],
};

static TIMEOUT_KEYS: [Key; 3] = [
    key(
        "first",
        Shape::Duration,
        "The longest wait for the first token of a model, default `30s`, or for the head of a response.",
    ),
    key(
        "idle",
        Shape::Duration,
        "The longest wait between two tokens of a model, default `1m`, or parts of a response.",
    ),
    key("total", Shape::Duration, "The longest time of an attempt in all. Default: `2m`."),
];
