//! Runs that begin from outside, and runs whose end takes back what they did.

use std::sync::Arc;

use futures_util::future::join_all;
use graphloom::id::{CheckpointId, InterruptId, RunId, ThreadId, ThreadKey};
use graphloom::store::{
    Accepted, Actor, Answer, Answering, Branch, Branched, Commit, Committed, Idempotency, Keyed, Origin,
    Question, Resumed, Run, RunState, Store,
};

use super::on_every_store;
use crate::support::{
    barrier, batch, checkpoint, claimed, last_barrier, line, new_run, nowhere, owner, process, queued,
    resume, session,
};

on_every_store![
    sealed:
    a_branch_is_stored_whole_and_waits_until_it_is_taken,
    a_branch_takes_no_thread_that_works_moved_or_is_gone,
    of_many_branches_one_is_stored,
    a_run_that_is_rolled_back_moves_its_thread_back,
    a_run_that_ended_otherwise_forgets_the_wish_to_roll_it_back,
    a_run_that_is_stopped_is_gone_on_with_by_a_resume_or_an_answer_alone,
];

fn at_head(run: &Run, head: Option<CheckpointId>) -> Branch {
    let id = RunId::new();
    let made = Run { run: id, ..run.clone() };
    Branch {
        origin: Origin::Head { head, result: b"over".to_vec(), events: batch(0, 2, 2, b"end") },
        run: id,
        key: run.key.clone(),
        thread: run.thread,
        graph: run.graph.clone(),
        hash: "hash-2".into(),
        input: b"again".to_vec(),
        checkpoint: graphloom::store::Checkpoint {
            source: "update".into(),
            ..checkpoint(&made, head, 7, false)
        },
        questions: Vec::new(),
        events: batch(1, 1, 3, b"told"),
        state: RunState::Interrupted,
        result: None,
        stopped: true,
        idempotency: None,
    }
}

fn ask(name: &str) -> Question {
    Question { id: InterruptId(name.into()), agent: false, data: vec![1], expires_at: None }
}

async fn head(store: &dyn Store, key: &ThreadKey) -> Option<CheckpointId> {
    store.thread(key).await.unwrap().unwrap().head
}

async fn a_branch_is_stored_whole_and_waits_until_it_is_taken(store: Arc<dyn Store>) {
    let key = session("s");
    let mut run = claimed(&*store, &key).await;
    let made = line(&*store, &mut run, 2, 9).await;
    let pause =
        Commit { questions: vec![ask("old")], next: Some((RunState::Interrupted, None)), ..barrier(&run) };
    store.commit(pause).await.unwrap();
    let branch = Branch { questions: vec![ask("new")], ..at_head(&run, Some(made[1].checkpoint)) };
    let Branched::Done(new) = store.branch(branch.clone()).await.unwrap() else { panic!() };
    assert_eq!((new.run, new.state, new.fence, new.step), (branch.run, RunState::Interrupted, 1, 1));
    assert_eq!((new.input.as_slice(), new.hash.as_str(), new.thread), (&b"again"[..], "hash-2", run.thread));
    let old = store.run(&key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((old.state, old.result.as_deref(), old.fence), (RunState::Cancelled, Some(&b"over"[..]), 2));
    let open = store.questions(&key).await.unwrap();
    assert_eq!(open.iter().map(|open| open.id.to_string()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(head(&*store, &key).await, Some(branch.checkpoint.checkpoint));
    let chain = store.chain(&key.owner, run.thread, branch.checkpoint.checkpoint).await.unwrap();
    assert_eq!(chain.len(), 3);
    let told = store.events(&key.owner, new.run, graphloom::id::Seq::default(), 100).await.unwrap();
    assert_eq!(told, std::slice::from_ref(&branch.events));
    assert!(store.claim(&process("there"), 9).await.unwrap().is_empty());
    assert_eq!(store.accept(new_run(&key)).await.unwrap(), Accepted::Waits);
    let Resumed::Claimed(claim) = store.resume(resume(&key, new.run, "there")).await.unwrap() else {
        panic!()
    };
    assert_eq!((claim.run.fence, claim.head), (2, Some(branch.checkpoint.checkpoint)));
    // A fork is a thread of its own, and lasts when the other is deleted.
    let forked = session("t");
    let fork = |key: &ThreadKey| {
        let branch = at_head(&run, None);
        Branch { origin: Origin::Thread(run.thread), key: key.clone(), thread: ThreadId::new(), ..branch }
    };
    let Branched::Done(there) = store.branch(fork(&forked)).await.unwrap() else { panic!() };
    assert_ne!(there.thread, run.thread);
    assert_eq!(store.branch(fork(&forked)).await.unwrap(), Branched::Exists);
    let stranger = ThreadKey { owner: owner("acme", "bob"), session: forked.session.clone() };
    assert_eq!(store.branch(fork(&stranger)).await.unwrap(), Branched::Gone);
    assert!(store.delete_thread(&key).await.unwrap());
    assert_eq!(store.branch(fork(&session("u"))).await.unwrap(), Branched::Gone);
    assert!(store.thread(&forked).await.unwrap().is_some());
    assert!(store.thread(&session("u")).await.unwrap().is_none());
}

async fn a_branch_takes_no_thread_that_works_moved_or_is_gone(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    assert_eq!(store.branch(at_head(&run, None)).await.unwrap(), Branched::Busy(run.run));
    let waits = queued(&*store, &key).await;
    store.commit(Commit { next: Some((RunState::Interrupted, None)), ..barrier(&run) }).await.unwrap();
    assert_eq!(store.branch(at_head(&run, None)).await.unwrap(), Branched::Busy(waits.run));
    store
        .request_cancel(&key.owner, waits.run, Actor::User, false, vec![], batch(0, 2, 2, b""))
        .await
        .unwrap();
    let elsewhere = at_head(&run, Some(CheckpointId::new()));
    assert_eq!(store.branch(elsewhere).await.unwrap(), Branched::Moved);
    let state = store.run(&key.owner, run.run).await.unwrap().unwrap().state;
    assert_eq!(state, RunState::Interrupted, "nothing was stored");
    let nobody = Branch { key: session("none"), ..at_head(&run, None) };
    assert_eq!(store.branch(nobody).await.unwrap(), Branched::Gone);
    let orphan = Branch { origin: Origin::Thread(nowhere()), key: session("t"), ..at_head(&run, None) };
    assert_eq!(store.branch(orphan).await.unwrap(), Branched::Gone);
}

async fn of_many_branches_one_is_stored(store: Arc<dyn Store>) {
    for keyed in [true, false] {
        let key = session(if keyed { "k" } else { "s" });
        let run = claimed(&*store, &key).await;
        store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
        let used = Idempotency { route: "update/s".into(), key: "k".into(), body_hash: "x".into() };
        let all = (0..12).map(|_| {
            let branch = Branch { idempotency: keyed.then(|| used.clone()), ..at_head(&run, None) };
            let store = store.clone();
            async move { store.branch(branch).await.unwrap() }
        });
        let all = join_all(all).await;
        let done: Vec<&Branched> = all.iter().filter(|one| matches!(one, Branched::Done(_))).collect();
        assert_eq!(done.len(), 1, "{all:?}");
        for one in all.iter().filter(|one| !matches!(one, Branched::Done(_))) {
            match one {
                Branched::Moved => {}
                Branched::Known(Keyed::Same { run, .. }) if keyed => {
                    assert_eq!(*done[0], Branched::Done(Box::new((**run).clone())));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn a_run_that_is_rolled_back_moves_its_thread_back(store: Arc<dyn Store>) {
    let key = session("s");
    let mut first = claimed(&*store, &key).await;
    let made = line(&*store, &mut first, 2, 9).await;
    let last = Commit { step: 2, ..last_barrier(&first, RunState::Completed) };
    store.commit(last).await.unwrap();
    let before = Some(made[1].checkpoint);
    // At work: with its end.
    let run = claimed(&*store, &key).await;
    let point = checkpoint(&run, before, 0, false);
    let next = checkpoint(&run, Some(point.checkpoint), 1, false);
    store.commit(Commit { checkpoints: vec![point, next], ..barrier(&run) }).await.unwrap();
    let asked =
        store.request_cancel(&key.owner, run.run, Actor::User, true, vec![], batch(0, 2, 2, b"")).await;
    let asked = asked.unwrap().unwrap();
    assert_eq!((asked.state, asked.cancel_requested, asked.rollback), (RunState::Running, true, true));
    assert_ne!(head(&*store, &key).await, before);
    let last = Commit { step: 1, ..last_barrier(&run, RunState::RolledBack) };
    let Committed::Done { .. } = store.commit(last).await.unwrap() else { panic!() };
    assert_eq!(head(&*store, &key).await, before);
    // Waiting: at once; and one that never began moves nothing.
    let run = claimed(&*store, &key).await;
    let commit = Commit {
        checkpoints: vec![checkpoint(&run, before, 0, false)],
        questions: vec![ask("a")],
        next: Some((RunState::Interrupted, None)),
        ..barrier(&run)
    };
    store.commit(commit).await.unwrap();
    let behind = store
        .request_cancel(&key.owner, run.run, Actor::User, true, b"x".to_vec(), batch(0, 2, 2, b""))
        .await;
    assert_eq!(behind.unwrap().unwrap().state, RunState::RolledBack);
    assert_eq!(head(&*store, &key).await, before);
    assert!(store.questions(&key).await.unwrap().is_empty());
    let run = claimed(&*store, &key).await;
    let waits = queued(&*store, &key).await;
    store
        .request_cancel(&key.owner, waits.run, Actor::User, true, vec![], batch(0, 2, 2, b""))
        .await
        .unwrap();
    store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
    // Of one from outside, what it went on from stays; and it is for its owner.
    let branch = at_head(&run, before);
    store.branch(branch.clone()).await.unwrap();
    let stranger = owner("acme", "bob");
    assert!(
        store
            .request_cancel(&stranger, branch.run, Actor::User, true, vec![], batch(0, 2, 2, b""))
            .await
            .unwrap()
            .is_none()
    );
    store
        .request_cancel(&key.owner, branch.run, Actor::User, true, vec![], batch(0, 2, 2, b""))
        .await
        .unwrap();
    assert_eq!(head(&*store, &key).await, Some(branch.checkpoint.checkpoint));
}

/// A cancel of a run that was resumed threw away what it had done, where an earlier one had asked for that.
async fn a_run_that_ended_otherwise_forgets_the_wish_to_roll_it_back(store: Arc<dyn Store>) {
    for (name, end) in [("s", RunState::Failed), ("t", RunState::Dead)] {
        let key = session(name);
        let run = claimed(&*store, &key).await;
        store
            .request_cancel(&key.owner, run.run, Actor::User, true, vec![], batch(0, 2, 2, b""))
            .await
            .unwrap();
        store.commit(last_barrier(&run, end)).await.unwrap();
        let again = if end == RunState::Failed {
            let resumed = store.resume(resume(&key, run.run, "here")).await.unwrap();
            let Resumed::Claimed(claim) = resumed else { panic!("{resumed:?}") };
            claim.run
        } else {
            store.retry(run.run).await.unwrap().unwrap()
        };
        assert_eq!((again.cancel_requested, again.rollback), (false, false), "{end:?}");
    }
}

async fn a_run_that_is_stopped_is_gone_on_with_by_a_resume_or_an_answer_alone(store: Arc<dyn Store>) {
    let key = session("s");
    let mut run = claimed(&*store, &key).await;
    let reply = |run: &Run, name: &str| Answer {
        owner: run.key.owner.clone(),
        agent: false,
        run: run.run,
        key: run.key.clone(),
        answers: vec![(InterruptId(name.into()), vec![2])],
        by: "ann".into(),
        idempotency: None,
        process: process("here"),
        input: Some(b"other".to_vec()),
        wishes: graphloom::store::Wishes::default(),
    };
    let now = chrono::Utc::now();
    let over = Question { expires_at: Some(now), ..ask("over") };
    store.commit(Commit { questions: vec![over, ask("a"), ask("b")], ..barrier(&run) }).await.unwrap();
    run.step += 1;
    assert!(matches!(store.answer(reply(&run, "a")).await.unwrap(), Answering::Stored { .. }));
    let stop = Commit { stopped: true, next: Some((RunState::Interrupted, None)), ..barrier(&run) };
    store.commit(stop).await.unwrap();
    let state = store.run(&key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((state.state, state.input.as_slice()), (RunState::Interrupted, &b"hello"[..]));
    assert!(store.claim(&process("there"), 9).await.unwrap().is_empty());
    assert_eq!(store.accept(new_run(&key)).await.unwrap(), Accepted::Waits);
    let Answering::Claimed(claim) = store.answer(reply(&run, "b")).await.unwrap() else { panic!() };
    assert_eq!(claim.run.input, b"other");
    let stop = Commit { stopped: true, next: Some((RunState::Interrupted, None)), ..barrier(&claim.run) };
    store.commit(stop).await.unwrap();
    let wish = graphloom::store::Resume { input: Some(b"third".to_vec()), ..resume(&key, run.run, "there") };
    let Resumed::Claimed(claim) = store.resume(wish).await.unwrap() else { panic!() };
    assert_eq!((claim.run.input.as_slice(), claim.run.fence), (&b"third"[..], 3));
}
