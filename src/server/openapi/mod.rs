//! The OpenAPI documents: poem-openapi describes the operations, and what it cannot say is added here.
//!
//! Invariant: the same build and the same graphs give the same bytes.

mod events;
mod graphs;
mod hooks;
mod newer;
mod refusals;

use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Map, Value as Json, json};

use super::auth::Auth;
use super::graphs::Graphs;
use super::health::Health;
use super::interrupts::Interrupts;
use super::runs::Runs;
use super::sse;
use super::threads::Threads;
use crate::compile::Catalog;

pub(super) use newer::with_item_schema;

/// What a client generator and a reader see first.
const ABOUT: &str = "Graphs of prompts as durable, streaming chat. A stream is a sequence of server-sent \
    events; the `data` of each is one `GraphEvent`, and the last one is `[DONE]`. Every refusal is an \
    RFC 9457 problem with a stable `code`.";

/// Returns the document with the schemas of these graphs.
pub fn document(catalog: &Catalog) -> Json {
    let mut document = base();
    for compiled in catalog.graphs.values() {
        graphs::add(&mut document, &compiled.plan);
    }
    document
}

/// Returns the document without graphs, as the file `openapi.json` holds it.
pub fn golden() -> String {
    // Writing a value into memory cannot fail.
    serde_json::to_string_pretty(&base()).unwrap_or_default() + "\n"
}

/// Returns the document for the clients of a service that identifies them like this.
pub(super) fn served(catalog: &Catalog, auth: &Auth) -> Json {
    let mut document = document(catalog);
    if !matches!(auth, Auth::ApiKeys(_)) {
        // Nobody sends a key here, so no client shall ask for one.
        remove(&mut document, "security");
        remove(&mut document["components"], "securitySchemes");
    }
    document
}

/// The operations as poem-openapi sees them, without anything that answers.
struct Shape;

impl OpenApi for Shape {
    fn meta() -> Vec<MetaApi> {
        <(Graphs, Runs, Threads, Interrupts, Health)>::meta()
    }

    fn register(registry: &mut Registry) {
        <(Graphs, Runs, Threads, Interrupts, Health)>::register(registry);
    }

    fn add_routes(
        self,
        _: &mut std::collections::HashMap<
            String,
            std::collections::HashMap<poem::http::Method, poem::endpoint::BoxEndpoint<'static>>,
        >,
    ) {
    }
}

fn base() -> Json {
    let service = OpenApiService::new(Shape, "graphloom", env!("CARGO_PKG_VERSION")).description(ABOUT);
    // It was a JSON text a moment ago.
    let mut document: Json = serde_json::from_str(&service.spec()).unwrap_or_default();
    document["openapi"] = json!("3.0.3");
    document["info"]["license"] = json!({"name": env!("CARGO_PKG_LICENSE")});
    remove(&mut document, "servers");
    walk(&mut document, &mut |object| {
        plain_unions(object);
        plain_descriptions(object);
        plain_numbers(object);
        plain_parameters(object);
        plain_media_types(object);
        plain_headers(object);
        streams(object);
    });
    for body in ["AnswerRequest", "ChatRequest", "ForkRequest", "ResumeRequest", "UpdateRequest"] {
        document["components"]["schemas"][body]["additionalProperties"] = json!(false);
    }
    parts(&mut document["components"]["schemas"]);
    events::add(&mut document["components"]["schemas"]);
    refusals::add(&mut document);
    hooks::add(&mut document);
    for operation in operations(&mut document) {
        if operation["operationId"] == "ready" {
            // Whoever watches over the service has no key, and gets less of an answer.
            operation["security"] = json!([]);
        }
        if operation["operationId"] == "followRun" {
            // Beside a stream, generators make it an item of nothing; the newer document has it.
            remove(&mut operation["responses"], "204");
        }
        if operation["responses"]["200"]["content"].get(sse::MEDIA_TYPE).is_some() {
            operation["x-fern-streaming"] = json!({"format": "sse", "terminator": "[DONE]"});
        }
    }
    document["components"]["securitySchemes"] = json!({
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    });
    document["security"] = json!([{"bearer": []}, {"apiKey": []}]);
    document
}

/// Returns every operation.
fn operations(document: &mut Json) -> impl Iterator<Item = &mut Json> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    paths.filter_map(Json::as_object_mut).flat_map(Map::values_mut)
}

fn remove(value: &mut Json, key: &str) {
    if let Some(object) = value.as_object_mut() {
        object.shift_remove(key);
    }
}

/// Visits every object of a value, the inner ones first.
fn walk(value: &mut Json, visit: &mut impl FnMut(&mut Map<String, Json>)) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(|item| walk(item, visit)),
        Json::Object(object) => {
            object.values_mut().for_each(|inner| walk(inner, visit));
            visit(object);
        }
        _ => {}
    }
}

/// The parts of a message, each told by its `type`, as `turn` checks them.
fn parts(schemas: &mut Json) {
    let part = |kind: &str, description: &str, field: &str, what: &str| {
        json!({
            "description": description,
            "type": "object",
            "required": ["type", field],
            "properties": {
                "type": {"type": "string", "enum": [kind]},
                field: {"description": what, "type": "string"},
            },
            "additionalProperties": false,
        })
    };
    schemas["TextPart"] = part("text", "A text.", "text", "The text.");
    let place =
        "Where the provider of the model finds it: `https://…`, `http://…`, or `data:image/…;base64,…`.";
    schemas["ImagePart"] = part("image", "An image.", "url", place);
    let mut file = part("file", "A file.", "url", "The file itself: `data:…;base64,…`.");
    file["properties"]["name"] = json!({"description": "Its name.", "type": "string"});
    schemas["FilePart"] = file;
    let reference = |name: &str| format!("#/components/schemas/{name}");
    let parts = ["TextPart", "ImagePart", "FilePart"].map(|name| json!({"$ref": reference(name)}));
    schemas["MessagePart"] = json!({
        "description": "A part of a message.",
        "oneOf": parts,
        "discriminator": {
            "propertyName": "type",
            "mapping": {
                "text": reference("TextPart"), "image": reference("ImagePart"), "file": reference("FilePart"),
            },
        },
    });
    schemas["Message"] = json!({
        "description": "A text, or a list of parts.",
        "oneOf": [
            {"type": "string"},
            {"type": "array", "minItems": 1, "items": {"$ref": reference("MessagePart")}},
        ],
    });
}

/// A `type` beside `oneOf` makes generators flatten the union into one object.
fn plain_unions(object: &mut Map<String, Json>) {
    if ["oneOf", "anyOf"].iter().any(|key| object.get(*key).is_some_and(Json::is_array)) {
        object.shift_remove("type");
    }
}

/// A description beside a reference is said once.
fn plain_descriptions(object: &mut Map<String, Json>) {
    let description = object.get("description").cloned();
    if let Some(all) = object.get_mut("allOf").and_then(Json::as_array_mut) {
        let repeats = |part: &Json| {
            part.as_object().is_some_and(|p| p.len() == 1) && part.get("description") == description.as_ref()
        };
        all.retain(|part| description.is_none() || !repeats(part));
    }
}

/// Formats of integers make some generators use big integers; every number here is below 2^53.
fn plain_numbers(object: &mut Map<String, Json>) {
    if object.get("type").is_some_and(|kind| kind == "integer") {
        if let Some(format) = object.shift_remove("format")
            && format.as_str().is_some_and(|format| format.starts_with("uint"))
        {
            object.entry("minimum").or_insert(json!(0));
        }
        for bound in ["minimum", "maximum"] {
            if let Some(number) = object.get(bound).and_then(Json::as_f64)
                && number.fract() == 0.0
            {
                object.insert(bound.into(), json!(number as i64));
            }
        }
    }
}

/// What is not said is false, and `explode` is true by itself.
fn plain_parameters(object: &mut Map<String, Json>) {
    if object.get("deprecated") == Some(&json!(false)) {
        object.shift_remove("deprecated");
    }
    if object.contains_key("in") && object.get("explode").is_some_and(Json::is_boolean) {
        object.shift_remove("explode");
    }
}

/// The keys of contents are media types without parameters.
fn plain_media_types(object: &mut Map<String, Json>) {
    if let Some(content) = object.get_mut("content").and_then(Json::as_object_mut) {
        let plain = |key: String| key.split(';').next().unwrap_or_default().trim().to_owned();
        *content = std::mem::take(content).into_iter().map(|(key, media)| (plain(key), media)).collect();
    }
}

/// Headers are written as people write them.
fn plain_headers(object: &mut Map<String, Json>) {
    let Some(headers) = object.get_mut("headers").and_then(Json::as_object_mut) else { return };
    let plain = |name: String| match name.as_str() {
        "X-RUN-ID" => "X-Run-Id".to_owned(),
        "LOCATION" => "Location".to_owned(),
        "CONTENT-LOCATION" => "Content-Location".to_owned(),
        "PREFERENCE-APPLIED" => "Preference-Applied".to_owned(),
        "IDEMPOTENT-REPLAYED" => "Idempotent-Replayed".to_owned(),
        "X-NOTICE" => "X-Notice".to_owned(),
        _ => name,
    };
    *headers = std::mem::take(headers).into_iter().map(|(name, header)| (plain(name), header)).collect();
}

/// The schema of a stream is that of its item.
fn streams(object: &mut Map<String, Json>) {
    if let Some(media) = object.get_mut(sse::MEDIA_TYPE)
        && media["schema"]["format"] == sse::ITEM
    {
        *media = json!({
            "schema": {"$ref": "#/components/schemas/ChatStreamItem"},
            "x-speakeasy-sse-sentinel": "[DONE]",
        });
    }
}

#[cfg(test)]
mod tests;
