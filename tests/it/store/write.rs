//! Events, cancelling, listing, deleting, and who sees what.

use std::sync::Arc;

use graphloom::id::{RunId, Seq, ThreadKey};
use graphloom::store::{
    Accepted, Actor, Commit, Committed, EventBatch, GraphVersion, NewRun, RunState, Store, VersionUse,
};

use super::on_every_store;
use crate::support::{
    barrier, batch, checkpoint, claimed, last_barrier, line, new_run, owner, part, process, queued, session,
};

on_every_store![
    sealed:
    events_come_in_order_and_in_pages,
    a_batch_gives_way_only_to_a_longer_one,
    events_of_many_runs_go_in_at_once_and_stale_ones_are_dropped,
    a_queued_run_is_cancelled_at_once,
    a_run_that_was_handed_back_ends_after_all_that_its_owner_sent,
    a_running_run_is_asked_to_end,
    a_finished_run_stays_as_it_ended,
    what_belongs_to_somebody_else_does_not_exist,
    threads_are_listed_latest_first_and_in_pages,
    a_deleted_thread_is_gone_and_its_name_is_free,
    a_graph_version_is_kept_by_its_hash,
    what_is_on_a_version_is_counted,
    the_store_answers,
];

async fn all(store: &dyn Store, run: &graphloom::store::Run) -> Vec<EventBatch> {
    store.events(&run.key.owner, run.run, Seq::default(), usize::MAX).await.unwrap()
}

async fn append(store: &dyn Store, run: &graphloom::store::Run, batch: EventBatch) {
    store.append_events(vec![(run.key.owner.clone(), run.run, batch)]).await.unwrap();
}

async fn events_come_in_order_and_in_pages(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let mut batches = Vec::new();
    for i in 0..10 {
        // So long that what an encrypted one has before and behind it does not count.
        batches.push(batch(1, i * 3 + 1, i * 3 + 3, &[i as u8; 1000]));
    }
    // They arrive in any order.
    for one in batches.iter().rev() {
        append(&*store, &run, one.clone()).await;
    }
    store.release(&run.key.owner, run.run, 1).await.unwrap();
    let next = store.claim(&process("there"), 1).await.unwrap().remove(0).run;
    batches.push(batch(2, 1, 1, b"of the next owner"));
    let commit = Commit { events: batches.last().cloned(), ..barrier(&next) };
    store.commit(commit).await.unwrap();
    assert_eq!(all(&*store, &run).await, batches);

    let owner = &run.key.owner;
    let page = async |fence, n, limit| store.events(owner, run.run, Seq { fence, n }, limit).await.unwrap();
    assert_eq!(page(0, 0, 2500).await, batches[..2]);
    assert_eq!(page(0, 0, 1).await, batches[..1], "one batch at least");
    assert_eq!(page(1, 3, 9000).await[0], batches[1], "3 is the last of the first batch");
    assert_eq!(page(1, 4, 9000).await[0], batches[1], "5 and 6 are in a batch that begins before");
    assert_eq!(page(1, 30, 9000).await, batches[10..]);
    assert_eq!(page(1, 99, 9000).await, batches[10..]);
    assert_eq!(page(2, 1, 9000).await, []);
    let mut found: Vec<EventBatch> = Vec::new();
    loop {
        let after = found.last().map_or(Seq::default(), |b| Seq { fence: b.fence, n: b.last });
        let next = page(after.fence, after.n, 3500).await;
        if next.is_empty() {
            break;
        }
        found.extend(next);
    }
    assert_eq!(found, batches);
}

async fn a_batch_gives_way_only_to_a_longer_one(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    append(&*store, &run, batch(1, 1, 3, b"three")).await;
    let commit = Commit { events: Some(batch(1, 1, 5, b"five")), ..barrier(&run) };
    store.commit(commit).await.unwrap();
    append(&*store, &run, batch(1, 1, 4, b"four")).await;
    append(&*store, &run, batch(1, 1, 5, b"fivE")).await;
    assert_eq!(all(&*store, &run).await, [batch(1, 1, 5, b"five")]);
    // A barrier tells whether what was appended before it is still there.
    for (step, appended, kept) in
        [(1, (1, 5), true), (2, (1, 4), true), (3, (1, 6), false), (4, (2, 5), false)]
    {
        let commit = Commit { step, appended: Some(appended), ..barrier(&run) };
        assert_eq!(store.commit(commit).await.unwrap(), Committed::Done { cancel_requested: false, kept });
    }
    // Within one call too.
    let both = [(6, 8, "eight"), (6, 7, "seven")]
        .map(|(first, last, data)| (run.key.owner.clone(), run.run, batch(1, first, last, data.as_bytes())));
    store.append_events(both.to_vec()).await.unwrap();
    assert_eq!(all(&*store, &run).await[1..], [batch(1, 6, 8, b"eight")]);
    let shorter = Commit { step: 5, events: Some(batch(1, 6, 6, b"six")), ..barrier(&run) };
    assert_eq!(store.commit(shorter).await.unwrap(), Committed::Done { cancel_requested: false, kept: true });
    assert_eq!(all(&*store, &run).await[1..], [batch(1, 6, 8, b"eight")]);
}

async fn events_of_many_runs_go_in_at_once_and_stale_ones_are_dropped(store: Arc<dyn Store>) {
    store.append_events(vec![]).await.unwrap();
    let mut batches = Vec::new();
    let mut runs = Vec::new();
    for i in 0..5 {
        let run = claimed(&*store, &session(&format!("s{i}"))).await;
        batches.push((run.key.owner.clone(), run.run, batch(1, 1, 2, b"fresh\0")));
        batches.push((run.key.owner.clone(), run.run, batch(2, 1, 2, b"of a fence to come")));
        batches.push((owner("acme", "bob"), run.run, batch(1, 3, 3, b"of another user")));
        batches.push((owner("bolt", "ann"), run.run, batch(1, 4, 4, b"of another tenant")));
        runs.push(run);
    }
    batches.push((owner("acme", "ann"), RunId::new(), batch(1, 1, 1, b"of no run")));
    store.append_events(batches).await.unwrap();
    for run in runs {
        assert_eq!(all(&*store, &run).await, [batch(1, 1, 2, b"fresh\0")]);
    }
}

async fn a_queued_run_is_cancelled_at_once(store: Arc<dyn Store>) {
    let key = session("s");
    claimed(&*store, &key).await;
    let run = queued(&*store, &key).await;
    let end = batch(0, 1, 2, b"the end");
    let asked = store
        .request_cancel(&key.owner, run.run, Actor::User, false, b"cancelled".to_vec(), end.clone())
        .await
        .unwrap();
    let asked = asked.unwrap();
    assert_eq!((asked.state, asked.fence, asked.cancel_requested), (RunState::Cancelled, 0, true));
    assert_eq!(asked.result.as_deref(), Some(&b"cancelled"[..]));
    assert!(asked.finished_at.is_some());
    assert_eq!(all(&*store, &run).await, std::slice::from_ref(&end));
    let again =
        store.request_cancel(&key.owner, run.run, Actor::User, false, b"again".to_vec(), end).await.unwrap();
    assert_eq!(again, Some(asked));
}

async fn a_run_that_was_handed_back_ends_after_all_that_its_owner_sent(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    append(&*store, &run, batch(1, 1, 9, b"sent")).await;
    store.release(&run.key.owner, run.run, 1).await.unwrap();
    let end = batch(0, 1, 2, b"the end");
    let asked = store
        .request_cancel(&run.key.owner, run.run, Actor::User, false, vec![], end)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((asked.state, asked.fence), (RunState::Cancelled, 2));
    assert_eq!(all(&*store, &run).await, [batch(1, 1, 9, b"sent"), batch(2, 1, 2, b"the end")]);
}

async fn a_running_run_is_asked_to_end(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let end = batch(0, 1, 1, b"not used");
    let asked = store
        .request_cancel(&run.key.owner, run.run, Actor::User, false, b"not used".to_vec(), end)
        .await
        .unwrap();
    let asked = asked.unwrap();
    assert_eq!((asked.state, asked.cancel_requested, asked.result), (RunState::Running, true, None));
    assert_eq!(all(&*store, &run).await, []);
    let goes_on = store.commit(barrier(&run)).await.unwrap();
    assert_eq!(goes_on, Committed::Done { cancel_requested: true, kept: true });
}

async fn a_finished_run_stays_as_it_ended(store: Arc<dyn Store>) {
    for state in
        [RunState::Completed, RunState::Failed, RunState::Cancelled, RunState::RolledBack, RunState::Dead]
    {
        let run = claimed(&*store, &session(&format!("{state:?}"))).await;
        store.commit(last_barrier(&run, state)).await.unwrap();
        let ended = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.step), (state, 1));
        let asked = store
            .request_cancel(
                &run.key.owner,
                run.run,
                Actor::User,
                false,
                b"no".to_vec(),
                batch(0, 1, 1, b"no"),
            )
            .await;
        assert_eq!(asked.unwrap().as_ref(), Some(&ended));
        store.release(&run.key.owner, run.run, run.fence).await.unwrap();
        assert!(store.claim(&process("here"), 10).await.unwrap().is_empty());
        assert_eq!(store.run(&run.key.owner, run.run).await.unwrap(), Some(ended));
        assert_eq!(all(&*store, &run).await, []);
    }
}

/// The same session under other owners is another thread, and no id opens another owner's door.
async fn what_belongs_to_somebody_else_does_not_exist(store: Arc<dyn Store>) {
    let mut run = claimed(&*store, &session("s")).await;
    let made = line(&*store, &mut run, 2, 1).await;
    append(&*store, &run, batch(1, 1, 1, b"mine")).await;
    for stranger in [owner("acme", "bob"), owner("bolt", "ann"), owner("ann", "acme")] {
        let key = ThreadKey { owner: stranger.clone(), session: part("s") };
        assert_eq!(store.thread(&key).await.unwrap(), None);
        assert_eq!(store.threads(&stranger, None, 10).await.unwrap(), []);
        assert_eq!(store.run(&stranger, run.run).await.unwrap(), None);
        assert_eq!(store.events(&stranger, run.run, Seq::default(), 100).await.unwrap(), []);
        assert_eq!(store.history(&stranger, run.thread, None, 10).await.unwrap(), []);
        assert_eq!(store.chain(&stranger, run.thread, made[1].checkpoint).await.unwrap(), []);
        let asked = store
            .request_cancel(&stranger, run.run, Actor::User, false, vec![], batch(0, 1, 1, b""))
            .await
            .unwrap();
        assert_eq!(asked, None);
        let commit = Commit { owner: stranger.clone(), ..last_barrier(&run, RunState::Failed) };
        assert_eq!(store.commit(commit).await.unwrap(), Committed::Lost);
        store.release(&stranger, run.run, run.fence).await.unwrap();
        assert!(!store.delete_thread(&key).await.unwrap());
        // The same session of another owner starts empty.
        let Accepted::Claimed { run: other, head } = store.accept(new_run(&key)).await.unwrap() else {
            panic!()
        };
        assert_eq!(head, None);
        assert_ne!(other.thread, run.thread);
        assert!(store.delete_thread(&key).await.unwrap());
    }
    let found = store.run(&run.key.owner, run.run).await.unwrap().unwrap();
    assert_eq!((found.state, found.cancel_requested), (RunState::Running, false));
    assert_eq!(store.thread(&run.key).await.unwrap().unwrap().head, Some(made[1].checkpoint));
}

async fn threads_are_listed_latest_first_and_in_pages(store: Arc<dyn Store>) {
    let mut runs = Vec::new();
    for i in 0..7 {
        runs.push(claimed(&*store, &session(&format!("s{i}"))).await);
    }
    // A commit touches its thread.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    store.commit(last_barrier(&runs[2], RunState::Failed)).await.unwrap();
    let me = owner("acme", "ann");
    let listed = store.threads(&me, None, 100).await.unwrap();
    assert_eq!(listed.len(), 7);
    assert_eq!(
        (listed[0].thread, listed[0].last_run),
        (runs[2].thread, Some((runs[2].run, RunState::Failed)))
    );
    for (one, next) in listed.iter().zip(&listed[1..]) {
        assert!((one.updated_at, one.thread) > (next.updated_at, next.thread));
    }
    assert_eq!(store.thread(&listed[3].key).await.unwrap().as_ref(), Some(&listed[3]));
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.threads(&me, cursor, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some((last.updated_at, last.thread));
        found.extend(page);
    }
    assert_eq!(found, listed);
}

async fn a_deleted_thread_is_gone_and_its_name_is_free(store: Arc<dyn Store>) {
    let key = session("s");
    assert!(!store.delete_thread(&key).await.unwrap());
    let mut run = claimed(&*store, &key).await;
    let other = claimed(&*store, &session("other")).await;
    let waiting = queued(&*store, &key).await;
    let made = line(&*store, &mut run, 3, 2).await;
    append(&*store, &run, batch(1, 1, 1, b"sent")).await;
    assert!(store.delete_thread(&key).await.unwrap());
    assert_eq!(store.thread(&key).await.unwrap(), None);
    for gone in [run.run, waiting.run] {
        assert_eq!(store.run(&key.owner, gone).await.unwrap(), None);
    }
    assert_eq!(all(&*store, &run).await, []);
    assert_eq!(store.chain(&key.owner, run.thread, made[2].checkpoint).await.unwrap(), []);
    // The owner of the run in flight learns it at the gate, and leaves nothing behind.
    let commit = Commit { checkpoints: vec![checkpoint(&run, None, 3, true)], ..barrier(&run) };
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Lost);
    append(&*store, &run, batch(1, 2, 2, b"late")).await;
    assert_eq!(all(&*store, &run).await, []);
    assert!(store.claim(&process("there"), 10).await.unwrap().is_empty());
    let Accepted::Claimed { head, run: again } = store.accept(new_run(&key)).await.unwrap() else { panic!() };
    assert_eq!(head, None);
    assert_ne!(again.thread, run.thread);
    assert!(store.run(&key.owner, other.run).await.unwrap().is_some());
}

async fn what_is_on_a_version_is_counted(store: Arc<dyn Store>) {
    let over = claimed(&*store, &session("over")).await;
    store.commit(last_barrier(&over, RunState::Completed)).await.unwrap();
    let paused = claimed(&*store, &session("paused")).await;
    let pause = Commit { next: Some((RunState::Interrupted, None)), ..barrier(&paused) };
    store.commit(pause).await.unwrap();
    claimed(&*store, &session("busy")).await;
    queued(&*store, &session("busy")).await;
    // The newest run of a thread says of which version the thread is.
    let newer = NewRun { hash: "hash-2".into(), from: Some("hash-1".into()), ..new_run(&session("over")) };
    store.accept(newer).await.unwrap();
    let found = store.version_use("hash-1").await.unwrap();
    assert_eq!(found, VersionUse { threads: 2, open_runs: 3, paused_runs: 1 });
    let found = store.version_use("hash-2").await.unwrap();
    assert_eq!(found, VersionUse { threads: 1, open_runs: 1, paused_runs: 0 });
    assert_eq!(store.version_use("hash-3").await.unwrap(), VersionUse::default());
    let counted = store.paused_versions().await.unwrap();
    let of_graph: Vec<_> =
        counted.iter().map(|((graph, hash), n)| (graph.as_str(), hash.as_str(), *n)).collect();
    assert_eq!(of_graph, [(&*paused.graph, "hash-1", 1)]);
}

async fn a_graph_version_is_kept_by_its_hash(store: Arc<dyn Store>) {
    let version =
        |body: &[u8]| GraphVersion { graph: "support".into(), hash: "h1".into(), body: body.to_vec() };
    assert_eq!(store.graph_version("h1").await.unwrap(), None);
    store.put_graph_version(&version(b"first\0")).await.unwrap();
    store.put_graph_version(&version(b"second")).await.unwrap();
    assert_eq!(store.graph_version("h1").await.unwrap(), Some(version(b"first\0")));
    for hash in ["ab12", "ab1c", "b0"] {
        store.put_graph_version(&GraphVersion { hash: hash.into(), ..version(b"") }).await.unwrap();
    }
    for (beginning, found) in
        [("ab1c", &["ab1c"][..]), ("ab", &["ab12", "ab1c"]), ("", &["ab12", "ab1c"]), ("c", &[])]
    {
        assert_eq!(store.hashes(beginning, 2).await.unwrap(), found, "{beginning}");
    }
}

async fn the_store_answers(store: Arc<dyn Store>) {
    store.ping().await.unwrap();
    store.migrate().await.unwrap();
}
