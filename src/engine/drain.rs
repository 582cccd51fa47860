//! A run in one piece: the stream, drained.
//!
//! Invariant: it says nothing that the stream does not say.

use serde_json::Value as Json;

use super::record::RunError;
use super::{Aborted, Follower};
use crate::event::{Body, Event, Interrupt, RunStatus, Usage};
use crate::id::{RunId, TaskId};

/// What came of a run: it is over, or waits for a person.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: b}, b: {kind: fail, error: no}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::RunStatus;
///
/// let finished = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?.finish().await?;
/// assert_eq!(finished.status, RunStatus::Failed);
/// assert_eq!(finished.error.expect("it failed").message, "no");
/// assert_eq!(finished.messages[0].content, "Hi");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// The run.
    pub run: RunId,
    /// How it ended, or that it waits.
    pub status: RunStatus,
    /// The graph's output, when it completed.
    pub output: Option<Json>,
    /// What was said to the user, in order.
    pub messages: Vec<Message>,
    /// Tokens of the whole run.
    pub usage: Usage,
    /// Why it failed.
    pub error: Option<RunError>,
    /// The open questions, when it waits.
    pub interrupts: Vec<Interrupt>,
}

/// A whole message to the user, of [`Finished::messages`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let finished = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?.finish().await?;
/// let said = &finished.messages[0];
/// assert_eq!((said.node.as_str(), said.content.as_str()), ("a", "Hi"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Its id.
    pub message_id: String,
    /// The node that said it.
    pub node: String,
    /// Its text.
    pub content: String,
}

impl Finished {
    /// Returns what was said last.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let finished = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?.finish().await?;
    /// assert_eq!(finished.reply(), Some("Hi"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply(&self) -> Option<&str> {
        self.messages.last().map(|message| message.content.as_str())
    }
}

/// What a stream has told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    messages: Vec<(TaskId, Message)>,
    error: Option<RunError>,
}

impl Told {
    /// Takes the next event; says what came of the run when it is the last one.
    pub(crate) fn take(&mut self, run: RunId, event: &Event) -> Option<Finished> {
        match (&event.scope, &event.body) {
            (Some(scope), Body::MessageFinished { message_id, content: Some(content), .. }) => {
                let (message_id, content) = (message_id.clone(), content.clone());
                let message = Message { message_id, node: scope.node.clone(), content };
                self.messages.push((scope.task_id.clone(), message));
            }
            // The attempt died, and what it said is taken back.
            (Some(scope), Body::NodeReset { .. }) => {
                self.messages.retain(|(task, _)| *task != scope.task_id);
            }
            (_, Body::Error { code, message, retryable, node }) => {
                let (code, message, node) = (code.clone(), message.clone(), node.clone());
                self.error = Some(RunError { code, message, node, retryable: *retryable });
            }
            (_, Body::RunFinished { status, output, usage, interrupts }) => {
                let Self { messages, error } = std::mem::take(self);
                return Some(Finished {
                    run,
                    status: *status,
                    output: output.clone(),
                    messages: messages.into_iter().map(|(_, message)| message).collect(),
                    usage: *usage,
                    error,
                    interrupts: interrupts.clone(),
                });
            }
            // It is told again from its start.
            (_, Body::StreamRewound {}) => *self = Self::default(),
            _ => {}
        }
        None
    }
}

impl Follower {
    /// Follows the run to its end, or to where it waits for a person.
    pub async fn drain(&mut self) -> Result<Finished, Aborted> {
        let mut told = Told::default();
        while let Some(frame) = self.next().await {
            if let Some(finished) = told.take(self.run(), &frame?.event) {
                return Ok(finished);
            }
        }
        Err(Aborted)
    }
}
