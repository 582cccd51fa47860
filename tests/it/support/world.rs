//! A service with its provider, its project and its database, and short ways to ask it.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value as Json, json};

use super::Fresh;
use super::process::{Folder, Mock, Service};
use super::schema::EventSchema;
use super::stream::Stream;

pub(crate) const GRAPH: &str = "\
format: 1
state:
  messages: messages
start: answer
nodes:
  answer:
    kind: llm
    prompt: answer
    reply: true
    next: end
";
pub(crate) const PROMPT: &str = "\
---
inputs:
  messages: messages
sample: {messages: [{role: user, content: hello}]}
---
@system
Be brief.
@messages messages
";

/// Settings under which all that anybody says is encrypted.
pub(crate) const ENCRYPTED: &str = "secrets_dir = \"secrets\"\n[encryption]\nkeys = [\"MASTER\"]\n";

/// All that one test needs; every process ends with it.
pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) mock: Mock,
    pub(crate) folder: Folder,
    pub(crate) fresh: Fresh,
    pub(crate) http: reqwest::Client,
    pub(crate) schema: EventSchema,
}

/// An answer in one piece.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl World {
    /// Starts a service on one graph, `chat`, whose model is the mock.
    pub(crate) async fn start(fresh: Fresh) -> Self {
        Self::with_model(fresh, GRAPH, "}", "").await
    }

    /// The same on a graph, where what changes in the project is served without a restart.
    pub(crate) async fn watching(fresh: Fresh, graph: &str) -> Self {
        Self::with_model(fresh, graph, "}", "watch = true\n").await
    }

    /// The same on another graph of the name `chat`.
    pub(crate) async fn with_graph(fresh: Fresh, graph: &str) -> Self {
        Self::with_model(fresh, graph, "}", "").await
    }

    /// The same with settings.
    pub(crate) async fn with_settings(fresh: Fresh, graph: &str, settings: &str) -> Self {
        Self::with_model(fresh, graph, "}", settings).await
    }

    /// The same with a retry policy.
    pub(crate) async fn with_retry(fresh: Fresh) -> Self {
        let policy = "twice: {attempts: 2, first: 10ms, for: [any]}";
        Self::with_model(fresh, GRAPH, &format!(", retry: twice}}\nretries:\n  {policy}"), "").await
    }

    async fn with_model(fresh: Fresh, graph: &str, more: &str, settings: &str) -> Self {
        graphloom::egress::install_crypto();
        let mock = Mock::start();
        let folder = Folder::new();
        let base = &mock.base;
        folder.write(
            "graphs/project.yaml",
            &format!(
                "format: 1\ndefault_model: mock\nmodels:\n  \
                 mock: {{provider: openai, model: mock, base_url: \"{base}/v1\"{more}\n"
            ),
        );
        // A stop that waits for nothing, unless it is what a test looks at.
        let drain = if settings.contains("[drain]") {
            ""
        } else {
            "[drain]\nnotice_seconds = 0\nruns_seconds = 0\nexit_seconds = 20\n"
        };
        folder.write("graphloom.toml", &format!("{settings}{drain}"));
        folder.write("secrets/MASTER", &super::master("MASTER"));
        folder.write("graphs/chat.yaml", graph);
        folder.write("graphs/prompts/answer.md", PROMPT);
        let service = Service::start(&folder, &fresh.url, "one");
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(2)).build().unwrap();
        let document = http.get(format!("{}/openapi.json", service.base)).send().await.unwrap();
        let schema = EventSchema::new(document.json().await.unwrap());
        Self { service, mock, folder, fresh, http, schema }
    }

    /// Starts the next process under the same name, after the former one has ended.
    pub(crate) fn restart(&mut self) {
        self.service = Service::start(&self.folder, &self.fresh.url, "one");
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.service.base))
    }

    /// Asks for the streaming of a turn.
    pub(crate) fn turn(&self, session: &str, message: &str) -> RequestBuilder {
        let body = json!({"session_id": session, "message": message});
        self.request(Method::POST, "/v1/graphs/chat/chat").json(&body)
    }

    /// Sends a request whose answer is a stream.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Stream {
        let response = request.send().await.unwrap();
        let status = response.status();
        let response =
            if status == StatusCode::OK { Ok(response) } else { Err(response.text().await.unwrap()) };
        let response = response.unwrap_or_else(|text| panic!("{status}: {text}"));
        Stream::new(response, self.schema.clone())
    }

    /// Streams a turn.
    pub(crate) async fn chat(&self, session: &str, message: &str) -> Stream {
        self.open(self.turn(session, message)).await
    }

    /// Follows a run after an event.
    pub(crate) async fn follow(&self, run: &str, after: &str) -> Stream {
        let request = self.request(Method::GET, &format!("/v1/runs/{run}/events"));
        self.open(request.header("Last-Event-ID", after)).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let (status, kind) = (response.status(), kind.unwrap_or_default());
        Answer { status, kind, text: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(self.request(Method::GET, path)).await
    }

    /// Returns the stored conversation as pairs of role and text.
    pub(crate) async fn messages(&self, session: &str) -> Vec<(String, String)> {
        let answer = self.get(&format!("/v1/threads/{session}/messages")).await;
        pairs(&answer.json()["messages"])
    }

    /// Returns a number of the metrics.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    /// Returns how many reloads have come to this end.
    pub(crate) async fn reloads(&self, outcome: &str) -> u64 {
        self.metric(&format!("graphloom_reloads_total{{outcome=\"{outcome}\"}}")).await
    }

    /// Waits until more than `before` have.
    pub(crate) async fn reloaded(&self, outcome: &str, before: u64) {
        let patience = Instant::now() + Duration::from_secs(30);
        while self.reloads(outcome).await <= before {
            assert!(Instant::now() < patience, "no reload was {outcome}: {}", self.service.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn calls(&self) -> Vec<Json> {
        self.mock.calls(&self.http).await
    }
}

/// Returns turns as pairs of role and text.
pub(crate) fn pairs(turns: &Json) -> Vec<(String, String)> {
    let field = |turn: &Json, name: &str| turn[name].as_str().unwrap_or_default().to_owned();
    turns.as_array().unwrap().iter().map(|turn| (field(turn, "role"), field(turn, "content"))).collect()
}

pub(crate) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
