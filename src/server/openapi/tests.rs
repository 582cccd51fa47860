use std::collections::BTreeSet;

use super::*;

/// Visits every object with its path.
fn each(value: &Json, path: &str, visit: &mut impl FnMut(&str, &Map<String, Json>)) {
    match value {
        Json::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                each(item, &format!("{path}/{i}"), visit);
            }
        }
        Json::Object(object) => {
            visit(path, object);
            for (key, inner) in object {
                each(inner, &format!("{path}/{key}"), visit);
            }
        }
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = base();
    let mut used = BTreeSet::new();
    each(&document, "", &mut |path, object| {
        if let Some(Json::String(reference)) = object.get("$ref") {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            used.insert(reference.clone());
        }
    });
    for kind in ["schemas", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

#[test]
fn every_operation_has_an_id_and_answers_problems() {
    let mut document = base();
    let mut ids = BTreeSet::new();
    for operation in operations(&mut document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{id}");
        let open = operation["security"] == json!([]);
        for (status, answers) in [("400", true), ("401", !open), ("503", true)] {
            assert_eq!(operation["responses"][status]["$ref"].is_string(), answers, "{id} {status}");
        }
        assert!(operation["responses"]["default"].is_null(), "{id}");
        assert!(ids.insert(id));
    }
    let expected = [
        "answerInterrupt",
        "cancelInterrupt",
        "cancelRun",
        "chat",
        "deleteThread",
        "followRun",
        "forkThread",
        "getDiagram",
        "getGraph",
        "getHistory",
        "getRun",
        "getState",
        "getThread",
        "invoke",
        "listApprovals",
        "listGraphs",
        "listInterrupts",
        "listMessages",
        "listThreads",
        "ready",
        "resumeThread",
        "updateState",
    ];
    assert_eq!(ids.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn whatever_starts_a_run_or_lets_it_go_on_can_be_repeated_and_can_conflict() {
    let mut document = base();
    let mut keyed = Vec::new();
    for operation in operations(&mut document) {
        let conflicts = ["409", "422"].map(|status| operation["responses"][status].is_object());
        if conflicts == [true, true] {
            keyed.push(operation["operationId"].as_str().unwrap().to_owned());
            let headers = &operation["responses"]["200"]["headers"];
            assert!(headers["Idempotent-Replayed"].is_object(), "{keyed:?}");
        } else {
            assert_eq!(conflicts, [false, false], "{operation}");
        }
    }
    keyed.sort_unstable();
    let expected =
        ["answerInterrupt", "cancelInterrupt", "chat", "forkThread", "invoke", "resumeThread", "updateState"];
    assert_eq!(keyed, expected);
    let who = &document["components"]["schemas"]["OpenInterrupt"]["properties"]["who"];
    assert!(who.to_string().contains("#/components/schemas/Who"), "{who}");
}

#[test]
fn a_generator_finds_nothing_that_it_stumbles_over() {
    let document = base();
    assert_eq!(document["openapi"], "3.0.3");
    each(&document, "", &mut |path, object| {
        assert!(!object.contains_key("const"), "{path} has a keyword of later versions");
        assert!(!(object.get("oneOf").is_some_and(Json::is_array) && object.contains_key("type")), "{path}");
        assert!(object.get("type").is_none_or(|t| !t.is_array()), "{path} has several types");
        assert!(object.get("nullable").is_none_or(|n| !n.is_boolean()), "{path} is nullable");
        assert!(!object.contains_key("$ref") || object.len() == 1, "{path} has siblings of a reference");
        assert!(object.get("required").is_none_or(|r| r != &json!([])), "{path}");
        for key in object.keys() {
            assert!(!key.contains(';'), "{path}/{key}");
        }
    });
}

#[test]
fn the_item_of_a_stream_is_a_union_of_events_with_one_type_each() {
    let document = base();
    let schemas = &document["components"]["schemas"];
    for (path, method) in [("/v1/graphs/{graph}/chat", "post"), ("/v1/runs/{run}/events", "get")] {
        let operation = &document["paths"][path][method];
        let media = &operation["responses"]["200"]["content"]["text/event-stream"];
        assert_eq!(media["schema"]["$ref"], "#/components/schemas/ChatStreamItem");
        assert_eq!(media["x-speakeasy-sse-sentinel"], "[DONE]");
        assert_eq!(operation["x-fern-streaming"]["terminator"], "[DONE]");
    }
    let event = &schemas["GraphEvent"];
    assert!(event["type"].is_null());
    let mapping = event["discriminator"]["mapping"].as_object().unwrap();
    assert_eq!(mapping.len(), event["oneOf"].as_array().unwrap().len());
    assert!(mapping.len() >= 17, "{mapping:?}");
    for (kind, reference) in mapping {
        let arm = document.pointer(reference.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
        assert_eq!(arm["properties"]["type"], json!({"type": "string", "enum": [kind]}));
        let required: Vec<&str> =
            arm["required"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
        for name in ["type", "run_id", "epoch", "seq", "ts"] {
            assert_eq!(required.iter().filter(|r| **r == name).count(), 1, "{kind} {name}");
        }
        for name in &required {
            assert!(arm["properties"][name].is_object(), "{kind} {name}");
        }
    }
    assert_eq!(schemas["StreamDone"]["enum"], json!(["[DONE]"]));
    for event in ["RunFinishedEvent", "NodeFinishedEvent"] {
        let usage = json!([{"$ref": "#/components/schemas/Usage"}]);
        assert_eq!(schemas[event]["properties"]["usage"]["allOf"], usage, "{event}");
    }
    assert!(!schemas["NodeFinishedEvent"]["required"].as_array().unwrap().contains(&json!("usage")));
    assert_eq!(schemas["RunOutcome"]["type"], "string");
}

/// Every event that can be sent fits its schema: the same names, nothing required that may be missing.
#[test]
fn an_event_on_the_wire_has_what_its_schema_promises() {
    use crate::event::{Body, Event, RunStatus, Scope, Usage};
    use crate::id::{RunId, Seq, TaskId};
    let document = base();
    let scope = Scope::new("a", TaskId("t".into()), 1);
    let bodies = [
        (None, Body::RunStarted { session_id: "s".into(), graph: "g".into(), graph_hash: "h".into() }),
        (Some(&scope), Body::MessageDelta { message_id: "m".into(), delta: "x".into() }),
        (Some(&scope), Body::MessageFinished { message_id: "m".into(), content: None, truncated: false }),
        (
            None,
            Body::EdgeTaken {
                from: "a".into(),
                to: "b".into(),
                condition: None,
                path: Vec::new(),
                item: None,
            },
        ),
        (
            None,
            Body::Error { code: "c".into(), message: "m".into(), retryable: true, node: Some("a".into()) },
        ),
        (None, Body::ended(RunStatus::Failed, Usage::default())),
    ];
    for (scope, body) in bodies {
        let seq = Seq { fence: 1, n: 1 };
        let event = Event { seq, at: chrono::Utc::now(), scope: scope.cloned(), body };
        let wire: Json = serde_json::from_slice(&event.to_json(RunId::new())).unwrap();
        let kind = wire["type"].as_str().unwrap();
        let reference = &document["components"]["schemas"]["GraphEvent"]["discriminator"]["mapping"][kind];
        let arm = document.pointer(reference.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
        for name in arm["required"].as_array().unwrap() {
            assert!(wire.get(name.as_str().unwrap()).is_some(), "{kind} lacks {name}");
        }
        for name in wire.as_object().unwrap().keys() {
            assert!(arm["properties"][name].is_object(), "{kind} has {name}");
        }
    }
}

#[test]
fn the_newer_document_has_an_envelope_as_item() {
    let document = with_item_schema(&base());
    assert_eq!(document["openapi"], "3.2.0");
    let content = &document["paths"]["/v1/graphs/{graph}/chat"]["post"]["responses"]["200"]["content"];
    let media = &content["text/event-stream"];
    assert!(media["schema"].is_null());
    let item = &media["itemSchema"]["properties"];
    assert_eq!(item["data"]["anyOf"][0]["contentSchema"]["$ref"], "#/components/schemas/GraphEvent");
    assert!(item["event"]["enum"].as_array().unwrap().contains(&json!("message.delta")));
}

#[test]
fn the_file_is_the_same_each_time() {
    assert_eq!(golden(), golden());
    assert!(golden().ends_with("}\n"));
}

#[test]
fn a_service_without_keys_asks_for_none() {
    let catalog = Catalog::default();
    assert!(served(&catalog, &Auth::None)["security"].is_null());
    let key = super::super::ApiKey::new("a", &"0".repeat(64), "t".parse().unwrap(), None, None).unwrap();
    let keys = Auth::ApiKeys(super::super::ApiKeys::new([key]).unwrap());
    assert!(served(&catalog, &keys)["security"].is_array());
    assert!(document(&catalog)["components"]["securitySchemes"]["bearer"].is_object());
}
