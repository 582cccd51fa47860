//! People in the loop: runs that wait for answers, and go on with them, over every store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use graphloom::compile::{Catalog, Compiled, Providers};
use graphloom::engine::step::Reply;
use graphloom::engine::{
    AnswerError, Answered, Answerer, Engine, Followed, Lost, Resume, Settings, Start, StartError, Started,
};
use graphloom::event::Body;
use graphloom::failure::{ErrorKind, Failure};
use graphloom::id::{InterruptId, Seq};
use graphloom::node::{Attempt, Done, Node, Outcome, Round, Set, Wanted};
use graphloom::plan::{
    Ask, Effects, Form, Job, Next, OnMessage, Plan, PlanNode, Sent, Target, ToolBody, ToolPlan, Work,
};
use graphloom::spec::RetentionSpec;
use graphloom::state::{Channel, Field, Merge, Type};
use graphloom::store::{Actor, Kept, RunState, Store};
use graphloom::template;
use graphloom::tool::{Call, Tool};
use serde_json::{Value as Json, json};

use crate::support::turn::{drain, turn};
use crate::support::{Subject, batch, owner, session};

/// Counts how often it works, and fails as often as it is told to.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU32,
    failures: AtomicU32,
}

#[async_trait]
impl Node for Counts {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(Failure::new(ErrorKind::Connection, "no"));
        }
        Ok(Done { result: json!(calls), ..Done::default() }.into())
    }
}

#[async_trait]
impl Tool for Counts {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(call.args["n"].clone())
    }
}

/// Wants one call of a tool, and gives what came of it.
#[derive(Debug)]
struct Wants;

#[async_trait]
impl Node for Wants {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        match &attempt.back {
            Some(back) => {
                let result = back.answers[0].result.clone().unwrap_or_else(Json::String);
                Ok(Done { result, ..Done::default() }.into())
            }
            None => {
                // As a model that writes a call.
                attempt.emit.send(Body::ToolStarted { call_id: "c1".into(), tool: "pay".into() });
                let wanted = Wanted { id: "c1".into(), tool: "pay".into(), args: Ok(json!({"n": 1})) };
                Ok(Outcome::More(Round { calls: vec![wanted], ..Round::default() }))
            }
        }
    }
}

/// Says two words, one after the other.
#[derive(Debug)]
struct Speaks;

#[async_trait]
impl Node for Speaks {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let message_id = attempt.message_id();
        attempt.emit.send(Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        for delta in ["Hel", "lo"] {
            let (message_id, delta) = (message_id.clone(), delta.to_owned());
            attempt.emit.send(Body::MessageDelta { message_id, delta });
        }
        let events =
            vec![Body::MessageFinished { message_id, content: Some("Hello".into()), truncated: false }];
        Ok(Done { result: json!("Hello"), events, ..Done::default() }.into())
    }
}

fn to(name: &str) -> Next {
    Next::To(if name == "end" { Target::End } else { Target::Node(name.into()) })
}

fn ask(question: &str, form: Form, user: bool, timeout: Option<(Duration, Target)>) -> Work {
    let mut templates = template::Set::new();
    templates.add("q", question).unwrap();
    Work::Ask(Arc::new(Ask {
        templates: templates.freeze(),
        question: "q".into(),
        messages: user.then(|| "messages".to_owned()),
        form,
        timeout,
        on_message: if user { OnMessage::Answer } else { OnMessage::Refuse },
    }))
}

fn node(kind: &'static str, work: Work, into: &str, next: &str) -> PlanNode {
    let into = if into.is_empty() { Sent::Nothing } else { Sent::Channel(into.into()) };
    PlanNode { into, ..PlanNode::new(Job::new(kind, work), to(next)) }
}

fn plan(start: &[&str], nodes: Vec<(&str, PlanNode)>) -> Plan {
    let field = |ty| Field { ty, default: None, description: None };
    let channel = |ty, merge| Channel { field: field(ty), merge, private: false, per_run: false };
    Plan {
        hash: "0123456789abcdef".into(),
        channels: BTreeMap::from([
            ("messages".to_owned(), channel(Type::Messages, Merge::Messages)),
            ("r".to_owned(), channel(Type::Any, Merge::Replace)),
            ("log".to_owned(), channel(Type::List(Box::new(Type::Any)), Merge::Append)),
        ]),
        messages: Some("messages".into()),
        nodes: nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect(),
        ..Plan::new("test", Next::All(start.iter().map(|name| Target::Node((*name).to_owned())).collect()))
    }
}

async fn open(store: &Arc<dyn Store>, plan: Plan) -> Engine {
    let compiled = Compiled { plan: Arc::new(plan.seal()), body: Vec::new() };
    let catalog = Catalog { graphs: BTreeMap::from([("test".to_owned(), compiled)]), ..Catalog::default() };
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, Providers::without_secrets().unwrap(), settings).await.unwrap()
}

async fn say(engine: &Engine, text: &str) -> Vec<Json> {
    let started = engine.start(&owner("acme", "ann"), turn(text)).await.unwrap();
    let Started { run, replayed, after } = started;
    drain(engine, &Answered { run, replayed, after }).await
}

fn ann() -> Answerer {
    Answerer { owner: owner("acme", "ann"), agent: false }
}

fn agent() -> Answerer {
    Answerer { owner: owner("acme", "bob"), agent: true }
}

fn names(events: &[Json]) -> Vec<String> {
    let name = |event: &Json| {
        let kind = event["type"].as_str().unwrap();
        match kind {
            "node.started" if event["resumed"] == true => {
                format!("{} resumes", event["node"].as_str().unwrap())
            }
            "node.started" => format!("{} starts", event["node"].as_str().unwrap()),
            "node.finished" | "run.finished" => {
                let of = event["node"].as_str().unwrap_or("run");
                format!("{of} {}", event["status"].as_str().unwrap())
            }
            "edge.taken" | "checkpoint.saved" | "message.delta" => String::new(),
            other => other.to_owned(),
        }
    };
    events.iter().map(name).filter(|name| !name.is_empty()).collect()
}

fn question(events: &[Json]) -> InterruptId {
    let end = events.last().unwrap();
    InterruptId(end["interrupts"][0]["interrupt_id"].as_str().unwrap().into())
}

async fn conversation(engine: &Engine) -> Vec<String> {
    let view = engine.view(&session("s"), None).await.unwrap().unwrap();
    view.messages.iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

/// The version that a run waits on is in the store without what it takes to use it again.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_on_a_version_that_is_gone_are_told_at_the_start() {
    let subject = Subject::memory();
    let nodes = || vec![("size", node("ask", ask("Small or large?", Form::Text, true, None), "r", "end"))];
    let before = open(&subject.store, plan(&["size"], nodes())).await;
    say(&before, "tea").await;
    assert_eq!(before.lost().await.unwrap(), []);
    before.close(Duration::ZERO, Duration::from_secs(5)).await;
    let after =
        open(&subject.store, Plan { hash: "fedcba9876543210".into(), ..plan(&["size"], nodes()) }).await;
    let expected = Lost { graph: "test".into(), hash: "0123456789abcdef".into(), paused: 1 };
    assert_eq!(after.lost().await.unwrap(), [expected]);
}

async fn a_plain_message(subject: Subject) {
    let options = Form::Options(vec!["small".into(), "large".into()]);
    let nodes = vec![
        ("size", node("ask", ask("Small or large?", options, true, None), "r", "count")),
        ("count", node("custom", Work::Node(Arc::new(Counts::default())), "log", "end")),
    ];
    let engine = open(&subject.store, plan(&["size"], nodes)).await;
    let events = say(&engine, "tea").await;
    let expected = [
        "run.started",
        "size starts",
        "message.started",
        "message.finished",
        "interrupt.requested",
        "size interrupted",
        "run interrupted",
    ];
    assert_eq!(names(&events), expected);
    let asked = &events.last().unwrap()["interrupts"][0];
    assert_eq!(
        (&asked["question"], &asked["options"]),
        (&json!("Small or large?"), &json!(["small", "large"]))
    );
    let open = engine.interrupts(&session("s")).await.unwrap();
    assert_eq!(open[0].interrupt.interrupt_id, question(&events).to_string());
    // What is no answer is refused, and changes nothing.
    let refused = engine.start(&owner("acme", "ann"), turn("medium")).await;
    assert!(matches!(refused, Err(StartError::Unprocessable(_))));
    let no_turn = engine.start(&owner("acme", "ann"), Start { message: None, ..turn("") }).await;
    assert!(matches!(no_turn, Err(StartError::Waits(ids)) if ids.len() == 1));
    let events = say(&engine, "Large").await;
    let expected = ["size resumes", "size completed", "count starts", "count completed", "run completed"];
    assert_eq!(names(&events), expected);
    assert_eq!(events.last().unwrap()["output"], json!({"r": "large", "log": [1]}));
    assert_eq!(conversation(&engine).await, ["tea", "Small or large?", "large"]);
    assert!(engine.interrupts(&session("s")).await.unwrap().is_empty());
    // From its start, the whole run is told without the pause.
    let run = events[0]["run_id"].as_str().unwrap().parse().unwrap();
    let row = engine.run(&owner("acme", "ann"), run).await.unwrap().unwrap();
    let whole = drain(&engine, &Answered { run: row, replayed: false, after: Seq::default() }).await;
    assert_eq!(whole.iter().filter(|event| event["type"] == "run.finished").count(), 1);
}

/// Of two messages at once one was refused, though in either order the second one is the next turn.
async fn two_messages_at_once(subject: Subject) {
    let question = ask("Who?", Form::Text, true, None);
    let nodes = vec![
        ("who", node("ask", question, "r", "count")),
        ("count", node("custom", Work::Node(Arc::new(Counts::default())), "log", "end")),
    ];
    let engine = open(&subject.store, plan(&["who"], nodes)).await;
    say(&engine, "hi").await;
    let both = join_all(["me", "you"].map(|text| {
        let engine = engine.clone();
        async move { engine.start(&owner("acme", "ann"), turn(text)).await.unwrap() }
    }));
    let both = both.await;
    assert_ne!(both[0].run.run, both[1].run.run);
    let mut ends = Vec::new();
    for Started { run, replayed, after } in both {
        let events = drain(&engine, &Answered { run, replayed, after }).await;
        ends.push(events.last().unwrap()["status"].as_str().unwrap().to_owned());
    }
    ends.sort_unstable();
    assert_eq!(ends, ["completed", "interrupted"]);
}

async fn an_answer_by_id(subject: Subject) {
    let nodes = vec![("ok", node("ask", ask("Pay?", Form::Type(Type::Boolean), false, None), "r", "end"))];
    let engine = open(&subject.store, plan(&["ok"], nodes)).await;
    let id = question(&say(&engine, "hi").await);
    let refused = engine.start(&owner("acme", "ann"), turn("yes")).await;
    assert!(matches!(refused, Err(StartError::Waits(_))));
    // A user does not see what is asked of agents, nor do those of another tenant.
    let say = |value: Json| vec![(id.clone(), Reply::Answer(value))];
    let outsider = Answerer { owner: owner("other", "bob"), agent: true };
    for nobody in [ann(), outsider] {
        assert!(matches!(engine.answer(&nobody, say(json!(true))).await, Err(AnswerError::Unknown(_))));
    }
    assert_eq!(engine.approvals(&agent().owner, None, 10).await.unwrap()[0].interrupt.question, "Pay?");
    assert!(matches!(engine.answer(&agent(), say(json!("yes"))).await, Err(AnswerError::Unfit(..))));
    // Of several answers one is taken.
    let answers = (0..8).map(|n| {
        let (engine, say) = (engine.clone(), say(json!(n % 2 == 0)));
        async move { engine.answer(&agent(), say).await }
    });
    let mut taken = Vec::new();
    for answer in join_all(answers).await {
        match answer {
            Ok(answered) => taken.push(answered),
            Err(AnswerError::Taken { by, .. }) => assert_eq!(by, "bob"),
            Err(AnswerError::Unknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(taken.len(), 1);
    let events = drain(&engine, &taken[0]).await;
    assert_eq!(names(&events), ["ok resumes", "ok completed", "run completed"]);
}

async fn an_approval(subject: Subject) {
    let pay = Arc::new(Counts::default());
    let args = Type::Record([("n".to_owned(), Field::of(Type::INTEGER))].into_iter().collect());
    let tool = ToolPlan {
        name: "pay".into(),
        description: String::new(),
        args,
        schema: None,
        result: Type::Any,
        approval: true,
        is_final: false,
        effects: Effects::AtMostOnce,
        body: ToolBody::Call(pay.clone()),
    };
    let mut agent_node = node("llm", Work::Node(Arc::new(Wants)), "r", "end");
    agent_node.job.tools.insert("pay".into(), Arc::new(tool));
    let engine = open(&subject.store, plan(&["agent"], vec![("agent", agent_node)])).await;
    let events = say(&engine, "pay").await;
    let asked = &events.last().unwrap()["interrupts"][0];
    assert_eq!((&asked["tool"], &asked["args"]), (&json!("pay"), &json!({"n": 1})));
    let id = question(&events);
    let say = |value: Json| vec![(id.clone(), Reply::Answer(value))];
    for bad in [json!("yes"), json!({"edit": {"n": "x"}}), json!({"reject": 1})] {
        assert!(matches!(engine.answer(&agent(), say(bad)).await, Err(AnswerError::Unfit(..))));
    }
    let answered = engine.answer(&agent(), say(json!({"edit": {"n": 3}}))).await.unwrap();
    let events = drain(&engine, &answered).await;
    assert_eq!(
        names(&events),
        ["agent resumes", "tool.called", "tool.finished", "agent completed", "run completed"]
    );
    assert_eq!(events.last().unwrap()["output"]["r"], 3);
    assert_eq!(pay.calls.load(Ordering::SeqCst), 1);
}

async fn a_late_answer(subject: Subject) {
    let timeout = Some((Duration::from_millis(50), Target::Node("late".into())));
    let nodes = vec![
        ("a", node("ask", ask("Who?", Form::Text, false, timeout), "r", "end")),
        ("late", node("custom", Work::Node(Arc::new(Counts::default())), "log", "end")),
    ];
    let engine = open(&subject.store, plan(&["a"], nodes)).await;
    let first = say(&engine, "hi").await;
    let run = first[0]["run_id"].as_str().unwrap().parse().unwrap();
    let row = engine.run(&owner("acme", "ann"), run).await.unwrap().unwrap();
    let mut told = Vec::new();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let run = row.clone();
        told = drain(&engine, &Answered { run, replayed: false, after: Seq::default() }).await;
        if told.last().unwrap()["status"] == "completed" {
            break;
        }
    }
    assert_eq!(told.last().unwrap()["output"], json!({"log": [1]}));
}

/// Asks for the end of its own run, as another process would.
#[derive(Debug)]
struct Cancels(Weak<dyn Store>);

#[async_trait]
impl Node for Cancels {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        let store = self.0.upgrade().unwrap();
        let (run, _) = store.thread(&session("s")).await.unwrap().unwrap().last_run.unwrap();
        let end = batch(0, 1, 1, b"not used");
        store.request_cancel(&owner("acme", "ann"), run, Actor::User, false, vec![], end).await.unwrap();
        Ok(Done::default().into())
    }
}

/// A run that was cancelled while it came to a question was claimed and paused without an end.
async fn a_cancel_right_before_a_question(subject: Subject) {
    let nodes = vec![
        ("stop", node("custom", Work::Node(Arc::new(Cancels(Arc::downgrade(&subject.store)))), "", "who")),
        ("who", node("ask", ask("Who?", Form::Text, true, None), "r", "end")),
    ];
    let engine = open(&subject.store, plan(&["stop"], nodes)).await;
    let run = say(&engine, "hi").await[0]["run_id"].as_str().unwrap().parse().unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let row = engine.run(&owner("acme", "ann"), run).await.unwrap().unwrap();
        assert!(row.fence <= 3, "it is claimed again and again: {row:?}");
        if row.state == RunState::Cancelled {
            break;
        }
        assert!(Instant::now() < patience, "it does not end: {row:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_failed_run(subject: Subject) {
    let (fine, weak) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    weak.failures.store(1, Ordering::SeqCst);
    let nodes = vec![
        ("fine", node("custom", Work::Node(fine.clone()), "log", "j")),
        ("weak", node("custom", Work::Node(weak.clone()), "log", "j")),
        ("j", node("route", Work::Node(Arc::new(Set::default())), "", "end")),
    ];
    let engine = open(&subject.store, plan(&["fine", "weak"], nodes)).await;
    let events = say(&engine, "hi").await;
    assert_eq!(events.last().unwrap()["status"], "failed");
    let answered = engine.resume(&session("s"), Resume::default()).await.unwrap();
    let events = drain(&engine, &answered).await;
    assert_eq!(events.last().unwrap()["output"], json!({"log": [1, 2]}));
    let calls = |node: &Counts| node.calls.load(Ordering::SeqCst);
    assert_eq!((calls(&fine), calls(&weak)), (1, 2), "what was done is not done again");
    assert!(matches!(engine.resume(&session("s"), Resume::default()).await, Err(AnswerError::Nothing)));
    let history = engine.history(&session("s"), None, 10).await.unwrap().unwrap();
    assert_eq!(history.iter().map(|row| row.step).collect::<Vec<_>>(), [2, 1, 0]);
}

/// Fails once as it is told to.
#[derive(Debug)]
struct FailsOnce(ErrorKind, AtomicU32);

#[async_trait]
impl Node for FailsOnce {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        match self.1.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Failure::new(self.0, "no")),
            _ => Ok(Done::default().into()),
        }
    }
}

/// A call that must not be made twice could not be made again even when the other side had refused it.
async fn a_call_that_must_not_be_made_twice(subject: Subject) {
    for (kind, calls, code) in [
        (ErrorKind::Http(404), 2, None),
        (ErrorKind::Http(503), 1, Some("uncertain_effect")),
        (ErrorKind::Timeout, 1, Some("uncertain_effect")),
    ] {
        let weak = Arc::new(FailsOnce(kind, AtomicU32::default()));
        let mut pay = node("custom", Work::Node(weak.clone()), "", "end");
        pay.job.effects = Effects::AtMostOnce;
        let engine = open(&subject.store, plan(&["pay"], vec![("pay", pay)])).await;
        let events = say(&engine, "hi").await;
        assert_eq!(events.last().unwrap()["status"], "failed");
        let events = drain(&engine, &engine.resume(&session("s"), Resume::default()).await.unwrap()).await;
        let error = events.iter().find(|event| event["type"] == "error");
        assert_eq!(error.map(|error| error["code"].as_str().unwrap()), code, "{kind:?}");
        assert_eq!(weak.1.load(Ordering::SeqCst), calls, "{kind:?}");
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
    }
}

/// A client that hung up while its answer was stored left the run claimed and undriven until its lease ran out.
async fn a_client_that_hangs_up(subject: Subject) {
    let nodes = vec![("ok", node("ask", ask("Pay?", Form::Type(Type::Boolean), false, None), "r", "end"))];
    let engine = open(&subject.store, plan(&["ok"], nodes)).await;
    for polls in 1..40 {
        let events = say(&engine, "hi").await;
        let (id, agent) = (question(&events), agent());
        let run = events[0]["run_id"].as_str().unwrap().parse().unwrap();
        let reply = || vec![(id.clone(), Reply::Answer(json!(true)))];
        {
            let mut answering = std::pin::pin!(engine.answer(&agent, reply()));
            for _ in 0..polls {
                if futures_util::poll!(&mut answering).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
        let completed = async {
            loop {
                match engine.run(&owner("acme", "ann"), run).await.unwrap().unwrap().state {
                    RunState::Completed => break,
                    // Nothing of the answer came to the store.
                    RunState::Interrupted => drop(engine.answer(&agent, reply()).await),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), completed).await.expect("nobody goes on with the run");
    }
}

/// A stream that is read again late has its messages as a whole, and later it is gone.
async fn an_old_run(subject: Subject) {
    let nodes = vec![("say", node("custom", Work::Node(Arc::new(Speaks)), "r", "end"))];
    let plan = plan(&["say"], nodes);
    let compiled = || Compiled { plan: Arc::new(plan.clone().seal()), body: Vec::new() };
    let catalog = |events| Catalog {
        graphs: BTreeMap::from([("test".to_owned(), compiled())]),
        retention: RetentionSpec { events, checkpoints: events, audit: None },
        ..Catalog::default()
    };
    let open = async |events, pieces| {
        let settings = Settings { tidy: Duration::from_millis(20), pieces, ..Settings::new("test".into()) };
        let providers = Providers::without_secrets().unwrap();
        Engine::open(subject.store.clone(), catalog(events), providers, settings).await.unwrap()
    };
    let engine = open(None, Duration::from_hours(1)).await;
    let events = say(&engine, "hi").await;
    let run = events[0]["run_id"].as_str().unwrap().parse().unwrap();
    let kept = async |kept: Kept| {
        while subject.store.find_run(run).await.unwrap().unwrap().kept != kept {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let kinds = |events: &[Json]| {
        events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(kinds(&events).contains(&"message.delta".to_owned()));
    engine.close(Duration::ZERO, Duration::from_secs(5)).await;
    let engine = open(None, Duration::ZERO).await;
    kept(Kept::Lean).await;
    let row = engine.run(&owner("acme", "ann"), run).await.unwrap().unwrap();
    let told = drain(&engine, &Answered { run: row, replayed: false, after: Seq::default() }).await;
    let whole: Vec<String> = kinds(&events).into_iter().filter(|kind| kind != "message.delta").collect();
    assert_eq!(kinds(&told), whole);
    engine.close(Duration::ZERO, Duration::from_secs(5)).await;
    let engine = open(Some(Duration::from_millis(1)), Duration::ZERO).await;
    kept(Kept::Nothing).await;
    let found = engine.follow(&owner("acme", "ann"), run, Seq::default(), false).await.unwrap();
    assert!(matches!(found, Some(Followed::Forgotten(row)) if row.run == run));
    // The thread goes on from where it is.
    assert_eq!(say(&engine, "hi").await.last().unwrap()["status"], "completed");
}

crate::support::over_every_store!(
    a_plain_message,
    two_messages_at_once,
    an_answer_by_id,
    an_approval,
    a_late_answer,
    a_cancel_right_before_a_question,
    a_failed_run,
    an_old_run,
    a_call_that_must_not_be_made_twice,
    a_client_that_hangs_up
);
