//! What the binary refuses: always as a problem with a code, never as a fault of its own, and nothing is stored.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::Fresh;
use crate::support::world::{Answer, GRAPH, World};

const CHAT: &str = "/v1/graphs/chat/chat";

fn check(what: &str, answer: &Answer) -> String {
    assert!((400..500).contains(&answer.status.as_u16()), "{what}: {answer:?}");
    assert_eq!(answer.kind, "application/problem+json", "{what}: {answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16(), "{what}");
    let code = problem["code"].as_str().unwrap();
    assert!(
        !code.is_empty() && problem["title"].is_string() && problem["detail"].is_string(),
        "{what}: {problem}"
    );
    code.to_owned()
}

/// Bodies of `chat` and the codes that refuse them.
fn bodies() -> Vec<(Vec<u8>, &'static str)> {
    let with = |name: &str, value: Json| {
        let mut body = json!({"session_id": "s", "message": "hi"});
        body[name] = value;
        body.to_string().into_bytes()
    };
    let long = "x".repeat(129);
    let deep = "[".repeat(100_000);
    let mut all: Vec<(Vec<u8>, &'static str)> = ["", "{", "{\"session_id\": \"s\",}", "nul", "{} {}", &deep]
        .iter()
        .map(|text| (text.as_bytes().to_vec(), "malformed_json"))
        .collect();
    all.push((b"{\"session_id\": \"s\", \"message\": \"\xff\xfe\"}".to_vec(), "malformed_json"));
    all.push((b"{\"session_id\": \"s\", \"message\": \"\xed\xa0\x80\"}".to_vec(), "malformed_json"));
    all.push((br#"{"session_id": "s", "message": "\ud800"}"#.to_vec(), "malformed_json"));
    all.push((br#"{"session_id": "s", "session_id": "t", "message": "x"}"#.to_vec(), "malformed_json"));
    all.push((b"{\"session_id\": \"s\", \"message\": \"a\0b\"}".to_vec(), "malformed_json"));
    for text in ["null", "1", "\"s\"", "[]", "{}", "{\"message\": \"hi\"}"] {
        all.push((text.as_bytes().to_vec(), "invalid_request"));
    }
    for session in [
        json!(""),
        json!("a:b"),
        json!("a/b"),
        json!("../x"),
        json!("a b"),
        json!("é"),
        json!(long),
        json!(1),
        json!(null),
        json!(["s"]),
        json!({"$ne": 1}),
        json!("s'; drop table runs; --"),
        json!("a\nb"),
    ] {
        all.push((with("session_id", session), "invalid_request"));
    }
    for message in
        [json!(null), json!(1), json!(true), json!({}), json!([]), json!([1]), json!([{"type": "x"}])]
    {
        all.push((with("message", message), "invalid_request"));
    }
    for (name, value) in [
        ("input", json!([])),
        ("input", json!("x")),
        ("on_busy", json!("wait")),
        ("on_busy", json!(null)),
        ("include", json!("nodes")),
        ("include", json!(["nodez"])),
        ("include", json!([1])),
        ("tenant", json!("other")),
        ("user_id", json!("other")),
        ("sesion_id", json!("s")),
    ] {
        all.push((with(name, value), "invalid_request"));
    }
    all.push((with("input", json!({"nothing": 1})), "unprocessable"));
    for (name, value) in [
        ("session_id", json!("a\0b")),
        ("message", json!("a\0b")),
        ("message", json!([{"type": "text", "text": "\0"}])),
        ("input", json!({"a": "\0"})),
        ("input", json!({"\0": "a"})),
        ("input", json!({"a": [{"b": "x\0"}]})),
        ("on_busy", json!("\0")),
        ("include", json!(["\0"])),
        ("a\0b", json!(1)),
    ] {
        all.push((with(name, value), "nul_character"));
    }
    all.push((with("message", "x".repeat(10_000_000).into()), "payload_too_large"));
    all
}

async fn refuses_bad_input(fresh: Fresh) {
    let world = World::start(fresh).await;
    let post = |path: &str| world.request(Method::POST, path).header("Content-Type", "application/json");
    for (body, code) in bodies() {
        let what = String::from_utf8_lossy(&body).chars().take(80).collect::<String>();
        for path in [CHAT, "/v1/graphs/chat/invoke"] {
            assert_eq!(check(&what, &world.ask(post(path).body(body.clone())).await), code, "{path} {what}");
        }
    }
    let good = || world.turn("s", "hi");
    let get = |path: &str| world.request(Method::GET, path);
    let id = Uuid::now_v7();
    let requests: Vec<(&str, RequestBuilder)> = vec![
        ("graph_not_found", post("/v1/graphs/nothing/chat").body(r#"{"session_id": "s", "message": "x"}"#)),
        ("graph_not_found", get("/v1/graphs/nothing/diagram")),
        ("unsupported_media_type", world.request(Method::POST, CHAT).body("{}")),
        (
            "unsupported_media_type",
            world.request(Method::POST, CHAT).header("Content-Type", "text/plain").body("{}"),
        ),
        ("unsupported_media_type", good().header("Content-Encoding", "gzip")),
        ("method_not_allowed", get(CHAT)),
        ("route_not_found", get("/v1/nothing")),
        ("invalid_identity", good().header("X-Tenant-Id", "a:b")),
        ("invalid_identity", good().header("X-User-Id", "a:b")),
        ("invalid_identity", good().header("X-User-Id", "")),
        ("invalid_header", good().header("X-Tenant-Id", "a").header("X-Tenant-Id", "b")),
        ("invalid_header", good().header("Idempotency-Key", "a b")),
        ("invalid_header", good().header("Idempotency-Key", "x".repeat(256))),
        ("invalid_event_id", good().header("Last-Event-ID", "nonsense")),
        ("not_found", good().header("Last-Event-ID", format!("{id}:1-1"))),
        ("not_found", get(&format!("/v1/runs/{id}"))),
        ("invalid_parameter", get("/v1/runs/nonsense")),
        ("invalid_parameter", get("/v1/threads?limit=0")),
        ("invalid_parameter", get("/v1/threads?cursor=nonsense")),
        ("invalid_parameter", get("/v1/threads/a:b")),
        ("not_found", get("/v1/threads/nothing")),
        ("invalid_path", get("/v1/threads/%ff")),
        ("nul_character", get("/v1/threads/a%00b")),
        ("forbidden_host", get("/v1/threads").header("Host", "evil.example")),
    ];
    for (code, request) in requests {
        let request = request.build().unwrap();
        let what = format!("{} {} {:?}", request.method(), request.url(), request.headers());
        let builder = RequestBuilder::from_parts(world.http.clone(), request);
        let found = check(&what, &world.ask(builder).await);
        assert_eq!(found, code, "{what}");
    }
    let threads = world.get("/v1/threads").await.json();
    assert_eq!(threads["threads"], json!([]), "nothing was stored");
    assert_eq!(world.calls().await.len(), 0, "the model was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_a_code_and_stores_nothing_on_postgres() {
    refuses_bad_input(Fresh::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_a_code_and_stores_nothing_on_sqlite() {
    refuses_bad_input(Fresh::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_somebody_else_does_not_exist_byte_by_byte() {
    let asks = format!(
        "{}\n  more: {{kind: ask, question: More?, next: end}}\n",
        GRAPH.trim_end().replace("next: end", "next: more")
    );
    let world = World::with_graph(Fresh::postgres().await, &asks).await;
    let of = |request: RequestBuilder, tenant: &str, user: &str| {
        request.header("X-Tenant-Id", tenant).header("X-User-Id", user)
    };
    let mut stream = world.open(of(world.turn("mine", "secret"), "a", "ann")).await;
    let end = stream.rest().await.pop().unwrap();
    let interrupt = end.json["interrupts"][0]["interrupt_id"].as_str().unwrap();
    let run = stream.run();
    let checkpoints = of(world.request(Method::GET, "/v1/threads/mine/history"), "a", "ann");
    let checkpoints = world.ask(checkpoints).await.json();
    let checkpoint =
        checkpoints["checkpoints"][0]["checkpoint_id"].as_str().unwrap_or_else(|| panic!("{checkpoints}"));
    let random = Uuid::now_v7().to_string();
    let asked = [
        (Method::GET, "/v1/runs/{run}", None),
        (Method::GET, "/v1/runs/{run}/events", None),
        (Method::GET, "/v1/runs/{run}/events?after={run}:1-1", None),
        (Method::POST, "/v1/runs/{run}/cancel", None),
        (Method::POST, "/v1/runs/{run}/cancel?wait=true", None),
        (Method::POST, CHAT, Some("{run}:1-1")),
        (Method::GET, "/v1/threads/{session}", None),
        (Method::GET, "/v1/threads/{session}/messages", None),
        (Method::GET, "/v1/threads/{session}/messages?checkpoint={checkpoint}", None),
        (Method::GET, "/v1/threads/{session}/state", None),
        (Method::POST, "/v1/threads/{session}/state", None),
        (Method::POST, "/v1/threads/{session}/fork", None),
        (Method::GET, "/v1/threads/{session}/history", None),
        (Method::DELETE, "/v1/threads/{session}", None),
        (Method::GET, "/v1/threads/{session}/interrupts", None),
        (Method::POST, "/v1/threads/{session}/resume", None),
        (Method::POST, "/v1/interrupts/{interrupt}/answer", None),
        (Method::POST, "/v1/interrupts/{interrupt}/cancel", None),
    ];
    // Every operation on what belongs to somebody is among them.
    let document = world.get("/openapi.json").await.json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let is_it = |(known, template, _): &(Method, &str, _)| {
                known.as_str().eq_ignore_ascii_case(method) && template.split('?').next() == Some(path)
            };
            let of_nobody = !path.contains('{') || path.contains("/graphs/");
            assert!(of_nobody || asked.iter().any(is_it), "{method} {path} is not tried");
        }
    }
    for (method, path, last) in asked {
        let send = async |ids: [&str; 4], tenant: &str, user: &str| {
            let [run, session, checkpoint, interrupt] = ids;
            let fill = |text: &str| {
                let text = text.replace("{run}", run).replace("{session}", session);
                text.replace("{checkpoint}", checkpoint).replace("{interrupt}", interrupt)
            };
            let mut request = world.request(method.clone(), &fill(path));
            if path.ends_with("/answer") {
                request = request.json(&json!({"answer": "yes"}));
            } else if path.ends_with("/resume") {
                request = request.json(&json!({"answers": {interrupt: "yes"}}));
            } else if path.ends_with("/state") && method == Method::POST {
                request = request.json(&json!({"values": {}, "as_node": "start"}));
            } else if path.ends_with("/fork") {
                request = request.json(&json!({"checkpoint": checkpoint}));
            }
            if let Some(last) = last {
                let body = json!({"session_id": session, "message": "secret"});
                request = request.json(&body).header("Last-Event-ID", fill(last));
            }
            let answer = world.ask(of(request, tenant, user)).await;
            (answer.status.as_u16(), answer.kind, answer.text)
        };
        for (tenant, user) in [("b", "ann"), ("a", "bob")] {
            let theirs = send([&run, "mine", checkpoint, interrupt], tenant, user).await;
            let nobodys = send([&random, "nothing", &random, "i_00000000000000000000"], tenant, user).await;
            assert_eq!(theirs, nobodys, "{method} {path}");
            assert_eq!(theirs.0, 404, "{method} {path}");
        }
    }
    let still = world.ask(of(world.request(Method::GET, "/v1/threads/mine/messages"), "a", "ann")).await;
    assert_eq!(still.json()["messages"].as_array().unwrap().len(), 3);
    let listed = world.ask(of(world.request(Method::GET, "/v1/threads"), "b", "ann")).await;
    assert_eq!(listed.json()["threads"], json!([]));
}
