//! Threads: the conversations of the caller, their state and their past.
//!
//! Invariant: a thread of somebody else does not exist.

use std::sync::Arc;

use poem_openapi::{ApiResponse, OpenApi};

use super::auth::Caller;
use super::param::{Cursor, Limit, Path, Pointer, Query};
use super::problem::Problem;
use super::view::{Answer, History, Id, MessagesView, StateView, ThreadOverview, ThreadPage, cursor};
use super::{App, Tag};
use crate::id::{CheckpointId, Part, ThreadKey};

/// The operations on threads.
pub(super) struct Threads(pub(super) Arc<App>);

/// The answer of `deleteThread`.
#[derive(ApiResponse)]
pub(super) enum DeleteReply {
    /// The thread is gone, with its runs, checkpoints and events.
    #[oai(status = 204)]
    Gone,
}

fn key(caller: Caller, session: Path<Part>) -> ThreadKey {
    ThreadKey { owner: caller.owner, session: session.0 }
}

#[OpenApi(tag = "Tag::Threads")]
impl Threads {
    /// Lists the caller's threads, latest touched first
    #[oai(path = "/v1/threads", method = "get", operation_id = "listThreads")]
    async fn list_threads(
        &self,
        caller: Caller,
        /// `next_cursor` of the page before.
        cursor: Query<Cursor>,
        /// Threads on a page.
        limit: Query<Limit>,
    ) -> Result<Answer<ThreadPage>, Problem> {
        let limit = limit.0.map_or(Limit::DEFAULT, |limit| limit.0) as usize;
        let before = cursor.0.map(|cursor| cursor.0);
        // One more than asked for tells whether there is a next page.
        let mut threads = self.0.engine.threads(&caller.owner, before, limit as u32 + 1).await?;
        let more = threads.len() > limit;
        threads.truncate(limit);
        let last = threads.last().filter(|_| more);
        let next_cursor = last.map(|last| self::cursor(last.updated_at, last.thread));
        let threads = threads.into_iter().map(ThreadOverview::from).collect();
        Ok(Answer(ThreadPage { threads, next_cursor }))
    }

    /// Reads a thread
    #[oai(path = "/v1/threads/:session", method = "get", operation_id = "getThread")]
    async fn get_thread(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
    ) -> Result<Answer<ThreadOverview>, Problem> {
        let thread = self.0.engine.thread(&key(caller, session)).await?;
        Ok(Answer(thread.ok_or_else(Problem::not_found)?.into()))
    }

    /// Deletes a thread with all that hangs on it
    #[oai(path = "/v1/threads/:session", method = "delete", operation_id = "deleteThread")]
    async fn delete_thread(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
    ) -> Result<DeleteReply, Problem> {
        if self.0.engine.delete_thread(&key(caller, session)).await? {
            Ok(DeleteReply::Gone)
        } else {
            Err(Problem::not_found())
        }
    }

    /// Reads a thread's conversation
    #[oai(path = "/v1/threads/:session/messages", method = "get", operation_id = "listMessages")]
    async fn list_messages(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// Reads it as it was at this checkpoint.
        checkpoint: Query<CheckpointId>,
    ) -> Result<Answer<MessagesView>, Problem> {
        let view = self.0.engine.view(&key(caller, session), checkpoint.0).await?;
        let view = view.ok_or_else(Problem::not_found)?;
        let messages = view.messages.into_iter().map(Into::into).collect();
        Ok(Answer(MessagesView { checkpoint: view.checkpoint.map(Into::into), messages }))
    }

    /// Reads a thread's public state
    #[oai(path = "/v1/threads/:session/state", method = "get", operation_id = "getState")]
    async fn get_state(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// Reads it as it was at this checkpoint.
        checkpoint: Query<CheckpointId>,
        /// A JSON Pointer: only this place of the state.
        path: Query<Pointer>,
    ) -> Result<Answer<StateView>, Problem> {
        let view = self.0.engine.view(&key(caller, session), checkpoint.0).await?;
        let mut view = view.ok_or_else(Problem::not_found)?;
        let state = match path.0 {
            None => view.state,
            Some(path) => {
                view.state.pointer_mut(&path.0).map(serde_json::Value::take).ok_or_else(Problem::not_found)?
            }
        };
        Ok(Answer(StateView { checkpoint: view.checkpoint.map(Into::into), state }))
    }

    /// Lists a thread's checkpoints, newest first
    #[oai(path = "/v1/threads/:session/history", method = "get", operation_id = "getHistory")]
    async fn get_history(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// `next_before` of the page before.
        before: Query<CheckpointId>,
        /// Checkpoints on a page.
        limit: Query<Limit>,
    ) -> Result<Answer<History>, Problem> {
        let limit = limit.0.map_or(Limit::DEFAULT, |limit| limit.0) as usize;
        let views = self.0.engine.history(&key(caller, session), before.0, limit as u32 + 1).await?;
        let mut views = views.ok_or_else(Problem::not_found)?;
        let more = views.len() > limit;
        views.truncate(limit);
        let next_before = views.last().filter(|_| more).map(|last| Id::new(last.checkpoint));
        Ok(Answer(History { checkpoints: views.into_iter().map(Into::into).collect(), next_before }))
    }
}
