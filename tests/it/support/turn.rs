//! Turns of Ann on session `s` of the graph `test`, without a server between.

use graphloom::engine::{Answered, Breakpoints, Engine, Follower, Start, Wishes};
use graphloom::store::OnBusy;
use serde_json::{Value as Json, json};

use super::{owner, part};

/// Says something.
pub(crate) fn turn(text: &str) -> Start {
    Start {
        graph: "test".into(),
        session: part("s"),
        message: Some(json!(text)),
        input: serde_json::Map::new(),
        on_busy: OnBusy::Enqueue,
        durability: None,
        breakpoints: Breakpoints::default(),
        delay: None,
        wishes: Wishes::default(),
        idempotency: None,
    }
}

/// Says something, and returns the run with the place behind which it tells of it.
pub(crate) async fn begin(engine: &Engine, text: &str) -> Answered {
    let started = engine.start(&owner("acme", "ann"), turn(text)).await.unwrap();
    Answered { run: started.run, replayed: started.replayed, after: started.after }
}

/// Reads what a run tells from there on.
pub(crate) async fn drain(engine: &Engine, answered: &Answered) -> Vec<Json> {
    let owner = &answered.run.key.owner;
    rest(engine.follower(owner, &answered.run, answered.after, false)).await
}

/// Reads a stream to its end.
pub(crate) async fn rest(mut follower: Follower) -> Vec<Json> {
    let mut events = Vec::new();
    while let Some(frame) = follower.next().await {
        events.push(serde_json::from_slice(&frame.expect("the stream was cut").json).unwrap());
    }
    events
}
