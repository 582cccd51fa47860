//! Talking to a graph, and following what it says.

use super::*;

#[tokio::test]
async fn a_chat_streams_from_its_start_to_done_and_says_where_the_run_is() {
    let service = Service::fluent().await;
    let response = service.ask(post("/v1/graphs/hello/chat", &turn("s"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let run = header("x-run-id");
    assert_eq!(header("location"), format!("/v1/runs/{run}/events"));
    assert_eq!(header("content-location"), format!("/v1/runs/{run}"));
    assert_eq!(header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    assert!(response.headers().contains_key("x-request-id"));
    let text = response.into_body().into_string().await.unwrap();
    let all = events(&text);
    let names: Vec<&str> = all.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names.first(), Some(&"run.started"));
    assert_eq!(names[names.len() - 2..], ["run.finished", ""]);
    assert!(!names.contains(&"edge.taken") && !names.contains(&"checkpoint.saved"), "{names:?}");
    assert!(text.ends_with("data: [DONE]\n\n") && text.matches("retry: ").count() == 1);

    // The same again, from any place, and nothing after the end.
    let (middle, last) = (&all[3].0, &all[all.len() - 2].0);
    let path = format!("/v1/runs/{run}/events");
    let again = service.ask(get(&path).finish()).await.into_body().into_string().await.unwrap();
    assert_eq!(events(&again), all);
    let rest = service.ask(get(&path).header("last-event-id", middle).finish()).await;
    assert_eq!(events(&rest.into_body().into_string().await.unwrap()), all[4..]);
    let after =
        service.ask(get(&format!("{path}?after={last}")).header("last-event-id", middle).finish()).await;
    assert_eq!(after.status(), StatusCode::OK, "the header beats the query");
    let nothing = service.ask(get(&format!("{path}?after={last}")).finish()).await;
    assert_eq!(nothing.status(), StatusCode::NO_CONTENT);
    let foreign = format!("{path}?after={}:1-1", RunId::new());
    assert_eq!(service.get(&foreign).await.1["code"], "invalid_event_id");
    assert_eq!(service.get(&format!("{path}?after=7")).await.1["code"], "invalid_event_id");

    // A generated client repeats its POST.
    let repeat = |id: &str, session: &str| {
        let request = get("/v1/graphs/hello/chat").method(Method::POST).content_type("application/json");
        request.header("last-event-id", id).body(turn(session).to_string())
    };
    let rest = service.ask(repeat(middle, "s")).await;
    assert_eq!(rest.headers()["x-run-id"].to_str().unwrap(), run);
    assert_eq!(events(&rest.into_body().into_string().await.unwrap()), all[4..]);
    let done = service.ask(repeat(last, "s")).await;
    assert_eq!(done.status(), StatusCode::OK);
    assert_eq!(done.into_body().into_string().await.unwrap(), "data: [DONE]\n\n");
    assert_eq!(
        service.ask(repeat(&format!("{}:1-1", RunId::new()), "s")).await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(service.ask(repeat(middle, "other")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(service.ask(repeat("nonsense", "s")).await.status(), StatusCode::BAD_REQUEST);
    let (_, threads) = service.get("/v1/threads").await;
    assert_eq!(threads["threads"].as_array().unwrap().len(), 1, "nothing of this started a run");
}

#[tokio::test]
async fn include_chooses_groups_in_body_and_query() {
    let service = Service::fluent().await;
    let body = json!({"session_id": "s", "message": "hi", "include": ["edges", "checkpoints"]});
    let response = service.ask(post("/v1/graphs/hello/chat", &body)).await;
    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
    let text = response.into_body().into_string().await.unwrap();
    let names: Vec<String> = events(&text).into_iter().map(|(_, name, _)| name).collect();
    assert!(
        names.contains(&"edge.taken".to_owned()) && names.contains(&"checkpoint.saved".to_owned()),
        "{names:?}"
    );
    assert!(!names.iter().any(|name| name.starts_with("message")), "{names:?}");
    let path = format!("/v1/runs/{run}/events?include=");
    let text = service.ask(get(&path).finish()).await.into_body().into_string().await.unwrap();
    let names: Vec<String> = events(&text).into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, ["run.started", "run.finished", ""]);
    assert_eq!(service.get(&format!("{path}nodez")).await.1["code"], "invalid_parameter");
}

#[tokio::test]
async fn an_invoke_is_the_stream_drained() {
    let service = Service::fluent().await;
    let (status, result) = service.post("/v1/graphs/hello/invoke", turn("s")).await;
    assert_eq!(status, StatusCode::OK, "{result}");
    assert_eq!((&result["status"], &result["reply"]), (&json!("completed"), &json!("Hello")));
    assert_eq!(result["messages"][0]["content"], "Hello");
    assert_eq!((&result["session_id"], &result["error"]), (&json!("s"), &Json::Null));
    let run = result["run_id"].as_str().unwrap();
    let (_, view) = service.get(&format!("/v1/runs/{run}")).await;
    assert_eq!((&view["status"], &view["graph"]), (&json!("completed"), &json!("hello")));
    assert!(view["finished_at"].as_str().unwrap().ends_with('Z'));
    let (_, conversation) = service.get("/v1/threads/s/messages").await;
    let turns = conversation["messages"].as_array().unwrap();
    assert_eq!(turns.len(), 2);
    assert_eq!((&turns[0]["role"], &turns[0]["content"]), (&json!("user"), &json!("hi")));
    assert_eq!((&turns[1]["role"], &turns[1]["content"]), (&json!("assistant"), &json!("Hello")));
}

#[tokio::test]
async fn a_repeated_request_with_its_key_finds_the_run_of_the_first() {
    let service = Service::fluent().await;
    let keyed = |body: &Json| {
        let request = get("/v1/graphs/hello/invoke").method(Method::POST).content_type("application/json");
        request.header("idempotency-key", "k1").body(body.to_string())
    };
    let first = service.ask(keyed(&turn("s"))).await;
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let second = service.ask(keyed(&json!({"message": "hi", "session_id": "s"}))).await;
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    assert_eq!(first.headers()["x-run-id"], second.headers()["x-run-id"]);
    let (status, problem) = read(service.ask(keyed(&turn("t"))).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("idempotency_key_reused")));
    let long = get("/v1/graphs/hello/invoke").method(Method::POST).content_type("application/json");
    let long = long.header("idempotency-key", "x".repeat(256)).body(turn("s").to_string());
    assert_eq!(read(service.ask(long).await).await.1["code"], "invalid_header");
}

#[tokio::test]
async fn a_busy_thread_refuses_queues_and_has_an_end_of_patience() {
    let service = Service::with(|_| {}).await;
    let first = service.ask(post("/v1/graphs/hello/chat", &turn("s"))).await;
    let run = first.headers()["x-run-id"].to_str().unwrap().to_owned();
    let reject = json!({"session_id": "s", "message": "hi", "on_busy": "reject"});
    let (status, problem) = service.post("/v1/graphs/hello/chat", reject).await;
    assert_eq!(
        (status.as_u16(), &problem["code"], &problem["run_id"]),
        (409, &json!("thread_busy"), &json!(run))
    );
    let mut queued = Vec::new();
    for _ in 0..2 {
        queued.push(service.ask(post("/v1/graphs/hello/chat", &turn("s"))).await);
    }
    let full = service.ask(post("/v1/graphs/hello/chat", &turn("s"))).await;
    assert_eq!(full.headers()["retry-after"], "1");
    assert_eq!(read(full).await.1["code"], "thread_queue_full");
    let (_, view) = service.get("/v1/threads/s").await;
    assert_eq!(view["status"], "busy");

    let cancel = get(&format!("/v1/runs/{run}/cancel?wait=true")).method(Method::POST).finish();
    let (status, view) = read(service.ask(cancel).await).await;
    assert_eq!((status.as_u16(), &view["status"]), (202, &json!("cancelled")));
    let text = first.into_body().into_string().await.unwrap();
    assert!(text.contains("\"status\":\"cancelled\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    service.permits.add_permits(100);
    for response in queued {
        assert!(response.into_body().into_string().await.unwrap().contains("\"status\":\"completed\""));
    }
}

#[tokio::test]
async fn inputs_that_do_not_fit_the_graph_are_told_by_pointer() {
    let service = Service::fluent().await;
    let body = json!({"session_id": "s", "message": "hi", "input": {"count": 0, "more": 1}});
    let (status, problem) = service.post("/v1/graphs/strict-one/invoke", body).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("unprocessable")));
    let mut pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|at| at["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/input/count", "/input/more"]);
    let body = json!({"session_id": "s", "message": "hi", "input": {"count": 2}});
    assert_eq!(service.post("/v1/graphs/strict-one/invoke", body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn too_many_open_streams_are_refused_before_anything_is_stored() {
    let service = Service::with(|settings| settings.streams = 1).await;
    let first = service.ask(post("/v1/graphs/hello/chat", &turn("s"))).await;
    let refused = service.ask(post("/v1/graphs/hello/chat", &turn("t"))).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    let (status, problem) = read(refused).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("overloaded")));
    assert_eq!(service.get("/v1/threads/t").await.0, StatusCode::NOT_FOUND);
    drop(first);
    assert_eq!(service.ask(post("/v1/graphs/hello/chat", &turn("t"))).await.status(), StatusCode::OK);
}
