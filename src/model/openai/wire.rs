//! The JSON of Chat Completions: what is sent, and the few fields of a chunk that are read.
//!
//! Invariant: reading tolerates unknown and null fields; a chunk is never turned into a JSON tree.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::event::Usage;
use crate::model::{OutputSchema, Params, Role, ToolCall, ToolSpec, Turn};

/// The body of a request.
pub(super) struct Body<'a> {
    pub(super) model: &'a str,
    pub(super) turns: &'a [Turn],
    pub(super) params: &'a Params,
    pub(super) tools: &'a [ToolSpec],
    pub(super) output: Option<&'a OutputSchema>,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = self.params;
        let mut fields = Fields { extra: &params.extra, map: serializer.serialize_map(None)? };
        fields.fixed("model", self.model)?;
        fields.fixed("messages", &self.turns.iter().map(Message::from).collect::<Vec<_>>())?;
        fields.fixed("stream", &true)?;
        fields.default("stream_options", Some(&StreamOptions { include_usage: true }))?;
        fields.default("max_tokens", params.max_tokens.as_ref())?;
        fields.default("temperature", params.temperature.as_ref())?;
        fields.default("top_p", params.top_p.as_ref())?;
        fields.default("seed", params.seed.as_ref())?;
        fields.default("stop", Some(&params.stop).filter(|stop| !stop.is_empty()))?;
        fields.default("reasoning_effort", params.reasoning_effort.as_ref())?;
        let format = self.output.map(|output| {
            let schema = json!({"name": output.name, "strict": true, "schema": output.schema});
            json!({"type": "json_schema", "json_schema": schema})
        });
        fields.default("response_format", format.as_ref())?;
        let tool = |tool: &ToolSpec| {
            let function =
                json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
            json!({"type": "function", "function": function})
        };
        let tools: Vec<Json> = self.tools.iter().map(tool).collect();
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
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Plain(&'a Json),
    Parts(Vec<Json>),
}

impl<'a> From<&'a Turn> for Message<'a> {
    fn from(turn: &'a Turn) -> Self {
        let content = match &turn.content {
            Json::Array(parts) => Content::Parts(parts.iter().map(part).collect()),
            content => Content::Plain(content),
        };
        // Broken arguments were answered with what is wrong with them; sent back as they are, servers refuse them.
        let call = |call: &ToolCall| {
            let arguments = match call.args() {
                Ok(_) if !call.arguments.trim().is_empty() => call.arguments.as_str(),
                _ => "{}",
            };
            json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
        };
        let tool_calls = turn.tool_calls.iter().map(call).collect();
        Self { role: turn.role, content, tool_calls, tool_call_id: turn.tool_call_id.as_deref() }
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

/// Writes the fields of a body. `extra` replaces a default one, and removes it when it is null: some servers
/// know `max_completion_tokens` only, or refuse `stream_options`.
struct Fields<'a, M> {
    extra: &'a serde_json::Map<String, Json>,
    map: M,
}

impl<M: SerializeMap> Fields<'_, M> {
    fn fixed<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), M::Error> {
        self.map.serialize_entry(name, value)
    }

    fn default<T: Serialize>(&mut self, name: &str, value: Option<&T>) -> Result<(), M::Error> {
        match value {
            Some(value) if !self.extra.contains_key(name) => self.map.serialize_entry(name, value),
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Result<M::Ok, M::Error> {
        for (name, value) in self.extra {
            // A body with two `messages` could mean anything.
            if !value.is_null() && !matches!(name.as_str(), "model" | "messages" | "stream") {
                self.map.serialize_entry(name, value)?;
            }
        }
        self.map.end()
    }
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
    /// Returns what the provider says when the event, or the body of an error answer, is an error.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.error {
            Some(WireError(message)) => Some(message.as_str()),
            None if self.object.as_deref() == Some("error") => {
                Some(self.message.as_ref().map_or("", |message| message.0.as_str()))
            }
            None => None,
        }
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
    pub(super) tool_calls: Option<Vec<WireCall>>,
}

/// A piece of the call of a tool.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireCall {
    pub(super) index: Option<u64>,
    id: Option<Text>,
    function: Option<WireFunction>,
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
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        // The cast saturates: a negative or absurd count becomes 0 or the largest one.
        let count = |n: Option<f64>| n.unwrap_or(0.0) as u64;
        Self {
            input_tokens: count(wire.prompt_tokens),
            output_tokens: count(wire.completion_tokens),
            model_calls: 1,
        }
    }
}

/// The message of an error: `"…"` or `{"message":"…"}`.
#[derive(Debug)]
pub(super) struct WireError(String);

impl<'de> Deserialize<'de> for WireError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient).map(|text| Self(text.0))
    }
}

/// A text where servers send other things, too: a list of parts counts as its texts, the rest as nothing.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient)
    }
}

struct Lenient;

impl<'de> Visitor<'de> for Lenient {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(text))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Text, A::Error> {
        let mut all = String::new();
        while let Some(Text(part)) = parts.next_element()? {
            all.push_str(&part);
        }
        Ok(Text(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text, A::Error> {
        let mut text = String::new();
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "text" | "message" => text = fields.next_value::<Text>()?.0,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Text(text))
    }
}
