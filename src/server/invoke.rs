//! The answer in one piece: the stream, drained.
//!
//! Invariant: it says nothing that the stream does not say.

use super::interrupts::InterruptView;
use super::problem::{Code, Problem};
use super::view::{ErrorView, Id, InvokeResult, SentMessage, UsageView};
use crate::engine::Follower;
use crate::event::{Body, Event, Interrupt, RunStatus};
use crate::id::TaskId;
use crate::store::{Run, RunState};

/// Follows a run to its end and keeps what an answer in one piece says.
pub(super) async fn drain(run: &Run, follower: &mut Follower) -> Result<InvokeResult, Problem> {
    let mut messages: Vec<(TaskId, SentMessage)> = Vec::new();
    let mut error = None;
    while let Some(Ok(frame)) = follower.next().await {
        let Event { scope, body, .. } = &frame.event;
        match (scope, body) {
            (Some(scope), Body::MessageFinished { message_id, content: Some(content) }) => {
                let (message_id, content) = (message_id.clone(), content.clone());
                let message = SentMessage { message_id, node: Some(scope.node.clone()), content };
                messages.push((scope.task_id.clone(), message));
            }
            // The attempt died, and what it said is taken back.
            (Some(scope), Body::NodeReset { .. }) => messages.retain(|(task, _)| *task != scope.task_id),
            (_, Body::Error { code, message, retryable, node }) => {
                let (code, message, node) = (code.clone(), message.clone(), node.clone());
                error = Some(ErrorView { code, message, retryable: *retryable, node });
            }
            (_, Body::RunFinished { status: ended, output, usage, interrupts }) => {
                let open = |open: &Interrupt| InterruptView::new(run.run, &run.key.session, open.clone());
                let interrupts: Vec<InterruptView> = interrupts.iter().map(open).collect();
                let messages: Vec<SentMessage> = messages.into_iter().map(|(_, message)| message).collect();
                return Ok(InvokeResult {
                    run_id: Id::new(run.run),
                    session_id: run.key.session.to_string(),
                    status: status(*ended).into(),
                    output: output.clone(),
                    reply: messages.last().map(|message| message.content.clone()),
                    messages,
                    usage: UsageView::from(*usage),
                    error,
                    interrupts: Some(interrupts).filter(|open| !open.is_empty()),
                });
            }
            _ => {}
        }
    }
    // The run goes on, here after a restart or elsewhere; its id leads to its end.
    Err(Problem {
        run: Some(run.run),
        ..Problem::new(Code::RunMoved, "the run goes on; read `GET /v1/runs/{run_id}`")
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
