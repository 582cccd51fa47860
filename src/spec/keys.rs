//! Which keys belong where, and which come with later versions.

/// Keys of the language that come with later versions, so that they are not taken for slips.
const LATER_KEYS: [&str; 20] = [
    "tools",
    "max_tool_rounds",
    "on_tool_error",
    "output",
    "on_error",
    "on_limit",
    "cache",
    "effects",
    "emit",
    "migrate",
    "durability",
    "mcp",
    "hosts",
    "secrets",
    "env",
    "retention",
    "supports",
    "fallback",
    "schema",
    "cost_usd",
];

/// Explains a key that is right elsewhere, or later.
pub(super) fn elsewhere(key: &str) -> Option<String> {
    let kind = match key {
        "prompt" | "with" | "model" | "history" | "into" | "reply" | "stream" => "llm",
        "set" | "clear" => "set",
        "error" | "code" => "fail",
        _ => return kind_to_come(key).or_else(|| later(key)),
    };
    Some(format!("`{key}` belongs to kind `{kind}`"))
}

/// Explains a key of a kind that comes later.
fn kind_to_come(key: &str) -> Option<String> {
    let kind = match key {
        "url" | "method" | "headers" | "body" | "auth" | "response" => "http",
        "question" | "who" | "options" | "on_timeout" | "on_message" => "ask",
        "over" | "as" | "do" | "max_parallel" | "on_item_error" => "map",
        "tool" => "tool",
        "use" | "scope" => "graph",
        _ => return None,
    };
    Some(format!("`{key}` belongs to kind `{kind}`, which is not in this build yet"))
}

/// Explains only what comes later.
pub(super) fn later(key: &str) -> Option<String> {
    LATER_KEYS.contains(&key).then(|| format!("`{key}` is not in this build yet"))
}
