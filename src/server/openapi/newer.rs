//! The document of OpenAPI 3.2, which can say what an item of a stream is.
//!
//! Client generators cannot read it yet; validators of streams can.

use serde_json::{Map, Value as Json, json};

use super::walk;
use crate::server::sse;

/// Returns the same operations with `itemSchema`, in the dialect of JSON Schema 2020-12.
pub(in crate::server) fn with_item_schema(document: &Json) -> Json {
    let mut document = document.clone();
    document["openapi"] = json!("3.2.0");
    let follow = &mut document["paths"]["/v1/runs/{run}/events"]["get"];
    follow["responses"]["204"] = json!({"description": "The client has every event of the run."});
    let mapping = &document["components"]["schemas"]["GraphEvent"]["discriminator"]["mapping"];
    let mut names: Vec<String> = mapping.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    // The type of an event without a name, so of `[DONE]`, by the rules of the WHATWG.
    names.push("message".into());
    walk(&mut document, &mut |object| {
        nullable(object);
        bounds(object);
        if let Some(media) = object.get_mut(sse::MEDIA_TYPE)
            && media["schema"].is_object()
        {
            *media = json!({
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string", "enum": names},
                        "retry": {"type": "integer", "minimum": 0},
                        "data": {
                            "type": "string",
                            "anyOf": [
                                {
                                    "contentMediaType": "application/json",
                                    "contentSchema": {"$ref": "#/components/schemas/GraphEvent"},
                                },
                                {"const": "[DONE]"},
                            ],
                        },
                    },
                },
                "x-speakeasy-sse-sentinel": "[DONE]",
            });
        }
    });
    document
}

/// `nullable` became a second type.
fn nullable(object: &mut Map<String, Json>) {
    if object.get("nullable") != Some(&json!(true)) {
        return;
    }
    object.shift_remove("nullable");
    if let Some(Json::String(kind)) = object.get("type") {
        let kinds = json!([kind, "null"]);
        object.insert("type".into(), kinds);
    } else if object.contains_key("$ref") || object.contains_key("allOf") {
        let inner = std::mem::take(object);
        object.insert("anyOf".into(), json!([inner, {"type": "null"}]));
    }
    if let Some(Json::Array(values)) = object.get_mut("enum")
        && !values.contains(&Json::Null)
    {
        values.push(Json::Null);
    }
}

/// An exclusive bound became a number of its own.
fn bounds(object: &mut Map<String, Json>) {
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match object.get(exclusive) {
            Some(Json::Bool(true)) => {
                if let Some(number) = object.shift_remove(bound) {
                    object.insert(exclusive.into(), number);
                }
            }
            Some(Json::Bool(false)) => {
                object.shift_remove(exclusive);
            }
            _ => {}
        }
    }
}
