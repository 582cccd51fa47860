//! Tools, requests, and where secrets and settings come in.

use super::node::{EFFECT_WORDS, EFFECTS};
use super::project::SECRET;
use super::types::TYPE;
use super::{Key, Map, Named, Rule, Shape, Word, due, key, word};

/// A tool.
pub static TOOL: Map = Map {
    name: "tool",
    doc: "A tool, which models and `tool` nodes call: a request, a graph, or what the host program has registered.",
    groups: &[&TOOL_KEYS],
    rules: &[Rule::OneOf(&["http", "custom", "graph"])],
};

static TOOL_KEYS: [Key; 9] = [
    key("description", Shape::Text, "What the tool is for: models choose by it."),
    key("http", Shape::Map(&HTTP_CALL), "A request is sent; the body of the response is the result."),
    key(
        "custom",
        Shape::Name(Named::Registered),
        "What the host program has registered under this name is called.",
    ),
    key(
        "graph",
        Shape::Name(Named::Graph),
        "A graph is run with the arguments as its inputs; its output is the result.",
    ),
    key(
        "args",
        Shape::Names(Named::Argument, &Shape::Shared(&TYPE)),
        "The arguments, by name: read as `args.NAME`. Default: none; of a graph its inputs, of what is registered its own.",
    ),
    key(
        "result",
        Shape::Shared(&TYPE),
        "The type of the result, checked when it comes. Default: `any`; of a graph its output, of what is registered its own.",
    ),
    EFFECTS,
    key("approval", Shape::Word(&APPROVALS), "Who is asked before a call. Default: nobody."),
    key("final", Shape::Boolean, "Its result is the answer of the loop that calls it. Default: `false`."),
];

/// An MCP server.
pub static MCP: Map = Map {
    name: "mcp_server",
    doc: "A server of the Model Context Protocol. What its tools are is written to mcp/NAME.json by `graphloom mcp pull`; \
          models and `tool` nodes call them as `NAME.TOOL`.",
    groups: &[&MCP_KEYS],
    rules: &[
        Rule::OneOf(&["url", "command"]),
        Rule::Needs("headers", "url"),
        Rule::Needs("auth", "url"),
        Rule::Needs("env", "command"),
    ],
};

static MCP_KEYS: [Key; 9] = [
    key(
        "url",
        Shape::Template,
        "Where it listens (streamable HTTP): fixed, or a template over `env`. It needs no entry under `hosts`.",
    ),
    key(
        "headers",
        Shape::Names(Named::Header, &Shape::OneOf(&HEADER_FORMS)),
        "Headers of all requests, by name: templates over `env`, or `{secret: NAME}`.",
    ),
    key("auth", Shape::Map(&AUTH), "How requests are signed in: `{bearer: {secret: NAME}}` and the like."),
    key(
        "command",
        Shape::Filled(&Shape::Text),
        "The program that is the server (stdio), and its arguments: `[npx, -y, some-server]`. It is started here, with \
         the rights of the service, when it is needed first.",
    ),
    key(
        "env",
        Shape::Names(Named::Variable, &Shape::OneOf(&VARIABLE_FORMS)),
        "Variables of the program, by name: texts, or `{secret: NAME}`. Of the service's own it sees only where programs \
         and homes are, the language and the time zone.",
    ),
    key(
        "tools",
        Shape::Filled(&Shape::Text),
        "The tools that graphs may call, by the server's names. Default: all that mcp/NAME.json holds.",
    ),
    key(
        "effects",
        Shape::Word(&EFFECT_WORDS),
        "What calls do outside. Default by what the server says of a tool: `readOnlyHint` is `none`, `idempotentHint` \
         `idempotent`, any other `at_most_once`.",
    ),
    key("approval", Shape::Word(&APPROVALS), "Who is asked before a call. Default: nobody."),
    key(
        "timeout",
        Shape::Duration,
        "How long a call may take, and how long until the server is there. Default: `1m`.",
    ),
];

static VARIABLE_FORMS: [Shape; 2] = [Shape::Text, Shape::Map(&SECRET)];

static APPROVALS: [Word; 1] =
    [word("always", "A person approves, edits or rejects each call before it is made.")];

/// The request of a tool.
pub static HTTP_CALL: Map =
    Map { name: "request", doc: "A request.", groups: &[&REQUEST_KEYS, &TOOL_RESPONSE], rules: &[] };

/// What is sent.
pub(super) static REQUEST_KEYS: [Key; 5] = [
    key("method", Shape::Word(&METHODS), "Default: `GET`."),
    due(
        "url",
        Shape::Template,
        "The address, a template. Its scheme and host are fixed, or come from `env`: `{{ env.SHOP_URL }}/orders`. What is \
         filled in after that is passed through `urlencode`. The host has to be listed under `hosts` of project.yaml.",
    ),
    key(
        "headers",
        Shape::Names(Named::Header, &Shape::OneOf(&HEADER_FORMS)),
        "Headers, by name: templates, or `{secret: NAME}`.",
    ),
    key(
        "body",
        Shape::Template,
        "The body, a template: `\"{{ state.order | tojson }}\"`. Not with GET and HEAD.",
    ),
    key(
        "auth",
        Shape::Map(&AUTH),
        "How the request is signed in: `{bearer: {secret: NAME}}`, `{basic: {user: …, password: {secret: NAME}}}` or \
         `{header: {X-Key: {secret: NAME}}}`.",
    ),
];

static TOOL_RESPONSE: [Key; 1] = [key(
    "response",
    Shape::Shared(&TYPE),
    "The type of the response's body, checked when it comes. Default: that of `result`.",
)];

static METHODS: [Word; 6] = [
    word("GET", "Reads."),
    word("HEAD", "Reads the headers alone."),
    word("POST", "Makes something, or calls for something."),
    word("PUT", "Puts something in its place: twice is as good as once."),
    word("PATCH", "Changes a part."),
    word("DELETE", "Removes: twice is as good as once."),
];

static HEADER_FORMS: [Shape; 2] = [Shape::Template, Shape::Map(&SECRET)];

/// How a request is signed in.
pub static AUTH: Map = Map {
    name: "auth",
    doc: "How a request is signed in.",
    groups: &[&AUTH_KEYS],
    rules: &[Rule::OneOf(&["bearer", "basic", "header"])],
};

static AUTH_KEYS: [Key; 3] = [
    key("bearer", Shape::Map(&SECRET), "`Authorization: Bearer …`."),
    key("basic", Shape::Map(&BASIC), "`Authorization: Basic …`."),
    key(
        "header",
        Shape::Names(Named::Header, &Shape::Map(&SECRET)),
        "A header of its own: `{X-Key: {secret: NAME}}`.",
    ),
];

/// A user and a password.
pub static BASIC: Map =
    Map { name: "basic", doc: "A user and a password.", groups: &[&BASIC_KEYS], rules: &[] };

static BASIC_KEYS: [Key; 2] = [
    due("user", Shape::Template, "The user, a template over `env`."),
    due("password", Shape::Map(&SECRET), "The password: `{secret: NAME}`."),
];

/// Where requests may go.
pub static HOSTS: Map =
    Map { name: "hosts", doc: "Where requests may go.", groups: &[&HOST_KEYS], rules: &[] };

static HOST_KEYS: [Key; 1] = [due(
    "allow",
    Shape::List(&Shape::Name(Named::Host)),
    "The hosts that nodes and tools may call: `[kb.example.com, \"shop.example.com:8443\"]`. Without a port, 80 and 443 \
     are meant.",
)];

/// Where a secret may go.
pub static SECRET_RULE: Map =
    Map { name: "secret_rule", doc: "Where a secret may go.", groups: &[&SECRET_RULE_KEYS], rules: &[] };

static SECRET_RULE_KEYS: [Key; 1] = [due(
    "hosts",
    Shape::Filled(&Shape::Name(Named::Host)),
    "The hosts that it may be sent to: `[shop.example.com]`.",
)];

/// A setting.
pub static ENV: Map = Map {
    name: "env",
    doc: "A setting that is no secret: an environment variable, read as `env.NAME` in tools and `http` nodes.",
    groups: &[&ENV_KEYS],
    rules: &[],
};

static ENV_KEYS: [Key; 1] = [key(
    "default",
    Shape::Text,
    "The value where the variable is not set. Without it the variable has to be set.",
)];
