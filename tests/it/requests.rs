//! Requests of `http` nodes as they go out: a server on this machine, which the operator allows.

use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::{Engine, Followed, Settings, Start};
use graphloom::id::Seq;
use graphloom::spec::{Files, load_files};
use graphloom::store::Store;
use graphloom::store::memory::MemoryStore;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::owner;
use crate::support::turn::turn;

/// Runs a graph whose node `fetch` asks a server that answers with these bytes and keeps the connection open. Returns
/// what the run gave.
async fn fetch(keys: &str, answer: &'static str) -> Json {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let graph = format!(
        "format: 1\nstate: {{order: any, why: {{type: string, default: none}}}}\nstart: fetch\nnodes:\n  \
         fetch: {{kind: http, url: \"http://{address}/orders\", {keys}, into: order, next: end, on_error: note}}\n  \
         note: {{kind: set, set: {{order: null, why: \"error.kind ~ ': ' ~ error.message\"}}, next: end}}\n"
    );
    let project = format!("format: 1\nhosts: {{allow: [\"{address}\"]}}\n");
    let files = [("test.yaml", graph), ("project.yaml", project)];
    let files: Files = files.map(|(name, text)| (name.to_owned(), text.into_bytes())).into();
    let private = vec![address.to_string().parse().unwrap()];
    let providers = Providers::new(Box::new(|_| None)).unwrap().with_private(private);
    providers.prepare().unwrap();
    let mut bag = Bag::default();
    let folder = load_files("graphs", files, &mut bag);
    let catalog = compile(&folder, &providers, &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    let engine = Engine::open(store, catalog, providers, settings).await.unwrap();
    let serve = async {
        let (mut socket, _) = server.accept().await.unwrap();
        let mut head = [0; 4096];
        let n = socket.read(&mut head).await.unwrap();
        assert!(n > 0, "nothing was asked");
        socket.write_all(answer.as_bytes()).await.unwrap();
        // The other side goes first.
        while socket.read(&mut head).await.is_ok_and(|n| n > 0) {}
        std::future::pending::<Json>().await
    };
    let run = async {
        let start = Start { message: None, ..turn("") };
        let run = engine.start(&owner("acme", "ann"), start).await.unwrap().run.run;
        let stream = engine.follow(&owner("acme", "ann"), run, Seq::default(), false).await.unwrap();
        let Some(Followed::Events(mut follower)) = stream else { panic!("nothing to follow") };
        let mut last = Json::Null;
        while let Some(frame) = follower.next().await {
            last = serde_json::from_slice(&frame.expect("the stream was cut").json).unwrap();
        }
        last["output"].clone()
    };
    tokio::select! {
        output = run => output,
        output = serve => output,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_out_to_a_listed_port_and_its_response_is_read_by_its_type() {
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"id\":\"A-1\"}";
    let output = fetch("response: {id: string}", answer).await;
    assert_eq!(output, json!({"order": {"id": "A-1"}, "why": "none"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_stays_away_or_falls_silent_is_a_timeout() {
    for (keys, answer, why) in [
        ("timeout: {first: 50ms, total: 1m}", "", "timeout: no response within 0.05 s"),
        (
            "timeout: {idle: 50ms, total: 1m}",
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"id\":",
            "timeout: the response was silent for 0.05 s",
        ),
    ] {
        let output = fetch(keys, answer).await;
        assert_eq!(output, json!({"order": null, "why": why}), "{keys}");
    }
}
