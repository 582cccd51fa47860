//! What a run does with its models: rounds of tools, those that stand in for others, and what it all costs.

use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::step::Reply;
use graphloom::engine::{Answered, Answerer, Engine, Settings, Start};
use graphloom::id::InterruptId;
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::{OnBusy, Store};
use serde_json::{Value as Json, json};

use crate::support::{Subject, owner, part, session};

async fn open(store: &Arc<dyn Store>, files: &[(&str, &str)], providers: impl Fn() -> Providers) -> Engine {
    let mut bag = Bag::default();
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    let folder = load_files("graphs", Files::from_iter(files), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, providers(), settings).await.unwrap()
}

fn scripted(script: &Scripted) -> impl Fn() -> Providers {
    || Providers::scripted(script.clone()).unwrap()
}

async fn drain(engine: &Engine, answered: &Answered) -> Vec<Json> {
    let owner = &answered.run.key.owner;
    let mut follower = engine.follower(owner, &answered.run, answered.after, false);
    let mut events = Vec::new();
    while let Some(frame) = follower.next().await {
        events.push(serde_json::from_slice(&frame.expect("the stream was cut").json).unwrap());
    }
    events
}

/// Runs a turn to its end, or to the next question.
async fn say(engine: &Engine, text: &str) -> Vec<Json> {
    let start = Start {
        graph: "test".into(),
        session: part("s"),
        message: Some(json!(text)),
        input: serde_json::Map::new(),
        on_busy: OnBusy::Enqueue,
        idempotency: None,
    };
    let started = engine.start(&owner("acme", "ann"), start).await.unwrap();
    drain(engine, &Answered { run: started.run, replayed: false, after: started.after }).await
}

/// An agent whose calls wait for a person.
const AGENT: &[(&str, &str)] = &[
    (
        "test.yaml",
        "format: 1
state: {messages: messages}
start: answer
nodes:
  answer: {kind: llm, text: Be brief., tools: [legal], reply: true, next: end}
",
    ),
    (
        "legal.yaml",
        "format: 1
input: {question: string}
state: {said: {type: string, default: none}}
start: look_up
nodes:
  look_up: {kind: set, set: {said: \"'So says the law: ' ~ input.question\"}, next: end}
output: [said]
",
    ),
    (
        "project.yaml",
        "format: 1
models: {m: {provider: demo}}
default_model: m
tools:
  legal: {graph: legal, description: Asks the legal desk., args: {question: string}, approval: always}
",
    ),
];

/// A provider refuses a round of tools without the thoughts before it; the round may come days later, in another process.
async fn thoughts(subject: Subject) {
    let thoughts = json!({"anthropic": "m", "blocks": [{"type": "thinking", "signature": "c2ln"}]});
    let calls = || Entry::calls([("legal", json!({"question": "May I?"}))]);
    let script = Scripted::new([(
        "answer",
        vec![calls().kept(thoughts.clone()), Entry::text("Yes."), Entry::text("You are welcome.")],
    )]);
    let first = open(&subject.store, AGENT, scripted(&script)).await;
    let events = say(&first, "May I?").await;
    let asked = &events.last().unwrap()["interrupts"][0];
    let id = InterruptId(asked["interrupt_id"].as_str().unwrap().into());
    first.close(Duration::from_secs(5)).await;
    let second = open(&subject.store, AGENT, scripted(&script)).await;
    let agent = Answerer { owner: owner("acme", "bob"), agent: true };
    let answered = second.answer(&agent, vec![(id, Reply::Answer(json!("approve")))]).await.unwrap();
    let events = drain(&second, &answered).await;
    assert_eq!(events.last().unwrap()["status"], "completed", "{events:?}");
    say(&second, "Thanks.").await;
    let kept = |request: &graphloom::model::Request| -> Vec<Json> {
        request.turns.iter().filter_map(|turn| turn.kept.clone()).collect()
    };
    let requests = script.requests();
    assert_eq!(requests.iter().map(kept).collect::<Vec<_>>(), [vec![], vec![thoughts], vec![]]);
    let view = second.view(&session("s"), None).await.unwrap().unwrap();
    assert!(view.messages.iter().all(|message| message.get("kept").is_none()), "{:?}", view.messages);
}

#[tokio::test]
async fn what_a_provider_wants_back_outlives_a_pause_and_is_no_part_of_the_conversation() {
    thoughts(Subject::memory()).await;
    thoughts(Subject::sqlite().await).await;
    thoughts(Subject::postgres().await).await;
}
