//! A test file: cases for a graph, with the replies of its models.

use super::graph::{ALLOW, FORMAT};
use super::{Key, Map, Named, Shape, Shared, due, key};

/// A test file.
pub static TEST: Map = Map {
    name: "test",
    doc: "Cases for a graph: what is said to it, what its models answer, and what is to come of it.",
    groups: &[&TOP],
    rules: &[],
};

static TOP: [Key; 5] = [
    FORMAT,
    due("tests", Shape::Name(Named::Graph), "The graph that is tested, by its id: `support`."),
    key(
        "given",
        Shape::Map(&GIVEN),
        "What all cases begin with. A case's own `given` goes before it, key by key.",
    ),
    due("cases", Shape::Filled(&Shape::Map(&CASE)), "The cases. Each runs on a thread of its own."),
    key(
        "allow",
        ALLOW,
        "Warnings and lints that are silent in this file, each with a reason: `{M514: why}`.",
    ),
];

/// What a case begins with.
pub static GIVEN: Map = Map {
    name: "given",
    doc: "What a case begins with: inputs of its runs, and what the thread holds already.",
    groups: &[&GIVEN_KEYS],
    rules: &[],
};

static GIVEN_KEYS: [Key; 3] = [
    key(
        "input",
        Shape::Names(Named::Input, &Shape::Any),
        "Inputs of every run of the case, as plain values.",
    ),
    key(
        "state",
        Shape::Names(Named::Channel, &Shape::Any),
        "Channels that hold something before the first turn, as plain values; also those with `keep: run`.",
    ),
    key(
        "messages",
        Shape::OneOf(&MESSAGES),
        "The conversation before the first turn: `[{role: user, content: Hello}, …]`.",
    ),
];

static MESSAGES: [Shape; 2] = [Shape::List(&Shape::AnyMap), ROW];

/// One case.
pub static CASE: Map = Map {
    name: "case",
    doc: "One case: turns on a thread of its own. `{{ row.x }}` in a text is a value of a `table`'s row; a text that is \
          nothing else takes the value as it is.",
    groups: &[&CASE_KEYS],
    rules: &[],
};

static CASE_KEYS: [Key; 5] = [
    due("name", Shape::Text, "What the case shows, as a sentence. No two cases of a file have one name."),
    key("only", Shape::OneOf(&NODE), "Runs this node alone: what leads to it and what follows is left out."),
    key("given", Shape::Map(&GIVEN), "What the case begins with, besides the file's `given`."),
    key(
        "table",
        Shape::Filled(&Shape::AnyMap),
        "Runs the case once for each of these rows: `[{topic: billing, node: billing}, …]`.",
    ),
    due("turns", Shape::Filled(&Shape::Map(&TURN)), "The turns, one run each, on one thread."),
];

/// A value of a table's row.
const ROW: Shape = Shape::Template;

static NODE: [Shape; 2] = [Shape::Name(Named::Node), ROW];
static COUNT: [Shape; 2] = [Shape::Count, ROW];
static NUMBER: [Shape; 2] = [Shape::Integer, ROW];
static TEXTS: [Shape; 2] = [Shape::Text, Shape::List(&Shape::Text)];
const NODES: Shape = Shape::List(&Shape::OneOf(&NODE));

/// One turn.
pub static TURN: Map =
    Map { name: "turn", doc: "One turn: a run of the graph.", groups: &[&TURN_KEYS], rules: &[] };

static TURN_KEYS: [Key; 6] = [
    key(
        "user",
        Shape::OneOf(&USER),
        "What the user says: a text, or a list of parts. Without it the graph runs without a message.",
    ),
    key(
        "answer",
        Shape::Any,
        "Instead of `user`: the answer to the only open question. For a call that waits for approval `approve`, \
         `{edit: …}` or `{reject: …}`.",
    ),
    key(
        "answers",
        Shape::Names(Named::Node, &Shape::Any),
        "Instead of `user`: answers to several open questions, by the nodes that ask; `each/get[1]` is the node `get` of \
         the graph that the second item of `each` calls.",
    ),
    key("resume", Shape::Boolean, "Instead of `user`: goes on with the run that failed in the turn before."),
    key(
        "script",
        Shape::Names(Named::Node, &Shape::Shared(&SCRIPT)),
        "What the models and the world answer, by node: a text, `{error: timeout}`, or a list of them for successive \
         calls; `node/tool` is a tool that the node's model calls. A node that calls out without a script fails the case, \
         and so does an entry that no call takes.",
    ),
    key(
        "expect",
        Shape::Map(&EXPECT),
        "What is to come of the turn. Without an `error` the run has to complete.",
    ),
];

static USER: [Shape; 2] = [Shape::Text, Shape::List(&Shape::Any)];

/// What a node gets.
static SCRIPT: Shared = Shared {
    name: "script",
    doc: "What a node gets: a text, an answer, or a list of them for successive calls.",
    shape: Shape::OneOf(&SCRIPTS),
};

static SCRIPTS: [Shape; 3] = [Shape::Text, Shape::Map(&ENTRY), Shape::Filled(&Shape::OneOf(&ENTRIES))];
static ENTRIES: [Shape; 2] = [Shape::Text, Shape::Map(&ENTRY)];

/// The answer to one call.
pub static ENTRY: Map = Map {
    name: "entry",
    doc: "The answer to one call. A bare text stands for `text`.",
    groups: &[&ENTRY_KEYS],
    rules: &[],
};

static ENTRY_KEYS: [Key; 11] = [
    key("text", Shape::Text, "The answer of the model; for an `http` node the body of the response."),
    key(
        "output",
        Shape::Any,
        "The answer of a model that has a type, as a plain value; for a `graph` node the output of the graph, which does \
         not run.",
    ),
    key(
        "calls",
        Shape::List(&Shape::Names(Named::Tool, &Shape::OneOf(&ARGUMENTS))),
        "The tools that the model calls: `[{search_kb: {query: late}}]`.",
    ),
    key("result", Shape::Any, "The result of a tool."),
    key("status", Shape::OneOf(&COUNT), "The status of the response to an `http` node. Default: 200."),
    key("json", Shape::Any, "The body of the response to an `http` node, as a plain value."),
    key("headers", Shape::AnyMap, "The headers of the response to an `http` node."),
    key(
        "nodes",
        Shape::Names(Named::Node, &Shape::Shared(&SCRIPT)),
        "For a `graph` node: what the nodes of that graph get, by name.",
    ),
    key(
        "items",
        Shape::List(&Shape::Shared(&SCRIPT)),
        "For a `map` node: what its items get, in the order of the list.",
    ),
    key(
        "error",
        Shape::OneOf(&ERROR_KIND),
        "The call fails: `timeout`, `connection`, `rate_limit`, `server_error`, `schema`, or `http_` and a status. A \
         question ends by `timeout` when nobody answers in time, and by `dismissed` when it is cancelled.",
    ),
    key("after", Shape::OneOf(&AFTER), "How long the call takes: `200ms`. Default: no time."),
];

static ARGUMENTS: [Shape; 2] = [Shape::Names(Named::Argument, &Shape::Any), ROW];
static ERROR_KIND: [Shape; 2] = [Shape::Name(Named::ErrorKind), ROW];
static AFTER: [Shape; 2] = [Shape::Duration, ROW];

/// What is to come of a turn.
pub static EXPECT: Map =
    Map { name: "expect", doc: "What is to come of a turn.", groups: &[&EXPECT_KEYS], rules: &[] };

static EXPECT_KEYS: [Key; 11] = [
    key(
        "path",
        Shape::OneOf(&PATH),
        "The nodes in the order in which they start, never `end`; nodes that run at once are a list of their own: \
         `[fan, [a, b], join]`. Or `{contains_in_order: […], never: […]}`.",
    ),
    key(
        "state",
        Shape::Names(Named::Channel, &Shape::Any),
        "What channels hold after the turn; others are not looked at. Ids of messages need not be written; `null` is \
         also a channel that is not set.",
    ),
    key(
        "output",
        Shape::Names(Named::Output, &Shape::Any),
        "What the run gives, by name; other names are not looked at.",
    ),
    key(
        "reply",
        Shape::OneOf(&REPLY),
        "What is said to the user, several messages a line each: the whole text, or `{contains: …}`.",
    ),
    key(
        "paused_at",
        Shape::OneOf(&PAUSED),
        "The node that asks when the run waits for a person, or a list of them.",
    ),
    key(
        "ask",
        Shape::OneOf(&REPLY),
        "What is asked then, several questions a line each: the whole text, or `{contains: …}`.",
    ),
    key(
        "calls",
        Shape::Names(Named::Node, &Shape::OneOf(&CALLS)),
        "How often, and with what, nodes call a model, a tool, an address or a graph that is scripted: \
         `{answer: 1, answer/search_kb: {with: {query: late}}}`.",
    ),
    key(
        "attempts",
        Shape::Names(Named::Node, &Shape::OneOf(&COUNT)),
        "How many attempts the newest run of a node takes: `{answer: 2}`.",
    ),
    key(
        "error",
        Shape::OneOf(&ERROR),
        "The run fails with this kind or code of error: `timeout`, or `{kind, code, message}`.",
    ),
    key(
        "events",
        Shape::OneOf(&EVENTS),
        "Events of the stream in this order; others may be between them: `[node.reset, run.finished]`.",
    ),
    key("prompt", Shape::Names(Named::Node, &Shape::Map(&PROMPT)), "What nodes send to their model."),
];

static PAUSED: [Shape; 2] = [Shape::OneOf(&NODE), NODES];
static EVENTS: [Shape; 2] = [Shape::List(&Shape::OneOf(&EVENT)), ROW];
static EVENT: [Shape; 2] = [Shape::Name(Named::Event), ROW];
static PATH: [Shape; 3] = [Shape::List(&Shape::OneOf(&STEP)), Shape::Map(&WAY), ROW];
static STEP: [Shape; 3] = [Shape::Name(Named::Node), Shape::Filled(&Shape::OneOf(&NODE)), ROW];

/// A path that is told in part.
pub static WAY: Map = Map {
    name: "way",
    doc: "A path that is told in part.",
    groups: &[&WAY_KEYS],
    rules: &[super::Rule::AnyOf(&["contains_in_order", "never"])],
};

static WAY_KEYS: [Key; 2] = [
    key("contains_in_order", NODES, "Nodes that start in this order; others may be between them."),
    key("never", NODES, "Nodes that do not start."),
];

static REPLY: [Shape; 2] = [Shape::Text, Shape::Map(&SAID)];

/// What a text is to be like.
pub static SAID: Map = Map {
    name: "said",
    doc: "What a reply is like. All of it has to hold.",
    groups: &[&SAID_KEYS],
    rules: &[super::Rule::AnyOf(&["equals", "contains", "matches", "max_words"])],
};

static SAID_KEYS: [Key; 4] = [
    key("equals", Shape::Text, "The whole text."),
    key("contains", Shape::OneOf(&TEXTS), "Texts that are in it: one, or a list."),
    key("matches", Shape::Text, "A regular expression that it matches somewhere."),
    key("max_words", Shape::OneOf(&COUNT), "The most words."),
];

static CALLS: [Shape; 3] = [Shape::Integer, Shape::Map(&CALL), ROW];

/// How a node calls.
pub static CALL: Map = Map {
    name: "call",
    doc: "How a node calls. A bare number stands for `times`.",
    groups: &[&CALL_KEYS],
    rules: &[super::Rule::AnyOf(&["times", "with"])],
};

static CALL_KEYS: [Key; 2] = [
    key("times", Shape::OneOf(&NUMBER), "How often, each attempt counted; 0 is never."),
    key(
        "with",
        Shape::Names(Named::Argument, &Shape::Any),
        "What every call is made with: parameters of a model besides its prompt, `{temperature: 0}`; arguments of a tool or \
         a function, `{query: late}`; of an `http` node `method`, `url`, `headers` and `body`.",
    ),
];

static ERROR: [Shape; 2] = [Shape::Text, Shape::Map(&FAILURE)];

/// An error that a run ends with.
pub static FAILURE: Map = Map {
    name: "failure",
    doc: "The error that the run ends with. All of it has to hold.",
    groups: &[&FAILURE_KEYS],
    rules: &[super::Rule::AnyOf(&["kind", "code", "message"])],
};

static FAILURE_KEYS: [Key; 3] = [
    key("kind", Shape::OneOf(&FAILED), "Its kind: `timeout`, `limit`, or `failed` for a `fail` node."),
    key("code", Shape::Text, "Its code: that of the `fail` node, else the kind."),
    key("message", Shape::OneOf(&TEXTS), "Texts that are in its message: one, or a list."),
];

static FAILED: [Shape; 2] = [Shape::Text, ROW];

/// What a node sends to its model.
pub static PROMPT: Map = Map {
    name: "asked",
    doc: "What a node sends to its model, all calls of the turn together.",
    groups: &[&PROMPT_KEYS],
    rules: &[super::Rule::AnyOf(&["contains", "snapshot"])],
};

static PROMPT_KEYS: [Key; 2] = [
    key("contains", Shape::OneOf(&TEXTS), "Texts that are in it: one, or a list."),
    key(
        "snapshot",
        Shape::OneOf(&SNAPSHOT),
        "Compares it with a file below tests/snapshots/: `true` for a name made from the case's, or a name. \
         `graphloom test --update` writes the file.",
    ),
];

static SNAPSHOT: [Shape; 2] = [Shape::Boolean, Shape::Text];
