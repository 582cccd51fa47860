use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::*;
use crate::event::{Body as What, Event, RunStatus, Scope, Usage};
use crate::id::{Seq, TaskId};

/// An event as a client sees it, by the rules of the WHATWG, written independently of the writer.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    id: Option<String>,
    event: Option<String>,
    retry: Option<String>,
    data: String,
}

fn parse(text: &str) -> Vec<Seen> {
    let (mut all, mut now, mut lines) = (Vec::new(), Seen::default(), Vec::new());
    let unix = text.replace("\r\n", "\n").replace('\r', "\n");
    for line in unix.split('\n') {
        if line.is_empty() {
            if !lines.is_empty() {
                now.data = lines.join("\n");
                all.push(std::mem::take(&mut now));
            }
            lines.clear();
            now = Seen::default();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "" => {}
            "id" => now.id = Some(value),
            "event" => now.event = Some(value),
            "retry" => now.retry = Some(value),
            "data" => lines.push(value),
            other => panic!("unknown field {other:?}"),
        }
    }
    all
}

fn frame(run: RunId, n: u64, body: What) -> Arc<Frame> {
    let scope = Scope::new("a", TaskId("t".into()), 1);
    let scope = (body.group() != Group::Run).then_some(scope);
    Arc::new(Frame::new(run, Event { seq: Seq { fence: 3, n }, at: chrono::Utc::now(), scope, body }))
}

fn delta(text: &str) -> What {
    What::MessageDelta { message_id: "m".into(), delta: text.into() }
}

fn finished() -> What {
    What::ended(RunStatus::Completed, Usage::default())
}

fn open(
    run: RunId,
    groups: Groups,
) -> (mpsc::Sender<Result<Arc<Frame>, ()>>, impl Stream<Item = io::Result<Bytes>>) {
    let (send, receive) = mpsc::channel(64);
    (send, Box::pin(frames(Writer::new(run, groups), Source::Channel(receive), None)))
}

#[tokio::test]
async fn a_stream_is_framed_byte_for_byte_as_promised() {
    let run = RunId::new();
    let (send, mut stream) = open(run, Groups::default());
    let frames =
        [frame(run, 1, delta("Hel")), frame(run, 2, delta("lo\n\r\u{2028}")), frame(run, 3, finished())];
    for frame in &frames {
        send.send(Ok(frame.clone())).await.unwrap();
    }
    // All was ready, so all is one write.
    let bytes = stream.next().await.unwrap().unwrap();
    let json = |i: usize| std::str::from_utf8(&frames[i].json).unwrap();
    let expected = format!(
        "id: {run}:3-1\nevent: message.delta\nretry: 1000\ndata: {}\n\n\
         id: {run}:3-2\nevent: message.delta\ndata: {}\n\n\
         id: {run}:3-3\nevent: run.finished\ndata: {}\n\ndata: [DONE]\n\n",
        json(0),
        json(1),
        json(2)
    );
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn one_event_in_is_one_event_out_whatever_a_model_says() {
    let texts =
        ["\n\n", "\r\rdata: x", "id: 9\n\nevent: error\n", "\u{0}", ":hb\n", "\u{85}\u{2029}", "[DONE]", ""];
    let run = RunId::new();
    let mut writer = Writer::new(run, Groups::default());
    let mut out = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        writer.write(&mut out, &frame(run, n as u64 + 1, delta(text)));
    }
    let seen = parse(std::str::from_utf8(&out).unwrap());
    assert_eq!(seen.len(), texts.len());
    for (n, (seen, text)) in seen.iter().zip(texts).enumerate() {
        assert_eq!(seen.id, Some(format!("{run}:3-{}", n + 1)));
        assert_eq!(seen.retry.is_some(), n == 0);
        let json: Json = serde_json::from_str(&seen.data).unwrap();
        assert_eq!(json["delta"], json!(text));
        assert_eq!(seen.event.as_deref(), json["type"].as_str());
    }
}

#[tokio::test]
async fn a_filter_drops_events_and_keeps_the_numbers() {
    let run = RunId::new();
    let (send, mut stream) = open(run, Groups::parse(["edges"]).unwrap());
    let edge =
        What::EdgeTaken { from: "a".into(), to: "b".into(), condition: None, path: Vec::new(), item: None };
    for (n, body) in [(1, delta("x")), (2, edge), (3, delta("y")), (4, finished())] {
        send.send(Ok(frame(run, n, body))).await.unwrap();
    }
    let bytes = stream.next().await.unwrap().unwrap();
    let seen = parse(std::str::from_utf8(&bytes).unwrap());
    let ids: Vec<_> = seen.iter().map(|seen| seen.id.clone()).collect();
    assert_eq!(ids, [Some(format!("{run}:3-2")), Some(format!("{run}:3-4")), None]);
    assert_eq!(seen[0].retry.as_deref(), Some("1000"));
    assert_eq!(seen[2], Seen { data: "[DONE]".into(), ..Seen::default() });
}

#[tokio::test]
async fn a_ready_frame_is_written_before_the_next_one_comes() {
    let run = RunId::new();
    let (send, mut stream) = open(run, Groups::default());
    for n in 1..4 {
        send.send(Ok(frame(run, n, delta("x")))).await.unwrap();
        let bytes = stream.next().await.unwrap().unwrap();
        assert_eq!(parse(std::str::from_utf8(&bytes).unwrap()).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_after_silence_only_and_has_one_newline() {
    let run = RunId::new();
    let (send, mut stream) = open(run, Groups::default());
    let began = Instant::now();
    send.send(Ok(frame(run, 1, delta("x")))).await.unwrap();
    stream.next().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    send.send(Ok(frame(run, 2, delta("y")))).await.unwrap();
    stream.next().await.unwrap().unwrap();
    // The first timer would have fired at 15 s; the write at 10 s moved it to 25 s.
    assert_eq!(&stream.next().await.unwrap().unwrap()[..], b":hb\n");
    assert_eq!(began.elapsed().as_secs(), 25);
    assert_eq!(&stream.next().await.unwrap().unwrap()[..], b":hb\n");
    assert_eq!(began.elapsed().as_secs(), 40);
    // A heartbeat between frames is no event for anybody.
    send.send(Ok(frame(run, 3, finished()))).await.unwrap();
    let last = stream.next().await.unwrap().unwrap();
    let text = format!(":hb\n{}", std::str::from_utf8(&last).unwrap());
    assert_eq!(parse(&text).len(), 2);
}

#[tokio::test]
async fn a_run_that_goes_on_elsewhere_breaks_the_body() {
    let run = RunId::new();
    let (send, mut stream) = open(run, Groups::default());
    send.send(Ok(frame(run, 1, delta("x")))).await.unwrap();
    send.send(Err(())).await.unwrap();
    drop(send);
    assert!(stream.next().await.unwrap().is_ok());
    assert!(stream.next().await.unwrap().is_err());
    assert!(stream.next().await.is_none());
}

#[test]
fn only_known_groups_can_be_chosen() {
    assert_eq!(Groups::parse(["messages", "nodes", "tools"]), Ok(Groups::default()));
    assert_eq!(Groups::parse(["debug", "nodez"]), Err("nodez"));
    assert!(!Groups::parse([]).unwrap().has(Group::Messages));
    assert!(Groups::parse([]).unwrap().has(Group::Run));
}
