//! What the document says of one graph: its own schemas, and `chat` and `invoke` with them.
//!
//! The operations are the general ones at the graph's own path, so a generated client has a function
//! for each graph whose input and output are typed.

use serde_json::{Value as Json, json};

use super::{operations, remove};
use crate::plan::Plan;
use crate::server::schema;
use crate::state::Schemas;

/// Adds a graph.
pub(super) fn add(document: &mut Json, plan: &Plan) {
    let id = &plan.graph;
    let name = |part: &str| format!("Graph_{id}_{part}");
    let reference = |part: &str| json!({"$ref": format!("#/components/schemas/Graph_{id}_{part}")});
    let suffix = suffix(document, id);
    let schemas = &mut document["components"]["schemas"];

    let mut request = schemas["ChatRequest"].clone();
    request["description"] = format!("One turn with `{id}`.").into();
    request["properties"]["input"] = reference("Input");
    if plan.messages.is_none() {
        remove(&mut request["properties"], "message");
    }
    // A type that contains itself is a schema of its own.
    let mut named = Schemas::at(format!("#/components/schemas/{}", name("Type_")));
    let input = schema::input(plan, &mut named);
    if input["required"].is_array()
        && let Some(required) = request["required"].as_array_mut()
    {
        required.push("input".into());
    }
    let mut result = schemas["InvokeResult"].clone();
    result["description"] = format!("How an invoked run of `{id}` ended.").into();
    result["properties"]["output"] = reference("Output");

    if let Json::Object(schemas) = schemas {
        schemas.insert(name("Input"), input);
        schemas.insert(name("Output"), schema::output(plan, &mut named));
        schemas.insert(name("State"), schema::state(plan, &mut named));
        schemas.insert(name("Request"), request);
        schemas.insert(name("Result"), result);
        let named = named.into_definitions().into_iter();
        schemas.extend(named.map(|(ty, schema)| (name(&format!("Type_{ty}")), schema)));
    }
    for operation in ["chat", "invoke"] {
        let path = format!("/v1/graphs/{id}/{operation}");
        let general = document["paths"][format!("/v1/graphs/{{graph}}/{operation}")]["post"].clone();
        let mut own = general;
        own["operationId"] = format!("{operation}{suffix}").into();
        own["summary"] = match operation {
            "chat" => format!("Takes a turn with `{id}` and streams the run").into(),
            _ => format!("Takes a turn with `{id}` and answers when the run is over").into(),
        };
        if let Some(parameters) = own["parameters"].as_array_mut() {
            parameters.retain(|parameter| parameter["in"] != "path");
        }
        own["requestBody"]["content"]["application/json"]["schema"] = reference("Request");
        if operation == "invoke" {
            own["responses"]["200"]["content"]["application/json"]["schema"] = reference("Result");
        }
        if let Json::Object(paths) = &mut document["paths"] {
            paths.insert(path, json!({"post": own}));
        }
    }
    note_state(document, &name("State"));
}

/// The state of a thread is that of some graph.
fn note_state(document: &mut Json, name: &str) {
    let state = &mut document["components"]["schemas"]["State"]["properties"]["state"];
    if let Json::Object(state) = state {
        let description = state.entry("description").or_insert_with(|| "".into());
        let text = description.as_str().unwrap_or_default().trim_end_matches('.');
        *description = match text.split_once(" One of: ") {
            Some(_) => format!("{text}, `{name}`."),
            None => format!("{text}. One of: `{name}`."),
        }
        .into();
    }
}

/// `order-desk` becomes `OrderDesk`; what an earlier graph took already gets a number.
fn suffix(document: &mut Json, id: &str) -> String {
    let words = id.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut suffix: String = words
        .map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_ascii_uppercase() + rest
        })
        .collect();
    let taken: Vec<String> = operations(document)
        .filter_map(|operation| operation["operationId"].as_str().map(str::to_owned))
        .collect();
    let plain = suffix.clone();
    let mut number = 2;
    while taken.contains(&format!("chat{suffix}")) {
        suffix = format!("{plain}{number}");
        number += 1;
    }
    suffix
}
