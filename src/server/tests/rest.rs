//! Graphs, threads, refusals and what strangers see.

use super::*;

#[tokio::test]
async fn every_refusal_is_a_problem_with_its_code() {
    let service = Service::with(|settings| settings.body_limit = 1000).await;
    let chat = "/v1/graphs/hello/chat";
    let raw = |kind: Option<&str>, body: Vec<u8>| {
        let mut request = get(chat).method(Method::POST);
        if let Some(kind) = kind {
            request = request.content_type(kind);
        }
        request.body(body)
    };
    let json = Some("application/json");
    let long = json!({"session_id": "s", "message": "x".repeat(1000)}).to_string();
    let chunks = futures_util::stream::iter((0..4).map(|_| Ok::<_, io::Error>(Bytes::from(vec![b'['; 400]))));
    let deep = "[".repeat(900);
    let cases = [
        (raw(json, b"{".to_vec()), 400, "malformed_json"),
        (raw(json, b"\xff".to_vec()), 400, "malformed_json"),
        (raw(json, Vec::new()), 400, "malformed_json"),
        (raw(json, deep.into_bytes()), 400, "malformed_json"),
        (raw(json, b"{\"session_id\":\"s\",\"message\":\"\\u0000\"}".to_vec()), 400, "nul_character"),
        (raw(json, b"[]".to_vec()), 400, "invalid_request"),
        (raw(json, b"{\"message\":\"x\"}".to_vec()), 400, "invalid_request"),
        (raw(json, b"{\"session_id\":\"s\",\"tenant\":\"x\"}".to_vec()), 400, "invalid_request"),
        (raw(json, long.into_bytes()), 413, "payload_too_large"),
        (
            get(chat)
                .method(Method::POST)
                .content_type("application/json")
                .body(Body::from_bytes_stream(chunks)),
            413,
            "payload_too_large",
        ),
        (raw(None, b"{}".to_vec()), 415, "unsupported_media_type"),
        (raw(Some("text/plain"), b"{}".to_vec()), 415, "unsupported_media_type"),
        (get("/v1/graphs/none").finish(), 404, "graph_not_found"),
        (get("/v1/nowhere").finish(), 404, "route_not_found"),
        (get("/").finish(), 404, "route_not_found"),
        (get(chat).finish(), 405, "method_not_allowed"),
        (get("/v1/graphs/hello/diagram?format=svg").finish(), 400, "invalid_parameter"),
        (get("/v1/runs/7").finish(), 400, "invalid_parameter"),
        (get("/v1/threads/a:b").finish(), 400, "invalid_parameter"),
        (get("/v1/threads/a%00").finish(), 400, "nul_character"),
        (get("/v1/threads/a%ff").finish(), 400, "invalid_path"),
        (get("/v1/threads?cursor=x").finish(), 400, "invalid_parameter"),
        (get("/v1/threads?limit=0").finish(), 400, "invalid_parameter"),
        (get("/v1/threads?x=%00").finish(), 400, "nul_character"),
        (get("/v1/threads").header("x-tenant-id", "a b").finish(), 400, "invalid_identity"),
        (get("/v1/threads/s").finish(), 404, "not_found"),
        (get("/v1/threads/s/state?path=x").finish(), 400, "invalid_parameter"),
        (
            Request::builder().uri_str("/v1/graphs").header("host", "evil.example").finish(),
            403,
            "forbidden_host",
        ),
        (Request::builder().uri_str("/live").finish(), 403, "forbidden_host"),
    ];
    for (request, status, code) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let response = service.ask(request).await;
        assert_eq!(response.content_type(), Some("application/problem+json"), "{what}");
        assert!(response.headers().contains_key("x-request-id"), "{what}");
        let (found, problem) = read(response).await;
        assert_eq!((found.as_u16(), problem["code"].as_str()), (status, Some(code)), "{what}: {problem}");
        assert_eq!(problem["status"], status, "{what}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{what}: {problem}");
        }
    }
    let response = service.ask(get(chat).finish()).await;
    assert_eq!(response.headers()["allow"], "POST");
}

#[tokio::test]
async fn what_belongs_to_somebody_else_answers_like_what_does_not_exist() {
    let key = |id: &str, tenant: &str, user: &str| {
        let part = |text: &str| text.parse::<Part>().unwrap();
        ApiKey::new(id, &sha256_hex(b"secret"), part(tenant), Some(part(user)), None).unwrap()
    };
    let keys = [key("a", "acme", "ann"), key("b", "acme", "bob"), key("c", "other", "ann")];
    let service = Service::with(|settings| {
        *settings = Settings::new(settings.bind, Auth::ApiKeys(ApiKeys::new(keys).unwrap()));
    })
    .await;
    service.permits.add_permits(100);
    let as_key = |id: &str, method: Method, path: &str| {
        get(path).method(method).header("x-api-key", format!("gl_{id}_secret"))
    };
    let chat = as_key("a", Method::POST, "/v1/graphs/hello/invoke").content_type("application/json");
    let (status, result) = read(service.ask(chat.body(turn("s").to_string())).await).await;
    assert_eq!(status, StatusCode::OK);
    let run = result["run_id"].as_str().unwrap();
    let (_, state) = read(service.ask(as_key("a", Method::GET, "/v1/threads/s/state").finish()).await).await;
    let checkpoint = state["checkpoint"]["checkpoint_id"].as_str().unwrap();

    let own = format!("/v1/threads/s/state?checkpoint={checkpoint}");
    assert_eq!(service.ask(as_key("a", Method::GET, &own).finish()).await.status(), StatusCode::OK);
    let none = || Json::Null;
    let change = || json!({"values": {}, "as_node": "end"});
    let paths = |run: &str, session: &str, checkpoint: &str| {
        [
            (Method::GET, format!("/v1/runs/{run}"), none()),
            (Method::GET, format!("/v1/runs/{run}/events"), none()),
            (Method::POST, format!("/v1/runs/{run}/cancel"), none()),
            (Method::POST, format!("/v1/runs/{run}/cancel?rollback=true"), none()),
            (Method::POST, format!("/v1/threads/{session}/state"), change()),
            (Method::POST, format!("/v1/threads/{session}/fork"), json!({"checkpoint": checkpoint})),
            (Method::POST, format!("/v1/threads/{session}/resume"), json!({})),
            (Method::GET, format!("/v1/threads/{session}"), none()),
            (Method::GET, format!("/v1/threads/{session}/messages"), none()),
            (Method::GET, format!("/v1/threads/{session}/state?checkpoint={checkpoint}"), none()),
            (Method::GET, format!("/v1/threads/{session}/history"), none()),
            (Method::DELETE, format!("/v1/threads/{session}"), none()),
        ]
    };
    let random = paths(&RunId::new().to_string(), "none", &RunId::new().to_string());
    for ((method, path, body), (_, nothing, other)) in paths(run, "s", checkpoint).into_iter().zip(random) {
        for id in ["b", "c"] {
            let ask = |path: &str, body: &Json| {
                let request = as_key(id, method.clone(), path);
                match body {
                    Json::Null => request.finish(),
                    body => request.content_type("application/json").body(body.to_string()),
                }
            };
            let foreign = service.ask(ask(&path, &body)).await;
            let missing = service.ask(ask(&nothing, &other)).await;
            assert_eq!(
                (foreign.status(), missing.status()),
                (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
                "{path}"
            );
            let (a, b) = (
                foreign.into_body().into_bytes().await.unwrap(),
                missing.into_body().into_bytes().await.unwrap(),
            );
            assert_eq!(a, b, "{path}");
        }
    }
    let anonymous = service.ask(get("/v1/graphs").finish()).await;
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert!(anonymous.headers().contains_key("www-authenticate"));
    let in_query = service.ask(get("/v1/graphs?api_key=gl_a_secret&X-API-Key=gl_a_secret").finish()).await;
    assert_eq!(in_query.status(), StatusCode::UNAUTHORIZED);
    for closed in ["/v1/nowhere", "/metrics"] {
        assert_eq!(service.ask(get(closed).finish()).await.status(), StatusCode::UNAUTHORIZED, "{closed}");
    }
    assert_eq!(service.ask(get("/live").finish()).await.status(), StatusCode::OK);
    let (_, threads) = read(service.ask(as_key("b", Method::GET, "/v1/threads").finish()).await).await;
    assert_eq!(threads, json!({"threads": []}));
}

#[tokio::test]
async fn a_thread_is_changed_forked_and_resumed_and_each_refusal_has_its_place() {
    let service = Service::fluent().await;
    let (_, first) = service.post("/v1/graphs/hello/invoke", turn("s")).await;
    let change = json!({"values": {"messages": [{"role": "user", "content": "x"}]}, "as_node": "start"});
    let keyed = |path: &str, body: &Json| {
        let request = get(path).method(Method::POST).content_type("application/json");
        request.header("idempotency-key", "k").body(body.to_string())
    };
    let response = service.ask(keyed("/v1/threads/s/state", &change)).await;
    let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
    let (status, changed) = read(response).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let told = |name: &str| changed["checkpoint"][name].clone();
    assert_eq!((&changed["run_id"], &changed["status"]), (&json!(run), &json!("interrupted")));
    assert_eq!(
        (told("source"), told("next"), told("run_id")),
        (json!("update"), json!(["speak"]), json!(run))
    );
    assert_ne!(first["run_id"], changed["run_id"]);
    let again = service.ask(keyed("/v1/threads/s/state", &change)).await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(read(again).await.1, changed);
    let (status, refused) = service.post("/v1/graphs/hello/chat", turn("s")).await;
    assert_eq!(
        (status.as_u16(), &refused["code"], &refused["run_id"]),
        (409, &json!("thread_interrupted"), &json!(run))
    );
    let (_, stream) = service.post("/v1/threads/s/resume", json!({"interrupt_after": "*"})).await;
    assert!(stream.as_str().unwrap().contains("\"status\":\"completed\""), "{stream}");
    assert!(stream.as_str().unwrap().contains(&run));
    let fork = json!({"session_id": "t", "checkpoint": told("checkpoint_id")});
    let (status, forked) = service.post("/v1/threads/s/fork", fork.clone()).await;
    assert_eq!(
        (status.as_u16(), &forked["session_id"], &forked["status"]),
        (200, &json!("t"), &json!("interrupted"))
    );
    assert_eq!((&forked["checkpoint"]["source"], &forked["state"]), (&json!("fork"), &changed["state"]));
    let (_, named) = service.post("/v1/threads/s/fork", json!({})).await;
    assert_eq!((&named["status"], named["session_id"].as_str().unwrap().len()), (&json!("completed"), 36));
    let (_, run) = service
        .post(&format!("/v1/runs/{}/cancel?rollback=true", forked["run_id"].as_str().unwrap()), json!({}))
        .await;
    assert_eq!(run["status"], "rolled_back");
    assert!(run["notice"].as_str().unwrap().contains("not undone"));
    for (path, body, status, code, places) in [
        ("s/fork", fork, 409, "thread_exists", vec![]),
        (
            "s/fork",
            json!({"session_id": "a:b", "checkpoint": "x", "at": 1}),
            400,
            "invalid_request",
            vec!["/at", "/session_id", "/checkpoint"],
        ),
        ("s/fork", json!({"checkpoint": RunId::new()}), 404, "not_found", vec![]),
        (
            "s/state",
            json!({"values": [], "path": "x"}),
            400,
            "invalid_request",
            vec!["/values", "/as_node", "/path"],
        ),
        (
            "s/state",
            json!({"values": {"messages": {"role": 1}, "x": 1}, "as_node": "speek"}),
            422,
            "unprocessable",
            vec!["/values/messages/role", "/values/x", "/as_node"],
        ),
        (
            "s/state",
            json!({"values": {}, "as_node": "end", "path": ["speak"]}),
            422,
            "unprocessable",
            vec!["/path"],
        ),
        (
            "s/resume",
            json!({"interrupt_before": ["x", 1]}),
            400,
            "invalid_request",
            vec!["/interrupt_before/1"],
        ),
        ("s/resume", json!({}), 409, "nothing_to_resume", vec![]),
    ] {
        let (found, problem) = service.post(&format!("/v1/threads/{path}"), body).await;
        assert_eq!((found.as_u16(), problem["code"].as_str()), (status, Some(code)), "{path} {problem}");
        let told = problem["errors"].as_array().into_iter().flatten();
        let told: Vec<&str> = told.map(|at| at["pointer"].as_str().unwrap()).collect();
        assert_eq!(told, places, "{path} {problem}");
    }
    let stops =
        json!({"session_id": "u", "message": "hi", "interrupt_before": ["speak"], "on_busy": "rollback"});
    let response = service.ask(post("/v1/graphs/hello/invoke", &stops)).await;
    assert!(response.headers()["x-notice"].to_str().unwrap().contains("not undone"));
    assert_eq!(read(response).await.1["status"], "interrupted");
    let unknown = json!({"session_id": "v", "message": "hi", "interrupt_before": ["speek"]});
    let (status, problem) = service.post("/v1/graphs/hello/invoke", unknown).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["pointer"]), (422, &json!("/interrupt_before/0")));
}

/// Names in a project are not for everybody.
#[tokio::test]
async fn whoever_watches_over_the_service_learns_that_the_project_has_errors_and_a_key_learns_which() {
    let part = |text: &str| text.parse::<Part>().unwrap();
    let key = ApiKey::new("a", &sha256_hex(b"secret"), part("acme"), Some(part("ann")), None).unwrap();
    let service = Service::with(|settings| {
        *settings = Settings::new(settings.bind, Auth::ApiKeys(ApiKeys::new([key]).unwrap()));
    })
    .await;
    assert_eq!(service.get("/ready").await, (StatusCode::OK, json!({"status": "ready"})));
    let mut bag = crate::diagnostic::Bag::default();
    let file = bag.add_source("graphs/chat.yaml", "start: secret_plan\n");
    let span = crate::diagnostic::Span { file, start: 7, end: 18 };
    for _ in 0..3 {
        bag.report(crate::diagnostic::Diagnostic::error("G201", "unknown node `secret_plan`", span, "here"));
    }
    let since = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    service.engine.set_stale(engine::Stale::new(since, "the graphs have errors".into(), &bag, 1));
    let stale = json!({"since": "2023-11-14T22:13:20.123Z", "reason": "the graphs have errors", "errors": 3});
    let (status, body) = service.get("/ready").await;
    assert_eq!((status, &body), (StatusCode::OK, &json!({"status": "ready", "stale": stale})));
    let mut told = stale;
    told["findings"] = json!([{
        "code": "G201", "message": "unknown node `secret_plan`", "file": "graphs/chat.yaml", "line": 1, "column": 8,
    }]);
    let request = get("/ready").header("x-api-key", "gl_a_secret").finish();
    assert_eq!(read(service.ask(request).await).await.1, json!({"status": "ready", "stale": told}));
    service.engine.reload(catalog(&service.permits)).await.unwrap();
    assert_eq!(service.get("/ready").await.1, json!({"status": "ready"}));
}

#[tokio::test]
async fn threads_come_page_by_page_and_go_when_deleted() {
    let service = Service::fluent().await;
    for session in ["a", "b", "c"] {
        assert_eq!(service.post("/v1/graphs/hello/invoke", turn(session)).await.0, StatusCode::OK);
    }
    let mut sessions = Vec::new();
    let mut path = "/v1/threads?limit=2".to_owned();
    loop {
        let (_, page) = service.get(&path).await;
        let threads = page["threads"].as_array().unwrap();
        sessions.extend(threads.iter().map(|t| t["session_id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/threads?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(sessions, ["c", "b", "a"]);

    let (_, history) = service.get("/v1/threads/a/history?limit=1").await;
    let newest = &history["checkpoints"][0];
    assert_eq!(history["next_before"], newest["checkpoint_id"]);
    let next = format!("/v1/threads/a/history?before={}", newest["checkpoint_id"].as_str().unwrap());
    let (_, older) = service.get(&next).await;
    let sources: Vec<&str> =
        older["checkpoints"].as_array().unwrap().iter().map(|c| c["source"].as_str().unwrap()).collect();
    assert_eq!(sources.last(), Some(&"input"), "{older}");
    assert!(older["next_before"].is_null());

    let (_, state) = service.get("/v1/threads/a/state?path=/messages/0/content").await;
    assert_eq!(state["state"], "hi");
    assert_eq!(service.get("/v1/threads/a/state?path=/nothing").await.0, StatusCode::NOT_FOUND);

    let delete = || get("/v1/threads/a").method(Method::DELETE).finish();
    assert_eq!(service.ask(delete()).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(service.ask(delete()).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(service.get("/v1/threads/a").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn graphs_show_their_shape_and_the_document_their_schemas() {
    let service = Service::fluent().await;
    let (_, list) = service.get("/v1/graphs").await;
    let ids: Vec<&str> =
        list["graphs"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["hello", "strict-one"]);
    let (_, graph) = service.get("/v1/graphs/strict-one").await;
    assert_eq!(graph["nodes"], json!([{"name": "speak", "kind": "custom"}]));
    let edges = json!([
        {"from": "start", "to": "speak"},
        {"from": "speak", "to": "end"},
        {"from": "speak", "to": "end", "condition": "after 3 visits"},
    ]);
    assert_eq!(graph["edges"], edges);
    assert_eq!(graph["input"]["required"], json!(["count"]));

    let (_, document) = service.get("/openapi.json").await;
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Graph_strict-one_Input"], graph["input"]);
    assert_eq!(schemas["Graph_strict-one_State"], graph["state"]);
    let own = &document["paths"]["/v1/graphs/strict-one/chat"]["post"];
    assert_eq!(own["operationId"], "chatStrictOne");
    let request = "#/components/schemas/Graph_strict-one_Request";
    assert_eq!(own["requestBody"]["content"]["application/json"]["schema"]["$ref"], request);
    assert_eq!(schemas["Graph_strict-one_Request"]["required"], json!(["session_id", "input"]));
    assert!(document["security"].is_null());
    let (_, newer) = service.get("/openapi-3.2.json").await;
    assert_eq!(newer["openapi"], "3.2.0");
    let loud = &newer["components"]["schemas"]["Graph_strict-one_Input"]["properties"]["loud"];
    assert_eq!(loud["type"], json!(["boolean", "null"]));

    let page = service.ask(get("/docs").finish()).await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let (status, diagram) = service.get("/v1/graphs/hello/diagram").await;
    assert_eq!(status, StatusCode::OK);
    assert!(diagram.as_str().unwrap().contains("speak") || diagram.as_str().unwrap().contains("hello"));
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may_ask_and_others_may_not() {
    let origin = "https://app.example.org";
    let service = Service::with(|settings| settings.cors_origins = vec![origin.into()]).await;
    let preflight = |from: &str| {
        let request = get("/v1/graphs/hello/chat").method(Method::OPTIONS).header("origin", from);
        request.header("access-control-request-method", "POST").finish()
    };
    let allowed = service.ask(preflight(origin)).await;
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers()["access-control-allow-origin"], origin);
    let header = |name: &str| allowed.headers()[name].to_str().unwrap().to_owned();
    assert!(header("access-control-allow-headers").contains("Last-Event-ID"));
    let refused = service.ask(preflight("https://evil.example")).await;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!refused.headers().contains_key("access-control-allow-origin"));
    let read = service.ask(get("/v1/graphs").header("origin", origin).finish()).await;
    assert!(read.headers()["access-control-expose-headers"].to_str().unwrap().contains("X-Run-Id"));
}

#[tokio::test]
async fn events_whose_time_is_over_are_gone_and_the_run_is_not() {
    use crate::store::{Kept, Store as _};
    let service = Service::fluent().await;
    let request = || {
        let request = get("/v1/graphs/hello/chat").method(Method::POST).content_type("application/json");
        request.header("idempotency-key", "k").body(turn("a").to_string())
    };
    let stream = service.ask(request()).await;
    let run: RunId = stream.headers()["x-run-id"].to_str().unwrap().parse().unwrap();
    stream.into_body().into_bytes().await.unwrap();
    let row = service.store.find_run(run).await.unwrap().unwrap();
    assert!(service.store.keep_events(&row, Kept::Nothing, Vec::new()).await.unwrap());
    for (status, problem) in [
        service.get(&format!("/v1/runs/{run}/events")).await,
        read(
            service
                .ask(
                    get(&format!("/v1/runs/{run}/events"))
                        .header("last-event-id", format!("{run}:1-1"))
                        .finish(),
                )
                .await,
        )
        .await,
        read(service.ask(request()).await).await,
    ] {
        assert_eq!(
            (status, problem["code"].as_str()),
            (StatusCode::GONE, Some("events_expired")),
            "{problem}"
        );
        assert!(problem["detail"].as_str().unwrap().contains("/v1/threads/a/state"), "{problem}");
    }
    assert_eq!(service.get(&format!("/v1/runs/{run}")).await.1["status"], "completed");
}
