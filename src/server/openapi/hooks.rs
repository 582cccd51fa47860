//! What webhooks are sent: a callback of each operation that takes an address for it.
//!
//! Invariant: the schema is derived from what is sent.

use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};

use super::{events, operations, walk};
use crate::engine::hook::RunNotice;

/// The operations whose bodies take `webhook`.
const OPERATIONS: [&str; 3] = ["chat", "invoke", "resumeThread"];

/// Adds `RunNotice` and what it uses to the components, and the callbacks to the operations.
pub(super) fn add(document: &mut Json) {
    let root = SchemaSettings::openapi3().into_generator().into_root_schema_for::<RunNotice>();
    let mut root: Json = root.into();
    walk(&mut root, &mut events::plain);
    let schemas = &mut document["components"]["schemas"];
    if let Some(schemas) = schemas.as_object_mut() {
        if let Json::Object(used) = root["components"]["schemas"].take() {
            for (name, schema) in used {
                schemas.entry(events::new_name(&name)).or_insert(schema);
            }
        }
        if let Some(root) = root.as_object_mut() {
            for key in ["$schema", "components", "title"] {
                root.shift_remove(key);
            }
        }
        schemas.insert("RunNotice".into(), root);
        schemas.sort_keys();
    }
    let header = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true, "description": description,
            "schema": {"type": "string"},
        })
    };
    let post = json!({
        "summary": "A run ended or pauses",
        "description": "Signed as Standard Webhooks has it. Sent again, with the same `webhook-id`, until an answer 2xx \
            comes, over about a day.",
        "parameters": [
            header("webhook-id", "The same each time that the same is sent."),
            header("webhook-timestamp", "When this was sent, in seconds since 1970."),
            header(
                "webhook-signature",
                "`v1,` and the Base64 of HMAC-SHA256 over `id.timestamp.body`; several, parted by spaces, while the \
                    secret changes.",
            ),
        ],
        "requestBody": {
            "required": true,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RunNotice"}}},
        },
        "responses": {
            "2XX": {"description": "It was taken."},
            "410": {"description": "Nobody is there any more: it is not sent again."},
        },
    });
    for operation in operations(document) {
        if OPERATIONS.iter().any(|name| operation["operationId"] == *name) {
            operation["callbacks"] = json!({"runNotice": {"{$request.body#/webhook}": {"post": post}}});
        }
    }
}
