//! Which keys belong where.

/// Explains a key that is right elsewhere.
pub(super) fn elsewhere(key: &str) -> Option<String> {
    let kind = match key {
        "prompt" | "model" | "history" | "reply" | "stream" | "tools" | "max_tool_rounds"
        | "on_tool_error" => "llm",
        "set" | "clear" => "set",
        "error" | "code" => "fail",
        "url" | "method" | "headers" | "body" | "auth" | "response" => "http",
        "question" | "who" | "options" | "on_timeout" | "on_message" => "ask",
        "over" | "as" | "do" | "max_parallel" | "on_item_error" => "map",
        "tool" => "tool",
        "use" | "scope" => "graph",
        "with" => return Some("`with` belongs to the kinds `llm`, `tool`, `graph` and `custom`".to_owned()),
        "into" => return Some("`into` belongs to kinds with a result, such as `llm`".to_owned()),
        "schema" => {
            return Some(
                "`schema` belongs to kind `ask`; the type of a model's answer is its `output`".to_owned(),
            );
        }
        _ => return None,
    };
    Some(format!("`{key}` belongs to kind `{kind}`"))
}

/// Parameters of providers that the language leaves to `extra`.
pub(super) const PROVIDERS: [&str; 18] = [
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "top_k",
    "min_p",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "user",
    "response_format",
    "service_tier",
    "parallel_tool_calls",
    "max_completion_tokens",
    "num_ctx",
    "keep_alive",
    "verbosity",
    "thinking",
];

/// Returns the key that a word of other tools stands for.
pub(super) fn meant(key: &str) -> Option<&'static str> {
    Some(match key {
        "version" | "apiVersion" | "schema_version" => "format",
        "entry_point" | "entrypoint" | "entry" | "begin" | "initial" => "start",
        "steps" | "actions" | "states" | "agents" => "nodes",
        "channels" | "variables" | "vars" => "state",
        "inputs" => "input",
        "outputs" => "output",
        "type" => "kind",
        "if" | "condition" => "when",
        "switch" => "match",
        "goto" | "target" | "then" => "to",
        "default" | "otherwise" => "else",
        "transitions" | "then_go" => "next",
        "reducer" | "strategy" => "merge",
        "max_iterations" | "max_loops" => "max_visits",
        "url" | "endpoint" | "api_base" => "base_url",
        "backoff" => "first",
        "max_attempts" | "retries" => "attempts",
        "desc" | "title" => "description",
        "parameters" | "arguments" => "args",
        "choices" => "options",
        "graph" | "subgraph" => "use",
        "uri" => "url",
        "items" | "list" | "foreach" => "over",
        "save_as" | "result_to" => "into",
        _ => return None,
    })
}
