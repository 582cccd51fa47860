//! The problems that each operation can answer.
//!
//! Invariant: every code is named under its status.

use serde_json::{Map, Value as Json, json};

use crate::server::problem::{Code, MEDIA_TYPE};

/// The statuses, with the names that they have among the components.
const STATUSES: [(u16, &str); 13] = [
    (400, "BadRequest"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (408, "RequestTimeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (413, "PayloadTooLarge"),
    (415, "UnsupportedMediaType"),
    (422, "Unprocessable"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (503, "Unavailable"),
];

/// Says which statuses an operation can answer.
fn answers(operation: &Json, path: &str, status: u16) -> bool {
    match status {
        400 | 403 | 500 | 503 => true,
        401 => path.starts_with("/v1/"),
        404 => path.contains('{'),
        // Whatever starts a run or lets it go on takes a key.
        409 | 422 => keyed(operation),
        410 => keyed(operation) || path.ends_with("/events"),
        429 => keyed(operation) && path.starts_with("/v1/graphs/"),
        _ => operation["requestBody"].is_object(),
    }
}

fn keyed(operation: &Json) -> bool {
    let parameters = operation["parameters"].as_array();
    parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "Idempotency-Key"))
}

/// Adds the responses to the components and to the operations.
pub(super) fn add(document: &mut Json) {
    let responses: Map<String, Json> =
        STATUSES.iter().map(|(status, name)| ((*name).to_owned(), response(*status))).collect();
    document["components"]["responses"] = responses.into();
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, operations) in paths {
        for operation in operations.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let mut own: Vec<(&str, u16)> = Vec::new();
            for (status, name) in STATUSES {
                if answers(operation, path, status) {
                    own.push((name, status));
                }
            }
            let Some(responses) = operation["responses"].as_object_mut() else { continue };
            responses.shift_remove("default");
            for (name, status) in own {
                responses
                    .insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
            }
        }
    }
}

fn response(status: u16) -> Json {
    let codes = Code::ALL.iter().filter(|code| code.status().as_u16() == status);
    let codes: Vec<String> = codes.map(|code| format!("`{}`", code.name())).collect();
    let mut response = json!({
        "description": format!("Codes: {}.", codes.join(", ")),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    });
    let header = match status {
        401 => Some(("WWW-Authenticate", json!({"schema": {"type": "string"}}))),
        429 | 503 => Some((
            "Retry-After",
            json!({
                "description": "Seconds after which the request may succeed.",
                "schema": {"type": "integer", "minimum": 0},
            }),
        )),
        _ => None,
    };
    if let Some((name, header)) = header {
        response["headers"] = json!({name: header});
    }
    response
}
