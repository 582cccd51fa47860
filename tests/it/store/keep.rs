//! What is kept, and for how long.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{CheckpointId, Seq, ThreadKey};
use graphloom::store::{Checkpoint, Commit, EventBatch, Kept, Resumed, Run, RunState, Store};

use super::on_every_store;
use crate::support::{barrier, batch, checkpoint, claimed, last_barrier, owner, resume, session};

on_every_store![
    events_are_kept_while_the_run_is_not_over_and_then_less_and_less,
    a_thread_keeps_the_checkpoints_that_its_head_stands_on,
    what_is_old_is_looked_at_once_and_in_steps,
];

const DAY: Duration = Duration::from_hours(24);

async fn ids(store: &dyn Store, kept: Kept, age: Duration) -> Vec<Run> {
    store.overdue(kept, age, 10).await.unwrap()
}

async fn events(store: &dyn Store, run: &Run) -> Vec<EventBatch> {
    store.events(&run.key.owner, run.run, Seq::default(), 1 << 20).await.unwrap()
}

async fn events_are_kept_while_the_run_is_not_over_and_then_less_and_less(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let told = batch(1, 2, 9, b"all of it");
    store.commit(Commit { events: Some(told.clone()), ..barrier(&run) }).await.unwrap();
    let keep = async |user: &str, kept: Kept, data: &[u8]| {
        let lean = vec![EventBatch { data: data.to_vec(), ..told.clone() }];
        let key = ThreadKey { owner: owner("acme", user), ..run.key.clone() };
        store.keep_events(&Run { key, ..run.clone() }, kept, lean).await.unwrap()
    };
    assert!(ids(&*store, Kept::All, Duration::ZERO).await.is_empty(), "it is not over");
    assert!(!keep("ann", Kept::Lean, b"less").await);
    store.commit(last_barrier(&Run { step: 1, ..run.clone() }, RunState::Failed)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(ids(&*store, Kept::All, DAY).await.is_empty(), "it is not over for so long");
    assert!(ids(&*store, Kept::Lean, Duration::ZERO).await.is_empty());
    assert_eq!(ids(&*store, Kept::All, Duration::ZERO).await[0].run, run.run);
    assert!(!keep("bob", Kept::Lean, b"less").await, "it is not his");
    assert!(keep("ann", Kept::Lean, b"less").await);
    assert!(!keep("ann", Kept::Lean, b"again").await, "once is enough");
    assert_eq!(events(&*store, &run).await, [EventBatch { data: b"less".to_vec(), ..told.clone() }]);
    assert!(ids(&*store, Kept::All, Duration::ZERO).await.is_empty());
    assert_eq!(ids(&*store, Kept::Lean, Duration::ZERO).await[0].kept, Kept::Lean);
    assert!(store.keep_events(&run, Kept::Nothing, Vec::new()).await.unwrap());
    assert!(events(&*store, &run).await.is_empty());
    let row = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((row.kept, row.state), (Kept::Nothing, RunState::Failed));
    // A run that goes on has events again.
    let resumed = store.resume(resume(&run.key, run.run, "here")).await.unwrap();
    let Resumed::Claimed(claim) = resumed else { panic!("{resumed:?}") };
    assert_eq!(claim.run.kept, Kept::All);
    // Who read it before it went on knows too little to say what is kept.
    let more = batch(claim.run.fence, 1, 3, b"more");
    let end = Commit { events: Some(more.clone()), ..last_barrier(&claim.run, RunState::Completed) };
    store.commit(end).await.unwrap();
    assert!(!keep("ann", Kept::Lean, b"less").await, "it went on");
    assert_eq!(events(&*store, &run).await, [more]);
}

/// A thread of four barriers, the second of which is a snapshot.
async fn line(store: &dyn Store, name: &str) -> (Run, Vec<CheckpointId>) {
    let mut run = claimed(store, &session(name)).await;
    let (mut ids, mut parent) = (Vec::new(), None);
    for step in 0..4 {
        let mut point: Checkpoint = checkpoint(&run, parent, step, step == 1);
        point.created_at = chrono::Utc::now() - chrono::TimeDelta::days(2);
        parent = Some(point.checkpoint);
        ids.push(point.checkpoint);
        let next = (step == 3).then(|| (RunState::Completed, Some(b"the end".to_vec())));
        store.commit(Commit { checkpoints: vec![point], next, ..barrier(&run) }).await.unwrap();
        run.step += 1;
    }
    (run, ids)
}

async fn history(store: &dyn Store, run: &Run) -> Vec<CheckpointId> {
    let rows = store.history(&run.key.owner, run.thread, None, 10).await.unwrap();
    rows.iter().rev().map(|row| row.checkpoint).collect()
}

async fn a_thread_keeps_the_checkpoints_that_its_head_stands_on(store: Arc<dyn Store>) {
    let (run, line) = line(&*store, "s").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(store.forget_checkpoints(DAY, 10).await.unwrap(), 0, "its run is not over for so long");
    assert_eq!(history(&*store, &run).await, line);
    assert_eq!(store.forget_checkpoints(Duration::from_millis(1), 10).await.unwrap(), 1);
    assert_eq!(history(&*store, &run).await, line[1..], "the snapshot and what follows");
    let chain = store.chain(&run.key.owner, run.thread, line[3]).await.unwrap();
    assert_eq!(chain.len(), 3);
    assert!(store.chain(&run.key.owner, run.thread, line[0]).await.unwrap().is_empty());
}

async fn what_is_old_is_looked_at_once_and_in_steps(store: Arc<dyn Store>) {
    for name in ["s", "t", "u"] {
        line(&*store, name).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut steps = Vec::new();
    loop {
        let threads = store.forget_checkpoints(Duration::from_millis(1), 2).await.unwrap();
        steps.push(threads);
        if threads == 0 {
            break;
        }
    }
    assert_eq!(steps, [2, 1, 0]);
    assert_eq!(store.overdue(Kept::All, Duration::ZERO, 2).await.unwrap().len(), 2);
}
