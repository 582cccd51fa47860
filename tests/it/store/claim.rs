//! Who runs what: claims, leases, fences.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use graphloom::id::{Seq, ThreadId};
use graphloom::store::{Accepted, Actor, Beat, Commit, Committed, NewRun, Process, Run, RunState, Store};
use uuid::Uuid;

use super::on_every_store;
use crate::support::{barrier, batch, checkpoint, claimed, last_barrier, new_run, process, queued, session};

on_every_store![
    racing_claimers_never_run_two_of_a_thread_and_claim_each_run_once,
    a_lease_that_ran_out_is_taken_with_a_new_fence_and_counts_a_crash,
    a_former_owner_cannot_write,
    a_step_commits_once,
    a_restarted_process_takes_its_runs_back_at_once,
    a_heartbeat_keeps_runs_and_reports_the_cancelled,
    a_run_that_its_process_does_not_drive_is_claimed_again,
    progress_forgives_crashes,
    a_released_run_goes_first_and_counts_no_crash,
    a_claim_takes_no_more_than_it_asked_for,
    a_claim_starts_from_the_head_of_its_thread,
    claims_and_commits_that_race_lose_nothing,
];

/// Returns a process whose claims hold for no time at all.
fn fleeting(instance: &str) -> Process {
    Process { lease: Duration::ZERO, ..process(instance) }
}

async fn spawn_all<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

async fn racing_claimers_never_run_two_of_a_thread_and_claim_each_run_once(store: Arc<dyn Store>) {
    // 50 threads with 4 waiting runs each: the first run of each ends at once.
    for t in 0..50 {
        let key = session(&format!("t{t}"));
        let first = claimed(&*store, &key).await;
        for _ in 0..4 {
            queued(&*store, &key).await;
        }
        store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
    }
    let mut seen = BTreeMap::new();
    for round in 1..=4 {
        let claims = spawn_all((0..16).map(|i| {
            let store = store.clone();
            async move {
                let me = process(&format!("p{i}"));
                let mut mine = Vec::new();
                loop {
                    let claims = store.claim(&me, 5).await.unwrap();
                    if claims.is_empty() {
                        return mine;
                    }
                    mine.extend(claims);
                }
            }
        }));
        let claims: Vec<_> = claims.await.into_iter().flatten().collect();
        let mut threads: BTreeMap<ThreadId, u32> = BTreeMap::new();
        for claim in &claims {
            *threads.entry(claim.run.thread).or_default() += 1;
            *seen.entry(claim.run.run).or_insert(0) += 1;
            assert!(!claim.crashed && claim.run.fence == 1);
        }
        // A claimer that found nothing while another one was at work leaves no run behind.
        assert_eq!((round, claims.len(), threads.len()), (round, 50, 50));
        for claim in claims {
            store.commit(last_barrier(&claim.run, RunState::Completed)).await.unwrap();
        }
    }
    assert_eq!((seen.len(), seen.values().max()), (200, Some(&1)));
}

async fn abandoned(store: &dyn Store, name: &str) -> Run {
    let new = NewRun { process: fleeting("here"), ..new_run(&session(name)) };
    let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
    // The lease holds until the clock has moved at all.
    tokio::time::sleep(Duration::from_millis(2)).await;
    run
}

async fn a_lease_that_ran_out_is_taken_with_a_new_fence_and_counts_a_crash(store: Arc<dyn Store>) {
    let run = abandoned(&*store, "s").await;
    for (fence, crashes) in [(2, 1), (3, 2)] {
        let claims = store.claim(&fleeting("there"), 10).await.unwrap();
        assert_eq!(claims.len(), 1);
        let claim = &claims[0];
        assert!(claim.crashed);
        assert_eq!((claim.run.run, claim.run.fence, claim.run.crashes), (run.run, fence, crashes));
        assert_eq!(store.run(&run.key.owner, run.run).await.unwrap().unwrap(), claim.run);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let holder = process("third");
    assert_eq!(store.claim(&holder, 10).await.unwrap().len(), 1);
    assert!(store.claim(&process("fourth"), 10).await.unwrap().is_empty());
}

async fn a_former_owner_cannot_write(store: Arc<dyn Store>) {
    let run = abandoned(&*store, "s").await;
    let claim = store.claim(&process("there"), 1).await.unwrap().remove(0);
    let stale = Commit {
        checkpoints: vec![checkpoint(&run, None, 0, true)],
        events: Some(batch(1, 1, 1, b"stale")),
        ..last_barrier(&run, RunState::Failed)
    };
    assert_eq!(store.commit(stale).await.unwrap(), Committed::Lost);
    store.append_events(vec![(run.key.owner.clone(), run.run, batch(1, 1, 1, b"stale"))]).await.unwrap();
    store.release(&run.key.owner, run.run, 1).await.unwrap();
    assert_eq!(store.run(&run.key.owner, run.run).await.unwrap().unwrap(), claim.run);
    assert_eq!(store.thread(&run.key).await.unwrap().unwrap().head, None);
    let events = store.events(&run.key.owner, run.run, Seq::default(), 1000).await.unwrap();
    assert_eq!(events, []);
    assert_eq!(
        store.commit(barrier(&claim.run)).await.unwrap(),
        Committed::Done { cancel_requested: false, kept: true }
    );
}

async fn a_step_commits_once(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let once = Commit { checkpoints: vec![checkpoint(&run, None, 0, true)], ..barrier(&run) };
    assert_eq!(
        store.commit(once.clone()).await.unwrap(),
        Committed::Done { cancel_requested: false, kept: true }
    );
    assert_eq!(store.commit(once).await.unwrap(), Committed::Lost);
    let ahead = Commit { step: 2, ..barrier(&run) };
    assert_eq!(store.commit(ahead).await.unwrap(), Committed::Lost);
    let found = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((found.step, found.state), (1, RunState::Running));
    let last = Commit { step: 1, ..last_barrier(&run, RunState::Completed) };
    assert_eq!(store.commit(last).await.unwrap(), Committed::Done { cancel_requested: false, kept: true });
    let after = Commit { step: 2, ..last_barrier(&run, RunState::Failed) };
    assert_eq!(store.commit(after).await.unwrap(), Committed::Lost);
    let found = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((found.state, found.result.as_deref()), (RunState::Completed, Some(&b"the end"[..])));
    assert!(found.finished_at.is_some());
}

async fn a_restarted_process_takes_its_runs_back_at_once(store: Arc<dyn Store>) {
    let before = process("here");
    let new = NewRun { process: before.clone(), ..new_run(&session("s")) };
    let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
    assert!(store.claim(&before, 10).await.unwrap().is_empty(), "the same boot owns it already");
    assert!(store.claim(&process("there"), 10).await.unwrap().is_empty(), "the lease holds");
    let after = Process { boot: Uuid::now_v7(), ..before };
    let claims = store.claim(&after, 10).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert!(claims[0].crashed);
    assert_eq!((claims[0].run.run, claims[0].run.fence, claims[0].run.crashes), (run.run, 2, 1));
    assert!(store.claim(&after, 10).await.unwrap().is_empty());
}

async fn a_heartbeat_keeps_runs_and_reports_the_cancelled(store: Arc<dyn Store>) {
    let me = Process { lease: Duration::from_millis(300), ..process("here") };
    let mut runs = Vec::new();
    for name in ["a", "b"] {
        let new = NewRun { process: me.clone(), ..new_run(&session(name)) };
        let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
        runs.push(run);
    }
    let lasting = Process { lease: Duration::from_mins(1), ..me.clone() };
    let live = [runs[0].run, runs[1].run];
    assert_eq!(store.heartbeat(&lasting, &live).await.unwrap(), Beat::default());
    tokio::time::sleep(Duration::from_millis(310)).await;
    assert!(store.claim(&process("there"), 10).await.unwrap().is_empty());
    let end = batch(0, 1, 1, b"end");
    let asked = store
        .request_cancel(&runs[1].key.owner, runs[1].run, Actor::User, false, vec![], end)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((asked.state, asked.cancel_requested), (RunState::Running, true));
    assert_eq!(store.asked(&me).await.unwrap(), [runs[1].run]);
    let asked = Beat { cancelled: vec![runs[1].run], lost: vec![] };
    assert_eq!(store.heartbeat(&lasting, &live).await.unwrap(), asked);
    let other_boot = Process { boot: Uuid::now_v7(), ..me.clone() };
    assert_eq!(store.asked(&other_boot).await.unwrap(), []);
    let lost = Beat { cancelled: vec![], lost: live.to_vec() };
    assert_eq!(store.heartbeat(&other_boot, &live).await.unwrap(), lost);
    assert_eq!(
        store.commit(barrier(&runs[1])).await.unwrap(),
        Committed::Done { cancel_requested: true, kept: true }
    );
    store.commit(Commit { step: 1, ..last_barrier(&runs[1], RunState::Cancelled) }).await.unwrap();
    assert_eq!(store.asked(&me).await.unwrap(), []);
    assert!(store.delete_thread(&runs[0].key).await.unwrap());
    assert_eq!(store.heartbeat(&lasting, &live).await.unwrap(), lost, "over, and deleted");
}

async fn a_run_that_its_process_does_not_drive_is_claimed_again(store: Arc<dyn Store>) {
    let me = Process { lease: Duration::from_millis(300), ..process("here") };
    let new = NewRun { process: me.clone(), ..new_run(&session("s")) };
    let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
    // The answer of `accept` was lost: the process lives, and knows nothing of the run.
    let lasting = Process { lease: Duration::from_mins(1), ..me };
    assert_eq!(store.heartbeat(&lasting, &[]).await.unwrap(), Beat::default());
    tokio::time::sleep(Duration::from_millis(310)).await;
    let claims = store.claim(&lasting, 10).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.run.run).collect::<Vec<_>>(), [run.run]);
}

async fn progress_forgives_crashes(store: Arc<dyn Store>) {
    let run = abandoned(&*store, "s").await;
    let claim = store.claim(&process("there"), 1).await.unwrap().remove(0);
    assert_eq!(claim.run.crashes, 1);
    store.commit(barrier(&claim.run)).await.unwrap();
    assert_eq!(store.run(&run.key.owner, run.run).await.unwrap().unwrap().crashes, 0);
    // To give up is no progress, and the run shows why.
    let run = abandoned(&*store, "t").await;
    let claims = store.claim(&process("there"), 10).await.unwrap();
    let claim = claims.into_iter().find(|claim| claim.run.run == run.run).unwrap();
    store.commit(last_barrier(&claim.run, RunState::Dead)).await.unwrap();
    assert_eq!(store.run(&run.key.owner, run.run).await.unwrap().unwrap().crashes, 1);
}

async fn a_released_run_goes_first_and_counts_no_crash(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    store.commit(barrier(&run)).await.unwrap();
    queued(&*store, &key).await;
    store.release(&key.owner, run.run, run.fence).await.unwrap();
    let found = store.run(&key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((found.state, found.fence, found.crashes), (RunState::Queued, 1, 0));
    assert_eq!(store.commit(Commit { step: 1, ..barrier(&run) }).await.unwrap(), Committed::Lost);
    let claims = store.claim(&process("there"), 10).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert!(!claims[0].crashed);
    assert_eq!((claims[0].run.run, claims[0].run.fence, claims[0].run.step), (run.run, 2, 1));
}

async fn a_claim_takes_no_more_than_it_asked_for(store: Arc<dyn Store>) {
    for i in 0..4 {
        let run = abandoned(&*store, &format!("lost{i}")).await;
        let first = claimed(&*store, &session(&format!("q{i}"))).await;
        queued(&*store, &first.key).await;
        store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
        assert_eq!(run.fence, 1);
    }
    let me = process("there");
    let mut sizes = Vec::new();
    for _ in 0..4 {
        sizes.push(store.claim(&me, 3).await.unwrap().len());
    }
    assert_eq!(sizes, [3, 3, 2, 0]);
    assert_eq!(store.claim(&me, 0).await.unwrap(), []);
}

async fn a_claim_starts_from_the_head_of_its_thread(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let second = queued(&*store, &key).await;
    let made = checkpoint(&run, None, 0, true);
    let last = Commit { checkpoints: vec![made.clone()], ..last_barrier(&run, RunState::Completed) };
    store.commit(last).await.unwrap();
    let claim = store.claim(&process("there"), 1).await.unwrap().remove(0);
    assert_eq!((claim.run.run, claim.head), (second.run, Some(made.checkpoint)));
}

/// Owners commit while others steal from them all the time: each committed step must be there once, in one line.
async fn claims_and_commits_that_race_lose_nothing(store: Arc<dyn Store>) {
    const STEPS: u64 = 25;
    let mut keys = Vec::new();
    for t in 0..4 {
        let run = abandoned(&*store, &format!("t{t}")).await;
        keys.push((run.key, run.run, run.thread));
    }
    let workers = (0..8).map(|i| {
        let store = store.clone();
        async move {
            let me = fleeting(&format!("p{i}"));
            let mut idle = 0;
            while idle < 200 {
                let Some(claim) = store.claim(&me, 1).await.unwrap().pop() else {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                idle = 0;
                let (mut run, mut head) = (claim.run, claim.head);
                loop {
                    let next = checkpoint(&run, head, run.step, run.step == 0);
                    let done = run.step + 1 == STEPS;
                    let commit = Commit {
                        checkpoints: vec![next.clone()],
                        next: done.then_some((RunState::Completed, None)),
                        lease: Duration::ZERO,
                        ..barrier(&run)
                    };
                    if store.commit(commit).await.unwrap() == Committed::Lost || done {
                        break;
                    }
                    run.step += 1;
                    head = Some(next.checkpoint);
                }
            }
        }
    });
    spawn_all(workers).await;
    for (key, run, thread) in keys {
        let found = store.run(&key.owner, run).await.unwrap().unwrap();
        assert_eq!((found.state, found.step), (RunState::Completed, STEPS));
        let history = store.history(&key.owner, thread, None, 1000).await.unwrap();
        let steps: Vec<u64> = history.iter().rev().map(|c| c.step).collect();
        assert_eq!(steps, (0..STEPS).collect::<Vec<_>>());
    }
}
