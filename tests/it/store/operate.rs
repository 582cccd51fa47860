//! What an operator sees and does.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{CacheKey, InterruptId, RunId, Seq, ThreadKey};
use graphloom::store::{
    Accepted, Actor, Answer, Answering, CacheEntry, Commit, Committed, Counts, Idempotency, NewRun, Process,
    Question, Run, RunFilter, RunState, Store, Wishes,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::on_every_store;
use crate::support::{
    Subject, barrier, batch, claimed, erase, last_barrier, new_run, owner, part, plain, process, queued,
    session,
};

on_every_store![
    an_operator_sees_the_runs_of_all_tenants,
    runs_are_told_in_the_order_of_their_acceptance,
    a_run_that_was_given_up_is_tried_again_only_as_the_newest,
    a_run_that_was_given_up_can_be_put_away,
    a_run_that_lost_its_owner_is_seen_as_such_and_ended_at_once,
    a_user_that_is_erased_leaves_the_others_alone,
];

async fn ids(store: &dyn Store, filter: RunFilter, limit: u32) -> Vec<RunId> {
    store.runs(&filter, limit).await.unwrap().iter().map(|run| run.run).collect()
}

async fn dead(store: &dyn Store, key: &ThreadKey) -> Run {
    let run = claimed(store, key).await;
    store.commit(last_barrier(&run, RunState::Dead)).await.unwrap();
    run
}

async fn an_operator_sees_the_runs_of_all_tenants(store: Arc<dyn Store>) {
    let other = ThreadKey { owner: owner("bolt", "bob"), session: part("s") };
    let working = claimed(&*store, &session("s")).await;
    let waiting = queued(&*store, &session("s")).await;
    let lost = dead(&*store, &other).await;
    let asking = claimed(&*store, &session("t")).await;
    store.commit(Commit { next: Some((RunState::Interrupted, None)), ..barrier(&asking) }).await.unwrap();
    let all = [asking.run, lost.run, waiting.run, working.run];
    assert_eq!(ids(&*store, RunFilter::default(), 10).await, all);
    assert_eq!(ids(&*store, RunFilter::default(), 2).await, all[..2]);
    let before = RunFilter { before: Some(lost.run), ..RunFilter::default() };
    assert_eq!(ids(&*store, before, 10).await, all[2..]);
    let states = vec![RunState::Dead, RunState::Queued];
    let filter = RunFilter { states: states.clone(), ..RunFilter::default() };
    assert_eq!(ids(&*store, filter, 10).await, [lost.run, waiting.run]);
    let filter = RunFilter { states, tenant: Some(part("bolt")), ..RunFilter::default() };
    assert_eq!(ids(&*store, filter, 10).await, [lost.run]);
    let counts = Counts { queued: 1, delayed: 0, running: 1, interrupted: 1, dead: 1 };
    assert_eq!(store.counts().await.unwrap(), counts);
    assert_eq!(store.find_run(lost.run).await.unwrap().map(|run| run.key), Some(other));
    assert_eq!(store.find_run(RunId::new()).await.unwrap(), None);
}

/// Ids are made before their runs are accepted, by replicas whose clocks differ.
async fn runs_are_told_in_the_order_of_their_acceptance(store: Arc<dyn Store>) {
    let key = session("s");
    let late = new_run(&key);
    let first = claimed(&*store, &key).await;
    let Accepted::Queued { run: second } = store.accept(late).await.unwrap() else { panic!() };
    assert!(second.run < first.run);
    let filter = |before| RunFilter { before, thread: Some(first.thread), ..RunFilter::default() };
    assert_eq!(ids(&*store, filter(None), 10).await, [second.run, first.run]);
    assert_eq!(ids(&*store, filter(Some(second.run)), 10).await, [first.run]);
    assert_eq!(ids(&*store, filter(Some(first.run)), 10).await, []);
}

async fn a_run_that_was_given_up_is_tried_again_only_as_the_newest(store: Arc<dyn Store>) {
    let key = session("s");
    let working = claimed(&*store, &key).await;
    assert_eq!(store.retry(working.run).await.unwrap(), None, "it was not given up");
    assert_eq!(store.retry(RunId::new()).await.unwrap(), None);
    let ask = Question { id: InterruptId("q".into()), agent: true, data: vec![1], expires_at: None };
    store.commit(Commit { questions: vec![ask], ..barrier(&working) }).await.unwrap();
    let run = Run { step: 1, ..working };
    store.commit(last_barrier(&run, RunState::Dead)).await.unwrap();
    let again = store.retry(run.run).await.unwrap().unwrap();
    assert_eq!(
        (again.state, again.crashes, again.result, again.finished_at),
        (RunState::Queued, 0, None, None)
    );
    assert_eq!(store.approvals(&part("acme"), None, 10).await.unwrap().len(), 1);
    assert_eq!(store.retry(run.run).await.unwrap(), None, "once is enough");
    let claim = store.claim(&process("there"), 10).await.unwrap().remove(0).run;
    assert_eq!((claim.run, claim.fence, claim.step), (run.run, 2, 2));
    store.commit(last_barrier(&claim, RunState::Dead)).await.unwrap();
    claimed(&*store, &key).await;
    assert_eq!(store.retry(run.run).await.unwrap(), None, "another run came after it");
}

async fn a_run_that_was_given_up_can_be_put_away(store: Arc<dyn Store>) {
    let run = dead(&*store, &session("s")).await;
    let discarded = store.discard(run.run).await.unwrap().unwrap();
    assert_eq!(discarded.state, RunState::Cancelled);
    assert!(discarded.finished_at.is_some());
    assert_eq!(store.discard(run.run).await.unwrap(), None);
    assert_eq!(store.retry(run.run).await.unwrap(), None);
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

/// It was `running` to whoever looked, and its end waited until it was taken: a run that is taken alone can wait for long.
async fn a_run_that_lost_its_owner_is_seen_as_such_and_ended_at_once(store: Arc<dyn Store>) {
    for (rollback, state) in [(false, RunState::Cancelled), (true, RunState::RolledBack)] {
        let key = session(state.name());
        let gone = Process { lease: Duration::ZERO, ..process("gone") };
        let accepted = store.accept(NewRun { process: gone, ..new_run(&key) }).await.unwrap();
        let Accepted::Claimed { run, .. } = accepted else { panic!("{accepted:?}") };
        let works = claimed(&*store, &session(&format!("other-{}", state.name()))).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        for (run, lost) in [(&run, true), (&works, false)] {
            assert_eq!(store.find_run(run.run).await.unwrap().map(|run| run.lost), Some(lost));
        }
        let listed = store.runs(&RunFilter::default(), 9).await.unwrap();
        let lost: Vec<RunId> = listed.iter().filter(|run| run.lost).map(|run| run.run).collect();
        assert_eq!(lost, [run.run]);
        let cancel = async |run: &Run| {
            let (owner, end) = (&run.key.owner, batch(0, 2, 2, b"end"));
            store.request_cancel(owner, run.run, Actor::User, rollback, b"over".to_vec(), end).await.unwrap()
        };
        let ended = cancel(&run).await.unwrap();
        assert_eq!((ended.state, ended.fence, ended.result.as_deref()), (state, 2, Some(&b"over"[..])));
        assert!(ended.finished_at.is_some());
        let told = store.events(&run.key.owner, run.run, Seq::default(), 9000).await.unwrap();
        assert_eq!(told, [batch(2, 2, 2, b"end")]);
        // Its owner comes back, and nobody else takes it.
        assert_eq!(store.commit(barrier(&run)).await.unwrap(), Committed::Lost);
        assert_eq!(store.claim(&process("there"), 10).await.unwrap(), []);
        assert_eq!(cancel(&works).await.unwrap().state, RunState::Running);
        store.commit(last_barrier(&works, RunState::Cancelled)).await.unwrap();
    }
}

/// One user of a tenant answers what another one's graph asks of agents, each with a key.
async fn people(store: &dyn Store) {
    for (tenant, user) in [("acme", "canary"), ("acme", "bob"), ("bolt", "canary")] {
        for name in ["one", "two", "three"] {
            let key = ThreadKey { owner: owner(tenant, user), session: part(name) };
            let url = Some(format!("https://{user}.example.com/{tenant}"));
            let wishes = Wishes { webhook: url, ..Wishes::default() };
            let told = store.accept(NewRun { wishes: wishes.clone(), ..new_run(&key) }).await.unwrap();
            let Accepted::Claimed { run: over, .. } = told else { panic!("{told:?}") };
            let end = Some((RunState::Completed, Some(user.as_bytes().to_vec())));
            store.commit(Commit { next: end, ..barrier(&over) }).await.unwrap();
            let told = store.accept(NewRun { wishes, ..new_run(&key) }).await.unwrap();
            let Accepted::Claimed { run, .. } = told else { panic!("{told:?}") };
            let id = InterruptId(format!("{tenant}-{user}-{name}").into());
            let ask = Question { id: id.clone(), agent: true, data: b"canary".to_vec(), expires_at: None };
            let events = Some(batch(1, 2, 3, b"canary"));
            let key = CacheKey(format!("{user}-{name}").into());
            let cached = vec![CacheEntry { key, data: b"canary".to_vec(), ttl: Duration::from_hours(1) }];
            let commit = Commit { questions: vec![ask], events, cached, ..barrier(&run) };
            let asked = store.commit(commit).await.unwrap();
            assert!(matches!(asked, Committed::Done { .. }));
            let by = owner(tenant, if user == "bob" { "canary" } else { "bob" });
            let answer = Answer {
                by: by.user.to_string(),
                owner: by,
                agent: true,
                run: run.run,
                key: run.key.clone(),
                answers: vec![(id, b"canary".to_vec())],
                idempotency: Some(Idempotency {
                    route: format!("answer/{name}"),
                    key: "k".into(),
                    body_hash: "b".into(),
                }),
                process: process("here"),
                input: None,
                wishes: graphloom::store::Wishes::default(),
            };
            assert!(matches!(store.answer(answer).await.unwrap(), Answering::Stored { .. }));
        }
    }
}

async fn a_user_that_is_erased_leaves_the_others_alone(store: Arc<dyn Store>) {
    people(&*store).await;
    assert_eq!(erase(&*store, "acme", Some("canary")).await.0, 3);
    let threads =
        async |tenant: &str, user: &str| store.threads(&owner(tenant, user), None, 10).await.unwrap().len();
    assert_eq!((threads("acme", "canary").await, threads("acme", "bob").await), (0, 3));
    // The answer stays, and its author does not.
    let id = InterruptId("acme-bob-one".into());
    let asked = store.question(&owner("acme", "eve"), true, &id).await.unwrap().unwrap();
    assert_eq!(asked.answered.unwrap().0, "(erased)");
    let key = Idempotency { route: "answer/one".into(), key: "k".into(), body_hash: "b".into() };
    assert_eq!(store.keyed(&owner("acme", "canary"), &key).await.unwrap(), None);
    assert!(store.keyed(&owner("bolt", "bob"), &key).await.unwrap().is_some());
    assert_eq!(erase(&*store, "acme", None).await.0, 3);
    assert_eq!((threads("acme", "bob").await, threads("bolt", "canary").await), (0, 3));
    assert_eq!(erase(&*store, "acme", None).await.0, 0);
}

/// Counts the rows that say a word anywhere, over every table.
async fn rows_with(subject: &Subject, word: &str) -> Vec<(String, i64)> {
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let postgres = db.get_database_backend() == DbBackend::Postgres;
    let query = async |text: String| {
        db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap()
    };
    let tables = if postgres {
        "select table_name::text as name from information_schema.tables where table_schema = 'public'"
    } else {
        "select name from sqlite_master where type = 'table'"
    };
    let mut found = Vec::new();
    for table in query(tables.to_owned()).await {
        let table: String = table.try_get("", "name").unwrap();
        let columns = if postgres {
            format!(
                "select column_name::text as name from information_schema.columns where table_name = '{table}'"
            )
        } else {
            format!("select name from pragma_table_info('{table}')")
        };
        for column in query(columns).await {
            let column: String = column.try_get("", "name").unwrap();
            let count =
                format!("select count(*) as n from {table} where cast({column} as text) like '%{word}%'");
            let n: i64 = query(count).await[0].try_get("", "n").unwrap();
            if n > 0 {
                found.push((format!("{table}.{column}"), n));
            }
        }
    }
    found
}

async fn what_is_erased_is_in_no_row_of_any_table(subject: Subject) {
    let store = subject.store.clone();
    people(&*store).await;
    assert!(rows_with(&subject, "canary").await.len() > 4);
    erase(&*store, "bolt", None).await;
    assert_eq!(rows_with(&subject, "bolt").await, []);
    erase(&*store, "acme", Some("canary")).await;
    // What is left is of the other user: his graph's question and the answer to it, as bytes.
    let left = rows_with(&subject, "canary").await;
    assert!(left.iter().all(|(place, _)| place.ends_with(".data") || place.ends_with(".answer")), "{left:?}");
}

#[tokio::test]
async fn what_is_erased_is_in_no_row_of_any_table_of_sqlite() {
    what_is_erased_is_in_no_row_of_any_table(Subject::sqlite().await).await;
}

#[tokio::test]
async fn what_is_erased_is_in_no_row_of_any_table_of_postgres() {
    what_is_erased_is_in_no_row_of_any_table(Subject::postgres().await).await;
}
