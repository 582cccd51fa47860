//! The JSON of Chat Completions: what is sent, and the few fields of a chunk that are read.
//!
//! Invariant: reading tolerates unknown and null fields; a chunk is never turned into a JSON tree.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::event::Usage;
use crate::model::wire::{Fields, Text, WireError, count, said};
use crate::model::{OutputSchema, Params, Role, ToolCall, ToolSpec, Turn, wire_name};

/// The body of a request.
pub(super) struct Body<'a> {
    pub(super) model: &'a str,
    pub(super) turns: &'a [Turn],
    pub(super) params: &'a Params,
    pub(super) tools: &'a [ToolSpec],
    pub(super) output: Option<&'a OutputSchema>,
    /// It is asked for by the call of a tool, because the model takes no schema.
    pub(super) forced: bool,
    /// OpenAI itself: it has another name for the limit of an answer.
    pub(super) official: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = self.params;
        let mut fields = Fields::new(&params.extra, &["model", "messages", "stream"], serializer)?;
        fields.fixed("model", self.model)?;
        let message = |turn| Message::of(turn, self.model);
        fields.fixed("messages", &self.turns.iter().map(message).collect::<Vec<_>>())?;
        fields.fixed("stream", &true)?;
        fields.default("stream_options", Some(&StreamOptions { include_usage: true }))?;
        let most = if self.official { "max_completion_tokens" } else { "max_tokens" };
        fields.default(most, params.max_tokens.as_ref())?;
        fields.default("temperature", params.temperature.as_ref())?;
        fields.default("top_p", params.top_p.as_ref())?;
        fields.default("seed", params.seed.as_ref())?;
        fields.default("stop", Some(&params.stop).filter(|stop| !stop.is_empty()))?;
        fields.default("reasoning_effort", params.reasoning_effort.as_ref())?;
        let format = self.output.filter(|_| !self.forced).map(|output| {
            let schema = json!({"name": output.name, "strict": true, "schema": output.schema});
            json!({"type": "json_schema", "json_schema": schema})
        });
        fields.default("response_format", format.as_ref())?;
        let function = |name: &str, description: &str, parameters: &Json| {
            let function = json!({"name": name, "description": description, "parameters": parameters});
            json!({"type": "function", "function": function})
        };
        let tool = |tool: &ToolSpec| function(&wire_name(&tool.name), &tool.description, &tool.parameters);
        let mut tools: Vec<Json> = self.tools.iter().map(tool).collect();
        if let Some(output) = self.output.filter(|_| self.forced) {
            tools.push(function(&output.name, "Takes the answer.", &output.schema));
            let choice = json!({"type": "function", "function": {"name": output.name}});
            fields.default("tool_choice", Some(&choice))?;
        }
        fields.default("tools", Some(&tools).filter(|tools| !tools.is_empty()))?;
        fields.finish()
    }
}

/// A turn, with its parts as this protocol names them.
#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a Json>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Plain(&'a Json),
    Parts(Vec<Json>),
}

impl<'a> Message<'a> {
    fn of(turn: &'a Turn, model: &str) -> Self {
        let kept = turn.kept.as_ref().filter(|kept| kept["openai"].as_str() == Some(model));
        let content = match &turn.content {
            Json::Array(parts) => Content::Parts(parts.iter().map(part).collect()),
            content => Content::Plain(content),
        };
        // Broken arguments were answered with what is wrong with them; sent back as they are, servers refuse them.
        let call = |(nth, call): (usize, &ToolCall)| {
            let arguments = match call.args() {
                Ok(_) if !call.arguments.trim().is_empty() => call.arguments.as_str(),
                _ => "{}",
            };
            let mut json = json!({"id": call.id, "type": "function", "function": {"name": wire_name(&call.name), "arguments": arguments}});
            if let Some(extra) = kept.and_then(|kept| kept["calls"].get(nth)).filter(|extra| !extra.is_null())
            {
                json["extra_content"] = extra.clone();
            }
            json
        };
        let tool_calls = turn.tool_calls.iter().enumerate().map(call).collect();
        let reasoning_content = kept.and_then(|kept| kept.get("reasoning_content"));
        Self {
            role: turn.role,
            content,
            tool_calls,
            tool_call_id: turn.tool_call_id.as_deref(),
            reasoning_content,
        }
    }
}

/// Returns a part of a message as Chat Completions has it.
fn part(part: &Json) -> Json {
    match part["type"].as_str() {
        Some("image") => json!({"type": "image_url", "image_url": {"url": part["url"]}}),
        Some("file") => {
            let mut file = json!({"file_data": part["url"]});
            if let Some(name) = part.get("name") {
                file["filename"] = name.clone();
            }
            json!({"type": "file", "file": file})
        }
        _ => part.clone(),
    }
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// One event of the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) choices: Option<Vec<Choice>>,
    pub(super) usage: Option<WireUsage>,
    pub(super) error: Option<WireError>,
    /// Older servers put `{"object":"error","message":…}` at the top.
    object: Option<String>,
    message: Option<Text>,
}

impl Event {
    /// Returns what the provider says when the event is an error.
    pub(super) fn failure(&self) -> Option<&str> {
        said(self.error.as_ref(), self.object.as_deref(), self.message.as_ref())
    }
}

/// One answer of a chunk; graphloom asks for one only.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    pub(super) index: Option<u64>,
    pub(super) delta: Option<Delta>,
    pub(super) finish_reason: Option<String>,
}

/// What a chunk adds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta {
    content: Option<Text>,
    reasoning: Option<Text>,
    reasoning_content: Option<Text>,
    /// Why the model does not answer.
    pub(super) refusal: Option<Text>,
    pub(super) tool_calls: Option<Vec<WireCall>>,
}

/// A piece of the call of a tool.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireCall {
    pub(super) index: Option<u64>,
    id: Option<Text>,
    function: Option<WireFunction>,
    /// What is to be sent back with the call, as signed thoughts.
    pub(super) extra_content: Option<Json>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireFunction {
    name: Option<Text>,
    /// A text; some servers send the object itself.
    arguments: Option<Json>,
}

impl WireCall {
    /// Returns id, name and arguments, each only when there is some.
    pub(super) fn into_parts(self) -> (Option<String>, Option<String>, Option<String>) {
        let some = |text: Option<Text>| text.map(|text| text.0).filter(|text| !text.is_empty());
        let function = self.function.unwrap_or_default();
        let arguments = match function.arguments {
            None | Some(Json::Null) => None,
            Some(Json::String(text)) => Some(text).filter(|text| !text.is_empty()),
            Some(other) => Some(other.to_string()),
        };
        (some(self.id), some(function.name), arguments)
    }
}

impl Delta {
    /// Returns the reasoning that is to be sent back while tools are called.
    pub(super) fn reasoning_content(&self) -> &str {
        self.reasoning_content.as_ref().map_or("", |text| &text.0)
    }

    /// Returns the reasoning and the text, each only when there is some.
    ///
    /// A proxy may send the same reasoning under both names, so they are never added up.
    pub(super) fn into_parts(self) -> (Option<String>, Option<String>) {
        let some = |text: Option<Text>| text.map(|text| text.0).filter(|text| !text.is_empty());
        (some(self.reasoning_content).or_else(|| some(self.reasoning)), some(self.content))
    }
}

/// Token counts; some servers write them as floats or null.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireUsage {
    prompt_tokens: Option<f64>,
    completion_tokens: Option<f64>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<f64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self {
            input_tokens: count(wire.prompt_tokens),
            output_tokens: count(wire.completion_tokens),
            model_calls: 1,
            cache_read_tokens: count(wire.prompt_tokens_details.and_then(|details| details.cached_tokens)),
            ..Self::default()
        }
    }
}
