//! The answer in one piece: the stream, drained.
//!
//! Invariant: it says nothing that the stream does not say.

use serde::Deserialize;
use serde_json::Value as Json;

use super::problem::{Code, Problem};
use super::view::{ErrorView, Id, InvokeResult, SentMessage, UsageView};
use crate::engine::Follower;
use crate::event::{RunStatus, Usage};
use crate::store::{Run, RunState};

/// The fields that an answer in one piece needs of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    task_id: Option<String>,
    node: Option<String>,
    message_id: String,
    content: Option<String>,
    status: Option<RunStatus>,
    output: Option<Json>,
    usage: Usage,
    code: String,
    message: String,
    retryable: bool,
}

/// Follows a run to its end and keeps what an answer in one piece says.
pub(super) async fn drain(run: &Run, follower: &mut Follower) -> Result<InvokeResult, Problem> {
    let mut messages: Vec<(Option<String>, SentMessage)> = Vec::new();
    let mut error = None;
    while let Some(Ok(frame)) = follower.next().await {
        if !matches!(frame.name, "message.finished" | "node.reset" | "error" | "run.finished") {
            continue;
        }
        let mut told: Told = serde_json::from_slice(&frame.json).map_err(|error| {
            tracing::error!(%error, event = frame.name, "An event does not read back.");
            Problem::internal()
        })?;
        match frame.name {
            "message.finished" => {
                if let Some(content) = told.content.take() {
                    messages.push((
                        told.task_id,
                        SentMessage { message_id: told.message_id, node: told.node, content },
                    ));
                }
            }
            // The attempt died, and what it said is taken back.
            "node.reset" => messages.retain(|(task, _)| *task != told.task_id),
            "error" => {
                let Told { code, message, retryable, node, .. } = told;
                error = Some(ErrorView { code, message, retryable, node });
            }
            _ => {
                let messages: Vec<SentMessage> = messages.into_iter().map(|(_, message)| message).collect();
                return Ok(InvokeResult {
                    run_id: Id::new(run.run),
                    session_id: run.key.session.to_string(),
                    status: status(told.status.unwrap_or(RunStatus::Dead)).into(),
                    output: told.output,
                    reply: messages.last().map(|message| message.content.clone()),
                    messages,
                    usage: UsageView::from(told.usage),
                    error,
                });
            }
        }
    }
    // The run goes on, here after a restart or elsewhere; its id leads to its end.
    Err(Problem {
        run: Some(run.run),
        ..Problem::new(Code::Draining, "the run goes on; read `GET /v1/runs/{run_id}`")
    })
}

fn status(status: RunStatus) -> RunState {
    match status {
        RunStatus::Completed => RunState::Completed,
        RunStatus::Failed => RunState::Failed,
        RunStatus::Interrupted => RunState::Interrupted,
        RunStatus::Cancelled => RunState::Cancelled,
        RunStatus::RolledBack => RunState::RolledBack,
        RunStatus::Dead => RunState::Dead,
    }
}
