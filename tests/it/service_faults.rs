//! A provider that fails: every stream still ends as promised, and the thread takes the next turn.

use futures_util::future::join_all;

use crate::support::Fresh;
use crate::support::stream::{Event, shown, status};
use crate::support::world::World;

const FAULTS: [&str; 7] = [
    "status=500",
    "status=404",
    "status=429 retry_after=1",
    "malformed=3",
    "cut_after=0",
    "cut_after=5",
    "error_in_stream=3",
];

fn has(events: &[Event], kind: &str) -> bool {
    events.iter().any(|event| event.kind() == kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_on_its_third_call_fails_that_turn_only() {
    let world = World::start(Fresh::postgres().await).await;
    for turn in 1..=4 {
        let events = world.chat("s", "[[echo fail_call=3]]").await.rest().await;
        if turn == 3 {
            assert_eq!(status(&events), "failed");
            let kinds: Vec<&str> = events.iter().map(Event::kind).collect();
            assert!(kinds.ends_with(&["error", "run.finished"]), "{kinds:?}");
            let error = &events[events.len() - 2].json;
            assert_eq!((error["node"].as_str(), error["code"].as_str()), (Some("answer"), Some("http_500")));
        } else {
            assert_eq!(status(&events), "completed", "turn {turn}: {events:?}");
            assert!(!has(&events, "error"));
        }
    }
    assert_eq!(world.calls().await.len(), 4);
    let answers = world.messages("s").await.into_iter().filter(|(role, _)| role == "assistant").count();
    assert_eq!(answers, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_provider_ends_in_an_error_and_done() {
    let world = World::start(Fresh::sqlite()).await;
    let one = async |i: usize, fault: &str| {
        let session = format!("s{i}");
        let events = world.chat(&session, &format!("[[{fault}]]")).await.rest().await;
        assert_eq!(status(&events), "failed", "{fault}: {events:?}");
        let errors = events.iter().filter(|event| event.kind() == "error").count();
        assert_eq!((errors, events[events.len() - 2].kind()), (1, "error"), "{fault}: {events:?}");
        let opened = events.iter().filter(|event| event.kind() == "message.started").count();
        let closed = events.iter().filter(|event| event.kind() == "message.finished").count();
        assert_eq!(opened, closed, "{fault}: what was opened is closed: {events:?}");
        let next = world.chat(&session, "[[say=well]]").await.rest().await;
        assert_eq!((shown(&next).as_str(), status(&next)), ("well", "completed"), "after {fault}");
        println!("{fault}: {}", events[events.len() - 2].json);
    };
    join_all(FAULTS.iter().enumerate().map(|(i, fault)| one(i, fault))).await;
    let whole = world.chat("whole", "[[tokens=16]]").await.rest().await;
    let split = world.chat("split", "[[tokens=16 split=1]]").await.rest().await;
    assert_eq!((shown(&split), status(&split)), (shown(&whole), "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_retry_policy_one_fault_is_forgiven_and_leaves_no_trace() {
    let world = World::with_retry(Fresh::sqlite()).await;
    let whole = shown(&world.chat("whole", "[[tokens=16]]").await.rest().await);
    let one = async |i: usize, fault: &str| {
        let session = format!("s{i}");
        let events = world.chat(&session, &format!("[[{fault} tokens=16 fail_first=1]]")).await.rest().await;
        assert_eq!((shown(&events), status(&events)), (whole.clone(), "completed"), "{fault}: {events:?}");
        assert!(has(&events, "node.retrying") && !has(&events, "error"), "{fault}: {events:?}");
        let stored = world.messages(&session).await;
        assert_eq!((stored.len(), &stored[1].1), (2, &whole), "{fault}");
    };
    join_all(FAULTS.iter().enumerate().map(|(i, fault)| one(i, fault))).await;
    let twice = world.chat("twice", "[[status=500 fail_first=2 key=twice]]").await.rest().await;
    assert_eq!(status(&twice), "failed", "two attempts are all: {twice:?}");
}

/// A graph that says sorry: the provider's failure is no failure of the run.
const SORRY: &str = "\
format: 1
state:
  messages: messages
start: answer
on_error: sorry
nodes:
  answer:
    kind: llm
    prompt: answer
    reply: true
    on_error: [{catch: [rate_limit], to: later}]
    next: end
  later: {kind: say, text: \"Later, please.\", next: end}
  sorry: {kind: say, text: \"Sorry: {{ error.code }}.\", next: end}
";

#[tokio::test(flavor = "multi_thread")]
async fn with_a_handler_each_fault_ends_in_an_answer_and_the_run_is_whole() {
    for fresh in [Fresh::sqlite(), Fresh::postgres().await] {
        let world = World::with_graph(fresh, SORRY).await;
        let one = async |i: usize, fault: &str| {
            let session = format!("s{i}");
            let events = world.chat(&session, &format!("[[{fault}]]")).await.rest().await;
            assert_eq!(status(&events), "completed", "{fault}: {events:?}");
            assert!(!has(&events, "error"), "{fault}: {events:?}");
            let due = match fault {
                "status=404" => "Sorry: http_404.",
                "status=500" => "Sorry: http_500.",
                "error_in_stream=3" => "Sorry: server_error.",
                _ if fault.contains("429") => "Later, please.",
                _ => "",
            };
            let stored = world.messages(&session).await;
            assert_eq!(stored.len(), 2, "{fault}: what the failed node showed is no turn: {stored:?}");
            assert!(
                due.is_empty() && stored[1].1.starts_with("Sorry: ") || stored[1].1 == due,
                "{fault}: {stored:?}"
            );
            assert!(shown(&events).ends_with(&stored[1].1), "{fault}: {events:?}");
        };
        join_all(FAULTS.iter().enumerate().map(|(i, fault)| one(i, fault))).await;
    }
}
