//! The stream: a run's events as server-sent events.
//!
//! Invariant: one event in, one frame out; a body that ends cleanly ends with `[DONE]`.

use std::io;
use std::io::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use poem::http::{HeaderName, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::engine::{Follower, Frame};
use crate::event::Group;
use crate::id::RunId;

/// After so much silence a heartbeat is sent.
const SILENCE: Duration = Duration::from_secs(15);
/// One newline only: a blank line after a comment makes phantom events in some clients.
const HEARTBEAT: &[u8] = b":hb\n";
/// The last frame. It has no id, so that a client's last id stays that of the last event.
const DONE: &[u8] = b"data: [DONE]\n\n";
/// After a piece of a message was written, the next pieces wait so long for company: an eye sees no difference, and a
/// fast model does not cost one system call a token. What comes slower than this waits for nothing.
const PACE: Duration = Duration::from_millis(5);
/// What is ready at once is written at once, up to about so many bytes.
const BATCH: usize = 32 * 1024;
/// The `format` by which the document's post-processing finds the item of a stream.
pub(super) const ITEM: &str = "chat-stream-item";
/// The media type of a stream, as documents have it.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// The groups of events that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Groups(u8);

impl Default for Groups {
    fn default() -> Self {
        Self(bit(Group::Messages) | bit(Group::Nodes) | bit(Group::Tools))
    }
}

fn bit(group: Group) -> u8 {
    match group {
        Group::Run => 1,
        Group::Messages => 1 << 1,
        Group::Nodes => 1 << 2,
        Group::Tools => 1 << 3,
        Group::Edges => 1 << 4,
        Group::State => 1 << 5,
        Group::Checkpoints => 1 << 6,
    }
}

impl Groups {
    /// The names that a client can send.
    pub(super) const NAMES: [&str; 7] =
        ["messages", "nodes", "tools", "edges", "state", "checkpoints", "debug"];

    /// Reads names; the error is the one that is unknown.
    pub(super) fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut groups = 0;
        for name in names {
            groups |= match name {
                "messages" => bit(Group::Messages),
                "nodes" => bit(Group::Nodes),
                "tools" => bit(Group::Tools),
                "edges" => bit(Group::Edges),
                "state" => bit(Group::State),
                "checkpoints" => bit(Group::Checkpoints),
                // No event of this build belongs to it yet.
                "debug" => 0,
                _ => return Err(name),
            };
        }
        Ok(Self(groups))
    }

    /// Says what to send instead of an unknown name.
    pub(super) fn unknown(name: &str) -> String {
        let name: String = name.chars().take(32).collect();
        format!("there is no group `{name}`; the groups are {}", Self::NAMES.join(", "))
    }

    /// Says whether events of the group are wanted.
    pub(super) fn has(self, group: Group) -> bool {
        group == Group::Run || self.0 & bit(group) != 0
    }
}

/// A run's events as a response.
pub(super) enum EventStream {
    /// Events, then `[DONE]`.
    Events {
        /// The run.
        run: RunId,
        /// Tells its events; boxed, because it is large beside the other.
        follower: Box<Follower>,
        /// What the client wants of them.
        groups: Groups,
        /// Its place among the open streams.
        place: OwnedSemaphorePermit,
    },
    /// Only `[DONE]`: the client has everything.
    Complete,
}

impl Payload for EventStream {
    const CONTENT_TYPE: &'static str = MEDIA_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", ITEM)))
    }
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let body = match self {
            Self::Complete => Body::from(DONE),
            Self::Events { run, follower, groups, place } => {
                let stream = frames(Writer::new(run, groups), Source::Follower(follower), Some(place));
                Body::from_bytes_stream(stream)
            }
        };
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-cache, no-transform")
            .header(HeaderName::from_static("x-accel-buffering"), "no")
            .body(body)
    }
}

/// Where frames come from; a test has its own.
enum Source {
    Follower(Box<Follower>),
    #[cfg(test)]
    Channel(tokio::sync::mpsc::Receiver<Result<std::sync::Arc<Frame>, ()>>),
}

impl Source {
    /// Returns the next frame; nothing when the owner of the run went away before its end.
    async fn next(&mut self) -> Option<std::sync::Arc<Frame>> {
        match self {
            Self::Follower(follower) => follower.next().await?.ok(),
            #[cfg(test)]
            Self::Channel(frames) => frames.recv().await?.ok(),
        }
    }

    fn ready(&mut self) -> Option<std::sync::Arc<Frame>> {
        match self {
            Self::Follower(follower) => follower.ready(),
            #[cfg(test)]
            Self::Channel(frames) => frames.try_recv().ok()?.ok(),
        }
    }
}

/// Turns frames into bytes.
#[derive(Debug)]
struct Writer {
    /// `id: <run>:`, the same in each frame.
    prefix: String,
    groups: Groups,
    /// Nothing was written yet.
    first: bool,
    /// Found once, since it counts every event.
    sent: metrics::Counter,
}

impl Writer {
    fn new(run: RunId, groups: Groups) -> Self {
        Self {
            prefix: format!("id: {run}:"),
            groups,
            first: true,
            sent: metrics::counter!("graphloom_events_sent_total"),
        }
    }

    /// Appends the frame, if it is wanted; says whether it was the last.
    fn write(&mut self, out: &mut Vec<u8>, frame: &Frame) -> bool {
        let (seq, name, last) = (frame.seq(), frame.event.body.name(), frame.is_last());
        if !self.groups.has(frame.event.body.group()) {
            return last;
        }
        self.sent.increment(1);
        out.reserve(self.prefix.len() + name.len() + frame.json.len() + 80);
        out.extend_from_slice(self.prefix.as_bytes());
        // Writing into memory cannot fail. The id holds numbers, the name is ours, and compact JSON
        // has no line break: nobody can put a line of their own into the stream.
        let _infallible = write!(out, "{}-{}\nevent: {name}\n", seq.fence, seq.n);
        if std::mem::take(&mut self.first) {
            out.extend_from_slice(b"retry: 1000\n");
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&frame.json);
        out.extend_from_slice(b"\n\n");
        if last {
            out.extend_from_slice(DONE);
        }
        last
    }
}

/// What an open stream holds.
struct Open {
    writer: Writer,
    source: Source,
    /// The last write held a piece of a message.
    flowing: bool,
    /// Wakes after silence; pushed back when it wakes, and not at each write.
    silence: Pin<Box<Sleep>>,
    written: Instant,
    done: bool,
    _count: Counted,
    _place: Option<OwnedSemaphorePermit>,
}

/// Counts an open stream for as long as it lives.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("graphloom_streams_open").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("graphloom_streams_open").decrement(1.0);
    }
}

fn frames(
    writer: Writer,
    source: Source,
    place: Option<OwnedSemaphorePermit>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let open = Open {
        writer,
        source,
        flowing: false,
        silence: Box::pin(tokio::time::sleep(SILENCE)),
        written: Instant::now(),
        done: false,
        _count: Counted::new(),
        _place: place,
    };
    futures_util::stream::unfold(open, |mut open| async move {
        let bytes = open.next().await?;
        Some((bytes, open))
    })
}

impl Open {
    /// Returns the next bytes to write; an error ends the body without its end, so that the client
    /// comes back with its last id.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.done {
            return None;
        }
        let mut out = Vec::new();
        while out.is_empty() {
            let frame = tokio::select! {
                biased;
                frame = self.source.next() => frame,
                () = self.silence.as_mut() => {
                    let quiet_until = self.written + SILENCE;
                    if Instant::now() < quiet_until {
                        self.silence.as_mut().reset(quiet_until);
                        continue;
                    }
                    self.silence.as_mut().reset(Instant::now() + SILENCE);
                    self.written = Instant::now();
                    return Some(Ok(Bytes::from_static(HEARTBEAT)));
                }
            };
            let Some(frame) = frame else {
                self.done = true;
                return Some(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the run goes on elsewhere",
                )));
            };
            let piece = frame.is_piece();
            if piece && self.flowing {
                tokio::time::sleep_until(self.written + PACE).await;
            }
            self.flowing = piece;
            self.done = self.writer.write(&mut out, &frame);
            while !self.done && out.len() < BATCH {
                let Some(frame) = self.source.ready() else { break };
                self.flowing = frame.is_piece();
                self.done = self.writer.write(&mut out, &frame);
            }
        }
        self.written = Instant::now();
        Some(Ok(out.into()))
    }
}

#[cfg(test)]
mod tests;
