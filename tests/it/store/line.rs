//! Checkpoints: the line that they form, and the head.

use std::sync::Arc;

use graphloom::id::{CheckpointId, Seq};
use graphloom::store::{Checkpoint, Commit, Committed, RunState, Store};

use super::on_every_store;
use crate::support::{barrier, checkpoint, claimed, line, nowhere, owner, session};

on_every_store![
    a_chain_goes_from_the_nearest_snapshot_to_the_checkpoint,
    a_chain_of_hundreds_without_a_snapshot_reads_whole,
    history_goes_back_from_the_head_in_pages,
    a_commit_may_write_several_checkpoints_and_moves_the_head_to_the_last,
    only_a_commit_moves_the_head,
    a_line_may_branch_and_each_branch_reads_alone,
    bytes_come_back_as_they_were,
];

async fn a_chain_goes_from_the_nearest_snapshot_to_the_checkpoint(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let made = line(&*store, &mut run, 23, 10).await;
    let owner = &run.key.owner;
    for at in [0, 1, 9, 10, 15, 22] {
        let chain = store.chain(owner, run.thread, made[at].checkpoint).await.unwrap();
        assert_eq!(chain, made[at / 10 * 10..=at], "at {at}");
    }
    assert_eq!(store.chain(owner, run.thread, CheckpointId::new()).await.unwrap(), []);
    assert_eq!(store.chain(owner, nowhere(), made[0].checkpoint).await.unwrap(), []);
}

async fn a_chain_of_hundreds_without_a_snapshot_reads_whole(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let made = line(&*store, &mut run, 230, 1000).await;
    let last = made.last().unwrap().checkpoint;
    assert_eq!(store.chain(&run.key.owner, run.thread, last).await.unwrap(), made);
    let history = store.history(&run.key.owner, run.thread, None, 1000).await.unwrap();
    assert_eq!(history.len(), 230);
}

async fn history_goes_back_from_the_head_in_pages(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let owner = run.key.owner.clone();
    assert_eq!(store.history(&owner, run.thread, None, 10).await.unwrap(), []);
    let made = line(&*store, &mut run, 25, 10).await;
    let expected: Vec<Checkpoint> =
        made.iter().rev().map(|c| Checkpoint { snapshot: None, ..c.clone() }).collect();
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = store.history(&owner, run.thread, before, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.checkpoint);
        assert!(page.len() <= 10);
        found.extend(page);
    }
    assert_eq!(found, expected);
    assert_eq!(store.history(&owner, run.thread, Some(CheckpointId::new()), 10).await.unwrap(), []);
    assert_eq!(store.history(&owner, run.thread, None, 0).await.unwrap(), []);
}

async fn a_commit_may_write_several_checkpoints_and_moves_the_head_to_the_last(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let input = Checkpoint { source: "input".into(), ..checkpoint(&run, None, 0, true) };
    let step = checkpoint(&run, Some(input.checkpoint), 1, false);
    let commit = Commit { checkpoints: vec![input.clone(), step.clone()], ..barrier(&run) };
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done { cancel_requested: false, kept: true });
    assert_eq!(store.thread(&run.key).await.unwrap().unwrap().head, Some(step.checkpoint));
    let chain = store.chain(&run.key.owner, run.thread, step.checkpoint).await.unwrap();
    assert_eq!(chain, [input, step]);
}

async fn only_a_commit_moves_the_head(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let made = line(&*store, &mut run, 1, 1).await;
    let head = Some(made[0].checkpoint);
    let thread = store.thread(&run.key).await.unwrap().unwrap();
    assert_eq!(thread.head, head);
    // Neither a commit without checkpoints nor a lost one moves it.
    store.commit(barrier(&run)).await.unwrap();
    let lost = Commit { fence: 9, checkpoints: vec![checkpoint(&run, head, 9, false)], ..barrier(&run) };
    assert_eq!(store.commit(lost.clone()).await.unwrap(), Committed::Lost);
    let other_thread = Commit { fence: 1, step: 2, thread: nowhere(), ..lost };
    let _ = store.commit(other_thread).await.unwrap();
    let after = store.thread(&run.key).await.unwrap().unwrap();
    assert_eq!((after.head, after.created_at), (head, thread.created_at));
    assert!(after.updated_at >= thread.updated_at);
    assert_eq!(store.history(&run.key.owner, run.thread, None, 10).await.unwrap().len(), 1);
}

async fn a_line_may_branch_and_each_branch_reads_alone(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let trunk = line(&*store, &mut run, 3, 10).await;
    let left = checkpoint(&run, Some(trunk[1].checkpoint), 7, false);
    let commit =
        Commit { checkpoints: vec![left.clone()], next: Some((RunState::Completed, None)), ..barrier(&run) };
    store.commit(commit).await.unwrap();
    let chain = store.chain(&run.key.owner, run.thread, left.checkpoint).await.unwrap();
    assert_eq!(chain, [trunk[0].clone(), trunk[1].clone(), left.clone()]);
    let chain = store.chain(&run.key.owner, run.thread, trunk[2].checkpoint).await.unwrap();
    assert_eq!(chain, trunk);
    let history = store.history(&run.key.owner, run.thread, None, 10).await.unwrap();
    assert_eq!(
        history.iter().map(|c| c.checkpoint).collect::<Vec<_>>(),
        [left.checkpoint, trunk[1].checkpoint, trunk[0].checkpoint]
    );
    // Somebody else sees none of it.
    assert_eq!(store.chain(&owner("acme", "bob"), run.thread, left.checkpoint).await.unwrap(), []);
    assert_eq!(store.history(&owner("bolt", "ann"), run.thread, None, 10).await.unwrap(), []);
}

async fn bytes_come_back_as_they_were(store: Arc<dyn Store>) {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).chain([0, 0]).collect();
    let mut new = crate::support::new_run(&session("s"));
    new.input.clone_from(&bytes);
    let graphloom::store::Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
    let made = Checkpoint {
        delta: bytes.clone(),
        snapshot: Some(bytes.clone()),
        frontier: vec![],
        ..checkpoint(&run, None, 0, true)
    };
    let events = crate::support::batch(1, 1, 1, &bytes);
    let commit = Commit {
        checkpoints: vec![made.clone()],
        events: Some(events.clone()),
        next: Some((RunState::Completed, Some(bytes.clone()))),
        ..barrier(&run)
    };
    store.commit(commit).await.unwrap();
    let owner = &run.key.owner;
    assert_eq!(store.chain(owner, run.thread, made.checkpoint).await.unwrap(), [made]);
    assert_eq!(store.events(owner, run.run, Seq::default(), 10).await.unwrap(), [events]);
    let found = store.run(owner, run.run).await.unwrap().unwrap();
    assert_eq!((found.input, found.result), (bytes.clone(), Some(bytes)));
}
