//! The answer in one piece: the stream, drained.
//!
//! Invariant: it says nothing that the stream does not say.

use super::interrupts::InterruptView;
use super::problem::{Code, Problem};
use super::view::{ErrorView, Id, InvokeResult, SentMessage, UsageView};
use crate::engine::{Finished, Follower};
use crate::event::{Interrupt, RunStatus};
use crate::store::{Run, RunState};

/// Follows a run to its end and keeps what an answer in one piece says.
pub(super) async fn drain(run: &Run, follower: &mut Follower) -> Result<InvokeResult, Problem> {
    // The run goes on, here after a restart or elsewhere; its id leads to its end.
    let finished = follower.drain().await.map_err(|_| Problem {
        run: Some(run.run),
        ..Problem::new(Code::RunMoved, "the run goes on; read `GET /v1/runs/{run_id}`")
    })?;
    let reply = finished.reply().map(str::to_owned);
    let Finished { status: ended, output, messages, usage, error, interrupts, .. } = finished;
    let messages = messages.into_iter().map(|message| SentMessage {
        message_id: message.message_id,
        node: Some(message.node),
        content: message.content,
    });
    let open = |open: Interrupt| InterruptView::new(run.run, &run.key.session, open);
    Ok(InvokeResult {
        run_id: Id::new(run.run),
        session_id: run.key.session.to_string(),
        status: status(ended).into(),
        output,
        reply,
        messages: messages.collect(),
        usage: UsageView::from(usage),
        error: error.map(ErrorView::from),
        interrupts: Some(interrupts.into_iter().map(open).collect()).filter(|open: &Vec<_>| !open.is_empty()),
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
