//! The engine over the memory store, with nodes made for the occasion.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use graphloom::compile::{Catalog, Compiled, Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::{Engine, Followed, Follower, Settings, Start, StartError, record};
use graphloom::event::{Body, Event, Scope};
use graphloom::id::{Owner, RunId, Seq, TaskId};
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::node::{Attempt, Done, ErrorKind, Failure, Node, Outcome, Retry, assistant_turn};
use graphloom::plan::{Job, Next, Plan, PlanNode, Target, Work};
use graphloom::spec::{Files, load_files};
use graphloom::state::{Channel, Field, Merge, Type};
use graphloom::store::memory::MemoryStore;
use graphloom::store::{Accepted, EventBatch, Idempotency, NewRun, OnBusy, Process, RunState, Store};
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;

use crate::support::process as named;
use crate::support::turn::turn as say;

/// Says its words one by one; each waits for a permit.
#[derive(Debug)]
struct Speak {
    words: Vec<&'static str>,
    permits: Arc<Semaphore>,
    /// Attempts that fail after the first word.
    failures: AtomicU32,
    calls: Arc<AtomicU32>,
    panics: bool,
}

impl Speak {
    fn new(words: &[&'static str]) -> Self {
        Self {
            words: words.to_vec(),
            permits: Arc::new(Semaphore::new(1000)),
            failures: AtomicU32::new(0),
            calls: Arc::default(),
            panics: false,
        }
    }
}

#[async_trait]
impl Node for Speak {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "a node that panics");
        let message_id = attempt.message_id();
        attempt.emit.send(Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        for (n, word) in self.words.iter().enumerate() {
            self.permits.acquire().await.unwrap().forget();
            attempt.emit.send(Body::MessageDelta { message_id: message_id.clone(), delta: (*word).into() });
            if n == 0 && self.failures.load(Ordering::SeqCst) > 0 {
                self.failures.fetch_sub(1, Ordering::SeqCst);
                return Err(Failure::new(ErrorKind::Connection, "the model's answer was cut"));
            }
        }
        let text = self.words.concat();
        Ok(Done {
            said: vec![assistant_turn(&message_id, &text)],
            events: vec![Body::MessageFinished { message_id, content: Some(text), truncated: false }],
            ..Done::default()
        }
        .into())
    }
}

fn catalog(nodes: Vec<(&str, Arc<dyn Node>, Next)>, retry: &Retry) -> Catalog {
    let messages = Field { ty: Type::Messages, default: None, description: None };
    let channel = Channel { field: messages, merge: Merge::Messages, private: false, per_run: false };
    let first = nodes[0].0.to_owned();
    let nodes: BTreeMap<String, PlanNode> = nodes
        .into_iter()
        .map(|(name, node, next)| {
            let job = Job { retry: retry.clone(), ..Job::new("custom", Work::Node(node)) };
            let node = PlanNode::new(job, next);
            (name.to_owned(), node)
        })
        .collect();
    let plan = Plan {
        hash: "0123456789abcdef".into(),
        channels: BTreeMap::from([("messages".to_owned(), channel)]),
        messages: Some("messages".into()),
        nodes,
        ..Plan::new("test", Next::To(Target::Node(first)))
    };
    let compiled = Compiled { plan: Arc::new(plan.seal()), body: Vec::new() };
    Catalog { graphs: BTreeMap::from([("test".to_owned(), compiled)]), ..Catalog::default() }
}

fn one(node: Speak) -> Catalog {
    catalog(vec![("speak", Arc::new(node), Next::To(Target::End))], &Retry::default())
}

async fn engine(store: &Arc<MemoryStore>, catalog: Catalog) -> Engine {
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, Providers::without_secrets().unwrap(), settings).await.unwrap()
}

fn owner() -> Owner {
    Owner { tenant: "acme".parse().unwrap(), user: "ann".parse().unwrap() }
}

/// Follows a run to its end: the place and the JSON of each event, and whether the stream was cut.
async fn follow(engine: &Engine, run: RunId, after: Seq) -> (Vec<(Seq, Json)>, bool) {
    let Some(Followed::Events(mut follower)) = engine.follow(&owner(), run, after, false).await.unwrap()
    else {
        return (Vec::new(), false);
    };
    let mut events = Vec::new();
    while let Some(frame) = follower.next().await {
        let Ok(frame) = frame else { return (events, true) };
        events.push((frame.seq(), serde_json::from_slice(&frame.json).unwrap()));
    }
    (events, false)
}

fn names(events: &[(Seq, Json)]) -> String {
    events.iter().map(|(_, event)| event["type"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

async fn conversation(engine: &Engine) -> Vec<String> {
    let key = graphloom::id::ThreadKey { owner: owner(), session: "s".parse().unwrap() };
    let view = engine.view(&key, None).await.unwrap().unwrap();
    view.messages.iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_turn_streams_in_order_and_the_next_one_continues_the_conversation() {
    let engine = engine(&Arc::default(), one(Speak::new(&["Hel", "lo"]))).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
    let (events, cut) = follow(&engine, run, Seq::default()).await;
    assert!(!cut);
    assert_eq!(
        names(&events),
        "run.started node.started message.started message.delta message.delta message.finished node.finished \
         edge.taken checkpoint.saved checkpoint.saved run.finished"
            .replace("edge.taken", "edge.taken edge.taken")
    );
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "the places grow");
    let run = engine.start(&owner(), say("again")).await.unwrap().run.run;
    follow(&engine, run, Seq::default()).await;
    assert_eq!(conversation(&engine).await, ["hi", "Hello", "again", "Hello"]);
}

#[tokio::test]
async fn the_first_word_is_told_before_the_second_is_said() {
    let node = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["a", "b"]) };
    let permits = node.permits.clone();
    let engine = engine(&Arc::default(), one(node)).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    let mut follower = engine.follower(&owner(), &run, Seq::default(), false);
    while follower.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    permits.add_permits(1);
    assert_eq!(follower.next().await.unwrap().unwrap().event.body.name(), "message.delta");
}

#[tokio::test]
async fn a_reader_that_comes_back_after_any_event_gets_exactly_the_rest() {
    let store = Arc::default();
    let engine = engine(&store, one(Speak::new(&["a", "b", "c", "d"]))).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
    let (all, _) = follow(&engine, run, Seq::default()).await;
    for at in 0..all.len() {
        let (rest, cut) = follow(&engine, run, all[at].0).await;
        assert!(!cut);
        let expected: Vec<Seq> = all[at + 1..].iter().map(|(seq, _)| *seq).collect();
        assert_eq!(rest.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), expected);
    }
    let last = all.last().unwrap().0;
    assert!(matches!(engine.follow(&owner(), run, last, false).await.unwrap(), Some(Followed::Complete)));
}

#[tokio::test]
async fn runs_of_one_thread_wait_for_each_other_and_a_refused_one_leaves_nothing() {
    let node = Speak { permits: Arc::new(Semaphore::new(0)), ..Speak::new(&["x"]) };
    let permits = node.permits.clone();
    let engine = engine(&Arc::default(), one(node)).await;
    let mut runs = Vec::new();
    for text in ["one", "two", "three"] {
        runs.push(engine.start(&owner(), say(text)).await.unwrap().run.run);
    }
    let refused = engine.start(&owner(), Start { on_busy: OnBusy::Reject, ..say("four") }).await;
    assert!(matches!(refused, Err(StartError::Busy(run)) if run == runs[0]));
    permits.add_permits(3);
    for run in runs {
        let (events, cut) = follow(&engine, run, Seq::default()).await;
        assert!(!cut && names(&events).ends_with("run.finished"), "{}", names(&events));
    }
    assert_eq!(conversation(&engine).await, ["one", "x", "two", "x", "three", "x"]);
}

#[tokio::test]
async fn a_turn_that_interrupts_ends_what_came_before_and_keeps_what_was_committed() {
    let store: Arc<MemoryStore> = Arc::default();
    let stuck = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["half", "never"]) };
    let permits = stuck.permits.clone();
    let nodes: Vec<(&str, Arc<dyn Node>, Next)> = vec![
        ("first", Arc::new(Speak::new(&["one"])), Next::To(Target::Node("stuck".into()))),
        ("stuck", Arc::new(stuck), Next::To(Target::End)),
    ];
    let engine = engine(&store, catalog(nodes, &Retry::default())).await;
    let running = engine.start(&owner(), say("a")).await.unwrap().run;
    let mut follower = engine.follower(&owner(), &running, Seq::default(), false);
    let mut deltas = 0;
    while deltas < 2 {
        let frame = follower.next().await.unwrap().unwrap();
        deltas += u32::from(frame.event.body.name() == "message.delta");
    }
    let waiting = engine.start(&owner(), say("b")).await.unwrap().run;
    let last = Start { on_busy: OnBusy::Interrupt, ..say("c") };
    let last = engine.start(&owner(), last).await.unwrap().run;
    for run in [running.run, waiting.run] {
        let (events, _) = follow(&engine, run, Seq::default()).await;
        assert_eq!(events.last().unwrap().1["status"], "cancelled");
    }
    permits.add_permits(10);
    let (events, _) = follow(&engine, last.run, Seq::default()).await;
    assert_eq!(events.last().unwrap().1["status"], "completed");
    assert_eq!(conversation(&engine).await, ["a", "one", "c", "one", "halfnever"]);
}

#[tokio::test]
async fn a_failed_run_says_so_and_the_thread_takes_the_next_turn() {
    let engine =
        engine(&Arc::default(), one(Speak { failures: AtomicU32::new(1), ..Speak::new(&["a", "b"]) })).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
    let (events, cut) = follow(&engine, run, Seq::default()).await;
    assert!(!cut);
    let told = names(&events);
    assert!(told.contains("message.delta message.finished node.finished"), "what was open is closed: {told}");
    assert!(told.ends_with("error run.finished"), "{told}");
    assert_eq!(events.last().unwrap().1["status"], "failed");
    let error = &events[events.len() - 2].1;
    assert_eq!((error["code"].as_str(), error["node"].as_str()), (Some("connection"), Some("speak")));
    let run = engine.start(&owner(), say("again")).await.unwrap().run.run;
    let (events, _) = follow(&engine, run, Seq::default()).await;
    assert_eq!(events.last().unwrap().1["status"], "completed");
    assert_eq!(conversation(&engine).await, ["hi", "again", "ab"]);
}

#[tokio::test]
async fn a_retried_attempt_takes_back_what_the_dead_one_showed() {
    let node = Speak { failures: AtomicU32::new(2), ..Speak::new(&["a", "b"]) };
    let retry = Retry {
        attempts: 3,
        first: Duration::from_millis(1),
        kinds: vec!["connection".into()],
        ..Retry::default()
    };
    let nodes: Vec<(&str, Arc<dyn Node>, Next)> = vec![("speak", Arc::new(node), Next::To(Target::End))];
    let engine = engine(&Arc::default(), catalog(nodes, &retry)).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
    let (events, _) = follow(&engine, run, Seq::default()).await;
    let mut shown = String::new();
    for (_, event) in &events {
        match event["type"].as_str().unwrap() {
            "message.delta" => shown += event["delta"].as_str().unwrap(),
            "node.reset" => shown.clear(),
            _ => {}
        }
    }
    assert_eq!(shown, "ab");
    assert_eq!(names(&events).matches("node.reset node.retrying").count(), 2);
    assert_eq!(conversation(&engine).await, ["hi", "ab"]);
}

#[tokio::test]
async fn a_panic_in_a_node_fails_its_run_and_nothing_else() {
    let engine = engine(&Arc::default(), one(Speak { panics: true, ..Speak::new(&["a"]) })).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
    let (events, cut) = follow(&engine, run, Seq::default()).await;
    assert!(!cut && names(&events).ends_with("error run.finished"), "{}", names(&events));
    assert_eq!(events[events.len() - 2].1["code"], "internal");
}

#[tokio::test]
async fn a_cancelled_run_stops_at_once_and_one_that_waits_never_begins() {
    let node = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["a", "b"]) };
    let calls = node.calls.clone();
    let engine = engine(&Arc::default(), one(node)).await;
    let first = engine.start(&owner(), say("one")).await.unwrap().run;
    let second = engine.start(&owner(), say("two")).await.unwrap().run;
    let mut follower = engine.follower(&owner(), &first, Seq::default(), false);
    while follower.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    assert_eq!(engine.cancel(&owner(), second.run).await.unwrap().unwrap().state, RunState::Cancelled);
    engine.cancel(&owner(), first.run).await.unwrap().unwrap();
    let (events, cut) = follow(&engine, first.run, Seq::default()).await;
    assert!(!cut);
    assert!(names(&events).contains("message.finished node.finished"), "{}", names(&events));
    assert_eq!(events.last().unwrap().1["status"], "cancelled");
    let (events, _) = follow(&engine, second.run, Seq::default()).await;
    assert_eq!(names(&events), "run.started run.finished");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let stranger = Owner { user: "bob".parse().unwrap(), ..owner() };
    assert!(engine.cancel(&stranger, first.run).await.unwrap().is_none());
}

#[tokio::test]
async fn a_run_whose_process_dies_goes_on_from_its_last_barrier_in_the_next_one() {
    let store: Arc<MemoryStore> = Arc::default();
    let first = Speak::new(&["1"]);
    let stuck = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["2", "!"]) };
    let counted = first.calls.clone();
    let permits = stuck.permits.clone();
    let nodes = |second: Speak| -> Vec<(&str, Arc<dyn Node>, Next)> {
        let first = Speak { calls: counted.clone(), ..Speak::new(&["1"]) };
        vec![
            ("first", Arc::new(first), Next::To(Target::Node("second".into()))),
            ("second", Arc::new(second), Next::To(Target::End)),
        ]
    };
    let dying = engine(&store, catalog(nodes(stuck), &Retry::default())).await;
    let run = dying.start(&owner(), say("hi")).await.unwrap().run;
    let mut follower = dying.follower(&owner(), &run, Seq::default(), false);
    let mut seen = Seq::default();
    let mut deltas = 0;
    while deltas < 2 {
        let frame = follower.next().await.unwrap().unwrap();
        seen = frame.seq();
        deltas += u32::from(frame.event.body.name() == "message.delta");
    }
    // The next process has the same name and another boot, as after kill -9.
    let heir = engine(&store, catalog(nodes(Speak::new(&["2", "!"])), &Retry::default())).await;
    let (events, cut) = follow(&heir, run.run, seen).await;
    assert!(!cut);
    assert!(names(&events).starts_with("node.reset node.started message.started"), "{}", names(&events));
    assert_eq!(events.last().unwrap().1["status"], "completed");
    assert_eq!(conversation(&heir).await, ["hi", "1", "2!"]);
    assert_eq!(counted.load(Ordering::SeqCst), 1, "a finished node is not run again");
    // The dead process wakes up: its commit is refused, and its readers come back or read on from the table.
    permits.add_permits(1);
    let mut end = None;
    while let Some(frame) = follower.next().await {
        end = Some(frame.map(|frame| frame.event.body.name()));
    }
    assert!(matches!(end, Some(Err(_) | Ok("run.finished"))), "{end:?}");
    assert_eq!(store.run(&owner(), run.run).await.unwrap().unwrap().fence, 2);
}

#[tokio::test]
async fn a_process_that_goes_away_gives_its_runs_back_and_cuts_its_streams() {
    let store: Arc<MemoryStore> = Arc::default();
    let node = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["a", "b"]) };
    let leaving = engine(&store, one(node)).await;
    let run = leaving.start(&owner(), say("hi")).await.unwrap().run;
    let mut follower = leaving.follower(&owner(), &run, Seq::default(), false);
    while follower.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    leaving.close(Duration::ZERO, Duration::from_secs(5)).await;
    assert!(follower.next().await.unwrap().is_err());
    assert!(matches!(leaving.start(&owner(), say("no")).await, Err(StartError::Draining)));
    assert_eq!(store.run(&owner(), run.run).await.unwrap().unwrap().state, RunState::Queued);
    let heir = engine(&store, one(Speak::new(&["a", "b"]))).await;
    let (events, cut) = follow(&heir, run.run, Seq::default()).await;
    assert!(!cut && events.last().unwrap().1["status"] == "completed");
    assert_eq!(names(&events).matches("node.reset").count(), 1, "{}", names(&events));
    assert_eq!(store.run(&owner(), run.run).await.unwrap().unwrap().crashes, 0);
}

#[tokio::test]
async fn a_repeated_request_with_a_key_finds_the_first_run() {
    let engine = engine(&Arc::default(), one(Speak::new(&["a"]))).await;
    let with = |body: &str| Start {
        idempotency: Some(Idempotency { route: "chat/test".into(), key: "k".into(), body_hash: body.into() }),
        ..say("hi")
    };
    let first = engine.start(&owner(), with("1")).await.unwrap();
    let again = engine.start(&owner(), with("1")).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.run.run, again.run.run);
    assert!(matches!(engine.start(&owner(), with("2")).await, Err(StartError::KeyReused)));
    let stranger = Owner { user: "bob".parse().unwrap(), ..owner() };
    assert!(!engine.start(&stranger, with("1")).await.unwrap().replayed);
}

/// Stores a run whose process died: its lease is over as soon as it begins.
async fn abandoned(store: &MemoryStore, input: &[u8]) -> graphloom::store::Run {
    let process = Process { lease: Duration::ZERO, ..named("dead") };
    let new = NewRun {
        run: RunId::new(),
        key: graphloom::id::ThreadKey { owner: owner(), session: "s".parse().unwrap() },
        graph: "test".into(),
        hash: "0123456789abcdef".into(),
        input: input.to_vec(),
        on_busy: OnBusy::Enqueue,
        queue_limit: 10,
        process: process.clone(),
        idempotency: None,
        from: None,
        delay: None,
        wishes: graphloom::store::Wishes::default(),
    };
    let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
    run
}

#[tokio::test]
async fn a_run_whose_record_cannot_be_read_fails_once_and_frees_its_thread() {
    let store: Arc<MemoryStore> = Arc::default();
    let broken = abandoned(&store, b"no record").await;
    let engine = engine(&store, one(Speak::new(&["a"]))).await;
    let (events, cut) = follow(&engine, broken.run, Seq::default()).await;
    assert!(!cut && names(&events).ends_with("error run.finished"), "{}", names(&events));
    assert_eq!(events[events.len() - 2].1["code"], "internal");
    let run = engine.start(&owner(), say("next")).await.unwrap().run.run;
    let (events, _) = follow(&engine, run, Seq::default()).await;
    assert_eq!(events.last().unwrap().1["status"], "completed");
}

#[tokio::test]
async fn a_run_that_kills_its_process_each_time_is_given_up() {
    let store: Arc<MemoryStore> = Arc::default();
    let input = graphloom::engine::record::encode(&graphloom::engine::record::Input {
        message: Some(json!("hi")),
        input: json!({}),
        ..Default::default()
    });
    let poison = abandoned(&store, &input).await;
    for _ in 0..2 {
        let next = Process { lease: Duration::ZERO, ..named("dead") };
        assert_eq!(store.claim(&next, 1).await.unwrap().len(), 1);
    }
    let node = Speak::new(&["a"]);
    let calls = node.calls.clone();
    let engine = engine(&store, one(node)).await;
    let (events, cut) = follow(&engine, poison.run, Seq::default()).await;
    assert!(!cut);
    assert_eq!(events.last().unwrap().1["status"], "dead");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(store.run(&owner(), poison.run).await.unwrap().unwrap().state, RunState::Dead);
    // Put away it tells the same: its stream was cut before its end each time.
    store.discard(poison.run).await.unwrap();
    assert_eq!(follow(&engine, poison.run, Seq::default()).await, (events, false));
}

/// Another graph on the same session went on from the first one's state, private channels and all.
#[tokio::test]
async fn a_thread_belongs_to_the_graph_of_its_first_run() {
    let store: Arc<MemoryStore> = Arc::default();
    let mut catalog = one(Speak::new(&["a"]));
    let mut other = Arc::into_inner(one(Speak::new(&["b"])).graphs.remove("test").unwrap().plan).unwrap();
    other.graph = "other".into();
    catalog.graphs.insert("other".into(), Compiled { plan: Arc::new(other), body: Vec::new() });
    let engine = engine(&store, catalog).await;
    engine.start(&owner(), say("hi")).await.unwrap();
    let other = Start { graph: "other".into(), ..say("hi") };
    match engine.start(&owner(), other.clone()).await {
        Err(StartError::Incompatible(why)) => assert!(why.contains("belongs to the graph `test`"), "{why}"),
        other => panic!("{other:?}"),
    }
    engine.start(&owner(), Start { session: "t".parse().unwrap(), ..other }).await.unwrap();
}

/// A state that does not fit the graph of today used to be a failed run.
#[tokio::test]
async fn a_version_that_the_state_does_not_fit_is_refused_before_a_run_is_accepted() {
    let store: Arc<MemoryStore> = Arc::default();
    let version = |hash: &str, ty: Type, merge: Merge| {
        let mut catalog = one(Speak::new(&["a"]));
        let compiled = catalog.graphs.remove("test").unwrap();
        let mut plan = Arc::into_inner(compiled.plan).unwrap();
        plan.hash = hash.into();
        let start = if merge == Merge::Replace { json!("x") } else { json!([]) };
        let field = Field { ty, default: Some(start), description: None };
        let channel = Channel { field, merge, private: false, per_run: false };
        plan.channels.insert("topic".into(), channel);
        catalog.graphs.insert("test".into(), Compiled { plan: Arc::new(plan), body: Vec::new() });
        catalog
    };
    let text = || Type::String { pattern: None, min: None, max: None };
    let first = engine(&store, version("aaaaaaaaaaaa", text(), Merge::Replace)).await;
    let run = first.start(&owner(), say("hi")).await.unwrap().run.run;
    assert!(!follow(&first, run, Seq::default()).await.1);
    first.close(Duration::ZERO, Duration::from_secs(5)).await;
    let same = engine(&store, version("bbbbbbbbbbbb", text(), Merge::Replace)).await;
    let run = same.start(&owner(), say("again")).await.unwrap().run.run;
    assert!(!follow(&same, run, Seq::default()).await.1);
    same.close(Duration::ZERO, Duration::from_secs(5)).await;
    let list = engine(&store, version("cccccccccccc", Type::List(Box::new(text())), Merge::Append)).await;
    match list.start(&owner(), say("no")).await {
        Err(StartError::Incompatible(why)) => assert!(why.contains("`topic`"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(conversation(&list).await, ["hi", "a", "again", "a"], "nothing was stored");
}

/// The names of the events up to the end of a stream that is not cut.
async fn told(mut follower: Follower) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(frame) = follower.next().await {
        names.push(frame.expect("the stream was cut").event.body.name());
    }
    names
}

/// A deleted thread used to cut the streams of its runs, and clients came back to a 404.
#[tokio::test]
async fn deleting_a_thread_ends_every_stream_on_it_on_every_replica() {
    let store: Arc<MemoryStore> = Arc::default();
    let node = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["a", "b"]) };
    let here = engine(&store, one(node)).await;
    let running = here.start(&owner(), say("hi")).await.unwrap().run;
    let queued = here.start(&owner(), say("and")).await.unwrap().run;
    let there = Engine::open(
        store.clone(),
        one(Speak::new(&[])),
        Providers::without_secrets().unwrap(),
        Settings::new("other".into()),
    )
    .await
    .unwrap();
    let mut near = here.follower(&owner(), &running, Seq::default(), false);
    let waiting = here.follower(&owner(), &queued, Seq::default(), false);
    let far = there.follower(&owner(), &running, Seq::default(), false);
    while near.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    assert!(here.delete_thread(&running.key).await.unwrap());
    assert_eq!(told(near).await, ["thread.deleted", "message.finished", "node.finished", "run.finished"]);
    assert_eq!(told(waiting).await, ["run.started", "thread.deleted", "run.finished"]);
    assert!(told(far).await.ends_with(&["thread.deleted", "run.finished"]));
    assert!(here.follow(&owner(), queued.run, Seq::default(), false).await.unwrap().is_none());
    here.start(&owner(), say("again")).await.unwrap();
}

/// It left the half answer of its last owner open.
/// A reader of what an answer brings begins behind all that the run told before; the number after that overflowed.
#[tokio::test]
async fn a_reader_that_waits_for_the_next_owner_of_a_deleted_thread_comes_to_an_end() {
    let store: Arc<MemoryStore> = Arc::default();
    let engine = engine(&store, one(Speak::new(&["a"]))).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    follow(&engine, run.run, Seq::default()).await;
    engine.delete_thread(&run.key).await.unwrap();
    let after = Seq { fence: 1, n: u64::MAX };
    let events = told(engine.follower(&owner(), &run, after, false)).await;
    assert_eq!(events, ["thread.deleted", "run.finished"]);
}

#[tokio::test]
async fn a_run_that_is_given_up_takes_back_what_its_owners_showed() {
    let store: Arc<MemoryStore> = Arc::default();
    let run =
        abandoned(&store, &record::encode(&record::Input { input: json!({}), ..record::Input::default() }))
            .await;
    let scope = Scope::new("speak", TaskId("t".into()), 1);
    let bodies = [
        Body::NodeStarted { step: 1, kind: "custom".into(), resumed: false },
        Body::MessageStarted { message_id: "m".into(), role: "assistant".into() },
        Body::MessageDelta { message_id: "m".into(), delta: "half".into() },
    ];
    let event = |(n, body)| Event {
        seq: Seq { fence: 1, n },
        at: chrono::Utc::now(),
        scope: Some(scope.clone()),
        body,
    };
    let events: Vec<Event> = (1..).zip(bodies).map(event).collect();
    let batch = EventBatch { fence: 1, first: 1, last: 3, data: graphloom::event::encode(&events) };
    store.append_events(vec![(owner(), run.run, batch)]).await.unwrap();
    for _ in 0..2 {
        let process = Process { lease: Duration::ZERO, ..named("dead") };
        assert_eq!(store.claim(&process, 1).await.unwrap().len(), 1);
    }
    let engine = engine(&store, one(Speak::new(&["a"]))).await;
    let (events, cut) = follow(&engine, run.run, Seq::default()).await;
    assert!(!cut);
    assert_eq!(
        names(&events),
        "run.started node.started message.started message.delta node.reset node.finished error run.finished"
    );
    let last = &events.last().unwrap().1;
    assert_eq!((&last["status"], &events[6].1["code"]), (&json!("dead"), &json!("gave_up")));
}

/// Such a place made a stream without an event and without an end.
#[tokio::test]
async fn a_place_that_the_run_does_not_have_rewinds_the_stream() {
    let store: Arc<MemoryStore> = Arc::default();
    let permits = Arc::new(Semaphore::new(1));
    let engine = engine(&store, one(Speak { permits: permits.clone(), ..Speak::new(&["a", "b"]) })).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    let mut near = engine.follower(&owner(), &run, Seq::default(), false);
    while near.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    let places = [Seq { fence: 1, n: 99_999 }, Seq { fence: 7, n: 1 }];
    let mut live = Vec::new();
    for after in places {
        let Some(Followed::Events(mut follower)) =
            engine.follow(&owner(), run.run, after, false).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(follower.next().await.unwrap().unwrap().event.body.name(), "stream.rewound");
        live.push(follower);
    }
    permits.add_permits(1);
    for follower in live {
        let told = told(follower).await;
        assert_eq!((told[0], told[told.len() - 1]), ("run.started", "run.finished"));
    }
    for after in places {
        let (events, cut) = follow(&engine, run.run, after).await;
        assert!(!cut && names(&events).starts_with("stream.rewound run.started "), "{}", names(&events));
        assert_eq!(events.last().unwrap().1["status"], "completed");
    }
}

/// What the journal had dropped and the store had lost was looked for in both of them, for ever.
#[tokio::test]
async fn a_slow_reader_of_a_deleted_thread_comes_to_an_end() {
    let word: &'static str = "x".repeat(400 * 1024).leak();
    let engine = engine(&Arc::default(), one(Speak::new(&[word, word, word, word]))).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    let slow = engine.follower(&owner(), &run, Seq::default(), false);
    let mut near = engine.follower(&owner(), &run, Seq::default(), false);
    near.next().await.unwrap().unwrap();
    let behind = {
        let mut behind = engine.follower(&owner(), &run, Seq::default(), false);
        behind.next().await.unwrap().unwrap();
        behind
    };
    while near.next().await.is_some() {}
    assert!(engine.delete_thread(&run.key).await.unwrap());
    for follower in [slow, behind] {
        let told = tokio::time::timeout(Duration::from_secs(10), told(follower)).await.expect("an end");
        assert!(told.ends_with(&["thread.deleted", "run.finished"]), "{told:?}");
    }
}

#[tokio::test]
async fn a_state_that_grows_too_large_ends_the_run_and_leaves_the_thread_as_it_was() {
    let word: &'static str = "x".repeat(900).leak();
    let settings = Settings { state_bytes: 2500, ..Settings::new("test".into()) };
    let providers = Providers::without_secrets().unwrap();
    let engine = Engine::open(Arc::<MemoryStore>::default(), one(Speak::new(&[word])), providers, settings)
        .await
        .unwrap();
    for (turn, status) in ["completed", "completed", "failed", "failed"].into_iter().enumerate() {
        let run = engine.start(&owner(), say("hi")).await.unwrap().run.run;
        let (events, cut) = follow(&engine, run, Seq::default()).await;
        assert!(!cut && events.last().unwrap().1["status"] == status, "turn {turn}: {}", names(&events));
        if status == "failed" {
            assert_eq!(events[events.len() - 2].1["code"], "limit");
        }
    }
    // The user's turns fit; the answers to them do not.
    assert_eq!(conversation(&engine).await, ["hi", word, "hi", word, "hi", "hi"]);
}

/// The owner went on for as long as the model did, and ended the stream without closing what it had begun.
#[tokio::test]
async fn a_thread_that_is_deleted_elsewhere_stops_the_owner_at_its_next_heartbeat() {
    let store: Arc<MemoryStore> = Arc::default();
    let mut settings = Settings::new("test".into());
    settings.process.lease = Duration::from_millis(300);
    let node = Speak { permits: Arc::new(Semaphore::new(1)), ..Speak::new(&["a", "b"]) };
    let engine = Engine::open(store.clone(), one(node), Providers::without_secrets().unwrap(), settings)
        .await
        .unwrap();
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    let mut near = engine.follower(&owner(), &run, Seq::default(), false);
    while near.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    assert!(store.delete_thread(&run.key).await.unwrap());
    let told = tokio::time::timeout(Duration::from_secs(5), told(near)).await.expect("an end");
    assert_eq!(told, ["thread.deleted", "message.finished", "node.finished", "run.finished"]);
}

/// A commit that found its run gone had closed the books before, and nothing was closed in the stream.
#[tokio::test]
async fn what_a_refused_commit_would_have_closed_is_closed_by_the_end() {
    let store: Arc<MemoryStore> = Arc::default();
    let permits = Arc::new(Semaphore::new(1));
    let engine = engine(&store, one(Speak { permits: permits.clone(), ..Speak::new(&["a", "b"]) })).await;
    let run = engine.start(&owner(), say("hi")).await.unwrap().run;
    let mut near = engine.follower(&owner(), &run, Seq::default(), false);
    while near.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    assert!(store.delete_thread(&run.key).await.unwrap());
    permits.add_permits(1);
    let told = told(near).await;
    assert_eq!(
        told,
        ["message.delta", "thread.deleted", "message.finished", "node.finished", "run.finished"]
    );
}

/// The model answers in JSON of a type: what does not fit goes back to it once, with what is wrong.
#[tokio::test]
async fn an_answer_of_a_type_is_checked_and_asked_for_once_more() {
    let graph = "format: 1
state: {messages: messages, mood: {type: Mood, optional: true}}
start: judge
nodes:
  judge: {kind: llm, text: Judge the mood., output: Mood, into: mood, next: tell}
  tell: {kind: say, text: \"{% if state.mood %}{{ state.mood.word }}{% endif %}\", next: end}
output: [mood]
";
    let project = "format: 1
models: {m: {provider: demo}}
default_model: m
types: {Mood: {word: {enum: [happy, angry]}, why: string?}}
";
    for (answers, expected) in [
        (vec![r#"{"word": "happy", "why": null}"#], Ok((json!({"word": "happy", "why": null}), 1))),
        (
            vec!["Happy, I guess.", "```json\n{\"word\": \"angry\"}\n```"],
            Ok((json!({"word": "angry", "why": null}), 2)),
        ),
        (
            vec![r#"{"word": "sad"}"#, r#"{"word": "sad"}"#],
            Err("the model's answer does not fit its type: at `/word`: expected one of happy, angry"),
        ),
    ] {
        let script = Scripted::new([("judge", answers.iter().map(|text| Entry::text(*text)).collect())]);
        let files = [("chat.yaml", graph), ("project.yaml", project)];
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
        let mut bag = Bag::default();
        let folder = load_files("", files, &mut bag);
        let catalog = compile(&folder, &Providers::scripted(script.clone()).unwrap(), &mut bag);
        let store = Arc::new(MemoryStore::new());
        let engine = engine(&store, catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)))).await;
        let start = Start { graph: "chat".into(), ..say("Hi") };
        let run = engine.start(&owner(), start).await.unwrap().run.run;
        let (events, _) = follow(&engine, run, Seq::default()).await;
        let (_, last) = events.last().unwrap();
        match expected {
            Ok((mood, calls)) => {
                assert_eq!(last["output"]["mood"], mood, "{answers:?}");
                assert_eq!(last["usage"]["model_calls"], calls);
            }
            Err(why) => {
                let failed = events.iter().find(|(_, event)| event["type"] == "error").unwrap();
                assert_eq!(failed.1["message"], why, "{last}");
            }
        }
    }
}

#[tokio::test]
async fn without_memory_runs_are_refused_and_left_to_others_and_told_nevertheless() {
    let store = Arc::<MemoryStore>::default();
    let open = async |memory, claims| {
        let poll = Duration::from_millis(10);
        let settings = Settings { poll, claims, memory: Some(memory), ..Settings::new("test".into()) };
        let (catalog, providers) = (one(Speak::new(&["Hello"])), Providers::without_secrets().unwrap());
        Engine::open(store.clone(), catalog, providers, settings).await.unwrap()
    };
    let full = open(1, 64).await;
    assert!(matches!(full.start(&owner(), say("hi")).await, Err(StartError::Overloaded)));
    let later = Start { delay: Some(Duration::from_millis(1)), ..say("hi") };
    let run = open(1 << 50, 0).await.start(&owner(), later).await.unwrap().run.run;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(full.run(&owner(), run).await.unwrap().unwrap().state, RunState::Queued);
    let _free = open(1 << 50, 64).await;
    let (events, cut) = follow(&full, run, Seq::default()).await;
    assert!(!cut && names(&events).ends_with("run.finished"), "{events:?}");
}
