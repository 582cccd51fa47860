//! What a node does when its turn comes; one file per kind.
//!
//! Invariant: a node is built from parsed parts and never sees YAML. It reads a snapshot, returns
//! writes, and changes nothing itself.

mod custom;
mod fail;
mod http;
mod llm;
mod meter;
mod retry;
mod say;
mod set;
mod tools;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::event::{Body, Emitter, Usage};
use crate::expr::Scope;
use crate::id::{RunId, TaskId, ThreadKey};
use crate::state::{State, Write};

pub use crate::failure::{Caught, ErrorKind, Failure};
pub use custom::Custom;
pub use fail::Fail;
pub use llm::{Bind, Clip, Link, Llm, Output, Piece};
pub use meter::{Meter, Price};
pub use retry::Retry;
pub use say::Say;
pub use set::Set;
pub use tools::{Left, Offered, left_behind, parameters};

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The node's work is done.
    Done(Done),
    /// It goes on in a later superstep.
    More(Round),
}

impl From<Done> for Outcome {
    fn from(done: Done) -> Self {
        Self::Done(done)
    }
}

/// What a finished attempt leaves for the barrier.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Done {
    /// The result, for `into` and `emit`.
    pub result: Json,
    /// Turns that join the conversation.
    pub said: Vec<Json>,
    /// Writes of its own, before those of `into`, in order.
    pub writes: Vec<Write>,
    /// Events that become visible with the barrier.
    pub events: Vec<Body>,
    /// Tokens used, besides what was counted by the meter.
    #[serde(default)]
    pub usage: Usage,
}

/// One round of a node that calls tools: what it has to know when they are done, and which.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Round {
    /// What the node left for itself.
    pub memo: Json,
    /// The calls, in order.
    pub calls: Vec<Wanted>,
    /// Events that become visible with the barrier.
    pub events: Vec<Body>,
}

/// A call that a model wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// What the model calls it by.
    pub id: String,
    /// The tool, as the model wrote it.
    pub tool: String,
    /// The arguments; where they or the tool do not make sense, what the model is told instead of a result.
    pub args: Result<Json, String>,
}

/// What came of a call that a model wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What the model calls it by.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// The arguments that a person gave it, in the place of those that the model wrote.
    #[serde(default)]
    pub edited: Option<Arc<Json>>,
    /// The result, or what the model is told instead of one.
    pub result: Result<Json, String>,
}

/// What a node left in an earlier round, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Back {
    /// What the node left for itself.
    pub memo: Json,
    /// What came of its calls, in order.
    pub answers: Vec<Answered>,
}

/// Facts of the run that expressions and templates can read as `run.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// The run.
    pub id: RunId,
    /// The superstep, from 1.
    pub step: u64,
    /// Supersteps left before the limit.
    pub steps_left: u64,
    /// The text of the newest user turn.
    pub user_text: Arc<str>,
    /// When the superstep began.
    pub now: DateTime<Utc>,
}

impl RunFacts {
    /// Returns the value of `run` for one attempt.
    pub fn to_json(&self, attempt: u32) -> Json {
        json!({
            "id": self.id.to_string(),
            "step": self.step,
            "attempt": attempt,
            "steps_left": self.steps_left,
            "user_text": &*self.user_text,
            "now": self.now.to_rfc3339_opts(SecondsFormat::Millis, true),
        })
    }
}

/// One attempt of a node: what it may read and where it may speak.
pub struct Attempt {
    /// The state as the last barrier left it.
    pub state: State,
    /// The inputs of the run.
    pub input: Arc<Json>,
    /// Facts of the run.
    pub run: RunFacts,
    /// The thread that it works for.
    pub thread: ThreadKey,
    /// The node's name.
    pub node: Arc<str>,
    /// The task.
    pub task: TaskId,
    /// The try, from 1.
    pub attempt: u32,
    /// Who is asked: 0 is the one that the node names, and those after it stand in for it.
    pub link: usize,
    /// Where it counts what its calls use, also those that fail.
    pub meter: Meter,
    /// The error that the branch handles.
    pub error: Option<Arc<Caught>>,
    /// The names of a `map` around it: its item, and its index.
    pub locals: Arc<[(String, Arc<Json>)]>,
    /// What an earlier round of it left.
    pub back: Option<Back>,
    /// Where it speaks.
    pub emit: Emitter,
}

impl Attempt {
    /// Returns the names that the node's expressions and texts can read.
    pub fn scope(&self) -> Scope {
        let mut scope = scope(&self.state, &self.input, &self.run, self.attempt);
        for (name, value) in &*self.locals {
            scope = scope.json(name, Arc::clone(value));
        }
        match &self.error {
            Some(error) => scope.json("error", Arc::new(error.to_json())),
            None => scope,
        }
    }

    /// Returns the id of the message that this task says; the same over all attempts.
    pub fn message_id(&self) -> String {
        format!("m_{}", self.task)
    }
}

/// Returns the scope that every expression of a graph has: `state`, `input` and `run`.
pub fn scope(state: &State, input: &Arc<Json>, run: &RunFacts, attempt: u32) -> Scope {
    Scope::new().state(state.clone()).json("input", input.clone()).json("run", Arc::new(run.to_json(attempt)))
}

/// What a node can read, when its result is looked for before it works.
pub struct Reading<'r> {
    /// The state as the last barrier left it.
    pub state: &'r State,
    /// The names that its expressions and texts can read.
    pub scope: &'r Scope,
}

/// A node of a compiled graph.
#[async_trait]
pub trait Node: Send + Sync + std::fmt::Debug + 'static {
    /// Does the work of one attempt. Dropping the future stops it.
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure>;

    /// Returns what it would send, of which its result comes. Nothing: it may read all that there is.
    fn asks(&self, _reading: &Reading<'_>) -> Result<Option<Json>, Failure> {
        Ok(None)
    }

    /// Says whether it only computes: then it is cheaper to do again after a crash than to keep its result.
    fn is_pure(&self) -> bool {
        false
    }
}

/// Returns the chat turn that a reply adds to the conversation.
pub fn assistant_turn(id: &str, text: &str) -> Json {
    json!({"id": id, "role": "assistant", "content": text})
}
