//! The models against a provider in a process of its own, with real sockets, faults and hang-ups.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions, too")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use graphloom::egress::{Client, Secret, Settings};
use graphloom::event::Usage;
use graphloom::model::anthropic::Anthropic;
use graphloom::model::openai::OpenAi;
use graphloom::model::{ChatModel, Chunk, Kind, ModelError, Params, Request, Role, Timeouts, Turn};
use serde_json::{Value as Json, json};

/// A running mock provider; it ends with the test.
struct Provider {
    process: Child,
    address: String,
}

impl Provider {
    fn start() -> Self {
        // Cargo names no variable for examples, but they stand beside the tests.
        let tests = std::env::current_exe().unwrap();
        let path = tests.ancestors().nth(2).unwrap().join("examples/mock_provider");
        let mut process = Command::new(&path)
            .args(["--port", "0", "--with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{}: {e}; `cargo build --example mock_provider` makes it", path.display())
            });
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { process, address }
    }

    fn model(&self) -> OpenAi {
        let client = Client::new(Settings::default());
        let key = Some(Secret::new("sk-test"));
        OpenAi::new(&client, &format!("http://{}/v1", self.address), "mock".to_owned(), key, true).unwrap()
    }

    /// Returns a model of each protocol.
    fn models(&self) -> [Arc<dyn ChatModel>; 2] {
        let client = Client::new(Settings::default());
        let (url, key) = (format!("http://{}", self.address), Some(Secret::new("sk-test")));
        let anthropic = Anthropic::new(&client, &url, "mock".to_owned(), key, true).unwrap();
        [Arc::new(self.model()), Arc::new(anthropic)]
    }

    fn calls(&self) -> Vec<Json> {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.write_all(b"GET /calls HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let body: Json = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["calls"].as_array().unwrap().clone()
    }

    /// Waits until the last call has been hung up on, and returns when that was.
    fn disconnected(&self) -> i64 {
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(at) = self.calls().last().and_then(|call| call["disconnected_ms"].as_i64()) {
                return at;
            }
            assert!(Instant::now() < patience, "the call is still open: {:?}", self.calls());
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ignored = self.process.kill();
        let _ignored = self.process.wait();
    }
}

fn asking(text: &str) -> Request {
    Request {
        node: "answer".to_owned(),
        model: "m".to_owned(),
        turns: vec![Turn::new(Role::System, json!("Be brief.")), Turn::new(Role::User, json!(text))],
        tools: Arc::default(),
        output: None,
        params: Params::default(),
        timeouts: Timeouts::default(),
        idempotency_key: "task-1".to_owned(),
        attempt: 3,
    }
}

async fn call(model: &dyn ChatModel, request: Request) -> Vec<Result<Chunk, ModelError>> {
    match model.stream(request).await {
        Ok(stream) => stream.collect().await,
        Err(error) => vec![Err(error)],
    }
}

fn texts(items: &[Result<Chunk, ModelError>]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|item| if let Ok(Chunk::Text(text)) = item { Some(text.as_str()) } else { None })
        .collect()
}

fn kind(items: &[Result<Chunk, ModelError>]) -> Kind {
    items.last().unwrap().as_ref().unwrap_err().kind
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_comes_token_by_token_with_its_usage() {
    let provider = Provider::start();
    // The system turn is no message of the second protocol.
    for (model, input_tokens) in provider.models().iter().zip([3, 1]) {
        let model = &**model;
        let items = call(model, asking("[[tokens=30]]")).await;
        assert_eq!(texts(&items).len(), 30);
        let usage = Usage { input_tokens, output_tokens: 30, model_calls: 1, ..Usage::default() };
        assert!(
            items.ends_with(&[Ok(Chunk::Usage(usage)), Ok(Chunk::End { truncated: false })]),
            "{items:?}"
        );
        let split = call(model, asking("[[tokens=30 split=1]]")).await;
        assert_eq!(texts(&split), texts(&items), "single bytes on the wire change nothing");
        let said = call(model, asking("[[say=Grüße aus 東京]] [[reasoning=1 no_done length]]")).await;
        assert_eq!(texts(&said), ["Grüße ", "aus ", "東京"]);
        assert!(said.contains(&Ok(Chunk::Reasoning("think0 ".to_owned()))), "{said:?}");
        assert_eq!(said.last(), Some(&Ok(Chunk::End { truncated: true })));
        let began = Instant::now();
        call(model, asking("[[tokens=3 first=30ms delay=20ms]]")).await;
        assert!(began.elapsed() >= Duration::from_millis(70), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_sees_the_conversation_and_the_headers() {
    let provider = Provider::start();
    let items = call(&provider.model(), asking("hi [[echo]]")).await;
    let heard: Json = serde_json::from_str(&texts(&items).concat()).unwrap();
    let said =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi [[echo]]"}]);
    assert_eq!(heard, said);
    let seen = provider.calls().remove(0);
    assert_eq!(seen["headers"]["authorization"], "Bearer sk-test");
    assert_eq!(seen["headers"]["idempotency-key"], "task-1");
    assert_eq!(seen["headers"]["x-attempt"], "3");
    assert_eq!(seen["headers"]["user-agent"], concat!("graphloom/", env!("CARGO_PKG_VERSION")));
    assert!(seen["finished_ms"].is_i64() && seen["disconnected_ms"].is_null(), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_kind_and_loses_no_token_before_it() {
    let provider = Provider::start();
    let models = provider.models();
    // Short only where the provider is silent for ever: a busy machine makes pauses of its own.
    let short =
        Timeouts { first: Duration::from_secs(1), idle: Duration::from_millis(500), ..Timeouts::default() };
    for (text, expected, tokens) in [
        ("[[tokens=9 cut_after=5]]", Kind::Connection, 5),
        ("[[tokens=9 cut_after=0]]", Kind::Connection, 0),
        ("[[tokens=9 cut_after=5 split=1]]", Kind::Connection, 5),
        ("[[tokens=9 malformed=3]]", Kind::Schema, 3),
        ("[[tokens=9 error_in_stream=3]]", Kind::ServerError, 3),
        ("[[tokens=9 hang_after=2]]", Kind::Timeout, 2),
        ("[[hang]]", Kind::Timeout, 0),
        ("[[status=500]]", Kind::Http(500), 0),
        ("[[status=404]]", Kind::Http(404), 0),
        ("[[status=429 retry_after=1]]", Kind::Http(429), 0),
    ] {
        let timeouts = if expected == Kind::Timeout { short } else { Timeouts::default() };
        for model in &models {
            let items = call(&**model, Request { timeouts, ..asking(text) }).await;
            assert_eq!((kind(&items), texts(&items).len()), (expected, tokens), "{text}: {items:?}");
        }
    }
    let limited = call(&*models[0], asking("[[status=429 retry_after=1]]")).await.remove(0).unwrap_err();
    assert_eq!(limited.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(limited.message, "the provider answered 429: the mock was told to fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_can_be_limited_to_one_call() {
    let provider = Provider::start();
    let model = provider.model();
    for (text, failing) in
        [("[[fail_call=2]]", [false, true, false]), ("[[fail_first=2 cut_after=1]]", [true, true, false])]
    {
        for fails in failing {
            let items = call(&model, asking(text)).await;
            assert_eq!(items.last().unwrap().is_err(), fails, "{text}: {items:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_reaches_the_provider_within_100_ms() {
    let provider = Provider::start();
    let model = provider.model();
    for text in ["[[tokens=9 delay=10s]]", "[[tokens=9 hang_after=1]]", "[[tokens=100000 delay=1ms]]"] {
        let mut stream = model.stream(asking(text)).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let dropped = chrono::Utc::now().timestamp_millis();
        drop(stream);
        let took = provider.disconnected() - dropped;
        assert!(took <= 100, "{text}: {took} ms");
    }
    let waiting = tokio::time::timeout(Duration::from_millis(50), model.stream(asking("[[hang]]")));
    assert!(waiting.await.is_err());
    let dropped = chrono::Utc::now().timestamp_millis();
    assert!(provider.disconnected() - dropped <= 100);
}
