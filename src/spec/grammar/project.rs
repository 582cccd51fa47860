//! project.yaml, and the front-matter of prompt files.

use super::graph::{ALLOW, FORMAT, INPUTS, LIMITS, TIMEOUTS};
use super::node::PARAM_KEYS;
use super::tool::{ENV, HOSTS, MCP, SECRET_RULE, TOOL};
use super::types::TYPE;
use super::{Key, Map, Named, Rule, Shape, Word, due, key, word};

/// project.yaml.
pub static PROJECT: Map = Map {
    name: "project",
    doc: "What all graphs of the folder share: models, retry policies, tools and types.",
    groups: &[&TOP],
    rules: &[],
};

static TOP: [Key; 13] = [
    FORMAT,
    key("models", Shape::Names(Named::Model, &Shape::Map(&MODEL)), "The chat models, by name."),
    key("default_model", Shape::Name(Named::Model), "The model of `llm` nodes that name none."),
    key(
        "retries",
        Shape::Names(Named::Retry, &Shape::Map(&RETRY)),
        "The retry policies, by name. Without one an attempt that fails is not repeated.",
    ),
    key(
        "tools",
        Shape::Names(Named::Tool, &Shape::Map(&TOOL)),
        "The tools that models and `tool` nodes can call, by name.",
    ),
    key(
        "mcp",
        Shape::Names(Named::Server, &Shape::Map(&MCP)),
        "MCP servers, by name: their tools are called as `NAME.TOOL`.",
    ),
    key(
        "hosts",
        Shape::Map(&HOSTS),
        "Where `http` nodes and tools may send requests: `{allow: [kb.example.com]}`.",
    ),
    key(
        "secrets",
        Shape::Names(Named::Secret, &Shape::Map(&SECRET_RULE)),
        "Where secrets may go, by name: `{SHOP_TOKEN: {hosts: [shop.example.com]}}`. Others go where they are named.",
    ),
    key(
        "env",
        Shape::Names(Named::Setting, &Shape::Map(&ENV)),
        "Settings that are no secrets, by the name of their variable: read as `env.NAME` in tools and `http` nodes.",
    ),
    key(
        "types",
        Shape::Names(Named::Type, &Shape::Shared(&TYPE)),
        "Types with names such as `Triage`, for channels, inputs and prompts of all graphs.",
    ),
    key(
        "limits",
        Shape::Map(&LIMITS),
        "What stops a run, in graphs whose own `limits` do not say otherwise.",
    ),
    key(
        "retention",
        Shape::Map(&RETENTION),
        "How long what is over is kept: `{checkpoints: 30d, events: 7d, audit: 400d}`. Default: as long as its thread, and the audit log for good.",
    ),
    key(
        "allow",
        ALLOW,
        "Warnings and lints that are silent in this file, each with a reason: `{M517: why}`.",
    ),
];

/// How long what is over is kept.
pub static RETENTION: Map = Map {
    name: "retention",
    doc: "How long what is over is kept, beyond what a thread needs to go on.",
    groups: &[&RETENTION_KEYS],
    rules: &[],
};

static RETENTION_KEYS: [Key; 3] = [
    key(
        "checkpoints",
        Shape::Duration,
        "The past of a thread: checkpoints that its state does not stand on.",
    ),
    key("events", Shape::Duration, "The streams of runs that are over, from their end on."),
    key("audit", Shape::Duration, "The audit log of all tenants; a day at least."),
];

/// A chat model.
pub static MODEL: Map = Map {
    name: "model",
    doc: "A chat model: who provides it, and how it is called.",
    groups: &[&MODEL_KEYS, &PARAM_KEYS],
    rules: &[
        Rule::If { key: "provider", is: "openai", due: "model" },
        Rule::If { key: "provider", is: "anthropic", due: "model" },
        Rule::If { key: "provider", is: "scripted", due: "script" },
    ],
};

static MODEL_KEYS: [Key; 10] = [
    due("provider", Shape::Word(&PROVIDERS), "Who provides the model."),
    key(
        "model",
        Shape::Text,
        "The provider's name of the model, such as `gpt-5`. Due for `openai` and `anthropic`.",
    ),
    key(
        "base_url",
        Shape::Name(Named::Url),
        "Where the provider listens. Default: `https://api.openai.com/v1`, or `https://api.anthropic.com/v1`.",
    ),
    key("api_key", Shape::Map(&SECRET), "The key that is sent to the provider: `{secret: OPENAI_API_KEY}`."),
    key(
        "supports",
        Shape::List(&Shape::Word(&SUPPORTS)),
        "What the model can do besides text. Default: `[tools, json_schema, images]`.",
    ),
    key("timeout", TIMEOUTS, "How long a call may take. Default: `{first: 30s, idle: 1m, total: 2m}`."),
    key("retry", Shape::Name(Named::Retry), "The retry policy of nodes that call it. Default: one attempt."),
    key(
        "fallback",
        Shape::Filled(&Shape::Name(Named::Model)),
        "Models that are asked instead, one after the other, when this one fails after all attempts with an error that \
         another may not have: `timeout`, `connection`, `rate_limit` or `server_error`.",
    ),
    key(
        "price",
        Shape::Map(&PRICE),
        "What its tokens cost, for `limits: {cost_usd: …}` and the usage of runs.",
    ),
    key(
        "script",
        Shape::Filled(&Shape::Map(&LINE)),
        "What a `scripted` model says: the first line that fits what was said last, by the user or a tool.",
    ),
];

/// A line of a scripted model.
pub static LINE: Map = Map {
    name: "line",
    doc: "What a scripted model says to some texts, or to all.",
    groups: &[&LINE_KEYS],
    rules: &[],
};

static LINE_KEYS: [Key; 6] = [
    key(
        "contains",
        Shape::Text,
        "The line is said when what was said last has this in it, in letters of any case. Without it, always.",
    ),
    key("text", Shape::Text, "A text; beside `calls` what is said before them."),
    key("output", Shape::Any, "A value, where a node asks for one by its `output`."),
    key(
        "calls",
        Shape::List(&Shape::Names(Named::Tool, &Shape::AnyMap)),
        "The tools that are called: `[{search_kb: {query: late}}]`. What they give is said last then.",
    ),
    key(
        "error",
        Shape::Name(Named::ErrorKind),
        "The call fails: `timeout`, `connection`, `rate_limit`, `server_error`, `schema`, or `http_` and a status.",
    ),
    key("after", Shape::Duration, "How long it is silent before: `200ms`. Default: no time."),
];

/// What tokens cost.
pub static PRICE: Map = Map {
    name: "price",
    doc: "What tokens cost, in US dollars for a million of them.",
    groups: &[&PRICE_KEYS],
    rules: &[],
};

static PRICE_KEYS: [Key; 4] = [
    due("input", Shape::Range(0.0, 1e6), "Tokens of prompts: `3`."),
    due("output", Shape::Range(0.0, 1e6), "Tokens of answers, thoughts included: `15`."),
    key(
        "cache_read",
        Shape::Range(0.0, 1e6),
        "Tokens of prompts that are in the provider's cache. Default: as `input`.",
    ),
    key(
        "cache_write",
        Shape::Range(0.0, 1e6),
        "Tokens of prompts that the provider puts into its cache. Default: as `input`.",
    ),
];

static PROVIDERS: [Word; 4] = [
    word("openai", "OpenAI, or any server that speaks its protocol by `base_url`."),
    word("anthropic", "Anthropic, or any server that speaks its Messages API by `base_url`."),
    word("demo", "Answers offline, from what was said: for trying things out."),
    word(
        "scripted",
        "Answers offline, from `script`: for trying out what a demo cannot show, and for tests of clients.",
    ),
];

static SUPPORTS: [Word; 3] = [
    word("tools", "Calls tools."),
    word("json_schema", "Answers in JSON that fits a schema, which a node asks for by `output`."),
    word("images", "Looks at images of the conversation."),
];

/// A secret.
pub static SECRET: Map = Map {
    name: "secret",
    doc: "A secret by its name; its value never stands in a file.",
    groups: &[&SECRET_KEYS],
    rules: &[],
};

static SECRET_KEYS: [Key; 1] = [due(
    "secret",
    Shape::Name(Named::Secret),
    "The name of an environment variable, or of a file in the secrets folder.",
)];

/// A retry policy.
pub static RETRY: Map = Map {
    name: "retry",
    doc: "How often a failed attempt is repeated, after which errors, and with which waits.",
    groups: &[&RETRY_KEYS],
    rules: &[],
};

static RETRY_KEYS: [Key; 5] = [
    due("attempts", Shape::Count, "The most attempts, the first one included: `3`."),
    key("first", Shape::Duration, "The longest wait before the second attempt. Default: `500ms`."),
    key("factor", Shape::Number, "By what the longest wait grows with each attempt. Default: 2."),
    key("max", Shape::Duration, "The longest wait before any attempt. Default: `10s`."),
    due(
        "for",
        Shape::List(&Shape::Name(Named::ErrorKind)),
        "The kinds of errors after which it is tried again: `[timeout, rate_limit, server_error, connection]`.",
    ),
];

/// The kinds of errors; `http_NNN` with three digits is one, too.
pub(super) static ERROR_KINDS: [Word; 14] = [
    word("timeout", "Nothing came in time."),
    word("connection", "The other side could not be reached, or the connection was cut."),
    word("rate_limit", "The provider asks to wait."),
    word("server_error", "The provider failed."),
    word("http_4xx", "A status from 400 to 499."),
    word("http_5xx", "A status from 500 to 599."),
    word("schema", "A value that does not fit its type."),
    word("tool", "A tool that failed."),
    word("merge", "A write that does not join its channel."),
    word("template", "A text that could not be rendered."),
    word("failed", "A node of the kind `fail`."),
    word("uncertain", "A call that must not be made twice, and may have been made."),
    word("dismissed", "A question that was cancelled."),
    word("any", "Every error."),
];

/// The front-matter of a prompt file.
pub static FRONT_MATTER: Map = Map {
    name: "prompt",
    doc: "What stands above a prompt: its inputs, and how it is called.",
    groups: &[&PROMPT_KEYS],
    rules: &[],
};

static PROMPT_KEYS: [Key; 5] = [
    key("description", Shape::Text, "What the prompt is for, for people."),
    key(
        "inputs",
        INPUTS,
        "The inputs, by name: the only names that the prompt sees. They come from `with` of the node, else from the \
         channel or the input of the same name.",
    ),
    key("sample", Shape::Any, "Values of the inputs for a first rendering at start-up: `{topic: billing}`."),
    key(
        "model",
        Shape::Map(&MODEL_PARAMS),
        "Parameters of calls with this prompt, such as `{max_tokens: 400}`.",
    ),
    key("allow", ALLOW, "Warnings and lints that are silent in this file, each with a reason."),
];

/// The parameters of calls with a prompt.
pub static MODEL_PARAMS: Map = Map {
    name: "params",
    doc: "Parameters of a model call. They go before those of the model, and after those of the node.",
    groups: &[&PARAM_KEYS],
    rules: &[],
};
