//! A client as it should be: it repeats a request under its key, and comes back to a stream after its last event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value as Json, json};

use super::cluster::Cluster;
use crate::support::stream::{Event, Stream, shown};

/// How long a turn may take, whatever happens.
const PATIENCE: Duration = Duration::from_mins(4);
/// How long a stream may be silent before it is asked for elsewhere; a service that is well says something sooner.
const SILENCE: Duration = Duration::from_secs(17);

/// What all clients share.
pub(crate) struct Load {
    pub(crate) cluster: Cluster,
    /// No turn begins any more.
    pub(crate) over: AtomicBool,
    /// Turns that came to their end.
    pub(crate) turns: AtomicUsize,
    /// Runs whose POST was answered.
    pub(crate) accepted: std::sync::Mutex<BTreeSet<String>>,
}

/// One conversation.
pub(crate) struct Talk {
    pub(crate) tenant: String,
    pub(crate) session: String,
    /// The conversation as it must be: pairs of role and text.
    pub(crate) said: Vec<(String, String)>,
    /// What the log must hold.
    pub(crate) log: Vec<String>,
    pub(crate) count: u64,
    /// All that was received, by run.
    pub(crate) told: BTreeMap<String, Vec<Event>>,
    random: fastrand::Rng,
}

impl Talk {
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        Self {
            tenant: format!("tenant{}", n % 5),
            session: format!("session{n}"),
            said: Vec::new(),
            log: Vec::new(),
            count: 0,
            told: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    pub(crate) fn request(&mut self, load: &Load, method: Method, path: &str) -> RequestBuilder {
        let base = load.cluster.base(self.random.usize(0..load.cluster.replicas.len()));
        let request = load.cluster.http.request(method, format!("{base}{path}"));
        request.header("X-Tenant-Id", &self.tenant).header("X-User-Id", "ann")
    }

    /// Takes turns until it is over.
    pub(crate) async fn run(mut self, load: Arc<Load>) -> Self {
        while !load.over.load(Ordering::Relaxed) {
            self.turn(&load).await;
            load.turns.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(self.random.u64(0..300))).await;
        }
        self
    }

    /// Takes one turn to its end, and notes what must be there after it.
    async fn turn(&mut self, load: &Load) {
        self.count += 1;
        // A word that only this tenant may ever see.
        let word = format!("canary-{} {} turn {}", self.tenant, self.session, self.count);
        let fault = match self.random.u8(0..8) {
            0 => format!("[[status=503 fail_first=1 key={}-{}]]", self.session, self.count),
            1 => format!("[[cut_after=2 fail_first=1 key={}-{}]]", self.session, self.count),
            2 => "[[delay=150ms]]".to_owned(),
            _ => "[[delay=10ms]]".to_owned(),
        };
        let pause = self.random.u8(0..4) == 0;
        let message = format!("{fault} [[say={word}]]");
        let key = format!("{}-{}", self.session, self.count);
        let body = json!({"session_id": self.session, "message": message, "input": {"pause": pause}});
        let stream = self.post(load, "/v1/graphs/chat/chat", &key, &body).await;
        let (run, mut end) = self.follow(load, stream).await;
        self.said.push(("user".to_owned(), message.clone()));
        if pause {
            assert_eq!(end["status"], "interrupted", "{run}: {end}");
            let open = end["interrupts"].as_array().unwrap();
            assert_eq!(open.len(), 1, "{run}: asked twice: {end}");
            let id = open[0]["interrupt_id"].as_str().unwrap().to_owned();
            let word = format!("{fault} [[say={word} confirmed]]");
            let stream =
                self.post(load, &format!("/v1/interrupts/{id}/answer"), &key, &json!({"answer": word})).await;
            end = self.follow(load, stream).await.1;
            self.said.push(("assistant".to_owned(), "Go on?".to_owned()));
            self.said.push(("user".to_owned(), word));
        }
        assert_eq!(end["status"], "completed", "{run}: {end}");
        let reply = if pause { format!("{word} confirmed") } else { word.clone() };
        let due = if pause { format!("Go on?{reply}") } else { reply.clone() };
        let told = &self.told[&run];
        let kinds = || told.iter().map(|event| format!("{} {}", event.id, event.kind())).collect::<Vec<_>>();
        assert_eq!(shown(told).trim(), due, "{run}: a client shows something else: {:?}", kinds());
        self.said.push(("assistant".to_owned(), reply));
        self.log.extend(["count".to_owned(), word, "right".to_owned()]);
        assert_eq!(end["output"]["turns"], self.count, "{run}: {end}");
    }

    /// Sends a request under a key until it is answered with a stream.
    async fn post(&mut self, load: &Load, path: &str, key: &str, body: &Json) -> Stream {
        let patience = Instant::now() + PATIENCE;
        loop {
            let request = self.request(load, Method::POST, path).header("Idempotency-Key", key).json(body);
            let sent = tokio::time::timeout(SILENCE, request.send()).await;
            let why = match sent {
                Ok(Ok(response)) if response.status() == StatusCode::OK => {
                    let stream = Stream::new(response, load.cluster.schema.clone());
                    load.accepted.lock().unwrap().insert(stream.run());
                    return stream;
                }
                Ok(Ok(response)) => {
                    let status = response.status();
                    let retry = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    let text = response.text().await.unwrap_or_default();
                    assert!(retry, "{path} {key}: {status} {text}");
                    text
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "silence".to_owned(),
            };
            assert!(Instant::now() < patience, "{} {key}: {path} is refused: {why}", self.session);
            tokio::time::sleep(Duration::from_millis(self.random.u64(50..400))).await;
        }
    }

    /// Reads a run's events to `[DONE]`, coming back as often as needed; returns its last event.
    async fn follow(&mut self, load: &Load, mut stream: Stream) -> (String, Json) {
        let patience = Instant::now() + PATIENCE;
        let run = stream.run();
        loop {
            while let Ok(Some(event)) = tokio::time::timeout(SILENCE, stream.next()).await {
                self.take(&run, event);
            }
            if stream.done {
                let last = self.told[&run].iter().rev().find(|event| event.kind() == "run.finished");
                return (run, last.unwrap().json.clone());
            }
            loop {
                let why =
                    self.told.get(&run).and_then(|events| events.last()).map(|event| event.json.clone());
                assert!(Instant::now() < patience, "{} {run} does not end: {why:?}", self.session);
                if let Some(again) = self.again(load, &run).await {
                    stream = again;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(self.random.u64(50..400))).await;
            }
        }
    }

    /// Asks for the events after the last that was received.
    async fn again(&mut self, load: &Load, run: &str) -> Option<Stream> {
        let last = self.told.get(run).and_then(|events| events.last()).map(|event| event.id.clone());
        let mut request = self.request(load, Method::GET, &format!("/v1/runs/{run}/events"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = tokio::time::timeout(SILENCE, request.send()).await.ok()?.ok()?;
        let status = response.status();
        assert!(
            status.is_server_error() || status.is_success() || status == StatusCode::TOO_MANY_REQUESTS,
            "{run}: {status} {:?}",
            response.text().await
        );
        (status == StatusCode::OK).then(|| Stream::new(response, load.cluster.schema.clone()))
    }

    fn take(&mut self, run: &str, event: Event) {
        let text = event.json.to_string();
        for (at, _) in text.match_indices("canary-") {
            assert!(text[at + 7..].starts_with(&self.tenant), "{} was told: {text}", self.tenant);
        }
        assert_eq!(event.json["run_id"], run);
        let told = self.told.entry(run.to_owned()).or_default();
        if let Some(last) = told.last() {
            assert!(place(&event) > place(last), "{run}: {:?} after {:?}", event.id, last.id);
        }
        told.push(event);
    }
}

/// Returns where an event stands in its run.
pub(crate) fn place(event: &Event) -> (u64, u64) {
    (event.json["epoch"].as_u64().unwrap(), event.json["seq"].as_u64().unwrap())
}
