//! What is noted of acts, and what is not.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{InterruptId, Owner, RunId, ThreadKey, sha256_hex};
use graphloom::store::seal::SealedStore;
use graphloom::store::sql::SqlStore;
use graphloom::store::{
    Act, Actor, Answer, Answering, AuditFilter, Commit, GraphVersion, Question, RunState, Store, Wishes,
};
use sea_orm::{ConnectionTrait, DbBackend};

use super::on_every_store;
use super::sql::numbers;
use crate::support::{
    Fresh, Subject, barrier, batch, claimed, erase, last_barrier, masters, owner, part, plain, process,
    queued, session,
};

on_every_store![sealed:
    an_act_is_noted_once_with_who_did_what_to_whom,
    what_did_not_happen_is_not_noted,
    a_tenant_that_is_erased_leaves_one_note_of_that,
];

/// Returns who did what to whom in a tenant, oldest first.
async fn notes(store: &dyn Store, tenant: &str) -> Vec<(String, String, String)> {
    let filter = AuditFilter { tenant: Some(tenant.into()), ..AuditFilter::default() };
    let mut notes = store.audit(&filter, 100).await.unwrap();
    notes.reverse();
    // Of keys only a database with encryption has something to tell.
    notes.retain(|note| note.act != Act::KeyMade.name());
    notes.into_iter().map(|note| (note.act, note.actor, note.subject)).collect()
}

fn told(act: Act, actor: &str, of: &str) -> (String, String, String) {
    let actor = if actor.contains(':') { sha256_hex(actor.as_bytes()) } else { actor.to_owned() };
    (act.name().into(), actor, sha256_hex(of.as_bytes()))
}

async fn cancel(store: &dyn Store, owner: &Owner, run: RunId, actor: Actor, rollback: bool) {
    store.request_cancel(owner, run, actor, rollback, vec![], batch(0, 2, 2, b"end")).await.unwrap();
}

/// Puts a question to agents on a thread of ann's.
async fn asked(store: &dyn Store, name: &str) -> (RunId, Answer) {
    let key = session(name);
    let run = claimed(store, &key).await;
    let id = InterruptId(format!("i-{name}").into());
    let question = Question { id: id.clone(), agent: true, data: b"?".to_vec(), expires_at: None };
    store.commit(Commit { questions: vec![question], ..barrier(&run) }).await.unwrap();
    let answer = Answer {
        owner: owner("acme", "bob"),
        agent: true,
        run: run.run,
        key,
        answers: vec![(id, b"yes".to_vec())],
        by: "bob".into(),
        idempotency: None,
        process: process("here"),
        input: None,
        wishes: Wishes::default(),
    };
    (run.run, answer)
}

async fn an_act_is_noted_once_with_who_did_what_to_whom(store: Arc<dyn Store>) {
    let (key, ann) = (session("s"), owner("acme", "ann"));
    let version = GraphVersion { graph: "support".into(), hash: "abc".into(), body: b"x".to_vec() };
    let mut due = Vec::new();
    let working = claimed(&*store, &key).await;
    let waiting = queued(&*store, &key).await;
    for run in [waiting.run, working.run, working.run] {
        store.put_graph_version(&version).await.unwrap();
        cancel(&*store, &ann, run, Actor::User, false).await;
    }
    due.push(told(Act::RunCancelled, "acme:ann", &waiting.run.to_string()));
    due.push(told(Act::RunCancelled, "acme:ann", &working.run.to_string()));
    let unread = claimed(&*store, &session("unread")).await;
    cancel(&*store, &ann, unread.run, Actor::Service, true).await;
    due.push(told(Act::RunCancelled, "service", &unread.run.to_string()));
    let (_, answer) = asked(&*store, "q").await;
    for _ in 0..2 {
        store.answer(answer.clone()).await.unwrap();
    }
    due.push(told(Act::QuestionAnswered, "acme:bob", "i-q"));
    for act in [Act::RunRetried, Act::RunDiscarded] {
        let dead = claimed(&*store, &session(act.name())).await;
        store.commit(last_barrier(&dead, RunState::Dead)).await.unwrap();
        let done = match act {
            Act::RunRetried => store.retry(dead.run).await,
            _ => store.discard(dead.run).await,
        };
        assert!(done.unwrap().is_some());
        due.push(told(act, "operator", &dead.run.to_string()));
    }
    assert!(store.delete_thread(&key).await.unwrap());
    due.push(told(Act::ThreadDeleted, "acme:ann", "acme:ann:s"));
    assert_eq!(notes(&*store, "acme").await, due);
    // An operator finds them by the names that they do not say.
    let of = async |of: &str| {
        let filter = AuditFilter { of: Some(of.into()), ..AuditFilter::default() };
        store.audit(&filter, 100).await.unwrap()
    };
    assert_eq!(of("acme:bob").await[0].act, "question.answered");
    assert_eq!(of("i-q").await, of("acme:bob").await);
    let digest = sha256_hex(b"i-q\nyes");
    assert_eq!(of("i-q").await[0].detail, Some(format!("{{\"answer\":\"{digest}\"}}")));
    let published = of("abc").await;
    assert_eq!(
        (published[0].tenant.as_str(), published[0].detail.as_deref(), published.len()),
        ("*", Some("{\"graph\":\"support\"}"), 1)
    );
    let later =
        AuditFilter { since: Some(published[0].at + Duration::from_hours(1)), ..AuditFilter::default() };
    assert_eq!(store.audit(&later, 10).await.unwrap(), []);
    assert_eq!(store.audit(&AuditFilter::default(), 2).await.unwrap().len(), 2);
    // The log of today is never forgotten.
    assert_eq!(store.forget_audit(Duration::ZERO, 100).await.unwrap(), 0);
}

async fn what_did_not_happen_is_not_noted(store: Arc<dyn Store>) {
    let over = claimed(&*store, &session("s")).await;
    store.commit(last_barrier(&over, RunState::Completed)).await.unwrap();
    let (_, mut answer) = asked(&*store, "q").await;
    answer.agent = false;
    assert!(matches!(store.answer(answer).await.unwrap(), Answering::Unknown(_)));
    for rollback in [false, true] {
        cancel(&*store, &over.key.owner, over.run, Actor::User, rollback).await;
        cancel(&*store, &owner("acme", "eve"), over.run, Actor::User, rollback).await;
        cancel(&*store, &owner("bolt", "ann"), over.run, Actor::User, rollback).await;
    }
    assert!(!store.delete_thread(&session("other")).await.unwrap());
    assert_eq!((store.retry(over.run).await.unwrap(), store.discard(over.run).await.unwrap()), (None, None));
    assert_eq!(notes(&*store, "acme").await, []);
    assert_eq!(notes(&*store, "bolt").await, []);
}

async fn a_tenant_that_is_erased_leaves_one_note_of_that(store: Arc<dyn Store>) {
    for (tenant, user, name) in
        [("acme", "ann", "a"), ("acme", "bob", "b"), ("acme", "bob", "c"), ("bolt", "ann", "d")]
    {
        let key = ThreadKey { owner: owner(tenant, user), session: part(name) };
        claimed(&*store, &key).await;
    }
    let (_, receipt) = erase(&*store, "acme", Some("bob")).await;
    assert_eq!(receipt.detail.as_deref(), Some("{\"threads\":2}"));
    let mut found = notes(&*store, "acme").await;
    found.sort();
    let mut due =
        ["b", "c"].map(|name| told(Act::ThreadDeleted, "operator", &format!("acme:bob:{name}"))).to_vec();
    due.push(told(Act::UserErased, "operator", "acme:bob"));
    due.sort();
    assert_eq!(found, due);
    erase(&*store, "bolt", None).await;
    let (_, receipt) = erase(&*store, "acme", None).await;
    assert_eq!((receipt.tenant.as_str(), receipt.detail.as_deref()), ("*", Some("{\"threads\":1}")));
    assert_eq!(notes(&*store, "acme").await, []);
    let due = ["bolt", "acme"].map(|tenant| told(Act::TenantErased, "operator", tenant));
    assert_eq!(notes(&*store, "*").await, due);
    let stored =
        store.audit(&AuditFilter { of: Some("acme".into()), ..AuditFilter::default() }, 9).await.unwrap();
    assert_eq!((stored.len(), stored[0].id), (1, receipt.id));
}

/// Notes of some days ago, on each database.
async fn old_notes_are_forgotten(subject: Subject) {
    let store = subject.store.clone();
    for name in ["a", "b", "c", "d"] {
        claimed(&*store, &session(name)).await;
        store.delete_thread(&session(name)).await.unwrap();
    }
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let (lift, ago) = match db.get_database_backend() {
        DbBackend::Postgres => ("select 1", "at - interval '40 days'"),
        _ => ("drop trigger audit_stays", "at - 40 * 86400 * cast(1000000 as integer)"),
    };
    db.execute_unprepared(lift).await.unwrap();
    let aged = format!("update audit set at = {ago} where subject <> '{}'", sha256_hex(b"acme:ann:d"));
    db.execute_unprepared(&aged).await.unwrap();
    let days = |days: u64| Duration::from_hours(24 * days);
    assert_eq!(store.forget_audit(days(50), 10).await.unwrap(), 0);
    assert_eq!(store.forget_audit(days(30), 2).await.unwrap(), 2);
    assert_eq!(store.forget_audit(days(30), 2).await.unwrap(), 1);
    assert_eq!(notes(&*store, "acme").await, [told(Act::ThreadDeleted, "acme:ann", "acme:ann:d")]);
}

#[tokio::test]
async fn old_notes_are_forgotten_on_sqlite() {
    old_notes_are_forgotten(Subject::sqlite().await).await;
}

#[tokio::test]
async fn old_notes_are_forgotten_on_postgres() {
    old_notes_are_forgotten(Subject::postgres().await).await;
}

#[tokio::test]
async fn the_service_can_add_to_the_log_and_do_nothing_else_to_it() {
    let subject = Subject::postgres().await;
    let store = subject.store.clone();
    claimed(&*store, &session("a")).await;
    store.delete_thread(&session("a")).await.unwrap();
    claimed(&*store, &session("b")).await;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    for text in [
        "update audit set actor = 'nobody'",
        "delete from audit",
        "truncate audit",
        "select * from audit",
        "insert into audit values ('bolt', gen_random_uuid(), now(), 'x', 'x', 'x', null)",
    ] {
        db.execute_unprepared("begin; set local graphloom.tenant = 'acme'; set local role graphloom_app")
            .await
            .unwrap();
        let error = db.execute_unprepared(text).await.unwrap_err().to_string();
        db.execute_unprepared("rollback").await.unwrap();
        assert!(
            error.contains("permission denied") || error.contains("row-level security"),
            "{text}: {error}"
        );
    }
    // Of a tenant that is there nothing is erased, whoever calls the function.
    db.execute_unprepared(
        "begin; set local role graphloom_app; select erase_audit('acme', gen_random_uuid(), now(), 'x', 'x', 'x', null); \
         select forget_audit(0, 100); commit",
    )
    .await
    .unwrap();
    assert_eq!(numbers(&db, "select count(*) from audit where tenant = 'acme'").await, [1]);
}

#[tokio::test]
async fn a_note_of_sqlite_stays_as_it_is() {
    let subject = Subject::sqlite().await;
    claimed(&*subject.store, &session("a")).await;
    subject.store.delete_thread(&session("a")).await.unwrap();
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let error = db.execute_unprepared("update audit set actor = 'nobody'").await.unwrap_err().to_string();
    assert!(error.contains("a note stays as it is"), "{error}");
}

#[tokio::test]
async fn new_keys_of_a_tenant_are_noted() {
    let fresh = Fresh::sqlite();
    let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
    store.migrate().await.unwrap();
    claimed(&store, &session("a")).await;
    store.renew(&part("acme")).await.unwrap();
    let filter = AuditFilter { tenant: Some("acme".into()), ..AuditFilter::default() };
    let made = store.audit(&filter, 9).await.unwrap();
    let made: Vec<_> = made.iter().map(|note| (note.act.as_str(), note.actor.as_str())).collect();
    assert_eq!(made, [("key.made", "operator"), ("key.made", "service")]);
}
