//! Streams of the binary: when tokens arrive, how runs are ended, repeated and queued.

use std::time::{Duration, Instant};

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value as Json, json};

use crate::support::process::{Nginx, Service};
use crate::support::stream::{Event, Stream, shown, status};
use crate::support::world::{World, now};
use crate::support::{Fresh, plain};

fn arrivals(events: &[Event]) -> Vec<i64> {
    events.iter().filter(|event| event.kind() == "message.delta").map(|event| event.at).collect()
}

/// Returns what the events say but for the time: deltas that are stored together keep the time of the first.
fn timeless(events: &[Event]) -> Vec<Json> {
    let without = |event: &Event| {
        let mut json = event.json.clone();
        json.as_object_mut().unwrap().remove("ts");
        json
    };
    events.iter().map(without).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_here_before_the_model_has_sent_its_last() {
    let world = World::start(Fresh::postgres().await).await;
    let mut stream = world.chat("s", "[[tokens=10 delay=100ms]]").await;
    let first = stream.until("message.delta").await;
    assert!(world.calls().await[0]["finished_ms"].is_null(), "the model is not done yet");
    let rest = stream.rest().await;
    let finished = world.calls().await[0]["finished_ms"].as_i64().unwrap();
    println!("the first token was here {} ms before the model's last", finished - first.at);
    assert!(first.at + 500 < finished);
    assert_eq!(arrivals(&rest).len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_with_its_default_buffering_tokens_arrive_one_by_one() {
    let world = World::start(Fresh::sqlite()).await;
    let nginx = Nginx::start(&world.service);
    // nginx obeys this header and keeps it for itself.
    let direct = world.chat("direct", "[[tokens=1]]").await;
    assert_eq!(direct.header("x-accel-buffering").as_deref(), Some("no"));
    let body = json!({"session_id": "s", "message": "[[tokens=10 delay=100ms]]"});
    let request = world.http.post(format!("{}/v1/graphs/chat/chat", nginx.base)).json(&body);
    let mut stream = world.open(request).await;
    assert!(stream.header("server").is_some_and(|server| server.starts_with("nginx")));
    let events = stream.rest().await;
    let at = arrivals(&events);
    assert_eq!(at.len(), 10);
    let apart = at.windows(2).filter(|two| two[1] - two[0] >= 30).count();
    println!("through nginx: {:?}", at.iter().map(|t| t - at[0]).collect::<Vec<_>>());
    assert!(apart >= 6 && at[9] - at[0] >= 600, "{at:?}");
}

/// Waits until so many calls to the provider were broken off, and returns when the last one was.
async fn broken_off(world: &World, count: usize) -> i64 {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let calls = world.calls().await;
        let mut at: Vec<i64> = calls.iter().filter_map(|call| call["disconnected_ms"].as_i64()).collect();
        at.sort_unstable();
        if at.len() >= count {
            return at[count - 1];
        }
        assert!(Instant::now() < patience, "the call is still open");
    }
}

/// The owner learned it at its next heartbeat, five seconds later.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_ends_closes_its_connection_to_the_provider_within_two_seconds() {
    let world = World::start(Fresh::postgres().await).await;
    let two = Service::start(&world.folder, &world.fresh.url, "two");
    for (n, way) in ["cancel", "interrupt", "rollback"].into_iter().enumerate() {
        let mut stream = world.chat(way, "[[tokens=900 delay=50ms]]").await;
        let mut events = vec![stream.until("message.delta").await];
        let asked = now();
        let next = if way == "cancel" {
            let cancel = world.http.post(format!("{}/v1/runs/{}/cancel", two.base, stream.run()));
            assert_eq!(world.ask(cancel).await.status, 202);
            None
        } else {
            let body = json!({"session_id": way, "message": "[[say=next]]", "on_busy": way});
            let next = world.http.post(format!("{}/v1/graphs/chat/chat", two.base)).json(&body);
            Some(world.open(next).await)
        };
        let took = broken_off(&world, n + 1).await - asked;
        println!("{way}: from the request to the closed socket {took} ms");
        assert!(took <= 2100, "{took} ms");
        events.extend(stream.rest().await);
        assert_eq!(status(&events), if way == "rollback" { "rolled_back" } else { "cancelled" });
        if let Some(mut next) = next {
            assert_eq!(shown(&next.rest().await), "next");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_closes_the_connection_to_the_provider_at_once() {
    let world = World::start(Fresh::postgres().await).await;
    let slow = [("a", "[[tokens=500 delay=50ms]]"), ("b", "[[tokens=9 hang_after=1]]")];
    for (n, (session, message)) in slow.into_iter().enumerate() {
        let mut stream = world.chat(session, message).await;
        let mut events = vec![stream.until("message.delta").await];
        let asked = now();
        let answer =
            world.ask(world.request(Method::POST, &format!("/v1/runs/{}/cancel", stream.run()))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        events.extend(stream.rest().await);
        assert_eq!(status(&events), "cancelled");
        let closed = broken_off(&world, n + 1).await;
        println!("{message}: from the cancel to the closed socket {} ms", closed - asked);
        assert!(closed - asked <= 300, "{} ms", closed - asked);
    }
    let next = world.chat("a", "[[say=go on]]").await.rest().await;
    assert_eq!((shown(&next).as_str(), status(&next)), ("go on", "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_end_its_run() {
    let world = World::start(Fresh::sqlite()).await;
    let mut stream = world.chat("s", "[[tokens=10 delay=50ms]]").await;
    stream.until("message.delta").await;
    let run = stream.run();
    drop(stream);
    let request = world.request(Method::GET, &format!("/v1/runs/{run}/events"));
    let events = world.open(request).await.rest().await;
    assert_eq!((events[0].kind(), status(&events)), ("run.started", "completed"));
    let last = &events.last().unwrap().id;
    let request = world.request(Method::GET, &format!("/v1/runs/{run}/events")).header("Last-Event-ID", last);
    assert_eq!(world.ask(request).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_with_its_key_finds_the_run_of_the_first() {
    let mut world = World::start(Fresh::postgres().await).await;
    let keyed = |world: &World, message: &str| world.turn("s", message).header("Idempotency-Key", "k-1");
    let mut first = world.open(keyed(&world, "[[tokens=5]]")).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    let events = first.rest().await;
    let same = async |world: &World, first: &Stream| {
        let mut again = world.open(keyed(world, "[[tokens=5]]")).await;
        assert_eq!(
            (again.run(), again.header("idempotent-replayed").as_deref()),
            (first.run(), Some("true"))
        );
        assert_eq!(timeless(&again.rest().await), timeless(&events));
    };
    same(&world, &first).await;
    let other = world.ask(keyed(&world, "[[tokens=6]]")).await;
    assert_eq!((other.status.as_u16(), &other.json()["code"]), (422, &json!("idempotency_key_reused")));
    world.service.process.crash();
    world.restart();
    same(&world, &first).await;
    assert_eq!(world.calls().await.len(), 1);
    assert_eq!(world.messages("s").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_at_once_with_one_key_make_one_run() {
    let world = World::start(Fresh::postgres().await).await;
    let one = async || {
        let request = world.turn("s", "[[tokens=5 delay=20ms]]").header("Idempotency-Key", "k-1");
        let mut stream = world.open(request).await;
        (stream.run(), status(&stream.rest().await).to_owned())
    };
    let all = futures_util::future::join_all((0..8).map(|_| one())).await;
    assert!(all.iter().all(|seen| *seen == all[0] && seen.1 == "completed"), "{all:?}");
    assert_eq!(world.calls().await.len(), 1);
}

async fn takes_turns_in_order(fresh: Fresh) {
    let world = World::start(fresh).await;
    let mut first = world.chat("s", "one [[tokens=10 delay=50ms]]").await;
    let begun = first.until("message.delta").await;
    let busy = json!({"session_id": "s", "message": "no", "on_busy": "reject"});
    let refused = world.ask(world.request(Method::POST, "/v1/graphs/chat/chat").json(&busy)).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (409, &json!("thread_busy")));
    let mut second = world.chat("s", "two [[echo]]").await;
    let (first, second) = tokio::join!(first.rest(), second.rest());
    assert_eq!((status(&first), status(&second)), ("completed", "completed"));
    let heard = shown(&second);
    assert!(heard.contains("one [[") && heard.contains("tok8"), "the second saw the first's answer: {heard}");
    assert!(arrivals(&second)[0] >= begun.at);
    let roles: Vec<String> = world.messages("s").await.into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chats_on_one_thread_take_turns_on_postgres() {
    takes_turns_in_order(Fresh::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chats_on_one_thread_take_turns_on_sqlite() {
    takes_turns_in_order(Fresh::sqlite()).await;
}

/// `include: [state]` was taken and nothing came of it. The client below applies the patches as RFC 6902 says.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_state_can_follow_it_from_run_to_run_and_sees_nothing_private() {
    let graph = "format: 1\n\
         state:\n  messages: messages\n  count: {type: integer, default: 0}\n  \
         seen: {type: [string], merge: append}\n  secret: {type: string, default: s, private: true}\n\
         start: count\n\
         nodes:\n  count:\n    kind: set\n    set:\n      count: state.count + 1\n      \
         seen: \"[run.user_text]\"\n      secret: \"'hidden'\"\n    next: hello\n  \
         hello: {kind: say, text: \"Hello {{ state.count }}\", next: end}\n";
    let world = World::with_graph(Fresh::sqlite(), graph).await;
    let body = |text: &str| json!({"session_id": "s", "message": text, "include": ["state", "checkpoints"]});
    let mut state = json!({});
    let mut told = Vec::new();
    for (turn, text) in ["one", "two"].into_iter().enumerate() {
        let request = world.request(Method::POST, "/v1/graphs/chat/chat").json(&body(text));
        told = world.open(request).await.rest().await;
        let start = told.iter().find(|event| event.kind() == "state.snapshot").unwrap();
        assert_eq!(start.json["state"], state, "turn {turn} starts from what the last one left");
        for event in told.iter().filter(|event| event.kind() == "state.patch") {
            for op in event.json["patch"].as_array().unwrap() {
                apply(&mut state, op);
            }
        }
    }
    let read = world.get("/v1/threads/s/state").await.json();
    assert_eq!(state, read["state"]);
    assert_eq!((&state["count"], &state["seen"]), (&json!(2), &json!(["one", "two"])));
    assert!(state.get("secret").is_none());
    let run = told[0].json["run_id"].as_str().unwrap();
    let request = world.request(Method::GET, &format!("/v1/runs/{run}/events?include=state,checkpoints"));
    assert_eq!(timeless(&world.open(request).await.rest().await), timeless(&told), "a replay tells the same");
}

/// Applies an operation of a JSON Patch.
fn apply(state: &mut Json, op: &Json) {
    let path = op["path"].as_str().unwrap();
    let (parent, key) = path.rsplit_once('/').unwrap();
    match (op["op"].as_str().unwrap(), state.pointer_mut(parent).unwrap()) {
        ("add", Json::Object(object)) => drop(object.insert(key.into(), op["value"].clone())),
        ("add", Json::Array(list)) => {
            assert_eq!(key, "-");
            list.push(op["value"].clone());
        }
        ("remove", Json::Object(object)) => drop(object.remove(key).expect("it was there")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_the_database_took_from_a_stream_is_stored_again_with_its_barrier() {
    let world = World::start(Fresh::postgres().await).await;
    // What does not wait for the disk is what a crash takes.
    let db = plain(&world.fresh.url).await;
    db.execute_unprepared(
        "create function lose() returns trigger language plpgsql as $$ begin \
           if current_setting('synchronous_commit') = 'off' \
             and (select state from run where run_id = new.run_id) = 'running' then return null; end if; \
           return new; end $$; \
         create trigger lose before insert on event for each row execute function lose()",
    )
    .await
    .unwrap();
    let mut stream = world.chat("s", "[[tokens=6 delay=100ms]]").await;
    let run = stream.run();
    let whole = |events: &[Event]| {
        let whole = timeless(events).into_iter().filter(|event| event["type"] != "message.delta");
        whole.collect::<Vec<_>>()
    };
    let told = whole(&stream.rest().await);
    assert!(told.iter().any(|event| event["type"] == "message.started"), "{told:?}");
    let request = world.request(Method::GET, &format!("/v1/runs/{run}/events"));
    assert_eq!(whole(&world.open(request).await.rest().await), told);
    assert!(world.service.log().contains("The database lost events"), "{}", world.service.log());
}
