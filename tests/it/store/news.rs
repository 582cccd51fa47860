//! What is new of runs that somebody follows, of many at once.

use std::sync::Arc;

use graphloom::id::{Owner, RunId, Seq, ThreadKey};
use graphloom::store::{Commit, EventBatch, News, Run, RunState, Store};
use sea_orm::ConnectionTrait;

use super::on_every_store;
use crate::support::{Subject, barrier, batch, claimed, last_barrier, owner, part, plain};

on_every_store![
    sealed:
    news_of_many_runs_of_many_tenants_come_at_once,
    a_page_of_news_is_not_larger_than_asked,
];

fn thread(tenant: &str, session: &str) -> ThreadKey {
    ThreadKey { owner: owner(tenant, "ann"), session: part(session) }
}

fn at(fence: u64, n: u64) -> Seq {
    Seq { fence, n }
}

fn place(run: &Run, after: Seq) -> (Owner, RunId, Seq) {
    (run.key.owner.clone(), run.run, after)
}

async fn news(store: &dyn Store, of: &[(Owner, RunId, Seq)]) -> Vec<News> {
    let found = store.news(of, 1 << 20).await.unwrap();
    of.iter().filter_map(|(_, run, _)| found.iter().find(|news| news.run == *run).cloned()).collect()
}

async fn news_of_many_runs_of_many_tenants_come_at_once(store: Arc<dyn Store>) {
    assert_eq!(store.news(&[], 1).await.unwrap(), []);
    let mut runs = Vec::new();
    for tenant in ["acme", "bolt"] {
        for session in ["a", "b"] {
            let run = claimed(&*store, &thread(tenant, session)).await;
            let events = Some(batch(1, 2, 5, b"two to five"));
            store.commit(Commit { events, ..barrier(&run) }).await.unwrap();
            store
                .append_events(vec![(run.key.owner.clone(), run.run, batch(1, 6, 6, b"six"))])
                .await
                .unwrap();
            runs.push(run);
        }
    }
    let over = Commit {
        step: 1,
        events: Some(batch(1, 7, 8, b"the end")),
        ..last_barrier(&runs[3], RunState::Failed)
    };
    store.commit(over).await.unwrap();
    assert!(store.delete_thread(&runs[1].key).await.unwrap());
    let of = [
        place(&runs[0], Seq::default()),
        place(&runs[1], Seq::default()),
        place(&runs[2], at(1, 6)),
        place(&runs[3], at(1, 5)),
    ];
    let found = news(&*store, &of).await;
    let told = |state, batches: &[EventBatch]| (state, batches.to_vec());
    let found: Vec<(RunState, Vec<EventBatch>)> =
        found.into_iter().map(|news| (news.state, news.batches)).collect();
    assert_eq!(
        found,
        [
            told(RunState::Running, &[batch(1, 2, 5, b"two to five"), batch(1, 6, 6, b"six")]),
            // The second was deleted.
            told(RunState::Running, &[]),
            told(RunState::Failed, &[batch(1, 6, 6, b"six"), batch(1, 7, 8, b"the end")]),
        ]
    );
    // A batch that grew is new, and a place within a batch brings the whole of it.
    let grown = batch(1, 6, 9, b"six to nine");
    store.append_events(vec![(runs[2].key.owner.clone(), runs[2].run, grown.clone())]).await.unwrap();
    for after in [at(1, 6), at(1, 8)] {
        assert_eq!(news(&*store, &[place(&runs[2], after)]).await[0].batches, std::slice::from_ref(&grown));
    }
    assert_eq!(news(&*store, &[place(&runs[2], at(1, u64::MAX))]).await[0].batches, []);
    // What is somebody else's is not there for who does not name its owner.
    let stranger = (owner("acme", "ann"), runs[2].run, Seq::default());
    assert_eq!(store.news(&[stranger], 1 << 20).await.unwrap(), []);
    // Where it stands may be told to its tenant, but nothing that it told.
    let neighbour = (owner("bolt", "bob"), runs[2].run, Seq::default());
    let nothing = News { run: runs[2].run, state: RunState::Running, batches: Vec::new() };
    for news in store.news(&[neighbour], 1 << 20).await.unwrap() {
        assert_eq!(news, nothing);
    }
}

async fn a_page_of_news_is_not_larger_than_asked(store: Arc<dyn Store>) {
    let mut runs = Vec::new();
    for session in ["a", "b"] {
        let run = claimed(&*store, &thread("acme", session)).await;
        for n in 0..4 {
            let piece = batch(1, 2 + n, 2 + n, &[n as u8; 1000]);
            store.append_events(vec![(run.key.owner.clone(), run.run, piece)]).await.unwrap();
        }
        runs.push(run);
    }
    // What encryption adds counts too.
    for (limit, count) in [(1, 1), (1000, 1), (2500, 2), (10_000, 4)] {
        let of: Vec<_> = runs.iter().map(|run| place(run, Seq::default())).collect();
        let found = store.news(&of, limit).await.unwrap();
        assert_eq!(
            found.iter().map(|news| news.batches.len()).collect::<Vec<_>>(),
            [count, count],
            "{limit}"
        );
        assert!(found.iter().all(|news| news.batches.is_sorted_by_key(|batch| batch.first)));
    }
}

/// What is new was read tenant by tenant, each after the one before: whoever followed a run waited for all the others.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_several_tenants_are_read_at_the_same_time() {
    let subject = Subject::postgres().await;
    let mut of = Vec::new();
    for tenant in ["a", "b", "c", "d"] {
        let run = claimed(&*subject.store, &thread(tenant, "s")).await;
        subject
            .store
            .append_events(vec![(run.key.owner.clone(), run.run, batch(1, 2, 2, b"two"))])
            .await
            .unwrap();
        of.push(place(&run, Seq::default()));
    }
    // Connections are there.
    assert_eq!(news(&*subject.store, &of).await.len(), 4);
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    // Who reads an event waits for four that do. Whoever is alone waits until the statement is given up.
    let meeting = "create sequence came; grant usage, select on came to graphloom_app; \
         create function meet() returns boolean language plpgsql as $$ begin \
           perform nextval('came'); \
           while (select last_value from came) < 4 loop perform pg_sleep(0.01); end loop; \
           return true; end $$; \
         create policy meets on event as restrictive for select to graphloom_app using (meet())";
    db.execute_unprepared(meeting).await.unwrap();
    let found = news(&*subject.store, &of).await;
    assert!(found.iter().all(|news| news.batches == [batch(1, 2, 2, b"two")]), "{found:?}");
    db.close().await.unwrap();
}
