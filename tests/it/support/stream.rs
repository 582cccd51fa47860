//! A reader of event streams, written from the WHATWG's rules and independently of the writer.

use std::time::Duration;

use serde_json::Value as Json;

use super::schema::EventSchema;

/// No single piece of a stream takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// One event of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Its id, with which a client comes back.
    pub(crate) id: String,
    /// Its body.
    pub(crate) json: Json,
    /// When it was here, in milliseconds since 1970.
    pub(crate) at: i64,
}

impl Event {
    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap()
    }
}

/// A stream under way.
pub(crate) struct Stream {
    response: reqwest::Response,
    schema: EventSchema,
    buffer: Vec<u8>,
    last: (u64, u64),
    /// `[DONE]` was seen.
    pub(crate) done: bool,
}

impl Stream {
    pub(crate) fn new(response: reqwest::Response, schema: EventSchema) -> Self {
        Self { response, schema, buffer: Vec::new(), last: (0, 0), done: false }
    }

    pub(crate) fn run(&self) -> String {
        self.header("x-run-id").unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        Some(self.response.headers().get(name)?.to_str().unwrap().to_owned())
    }

    /// Returns the next event; nothing after `[DONE]`, or when the stream was cut (`done` tells which).
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(frame) = self.frame() {
                let (mut id, mut name, mut data) = (None, None, None);
                for line in frame.lines() {
                    match line
                        .split_once(':')
                        .map_or((line, ""), |(a, b)| (a, b.strip_prefix(' ').unwrap_or(b)))
                    {
                        ("", _) => {}
                        ("id", value) => id = Some(value.to_owned()),
                        ("event", value) => name = Some(value.to_owned()),
                        ("data", value) => assert!(data.replace(value.to_owned()).is_none(), "{frame}"),
                        ("retry", value) => assert_eq!(value, "1000"),
                        _ => panic!("what is {line:?}?"),
                    }
                }
                let Some(data) = data else { continue };
                assert!(!self.done, "`[DONE]` was not the last: {frame}");
                if data == "[DONE]" {
                    assert!(id.is_none() && name.is_none(), "{frame}");
                    self.done = true;
                    continue;
                }
                return Some(self.event(id.unwrap(), &name.unwrap(), &data));
            }
            let piece =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream is silent");
            match piece {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => {
                    let (last, rest) = (self.last, String::from_utf8_lossy(&self.buffer));
                    assert!(
                        self.done,
                        "a stream without `[DONE]` was ended as if it were whole, after {last:?} and {rest:?}: {:?}",
                        self.response
                    );
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    fn frame(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|two| two == b"\n\n")?;
        let rest = self.buffer.split_off(end + 2);
        let frame = std::mem::replace(&mut self.buffer, rest);
        Some(String::from_utf8(frame).unwrap())
    }

    /// Checks what is true of every event.
    fn event(&mut self, id: String, name: &str, data: &str) -> Event {
        let json: Json = serde_json::from_str(data).unwrap();
        assert_eq!(json["type"], name);
        let seq = (json["epoch"].as_u64().unwrap(), json["seq"].as_u64().unwrap());
        assert!(seq > self.last, "{seq:?} came after {:?}", self.last);
        self.last = seq;
        assert_eq!(id, format!("{}:{}-{}", json["run_id"].as_str().unwrap(), seq.0, seq.1));
        self.schema.check(&json);
        Event { id, json, at: chrono::Utc::now().timestamp_millis() }
    }

    /// Reads on until an event of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("no {kind} came"));
            if event.kind() == kind {
                return event;
            }
        }
    }

    /// Reads to the end, which must be `run.finished` and `[DONE]`.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        assert!(self.done, "the stream was cut after {all:?}");
        let ends = all.iter().filter(|event| event.kind() == "run.finished").count();
        assert!(ends == 1 && all.last().unwrap().kind() == "run.finished", "{all:?}");
        all
    }
}

/// Returns the text that a client shows at last: what attempts said that died does not count.
pub(crate) fn shown(events: &[Event]) -> String {
    let mut said: Vec<(String, String)> = Vec::new();
    for event in events {
        let field = |name: &str| event.json[name].as_str().unwrap_or_default().to_owned();
        match event.kind() {
            "message.delta" => said.push((field("task_id"), field("delta"))),
            "node.reset" => said.retain(|(task, _)| *task != field("task_id")),
            _ => {}
        }
    }
    said.into_iter().map(|(_, delta)| delta).collect()
}

/// Returns the status of the last event.
pub(crate) fn status(events: &[Event]) -> &str {
    events.last().unwrap().json["status"].as_str().unwrap()
}
