//! People in the loop over HTTP: who sees which question, what an answer may be, what a repeated request finds.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value as Json, json};

use crate::support::Fresh;
use crate::support::stream::{Event, Stream, status};
use crate::support::world::{Answer, World};

/// Asks the user, then two questions to agents at once.
const GRAPH: &str = "\
format: 1
state:
  messages: messages
  size: string?
  decision: string?
  count: integer?
input:
  tone: {type: string, default: mild}
start: size
nodes:
  size: {kind: ask, question: Small or large?, options: [small, large], into: size, next: {all: [decide, count]}}
  decide: {kind: ask, who: agent, question: Sure?, options: [approve, reject], into: decision, next: done}
  count: {kind: ask, who: agent, question: How many?, schema: integer, into: count, next: done}
  done: {kind: say, text: \"Done: {{ state.size | default('-') }}.\", next: end}
";
const PROXY: &str = "[auth]\nmode = \"proxy\"\npeers = [\"127.0.0.1\"]\n";

/// A service behind a proxy.
struct Desk(World);

impl Desk {
    async fn start(graph: &str) -> Self {
        Self(World::with_settings(Fresh::sqlite(), graph, PROXY).await)
    }

    /// Speaks for `tenant:user`, and with a role after a blank.
    fn of(&self, who: &str, method: Method, path: &str) -> RequestBuilder {
        let (who, role) = who.split_once(' ').unwrap_or((who, ""));
        let (tenant, user) = who.split_once(':').unwrap();
        let request = self.0.request(method, path);
        request.header("X-Tenant-Id", tenant).header("X-User-Id", user).header("X-Roles", role)
    }

    fn post(&self, who: &str, path: &str, body: &Json) -> RequestBuilder {
        self.of(who, Method::POST, path).json(body)
    }

    fn turn(&self, who: &str, message: &str) -> RequestBuilder {
        self.post(who, "/v1/graphs/chat/chat", &json!({"session_id": "s", "message": message}))
    }

    async fn get(&self, who: &str, path: &str) -> Json {
        self.0.ask(self.of(who, Method::GET, path)).await.json()
    }

    async fn stream(&self, request: RequestBuilder) -> Stream {
        self.0.open(request).await
    }

    async fn events(&self, request: RequestBuilder) -> Vec<Event> {
        self.stream(request).await.rest().await
    }

    /// Returns the status, the code and the pointers of a refusal.
    async fn refused(&self, request: RequestBuilder) -> (u16, String, Vec<String>) {
        let answer: Answer = self.0.ask(request).await;
        assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
        let problem = answer.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let places = errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned());
        (answer.status.as_u16(), problem["code"].as_str().unwrap().to_owned(), places.collect())
    }

    /// Takes a turn, and returns the questions that are open after it, by node.
    async fn asked(&self, request: RequestBuilder) -> Vec<(String, String)> {
        open(self.events(request).await.last().unwrap())
    }
}

fn open(end: &Event) -> Vec<(String, String)> {
    let text = |asked: &Json, name: &str| asked[name].as_str().unwrap().to_owned();
    let open = end.json["interrupts"].as_array().unwrap();
    open.iter().map(|asked| (text(asked, "node"), text(asked, "interrupt_id"))).collect()
}

fn id<'a>(open: &'a [(String, String)], node: &str) -> &'a str {
    open.iter().find(|(name, _)| name == node).map(|(_, id)| id.as_str()).unwrap()
}

fn refusal(status: u16, code: &str, places: &[&str]) -> (u16, String, Vec<String>) {
    (status, code.to_owned(), places.iter().map(|place| (*place).to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_whom_it_asks_and_is_nothing_to_others() {
    let desk = Desk::start(GRAPH).await;
    desk.asked(desk.turn("a:ann", "hi")).await;
    let open = desk.asked(desk.turn("a:ann", "large")).await;
    let (decide, count) = (id(&open, "decide"), id(&open, "count"));
    let metrics = desk.0.ask(desk.of("a:ann", Method::GET, "/metrics")).await.text;
    for line in ["graphloom_runs{state=\"interrupted\"} 1", "graphloom_runs{state=\"queued\"} 0"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.contains("graphloom_events_sent_total"), "{metrics}");
    // The user sees that others are asked.
    let listed = desk.get("a:ann", "/v1/threads/s/interrupts").await;
    let listed = listed["interrupts"].as_array().unwrap();
    assert_eq!(
        listed.iter().map(|open| open["who"].as_str().unwrap()).collect::<Vec<_>>(),
        ["agent", "agent"]
    );
    assert!(listed[0]["user_id"].is_null() && listed[0]["created_at"].is_string(), "{}", listed[0]);
    // The list of the agents, page by page.
    let first = desk.get("a:bob agent", "/v1/approvals?limit=1").await;
    let path = format!("/v1/approvals?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = desk.get("a:bob agent", &path).await;
    let seen = [&first, &second].map(|page| page["interrupts"][0]["interrupt_id"].as_str().unwrap());
    assert_eq!(seen.to_vec(), open.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>());
    assert_eq!((&first["interrupts"][0]["user_id"], &second["next_cursor"]), (&json!("ann"), &Json::Null));
    let nothing = desk.get("b:bob agent", "/v1/approvals").await;
    assert_eq!(nothing["interrupts"], json!([]));
    let forbidden = desk.refused(desk.of("a:ann", Method::GET, "/v1/approvals")).await;
    assert_eq!(forbidden, refusal(403, "forbidden", &[]));
    let bad = desk.refused(desk.of("a:bob agent", Method::GET, "/v1/approvals?cursor=x")).await;
    assert_eq!(bad, refusal(400, "invalid_parameter", &[]));
    // Whoever may not answer cannot tell it from nothing.
    let nobody = "i_00000000000000000000";
    for who in ["a:ann", "a:bob", "b:ann agent", "b:bob"] {
        for action in ["answer", "cancel"] {
            let send = async |id: &str| {
                let body = json!({"answer": "approve"});
                let request = desk.post(who, &format!("/v1/interrupts/{id}/{action}"), &body);
                let answer = desk.0.ask(request).await;
                (answer.status, answer.text)
            };
            let theirs = send(decide).await;
            assert_eq!(theirs, send(nobody).await, "{who} {action}");
            assert_eq!(theirs.0, StatusCode::NOT_FOUND);
        }
    }
    // An agent hears what comes of the answer, but the run stays the user's.
    let answer = desk.post("a:bob agent", &format!("/v1/interrupts/{count}/answer"), &json!({"answer": 3}));
    let mut stream = desk.stream(answer).await;
    assert_eq!((stream.header("location"), stream.header("content-location")), (None, None));
    assert_eq!(status(&stream.rest().await), "interrupted");
    let run = stream.run();
    let theirs = desk.refused(desk.of("a:bob agent", Method::GET, &format!("/v1/runs/{run}/events"))).await;
    assert_eq!(theirs, refusal(404, "not_found", &[]));
    let late = desk.post("a:carl agent", &format!("/v1/interrupts/{count}/answer"), &json!({"answer": 4}));
    assert_eq!(desk.refused(late).await, refusal(409, "interrupt_answered", &[]));
    let cancel =
        desk.of("a:carl agent", Method::POST, &format!("/v1/interrupts/{decide}/cancel?include=nodes"));
    let events = desk.events(cancel).await;
    assert_eq!(status(&events), "failed");
    assert!(events.iter().all(|event| !event.kind().starts_with("message.")), "{events:?}");
    let error = events.iter().find(|event| event.kind() == "error").unwrap();
    assert_eq!(error.json["code"], "dismissed", "{}", error.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_at_its_place_in_the_body() {
    let desk = Desk::start(GRAPH).await;
    let size = desk.asked(desk.turn("a:ann", "hi")).await;
    let path = format!("/v1/interrupts/{}/answer", id(&size, "size"));
    let refused = async |body: Json| desk.refused(desk.post("a:ann", &path, &body)).await;
    assert_eq!(refused(json!({"answer": "medium"})).await, refusal(422, "unprocessable", &["/answer"]));
    assert_eq!(refused(json!({})).await, refusal(400, "invalid_request", &["/answer"]));
    assert_eq!(
        refused(json!({"answr": "small", "include": ["x"], "user_id": "bob"})).await,
        refusal(400, "invalid_request", &["/answr", "/user_id", "/answer", "/include/0"])
    );
    // A message is held against the question, and not against today's graph; its inputs would be lost.
    let turn = |message: &str, input: Json| {
        let body = json!({"session_id": "s", "message": message, "input": input});
        desk.post("a:ann", "/v1/graphs/chat/chat", &body)
    };
    let other = desk.refused(turn("small", json!({"tone": "wild", "a/b": 1}))).await;
    assert_eq!(other, refusal(422, "unprocessable", &["/input/tone", "/input/a~1b"]));
    let bad = desk.refused(turn("medium", json!({}))).await;
    assert_eq!(bad, refusal(422, "unprocessable", &["/message"]));
    let nothing = desk.post("a:ann", "/v1/threads/s/resume", &json!({}));
    let answer = desk.0.ask(nothing).await;
    let problem = answer.json();
    assert_eq!((answer.status.as_u16(), problem["code"].as_str()), (409, Some("thread_interrupted")));
    assert_eq!(problem["interrupt_ids"], json!([id(&size, "size")]));
    let open = desk.asked(turn("small", json!({"tone": "mild"}))).await;
    let (decide, count) = (id(&open, "decide"), id(&open, "count"));
    // All or none, by the user of the thread who is an agent, too.
    let resume = |session: &str, answers: Json| {
        let body = json!({"answers": answers, "include": ["messages"]});
        desk.post("a:ann agent", &format!("/v1/threads/{session}/resume"), &body)
    };
    let bad = desk.refused(resume("s", json!({decide: "approve", count: "many"}))).await;
    assert_eq!(bad, refusal(422, "unprocessable", &[&format!("/answers/{count}")]));
    assert_eq!(desk.refused(resume("s", json!([]))).await, refusal(400, "invalid_request", &["/answers"]));
    // Another thread is not answered by the way.
    let elsewhere = json!({"session_id": "t", "message": "hi"});
    let other = desk.asked(desk.post("a:ann", "/v1/graphs/chat/chat", &elsewhere)).await;
    let strange = desk.refused(resume("t", json!({decide: "approve", count: 2}))).await;
    assert_eq!(strange, refusal(404, "not_found", &[]));
    let two = desk.refused(resume("s", json!({decide: "approve", id(&other, "size"): "small"}))).await;
    assert_eq!(two, refusal(404, "not_found", &[]));
    let mut stream = desk.stream(resume("s", json!({decide: "approve", count: 2}))).await;
    assert!(stream.header("location").unwrap().ends_with("/events"));
    let events = stream.rest().await;
    assert_eq!(status(&events), "completed");
    assert!(events.iter().all(|event| !event.kind().starts_with("node.")), "{events:?}");
    let over = desk.refused(desk.post("a:ann", "/v1/threads/s/resume", &json!({}))).await;
    assert_eq!(over, refusal(409, "nothing_to_resume", &[]));
}

/// Sends a request twice, and returns the events of both.
async fn twice(desk: &Desk, request: impl Fn() -> RequestBuilder, other: RequestBuilder) -> Vec<Event> {
    let keyed = |request: RequestBuilder| request.header("Idempotency-Key", "k");
    let mut first = desk.stream(keyed(request())).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    let events = first.rest().await;
    let mut again = desk.stream(keyed(request())).await;
    assert_eq!(again.header("idempotent-replayed").as_deref(), Some("true"));
    assert_eq!(again.run(), first.run());
    let repeated = again.rest().await;
    let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&repeated), ids(&events), "the same answer again");
    assert_eq!(desk.refused(keyed(other)).await, refusal(422, "idempotency_key_reused", &[]));
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_answer_is_taken_once_and_told_again() {
    let desk = Desk::start(GRAPH).await;
    desk.asked(desk.turn("a:ann", "hi")).await;
    // The message that answers is a turn, with the key of a turn.
    let message = || desk.turn("a:ann", "large");
    let events = twice(&desk, message, desk.turn("a:ann", "small")).await;
    let open = open(events.last().unwrap());
    let (decide, count) = (id(&open, "decide").to_owned(), id(&open, "count").to_owned());
    let path = format!("/v1/interrupts/{count}/answer");
    let answer = |n: u64| desk.post("a:bob agent", &path, &json!({"answer": n}));
    let events = twice(&desk, || answer(3), answer(4)).await;
    assert_eq!(status(&events), "interrupted");
    let cancel = || desk.of("a:bob agent", Method::POST, &format!("/v1/interrupts/{decide}/cancel"));
    let keyed = || cancel().header("Idempotency-Key", "k");
    let (mut first, mut again) = (desk.stream(keyed()).await, desk.stream(keyed()).await);
    assert_eq!(again.header("idempotent-replayed").as_deref(), Some("true"));
    assert_eq!(status(&first.rest().await), "failed");
    assert_eq!(status(&again.rest().await), "failed");
    // The same request without the key comes too late.
    assert_eq!(desk.refused(answer(3)).await, refusal(409, "interrupt_answered", &[]));
    let resume = |body: Json| desk.post("a:ann", "/v1/threads/s/resume", &body);
    let events = twice(&desk, || resume(json!({})), resume(json!({"include": ["nodes"]}))).await;
    assert_eq!(status(&events), "failed", "the question stays dismissed");
}

/// An answer in the moment after the end of its time was answered with 200, and thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_refused_as_such() {
    let graph = GRAPH.replace("into: decision,", "into: decision, timeout: 1s, on_timeout: done,");
    let desk = Desk::start(&graph).await;
    desk.asked(desk.turn("a:ann", "hi")).await;
    let open = desk.asked(desk.turn("a:ann", "large")).await;
    let decide = id(&open, "decide");
    while desk.get("a:ann", "/v1/threads/s/interrupts").await.to_string().contains(decide) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let path = format!("/v1/interrupts/{decide}/answer");
    let late = desk.post("a:bob agent", &path, &json!({"answer": "approve"}));
    assert_eq!(desk.refused(late).await, refusal(409, "interrupt_expired", &[]));
}
