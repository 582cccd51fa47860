//! Nodes that call something: tools, requests, people, other graphs.

use super::graph::TIMEOUTS;
use super::next::TO;
use super::node::{BOUND, CACHE_KEY, COMMON, EFFECTS, INTO_KEY, LLM_KEYS, PARAM_KEYS, SPEECH_KEYS, TRIED};
use super::tool::REQUEST_KEYS;
use super::types::TYPE;
use super::{Key, Kind, Map, Named, Rule, Shape, Word, due, key, word};

/// A node of kind `tool`.
pub static TOOL_NODE: Map = Map {
    name: "tool_node",
    doc: "Calls a tool of project.yaml, without a model.",
    groups: &[&TOOL_KEYS, &INTO_KEY, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `http`.
pub static HTTP: Map = Map {
    name: "http",
    doc: "Sends a request. Its `result` is `{status, headers, body}`; `into: NAME` takes the body.",
    groups: &[&REQUEST_KEYS, &RESPONSE_KEY, &INTO_KEY, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `ask`.
pub static ASK: Map = Map {
    name: "ask",
    doc: "Asks a person, and goes on when the answer is there.",
    groups: &[&ASK_KEYS, &INTO_KEY, &COMMON],
    rules: &[
        Rule::Due("next"),
        Rule::NotBoth("options", "schema"),
        Rule::Together(&["timeout", "on_timeout"]),
        BOUND,
    ],
};

/// A node of kind `map`.
pub static MAP: Map = Map {
    name: "map",
    doc: "Does the same for each item of a list. Its `result` is the list of what came of them, in the same order.",
    groups: &[&MAP_KEYS, &INTO_KEY, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `graph`.
pub static GRAPH_NODE: Map = Map {
    name: "graph_node",
    doc: "Runs another graph with a state of its own. Its `result` is that graph's output.",
    groups: &[&GRAPH_KEYS, &INTO_KEY, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `custom`.
pub static CUSTOM: Map = Map {
    name: "custom",
    doc: "Does what the host program has registered under a name.",
    groups: &[&CUSTOM_KEYS, &INTO_KEY, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// What the body of a `map` can be.
pub static BODIES: [Kind; 5] = [
    Kind { name: "llm", map: &DO_LLM },
    Kind { name: "tool", map: &DO_TOOL },
    Kind { name: "http", map: &DO_HTTP },
    Kind { name: "graph", map: &DO_GRAPH },
    Kind { name: "custom", map: &DO_CUSTOM },
];

/// A body of which only the common keys are known.
pub static DO: Map = Map { name: "do", doc: "What is done for an item.", groups: &[&DO_COMMON], rules: &[] };

static DO_LLM: Map = Map {
    name: "do_llm",
    doc: "Calls a chat model for each item; its answer is the item of the list.",
    groups: &[&LLM_KEYS, &SPEECH_KEYS, &PARAM_KEYS, &DO_COMMON],
    rules: &[Rule::OneOf(&["prompt", "text"])],
};

static DO_TOOL: Map = Map {
    name: "do_tool",
    doc: "Calls a tool for each item; its result is the item of the list.",
    groups: &[&TOOL_KEYS, &DO_COMMON],
    rules: &[],
};

static DO_HTTP: Map = Map {
    name: "do_http",
    doc: "Sends a request for each item; the body of the response is the item of the list.",
    groups: &[&REQUEST_KEYS, &RESPONSE_KEY, &DO_COMMON],
    rules: &[],
};

static DO_GRAPH: Map = Map {
    name: "do_graph",
    doc: "Runs another graph for each item; its output is the item of the list.",
    groups: &[&GRAPH_KEYS, &DO_COMMON],
    rules: &[],
};

static DO_CUSTOM: Map = Map {
    name: "do_custom",
    doc: "Does for each item what the host program has registered under a name.",
    groups: &[&CUSTOM_KEYS, &DO_COMMON],
    rules: &[],
};

static DO_COMMON: [Key; 6] = [
    due("kind", Shape::Kind(&BODIES), "What is done for an item."),
    key(
        "retry",
        Shape::Name(Named::Retry),
        "The retry policy of each item. Default: that of `defaults`, else the model's, else one attempt.",
    ),
    key("timeout", TIMEOUTS, "How long an attempt of an item may take. Default: as that of a node."),
    EFFECTS,
    CACHE_KEY,
    key("description", Shape::Text, "What is done, for people."),
];

static TOOL_KEYS: [Key; 2] = [
    due("tool", Shape::Name(Named::Tool), "The tool of project.yaml that is called."),
    key("with", Shape::Names(Named::Argument, &Shape::Value), "The arguments of the call, as expressions."),
];

static RESPONSE_KEY: [Key; 1] = [key(
    "response",
    Shape::Shared(&TYPE),
    "The type of the response's body, checked when it comes. Default: `any`, whose fields cannot be read.",
)];

static ASK_KEYS: [Key; 7] = [
    due("question", Shape::Template, "What is asked: a template over `state`, `input` and `run`."),
    key("who", Shape::Word(&ASKED), "Who is asked. Default: `user`."),
    key(
        "options",
        Shape::Filled(&Shape::Text),
        "The answers that there are: `[approve, reject]`. Default: any text.",
    ),
    key("schema", Shape::Shared(&TYPE), "The type of the answer. Default: a text."),
    key(
        "timeout",
        Shape::Duration,
        "How long an answer is waited for; after that the way goes to `on_timeout`.",
    ),
    key("on_timeout", TO, "Where to go when no answer comes within `timeout`."),
    key(
        "on_message",
        Shape::Word(&ON_MESSAGE),
        "What a plain message of the user does while the question is open. Default: `answer` for the user, `refuse` for \
         an agent.",
    ),
];

static ASKED: [Word; 2] = [
    word("user", "The user: question and answer are turns of the conversation."),
    word("agent", "Somebody else, by the API: the conversation does not show it."),
];

static ON_MESSAGE: [Word; 3] = [
    word("answer", "It is the answer, where it is the only open question of this sort."),
    word("refuse", "It is refused: the question comes first."),
    word("restart", "It ends the run, and begins a new one."),
];

static MAP_KEYS: [Key; 5] = [
    due("over", Shape::Value, "The list: an expression without braces. An empty list gives an empty list."),
    key(
        "as",
        Shape::Name(Named::Item),
        "The name of an item in `do`, instead of `item`; its place is `index`.",
    ),
    due(
        "do",
        Shape::Kinds("do", &BODIES),
        "What is done for an item: a node of the kind `llm`, `tool`, `http`, `graph` or `custom`, without `next` and \
         `into`.",
    ),
    key("max_parallel", Shape::Count, "The most items that are worked on at once. Default: all."),
    key("on_item_error", Shape::Word(&ITEM_ERRORS), "What an item is worth that failed. Default: `fail`."),
];

static ITEM_ERRORS: [Word; 3] = [
    word("fail", "The whole node fails."),
    word("skip", "Nothing: the list is shorter."),
    word("null", "Null."),
];

static GRAPH_KEYS: [Key; 3] = [
    due("use", Shape::Name(Named::Graph), "The graph that is run: the name of its file."),
    key("with", Shape::Names(Named::Input, &Shape::Value), "The inputs of the graph, as expressions."),
    key("scope", Shape::Word(&SCOPES), "How long the state of the graph stays. Default: `call`."),
];

static SCOPES: [Word; 2] = [
    word("call", "For one call: each call begins anew."),
    word("thread", "With the calling node, from call to call."),
];

static CUSTOM_KEYS: [Key; 2] = [
    due("use", Shape::Name(Named::Registered), "The name under which the host program has registered it."),
    key("with", Shape::Names(Named::Argument, &Shape::Value), "Its arguments, as expressions."),
];
