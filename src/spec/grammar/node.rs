//! Nodes, by kind.

use super::call::{ASK, CUSTOM, GRAPH_NODE, HTTP, MAP, TOOL_NODE};
use super::graph::{ALLOW, TIMEOUTS};
use super::next::{NEXT_KEY, ON_ERROR, TO};
use super::types::TYPE;
use super::{Key, Kind, Map, Named, Rule, Shape, Word, due, key, word};

/// The kinds of this build.
pub static KINDS: [Kind; 11] = [
    Kind { name: "llm", map: &LLM },
    Kind { name: "tool", map: &TOOL_NODE },
    Kind { name: "http", map: &HTTP },
    Kind { name: "say", map: &SAY },
    Kind { name: "ask", map: &ASK },
    Kind { name: "set", map: &SET },
    Kind { name: "route", map: &ROUTE },
    Kind { name: "map", map: &MAP },
    Kind { name: "graph", map: &GRAPH_NODE },
    Kind { name: "custom", map: &CUSTOM },
    Kind { name: "fail", map: &FAIL },
];

/// A node of which only the common keys are known.
pub static NODE: Map = Map { name: "node", doc: "A step of work.", groups: &[&COMMON, &TRIED], rules: &[] };

/// A node of kind `llm`.
pub static LLM: Map = Map {
    name: "llm",
    doc: "Calls a chat model. Its answer is said to the user (`reply`), kept in a channel (`into`), or both.",
    groups: &[&LLM_KEYS, &INTO_KEY, &SPEECH_KEYS, &PARAM_KEYS, &COMMON, &TRIED],
    rules: &[Rule::OneOf(&["prompt", "text"]), Rule::AnyOf(&["reply", "into"]), Rule::Due("next"), BOUND],
};

/// A node of kind `say`.
pub static SAY: Map = Map {
    name: "say",
    doc: "Says a text to the user, whole, and appends it to the conversation.",
    groups: &[&SAY_KEYS, &COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `set`.
pub static SET: Map = Map {
    name: "set",
    doc: "Writes channels, and calls nothing.",
    groups: &[&SET_KEYS, &COMMON, &TRIED],
    rules: &[Rule::AnyOf(&["set", "clear"]), Rule::Due("next"), BOUND],
};

/// A node of kind `route`.
pub static ROUTE: Map = Map {
    name: "route",
    doc: "Does nothing but choose where to go by its `next`.",
    groups: &[&COMMON, &TRIED],
    rules: &[Rule::Due("next"), BOUND],
};

/// A node of kind `fail`.
pub static FAIL: Map = Map {
    name: "fail",
    doc: "Ends the run with an error.",
    groups: &[&FAIL_KEYS, &COMMON, &TRIED],
    rules: &[BOUND],
};

pub(super) const BOUND: Rule = Rule::Together(&["max_visits", "on_max"]);

pub(super) static COMMON: [Key; 10] = [
    due("kind", Shape::Kind(&KINDS), "What the node does."),
    NEXT_KEY,
    key(
        "on_error",
        Shape::Shared(&ON_ERROR),
        "Where to go when the node fails, after all attempts: a node, or rules `[{catch: [timeout], to: a}, {else: b}]`. \
         Nothing of the node is written; the handler reads `error.kind`, `error.message`, `error.node` and `error.code`. \
         Default: that of the graph, else the run fails.",
    ),
    key(
        "max_visits",
        Shape::Count,
        "How often the node runs in a run at most; after that the way goes to `on_max`. Needed in a loop.",
    ),
    key("on_max", TO, "Where to go instead of one visit more than `max_visits`."),
    key("join", Shape::Word(&JOINS), "What the node does with several incoming edges. Default: `all`."),
    key(
        "emit",
        Shape::Names(Named::Event, &Shape::Value),
        "Events for the reader of the stream, by name: expressions over `result` and the state. They come before the end \
         of the node.",
    ),
    CACHE_KEY,
    key("description", Shape::Text, "What the node does, for people."),
    key(
        "allow",
        ALLOW,
        "Warnings and lints that are silent in this node, each with a reason: `{G212: why}`.",
    ),
];

/// `cache`, of nodes and of the body of a `map`.
pub(super) const CACHE_KEY: Key = key(
    "cache",
    Shape::Map(&CACHE),
    "Keeps the result, so that the work is not done again for the same: `{ttl: 1h}`. For what only reads and says \
     nothing to the user.",
);

/// How long a result is kept, and by what it is found again.
pub static CACHE: Map = Map {
    name: "cache",
    doc: "Keeps the result of a node for the whole tenant.",
    groups: &[&CACHE_KEYS],
    rules: &[],
};

static CACHE_KEYS: [Key; 2] = [
    due("ttl", Shape::Duration, "How long a result is kept: `1h`."),
    key(
        "key",
        Shape::Value,
        "By what it is found again: an expression that reads at least every channel and input that the node reads. \
         Default: all that the node would send.",
    ),
];

/// How a node is tried.
pub(super) static TRIED: [Key; 3] = [
    key(
        "retry",
        Shape::Name(Named::Retry),
        "The retry policy of project.yaml. Default: that of `defaults`, else the model's, else one attempt.",
    ),
    key(
        "timeout",
        TIMEOUTS,
        "How long an attempt may take: `30s`, or `{first, idle, total}`. Default: that of `defaults`, else the \
         model's, else `2m` in all.",
    ),
    EFFECTS,
];

/// `effects`, of nodes and of tools.
pub(super) const EFFECTS: Key = key(
    "effects",
    Shape::Word(&EFFECT_WORDS),
    "What a call does outside. Default by what is called: GET and HEAD `none`, PUT and DELETE `idempotent`, POST, PATCH \
     and what a host program registers `at_most_once`.",
);

pub(super) static EFFECT_WORDS: [Word; 3] = [
    word("none", "Nothing: it only reads."),
    word("idempotent", "Twice is as good as once."),
    word("at_most_once", "It must not happen twice: no attempt follows one that may have arrived."),
];

static JOINS: [Word; 2] = [
    word("all", "Runs once, when no other live branch can still reach it."),
    word("each", "Runs once for each branch that arrives."),
];

/// The keys of an `llm` node besides those that say where the answer goes.
pub(super) static LLM_KEYS: [Key; 9] = [
    key(
        "prompt",
        Shape::Name(Named::Prompt),
        "The prompt file: `chat/answer` is prompts/chat/answer.md. Either this or `text`.",
    ),
    key(
        "text",
        Shape::Template,
        "The prompt itself, a template over `state`, `input` and `run`; the conversation follows it. Either this or \
         `prompt`.",
    ),
    key(
        "with",
        Shape::Names(Named::Input, &Shape::Value),
        "Inputs of the prompt file, as expressions. Those that are missing come from the channel or the input of the \
         same name.",
    ),
    key(
        "model",
        Shape::Name(Named::Model),
        "The model of project.yaml. Default: that of `defaults`, else `default_model`.",
    ),
    key(
        "history",
        Shape::Map(&HISTORY),
        "How much of the conversation is sent to the model: `{last: 20}`. Default: all.",
    ),
    key(
        "output",
        Shape::Shared(&TYPE),
        "The type of the answer: the model answers in JSON, which is checked, once sent back with what is wrong, and \
         goes to `into`. Default: a text.",
    ),
    key(
        "tools",
        Shape::Filled(&Shape::Name(Named::Tool)),
        "The tools of project.yaml that the model may call; it is asked again with what they give.",
    ),
    key(
        "max_tool_rounds",
        Shape::Count,
        "How often the model may ask for tools at most; a round is one answer with all its calls. Default: 8.",
    ),
    key("on_tool_error", Shape::Word(&TOOL_ERRORS), "What becomes of a tool that fails. Default: `answer`."),
];

static TOOL_ERRORS: [Word; 2] =
    [word("answer", "The model is told, and goes on."), word("fail", "The node fails.")];

/// `into`, of nodes whose result goes somewhere.
pub(super) static INTO_KEY: [Key; 1] = [key(
    "into",
    Shape::OneOf(&INTO_FORMS),
    "Where the result is kept: a channel, or a map of channels and expressions over `result`.",
)];

/// How an answer is said.
pub(super) static SPEECH_KEYS: [Key; 2] = [
    key(
        "reply",
        Shape::Boolean,
        "Says the answer to the user and appends it to the conversation. Default: `false`.",
    ),
    key("stream", Shape::Word(&STREAMS), "How a reply is sent. Default: `tokens`."),
];

static INTO_FORMS: [Shape; 2] = [Shape::Name(Named::Channel), Shape::Names(Named::Channel, &Shape::Value)];

static STREAMS: [Word; 3] = [
    word("tokens", "As the model writes it."),
    word("final", "Whole, when it is there."),
    word("none", "The same as `final`."),
];

/// How much of the conversation is sent.
pub static HISTORY: Map = Map {
    name: "history",
    doc: "How much of the conversation is sent to the model, counted from its end.",
    groups: &[&HISTORY_KEYS],
    rules: &[Rule::OneOf(&["last", "tokens"])],
};

static HISTORY_KEYS: [Key; 2] = [
    key("last", Shape::Count, "The newest turns, so many of them."),
    key("tokens", Shape::Count, "The newest turns, as many as have about so many tokens."),
];

/// The parameters of a model call.
pub static PARAMS: &[Key] = &PARAM_KEYS;

pub(super) static PARAM_KEYS: [Key; 7] = [
    key(
        "temperature",
        Shape::Range(0.0, 2.0),
        "How freely the model chooses its words, 0 to 2. Default: the provider's.",
    ),
    key(
        "top_p",
        Shape::Range(0.0, 1.0),
        "Keeps to the likeliest words that make up this share, 0 to 1. Default: the provider's.",
    ),
    key(
        "max_tokens",
        Shape::Count,
        "The most tokens of an answer. Default: the provider's; 8192 with `anthropic`, which wants a number.",
    ),
    key("seed", Shape::Integer, "For the same answer to the same request, as far as the provider can."),
    key("stop", Shape::OneOf(&STOP_FORMS), "Texts that end the answer: one, or a list."),
    key(
        "reasoning_effort",
        Shape::Text,
        "How long the model thinks, in the provider's words: `low`. With `anthropic`: `none`, or `minimal` to `max`.",
    ),
    key(
        "extra",
        Shape::AnyMap,
        "Further keys of the request to the provider, as they are; `null` leaves one out that is sent otherwise.",
    ),
];

static STOP_FORMS: [Shape; 2] = [Shape::Text, Shape::List(&Shape::Text)];

static SAY_KEYS: [Key; 1] = [due(
    "text",
    Shape::Template,
    "What is said: a template over `state`, `input` and `run`, such as `Hello {{ input.name }}`.",
)];

static SET_KEYS: [Key; 2] = [
    key(
        "set",
        Shape::Names(Named::Channel, &Shape::Value),
        "What is written, by channel: expressions without braces, so that a text is `\"'done'\"`.",
    ),
    key(
        "clear",
        Shape::List(&Shape::Name(Named::Channel)),
        "Channels that are reset to their start values before anything is written.",
    ),
];

static FAIL_KEYS: [Key; 2] = [
    due("error", Shape::Template, "The message of the error, a template over `state`, `input` and `run`."),
    key("code", Shape::Name(Named::ErrorCode), "A code for programs. Default: `failed`."),
];
