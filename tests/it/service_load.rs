//! Many at once: tenants and users on one session name, of whom nothing crosses, and streams that a stop cuts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::Fresh;
use crate::support::stream::{Stream, shown, status};
use crate::support::world::{GRAPH, World, pairs};

const TENANTS: usize = 50;
const USERS: usize = 20;
const SESSION: &str = "the-same-for-all";

/// Somebody with a word that nobody else may see.
#[derive(Clone)]
struct Somebody {
    tenant: String,
    user: String,
    word: String,
}

impl Somebody {
    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("X-Tenant-Id", &self.tenant).header("X-User-Id", &self.user)
    }

    /// Panics unless the only word in the text is the own one.
    fn check(&self, text: &str) {
        let words: Vec<&str> = text.match_indices("word-").map(|(at, _)| &text[at..at + 37]).collect();
        assert!(!words.is_empty() && words.iter().all(|word| *word == self.word), "{}: {text}", self.word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_a_thousand_chats_of_fifty_tenants_on_one_session_name_never_cross() {
    let world = World::start(Fresh::postgres().await).await;
    let everybody: Vec<Somebody> = (0..TENANTS * USERS)
        .map(|i| Somebody {
            tenant: format!("tenant-{}", i / USERS),
            // The same names in every tenant.
            user: format!("user-{}", i % USERS),
            word: format!("word-{}", Uuid::now_v7().simple()),
        })
        .collect();
    let begun = Instant::now();
    let refused = Arc::new(AtomicUsize::new(0));
    let cut = Arc::new(AtomicUsize::new(0));
    let mut chats = JoinSet::new();
    for who in &everybody {
        let turn = world.turn(SESSION, &format!("{} [[echo first=500ms]]", who.word));
        let (who, schema) = (who.clone(), world.schema.clone());
        let request = who.sign(turn).header("Idempotency-Key", &who.word).timeout(Duration::from_mins(3));
        let (refused, cut) = (Arc::clone(&refused), Arc::clone(&cut));
        chats.spawn(async move {
            // A busy service may ask to come back later; the key makes that the same turn.
            let response = loop {
                let response = request.try_clone().unwrap().send().await.unwrap();
                if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                    break response;
                }
                refused.fetch_add(1, Ordering::Relaxed);
                let wait = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_secs(wait)).await;
            };
            assert_eq!(response.status(), 200);
            let mut stream = Stream::new(response, schema.clone());
            let run = stream.run();
            let mut events = Vec::new();
            loop {
                while let Some(event) = stream.next().await {
                    events.push(event);
                }
                if stream.done {
                    break;
                }
                // So it may cut a stream that waited too long for the database.
                cut.fetch_add(1, Ordering::Relaxed);
                let after = events.last().map_or_else(|| format!("{run}:0-0"), |event| event.id.clone());
                let again = request.try_clone().unwrap().header("Last-Event-ID", after);
                let response = again.send().await.unwrap();
                stream =
                    if response.status() == 200 { Stream::new(response, schema.clone()) } else { stream };
            }
            assert_eq!(status(&events), "completed");
            who.check(&shown(&events));
            run
        });
    }
    let mut runs = chats.join_all().await;
    let (count, cuts) = (refused.load(Ordering::Relaxed), cut.load(Ordering::Relaxed));
    println!(
        "{} chats at once took {:?}; {count} refusals, {cuts} streams cut",
        everybody.len(),
        begun.elapsed()
    );
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), everybody.len());
    for who in &everybody {
        let messages = who.sign(world.request(Method::GET, &format!("/v1/threads/{SESSION}/messages")));
        let answer = world.ask(messages).await;
        assert_eq!((answer.status.as_u16(), pairs(&answer.json()["messages"]).len()), (200, 2));
        who.check(&answer.text);
        let threads = world.ask(who.sign(world.request(Method::GET, "/v1/threads"))).await.json();
        assert_eq!(threads["threads"].as_array().unwrap().len(), 1, "{threads}");
    }
    for line in world.service.log().lines().filter(|line| line.contains("ERROR")).take(3) {
        println!("{line}");
    }
    println!("with the reading back {:?}", begun.elapsed());
}

/// The settings are the defaults, and no model comes to its end meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn load_a_stop_with_five_hundred_open_streams_is_over_in_25_seconds_and_loses_none() {
    let drain = "[drain]\nnotice_seconds = 5\nruns_seconds = 20\nexit_seconds = 25\n";
    let mut world = World::with_settings(Fresh::postgres().await, GRAPH, drain).await;
    let mut opened = JoinSet::new();
    for n in 0..500 {
        let turn = world.turn(&format!("s{n}"), "[[tokens=100 delay=1s]]");
        let (request, schema) = (turn, world.schema.clone());
        opened.spawn(async move { Stream::new(request.send().await.unwrap(), schema) });
    }
    let streams = opened.join_all().await;
    let begun = Instant::now();
    world.service.process.terminate();
    let mut cut = JoinSet::new();
    for mut stream in streams {
        cut.spawn(async move {
            let mut last = None;
            while let Some(event) = stream.next().await {
                last = Some(event.id);
            }
            (stream.run(), last.unwrap(), stream.done)
        });
    }
    let ended = cut.join_all().await;
    assert!(world.service.process.wait());
    println!("the process ended {:?} after the word to stop", begun.elapsed());
    // It tells the time itself; a busy machine takes a moment to see it.
    assert!(begun.elapsed() < Duration::from_secs(28), "{:?}", begun.elapsed());
    assert!(ended.iter().all(|(.., done)| !done), "no run came to its end");
    world.restart();
    let list = world.get("/metrics").await.text;
    assert!(list.contains("graphloom_runs{state=\"dead\"} 0"), "{list}");
    for (run, last, _) in ended.iter().step_by(50) {
        let mut back = world.follow(run, last).await;
        assert_eq!(
            back.until("node.reset").await.json["run_id"],
            json!(run),
            "what was told in part begins again"
        );
    }
}
