//! Results that are kept for a tenant.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{CacheKey, InterruptId, ThreadKey};
use graphloom::store::{CacheEntry, Commit, Committed, Question, Run, Store};

use super::on_every_store;
use crate::support::{barrier, claimed, erase, owner, part, session};

on_every_store![
    a_result_is_found_by_its_tenant_until_its_time_is_over,
    what_is_over_is_forgotten_in_steps,
    a_thread_takes_along_what_it_gave_and_nothing_else,
    a_barrier_holds_more_results_and_questions_than_a_statement_takes_values,
];

const HOUR: Duration = Duration::from_hours(1);

fn key(name: &str) -> CacheKey {
    CacheKey(name.into())
}

fn entry(name: &str, data: &str, ttl: Duration) -> CacheEntry {
    CacheEntry { key: key(name), data: data.as_bytes().to_vec(), ttl }
}

/// Commits results with the next barrier of a run.
async fn put(store: &dyn Store, run: &mut Run, cached: Vec<CacheEntry>) -> Committed {
    let done = store.commit(Commit { cached, ..barrier(run) }).await.unwrap();
    run.step += u64::from(done != Committed::Lost);
    done
}

async fn found(store: &dyn Store, tenant: &str, names: &[&str]) -> Vec<String> {
    let keys: Vec<CacheKey> = names.iter().map(|name| key(name)).collect();
    let rows = store.cached(&part(tenant), &keys).await.unwrap();
    let mut rows: Vec<String> = rows
        .into_iter()
        .map(|(key, data)| format!("{}={}", key.0, String::from_utf8(data).unwrap()))
        .collect();
    rows.sort();
    rows
}

async fn a_result_is_found_by_its_tenant_until_its_time_is_over(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let short = Duration::from_millis(1);
    put(
        &*store,
        &mut run,
        vec![entry("a", "one", HOUR), entry("b", "two", HOUR), entry("c", "three", short)],
    )
    .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(found(&*store, "acme", &["a", "b", "c", "d"]).await, ["a=one", "b=two"]);
    assert_eq!(found(&*store, "acme", &["b"]).await, ["b=two"]);
    assert!(found(&*store, "acme", &[]).await.is_empty());
    assert!(found(&*store, "bolt", &["a", "b"]).await.is_empty(), "it is not theirs");
    // The newest is what counts, and its time.
    put(
        &*store,
        &mut run,
        vec![entry("a", "new", HOUR), entry("b", "gone", short), entry("c", "back", HOUR)],
    )
    .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(found(&*store, "acme", &["a", "b", "c"]).await, ["a=new", "c=back"]);
    // Whoever is not the owner any more stores nothing.
    let mut late = Run { fence: run.fence - 1, ..run.clone() };
    assert_eq!(put(&*store, &mut late, vec![entry("a", "late", HOUR)]).await, Committed::Lost);
    assert_eq!(found(&*store, "acme", &["a"]).await, ["a=new"]);
    // More than a statement may name one by one.
    let many: Vec<String> = (0..1_200).map(|n| format!("k{n:04}")).collect();
    put(&*store, &mut run, many.iter().map(|name| entry(name, "x", HOUR)).collect()).await;
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(found(&*store, "acme", &names).await.len(), 1_200);
}

async fn what_is_over_is_forgotten_in_steps(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let over = ["a", "b", "c"].map(|name| entry(name, "x", Duration::from_millis(1)));
    put(&*store, &mut run, over.into_iter().chain([entry("d", "stays", HOUR)]).collect()).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut steps = Vec::new();
    for _ in 0..3 {
        steps.push(store.forget_cached(2).await.unwrap());
    }
    assert_eq!(steps, [2, 1, 0]);
    assert_eq!(found(&*store, "acme", &["a", "d"]).await, ["d=stays"]);
}

async fn a_thread_takes_along_what_it_gave_and_nothing_else(store: Arc<dyn Store>) {
    let of = |user: &str, name: &str| ThreadKey { owner: owner("acme", user), session: part(name) };
    let (ann, bob) = (of("ann", "s"), of("bob", "s"));
    let (mut anns, mut bobs) = (claimed(&*store, &ann).await, claimed(&*store, &bob).await);
    put(&*store, &mut anns, vec![entry("a", "of ann", HOUR), entry("b", "of ann", HOUR)]).await;
    put(&*store, &mut bobs, vec![entry("b", "of bob", HOUR), entry("c", "of bob", HOUR)]).await;
    assert!(store.delete_thread(&ann).await.unwrap());
    assert_eq!(found(&*store, "acme", &["a", "b", "c"]).await, ["b=of bob", "c=of bob"]);
    erase(&*store, "acme", Some("bob")).await;
    assert!(found(&*store, "acme", &["a", "b", "c"]).await.is_empty());
}

/// A run with such a barrier was tried for ever.
async fn a_barrier_holds_more_results_and_questions_than_a_statement_takes_values(store: Arc<dyn Store>) {
    let session = session("s");
    let run = claimed(&*store, &session).await;
    let cached = (0..22_000).map(|n| entry(&format!("{n:05}"), "x", HOUR)).collect();
    let question = |n: u32| Question {
        id: InterruptId(format!("q{n}").into()),
        agent: n.is_multiple_of(2),
        data: vec![1],
        expires_at: None,
    };
    let questions = (0..14_000).map(question).collect();
    let done = store.commit(Commit { cached, questions, ..barrier(&run) }).await.unwrap();
    assert_eq!(done, Committed::Done { cancel_requested: false, kept: true });
    assert_eq!(found(&*store, "acme", &["00000", "21999"]).await, ["00000=x", "21999=x"]);
    let open = store.questions(&session).await.unwrap();
    let shown = |n: usize| (open[n].id.0.to_string(), open[n].agent);
    assert_eq!(open.len(), 14_000);
    assert_eq!([shown(0), shown(1)], [("q0".to_owned(), true), ("q1".to_owned(), false)]);
}
