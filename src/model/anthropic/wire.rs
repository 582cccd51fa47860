//! The JSON of the Messages API: what is sent, and the few fields of an event that are read.
//!
//! Invariant: reading tolerates unknown and null fields. What is sent alternates between user and assistant, begins with
//! the user, and holds no empty text: the API refuses anything else.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use crate::event::Usage;
use crate::id::sha256_hex;
use crate::model::wire::{Fields, Text, count};
use crate::model::{OutputSchema, Params, Role, ToolCall, ToolSpec, Turn, wire_name};

/// The most tokens of an answer where nothing is said: the API wants a number.
const MAX_TOKENS: u64 = 8192;
/// What the user says in a conversation that does not begin with the user.
const OPENING: &str = "(The conversation goes on.)";

/// The body of a request.
pub(super) struct Body<'a> {
    pub(super) model: &'a str,
    pub(super) turns: &'a [Turn],
    pub(super) params: &'a Params,
    pub(super) tools: &'a [ToolSpec],
    pub(super) output: Option<&'a OutputSchema>,
    /// The model answers by a schema itself.
    pub(super) schemas: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = self.params;
        let mut extra = params.extra.clone();
        let config = self.config(&mut extra);
        let mut fields = Fields::new(&extra, &["model", "messages", "stream", "system"], serializer)?;
        fields.fixed("model", self.model)?;
        fields.default("max_tokens", Some(&params.max_tokens.unwrap_or(MAX_TOKENS)))?;
        let system = system(self.turns);
        if !system.is_empty() {
            fields.fixed("system", &system)?;
        }
        fields.fixed("messages", &self.messages())?;
        fields.fixed("stream", &true)?;
        fields.default("temperature", params.temperature.as_ref())?;
        fields.default("top_p", params.top_p.as_ref())?;
        fields.default("stop_sequences", Some(&params.stop).filter(|stop| !stop.is_empty()))?;
        fields.default("thinking", self.thinking().as_ref())?;
        fields.default("output_config", config.as_ref())?;
        let forced = self.output.filter(|_| !self.schemas);
        let tool = |name: &str, description: &str, schema: &Json| json!({"name": name, "description": description, "input_schema": schema});
        let mut tools: Vec<Json> = self
            .tools
            .iter()
            .map(|spec| tool(&wire_name(&spec.name), &spec.description, &spec.parameters))
            .collect();
        if let Some(output) = forced {
            tools.push(tool(&output.name, "Takes the answer.", &output.schema));
            fields.default("tool_choice", Some(&json!({"type": "tool", "name": output.name})))?;
        }
        fields.default("tools", Some(&tools).filter(|tools| !tools.is_empty()))?;
        fields.finish()
    }
}

impl Body<'_> {
    /// Returns how the model thinks, in the API's words.
    fn thinking(&self) -> Option<Json> {
        let effort = self.params.reasoning_effort.as_deref()?;
        // A model that is forced to call a tool must not think before.
        let off = effort == "none" || (self.output.is_some() && !self.schemas);
        Some(json!({"type": if off { "disabled" } else { "adaptive" }}))
    }

    /// Returns what is said of the answer. Keys of `extra` are added, because a schema and an effort stand in one object.
    fn config(&self, extra: &mut Map<String, Json>) -> Option<Json> {
        let mut config = Map::new();
        match self.params.reasoning_effort.as_deref() {
            None | Some("none") => {}
            Some("minimal") => drop(config.insert("effort".into(), json!("low"))),
            Some(effort) => drop(config.insert("effort".into(), json!(effort))),
        }
        if let Some(output) = self.output.filter(|_| self.schemas) {
            config.insert("format".into(), json!({"type": "json_schema", "schema": output.schema}));
        }
        match extra.remove("output_config") {
            Some(Json::Object(further)) => config.extend(further),
            Some(Json::Null) => config.clear(),
            Some(other) => drop(extra.insert("output_config".into(), other)),
            None => {}
        }
        (!config.is_empty()).then_some(Json::Object(config))
    }

    /// Returns the conversation without its system turns; turns of one role in a row are one message.
    fn messages(&self) -> Vec<Json> {
        let mut messages: Vec<(&str, Vec<Json>)> = Vec::new();
        for turn in self.turns {
            let (role, blocks) = match turn.role {
                Role::System => continue,
                Role::User => ("user", blocks(&turn.content)),
                Role::Tool => ("user", vec![result(turn)]),
                Role::Assistant => ("assistant", self.said(turn)),
            };
            if blocks.is_empty() {
                continue;
            }
            if messages.is_empty() && role == "assistant" {
                messages.push(("user", vec![text(OPENING)]));
            }
            match messages.last_mut().filter(|(last, _)| *last == role) {
                Some((_, before)) => before.extend(blocks),
                None => messages.push((role, blocks)),
            }
        }
        if messages.is_empty() {
            messages.push(("user", vec![text(OPENING)]));
        }
        messages.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
    }

    /// Returns what the assistant said: as this model told it, or made of text and calls.
    fn said(&self, turn: &Turn) -> Vec<Json> {
        let of_this_model = |kept: &&Json| kept["anthropic"].as_str() == Some(self.model);
        if let Some(kept) = turn.kept.as_ref().filter(of_this_model)
            && let Some(blocks) = kept["blocks"].as_array()
        {
            let block = |block: &Json| match block["call"].as_u64() {
                None => Some(block.clone()),
                Some(nth) => turn.tool_calls.get(usize::try_from(nth).ok()?).map(call),
            };
            return blocks.iter().filter_map(block).collect();
        }
        let mut said = blocks(&turn.content);
        said.extend(turn.tool_calls.iter().map(call));
        said
    }
}

/// Returns the texts of all system turns.
fn system(turns: &[Turn]) -> String {
    let of = turns.iter().filter(|turn| turn.role == Role::System);
    let texts = of.flat_map(|turn| blocks(&turn.content));
    let texts: Vec<String> = texts.filter_map(|block| Some(block["text"].as_str()?.to_owned())).collect();
    texts.join("\n\n")
}

fn text(text: &str) -> Json {
    json!({"type": "text", "text": text})
}

/// Returns the blocks of a content; empty texts are none.
fn blocks(content: &Json) -> Vec<Json> {
    let some = |said: &str| (!said.trim().is_empty()).then(|| text(said));
    match content {
        Json::String(said) => some(said).into_iter().collect(),
        Json::Array(parts) => {
            let block = |part: &Json| match part["type"].as_str() {
                Some("image") => Some(json!({"type": "image", "source": source(part["url"].as_str()?)})),
                Some("file") => {
                    let mut document = json!({"type": "document", "source": document(part["url"].as_str()?)});
                    if let Some(name) = part.get("name") {
                        document["title"] = name.clone();
                    }
                    Some(document)
                }
                _ => some(part["text"].as_str()?),
            };
            parts.iter().filter_map(block).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns where an image or a file is: in the request itself, or at an address.
fn source(url: &str) -> Json {
    match data(url) {
        Some((media_type, data)) => json!({"type": "base64", "media_type": media_type, "data": data}),
        None => json!({"type": "url", "url": url}),
    }
}

/// Returns where a document is; a plain text is sent as it is.
fn document(url: &str) -> Json {
    use base64::Engine as _;
    let plain = data(url).filter(|(media_type, _)| media_type.starts_with("text/"));
    let decoded = plain.and_then(|(_, data)| base64::engine::general_purpose::STANDARD.decode(data).ok());
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(said) => json!({"type": "text", "media_type": "text/plain", "data": said}),
        None => source(url),
    }
}

/// Reads `data:TYPE;base64,DATA`.
fn data(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    Some((head.split(';').next().unwrap_or_default(), data))
}

/// Returns a call of a tool. Broken arguments were answered with what is wrong with them; they are sent back as none.
fn call(call: &ToolCall) -> Json {
    let input = Json::Object(call.args().unwrap_or_default());
    json!({"type": "tool_use", "id": id(&call.id), "name": wire_name(&call.name), "input": input})
}

fn result(turn: &Turn) -> Json {
    let of = id(turn.tool_call_id.as_deref().unwrap_or_default());
    let content = blocks(&turn.content);
    json!({"type": "tool_result", "tool_use_id": of, "content": content})
}

/// Returns an id that the API takes: those of other providers may have other characters.
fn id(id: &str) -> String {
    let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain { id.to_owned() } else { format!("call_{}", &sha256_hex(id.as_bytes())[..24]) }
}

/// One event of the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(rename = "type", deserialize_with = "word")]
    pub(super) kind: String,
    pub(super) index: Option<u64>,
    pub(super) message: Option<MessageStart>,
    pub(super) content_block: Option<BlockStart>,
    pub(super) delta: Option<Delta>,
    pub(super) usage: Option<WireUsage>,
    pub(super) error: Option<WireError>,
}

/// Reads a text; null is an empty one.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Text::deserialize(deserializer)?.0)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MessageStart {
    pub(super) usage: Option<WireUsage>,
}

/// A block begins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BlockStart {
    #[serde(rename = "type", deserialize_with = "word")]
    pub(super) kind: String,
    pub(super) id: Text,
    pub(super) name: Text,
    pub(super) input: Option<Json>,
    pub(super) text: Text,
    pub(super) thinking: Text,
    pub(super) signature: Text,
    pub(super) data: Text,
}

/// What is added to a block; or the reason for the end.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta {
    #[serde(rename = "type", deserialize_with = "word")]
    pub(super) kind: String,
    pub(super) text: Text,
    pub(super) thinking: Text,
    pub(super) signature: Text,
    pub(super) partial_json: Text,
    pub(super) stop_reason: Option<String>,
}

/// An error within the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireError {
    #[serde(rename = "type")]
    pub(super) kind: Text,
    pub(super) message: Text,
}

/// Token counts of the answer so far; later ones replace earlier ones.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "these are the names of the API")]
pub(super) struct WireUsage {
    input_tokens: Option<f64>,
    cache_read_input_tokens: Option<f64>,
    cache_creation_input_tokens: Option<f64>,
    output_tokens: Option<f64>,
}

impl WireUsage {
    pub(super) fn take(&mut self, later: &Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
    }

    /// Returns the usage as the other providers count it: what was cached is a part of the input.
    pub(super) fn total(&self) -> Usage {
        let (read, written) = (count(self.cache_read_input_tokens), count(self.cache_creation_input_tokens));
        Usage {
            input_tokens: count(self.input_tokens).saturating_add(read).saturating_add(written),
            output_tokens: count(self.output_tokens),
            model_calls: 1,
            cache_read_tokens: read,
            cache_write_tokens: written,
            ..Usage::default()
        }
    }
}
