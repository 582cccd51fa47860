//! What comes together: a former owner with its successor, a resume with a new run, an end with what is open.

use std::sync::Arc;

use futures_util::future::join_all;
use graphloom::id::{InterruptId, TaskId};
use graphloom::store::{
    Accepted, Actor, Answer, Answering, Commit, Process, Question, Resumed, Run, RunState, Store,
};

use super::on_every_store;
use crate::support::{barrier, batch, claimed, last_barrier, new_run, process, resume, session};

on_every_store![
    a_former_owner_keeps_nothing_that_its_successor_did_not_read,
    a_resume_that_races_with_a_new_run_gives_way_or_goes_first,
    a_resume_opens_the_questions_that_the_failure_left,
    an_answer_that_races_with_a_cancel_leaves_one_end,
    questions_are_listed_as_they_were_put,
    a_cancelled_run_leaves_nothing_pending,
];

fn ask(name: &str) -> Question {
    Question { id: InterruptId(name.into()), agent: false, data: vec![1], expires_at: None }
}

fn reply(run: &Run, name: &str) -> Answer {
    Answer {
        owner: run.key.owner.clone(),
        agent: false,
        run: run.run,
        key: run.key.clone(),
        answers: vec![(InterruptId(name.into()), vec![2])],
        by: "ann".into(),
        idempotency: None,
        process: process("here"),
        input: None,
        wishes: graphloom::store::Wishes::default(),
    }
}

async fn open(store: &dyn Store, run: &Run) -> Vec<String> {
    store.questions(&run.key).await.unwrap().iter().map(|open| open.id.to_string()).collect()
}

async fn pending(store: &dyn Store, run: &Run) -> usize {
    store.pending(&run.key.owner, run.run, 1).await.unwrap().len()
}

/// A process that had lost its run could still keep a result, and be told that it owns the run, after its successor had
/// read what there was: a call that must not be made twice would have been made by both.
async fn a_former_owner_keeps_nothing_that_its_successor_did_not_read(store: Arc<dyn Store>) {
    for round in 0..20 {
        let run = claimed(&*store, &session(&format!("s{round}"))).await;
        let puts = (0..11).map(|n| {
            let (store, run) = (store.clone(), run.clone());
            async move {
                let task = TaskId(format!("t{n}").into());
                let put = store.put_pending(&run.key.owner, run.run, 1, 1, &task, b"x".to_vec());
                put.await.unwrap()
            }
        });
        let (taker, of) = (store.clone(), run.clone());
        let take = async move {
            let again = Process { boot: uuid::Uuid::now_v7(), ..process("here") };
            // A claim passes by what somebody works on at the moment.
            while taker.claim(&again, 1).await.unwrap().is_empty() {}
            pending(&*taker, &of).await
        };
        #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
        let (puts, take) = (puts.map(tokio::spawn).collect::<Vec<_>>(), tokio::spawn(take));
        let kept = join_all(puts).await.into_iter().filter(|kept| *kept.as_ref().unwrap()).count();
        assert_eq!(take.await.unwrap(), kept, "round {round}");
        assert_eq!(pending(&*store, &run).await, kept);
        let run = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
        store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
    }
}

/// The loser of the two was told that the database is not available.
async fn a_resume_that_races_with_a_new_run_gives_way_or_goes_first(store: Arc<dyn Store>) {
    for round in 0..20 {
        let run = claimed(&*store, &session(&format!("s{round}"))).await;
        store.commit(last_barrier(&run, RunState::Failed)).await.unwrap();
        let (accepting, resuming, key) = (store.clone(), store.clone(), run.key.clone());
        #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
        let tasks = (
            tokio::spawn(async move { accepting.accept(new_run(&key)).await.unwrap() }),
            tokio::spawn(async move { resuming.resume(resume(&run.key, run.run, "there")).await.unwrap() }),
        );
        let (accepted, resumed) = (tasks.0.await.unwrap(), tasks.1.await.unwrap());
        match accepted {
            Accepted::Claimed { .. } => assert_eq!(resumed, Resumed::Nothing),
            Accepted::Queued { .. } => assert!(matches!(resumed, Resumed::Claimed(_))),
            other => panic!("{other:?}"),
        }
    }
}

async fn a_resume_opens_the_questions_that_the_failure_left(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let questions = ["left", "answered", "closed"].map(ask).to_vec();
    store.commit(Commit { questions, ..barrier(&run) }).await.unwrap();
    assert!(matches!(store.answer(reply(&run, "answered")).await.unwrap(), Answering::Stored { .. }));
    run.step = 1;
    let closed = vec![InterruptId("closed".into())];
    store.commit(Commit { closed, ..last_barrier(&run, RunState::Failed) }).await.unwrap();
    assert!(open(&*store, &run).await.is_empty());
    assert!(matches!(store.answer(reply(&run, "left")).await.unwrap(), Answering::Unknown(_)));
    let resumed = store.resume(resume(&run.key, run.run, "there")).await.unwrap();
    assert!(matches!(resumed, Resumed::Claimed(_)));
    assert_eq!(open(&*store, &run).await, ["left"]);
    assert_eq!(store.answers(&run.key.owner, run.run).await.unwrap().len(), 1);
    assert!(matches!(store.answer(reply(&run, "left")).await.unwrap(), Answering::Stored { .. }));
    assert!(matches!(store.answer(reply(&run, "closed")).await.unwrap(), Answering::Unknown(_)));
}

async fn an_answer_that_races_with_a_cancel_leaves_one_end(store: Arc<dyn Store>) {
    for round in 0..20 {
        let (key, name) = (session(&format!("s{round}")), format!("q{round}"));
        let run = claimed(&*store, &key).await;
        let pause = Commit {
            questions: vec![ask(&name)],
            next: Some((RunState::Interrupted, None)),
            ..barrier(&run)
        };
        store.commit(pause).await.unwrap();
        let (answering, cancelling, reply) = (store.clone(), store.clone(), reply(&run, &name));
        #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
        let tasks = (
            tokio::spawn(async move { answering.answer(reply).await.unwrap() }),
            tokio::spawn(async move {
                cancelling
                    .request_cancel(&key.owner, run.run, Actor::User, false, vec![], batch(0, 1, 1, b"end"))
                    .await
                    .unwrap()
            }),
        );
        let (answered, cancelled) = (tasks.0.await.unwrap(), tasks.1.await.unwrap().unwrap());
        match answered {
            Answering::Claimed(claim) => {
                assert_eq!((claim.run.fence, cancelled.state), (2, RunState::Running));
                assert!(cancelled.cancel_requested);
            }
            Answering::Unknown(_) => assert_eq!((cancelled.fence, cancelled.state), (2, RunState::Cancelled)),
            other => panic!("{other:?}"),
        }
    }
}

async fn questions_are_listed_as_they_were_put(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    store.commit(Commit { questions: ["z", "m", "a"].map(ask).to_vec(), ..barrier(&run) }).await.unwrap();
    run.step = 1;
    let pause = Commit { next: Some((RunState::Interrupted, None)), ..barrier(&run) };
    store.commit(Commit { questions: ["y", "b"].map(ask).to_vec(), ..pause }).await.unwrap();
    assert_eq!(open(&*store, &run).await, ["z", "m", "a", "y", "b"]);
}

async fn a_cancelled_run_leaves_nothing_pending(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let (owner, task) = (&run.key.owner, TaskId("t".into()));
    assert!(store.put_pending(owner, run.run, 1, 1, &task, b"x".to_vec()).await.unwrap());
    store.release(owner, run.run, 1).await.unwrap();
    assert!(!store.put_pending(owner, run.run, 1, 1, &task, b"x".to_vec()).await.unwrap());
    assert_eq!(pending(&*store, &run).await, 1);
    store.request_cancel(owner, run.run, Actor::User, false, vec![], batch(0, 1, 1, b"")).await.unwrap();
    assert_eq!(pending(&*store, &run).await, 0);
}
