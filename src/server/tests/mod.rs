//! The service over the memory store, asked without a network, and once over one.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use poem::http::StatusCode;
use poem::{Body, Request};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::*;
use crate::compile::{Catalog, Compiled, Providers};
use crate::engine;
use crate::event;
use crate::id::{Part, RunId, sha256_hex};
use crate::node::{Attempt, Done, Failure, Node, Outcome, assistant_turn};
use crate::plan::{Job, Next, Plan, PlanNode, Target, Work};
use crate::state::{self, Field, Merge, Type};
use crate::store::memory::MemoryStore;

/// Says two words, each when it is permitted.
#[derive(Debug)]
struct Speak(Arc<Semaphore>);

#[async_trait]
impl Node for Speak {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let message_id = attempt.message_id();
        let send = |body| attempt.emit.send(body);
        send(event::Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        for word in ["Hel", "lo"] {
            self.0.acquire().await.unwrap().forget();
            send(event::Body::MessageDelta { message_id: message_id.clone(), delta: word.into() });
        }
        Ok(Done {
            said: vec![assistant_turn(&message_id, "Hello")],
            events: vec![event::Body::MessageFinished {
                message_id,
                content: Some("Hello".into()),
                truncated: false,
            }],
            ..Done::default()
        }
        .into())
    }
}

fn catalog(permits: &Arc<Semaphore>) -> Catalog {
    let field = |ty| Field { ty, default: None, description: None };
    let channel = state::Channel {
        field: field(Type::Messages),
        merge: Merge::Messages,
        private: false,
        per_run: false,
    };
    let number = field(Type::Integer { min: Some(1), max: None });
    let optional = field(Type::Nullable(Box::new(Type::Boolean)));
    let work = || Work::Node(Arc::new(Speak(permits.clone())));
    let node = || PlanNode::new(Job::new("custom", work()), Next::To(Target::End));
    let plan = |graph: &str, input| Plan {
        hash: format!("hash-of-{graph}"),
        description: Some("Says hello.".into()),
        channels: BTreeMap::from([("messages".to_owned(), channel.clone())]),
        messages: Some("messages".into()),
        input,
        ..Plan::new(graph, Next::To(Target::Node("speak".into())))
    };
    let mut hello = plan("hello", indexmap::IndexMap::new());
    hello.nodes.insert("speak".into(), node());
    let input = indexmap::IndexMap::from([("count".to_owned(), number), ("loud".to_owned(), optional)]);
    let mut strict = plan("strict-one", input);
    strict.nodes.insert("speak".into(), PlanNode { max_visits: Some((3, Target::End)), ..node() });
    let compiled =
        |plan: Plan| (plan.graph.clone(), Compiled { plan: Arc::new(plan.seal()), body: Vec::new() });
    Catalog { graphs: BTreeMap::from([compiled(hello), compiled(strict)]), ..Catalog::default() }
}

async fn open(permits: &Arc<Semaphore>, store: &Arc<MemoryStore>) -> Engine {
    let settings = engine::Settings {
        poll: Duration::from_millis(20),
        queue_limit: 2,
        ..engine::Settings::new("t".into())
    };
    Engine::open(store.clone(), catalog(permits), Providers::without_secrets().unwrap(), settings)
        .await
        .unwrap()
}

struct Service {
    endpoint: Box<dyn poem::endpoint::DynEndpoint<Output = Response>>,
    permits: Arc<Semaphore>,
    engine: Engine,
    store: Arc<MemoryStore>,
}

impl Service {
    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let mut settings = Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)), Auth::None);
        change(&mut settings);
        let store = Arc::new(MemoryStore::new());
        let engine = open(&permits, &store).await;
        let app = Arc::new(App::new(engine.clone(), settings));
        let endpoint = Box::new(poem::endpoint::ToDynEndpoint(endpoint(app)));
        Self { endpoint, permits, engine, store }
    }

    /// One where every word may be said at once.
    async fn fluent() -> Self {
        let service = Self::with(|_| {}).await;
        service.permits.add_permits(1_000_000);
        service
    }

    async fn ask(&self, request: Request) -> Response {
        self.endpoint.call(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Json) {
        read(self.ask(get(path).finish()).await).await
    }

    async fn post(&self, path: &str, body: Json) -> (StatusCode, Json) {
        read(self.ask(post(path, &body)).await).await
    }
}

fn get(path: &str) -> poem::RequestBuilder {
    Request::builder().uri_str(path).header("host", "localhost:8080")
}

fn post(path: &str, body: &Json) -> Request {
    let request = get(path).method(Method::POST).content_type("application/json");
    request.body(body.to_string())
}

async fn read(response: Response) -> (StatusCode, Json) {
    let status = response.status();
    let bytes = response.into_body().into_bytes().await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

fn turn(session: &str) -> Json {
    json!({"session_id": session, "message": "hi"})
}

/// The events of a stream: id, type, data.
fn events(text: &str) -> Vec<(String, String, String)> {
    let field = |block: &str, name: &str| {
        let lines = block.lines().find_map(|line| line.strip_prefix(name));
        lines.unwrap_or_default().to_owned()
    };
    let blocks = text.split_terminator("\n\n");
    blocks.map(|block| (field(block, "id: "), field(block, "event: "), field(block, "data: "))).collect()
}

mod chat;
mod rest;
mod wire;
