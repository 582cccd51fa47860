//! A model that says what a test wrote: the scripts beside graphs, and the Rust tests.
//!
//! Invariant: nothing is made up. A call that no entry is left for is an error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Semaphore, watch};

use super::timed::Clock;
use super::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::event::Usage;

/// The script of every node that has none of its own.
pub const ANY: &str = "*";

/// Holds chunks back until a test lets them go.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Makes a shut gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `n` more chunks through.
    pub fn open(&self, n: usize) {
        self.0.add_permits(n);
    }

    async fn pass(&self) {
        // The semaphore is never closed, so there is always a permit to come.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// The answer to one call.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    chunks: Vec<Chunk>,
    end: End,
    usage: Option<Usage>,
    after: Duration,
    gate: Option<Gate>,
}

/// How an answer ends.
#[derive(Debug, Clone, Default)]
enum End {
    #[default]
    Whole,
    Truncated,
    Cut,
    Error(ModelError),
}

impl Entry {
    /// Answers with a text in one chunk.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::chunks([text])
    }

    /// Answers with a text in the given chunks.
    #[must_use]
    pub fn chunks<T: Into<String>>(chunks: impl IntoIterator<Item = T>) -> Self {
        let chunks = chunks.into_iter().map(|chunk| Chunk::Text(chunk.into())).collect();
        Self { chunks, ..Self::default() }
    }

    /// Calls tools: their names and arguments.
    #[must_use]
    pub fn calls<T: Into<String>>(calls: impl IntoIterator<Item = (T, serde_json::Value)>) -> Self {
        Self::default().and_calls(calls)
    }

    /// Calls tools after what is said.
    #[must_use]
    pub fn and_calls<T: Into<String>>(
        mut self,
        calls: impl IntoIterator<Item = (T, serde_json::Value)>,
    ) -> Self {
        for (index, (name, args)) in calls.into_iter().enumerate() {
            let id = format!("call_{}", index + 1);
            self.chunks.push(Chunk::ToolCall { index, id, name: name.into() });
            self.chunks.push(Chunk::ToolArgs { index, delta: args.to_string() });
        }
        self
    }

    /// Puts the place in a conversation into the ids of calls.
    #[must_use]
    pub(super) fn at(mut self, place: usize) -> Self {
        for chunk in &mut self.chunks {
            if let Chunk::ToolCall { index, id, .. } = chunk {
                *id = format!("call_{place}_{}", *index + 1);
            }
        }
        self
    }

    /// Wants this back while tools are called.
    #[must_use]
    pub fn kept(mut self, kept: serde_json::Value) -> Self {
        self.chunks.push(Chunk::Kept(kept));
        self
    }

    /// Fails before anything is said.
    #[must_use]
    pub fn error(kind: Kind) -> Self {
        Self::default().then_error(kind)
    }

    /// Thinks aloud before the answer.
    #[must_use]
    pub fn reasoning(mut self, text: impl Into<String>) -> Self {
        self.chunks.insert(0, Chunk::Reasoning(text.into()));
        self
    }

    /// Fails after the chunks.
    #[must_use]
    pub fn then_error(mut self, kind: Kind) -> Self {
        self.end = End::Error(ModelError::new(kind, format!("scripted error {kind:?}")));
        self
    }

    /// Asks to wait, when the entry is an error.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        if let End::Error(error) = &mut self.end {
            error.retry_after = Some(wait);
        }
        self
    }

    /// Ends at the token limit.
    #[must_use]
    pub fn truncated(mut self) -> Self {
        self.end = End::Truncated;
        self
    }

    /// Ends without an end, as a cut connection does.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    /// Reports this instead of counting words.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Waits before the first chunk or the error.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// Waits at `gate` before each chunk of text or reasoning, or before the error when it says nothing.
    #[must_use]
    pub fn gated(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

/// A model with a queue of entries for each node.
#[derive(Debug, Clone)]
pub struct Scripted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scripts: HashMap<String, Vec<Entry>>,
    calls: Mutex<Calls>,
    /// Calls received, and streams dropped before their end.
    counts: watch::Sender<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Calls {
    by_script: HashMap<String, usize>,
    requests: Vec<Request>,
}

impl Scripted {
    /// Takes the entries of each node, in the order of its calls. The entries of [`ANY`] serve all other
    /// nodes and begin anew when they are used up.
    #[must_use]
    pub fn new(scripts: impl IntoIterator<Item = (impl Into<String>, Vec<Entry>)>) -> Self {
        Self(Arc::new(Inner {
            scripts: scripts.into_iter().map(|(node, entries)| (node.into(), entries)).collect(),
            calls: Mutex::default(),
            counts: watch::Sender::new((0, 0)),
        }))
    }

    /// Answers every call alike.
    #[must_use]
    pub fn always(entry: Entry) -> Self {
        Self::new([(ANY, vec![entry])])
    }

    /// Returns all requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.calls().requests.clone()
    }

    /// Returns the nodes with entries that no call has used, and how many are left; sorted, without [`ANY`].
    #[must_use]
    pub fn unused(&self) -> Vec<(String, usize)> {
        let calls = self.calls();
        let left = |node: &String| {
            let used = calls.by_script.get(node).copied().unwrap_or_default();
            self.0.scripts[node].len().saturating_sub(used)
        };
        let mut nodes: Vec<_> = self.0.scripts.keys().filter(|node| *node != ANY).cloned().collect();
        nodes.sort();
        nodes
            .into_iter()
            .map(|node| (left(&node), node))
            .filter(|(n, _)| *n > 0)
            .map(|(n, node)| (node, n))
            .collect()
    }

    /// Waits until `n` calls have come.
    pub async fn wait_for_calls(&self, n: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let mut counts = self.0.counts.subscribe();
        let _closed = counts.wait_for(|counts| counts.0 >= n).await;
    }

    /// Waits until `n` streams have been dropped before their end.
    pub async fn wait_for_cancelled(&self, n: usize) {
        let mut counts = self.0.counts.subscribe();
        let _closed = counts.wait_for(|counts| counts.1 >= n).await;
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the request and finds its entry.
    fn take(&self, request: &Request) -> Result<Entry, ModelError> {
        let mut calls = self.calls();
        calls.requests.push(request.clone());
        let node = request.node.as_str();
        let name = if self.0.scripts.contains_key(node) { node } else { ANY };
        let Some(entries) = self.0.scripts.get(name) else {
            return Err(ModelError::new(Kind::Schema, format!("node `{node}` has no script")));
        };
        let call = calls.by_script.entry(name.to_owned()).or_default();
        *call += 1;
        let index = if name == ANY { (*call - 1).checked_rem(entries.len()).unwrap_or(0) } else { *call - 1 };
        entries.get(index).cloned().ok_or_else(|| {
            let message =
                format!("node `{node}` was called {call} times, its script has {} entries", entries.len());
            ModelError::new(Kind::Schema, message)
        })
    }
}

/// Counts a stream that is dropped before its end.
struct Watch {
    inner: Arc<Inner>,
    over: bool,
}

impl Watch {
    // A method, because a closure that only set the field would hold a copy of it and not the watch.
    fn handed_out(&mut self, last: bool) {
        self.over |= last;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.over {
            self.inner.counts.send_modify(|counts| counts.1 += 1);
        }
    }
}

#[async_trait]
impl ChatModel for Scripted {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let clock = Clock::start(request.timeouts);
        let entry = self.take(&request);
        self.0.counts.send_modify(|counts| counts.0 += 1);
        let entry = entry?;
        let said = entry.chunks.len();
        let usage = entry.usage.unwrap_or_else(|| Usage {
            input_tokens: request
                .turns
                .iter()
                .map(|turn| turn.content.to_string().split(' ').count() as u64)
                .sum(),
            output_tokens: said as u64,
            model_calls: 1,
            ..Usage::default()
        });
        let mut items: Vec<_> = entry.chunks.into_iter().map(Ok).collect();
        match entry.end {
            End::Whole => items.extend([Ok(Chunk::Usage(usage)), Ok(Chunk::End { truncated: false })]),
            End::Truncated => items.extend([Ok(Chunk::Usage(usage)), Ok(Chunk::End { truncated: true })]),
            End::Cut => {}
            End::Error(error) => items.push(Err(error)),
        }
        let mut watch = Watch { inner: Arc::clone(&self.0), over: items.is_empty() };
        let (after, gate, len) = (entry.after, entry.gate, items.len());
        let paced = stream::iter(items.into_iter().enumerate()).then(move |(i, item)| {
            let gate = gate.clone().filter(|_| i < said.max(1));
            async move {
                if i == 0 && !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                (i, item)
            }
        });
        let counted = paced.map(move |(i, item)| {
            watch.handed_out(i + 1 == len);
            item
        });
        Ok(clock.watch(counted.boxed()).boxed())
    }
}

#[cfg(test)]
mod tests;
