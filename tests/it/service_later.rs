//! Runs that begin later, runs that nobody waits for, and runs that end when nobody reads them.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use crate::support::Fresh;
use crate::support::process::{Service, binary};
use crate::support::world::{GRAPH, World};

const SLOW: &str = "[[tokens=600 delay=100ms]]";
const SHORT: &str = "[limits]\nunread_seconds = 2\n";

async fn status_of(world: &World, run: &str) -> String {
    world.get(&format!("/v1/runs/{run}")).await.json()["status"].as_str().unwrap().to_owned()
}

/// Waits until a run stands there, and returns how long that took.
async fn until(world: &World, run: &str, status: &str) -> Duration {
    let begun = Instant::now();
    while status_of(world, run).await != status {
        assert!(begun.elapsed() < Duration::from_mins(1), "{run} is {}", status_of(world, run).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

fn slow(world: &World, session: &str) -> reqwest::RequestBuilder {
    let body = json!({"session_id": session, "message": SLOW, "on_disconnect": "cancel"});
    world.request(Method::POST, "/v1/graphs/chat/chat").json(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_reads_on_any_replica_is_cancelled_after_the_grace() {
    let world = World::with_settings(Fresh::postgres().await, GRAPH, SHORT).await;
    let two = Service::start(&world.folder, &world.fresh.url, "two");
    // Long after the start nobody is given time to come back.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut stream = world.open(slow(&world, "s")).await;
    let (run, last) = (stream.run(), stream.until("message.delta").await.id);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(status_of(&world, &run).await, "running", "it is read");
    drop(stream);
    // Back on another replica within the grace.
    let follow = world.http.get(format!("{}/v1/runs/{run}/events", two.base)).header("Last-Event-ID", &last);
    let mut back = world.open(follow).await;
    back.until("message.delta").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(status_of(&world, &run).await, "running", "it is read again");
    drop(back);
    let took = until(&world, &run, "cancelled").await;
    assert!(took > Duration::from_millis(1900), "the grace: {took:?}");
    // One that is told nothing else goes on.
    let turn = world.turn("t", SLOW);
    let mut stream = world.open(turn).await;
    let quiet = stream.run();
    stream.until("message.delta").await;
    drop(stream);
    // One that waits for its turn, and a client of `invoke` that hangs up.
    let queued = world.open(slow(&world, "t")).await;
    let waits = queued.run();
    drop(queued);
    let body = json!({"session_id": "u", "message": SLOW, "on_disconnect": "cancel"});
    let invoke = world.request(Method::POST, "/v1/graphs/chat/invoke").json(&body);
    assert!(invoke.timeout(Duration::from_secs(1)).send().await.is_err());
    until(&world, &waits, "cancelled").await;
    let thread = world.get("/v1/threads/u").await.json();
    until(&world, thread["last_run"]["run_id"].as_str().unwrap(), "cancelled").await;
    assert_eq!(status_of(&world, &quiet).await, "running");
}

/// The replica that is given the run knows nothing of its reader, and finds the wish with the run.
#[tokio::test(flavor = "multi_thread")]
async fn the_wish_to_end_unread_outlives_the_replica() {
    let mut world = World::with_settings(Fresh::postgres().await, GRAPH, SHORT).await;
    let mut stream = world.open(slow(&world, "s")).await;
    let run = stream.run();
    stream.until("message.delta").await;
    world.service.process.terminate();
    world.service.process.wait();
    assert!(stream.next().await.is_none_or(|event| event.kind() != "run.finished"));
    drop(stream);
    world.restart();
    until(&world, &run, "cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_run_is_accepted_at_once_and_begins_when_it_is_due_also_after_a_restart() {
    let mut world = World::start(Fresh::postgres().await).await;
    let later =
        |seconds: u64| json!({"session_id": "s", "message": "[[say=later]]", "after_seconds": seconds});
    let post = async |world: &World, body: &Json| {
        let request = world.request(Method::POST, "/v1/graphs/chat/invoke").json(body);
        world.ask(request.header("Prefer", "respond-async")).await
    };
    let (due, never) = (post(&world, &later(4)).await, post(&world, &later(100_000)).await);
    assert_eq!((due.status, never.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    let (due, never) = (due.json(), never.json());
    world.schema.check_as("Run", &due);
    assert_eq!(due["status"], "queued");
    let at = |view: &Json, name: &str| {
        view[name].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    };
    let wait = at(&due, "due_at") - at(&due, "created_at");
    assert_eq!(wait.num_milliseconds().div_euclid(100), 40);
    // The conversation goes on meanwhile, even for those who want no queue.
    assert_eq!(world.get("/v1/threads/s").await.json()["status"], "idle");
    let now = json!({"session_id": "s", "message": "[[say=now]]", "on_busy": "interrupt"});
    let now = world.ask(world.request(Method::POST, "/v1/graphs/chat/invoke").json(&now)).await.json();
    assert_eq!(now["reply"], "now");
    let mut listed = binary(&world.folder);
    let listed = listed.args(["runs", "--database-url", &world.fresh.url, "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().filter(|line| line.contains("  delayed  ")).count(), 2, "{listed}");
    assert_eq!(world.metric("graphloom_runs{state=\"delayed\"}").await, 2);
    let [due, never] = [due, never].map(|view| view["run_id"].as_str().unwrap().to_owned());
    world.service.process.terminate();
    world.service.process.wait();
    world.restart();
    let mut stream = world.open(world.request(Method::GET, &format!("/v1/runs/{due}/events"))).await;
    stream.rest().await;
    let view = world.get(&format!("/v1/runs/{due}")).await.json();
    assert_eq!((&view["status"], &view["due_at"]), (&json!("completed"), &Json::Null));
    let said: Vec<String> = world.messages("s").await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(said, ["[[say=now]]", "now", "[[say=later]]", "later"]);
    let cancelled =
        world.ask(world.request(Method::POST, &format!("/v1/runs/{never}/cancel?wait=true"))).await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    for (field, value) in [
        ("after_seconds", json!(-1)),
        ("after_seconds", json!(2_592_001)),
        ("after_seconds", json!("5")),
        ("after_seconds", json!(1.5)),
        ("on_disconnect", json!("stop")),
        ("webhook", json!(1)),
    ] {
        let body = json!({"session_id": "s", "message": "x", field: value});
        let answer = post(&world, &body).await;
        let pointer = answer.json()["errors"][0]["pointer"].clone();
        assert_eq!((answer.status.as_u16(), pointer), (400, json!(format!("/{field}"))), "{value}");
    }
    let answer =
        post(&world, &json!({"session_id": "s", "message": "x", "after_seconds": 1, "on_busy": "reject"}))
            .await;
    assert_eq!((answer.status.as_u16(), &answer.json()["errors"][0]["pointer"]), (400, &json!("/on_busy")));
}
