//! How runs come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use graphloom::id::RunId;
use graphloom::store::{Accepted, Committed, Idempotency, Keyed, NewRun, OnBusy, RunState, Store};

use super::on_every_store;
use crate::support::{
    barrier, batch, checkpoint, claimed, last_barrier, new_run, owner, process, queued, session,
};
use graphloom::store::Commit;

on_every_store![
    sealed:
    a_free_thread_starts_its_run_at_once,
    a_busy_thread_queues_and_goes_first_come_first_served,
    a_new_run_waits_behind_those_that_wait_even_when_nothing_runs,
    a_busy_thread_can_refuse_and_names_the_run_that_holds_it,
    a_full_queue_refuses,
    a_flood_never_overfills_the_queue,
    equal_posts_that_race_make_one_run,
    equal_posts_that_race_on_two_threads_make_one_run,
    a_key_belongs_to_its_request_its_route_and_its_user,
    racing_posts_on_one_thread_start_one_run_and_queue_the_rest,
    the_next_turn_starts_from_the_head_that_the_last_one_left,
    an_interrupted_run_holds_its_thread,
    a_thread_stays_with_its_graph_and_changes_its_version_only_when_told,
    a_new_version_that_races_with_the_old_one_is_never_taken_unseen,
];

async fn a_thread_stays_with_its_graph_and_changes_its_version_only_when_told(store: Arc<dyn Store>) {
    let key = session("s");
    claimed(&*store, &key).await;
    let other = |graph: &str, hash: &str, from: Option<&str>| NewRun {
        graph: graph.into(),
        hash: hash.into(),
        from: from.map(str::to_owned),
        ..new_run(&key)
    };
    let refused = Accepted::OtherVersion { graph: "support".into(), hash: "hash-1".into() };
    for new in [
        other("chat", "hash-1", None),
        other("chat", "hash-1", Some("hash-1")),
        other("support", "hash-2", None),
        other("support", "hash-2", Some("hash-0")),
    ] {
        assert_eq!(store.accept(new.clone()).await.unwrap(), refused);
        assert!(store.run(&key.owner, new.run).await.unwrap().is_none());
    }
    let accepted = store.accept(other("support", "hash-2", Some("hash-1"))).await.unwrap();
    assert!(matches!(accepted, Accepted::Queued { .. }));
    let accepted = store.accept(other("support", "hash-2", None)).await.unwrap();
    assert!(matches!(accepted, Accepted::Queued { .. }), "the version is known now");
    let back = store.accept(other("support", "hash-1", None)).await.unwrap();
    assert_eq!(back, Accepted::OtherVersion { graph: "support".into(), hash: "hash-2".into() });
}

async fn a_new_version_that_races_with_the_old_one_is_never_taken_unseen(store: Arc<dyn Store>) {
    let new =
        |n: usize| NewRun { hash: format!("hash-{}", n % 2), queue_limit: 100, ..new_run(&session("fresh")) };
    let answers = race(&store, (0..16).map(new).collect()).await;
    let counts = count(&answers);
    assert_eq!((counts["claimed"], counts["queued"], counts["other"]), (1, 7, 8), "{counts:?}");
}

async fn a_free_thread_starts_its_run_at_once(store: Arc<dyn Store>) {
    let new = new_run(&session("s"));
    let Accepted::Claimed { run, head } = store.accept(new.clone()).await.unwrap() else { panic!() };
    assert_eq!((run.state, run.fence, run.step, run.crashes), (RunState::Running, 1, 0, 0));
    assert_eq!((head, &run.input, &run.graph, &run.hash), (None, &new.input, &new.graph, &new.hash));
    assert_eq!(store.run(&new.key.owner, new.run).await.unwrap(), Some(run.clone()));
    let thread = store.thread(&new.key).await.unwrap().unwrap();
    assert_eq!((thread.thread, thread.head, thread.graph.as_str()), (run.thread, None, "support"));
    assert_eq!(thread.last_run, Some((run.run, RunState::Running)));
    assert!(store.claim(&process("there"), 10).await.unwrap().is_empty());
}

async fn a_busy_thread_queues_and_goes_first_come_first_served(store: Arc<dyn Store>) {
    let key = session("s");
    let mut running = claimed(&*store, &key).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(queued(&*store, &key).await);
    }
    assert_eq!((waiting[0].state, waiting[0].fence), (RunState::Queued, 0));
    let there = process("there");
    for next in waiting {
        assert!(store.claim(&there, 10).await.unwrap().is_empty(), "the thread is busy");
        store.commit(last_barrier(&running, RunState::Completed)).await.unwrap();
        let claims = store.claim(&there, 10).await.unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!((claims[0].run.run, claims[0].run.fence, claims[0].crashed), (next.run, 1, false));
        running = claims[0].run.clone();
    }
}

async fn a_new_run_waits_behind_those_that_wait_even_when_nothing_runs(store: Arc<dyn Store>) {
    let key = session("s");
    let first = claimed(&*store, &key).await;
    let second = queued(&*store, &key).await;
    store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
    let third = queued(&*store, &key).await;
    let claims = store.claim(&process("there"), 10).await.unwrap();
    assert_eq!(claims.iter().map(|c| c.run.run).collect::<Vec<_>>(), [second.run]);
    assert_eq!(store.thread(&key).await.unwrap().unwrap().last_run, Some((third.run, RunState::Queued)));
}

async fn a_busy_thread_can_refuse_and_names_the_run_that_holds_it(store: Arc<dyn Store>) {
    let key = session("s");
    let first = claimed(&*store, &key).await;
    queued(&*store, &key).await;
    let new = NewRun { on_busy: OnBusy::Reject, ..new_run(&key) };
    let refused = store.accept(new.clone()).await.unwrap();
    assert_eq!(refused, Accepted::Busy { active: first.run });
    assert_eq!(store.run(&key.owner, new.run).await.unwrap(), None);
}

async fn a_full_queue_refuses(store: Arc<dyn Store>) {
    let key = session("s");
    claimed(&*store, &key).await;
    for _ in 0..3 {
        let new = NewRun { queue_limit: 3, ..new_run(&key) };
        assert!(matches!(store.accept(new).await.unwrap(), Accepted::Queued { .. }));
    }
    let new = NewRun { queue_limit: 3, ..new_run(&key) };
    assert_eq!(store.accept(new.clone()).await.unwrap(), Accepted::QueueFull);
    assert_eq!(store.run(&key.owner, new.run).await.unwrap(), None);
}

/// Sends all requests at once.
async fn race(store: &Arc<dyn Store>, requests: Vec<NewRun>) -> Vec<Accepted> {
    let tasks = requests.into_iter().map(|new| {
        let store = store.clone();
        async move { store.accept(new).await.unwrap() }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

/// Counts what became of the requests.
fn count(answers: &[Accepted]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        let word = match answer {
            Accepted::Waits => "waits",
            Accepted::Claimed { .. } => "claimed",
            Accepted::Queued { .. } => "queued",
            Accepted::Known(Keyed::Same { .. }) => "replayed",
            Accepted::Known(Keyed::Other) => "reused",
            Accepted::Busy { .. } => "busy",
            Accepted::QueueFull | Accepted::TenantQueueFull => "full",
            Accepted::OtherVersion { .. } => "other",
        };
        *counts.entry(word).or_default() += 1;
    }
    counts
}

async fn a_flood_never_overfills_the_queue(store: Arc<dyn Store>) {
    let key = session("s");
    let flood = (0..20).map(|_| NewRun { queue_limit: 5, ..new_run(&key) }).collect();
    let answers = race(&store, flood).await;
    assert_eq!(count(&answers), BTreeMap::from([("claimed", 1), ("queued", 5), ("full", 14)]));
}

fn keyed(session_name: &str, key: &str, body_hash: &str) -> NewRun {
    let idempotency =
        Idempotency { route: "chat/support".into(), key: key.into(), body_hash: body_hash.into() };
    NewRun { idempotency: Some(idempotency), ..new_run(&session(session_name)) }
}

fn run_of(answer: &Accepted) -> Option<RunId> {
    match answer {
        Accepted::Claimed { run, .. } | Accepted::Queued { run } => Some(run.run),
        Accepted::Known(Keyed::Same { run, .. }) => Some(run.run),
        _ => None,
    }
}

async fn equal_posts_that_race_make_one_run(store: Arc<dyn Store>) {
    for round in 0..5 {
        let name = format!("s{round}");
        let answers = race(&store, (0..20).map(|_| keyed(&name, &name, "body")).collect()).await;
        assert_eq!(count(&answers), BTreeMap::from([("claimed", 1), ("replayed", 19)]));
        let first = run_of(&answers[0]);
        assert!(answers.iter().all(|a| run_of(a) == first));
        let thread = store.thread(&session(&name)).await.unwrap().unwrap();
        assert_eq!(thread.last_run.map(|(run, _)| run), first);
    }
}

/// A key that is sent with another session is sent with another body.
async fn equal_posts_that_race_on_two_threads_make_one_run(store: Arc<dyn Store>) {
    for round in 0..5 {
        let key = format!("k{round}");
        let requests = (0..20).map(|i| {
            let side = i % 2;
            keyed(&format!("s{round}-{side}"), &key, &format!("body {side}"))
        });
        let counts = count(&race(&store, requests.collect()).await);
        assert_eq!(counts, BTreeMap::from([("claimed", 1), ("replayed", 9), ("reused", 10)]));
        // The side that lost has left no thread behind.
        let mut threads = 0;
        for side in 0..2 {
            threads +=
                usize::from(store.thread(&session(&format!("s{round}-{side}"))).await.unwrap().is_some());
        }
        assert_eq!(threads, 1);
    }
}

async fn a_key_belongs_to_its_request_its_route_and_its_user(store: Arc<dyn Store>) {
    let first = store.accept(keyed("s", "k", "body")).await.unwrap();
    let again = store.accept(keyed("s", "k", "body")).await.unwrap();
    assert!(matches!(again, Accepted::Known(Keyed::Same { .. })));
    assert_eq!(run_of(&again), run_of(&first));
    assert_eq!(store.accept(keyed("s", "k", "another body")).await.unwrap(), Accepted::Known(Keyed::Other));
    let mut other_route = keyed("s", "k", "body");
    other_route.idempotency.as_mut().unwrap().route = "chat/sales".into();
    assert!(matches!(store.accept(other_route).await.unwrap(), Accepted::Queued { .. }));
    for (tenant, user) in [("acme", "bob"), ("bolt", "ann")] {
        let mut other = keyed("s", "k", "another body");
        other.key.owner = owner(tenant, user);
        assert!(matches!(store.accept(other).await.unwrap(), Accepted::Claimed { .. }));
    }
    // A deleted thread takes its keys along.
    assert!(store.delete_thread(&session("s")).await.unwrap());
    assert!(matches!(store.accept(keyed("s", "k", "body")).await.unwrap(), Accepted::Claimed { .. }));
}

async fn racing_posts_on_one_thread_start_one_run_and_queue_the_rest(store: Arc<dyn Store>) {
    for round in 0..5 {
        let key = session(&format!("s{round}"));
        let requests = (0..16).map(|_| NewRun { queue_limit: 100, ..new_run(&key) }).collect();
        let answers = race(&store, requests).await;
        assert_eq!(count(&answers), BTreeMap::from([("claimed", 1), ("queued", 15)]));
    }
}

async fn the_next_turn_starts_from_the_head_that_the_last_one_left(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let made = checkpoint(&run, None, 0, true);
    let commit = Commit {
        checkpoints: vec![made.clone()],
        events: Some(batch(1, 1, 3, b"events")),
        ..last_barrier(&run, RunState::Completed)
    };
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done { cancel_requested: false, kept: true });
    let Accepted::Claimed { head, run: next } = store.accept(new_run(&key)).await.unwrap() else { panic!() };
    assert_eq!((head, next.thread), (Some(made.checkpoint), run.thread));
}

async fn an_interrupted_run_holds_its_thread(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let commit = Commit { next: Some((RunState::Interrupted, None)), ..barrier(&run) };
    store.commit(commit).await.unwrap();
    assert!(store.claim(&process("there"), 10).await.unwrap().is_empty());
    for on_busy in [OnBusy::Enqueue, OnBusy::Reject] {
        let refused = store.accept(NewRun { on_busy, ..new_run(&key) }).await.unwrap();
        assert_eq!(refused, Accepted::Waits);
    }
}
