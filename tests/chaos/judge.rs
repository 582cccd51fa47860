//! What must be true: some of it at every moment, all of it when nothing runs any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::client::{Load, Talk, place};
use crate::support::stream::{Event, Stream};
use crate::support::world::pairs;

/// What no query may ever find.
const NEVER: [(&str, &str); 4] = [
    (
        "two active runs on a thread",
        "select thread_id::text from run where state in ('running', 'interrupted') \
         group by tenant, thread_id having count(*) > 1",
    ),
    (
        "a gap or a double in the steps of a run",
        "select run_id::text from (select run_id, step, lag(step) over (partition by tenant, run_id order by step) \
           as before from checkpoint where run_id is not null) c where step - before <> 1",
    ),
    (
        "a checkpoint whose parent is gone, or has two children in its run",
        "select c.checkpoint_id::text from checkpoint c left join checkpoint p \
           on p.tenant = c.tenant and p.thread_id = c.thread_id and p.checkpoint_id = c.parent \
         where c.parent is not null and p.checkpoint_id is null \
         union all select parent::text from checkpoint where parent is not null \
         group by tenant, parent having count(*) > 1",
    ),
    (
        "a run that ended and has an owner",
        "select run_id::text from run where finished_at is not null and (owner is not null or lease_until is not null)",
    ),
];

/// What no query may find when nobody waits for anything.
const AT_REST: [(&str, &str); 3] = [
    ("a run that is not over", "select run_id::text || ' ' || state from run where state <> 'completed'"),
    ("a pending write", "select run_id::text from pending_write"),
    (
        "an open question",
        "select interrupt_id::text from interrupt where closed_at is null and answered_at is null",
    ),
];

/// Checks what is true at every moment.
pub(crate) async fn moment(load: &Load, after: &str) {
    let accepted = load.accepted.lock().unwrap().clone();
    let stored: BTreeSet<String> =
        load.cluster.select("select run_id::text from run").await.into_iter().collect();
    let missing: Vec<_> = accepted.difference(&stored).collect();
    assert!(missing.is_empty(), "after {after}: accepted, and not there: {missing:?}");
    for (what, query) in NEVER {
        let found = load.cluster.select(query).await;
        assert!(found.is_empty(), "after {after}: {what}: {found:?}\n{}", load.cluster.logs());
    }
}

/// Waits until nothing runs, and checks all that is stored against what was said and told.
pub(crate) async fn rest(load: &Load, talks: &mut [Talk]) {
    moment(load, "all").await;
    let patience = Instant::now() + Duration::from_secs(30);
    for (what, query) in AT_REST {
        loop {
            let found = load.cluster.select(query).await;
            if found.is_empty() {
                break;
            }
            assert!(Instant::now() < patience, "at rest: {what}: {found:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    for talk in talks {
        let path = format!("/v1/threads/{}", talk.session);
        let state = get(load, talk, &format!("{path}/state")).await;
        assert_eq!(state["state"]["turns"], json!(talk.count), "{}: {state}", talk.session);
        assert_eq!(state["state"]["log"], json!(talk.log), "{}", talk.session);
        let mut said = Vec::new();
        let mut page = get(load, talk, &format!("{path}/messages")).await;
        loop {
            said.extend(pairs(&page["messages"]));
            let Some(next) = page["next"].as_str() else { break };
            page = get(load, talk, &format!("{path}/messages?after={next}")).await;
        }
        assert_eq!(said, talk.said, "{}", talk.session);
        for (run, told) in std::mem::take(&mut talk.told) {
            let request = talk.request(load, Method::GET, &format!("/v1/runs/{run}/events"));
            let replay = Stream::new(request.send().await.unwrap(), load.cluster.schema.clone()).rest().await;
            assert_eq!(durable(&told), durable(&replay), "{run}: told and stored differ");
        }
    }
}

/// Returns the events that are stored before they are told, but those that later ones replace: what began and died with its
/// process, and the end of a stream that went on.
fn durable(events: &[Event]) -> Vec<((u64, u64), String)> {
    let died = |n: usize| {
        let again = |later: &Event| {
            matches!(later.kind(), "node.reset" | "node.started")
                && later.json["epoch"] != events[n].json["epoch"]
                && later.json["task_id"] == events[n].json["task_id"]
        };
        events[n + 1..].iter().any(again)
    };
    let kept = events.iter().enumerate().filter(|(n, event)| match event.kind() {
        "message.delta" => false,
        "node.started" | "node.retrying" | "message.started" => !died(*n),
        "run.finished" => *n + 1 == events.len(),
        _ => true,
    });
    kept.map(|(_, event)| (place(event), event.kind().to_owned())).collect()
}

async fn get(load: &Load, talk: &mut Talk, path: &str) -> Json {
    let answer = talk.request(load, Method::GET, path).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status} {text}"))
}
