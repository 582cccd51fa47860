//! Threads: the conversations of the caller, their state and their past.
//!
//! Invariant: a thread of somebody else does not exist.

use std::sync::Arc;

use poem_openapi::{ApiResponse, OpenApi};

use super::auth::Caller;
use super::body::Body;
use super::branches::{BranchReply, ForkBody, UpdateBody, reply, used};
use super::param::{Cursor, Header, IdempotencyKey, Limit, Path, Pointer, Query};
use super::problem::Problem;
use super::view::{Answer, History, Id, MessagesView, StateView, ThreadOverview, ThreadPage, cursor};
use super::{App, Tag};
use crate::engine::{Fork, Update};
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
        let children = view.children.into_iter().map(Into::into).collect::<Vec<_>>();
        let children = Some(children).filter(|children| !children.is_empty());
        Ok(Answer(StateView { checkpoint: view.checkpoint.map(Into::into), state, children }))
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

    /// Changes a thread's state in the name of a node
    ///
    /// The open questions of the thread are closed, and a run that waits is ended. The new one goes on when the thread is
    /// resumed, with the input of the old one. A thread with a run that works or waits for its turn is 409 `thread_busy`. In
    /// a graph that asks agents only callers with the role `agent` may do it.
    #[oai(path = "/v1/threads/:session/state", method = "post", operation_id = "updateState")]
    async fn update_state(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// Makes a repeated request find what the first one did.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        body: Body<UpdateBody>,
    ) -> Result<BranchReply, Problem> {
        let UpdateBody { update, hash } = body.0;
        let idempotency = used(key, format!("update/{}", session.0), hash);
        let agent = caller.agent;
        let thread = self::key(caller, session);
        let update = Update { agent, idempotency, ..update };
        let branched = self.0.engine.update(&thread, &update).await?;
        reply(&self.0, branched).await
    }

    /// Makes a thread that goes on from a checkpoint of this one
    ///
    /// It has the state of the checkpoint, and goes on when it is resumed: calls are made again, and questions are asked
    /// again. The thread stays as it is, also while a run of it works. From where an agent may have decided something, only
    /// callers with the role `agent` may go on.
    #[oai(path = "/v1/threads/:session/fork", method = "post", operation_id = "forkThread")]
    async fn fork_thread(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// Makes a repeated request find what the first one did.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        body: Body<ForkBody>,
    ) -> Result<BranchReply, Problem> {
        let ForkBody { fork, hash } = body.0;
        let idempotency = used(key, format!("fork/{}", session.0), hash);
        let agent = caller.agent;
        let thread = self::key(caller, session);
        let fork = Fork { agent, idempotency, ..fork };
        let branched = self.0.engine.fork(&thread, &fork).await?;
        reply(&self.0, branched).await
    }
}
