//! Runs that begin later, and runs that end when nobody reads them.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::RunId;
use graphloom::store::{
    Accepted, Actor, Commit, Counts, NewRun, OnBusy, Resumed, Run, RunState, Store, StoreError, Wishes,
};
use sea_orm::ConnectionTrait;

use super::on_every_store;
use crate::support::{
    Subject, barrier, batch, claimed, last_barrier, new_run, part, plain, process, queued, resume, session,
};

on_every_store![
    a_delayed_run_keeps_nobody_waiting_and_takes_its_place_when_it_is_due,
    a_delayed_run_can_be_ended_before_it_begins,
    a_thread_that_waits_for_a_person_takes_what_is_for_later,
    as_many_runs_may_wait_for_their_time_as_for_their_turn,
    a_run_that_nobody_reads_is_found_until_it_pauses_or_goes_on_otherwise,
];

const HOUR: Duration = Duration::from_hours(1);

async fn delayed(store: &dyn Store, name: &str, delay: Duration) -> Run {
    let new = NewRun { delay: Some(delay), ..new_run(&session(name)) };
    match store.accept(new).await.unwrap() {
        Accepted::Queued { run } => run,
        other => panic!("{other:?}"),
    }
}

async fn taken(store: &dyn Store) -> Vec<RunId> {
    store.claim(&process("there"), 10).await.unwrap().iter().map(|claim| claim.run.run).collect()
}

async fn over(store: &dyn Store, run: RunId) -> Result<(), StoreError> {
    let run = store.find_run(run).await?.unwrap();
    store.commit(last_barrier(&run, RunState::Completed)).await.map(|_| ())
}

async fn a_delayed_run_keeps_nobody_waiting_and_takes_its_place_when_it_is_due(store: Arc<dyn Store>) {
    let key = session("s");
    let late = delayed(&*store, "s", HOUR).await;
    let soon = delayed(&*store, "s", Duration::from_secs(3)).await;
    let sooner = delayed(&*store, "s", Duration::from_millis(2500)).await;
    assert!(late.due_at.unwrap() - late.created_at >= chrono::TimeDelta::minutes(59));
    assert_eq!(store.run(&key.owner, late.run).await.unwrap(), Some(late.clone()));
    assert_eq!(store.thread(&key).await.unwrap().unwrap().last_run, None);
    let counts = Counts { delayed: 3, ..Counts::default() };
    assert_eq!((taken(&*store).await, store.counts().await.unwrap()), (vec![], counts));
    // The thread is free, and not even busy.
    let new = NewRun { on_busy: OnBusy::Reject, ..new_run(&key) };
    let Accepted::Claimed { run: first, .. } = store.accept(new).await.unwrap() else { panic!() };
    let second = queued(&*store, &key).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(taken(&*store).await, [], "the thread is busy");
    let third = queued(&*store, &key).await;
    let mut order = vec![first.run];
    over(&*store, first.run).await.unwrap();
    for _ in 0..8 {
        for run in taken(&*store).await {
            order.push(run);
            over(&*store, run).await.unwrap();
        }
    }
    assert_eq!(order.len(), 5, "{order:?}");
    let place = |run: RunId| order.iter().position(|other| *other == run).unwrap();
    assert!(place(second.run) < place(sooner.run) && place(second.run) < place(third.run), "{order:?}");
    assert!(place(sooner.run) < place(soon.run), "{order:?}");
    assert_eq!(store.run(&key.owner, soon.run).await.unwrap().unwrap().due_at, None);
    // A run that failed goes on, whatever waits for its time.
    let failed = claimed(&*store, &key).await;
    store.commit(last_barrier(&failed, RunState::Failed)).await.unwrap();
    let resumed = store.resume(resume(&key, failed.run, "there")).await.unwrap();
    assert!(matches!(resumed, Resumed::Claimed(_)));
}

async fn a_delayed_run_can_be_ended_before_it_begins(store: Arc<dyn Store>) {
    let run = delayed(&*store, "s", Duration::from_millis(1)).await;
    let end = store.request_cancel(
        &run.key.owner,
        run.run,
        Actor::User,
        false,
        b"end".to_vec(),
        batch(0, 2, 2, b"x"),
    );
    assert_eq!(end.await.unwrap().unwrap().state, RunState::Cancelled);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(taken(&*store).await, []);
    let later = delayed(&*store, "s", HOUR).await;
    assert!(store.delete_thread(&later.key).await.unwrap());
    assert_eq!(store.find_run(later.run).await.unwrap(), None);
}

async fn a_thread_that_waits_for_a_person_takes_what_is_for_later(store: Arc<dyn Store>) {
    let asking = claimed(&*store, &session("s")).await;
    store.commit(Commit { next: Some((RunState::Interrupted, None)), ..barrier(&asking) }).await.unwrap();
    let later = delayed(&*store, "s", Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(taken(&*store).await, [], "it waits for its turn");
    let end = batch(0, 2, 2, b"x");
    store.request_cancel(&asking.key.owner, asking.run, Actor::User, false, Vec::new(), end).await.unwrap();
    assert_eq!(taken(&*store).await, [later.run]);
}

async fn as_many_runs_may_wait_for_their_time_as_for_their_turn(store: Arc<dyn Store>) {
    let key = session("s");
    for _ in 0..2 {
        delayed(&*store, "s", HOUR).await;
    }
    claimed(&*store, &key).await;
    let new = |delay| NewRun { queue_limit: 2, delay, ..new_run(&key) };
    assert_eq!(store.accept(new(Some(HOUR))).await.unwrap(), Accepted::QueueFull);
    for _ in 0..2 {
        assert!(matches!(store.accept(new(None)).await.unwrap(), Accepted::Queued { .. }));
    }
    assert_eq!(store.accept(new(None)).await.unwrap(), Accepted::QueueFull);
}

async fn a_run_that_nobody_reads_is_found_until_it_pauses_or_goes_on_otherwise(store: Arc<dyn Store>) {
    let wish = |millis| Wishes { read_for: Some(Duration::from_millis(millis)), ..Wishes::default() };
    let found = async || store.unread(10).await.unwrap().iter().map(|run| run.run).collect::<Vec<_>>();
    let accept =
        async |name: &str, wishes| match store.accept(NewRun { wishes, ..new_run(&session(name)) }).await {
            Ok(Accepted::Claimed { run, .. } | Accepted::Queued { run }) => run,
            other => panic!("{other:?}"),
        };
    let (read, first) = (accept("read", wish(1)).await, accept("s", wish(1)).await);
    let behind = accept("s", wish(2)).await;
    let other = accept("other", Wishes::default()).await;
    assert!(read.needs_reader && !other.needs_reader);
    let noted = [(part("acme"), read.run), (part("acme"), other.run), (part("bolt"), first.run)];
    store.read_on(&noted, Duration::from_mins(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(found().await, [first.run, behind.run]);
    let row = store.run(&first.key.owner, first.run).await.unwrap().unwrap();
    store.release(&row.key.owner, row.run, row.fence).await.unwrap();
    assert_eq!(found().await, [first.run, behind.run], "the wish outlives a hand-off");
    let claim = store.claim(&process("there"), 10).await.unwrap().remove(0).run;
    assert_eq!((claim.run, claim.needs_reader), (first.run, true));
    store.commit(Commit { next: Some((RunState::Interrupted, None)), ..barrier(&claim) }).await.unwrap();
    assert_eq!(found().await, [behind.run]);
    let Resumed::Claimed(on) = store.resume(resume(&claim.key, claim.run, "x")).await.unwrap() else {
        panic!()
    };
    assert!(!on.run.needs_reader);
    store.commit(Commit { next: Some((RunState::Interrupted, None)), ..barrier(&on.run) }).await.unwrap();
    let wished = graphloom::store::Resume { wishes: wish(0), ..resume(&claim.key, claim.run, "x") };
    assert!(matches!(store.resume(wished).await.unwrap(), Resumed::Claimed(_)));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(found().await.len(), 2);
    for run in [&first, &behind] {
        let end = batch(0, 2, 2, b"x");
        store.request_cancel(&run.key.owner, run.run, Actor::User, false, Vec::new(), end).await.unwrap();
    }
    assert_eq!(found().await, []);
}

/// Nothing of this build makes a run wait so, and one that did must not be overtaken.
async fn a_run_that_waits_to_be_tried_again_keeps_its_place(subject: Subject, later: &str) {
    let (store, key) = (&*subject.store, session("s"));
    let run = claimed(store, &key).await;
    store.release(&key.owner, run.run, run.fence).await.unwrap();
    let behind = queued(store, &key).await;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    db.execute_unprepared(&format!("update run set available_at = {later} where fence > 0")).await.unwrap();
    assert_eq!(taken(store).await, []);
    db.execute_unprepared("update run set available_at = created_at").await.unwrap();
    assert_eq!(taken(store).await, [run.run]);
    over(store, run.run).await.unwrap();
    assert_eq!(taken(store).await, [behind.run]);
}

#[tokio::test]
async fn a_run_that_waits_to_be_tried_again_keeps_its_place_on_postgres() {
    a_run_that_waits_to_be_tried_again_keeps_its_place(
        Subject::postgres().await,
        "now() + interval '1 hour'",
    )
    .await;
}

#[tokio::test]
async fn a_run_that_waits_to_be_tried_again_keeps_its_place_on_sqlite() {
    let later = "cast((unixepoch() + 3600) * 1000000 as integer)";
    a_run_that_waits_to_be_tried_again_keeps_its_place(Subject::sqlite().await, later).await;
}
