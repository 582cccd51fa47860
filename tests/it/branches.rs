//! Threads that are changed from outside, forked, replayed and rolled back: over every store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use graphloom::engine::step::Reply;
use graphloom::engine::{
    Answered, Answerer, Branched, Engine, Fork, Resume, Start, StartError, Started, Terms, Update,
};
use graphloom::id::{CheckpointId, InterruptId, Owner, RunId, ThreadKey};
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::store::{Idempotency, OnBusy, RunState, Store};
use serde_json::{Value as Json, json};

use crate::handlers::{end, of_kind, open_all};
use crate::support::turn::{drain, turn};
use crate::support::{Subject, owner, part, session};

/// Branches of different length, a list of graphs that ask, a kept graph, a loop, and a join of all.
const DESK: &str = "\
format: 1
input: {n: {type: integer, default: 2}}
state:
  messages: messages
  log: {type: [string], merge: append}
  secret: {type: string, default: none, private: true}
start: {all: [quick, each, slow]}
nodes:
  quick: {kind: set, set: {log: \"'quick'\", secret: \"'told'\"}, next: join}
  each:
    kind: map
    over: '[1, input.n]'
    as: n
    do: {kind: graph, use: child, with: {n: n}}
    into: {log: \"['each ' ~ (result | length) ~ ' ' ~ (result | map(attribute='said') | last | default(''))]\"}
    next: join
  slow: {kind: say, text: Slowly., next: kept}
  kept: {kind: graph, use: keeps, scope: thread, into: {log: \"'kept ' ~ result.times\"}, max_visits: 2, on_max: join, next: kept}
  join: {kind: set, set: {log: \"'join ' ~ state.secret\"}, next: last}
  last: {kind: llm, text: \"Sum up {{ state.log | length }}.\", reply: true, next: end}
output: [log]
";
const CHILD: &str = "\
format: 1
input: {n: integer}
state: {said: {type: string, default: ''}}
start: ask
nodes:
  ask: {kind: ask, who: agent, question: \"Item {{ input.n }}?\", into: said, next: more}
  more: {kind: set, set: {said: \"state.said ~ ' ' ~ input.n\"}, next: end}
output: {said: state.said}
";
const KEEPS: &str = "\
format: 1
state: {times: {type: integer, merge: add}}
start: count
nodes:
  count: {kind: set, set: {times: 1}, next: rest}
  rest: {kind: route, next: end}
output: {times: state.times}
";

async fn desk(store: &Arc<dyn Store>, claims: u32) -> Engine {
    let script = Scripted::always(Entry::text("that is all"));
    open_all(store, &[("test.yaml", DESK), ("child.yaml", CHILD), ("keeps.yaml", KEEPS)], &script, claims)
        .await
}

async fn single(store: &Arc<dyn Store>, graph: &str, script: &Scripted) -> Engine {
    open_all(store, &[("test.yaml", graph)], script, 64).await
}

fn ann() -> Owner {
    owner("acme", "ann")
}

fn desk_agent() -> Answerer {
    Answerer { owner: ann(), agent: true }
}

fn answered(started: Started) -> Answered {
    Answered { run: started.run, replayed: started.replayed, after: started.after }
}

/// Answers and resumes until nothing is left to do, and returns the end.
async fn finish(engine: &Engine, key: &ThreadKey) -> Json {
    loop {
        let open = engine.interrupts(key).await.unwrap();
        let on = match engine.resume(key, Resume::default()).await {
            Ok(on) => on,
            Err(_) if open.is_empty() => return Json::Null,
            Err(_) => {
                let replies = open.iter().map(|asked| {
                    let id = InterruptId(asked.interrupt.interrupt_id.as_str().into());
                    (id, Reply::Answer(json!(format!("item {}", asked.interrupt.item.unwrap()))))
                });
                engine.answer(&desk_agent(), replies.collect::<Vec<_>>()).await.unwrap()
            }
        };
        let events = drain(engine, &on).await;
        if end(&events)["status"] != "interrupted" {
            return end(&events).clone();
        }
    }
}

/// Returns the conversation without its ids, which name tasks.
async fn conversation(engine: &Engine, key: &ThreadKey) -> Vec<String> {
    let view = engine.view(key, None).await.unwrap().unwrap();
    view.messages.iter().map(|turn| format!("{}: {}", turn["role"], turn["content"])).collect()
}

/// A fork of any checkpoint of a run, resumed, comes to the end of that run: whatever was asked, held, counted or kept.
async fn a_replay(subject: Subject) {
    let engine = desk(&subject.store, 64).await;
    let key = session("s");
    let run = answered(engine.start(&ann(), turn("hi")).await.unwrap());
    assert_eq!(end(&drain(&engine, &run).await)["status"], "interrupted");
    let last = finish(&engine, &key).await;
    assert_eq!(last["status"], "completed");
    let (state, said) = (engine.state(&key).await.unwrap(), conversation(&engine, &key).await);
    let history = engine.history(&key, None, 100).await.unwrap().unwrap();
    assert!(history.len() > 5, "{history:?}");
    let sources: BTreeSet<&str> = history.iter().map(|point| point.source.as_str()).collect();
    assert_eq!(sources, BTreeSet::from(["answer", "input", "step"]));
    let mut ids = BTreeSet::new();
    for (n, point) in history.iter().enumerate() {
        let fork = Fork {
            checkpoint: Some(point.checkpoint),
            session: Some(part(&format!("f{n}"))),
            agent: true,
            ..Fork::default()
        };
        let Branched { run, .. } = engine.fork(&key, &fork).await.unwrap();
        let forked = session(&format!("f{n}"));
        assert_eq!(run.key, forked);
        let ended = if point.next.is_empty() { RunState::Completed } else { RunState::Interrupted };
        assert_eq!(run.state, ended, "{point:?}");
        for asked in engine.interrupts(&forked).await.unwrap() {
            assert!(ids.insert(asked.interrupt.interrupt_id), "a question of a fork is its own");
        }
        let end = finish(&engine, &forked).await;
        if run.state == RunState::Interrupted {
            assert_eq!(end["output"], last["output"], "{point:?}");
        }
        let past = engine.history(&forked, None, 100).await.unwrap().unwrap();
        assert_eq!(past.last().unwrap().source, "fork");
        let log = |state: &graphloom::state::State| (state.json("log"), state.json("secret"));
        assert_eq!(log(&engine.state(&forked).await.unwrap()), log(&state), "{point:?}");
        assert_eq!(conversation(&engine, &forked).await, said, "{point:?}");
        // The next turn counts on with what the kept graph kept.
        let next = answered(
            engine.start(&ann(), Start { session: forked.session.clone(), ..turn("more") }).await.unwrap(),
        );
        drain(&engine, &next).await;
        let end = finish(&engine, &forked).await;
        assert!(end["output"]["log"].to_string().contains("kept 4"), "{end}");
    }
    // Of the first thread nothing changed.
    assert_eq!(engine.history(&key, None, 100).await.unwrap().unwrap().len(), history.len());
}

fn update(node: &str, written: Json) -> Update {
    let Json::Object(values) = written else { panic!() };
    Update { values, as_node: node.into(), agent: true, ..Update::default() }
}

/// What is written as a node goes on by its edges: open questions are closed, and the run that asked is over.
async fn an_update(subject: Subject) {
    for (node, written, path, log) in [
        ("join", json!({"log": "by hand"}), vec!["last"], json!(["by hand"])),
        ("last", json!({"log": ["x", "y"]}), vec![], json!(["x", "y"])),
        ("end", json!({"log": "x"}), vec![], json!(["x"])),
        ("kept", json!({}), vec!["kept", "kept", "join", "last"], json!(["kept 1", "kept 2", "join none"])),
        ("quick", json!({"log": "q"}), vec!["join", "last"], json!(["q", "join none"])),
    ] {
        let engine = desk(&subject.store, 64).await;
        let key = session("s");
        let run = answered(engine.start(&ann(), turn("hi")).await.unwrap());
        drain(&engine, &run).await;
        // Back to a thread whose log is empty.
        let start = engine.history(&key, None, 100).await.unwrap().unwrap().pop().unwrap();
        let fork = Fork {
            checkpoint: Some(start.checkpoint),
            session: Some(part("t")),
            agent: true,
            ..Fork::default()
        };
        let first = engine.fork(&key, &fork).await.unwrap().run;
        let forked = session("t");
        let second = engine.update(&forked, &update(node, written)).await.unwrap().run;
        let row = engine.run(&ann(), first.run).await.unwrap().unwrap();
        assert_eq!(row.state, RunState::Cancelled);
        assert!(engine.interrupts(&forked).await.unwrap().is_empty());
        let point = engine.history(&forked, None, 1).await.unwrap().unwrap().pop().unwrap();
        assert_eq!((point.source.as_str(), point.run, point.step), ("update", Some(second.run), 1));
        if path.is_empty() {
            assert_eq!(second.state, RunState::Completed);
        } else {
            let on = engine.resume(&forked, Resume::default()).await.unwrap();
            assert_eq!(on.run.run, second.run);
            let events = drain(&engine, &on).await;
            let names = of_kind(&events, "node.started")
                .filter(|event| event["path"].is_null() && event["resumed"] != true);
            let names: Vec<&str> = names.map(|event| event["node"].as_str().unwrap()).collect();
            assert_eq!(names, path, "{node}");
            assert_eq!(end(&events)["output"]["log"], log, "{node}");
        }
        assert_eq!(engine.state(&forked).await.unwrap().json("log"), Some(log), "{node}");
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
        for key in [key, forked] {
            assert!(engine.delete_thread(&key).await.unwrap());
        }
    }
}

/// A paused graph is changed where it is; its siblings ask on, with questions of the new run.
async fn an_update_of_a_child(subject: Subject) {
    let engine = desk(&subject.store, 64).await;
    let key = session("s");
    drain(&engine, &answered(engine.start(&ann(), turn("hi")).await.unwrap())).await;
    let before: BTreeSet<String> = engine
        .interrupts(&key)
        .await
        .unwrap()
        .into_iter()
        .map(|asked| asked.interrupt.interrupt_id)
        .collect();
    assert_eq!(before.len(), 2);
    let children = engine.view(&key, None).await.unwrap().unwrap().children;
    let told: Vec<_> = children
        .iter()
        .map(|child| (child.path.join("/"), child.item, child.next.join(" "), child.open.len()))
        .collect();
    assert_eq!(
        told,
        [("each[0]".into(), Some(0), "ask".into(), 1), ("each[1]".into(), Some(1), "ask".into(), 1)]
    );
    let at =
        |path: &str, node: &str, written: Json| Update { path: vec![path.into()], ..update(node, written) };
    for (path, wrong) in [("each", "/path"), ("each[2]", "/path"), ("kept", "/path"), ("quick", "/path")] {
        match engine.update(&key, &at(path, "ask", json!({}))).await {
            Err(StartError::Unprocessable(places)) => assert_eq!(places[0].pointer, wrong, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let changed = engine.update(&key, &at("each[1]", "ask", json!({"said": "by hand"}))).await.unwrap();
    assert_eq!(changed.run.state, RunState::Interrupted);
    let open = engine.interrupts(&key).await.unwrap();
    assert_eq!(open.len(), 1);
    assert!(open[0].interrupt.item == Some(0) && !before.contains(&open[0].interrupt.interrupt_id));
    let end = finish(&engine, &key).await;
    assert_eq!(end["status"], "completed", "{end}");
    assert!(end["output"]["log"].to_string().contains("each 2 by hand 2"), "{end}");
}

/// Every mistake is told with its place, and changes nothing.
async fn what_does_not_fit(subject: Subject) {
    let engine = desk(&subject.store, 64).await;
    let key = session("s");
    drain(&engine, &answered(engine.start(&ann(), turn("hi")).await.unwrap())).await;
    let head = engine.thread(&key).await.unwrap().unwrap().head;
    let wrong =
        update("lost", json!({"log": ["a", 1], "gone": 1, "secret": "x", "messages": [{"role": "judge"}]}));
    let Err(StartError::Unprocessable(places)) = engine.update(&key, &wrong).await else { panic!() };
    let places: Vec<String> = places.iter().map(|place| place.pointer.clone()).collect();
    assert_eq!(
        places,
        ["/values/log/1", "/values/gone", "/values/secret", "/values/messages/0/role", "/as_node"]
    );
    let operator = Update { private: true, ..update("end", json!({"secret": "x"})) };
    let stranger = ThreadKey { owner: owner("acme", "bob"), session: part("s") };
    assert!(matches!(engine.update(&stranger, &operator).await, Err(StartError::NotFound)));
    assert!(matches!(engine.fork(&stranger, &Fork::default()).await, Err(StartError::NotFound)));
    let fork = |checkpoint, session| Fork { checkpoint, session, agent: true, ..Fork::default() };
    let nowhere = fork(Some(CheckpointId::new()), None);
    assert!(matches!(engine.fork(&key, &nowhere).await, Err(StartError::NotFound)));
    assert!(matches!(engine.fork(&key, &fork(None, Some(part("s")))).await, Err(StartError::Exists)));
    // Whoever may not answer an agent's question may not go on past it either.
    let user = |update: Update| Update { agent: false, ..update };
    let refused = engine.update(&key, &user(update("join", json!({})))).await;
    assert!(matches!(refused, Err(StartError::Forbidden)));
    assert!(
        engine.fork(&key, &Fork::default()).await.is_ok(),
        "nothing moves there before an agent says something"
    );
    assert_eq!(engine.thread(&key).await.unwrap().unwrap().head, head);
    engine.update(&key, &operator).await.unwrap();
    assert_eq!(engine.state(&key).await.unwrap().json("secret"), Some(json!("x")));
}

/// The key of a request finds what the first one did, also when both come at once.
async fn a_repeated_request(subject: Subject) {
    let engine = desk(&subject.store, 64).await;
    let key = session("s");
    drain(&engine, &answered(engine.start(&ann(), turn("hi")).await.unwrap())).await;
    let used = |route: &str, body: &str| {
        Some(Idempotency { route: route.into(), key: "k".into(), body_hash: body.into() })
    };
    let forks = join_all((0..8).map(|_| {
        let fork = Fork { idempotency: used("fork/s", "x"), agent: true, ..Fork::default() };
        let (engine, key) = (engine.clone(), key.clone());
        async move { engine.fork(&key, &fork).await.unwrap() }
    }));
    let forks = forks.await;
    let runs: BTreeSet<RunId> = forks.iter().map(|fork| fork.run.run).collect();
    assert_eq!((runs.len(), forks.iter().filter(|fork| !fork.replayed).count()), (1, 1));
    let other = Fork { idempotency: used("fork/s", "y"), ..Fork::default() };
    assert!(matches!(engine.fork(&key, &other).await, Err(StartError::KeyReused)));
    let updates = join_all((0..8).map(|_| {
        let change = Update { idempotency: used("update/s", "x"), ..update("join", json!({"log": "once"})) };
        let (engine, key) = (engine.clone(), key.clone());
        async move { engine.update(&key, &change).await.unwrap() }
    }));
    let updates = updates.await;
    let runs: BTreeSet<RunId> = updates.iter().map(|update| update.run.run).collect();
    assert_eq!((runs.len(), updates.iter().filter(|update| !update.replayed).count()), (1, 1));
    assert!(engine.state(&key).await.unwrap().json("log").unwrap().to_string().matches("once").count() == 1);
}

/// The process dies between an update and its resume, and again after it.
async fn a_crash_between(subject: Subject) {
    let dying = desk(&subject.store, 0).await;
    let key = session("s");
    drain(&dying, &answered(dying.start(&ann(), turn("hi")).await.unwrap())).await;
    let changed = dying.update(&key, &update("join", json!({"log": "by hand"}))).await.unwrap().run;
    let heir = desk(&subject.store, 64).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let row = heir.run(&ann(), changed.run).await.unwrap().unwrap();
    assert_eq!(row.state, RunState::Interrupted, "nobody goes on with it by himself");
    assert!(
        matches!(heir.start(&ann(), turn("more")).await, Err(StartError::Stopped(run)) if run == changed.run)
    );
    let end = finish(&heir, &key).await;
    assert_eq!(
        (end["status"].as_str(), &end["run_id"]),
        (Some("completed"), &json!(changed.run.to_string()))
    );
    // The whole stream of the run from its start has one end.
    let whole = Answered { run: changed, replayed: false, after: graphloom::id::Seq::default() };
    let told = drain(&heir, &whole).await;
    assert_eq!((told[0]["type"].as_str(), of_kind(&told, "run.finished").count()), (Some("run.started"), 1));
}

const CHAT: &str = "\
format: 1
state: {messages: messages, log: {type: [string], merge: append}}
start: note
nodes:
  note: {kind: set, set: {log: run.user_text}, next: answer}
  answer: {kind: llm, text: \"{{ run.user_text }}\", reply: true, next: end}
output: [log]
";

/// Updates, turns, forks and a delete that come at once: each is whole or refused, and the line of the thread has no hole.
async fn all_at_once(subject: Subject) {
    let engine = single(&subject.store, CHAT, &Scripted::always(Entry::text("ok"))).await;
    let key = session("s");
    drain(&engine, &answered(engine.start(&ann(), turn("first")).await.unwrap())).await;
    let work = (0..24).map(|n| {
        let (engine, key) = (engine.clone(), key.clone());
        async move {
            match n % 3 {
                0 => match engine.update(&key, &update("end", json!({"log": format!("u{n}")}))).await {
                    Ok(_) => Some(format!("u{n}")),
                    Err(StartError::Busy(_) | StartError::Store(_)) => None,
                    Err(error) => panic!("{error:?}"),
                },
                1 => {
                    let start = Start { on_busy: OnBusy::Reject, ..turn(&format!("t{n}")) };
                    match engine.start(&ann(), start).await {
                        Ok(started) => {
                            let events = drain(&engine, &answered(started)).await;
                            assert_eq!(end(&events)["status"], "completed");
                            Some(format!("t{n}"))
                        }
                        Err(StartError::Busy(_)) => None,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                _ => {
                    let forked = engine.fork(&key, &Fork::default()).await.unwrap();
                    finish(&engine, &forked.run.key).await;
                    None
                }
            }
        }
    });
    let mut done: Vec<String> = join_all(work).await.into_iter().flatten().collect();
    done.push("first".into());
    done.sort();
    let log = engine.state(&key).await.unwrap().json("log").unwrap();
    let mut log: Vec<String> = serde_json::from_value(log).unwrap();
    log.sort();
    assert_eq!(log, done);
    let history = engine.history(&key, None, 200).await.unwrap().unwrap();
    assert!(history.windows(2).all(|two| two[0].parent == Some(two[1].checkpoint)));
    // Whoever forks while the thread is deleted gets the whole, or nothing.
    let forks =
        (0..8).map(|n| {
            let (engine, key) = (engine.clone(), key.clone());
            async move {
                engine.fork(&key, &Fork { session: Some(part(&format!("d{n}"))), ..Fork::default() }).await
            }
        });
    let (forks, deleted) = tokio::join!(join_all(forks), engine.delete_thread(&key));
    assert!(deleted.unwrap());
    for (n, fork) in forks.into_iter().enumerate() {
        let forked = session(&format!("d{n}"));
        match fork {
            Ok(_) => assert_eq!(
                engine.state(&forked).await.unwrap().json("log").unwrap().as_array().unwrap().len(),
                log.len()
            ),
            Err(StartError::NotFound) => assert!(engine.thread(&forked).await.unwrap().is_none()),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(matches!(engine.fork(&key, &Fork::default()).await, Err(StartError::NotFound)));
}

/// What a run did to the thread is taken back, wherever the run is: at work, waiting, or waiting for its turn.
async fn a_rollback(subject: Subject) {
    let gate = Gate::new();
    let script = Scripted::new([(
        "answer",
        vec![Entry::text("one"), Entry::text("two").gated(&gate), Entry::text("three"), Entry::text("four")],
    )]);
    let engine = single(&subject.store, CHAT, &script).await;
    let key = session("s");
    drain(&engine, &answered(engine.start(&ann(), turn("a")).await.unwrap())).await;
    let head = engine.thread(&key).await.unwrap().unwrap().head;
    let works = engine.start(&ann(), turn("b")).await.unwrap().run;
    script.wait_for_calls(2).await;
    let waits = engine.start(&ann(), turn("c")).await.unwrap().run;
    let start = Start { on_busy: OnBusy::Rollback, ..turn("d") };
    let next = answered(engine.start(&ann(), start).await.unwrap());
    assert_eq!(end(&drain(&engine, &next).await)["output"]["log"], json!(["a", "d"]));
    for run in [works.run, waits.run] {
        let row = engine.run(&ann(), run).await.unwrap().unwrap();
        assert_eq!(row.state, RunState::RolledBack);
    }
    let first = Answered { run: works, replayed: false, after: graphloom::id::Seq::default() };
    assert_eq!(end(&drain(&engine, &first).await)["status"], "rolled_back");
    assert_eq!(conversation(&engine, &key).await.len(), 4);
    let line = engine.history(&key, None, 100).await.unwrap().unwrap();
    assert!(line.iter().any(|point| Some(point.checkpoint) == head), "it went on from before");
    // One that waits at a breakpoint goes back at once; of a run from outside, its own work does.
    let stops = graphloom::engine::Breakpoints { after: vec!["note".into()], ..Default::default() };
    let before = engine.thread(&key).await.unwrap().unwrap().head;
    let run =
        answered(engine.start(&ann(), Start { breakpoints: stops.clone(), ..turn("e") }).await.unwrap());
    assert_eq!(end(&drain(&engine, &run).await)["status"], "interrupted");
    assert_ne!(engine.thread(&key).await.unwrap().unwrap().head, before);
    let row = engine.roll_back(&ann(), run.run.run).await.unwrap().unwrap();
    assert_eq!((row.state, engine.thread(&key).await.unwrap().unwrap().head), (RunState::RolledBack, before));
    let changed = engine.update(&key, &update("start", json!({"log": "u"}))).await.unwrap().run;
    let before = engine.thread(&key).await.unwrap().unwrap().head;
    let on = engine
        .resume(
            &key,
            Resume { terms: Terms { breakpoints: Some(stops), ..Terms::default() }, idempotency: None },
        )
        .await
        .unwrap();
    drain(&engine, &on).await;
    engine.roll_back(&ann(), changed.run).await.unwrap();
    assert_eq!(engine.thread(&key).await.unwrap().unwrap().head, before);
    assert!(engine.roll_back(&owner("acme", "bob"), changed.run).await.unwrap().is_none());
}

/// A run that failed is not what a resume goes on with once the thread was changed, and its limits are counted anew.
async fn after_a_failure(subject: Subject) {
    let graph = "\
format: 1
state: {messages: messages, n: {type: integer, merge: add}, log: {type: [string], merge: append}}
limits: {steps: 3}
start: a
nodes:
  a:
    kind: set
    set: {n: 1, log: \"'a'\"}
    max_visits: 9
    on_max: b
    next: [{when: state.n < 4, to: a}, {else: b}]
  b: {kind: set, set: {log: \"'b'\"}, next: end}
output: [log]
";
    let engine = single(&subject.store, graph, &Scripted::always(Entry::text("ok"))).await;
    let key = session("s");
    let failed = answered(engine.start(&ann(), turn("hi")).await.unwrap());
    assert_eq!(end(&drain(&engine, &failed).await)["status"], "failed");
    let changed = engine.update(&key, &update("a", json!({"log": "by hand"}))).await.unwrap().run;
    let on = engine.resume(&key, Resume::default()).await.unwrap();
    assert_eq!(on.run.run, changed.run);
    assert_eq!(end(&drain(&engine, &on).await)["output"]["log"], json!(["a", "a", "a", "by hand", "a", "b"]));
    let row = engine.run(&ann(), failed.run.run).await.unwrap().unwrap();
    assert_eq!(row.state, RunState::Failed);
}

crate::support::over_every_store!(
    threads:
    a_replay,
    an_update,
    an_update_of_a_child,
    what_does_not_fit,
    a_repeated_request,
    a_crash_between,
    all_at_once,
    a_rollback,
    after_a_failure,
);
