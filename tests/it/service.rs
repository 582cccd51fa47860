//! The binary over restarts and crashes: real processes, real sockets, a real database.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::Fresh;
use crate::support::process::Service;
use crate::support::stream::{Event, Stream, shown, status};
use crate::support::world::{ENCRYPTED, GRAPH, World, now};

/// What the mock says to `[[tokens=n]]`.
fn usual(n: usize) -> String {
    let token = |i: usize| if i % 10 == 9 { format!("é世🌍{i} ") } else { format!("tok{i} ") };
    (0..n).map(token).collect()
}

/// Reads on until so many deltas were seen.
async fn deltas(stream: &mut Stream, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    while all.iter().filter(|event: &&Event| event.kind() == "message.delta").count() < count {
        all.push(stream.next().await.expect("the stream ended early"));
    }
    all
}

/// Reads what is left of a stream that was cut.
async fn leftovers(stream: &mut Stream, seen: &mut Vec<Event>) {
    while let Some(event) = stream.next().await {
        seen.push(event);
    }
    assert!(!stream.done, "the stream was not cut: {seen:?}");
}

async fn keeps_the_thread_over_a_restart(fresh: Fresh) {
    let mut world = World::start(fresh).await;
    let first = world.chat("s", "my name is Ada [[say=hello Ada]]").await.rest().await;
    assert_eq!((shown(&first).as_str(), status(&first)), ("hello Ada", "completed"));
    world.service.process.terminate();
    assert!(world.service.process.wait());
    world.restart();
    let second = world.chat("s", "who am I? [[echo]]").await.rest().await;
    let heard = shown(&second);
    assert!(heard.contains("my name is Ada") && heard.contains("hello Ada"), "{heard}");
    assert_eq!(world.messages("s").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_two_turns_keeps_the_thread_on_postgres() {
    keeps_the_thread_over_a_restart(Fresh::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_two_turns_keeps_the_thread_on_sqlite() {
    keeps_the_thread_over_a_restart(Fresh::sqlite()).await;
}

async fn survives_a_crash(fresh: Fresh, settings: &str) {
    let mut world = World::with_settings(fresh, GRAPH, settings).await;
    let mut watched = world.chat("watched", "go [[tokens=30 delay=50ms]]").await;
    let mut alone = world.chat("alone", "go [[tokens=20 delay=50ms]]").await;
    let mut seen = deltas(&mut watched, 5).await;
    deltas(&mut alone, 1).await;
    world.service.process.crash();
    let (crashed, begun) = (now(), Instant::now());
    leftovers(&mut watched, &mut seen).await;
    assert!(seen.len() < 30);
    world.restart();
    let started = begun.elapsed();

    let mut back = world.follow(&watched.run(), &seen.last().unwrap().id).await;
    let reset = back.until("node.reset").await;
    println!("a new process after {started:?}, node.reset {} ms after the crash", reset.at - crashed);
    assert!(reset.at - crashed < 10_000, "{} ms", reset.at - crashed);
    seen.push(reset);
    seen.extend(back.rest().await);
    assert_eq!((shown(&seen), status(&seen)), (usual(30), "completed"));
    let stored = [("user", "go [[tokens=30 delay=50ms]]"), ("assistant", &usual(30))];
    assert_eq!(
        world.messages("watched").await,
        stored.map(|(role, text)| (role.to_owned(), text.to_owned()))
    );

    // Nobody followed the other one.
    let patience = Instant::now() + Duration::from_mins(1);
    while world.get(&format!("/v1/runs/{}", alone.run())).await.json()["status"] != "completed" {
        assert!(Instant::now() < patience);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stored = [("user", "go [[tokens=20 delay=50ms]]"), ("assistant", &usual(20))];
    assert_eq!(world.messages("alone").await, stored.map(|(role, text)| (role.to_owned(), text.to_owned())));
    assert_eq!(world.calls().await.len(), 4, "each answer was asked for once by each process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_in_mid_answer_completes_by_itself_on_postgres() {
    survives_a_crash(Fresh::postgres().await, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_in_mid_answer_completes_by_itself_on_sqlite() {
    survives_a_crash(Fresh::sqlite(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_in_mid_answer_completes_by_itself_on_encrypted_postgres() {
    survives_a_crash(Fresh::postgres().await, ENCRYPTED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_in_mid_answer_completes_by_itself_on_encrypted_sqlite() {
    survives_a_crash(Fresh::sqlite(), ENCRYPTED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_tells_a_run_and_takes_it_over_when_its_process_was_killed() {
    let mut world = World::start(Fresh::postgres().await).await;
    let mut first = world.chat("s", "[[tokens=40 delay=100ms]]").await;
    first.until("message.delta").await;
    let run = first.run();
    let second = Service::start(&world.folder, &world.fresh.url, "two");
    let mut killed = std::mem::replace(&mut world.service, second);
    let mut elsewhere = world.open(world.request(Method::GET, &format!("/v1/runs/{run}/events"))).await;
    let mut seen = deltas(&mut elsewhere, 3).await;
    killed.process.crash();
    let crashed = now();
    let reset = loop {
        let event = elsewhere.next().await.expect("this replica's stream goes on");
        seen.push(event.clone());
        if event.kind() == "node.reset" {
            break event;
        }
    };
    println!("another replica took over {} ms after the crash", reset.at - crashed);
    assert!(reset.at - crashed < 40_000, "{} ms", reset.at - crashed);
    seen.extend(elsewhere.rest().await);
    assert_eq!((shown(&seen), status(&seen)), (usual(40), "completed"));
    assert_eq!(world.messages("s").await.len(), 2);
}

const TWO: &str = "\
format: 1
state: {messages: messages}
start: first
nodes:
  first: {kind: llm, prompt: answer, reply: true, next: second}
  second: {kind: llm, prompt: answer, reply: true, next: end}
";

/// A stop stopped every node in flight: each answer that was half told began again elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_nodes_come_to_their_end_and_gives_the_run_back_between_them() {
    let drain = "[drain]\nnotice_seconds = 1\nruns_seconds = 20\nexit_seconds = 25\n";
    let mut world = World::with_settings(Fresh::postgres().await, TWO, drain).await;
    let mut stream = world.chat("s", "[[tokens=30 delay=50ms]]").await;
    let mut seen = deltas(&mut stream, 3).await;
    world.service.process.terminate();
    let ready = async {
        while world.get("/ready").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ready).await.expect("it is still ready");
    let quick = world.chat("t", "[[say=yes]]").await.rest().await;
    assert_eq!(status(&quick), "completed", "what comes while load balancers notice is served");
    leftovers(&mut stream, &mut seen).await;
    assert!(world.service.process.wait());
    assert!(seen.iter().any(|event| event.kind() == "node.finished"), "{seen:?}");
    world.restart();
    let mut back = world.follow(&stream.run(), &seen.last().unwrap().id).await;
    seen.extend(back.rest().await);
    assert_eq!(status(&seen), "completed");
    assert!(seen.iter().all(|event| event.kind() != "node.reset"), "{seen:?}");
    assert_eq!(world.messages("s").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_word_to_stop_waits_for_nothing() {
    let drain = "[drain]\nnotice_seconds = 60\nruns_seconds = 60\nexit_seconds = 60\n";
    let mut world = World::with_settings(Fresh::sqlite(), TWO, drain).await;
    let mut stream = world.chat("s", "[[tokens=600 delay=50ms]]").await;
    let mut seen = deltas(&mut stream, 3).await;
    let begun = Instant::now();
    world.service.process.terminate();
    while world.get("/ready").await.status != 503 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.service.process.terminate();
    leftovers(&mut stream, &mut seen).await;
    assert!(world.service.process.wait());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_the_stream_and_the_next_process_finishes_the_run() {
    let mut world = World::start(Fresh::postgres().await).await;
    let mut stream = world.chat("s", "[[tokens=60 delay=50ms]]").await;
    let mut seen = deltas(&mut stream, 3).await;
    let begun = Instant::now();
    world.service.process.terminate();
    leftovers(&mut stream, &mut seen).await;
    assert!(world.service.process.wait());
    println!("stopped after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    world.restart();
    let mut back = world.follow(&stream.run(), &seen.last().unwrap().id).await;
    seen.extend(back.rest().await);
    println!("finished {:?} after the stop", begun.elapsed());
    assert_eq!((shown(&seen), status(&seen)), (usual(60), "completed"));
    assert_eq!(world.messages("s").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_repeats_its_post_after_a_crash_gets_the_rest() {
    let mut world = World::start(Fresh::postgres().await).await;
    let mut stream = world.chat("s", "[[tokens=20 delay=50ms]]").await;
    let mut seen = deltas(&mut stream, 3).await;
    world.service.process.crash();
    leftovers(&mut stream, &mut seen).await;
    world.restart();
    let again = world.turn("s", "[[tokens=20 delay=50ms]]");
    let mut back = world.open(again.header("Last-Event-ID", &seen.last().unwrap().id)).await;
    assert_eq!(back.run(), stream.run());
    seen.extend(back.rest().await);
    assert_eq!(shown(&seen), usual(20));
    assert_eq!(world.messages("s").await.len(), 2, "one turn was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn graphs_compile_once() {
    let world = World::start(Fresh::sqlite()).await;
    let compiled = async || {
        let text = world.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("graphloom_graphs_compiled_total "));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let before = compiled().await;
    assert_eq!(before, "1");
    for i in 0..20 {
        let events = world.chat(&format!("s{}", i % 4), "[[tokens=2]]").await.rest().await;
        assert_eq!(status(&events), "completed");
    }
    assert_eq!(compiled().await, before);
}
