//! Whose turn it is: tenants, their limits, and runs that may have killed their process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use graphloom::id::{InterruptId, RunId, ThreadKey};
use graphloom::store::{
    Accepted, Answer, Answering, Commit, NewRun, OnBusy, Process, Question, Resumed, Run, RunFilter,
    RunState, Store, Wishes,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::on_every_store;
use crate::support::{
    Subject, barrier, claimed, last_barrier, new_run, owner, part, plain, process, queued, resume,
};

on_every_store![
    who_has_queued_a_hundred_runs_makes_nobody_wait,
    a_tenant_has_no_more_runs_at_work_than_it_may,
    claimers_that_meet_keep_to_the_limit_of_a_tenant,
    an_answer_and_a_resume_wait_for_their_turn_too,
    who_comes_later_goes_before_nobody_of_its_tenant_that_waits,
    what_waits_for_its_own_thread_holds_nobody_up,
    so_many_runs_of_a_tenant_wait_as_may_and_no_more,
    a_first_takeover_leaves_room_for_one_that_is_taken_alone,
    what_may_have_killed_its_process_is_taken_alone,
];

fn thread(tenant: &str, session: &str) -> ThreadKey {
    ThreadKey { owner: owner(tenant, "ann"), session: part(session) }
}

/// Returns a process that leaves a tenant so many runs.
fn sparing(instance: &str, tenant_runs: u32) -> Process {
    Process { tenant_runs: Some(tenant_runs), ..process(instance) }
}

/// Accepts a run of a process that must start at once, or wait.
async fn accept(store: &dyn Store, process: &Process, key: &ThreadKey) -> Run {
    let new = NewRun { process: process.clone(), on_busy: OnBusy::Reject, ..new_run(key) };
    match store.accept(new).await.unwrap() {
        Accepted::Claimed { run, .. } | Accepted::Queued { run } => run,
        other => panic!("{other:?}"),
    }
}

/// Accepts a run that asks something.
async fn asks(store: &dyn Store, key: &ThreadKey, expires_at: Option<DateTime<Utc>>) -> Run {
    let asks = claimed(store, key).await;
    let question = Question { id: InterruptId("q".into()), agent: false, data: vec![1], expires_at };
    let next = Some((RunState::Interrupted, None));
    store.commit(Commit { questions: vec![question], next, ..barrier(&asks) }).await.unwrap();
    asks
}

/// Returns the answer to it.
fn answer(run: &Run, process: &Process) -> Answer {
    Answer {
        owner: run.key.owner.clone(),
        agent: false,
        run: run.run,
        key: run.key.clone(),
        answers: vec![(InterruptId("q".into()), b"yes".to_vec())],
        by: "ann".into(),
        idempotency: None,
        process: process.clone(),
        input: Some(b"anew".to_vec()),
        wishes: Wishes::default(),
    }
}

/// Puts a run into the queue that nothing is before.
async fn ready(store: &dyn Store, key: &ThreadKey) -> Run {
    let first = claimed(store, key).await;
    let next = queued(store, key).await;
    store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
    next
}

async fn take(store: &dyn Store, process: &Process, most: u32) -> Vec<Run> {
    store.claim(process, most).await.unwrap().into_iter().map(|claim| claim.run).collect()
}

fn by_tenant(runs: &[Run]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for run in runs {
        *counts.entry(run.key.owner.tenant.as_str()).or_default() += 1;
    }
    counts
}

async fn who_has_queued_a_hundred_runs_makes_nobody_wait(store: Arc<dyn Store>) {
    for n in 0..100 {
        ready(&*store, &thread("many", &format!("s{n}"))).await;
    }
    let one = ready(&*store, &thread("one", "s")).await;
    let me = process("there");
    let first = take(&*store, &me, 4).await;
    assert_eq!(
        by_tenant(&first),
        BTreeMap::from([("many", 2), ("one", 1)]),
        "shares of two, and one has one"
    );
    // Even where there is room for one alone, nobody comes after all that another one has.
    store
        .commit(last_barrier(first.iter().find(|run| run.run == one.run).unwrap(), RunState::Completed))
        .await
        .unwrap();
    let two = ready(&*store, &thread("one", "t")).await;
    assert_eq!(take(&*store, &me, 1).await[0].run, two.run);
    let late = ready(&*store, &thread("late", "s")).await;
    assert_eq!(take(&*store, &me, 1).await[0].run, late.run);
    // What is left over goes to who has something, in order of acceptance.
    let rest = take(&*store, &me, 200).await;
    assert_eq!(by_tenant(&rest), BTreeMap::from([("many", 98)]));
    assert!(rest.is_sorted_by_key(|run| run.created_at));
}

async fn a_tenant_has_no_more_runs_at_work_than_it_may(store: Arc<dyn Store>) {
    let me = sparing("here", 2);
    let accept = async |tenant: &str, session: &str| accept(&*store, &me, &thread(tenant, session)).await;
    let mut runs = Vec::new();
    for session in ["a", "b", "c", "d"] {
        runs.push(accept("acme", session).await);
    }
    let states: Vec<_> = runs.iter().map(|run| (run.state, run.fence)).collect();
    let (works, waits) = ((RunState::Running, 1), (RunState::Queued, 0));
    assert_eq!(states, [works, works, waits, waits], "who comes on top waits, and is not refused");
    assert_eq!(accept("other", "a").await.state, RunState::Running);
    assert_eq!(take(&*store, &me, 10).await, []);
    store.commit(last_barrier(&runs[1], RunState::Completed)).await.unwrap();
    let next = take(&*store, &me, 10).await;
    assert_eq!(next.iter().map(|run| run.run).collect::<Vec<_>>(), [runs[2].run]);
    assert_eq!(take(&*store, &me, 10).await, []);
    // A process that knows no limit keeps to none.
    assert_eq!(take(&*store, &process("there"), 10).await[0].run, runs[3].run);
}

async fn claimers_that_meet_keep_to_the_limit_of_a_tenant(store: Arc<dyn Store>) {
    for n in 0..30 {
        ready(&*store, &thread("acme", &format!("s{n}"))).await;
        ready(&*store, &thread("other", &format!("s{n}"))).await;
    }
    for round in 1..=3 {
        #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
        let claims = (0..16).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { take(&*store, &sparing(&format!("p{n}"), 3), 5).await })
        });
        let claims: Vec<_> = claims.collect();
        let taken: Vec<Run> = join_all(claims).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(by_tenant(&taken), BTreeMap::from([("acme", 3), ("other", 3)]), "round {round}");
        for run in taken {
            store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
        }
    }
}

async fn an_answer_and_a_resume_wait_for_their_turn_too(store: Arc<dyn Store>) {
    let me = sparing("there", 1);
    let asks = asks(&*store, &thread("acme", "asks"), None).await;
    let fails = claimed(&*store, &thread("acme", "fails")).await;
    store.commit(last_barrier(&fails, RunState::Failed)).await.unwrap();
    let works = claimed(&*store, &thread("acme", "works")).await;
    let Answering::Stored { run, after } = store.answer(answer(&asks, &me)).await.unwrap() else { panic!() };
    assert_eq!((run.state, run.fence, after.fence, after.n), (RunState::Queued, 1, 1, u64::MAX));
    let resume = graphloom::store::Resume { process: me.clone(), ..resume(&fails.key, fails.run, "here") };
    let Resumed::Queued(again) = store.resume(resume).await.unwrap() else { panic!() };
    assert_eq!((again.state, again.result.clone(), again.finished_at), (RunState::Queued, None, None));
    assert_eq!(take(&*store, &me, 10).await, []);
    let mut at_work = works;
    for expected in [&run, &again] {
        store.commit(last_barrier(&at_work, RunState::Completed)).await.unwrap();
        let next = take(&*store, &me, 10).await;
        assert_eq!(next.iter().map(|run| (run.run, run.fence)).collect::<Vec<_>>(), [(expected.run, 2)]);
        at_work = next[0].clone();
    }
    let answers = store.answers(&asks.key.owner, asks.run).await.unwrap();
    assert_eq!(answers, [(InterruptId("q".into()), b"yes".to_vec())]);
}

/// A request that came when there was room became `running`, whatever waited for that room: who came late went first, and
/// who waited waited for ever.
async fn who_comes_later_goes_before_nobody_of_its_tenant_that_waits(store: Arc<dyn Store>) {
    let me = sparing("here", 1);
    let asks = asks(&*store, &thread("acme", "asks"), None).await;
    let fails = claimed(&*store, &thread("acme", "fails")).await;
    store.commit(last_barrier(&fails, RunState::Failed)).await.unwrap();
    let waits = ready(&*store, &thread("acme", "waits")).await;
    // There is room for one, and it is not for those.
    let late = accept(&*store, &me, &thread("acme", "late")).await;
    assert_eq!((late.state, late.fence), (RunState::Queued, 0));
    let Answering::Stored { run, .. } = store.answer(answer(&asks, &me)).await.unwrap() else { panic!() };
    assert_eq!(run.state, RunState::Queued);
    let resume = graphloom::store::Resume { process: me.clone(), ..resume(&fails.key, fails.run, "here") };
    assert!(matches!(store.resume(resume).await.unwrap(), Resumed::Queued(_)));
    // Other tenants have nothing to do with it, nor has who knows no limit.
    assert_eq!(accept(&*store, &me, &thread("other", "s")).await.state, RunState::Running);
    for expected in [&asks, &fails, &waits, &late] {
        let next = take(&*store, &me, 10).await;
        assert_eq!(next.iter().map(|run| run.run).collect::<Vec<_>>(), [expected.run]);
        store.commit(last_barrier(&next[0], RunState::Completed)).await.unwrap();
    }
    assert_eq!(accept(&*store, &me, &thread("acme", "new")).await.state, RunState::Running);
}

async fn what_waits_for_its_own_thread_holds_nobody_up(store: Arc<dyn Store>) {
    let me = sparing("there", 3);
    let busy = claimed(&*store, &thread("acme", "busy")).await;
    queued(&*store, &busy.key).await;
    assert_eq!(accept(&*store, &me, &thread("acme", "a")).await.state, RunState::Running);
    // Nor does a question; but once its time is over the run has its place.
    let soon = Utc::now() + TimeDelta::milliseconds(500);
    let asks = asks(&*store, &thread("acme", "asks"), Some(soon)).await;
    while store.questions(&asks.key).await.unwrap().len() == 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = accept(&*store, &me, &thread("acme", "b")).await;
    assert_eq!(late.state, RunState::Queued);
    let next = take(&*store, &me, 10).await;
    assert_eq!(next.iter().map(|run| run.run).collect::<Vec<_>>(), [asks.run]);
}

async fn so_many_runs_of_a_tenant_wait_as_may_and_no_more(store: Arc<dyn Store>) {
    let me = Process { tenant_queue: 2, ..sparing("here", 2) };
    let new = |session: &str| NewRun { process: me.clone(), ..new_run(&thread("acme", session)) };
    let asks = asks(&*store, &thread("acme", "asks"), None).await;
    let first = accept(&*store, &me, &thread("acme", "a")).await;
    // On a thread that is free while there is room, nobody waits.
    for (session, state) in [("b", RunState::Running), ("c", RunState::Queued), ("d", RunState::Queued)] {
        assert_eq!(accept(&*store, &me, &thread("acme", session)).await.state, state, "{session}");
    }
    for session in ["e", "a"] {
        let refused = store.accept(new(session)).await.unwrap();
        assert_eq!(refused, Accepted::TenantQueueFull, "{session}");
    }
    assert_eq!(store.thread(&thread("acme", "e")).await.unwrap(), None, "nothing is stored");
    let rejects = NewRun { on_busy: OnBusy::Reject, ..new("a") };
    assert_eq!(store.accept(rejects).await.unwrap(), Accepted::Busy { active: first.run });
    // What comes later has no turn yet, answers are always taken, and nobody else is full.
    let later = NewRun { delay: Some(Duration::from_hours(1)), ..new("e") };
    assert!(matches!(store.accept(later).await.unwrap(), Accepted::Queued { .. }));
    assert!(matches!(store.answer(answer(&asks, &me)).await.unwrap(), Answering::Stored { .. }));
    assert_eq!(accept(&*store, &me, &thread("other", "a")).await.state, RunState::Running);
}

/// Whatever had been lost once filled the one place for what is taken alone.
async fn a_first_takeover_leaves_room_for_one_that_is_taken_alone(store: Arc<dyn Store>) {
    let fleeting = |name: &str| Process { lease: Duration::ZERO, ..process(name) };
    let lost = async |session: &str| {
        let new = NewRun { process: fleeting("a"), ..new_run(&thread("acme", session)) };
        let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
        tokio::time::sleep(Duration::from_millis(2)).await;
        run
    };
    let me = process("b");
    let crashes = |runs: &[Run]| runs.iter().map(|run| (run.run, run.crashes)).collect::<Vec<_>>();
    let once = [lost("s0").await, lost("s1").await].map(|run| run.run);
    assert_eq!(crashes(&take(&*store, &me, 10).await), once.map(|run| (run, 1)));
    for expected in [true, false] {
        let twice = lost(if expected { "t" } else { "u" }).await;
        assert_eq!(crashes(&take(&*store, &fleeting("x"), 10).await), [(twice.run, 1)]);
        tokio::time::sleep(Duration::from_millis(2)).await;
        let alone = if expected { vec![(twice.run, 2)] } else { Vec::new() };
        assert_eq!(crashes(&take(&*store, &me, 10).await), alone);
    }
}

async fn what_may_have_killed_its_process_is_taken_alone(store: Arc<dyn Store>) {
    let fleeting = |name: &str| Process { lease: Duration::ZERO, ..process(name) };
    let mut lost: Vec<RunId> = Vec::new();
    for n in 0..3 {
        let new = NewRun { process: fleeting("a"), ..new_run(&thread("acme", &format!("s{n}"))) };
        let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
        lost.push(run.run);
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    // Lost for the first time, they go on at once, together.
    assert_eq!(take(&*store, &fleeting("b"), 10).await.len(), 3);
    tokio::time::sleep(Duration::from_millis(2)).await;
    let healthy = ready(&*store, &thread("acme", "healthy")).await;
    let (c, d) = (process("c"), process("d"));
    // The second time one of them may be why: each process takes one, and whatever else there is.
    let first = take(&*store, &c, 10).await;
    assert_eq!(
        first.iter().map(|run| (run.run, run.crashes)).collect::<Vec<_>>(),
        [(lost[0], 2), (healthy.run, 0)]
    );
    // Those that wait for it take no room of their tenant.
    let new = accept(&*store, &sparing("e", 3), &thread("acme", "new")).await;
    assert_eq!(new.state, RunState::Running);
    assert_eq!(take(&*store, &c, 10).await, []);
    let other = take(&*store, &d, 10).await;
    assert_eq!(other.iter().map(|run| (run.run, run.crashes)).collect::<Vec<_>>(), [(lost[1], 2)]);
    // Given back without progress, it is still one of them.
    store.release(&other[0].key.owner, other[0].run, other[0].fence).await.unwrap();
    assert_eq!(take(&*store, &c, 10).await, []);
    let again = take(&*store, &d, 10).await;
    assert_eq!(again.iter().map(|run| (run.run, run.crashes)).collect::<Vec<_>>(), [(lost[1], 2)]);
    // What moves on is cleared, and makes room for the next.
    store.commit(barrier(&first[0])).await.unwrap();
    let third = take(&*store, &c, 10).await;
    assert_eq!(third.iter().map(|run| (run.run, run.crashes)).collect::<Vec<_>>(), [(lost[2], 2)]);
    // So does its end.
    store.commit(last_barrier(&third[0], RunState::Dead)).await.unwrap();
    let dead = RunFilter { states: vec![RunState::Dead], ..RunFilter::default() };
    assert_eq!(store.runs(&dead, 10).await.unwrap()[0].run, lost[2]);
    assert_eq!(take(&*store, &c, 10).await, []);
}

/// A claim among ten thousand runs of one tenant looks at few rows, and at none that it has no index for.
#[tokio::test]
async fn a_claim_on_postgres_reads_no_more_than_it_needs() {
    let subject = Subject::postgres().await;
    let seed = claimed(&*subject.store, &thread("many", "seed")).await;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    for (tenant, runs) in [("many", 10_000), ("one", 1)] {
        let text = format!(
            "insert into thread (tenant, user_id, session_id, thread_id, graph, hash) \
               select '{tenant}', 'ann', 's' || n, gen_random_uuid(), 'g', 'h' from generate_series(1, {runs}) n; \
             insert into run (tenant, run_id, thread_id, user_id, session_id, graph, hash, state, input) \
               select tenant, gen_random_uuid(), thread_id, user_id, session_id, graph, hash, 'queued', ''::bytea \
               from thread where tenant = '{tenant}' and session_id <> 'seed'"
        );
        db.execute_unprepared(&text).await.unwrap();
    }
    subject.store.commit(last_barrier(&seed, RunState::Completed)).await.unwrap();
    db.execute_unprepared("analyze run").await.unwrap();
    let text = "do $$ begin perform count(*) from claim_runs('me', gen_random_uuid(), 15000, 64, 1, 100); end $$; \
         select seq_scan, seq_tup_read, idx_scan, idx_tup_fetch from pg_stat_xact_user_tables where relname = 'run'";
    let (work, found) = text.split_once("; select").unwrap();
    let tx = sea_orm::TransactionTrait::begin(&db).await.unwrap();
    tx.execute_unprepared(work).await.unwrap();
    let found = Statement::from_string(DbBackend::Postgres, format!("select{found}"));
    let row = tx.query_one_raw(found).await.unwrap().unwrap();
    let number = |column: &str| row.try_get::<i64>("", column).unwrap();
    let (scans, fetched) = (number("seq_scan"), number("idx_tup_fetch"));
    assert_eq!(scans, 0, "no scan of the table");
    assert!(fetched < 1_000, "{fetched} rows of 10 001 were read for 64 at most");
    tx.rollback().await.unwrap();
    db.close().await.unwrap();
}
