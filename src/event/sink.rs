//! Where a task speaks while it works.

use std::fmt;
use std::sync::Arc;

use super::{Body, Scope};

/// Receives what a task tells the world while it works, and knows what it left open.
pub trait Sink: Send + Sync {
    /// Sends an event at once. It is not durable yet: a reset may take it back.
    fn send(&self, place: &Scope, body: Body);

    /// Says whether the task has begun a message or a reasoning that it did not end.
    fn has_shown(&self, place: &Scope) -> bool;

    /// Ends what a dead attempt left open: its text is not part of the conversation.
    fn discard(&self, place: &Scope);
}

/// Sends the events of one attempt.
#[derive(Clone)]
pub struct Emitter {
    sink: Arc<dyn Sink>,
    place: Scope,
}

impl Emitter {
    /// Makes the emitter of one attempt.
    pub fn new(sink: Arc<dyn Sink>, place: Scope) -> Self {
        Self { sink, place }
    }

    /// Returns where it speaks from.
    pub fn place(&self) -> &Scope {
        &self.place
    }

    /// Sends an event at once.
    pub fn send(&self, body: Body) {
        self.sink.send(&self.place, body);
    }

    /// Says whether anything was shown that a reset has to take back.
    pub fn has_shown(&self) -> bool {
        self.sink.has_shown(&self.place)
    }

    /// Ends what a dead attempt left open.
    pub fn discard(&self) {
        self.sink.discard(&self.place);
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("place", &self.place).finish_non_exhaustive()
    }
}
