//! The schemas of the stream, derived from the events themselves.
//!
//! Invariant: a union of arms, each with one required `type` of one value, and no nulls.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::walk;
use crate::event::Body;

/// Adds `ChatStreamItem`, `GraphEvent`, its arms, and what they use.
pub(super) fn add(schemas: &mut Json) {
    let Some(schemas) = schemas.as_object_mut() else { return };
    let root = SchemaSettings::openapi3().into_generator().into_root_schema_for::<Body>();
    let mut root: Json = root.into();
    walk(&mut root, &mut plain);
    if let Json::Object(used) = root["components"]["schemas"].take() {
        for (name, schema) in used {
            // The answers of other operations describe the shared ones in the same words.
            schemas.entry(new_name(&name)).or_insert(schema);
        }
    }
    let (mut refs, mut mapping) = (Vec::new(), Map::new());
    if let Json::Array(arms) = root["oneOf"].take() {
        for arm in arms {
            let Some(kind) = arm["properties"]["type"]["enum"][0].as_str().map(str::to_owned) else {
                continue;
            };
            let name = component(&kind);
            let reference = format!("#/components/schemas/{name}");
            schemas.insert(name, envelope(arm, &kind));
            refs.push(json!({"$ref": reference}));
            mapping.insert(kind, reference.into());
        }
    }
    let event = json!({
        "description": "One event of a run. New types may come: ignore what you do not know.",
        "oneOf": refs,
        "discriminator": {"propertyName": "type", "mapping": mapping},
    });
    schemas.insert("GraphEvent".into(), event);
    let done = json!({"description": "The end of the stream.", "type": "string", "enum": ["[DONE]"]});
    schemas.insert("StreamDone".into(), done);
    let item = json!({
        "description": "The `data` of one server-sent event.",
        "oneOf": [{"$ref": "#/components/schemas/GraphEvent"}, {"$ref": "#/components/schemas/StreamDone"}],
    });
    schemas.insert("ChatStreamItem".into(), item);
    schemas.sort_keys();
}

/// Makes of what is derived what the document has.
pub(super) fn plain(object: &mut Map<String, Json>) {
    without_null(object);
    super::plain_numbers(object);
    plain_enum(object);
    rename(object);
}

/// `message.delta` is `MessageDeltaEvent`.
fn component(kind: &str) -> String {
    let words = kind.split(['.', '_']).map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<String>() + "Event"
}

/// Says whether every event of this type comes from a node.
fn is_of_a_node(kind: &str) -> bool {
    matches!(kind.split('.').next(), Some("node" | "message" | "reasoning" | "tool"))
}

/// Adds to an arm what every event has.
fn envelope(mut arm: Json, kind: &str) -> Json {
    let own = arm["properties"].take();
    let mut properties = json!({"type": {"type": "string", "enum": [kind]}});
    let mut required = vec![json!("type")];
    if let (Json::Object(all), Json::Object(own)) = (&mut properties, own) {
        for (name, schema) in own {
            all.entry(name).or_insert(schema);
        }
        let of_a_node = [
            ("node", json!({"description": "The node.", "type": "string"})),
            ("task_id", json!({"description": "The task: one node in one superstep.", "type": "string"})),
            (
                "attempt",
                json!({"description": "The try of the task, from 1.", "type": "integer", "minimum": 1}),
            ),
        ];
        for (name, schema) in of_a_node.into_iter().filter(|_| is_of_a_node(kind)) {
            all.entry(name).or_insert(schema);
        }
        let of_all = json!({
            "run_id": {"description": "The run.", "type": "string", "format": "uuid"},
            "epoch": {"description": "Grows when the run gets a new owner.", "type": "integer", "minimum": 0},
            "seq": {"description": "Grows within an epoch; a filter leaves gaps.", "type": "integer", "minimum": 1},
            "ts": {"description": "When it was made.", "type": "string", "format": "date-time"},
        });
        if let Json::Object(of_all) = of_all {
            all.extend(of_all);
        }
    }
    let own_required = arm["required"].as_array().cloned().unwrap_or_default();
    required.extend(own_required.into_iter().filter(|name| name != "type"));
    if is_of_a_node(kind) {
        required.extend(["node", "task_id", "attempt"].map(Json::from));
    }
    required.extend(["run_id", "epoch", "seq", "ts"].map(Json::from));
    let mut schema = json!({"type": "object", "required": required, "properties": properties});
    if let (Some(description), Json::Object(schema)) = (arm.get("description"), &mut schema) {
        schema.insert("description".into(), description.clone());
    }
    schema
}

/// An absent value has no key, so nothing is ever null.
fn without_null(object: &mut Map<String, Json>) {
    object.shift_remove("nullable");
    if let Some(Json::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &mut types[..] {
            let only = only.take();
            object.insert("type".into(), only);
        }
    }
    for key in ["anyOf", "oneOf"] {
        let Some(arms) = object.get_mut(key).and_then(Json::as_array_mut) else { continue };
        let is_null = |arm: &Json| arm["type"] == "null" || arm["enum"] == json!([null]);
        arms.retain(|arm| !is_null(arm));
        if let [Json::Object(only)] = &mut arms[..] {
            let only = std::mem::take(only);
            object.shift_remove(key);
            if only.contains_key("$ref") {
                // Beside a reference nothing else is read, so the description needs a list.
                object.insert("allOf".into(), json!([only]));
            } else {
                object.extend(only);
            }
        }
    }
}

/// A union of single texts is one list of texts.
fn plain_enum(object: &mut Map<String, Json>) {
    let Some(arms) = object.get("oneOf").and_then(Json::as_array) else { return };
    let text = |arm: &Json| match (&arm["const"], arm["enum"].as_array().map(Vec::as_slice)) {
        (Json::String(text), _) | (_, Some([Json::String(text)])) if arm["properties"].is_null() => {
            Some(Json::from(text.as_str()))
        }
        _ => None,
    };
    if let Some(texts) = arms.iter().map(text).collect::<Option<Vec<_>>>() {
        object.shift_remove("oneOf");
        object.insert("type".into(), "string".into());
        object.insert("enum".into(), texts.into());
    }
}

/// A run can be queued, a finished one cannot: two lists, two names.
pub(super) fn new_name(name: &str) -> String {
    if name == "RunStatus" { "RunOutcome".into() } else { name.into() }
}

fn rename(object: &mut Map<String, Json>) {
    if let Some(Json::String(reference)) = object.get_mut("$ref")
        && let Some((path, name)) = reference.rsplit_once('/')
    {
        *reference = format!("{path}/{}", new_name(name));
        if object.len() > 1
            && let Some(reference) = object.shift_remove("$ref")
        {
            // Beside a reference nothing else is read, so the description needs a list.
            object.insert("allOf".into(), json!([{"$ref": reference}]));
        }
    }
}
