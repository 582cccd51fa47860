//! What is told of the ends and pauses of runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use graphloom::id::{HookId, InterruptId, ThreadKey};
use graphloom::store::{
    Accepted, Actor, Commit, Committed, Hook, HookCounts, HookFilter, HookState, NewRun, Question, Run,
    RunState, Store, Told, Wishes,
};

use super::on_every_store;
use crate::support::{
    barrier, batch, checkpoint, claimed, last_barrier, new_run, owner, part, resume, session,
};

on_every_store![
    each_end_and_each_pause_is_told_once_and_only_of_runs_with_a_webhook,
    a_run_that_waits_is_told_of_when_it_is_ended,
    what_is_due_is_taken_by_one_and_by_another_when_its_lease_is_over,
    a_try_that_is_late_changes_nothing_unless_it_came_to_its_end,
    what_was_given_up_is_seen_and_tried_again,
    what_is_over_for_long_is_forgotten,
];

const MINUTE: Duration = Duration::from_mins(1);
const URL: &str = "https://example.com/hook";

fn wishes() -> Wishes {
    Wishes { webhook: Some(URL.into()), ..Wishes::default() }
}

/// Accepts a run of which somebody is told.
async fn watched(store: &dyn Store, key: &ThreadKey) -> Run {
    match store.accept(NewRun { wishes: wishes(), ..new_run(key) }).await.unwrap() {
        Accepted::Claimed { run, .. } | Accepted::Queued { run } => run,
        other => panic!("{other:?}"),
    }
}

/// Ends such a run.
async fn ended(store: &dyn Store, session_name: &str) -> Run {
    let run = watched(store, &session(session_name)).await;
    store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
    run
}

async fn told(store: &dyn Store) -> Vec<(String, String)> {
    let mut hooks = store.hooks(&HookFilter::default(), 100).await.unwrap();
    hooks.reverse();
    let text = |hook: &Hook| (hook.url.clone(), String::from_utf8(hook.data.clone()).unwrap());
    hooks.iter().map(text).collect()
}

async fn each_end_and_each_pause_is_told_once_and_only_of_runs_with_a_webhook(store: Arc<dyn Store>) {
    let mut run = watched(&*store, &session("s")).await;
    assert_eq!(run.webhook.as_deref(), Some(URL));
    let quiet = claimed(&*store, &session("t")).await;
    store.commit(last_barrier(&quiet, RunState::Completed)).await.unwrap();
    let ask = Question { id: InterruptId("q".into()), agent: false, data: vec![1], expires_at: None };
    store.commit(Commit { questions: vec![ask], ..barrier(&run) }).await.unwrap();
    run.step += 1;
    assert_eq!(told(&*store).await, []);
    let pause = |run: &Run| Commit {
        next: Some((RunState::Interrupted, None)),
        notice: Some(b"it waits".to_vec()),
        ..barrier(run)
    };
    // One whose fence is lost tells nothing.
    let late = Run { fence: 9, ..run.clone() };
    assert_eq!(store.commit(last_barrier(&late, RunState::Failed)).await.unwrap(), Committed::Lost);
    assert_eq!(told(&*store).await, []);
    store.commit(pause(&run)).await.unwrap();
    let url = |path: &str| format!("https://example.com/{path}");
    assert_eq!(told(&*store).await, [(url("hook"), "it waits".to_owned())]);
    // Whoever goes on with it may say another place; who says nothing leaves it.
    let elsewhere = Wishes { webhook: Some(url("other")), ..Wishes::default() };
    let wish = graphloom::store::Resume { wishes: elsewhere, ..resume(&run.key, run.run, "there") };
    let graphloom::store::Resumed::Claimed(claim) = store.resume(wish).await.unwrap() else { panic!() };
    let mut run = claim.run;
    assert_eq!(run.webhook.as_deref(), Some(url("other").as_str()));
    // A pause that an answer has overtaken is none.
    store
        .request_cancel(&run.key.owner, run.run, Actor::User, false, Vec::new(), batch(0, 2, 2, b"x"))
        .await
        .unwrap();
    store.commit(pause(&run)).await.unwrap();
    assert_eq!(told(&*store).await.len(), 1);
    run = store.claim(&crate::support::process("there"), 10).await.unwrap().remove(0).run;
    store.commit(last_barrier(&run, RunState::Cancelled)).await.unwrap();
    assert_eq!(told(&*store).await[1..], [(url("other"), "the end".to_owned())]);
    let counts = HookCounts { queued: 2, ..HookCounts::default() };
    assert_eq!(store.hook_counts().await.unwrap(), counts);
    assert!(store.delete_thread(&run.key).await.unwrap());
    assert_eq!((told(&*store).await.len(), store.hook_counts().await.unwrap()), (0, HookCounts::default()));
}

async fn a_run_that_waits_is_told_of_when_it_is_ended(store: Arc<dyn Store>) {
    let key = session("s");
    let first = watched(&*store, &key).await;
    let waiting = watched(&*store, &key).await;
    let back = watched(&*store, &key).await;
    let end = async |run: &Run, rollback, result: &[u8]| {
        let events = batch(0, 2, 2, b"x");
        store
            .request_cancel(&run.key.owner, run.run, Actor::User, rollback, result.to_vec(), events)
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(end(&waiting, false, b"waiting").await.state, RunState::Cancelled);
    assert_eq!(end(&back, true, b"back").await.state, RunState::RolledBack);
    // Again, and of one that works: its owner tells of its end.
    assert_eq!(end(&waiting, false, b"again").await.state, RunState::Cancelled);
    assert_eq!(end(&first, true, b"first").await.state, RunState::Running);
    let all = async || told(&*store).await.into_iter().map(|(_, data)| data).collect::<Vec<_>>();
    assert_eq!(all().await, ["waiting", "back"]);
    let made = checkpoint(&first, None, 0, true);
    store.commit(Commit { checkpoints: vec![made], ..barrier(&first) }).await.unwrap();
    let first = Run { step: 1, ..first };
    store.commit(last_barrier(&first, RunState::RolledBack)).await.unwrap();
    assert_eq!(all().await, ["waiting", "back", "the end"]);
    let dead = watched(&*store, &session("t")).await;
    store.commit(last_barrier(&dead, RunState::Dead)).await.unwrap();
    assert_eq!(all().await.len(), 4);
}

async fn what_is_due_is_taken_by_one_and_by_another_when_its_lease_is_over(store: Arc<dyn Store>) {
    for i in 0..12 {
        ended(&*store, &format!("s{i}")).await;
    }
    let claims = (0..8).map(|_| {
        let store = store.clone();
        async move { store.claim_hooks(MINUTE, 3).await.unwrap() }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = claims.map(tokio::spawn).collect();
    let mut taken: BTreeMap<HookId, u32> = BTreeMap::new();
    for claimed in join_all(tasks).await {
        for hook in claimed.unwrap() {
            assert!(taken.insert(hook.id, hook.attempts).is_none(), "it was taken twice");
        }
    }
    taken.extend(
        store.claim_hooks(MINUTE, 100).await.unwrap().into_iter().map(|hook| (hook.id, hook.attempts)),
    );
    assert_eq!((taken.len(), taken.values().max()), (12, Some(&1)));
    assert!(store.claim_hooks(MINUTE, 100).await.unwrap().is_empty());
    ended(&*store, "late").await;
    let [first] = &store.claim_hooks(Duration::ZERO, 100).await.unwrap()[..] else { panic!() };
    let [second] = &store.claim_hooks(MINUTE, 100).await.unwrap()[..] else { panic!() };
    assert_eq!((first.id, first.attempts, second.attempts), (second.id, 1, 2));
    assert_eq!((&second.data, second.run.state), (&b"the end".to_vec(), RunState::Completed));
}

async fn a_try_that_is_late_changes_nothing_unless_it_came_to_its_end(store: Arc<dyn Store>) {
    ended(&*store, "s").await;
    let first = store.claim_hooks(Duration::ZERO, 1).await.unwrap().remove(0);
    let second = store.claim_hooks(MINUTE, 1).await.unwrap().remove(0);
    let tenant = part("acme");
    let note = async |attempt, told| store.told(&tenant, first.id, attempt, told).await.unwrap();
    let now = async || store.hooks(&HookFilter::default(), 1).await.unwrap().remove(0);
    let again = || Told::Again { error: "e".into(), after: Duration::ZERO };
    note(1, Told::GivenUp { error: "late".into() }).await;
    note(1, again()).await;
    assert_eq!((now().await, store.claim_hooks(MINUTE, 1).await.unwrap()), (second, Vec::new()));
    note(2, again()).await;
    let third = store.claim_hooks(MINUTE, 1).await.unwrap().remove(0);
    assert_eq!((third.attempts, third.error.as_deref()), (3, Some("e")));
    // It is another tenant's business.
    store.told(&part("bolt"), first.id, 3, again()).await.unwrap();
    note(1, Told::Delivered).await;
    let over = now().await;
    assert_eq!((over.state, over.data.len(), over.error), (HookState::Delivered, 0, None));
    assert!(over.finished_at.is_some());
    note(3, again()).await;
    assert_eq!(now().await.state, HookState::Delivered);
    assert_eq!(store.retry_hook(first.id).await.unwrap(), None);
}

async fn what_was_given_up_is_seen_and_tried_again(store: Arc<dyn Store>) {
    ended(&*store, "s").await;
    let bolt = ThreadKey { owner: owner("bolt", "bob"), session: part("s") };
    let run = watched(&*store, &bolt).await;
    store.commit(last_barrier(&run, RunState::Failed)).await.unwrap();
    let taken = store.claim_hooks(MINUTE, 10).await.unwrap();
    for hook in &taken {
        let told = Told::GivenUp { error: "no".into() };
        store.told(&hook.run.key.owner.tenant, hook.id, 1, told).await.unwrap();
    }
    let filter = HookFilter { tenant: Some(part("bolt")), states: vec![HookState::Failed], id: None };
    let [hook] = &store.hooks(&filter, 10).await.unwrap()[..] else { panic!() };
    assert_eq!(
        (hook.run.run, hook.error.as_deref(), hook.data.as_slice()),
        (run.run, Some("no"), &b"the end"[..])
    );
    assert_eq!(store.hook_counts().await.unwrap(), HookCounts { failed: 2, ..HookCounts::default() });
    let again = store.retry_hook(hook.id).await.unwrap().unwrap();
    assert_eq!((again.state, again.attempts, again.finished_at), (HookState::Queued, 0, None));
    assert_eq!(store.claim_hooks(MINUTE, 10).await.unwrap().len(), 1);
    let queued = HookFilter { states: vec![HookState::Queued], ..HookFilter::default() };
    assert_eq!(store.hooks(&queued, 10).await.unwrap().len(), 1);
    assert_eq!(store.retry_hook(HookId::new()).await.unwrap(), None);
}

async fn what_is_over_for_long_is_forgotten(store: Arc<dyn Store>) {
    for name in ["told", "given up", "waits"] {
        ended(&*store, &name.replace(' ', "-")).await;
    }
    let taken = store.claim_hooks(MINUTE, 2).await.unwrap();
    let tenant = part("acme");
    store.told(&tenant, taken[0].id, 1, Told::Delivered).await.unwrap();
    store.told(&tenant, taken[1].id, 1, Told::GivenUp { error: "no".into() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(store.forget_hooks(MINUTE, MINUTE, 10).await.unwrap(), 0);
    assert_eq!(store.forget_hooks(Duration::ZERO, MINUTE, 10).await.unwrap(), 1);
    assert_eq!(store.forget_hooks(Duration::ZERO, Duration::ZERO, 10).await.unwrap(), 1);
    assert_eq!(store.hook_counts().await.unwrap(), HookCounts { queued: 1, ..HookCounts::default() });
}
