//! What LangGraph can do, and where it is known to go wrong: `tests/parity.md` names a test for each line, and what no
//! other test shows is shown here.

mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::step::Reply;
use graphloom::engine::{Answered, Answerer, Engine, Settings};
use graphloom::event::Interrupt;
use graphloom::id::InterruptId;
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::memory::MemoryStore;
use serde_json::{Value as Json, json};

use crate::support::turn::{begin, drain};
use crate::support::{owner, session};

const PROJECT: &str = "format: 1\ndefault_model: m\nmodels: {m: {provider: demo}}\n";

async fn open(graphs: &[(&str, &str)], script: &Scripted) -> Engine {
    let providers = || Providers::scripted(script.clone()).unwrap();
    let mut bag = Bag::default();
    let files = graphs.iter().copied().chain([("project.yaml", PROJECT)]);
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let folder = load_files("graphs", files.collect::<Files>(), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let store = Arc::new(MemoryStore::new());
    Engine::open(store, catalog, providers(), Settings::new("test".into())).await.unwrap()
}

/// Says something, and returns the last event.
async fn say(engine: &Engine, text: &str) -> Json {
    last(engine, &begin(engine, text).await).await
}

async fn last(engine: &Engine, answered: &Answered) -> Json {
    drain(engine, answered).await.pop().unwrap()
}

async fn questions(engine: &Engine) -> Vec<Interrupt> {
    engine.interrupts(&session("s")).await.unwrap().into_iter().map(|asked| asked.interrupt).collect()
}

/// Elsewhere the node ran again for each answer, and asked what was answered.
#[tokio::test]
async fn questions_of_one_superstep_are_answered_one_by_one_and_nothing_is_asked_or_done_again() {
    let graph = "\
format: 1
state: {messages: messages, log: {type: [string], merge: append}}
start: {all: [work, first, second]}
nodes:
  work: {kind: llm, text: Work., into: {log: '[result]'}, next: first}
  first: {kind: ask, who: agent, question: One?, into: {log: result}, next: done}
  second: {kind: ask, who: agent, question: Two?, into: {log: result}, next: done}
  done: {kind: llm, text: \"Sum up {{ state.log | join(', ') }}.\", into: {log: '[result]'}, next: end}
output: [log]
";
    let script = Scripted::new([("work", vec![Entry::text("worked")]), ("done", vec![Entry::text("done")])]);
    let engine = open(&[("test.yaml", graph)], &script).await;
    assert_eq!(say(&engine, "hi").await["status"], "interrupted");
    let asked = questions(&engine).await;
    let texts = |all: &[Interrupt]| all.iter().map(|one| one.question.clone()).collect::<BTreeSet<_>>();
    assert_eq!(texts(&asked), BTreeSet::from(["One?".to_owned(), "Two?".to_owned()]));
    let who = Answerer { owner: owner("acme", "bob"), agent: true };
    let answer = |question: &str, text: &str| {
        let one = asked.iter().find(|one| one.question == question).unwrap();
        vec![(InterruptId(one.interrupt_id.as_str().into()), Reply::Answer(json!(text)))]
    };
    let answered = engine.answer(&who, answer("Two?", "b")).await.unwrap();
    assert_eq!(last(&engine, &answered).await["status"], "interrupted");
    // The other one is the same question still.
    let left = questions(&engine).await;
    assert_eq!(texts(&left), BTreeSet::from(["One?".to_owned()]));
    assert!(asked.iter().any(|one| one.interrupt_id == left[0].interrupt_id));
    let answered = engine.answer(&who, answer("One?", "a")).await.unwrap();
    let end = last(&engine, &answered).await;
    assert_eq!(end["output"], json!({"log": ["worked", "b", "a", "done"]}));
    assert_eq!(script.requests().len(), 2);
}

/// Elsewhere the whole list of the child came back, and was added to what its caller had given it.
#[tokio::test]
async fn a_called_graph_gives_its_output_doubles_no_list_and_keeps_its_state_only_where_it_is_told_to() {
    let child = "\
format: 1
state: {log: {type: [string], merge: append}}
start: note
nodes:
  note: {kind: set, set: {log: \"'noted'\"}, next: end}
output: {log: state.log}
";
    let graph = |scope: &str| {
        format!(
            "\
format: 1
state: {{messages: messages, log: {{type: [string], merge: append}}, n: {{type: integer, merge: add}}}}
start: ask
nodes:
  ask: {{kind: graph, use: child, scope: {scope}, into: {{log: result.log, n: 1}}, max_visits: 2, on_max: end, next: ask}}
output: [log, n]
"
        )
    };
    for (scope, log) in [("call", vec!["noted"; 2]), ("thread", vec!["noted"; 3])] {
        let graph = graph(scope);
        let engine =
            open(&[("test.yaml", &graph), ("child.yaml", child)], &Scripted::always(Entry::text(""))).await;
        assert_eq!(say(&engine, "hi").await["output"], json!({"log": log, "n": 2}), "{scope}");
    }
}

/// Elsewhere only some nodes can be stopped, and the limit is one for all.
#[tokio::test(start_paused = true)]
async fn a_node_that_takes_too_long_fails_by_its_own_limit_and_beside_it_the_others_go_on() {
    let graph = "\
format: 1
state: {messages: messages, log: {type: [string], merge: append}}
start: {all: [slow, quick]}
nodes:
  slow: {kind: llm, text: Slow., timeout: 2s, into: {log: '[result]'}, next: done, on_error: late}
  quick: {kind: llm, text: Quick., into: {log: '[result]'}, next: done}
  late: {kind: set, set: {log: 'error.kind'}, next: done}
  done: {kind: set, set: {log: \"'done'\"}, next: end}
output: [log]
";
    let slow = Entry::text("slow").after(Duration::from_secs(10));
    let quick = Entry::text("quick").after(Duration::from_secs(5));
    let engine =
        open(&[("test.yaml", graph)], &Scripted::new([("slow", vec![slow]), ("quick", vec![quick])])).await;
    assert_eq!(say(&engine, "hi").await["output"], json!({"log": ["quick", "timeout", "done"]}));
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_made_at_once_than_the_graph_and_the_list_allow() {
    let graph = |limit: &str, most: &str| {
        format!(
            "\
format: 1
state: {{messages: messages, log: {{type: [string], merge: append}}}}
limits: {{{limit}}}
start: {{all: [a, b, each]}}
nodes:
  a: {{kind: llm, text: A., into: {{log: '[result]'}}, next: end}}
  b: {{kind: llm, text: B., into: {{log: '[result]'}}, next: end}}
  each: {{kind: map, over: '[1, 2]', do: {{kind: llm, text: C.}}, {most} into: log, next: end}}
"
        )
    };
    let slow = || Scripted::always(Entry::text("x").after(Duration::from_secs(10)));
    for (limit, most, seconds) in
        [("parallel: 4", "", 10), ("parallel: 1", "", 40), ("parallel: 4", "max_parallel: 1,", 20)]
    {
        let engine = open(&[("test.yaml", &graph(limit, most))], &slow()).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(say(&engine, "hi").await["status"], "completed");
        assert_eq!(begun.elapsed().as_secs(), seconds, "{limit} {most}");
    }
}

/// Elsewhere the words of nodes that were to be hidden were in the stream.
#[tokio::test]
async fn only_what_replies_is_heard_and_as_the_node_says() {
    for (stream, heard) in [("tokens", vec!["c", "d"]), ("final", vec!["cd"]), ("none", vec!["cd"])] {
        let graph = format!(
            "\
format: 1
state: {{messages: messages, thought: {{type: string, default: none}}}}
start: think
nodes:
  think: {{kind: llm, text: Think., into: thought, next: answer}}
  answer: {{kind: llm, text: \"Answer {{{{ state.thought }}}}.\", reply: true, stream: {stream}, next: end}}
"
        );
        let script = Scripted::new([
            ("think", vec![Entry::chunks(["a", "b"])]),
            ("answer", vec![Entry::chunks(["c", "d"])]),
        ]);
        let engine = open(&[("test.yaml", &graph)], &script).await;
        let started = begin(&engine, "hi").await;
        let events = drain(&engine, &started).await;
        let deltas = events.iter().filter(|event| event["type"] == "message.delta");
        let words: Vec<&str> = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
        assert_eq!(words, heard, "{stream}");
        assert!(!events.iter().any(|event| event["node"] == "think" && event["type"] == "message.started"));
    }
}
