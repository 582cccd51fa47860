use serde_json::json;

use super::*;
use crate::model::{Params, Role, Timeouts, Turn};

fn request(node: &str) -> Request {
    Request {
        node: node.to_owned(),
        model: "m".to_owned(),
        turns: vec![Turn::new(Role::User, json!("hi there"))],
        tools: Arc::default(),
        output: None,
        params: Params::default(),
        timeouts: Timeouts::default(),
        idempotency_key: "k".to_owned(),
        attempt: 1,
    }
}

async fn say(model: &Scripted, node: &str) -> Vec<Result<Chunk, ModelError>> {
    match model.stream(request(node)).await {
        Ok(stream) => stream.collect().await,
        Err(error) => vec![Err(error)],
    }
}

fn whole(texts: &[&str]) -> Vec<Result<Chunk, ModelError>> {
    let usage =
        Usage { input_tokens: 2, output_tokens: texts.len() as u64, model_calls: 1, ..Usage::default() };
    let texts = texts.iter().map(|text| Chunk::Text((*text).to_owned()));
    texts.chain([Chunk::Usage(usage), Chunk::End { truncated: false }]).map(Ok).collect()
}

#[tokio::test]
async fn entries_are_used_in_order_and_one_call_too_many_is_an_error() {
    let model = Scripted::new([("a", vec![Entry::text("one"), Entry::chunks(["t", "wo"])])]);
    assert_eq!(say(&model, "a").await, whole(&["one"]));
    assert_eq!(model.unused(), [("a".to_owned(), 1)]);
    assert_eq!(say(&model, "a").await, whole(&["t", "wo"]));
    let error = say(&model, "a").await.remove(0).unwrap_err();
    assert_eq!((error.kind, model.unused().len()), (Kind::Schema, 0));
    assert_eq!(error.message, "node `a` was called 3 times, its script has 2 entries");
    assert_eq!(say(&model, "b").await[0].as_ref().unwrap_err().message, "node `b` has no script");
    assert_eq!(model.requests().len(), 4);
}

#[tokio::test]
async fn the_entries_for_any_node_repeat() {
    let model = Scripted::new([("*", vec![Entry::text("x"), Entry::text("y")]), ("a", vec![])]);
    for expected in ["x", "y", "x"] {
        assert_eq!(say(&model, "b").await, whole(&[expected]));
    }
    assert!(say(&model, "a").await[0].is_err(), "a node's own script comes first");
}

#[tokio::test]
async fn an_answer_can_fail_be_cut_or_hit_the_limit() {
    let wait = Duration::from_secs(3);
    let model = Scripted::new([(
        "a",
        vec![
            Entry::error(Kind::RateLimit).retry_after(wait),
            Entry::text("x").then_error(Kind::ServerError),
            Entry::text("x").cut(),
            Entry::text("x").reasoning("hm").truncated(),
        ],
    )]);
    assert_eq!(say(&model, "a").await[0].as_ref().unwrap_err().retry_after, Some(wait));
    assert_eq!(say(&model, "a").await[1].as_ref().unwrap_err().kind, Kind::ServerError);
    assert_eq!(say(&model, "a").await, [Ok(Chunk::Text("x".to_owned()))]);
    let last = say(&model, "a").await;
    assert_eq!(last[0], Ok(Chunk::Reasoning("hm".to_owned())));
    assert_eq!(last.last(), Some(&Ok(Chunk::End { truncated: true })));
}

#[tokio::test]
async fn an_answer_can_call_tools_after_what_it_says() {
    let calls = [("add", json!({"n": 1})), ("now", json!({}))];
    let model =
        Scripted::new([("a", vec![Entry::calls(calls.clone()), Entry::text("wait").and_calls(calls)])]);
    let call = |index, id: &str, name: &str| Ok(Chunk::ToolCall { index, id: id.into(), name: name.into() });
    let args = |index, delta: &str| Ok(Chunk::ToolArgs { index, delta: delta.into() });
    let called = [call(0, "call_1", "add"), args(0, r#"{"n":1}"#), call(1, "call_2", "now"), args(1, "{}")];
    let (first, second) = (say(&model, "a").await, say(&model, "a").await);
    assert_eq!(first[..4], called);
    assert_eq!((&second[0], &second[1..5]), (&Ok(Chunk::Text("wait".into())), &called[..]));
    assert_eq!(second.last(), Some(&Ok(Chunk::End { truncated: false })));
}

#[tokio::test]
async fn a_gate_holds_chunks_back_and_a_dropped_stream_is_counted() {
    let gate = Gate::new();
    let model = Scripted::always(Entry::chunks(["a", "b"]).gated(&gate));
    let mut stream = model.stream(request("n")).await.unwrap();
    model.wait_for_calls(1).await;
    gate.open(1);
    assert_eq!(stream.next().await, Some(Ok(Chunk::Text("a".to_owned()))));
    assert!(futures_util::poll!(stream.next()).is_pending());
    drop(stream);
    model.wait_for_cancelled(1).await;
    gate.open(2);
    assert_eq!(say(&model, "n").await, whole(&["a", "b"]));
    assert_eq!(model.0.counts.borrow().1, 1, "a whole answer is not a cancelled one");
}

#[tokio::test]
async fn a_scripted_model_obeys_the_timeouts() {
    let model = Scripted::always(Entry::text("late").gated(&Gate::new()));
    let timeouts = Timeouts { first: Duration::from_millis(5), ..Timeouts::default() };
    let items: Vec<_> = model.stream(Request { timeouts, ..request("n") }).await.unwrap().collect().await;
    assert_eq!(items[0].as_ref().unwrap_err().kind, Kind::Timeout);
    model.wait_for_cancelled(1).await;
}
