//! The stored form of events: one batch a row, deltas of one message in one record.
//!
//! Invariant: what was written is read for ever, and reads back event by event as it was sent.

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Body, Event, Scope};
use crate::id::{CheckpointId, Seq, TaskId};

/// A stored batch that this build cannot read.
#[derive(Debug, thiserror::Error)]
#[error("a stored batch of events cannot be read: {0}")]
pub struct DecodeError(String);

/// One stored record: one event, or a row of deltas of one message.
#[derive(Serialize, Deserialize)]
struct Record {
    n: u64,
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    s: Option<(String, TaskId, u32)>,
    /// The path of the scope, and its item.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    p: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<u64>,
    b: Stored,
}

impl Record {
    fn new(event: &Event, b: Stored) -> Self {
        let scope = event.scope.as_ref();
        Self {
            n: event.seq.n,
            at: event.at.timestamp_millis(),
            s: scope.map(|s| (s.node.clone(), s.task_id.clone(), s.attempt)),
            p: scope.map(|s| s.path.clone()).unwrap_or_default(),
            i: scope.and_then(|s| s.item),
            b,
        }
    }

    /// Says whether it was told by the same attempt as the event.
    fn is_of(&self, scope: Option<&Scope>) -> bool {
        match (&self.s, scope) {
            (None, None) => true,
            (Some((_, task, attempt)), Some(scope)) => *task == scope.task_id && *attempt == scope.attempt,
            _ => false,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Body(Body),
    Deltas {
        id: String,
        d: Vec<String>,
        /// Milliseconds after the first; empty when all came within the same one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        t: Vec<i64>,
    },
    /// `state.snapshot`, without the state.
    Start {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CheckpointId>,
    },
    /// `state.patch`, without the patch.
    Patch {
        id: CheckpointId,
    },
    /// The same, and right after it `checkpoint.saved` of the same checkpoint.
    Barrier {
        id: CheckpointId,
        step: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Batch {
    v: u8,
    e: Vec<Record>,
}

/// Encodes events of one fence for the store. Deltas of one message that follow each other share a record.
pub fn encode(events: &[impl std::borrow::Borrow<Event>]) -> Vec<u8> {
    let mut records: Vec<Record> = Vec::new();
    for event in events {
        let event = event.borrow();
        let now = event.at.timestamp_millis();
        if let Body::MessageDelta { message_id, delta } = &event.body {
            let same = records.last().is_some_and(|last| last.is_of(event.scope.as_ref()));
            if same
                && let Some(Record { n, at, b: Stored::Deltas { id, d, t }, .. }) = records.last_mut()
                && id == message_id
                && *n + d.len() as u64 == event.seq.n
            {
                if now != *at || !t.is_empty() {
                    t.resize(d.len(), 0);
                    t.push(now - *at);
                }
                d.push(delta.clone());
                continue;
            }
            let b = Stored::Deltas { id: message_id.clone(), d: vec![delta.clone()], t: Vec::new() };
            records.push(Record::new(event, b));
        } else if let Body::CheckpointSaved { checkpoint_id, step } = &event.body
            && let Some(last) = records.last_mut()
            && last.n + 1 == event.seq.n
            && last.at == now
            && matches!(&last.b, Stored::Patch { id } if id == checkpoint_id)
        {
            last.b = Stored::Barrier { id: *checkpoint_id, step: *step };
        } else {
            let b = match &event.body {
                Body::StateSnapshot { checkpoint_id, .. } => Stored::Start { id: *checkpoint_id },
                Body::StatePatch { checkpoint_id, .. } => Stored::Patch { id: *checkpoint_id },
                body => Stored::Body(body.clone()),
            };
            records.push(Record::new(event, b));
        }
    }
    // Serialising these types into memory cannot fail: no map has a key that is not a text.
    serde_json::to_vec(&Batch { v: 1, e: records }).unwrap_or_default()
}

/// Decodes what [`encode`] made, one event a delta again.
pub fn decode(fence: u64, data: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let batch: Batch = serde_json::from_slice(data).map_err(|e| DecodeError(e.to_string()))?;
    if batch.v != 1 {
        return Err(DecodeError(format!("format {} is newer than this build", batch.v)));
    }
    let mut events = Vec::new();
    for record in batch.e {
        let (path, item) = (record.p, record.i);
        let scope = record.s.map(|(node, task_id, attempt)| Scope { node, task_id, attempt, path, item });
        let mut push = |n, at, body| {
            let at = DateTime::from_timestamp_millis(at).unwrap_or_default();
            events.push(Event { seq: Seq { fence, n }, at, scope: scope.clone(), body });
        };
        match record.b {
            Stored::Body(body) => push(record.n, record.at, body),
            Stored::Start { id } => {
                push(record.n, record.at, Body::StateSnapshot { checkpoint_id: id, state: Json::Null });
            }
            Stored::Patch { id } => {
                push(record.n, record.at, Body::StatePatch { checkpoint_id: id, patch: Vec::new() });
            }
            Stored::Barrier { id, step } => {
                push(record.n, record.at, Body::StatePatch { checkpoint_id: id, patch: Vec::new() });
                push(record.n + 1, record.at, Body::CheckpointSaved { checkpoint_id: id, step });
            }
            Stored::Deltas { id, d, t } => {
                for (i, delta) in d.into_iter().enumerate() {
                    let at = record.at + t.get(i).copied().unwrap_or(0);
                    push(record.n + i as u64, at, Body::MessageDelta { message_id: id.clone(), delta });
                }
            }
        }
    }
    Ok(events)
}
