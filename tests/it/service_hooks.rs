//! Webhooks from end to end: real processes, a real receiver, signatures checked from the text of the specification.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait;
use serde_json::{Value as Json, json};

use crate::support::process::{Folder, Service, binary};
use crate::support::receiver::Receiver;
use crate::support::world::{GRAPH, World};
use crate::support::{Fresh, plain};

const KEYS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="];
const ASKS: &str = "\
format: 1
state: {messages: messages, size: string?}
start: size
output: {size: state.size}
nodes:
  size: {kind: ask, question: Small or large?, options: [small, large], into: size, next: done}
  done: {kind: say, text: \"Done: {{ state.size | default('-') }}.\", next: end}
";

/// A service whose webhooks may go to a receiver.
struct Told {
    world: World,
    receiver: Receiver,
    _secrets: Folder,
}

impl Told {
    async fn start(fresh: Fresh, graph: &str) -> Self {
        let (receiver, secrets) = (Receiver::start().await, Folder::new());
        for (name, key) in ["OLD", "NEW"].iter().zip(KEYS) {
            secrets.write(name, key);
        }
        let settings = format!(
            "allow_private = [\"{}\"]\nsecrets_dir = \"{}\"\n[webhooks]\nsecrets = [\"OLD\", \"NEW\"]\n",
            receiver.address,
            secrets.path().display()
        );
        Self { world: World::with_settings(fresh, graph, &settings).await, receiver, _secrets: secrets }
    }

    /// Takes a turn in the background, and returns the run.
    async fn begin(&self, session: &str, message: &str, path: &str) -> String {
        let body = json!({"session_id": session, "message": message, "webhook": self.receiver.url(path)});
        let request = self.world.request(Method::POST, "/v1/graphs/chat/invoke").json(&body);
        let response = request.header("Prefer", "respond-async").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.headers()["preference-applied"], "respond-async");
        let run = response.headers()["x-run-id"].to_str().unwrap().to_owned();
        assert_eq!(response.headers()["location"].to_str().unwrap(), format!("/v1/runs/{run}"));
        let view: Json = response.json().await.unwrap();
        self.world.schema.check_as("Run", &view);
        assert_eq!(view["run_id"], run);
        run
    }

    /// Runs `graphloom webhooks` on the database of the service.
    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = binary(&self.world.folder);
        let Output { status, stdout, stderr } = command
            .arg("webhooks")
            .args(arguments)
            .args(["--database-url", &self.world.fresh.url])
            .output()
            .unwrap();
        (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    fn listed(&self, state: &str) -> Vec<Json> {
        let (done, text) = self.command(&["list", "--state", state, "--format", "json"]);
        assert!(done, "{text}");
        serde_json::from_str::<Json>(&text).unwrap()["webhooks"].as_array().unwrap().clone()
    }

    async fn until(&self, state: &str, count: usize) -> Vec<Json> {
        for _ in 0..600 {
            let listed = self.listed(state);
            if listed.len() == count {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not {count} {state}: {:?}", self.listed(state));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_an_end_are_told_with_the_signatures_of_all_secrets() {
    let told = Told::start(Fresh::sqlite(), ASKS).await;
    let run = told.begin("s", "hi", "/first").await;
    let pause = told.receiver.wait("/first", 1).await.remove(0);
    pause.check(&KEYS);
    let body = pause.json();
    told.world.schema.check_as("RunNotice", &body);
    assert_eq!((&body["type"], &body["data"]["status"]), (&json!("run.interrupted"), &json!("interrupted")));
    let question = &body["data"]["interrupts"][0];
    assert_eq!((&question["question"], &body["data"]["run_id"]), (&json!("Small or large?"), &json!(run)));
    assert_eq!(body["data"]["finished_at"], Json::Null);
    let answers = json!({question["interrupt_id"].as_str().unwrap(): "small"});
    let go_on = json!({"answers": answers, "webhook": told.receiver.url("/second")});
    let resume = told.world.request(Method::POST, "/v1/threads/s/resume").json(&go_on);
    told.world.open(resume).await.rest().await;
    let end = told.receiver.wait("/second", 1).await.remove(0);
    end.check(&KEYS);
    let body = end.json();
    told.world.schema.check_as("RunNotice", &body);
    let data = &body["data"];
    assert_eq!((&body["type"], &data["output"]), (&json!("run.completed"), &json!({"size": "small"})));
    let who = ["tenant", "user_id", "session_id", "graph"].map(|name| data[name].as_str().unwrap());
    assert_eq!(who, ["dev", "dev", "s", "chat"]);
    assert_eq!(body["timestamp"], data["finished_at"]);
    let view = told.world.get(&format!("/v1/runs/{run}")).await.json();
    assert_eq!((&view["status"], &view["graph_hash"]), (&json!("completed"), &data["graph_hash"]));
    assert_ne!(pause.header("webhook-id"), end.header("webhook-id"));
    assert_eq!(told.receiver.all().len(), 2);
    // One that waits is told of when it is cancelled.
    let run = told.begin("t", "hi", "/third").await;
    told.receiver.wait("/third", 1).await;
    told.world.ask(told.world.request(Method::POST, &format!("/v1/runs/{run}/cancel"))).await;
    let cancelled = told.receiver.wait("/third", 2).await.remove(1).json();
    assert_eq!(cancelled["type"], "run.cancelled");
    assert!(told.world.metric("graphloom_webhook_deliveries_total{outcome=\"delivered\"}").await >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_never_be_told_is_refused_when_it_is_posted() {
    let told = Told::start(Fresh::sqlite(), GRAPH).await;
    let long = format!("https://example.com/{}", "x".repeat(2048));
    for url in [
        "",
        "example.com",
        "ftp://example.com/x",
        "http://example.com/x",
        "https://10.0.0.1/x",
        "https://[::1]/x",
        "https://localhost/x",
        "https://169.254.169.254/latest",
        "https://example.com:8443/x",
        "https://u:p@example.com/",
        "http://127.0.0.1:1/x",
        "https://2130706433/",
        &long,
    ] {
        let body = json!({"session_id": "s", "message": "[[say=x]]", "webhook": url});
        for operation in ["chat", "invoke"] {
            let path = format!("/v1/graphs/chat/{operation}");
            let answer = told.world.ask(told.world.request(Method::POST, &path).json(&body)).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}: {answer:?}");
            assert_eq!(answer.json()["errors"][0]["pointer"], "/webhook", "{url}");
        }
    }
    assert_eq!(told.world.get("/v1/threads/s").await.status, StatusCode::NOT_FOUND);
    let world = World::start(Fresh::sqlite()).await;
    let body = json!({"session_id": "s", "message": "[[say=x]]", "webhook": "https://example.com/x"});
    let answer = world.ask(world.request(Method::POST, "/v1/graphs/chat/invoke").json(&body)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text.contains("no secret to sign with"), "{answer:?}");
    let body = json!({"session_id": "s", "message": "[[say=x]]", "on_disconnect": "cancel"});
    let request = world.request(Method::POST, "/v1/graphs/chat/invoke").json(&body);
    let answer = world.ask(request.header("Prefer", "respond-async")).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["errors"][0]["pointer"]),
        (422, &json!("/on_disconnect"))
    );
}

/// The second receiver is on a private address that nobody allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_again_a_redirect_leads_nowhere_and_what_is_gone_is_given_up() {
    let told = Told::start(Fresh::postgres().await, GRAPH).await;
    told.begin("again", "[[say=x]]", "/500/1/again").await;
    told.begin("away", "[[say=x]]", "/302/0/away").await;
    told.begin("gone", "[[say=x]]", "/410/1/gone").await;
    let failed = told.until("failed", 1).await;
    assert_eq!((&failed[0]["attempts"], &failed[0]["to"]), (&json!(1), &json!(told.receiver.url(""))));
    assert!(failed[0]["error"].as_str().unwrap().contains("410"), "{failed:?}");
    told.receiver.wait("/302/0/away", 1).await;
    let again = told.receiver.wait("/500/1/again", 2).await;
    for came in &again {
        came.check(&KEYS);
    }
    assert_eq!(
        (again[0].header("webhook-id"), &again[0].body),
        (again[1].header("webhook-id"), &again[1].body)
    );
    let waits = told.until("queued", 1).await;
    assert!(
        waits[0]["error"].as_str().unwrap().contains("302") && waits[0]["due_at"].is_string(),
        "{waits:?}"
    );
    assert!(told.receiver.all().iter().all(|came| came.path != "/stolen"), "a redirect was followed");
    let id = failed[0]["webhook_id"].as_str().unwrap();
    let (done, text) = told.command(&["retry", id]);
    assert!(done && text.contains("told from now on"), "{text}");
    told.receiver.wait("/410/1/gone", 2).await;
    told.until("delivered", 2).await;
    let (done, text) = told.command(&["retry", id]);
    assert!(!done && text.contains("it was told"), "{text}");
    let (_, text) = told.command(&["list"]);
    assert!(text.lines().count() == 1 && !text.contains("/302/0/away"), "{text}");
    assert_eq!(told.world.metric("graphloom_webhooks{state=\"queued\"}").await, 1);
    // A user's thread takes what is still to be told along.
    told.world.ask(told.world.request(Method::DELETE, "/v1/threads/away")).await;
    assert_eq!(told.listed("queued"), Vec::<Json>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_while_it_tells_leaves_it_to_another() {
    let mut told = Told::start(Fresh::postgres().await, GRAPH).await;
    let run = told.begin("s", "[[say=x]]", "/hang/1/x").await;
    let first = told.receiver.wait("/hang/1/x", 1).await.remove(0);
    told.world.service.process.crash();
    let _two = Service::start(&told.world.folder, &told.world.fresh.url, "two");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(told.receiver.all().len(), 1, "the lease of the dead one is respected");
    // A minute goes by.
    let db = plain(&told.world.fresh.url).await;
    db.execute_unprepared("update outbox set available_at = now()").await.unwrap();
    let second = told.receiver.wait("/hang/1/x", 2).await.remove(1);
    second.check(&KEYS);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.body, second.body);
    assert_eq!(second.json()["data"]["run_id"], run);
    let delivered = told.until("delivered", 1).await;
    assert_eq!(delivered[0]["attempts"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_tell_each_end_once() {
    let told = Told::start(Fresh::postgres().await, GRAPH).await;
    let _two = Service::start(&told.world.folder, &told.world.fresh.url, "two");
    for i in 0..30 {
        told.begin(&format!("s{i}"), "[[say=x]]", "/x").await;
    }
    told.until("delivered", 30).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let all = told.receiver.all();
    let ids: BTreeSet<String> = all.iter().map(|came| came.header("webhook-id")).collect();
    assert_eq!((all.len(), ids.len()), (30, 30));
}
