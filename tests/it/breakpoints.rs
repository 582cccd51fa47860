//! Runs that are told to stop: where they do, what lets them go on, and that a crash changes nothing of it.

use std::time::Duration;

use graphloom::engine::{AnswerError, step::Reply};
use graphloom::engine::{Answered, Answerer, Breakpoints, Engine, Resume, Start, StartError};
use graphloom::id::InterruptId;
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::store::{OnBusy, RunState, Store};
use serde_json::{Value as Json, json};
use std::sync::Arc;

use crate::handlers::{end, of_kind, open_all};
use crate::support::turn::{drain, turn};
use crate::support::{Subject, owner, session};

const GRAPH: &str = "\
format: 1
state:
  messages: messages
  log: {type: [string], merge: append}
start: {all: [a, b]}
nodes:
  a: {kind: set, set: {log: \"'a'\"}, next: join}
  b: {kind: set, set: {log: \"'b'\"}, next: each}
  each: {kind: map, over: '[1, 2]', do: {kind: graph, use: child, with: {n: item}}, into: {log: \"'each'\"}, next: join}
  join: {kind: graph, use: child, with: {n: 3}, into: {log: result.said}, next: end}
output: [log]
";
const CHILD: &str = "\
format: 1
input: {n: integer}
state: {said: {type: string, default: ''}}
start: first
nodes:
  first: {kind: set, set: {said: \"'1'\"}, next: second}
  second: {kind: set, set: {said: \"state.said ~ '2' ~ input.n\"}, next: end}
output: {said: state.said}
";

fn at(before: &[&str], after: &[&str]) -> Breakpoints {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Breakpoints { before: names(before), after: names(after) }
}

async fn serve(store: &Arc<dyn Store>, claims: u32) -> Engine {
    let script = Scripted::always(Entry::text("hm"));
    open_all(store, &[("test.yaml", GRAPH), ("child.yaml", CHILD)], &script, claims).await
}

async fn begin(engine: &Engine, breakpoints: Breakpoints) -> Answered {
    let started = engine.start(&owner("acme", "ann"), Start { breakpoints, ..turn("hi") }).await.unwrap();
    Answered { run: started.run, replayed: started.replayed, after: started.after }
}

async fn resume(engine: &Engine, breakpoints: Option<Breakpoints>) -> Answered {
    engine.resume(&session("s"), Resume { breakpoints, ..Resume::default() }).await.unwrap()
}

/// Tells what a run did until it stopped or ended: nodes that began, and its status.
fn told(events: &[Json]) -> (Vec<String>, String) {
    let began = of_kind(events, "node.started").filter(|event| event["resumed"] != true);
    let name = |event: &Json| {
        let path = event["path"].as_array().into_iter().flatten().map(|part| part.as_str().unwrap());
        let mut parts: Vec<&str> = path.collect();
        parts.push(event["node"].as_str().unwrap());
        parts.join("/")
    };
    (began.map(name).collect(), end(events)["status"].as_str().unwrap().to_owned())
}

async fn stops_and_goes(subject: Subject) {
    for (breakpoints, stretches) in [
        (
            at(&["join"], &[]),
            vec!["a b each each/first each/first each/second each/second", "join join/first join/second"],
        ),
        (
            at(&[], &["b"]),
            vec!["a b", "each each/first each/first each/second each/second join join/first join/second"],
        ),
        (
            at(&["join/second"], &[]),
            vec!["a b each each/first each/first each/second each/second join join/first", "join/second"],
        ),
        (
            at(&["each/*"], &[]),
            vec!["a b", "each each/first each/first", "each/second each/second join join/first join/second"],
        ),
        (
            at(&["*"], &[]),
            vec![
                "",
                "a b",
                "each each/first each/first each/second each/second",
                "join join/first join/second",
            ],
        ),
    ] {
        let engine = serve(&subject.store, 64).await;
        let mut answered = begin(&engine, breakpoints.clone()).await;
        let mut found = Vec::new();
        loop {
            let (began, status) = told(&drain(&engine, &answered).await);
            found.push(began.join(" "));
            if status == "completed" {
                break;
            }
            assert_eq!(status, "interrupted", "{breakpoints:?} {found:?}");
            answered = resume(&engine, None).await;
        }
        assert_eq!(found, stretches, "{breakpoints:?}");
        let output = engine.view(&session("s"), None).await.unwrap().unwrap().state["log"].clone();
        assert_eq!(output, json!(["a", "b", "each", "123"]));
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
        assert!(engine.delete_thread(&session("s")).await.unwrap());
    }
}

/// A resume says anew where to stop, and nothing else than a resume goes on.
async fn what_goes_on(subject: Subject) {
    let engine = serve(&subject.store, 64).await;
    let first = begin(&engine, at(&["each"], &[])).await;
    assert_eq!(told(&drain(&engine, &first).await), (vec!["a".into(), "b".into()], "interrupted".into()));
    let ann = owner("acme", "ann");
    let start = |on_busy| engine.start(&ann, Start { on_busy, ..turn("more") });
    for on_busy in [OnBusy::Enqueue, OnBusy::Reject] {
        assert!(matches!(start(on_busy).await, Err(StartError::Stopped(run)) if run == first.run.run));
    }
    let wrong = Resume { breakpoints: Some(at(&["join/frist"], &["x", "a/b"])), ..Resume::default() };
    let Err(AnswerError::Unprocessable(wrong)) = engine.resume(&session("s"), wrong).await else { panic!() };
    let places: Vec<String> = wrong.iter().map(|one| format!("{} {}", one.pointer, one.why)).collect();
    assert_eq!(
        places,
        [
            "/interrupt_before/0 there is no node `frist`; did you mean `first`?",
            "/interrupt_after/0 there is no node `x`; the nodes are a, b, each, join",
            "/interrupt_after/1 the node `a` calls no graph",
        ]
    );
    let on = resume(&engine, Some(at(&[], &["join/first"]))).await;
    assert_eq!(on.run.run, first.run.run);
    let (began, status) = told(&drain(&engine, &on).await);
    assert_eq!((began.last().unwrap().as_str(), status.as_str()), ("join/first", "interrupted"));
    let next = start(OnBusy::Interrupt).await.unwrap();
    let ended = engine.run(&owner("acme", "ann"), first.run.run).await.unwrap().unwrap();
    assert_eq!(ended.state, RunState::Cancelled);
    let next = Answered { run: next.run, replayed: false, after: next.after };
    assert_eq!(told(&drain(&engine, &next).await).1, "completed");
    assert!(matches!(engine.resume(&session("s"), Resume::default()).await, Err(AnswerError::Nothing)));
}

/// The process dies after it stopped, and again while it works on: the next one stops where it was told to.
async fn a_crash(subject: Subject) {
    let graph = "\
format: 1
state: {messages: messages}
start: one
nodes:
  one: {kind: llm, text: one, reply: true, next: two}
  two: {kind: llm, text: two, reply: true, next: three}
  three: {kind: llm, text: three, reply: true, next: end}
";
    let gate = Gate::new();
    let first =
        Scripted::new([("one", vec![Entry::text("1")]), ("two", vec![Entry::text("-").gated(&gate)])]);
    let dying = open_all(&subject.store, &[("test.yaml", graph)], &first, 0).await;
    let run = begin(&dying, at(&["two", "three"], &[])).await;
    assert_eq!(told(&drain(&dying, &run).await).0, ["one"]);
    resume(&dying, None).await;
    first.wait_for_calls(2).await;
    let script = Scripted::new([("two", vec![Entry::text("2")]), ("three", vec![Entry::text("3")])]);
    let heir = open_all(&subject.store, &[("test.yaml", graph)], &script, 64).await;
    assert_eq!(end(&drain(&heir, &run).await)["status"], "interrupted");
    assert_eq!(script.requests().len(), 1);
    assert_eq!(told(&drain(&heir, &resume(&heir, None).await).await).1, "completed");
    let view = heir.view(&session("s"), None).await.unwrap().unwrap();
    let said: Vec<&str> = view.messages.iter().map(|turn| turn["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["hi", "1", "2", "3"]);
}

/// A question beside a breakpoint waits, too: its time does not let the run go on, and its answer does.
async fn a_question_beside(subject: Subject) {
    let graph = "\
format: 1
state: {messages: messages, log: {type: [string], merge: append}}
start: {all: [a, b]}
nodes:
  a: {kind: ask, question: What?, into: {log: result}, timeout: 1ms, on_timeout: late, next: end}
  b: {kind: route, next: c}
  c: {kind: set, set: {log: \"'c'\"}, next: end}
  late: {kind: set, set: {log: \"'late'\"}, next: end}
output: [log]
";
    for (graph, answers, log) in [
        (graph.to_owned(), false, json!(["late", "c"])),
        (
            graph
                .replace("timeout: 1ms, on_timeout: late, ", "")
                .replace("  late: {kind: set, set: {log: \"'late'\"}, next: end}\n", ""),
            true,
            json!(["me", "c"]),
        ),
    ] {
        let script = Scripted::always(Entry::text("hm"));
        let engine = open_all(&subject.store, &[("test.yaml", &graph)], &script, 64).await;
        let run = begin(&engine, at(&["c"], &[])).await;
        let events = drain(&engine, &run).await;
        assert_eq!(end(&events)["status"], "interrupted");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let row = engine.run(&owner("acme", "ann"), run.run.run).await.unwrap().unwrap();
        assert_eq!(row.state, RunState::Interrupted, "no time of a question lets it go on");
        let on = if answers {
            let id = InterruptId(end(&events)["interrupts"][0]["interrupt_id"].as_str().unwrap().into());
            let ann = Answerer { owner: owner("acme", "ann"), agent: false };
            engine.answer(&ann, vec![(id, Reply::Answer(json!("me")))]).await.unwrap()
        } else {
            resume(&engine, None).await
        };
        let events = drain(&engine, &on).await;
        let mut found = end(&events)["output"]["log"].clone();
        found.as_array_mut().unwrap().sort_by_key(|word| word == "c");
        assert_eq!(found, log);
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
        assert!(engine.delete_thread(&session("s")).await.unwrap());
    }
}

crate::support::over_every_store!(stops_and_goes, what_goes_on, a_crash, a_question_beside);
