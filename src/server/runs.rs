//! Runs: reading them, following them, ending them.
//!
//! Invariant: a run of somebody else does not exist.

use std::sync::Arc;

use poem_openapi::{ApiResponse, OpenApi};

use super::auth::Caller;
use super::param::{Header, Include, LastEvent, Path, Query};
use super::problem::{Code, Problem};
use super::sse::EventStream;
use super::view::{Answer, RunView, run_urls};
use super::{App, Tag};
use crate::engine::Followed;
use crate::event::Group;
use crate::id::{RunId, Seq};

/// The operations on runs.
pub(super) struct Runs(pub(super) Arc<App>);

/// The answer of `followRun`.
#[derive(ApiResponse)]
pub(super) enum FollowReply {
    /// The run's events after the place, then `[DONE]`.
    #[oai(status = 200)]
    Stream(
        EventStream,
        /// The run.
        #[oai(header = "X-Run-Id")]
        String,
        /// Where the run can be read.
        #[oai(header = "Content-Location")]
        String,
    ),
    /// The client has every event of the run.
    #[oai(status = 204)]
    Complete,
}

/// The answer of `cancelRun`.
#[derive(ApiResponse)]
pub(super) enum CancelReply {
    /// The run as it is now.
    #[oai(status = 202)]
    Accepted(Answer<RunView>),
}

#[OpenApi(tag = "Tag::Runs")]
impl Runs {
    /// Reads a run
    #[oai(path = "/v1/runs/:run", method = "get", operation_id = "getRun")]
    async fn get_run(
        &self,
        caller: Caller,
        /// The run.
        run: Path<RunId>,
    ) -> Result<Answer<RunView>, Problem> {
        let run = self.0.engine.run(&caller.owner, run.0).await?.ok_or_else(Problem::not_found)?;
        Ok(Answer(run.try_into()?))
    }

    /// Follows a run
    ///
    /// Tells the run's events from its start or after a place, then goes on live. `Last-Event-ID` beats
    /// `after`. Answers 204 without a body when the client has every event of the run.
    #[oai(path = "/v1/runs/:run/events", method = "get", operation_id = "followRun")]
    async fn follow_run(
        &self,
        caller: Caller,
        /// The run.
        run: Path<RunId>,
        /// The id of the last event that the client has.
        after: Query<LastEvent>,
        /// The id of the last event that the client has; `EventSource` sends it by itself.
        #[oai(name = "Last-Event-ID")]
        last: Header<LastEvent>,
        /// The groups of events that the stream holds, separated by commas.
        include: Query<Include>,
    ) -> Result<FollowReply, Problem> {
        let run = run.0;
        let last = last.0.and_then(|last| last.0).or_else(|| after.0.and_then(|after| after.0));
        if last.is_some_and(|last| last.run != run) {
            return Err(Problem::new(Code::InvalidEventId, "the event id is of another run"));
        }
        let after = last.map_or(Seq::default(), |last| last.seq);
        let place = self.0.stream()?;
        let groups = include.0.map(|include| include.0).unwrap_or_default();
        let found = self.0.engine.follow(&caller.owner, run, after, groups.has(Group::State)).await?;
        match found.ok_or_else(Problem::not_found)? {
            Followed::Complete => Ok(FollowReply::Complete),
            Followed::Forgotten(run) => {
                Problem::forgotten(&run)?;
                Ok(FollowReply::Complete)
            }
            Followed::Events(follower) => {
                let stream = EventStream::Events { run, follower: Box::new(follower), groups, place };
                let (_, content_location) = run_urls(run);
                Ok(FollowReply::Stream(stream, run.to_string(), content_location))
            }
        }
    }

    /// Ends a run
    ///
    /// A run that is over stays as it is. What it committed stays, unless it is rolled back.
    #[oai(path = "/v1/runs/:run/cancel", method = "post", operation_id = "cancelRun")]
    async fn cancel_run(
        &self,
        caller: Caller,
        /// The run.
        run: Path<RunId>,
        /// Answers when the work has stopped.
        wait: Query<bool>,
        /// The thread goes back to before the run. What the run did outside is not undone.
        rollback: Query<bool>,
    ) -> Result<CancelReply, Problem> {
        let (owner, run) = (caller.owner, run.0);
        let engine = &self.0.engine;
        let rollback = rollback.0.unwrap_or_default();
        let asked =
            if rollback { engine.roll_back(&owner, run).await? } else { engine.cancel(&owner, run).await? };
        let mut row = asked.ok_or_else(Problem::not_found)?;
        if wait.0.unwrap_or_default() {
            let mut follower = self.0.engine.follower(&owner, &row, Seq::default(), false);
            let mut last = None;
            while let Some(told) = follower.next().await {
                last = Some(told);
            }
            if let Some(Err(_)) = last {
                // Its owner went away first; the wish is stored, and whoever takes the run ends it.
                let detail = "the run was asked to end, but its end was not seen; try again";
                return Err(Problem { run: Some(run), ..Problem::new(Code::RunMoved, detail) });
            }
            row = self.0.engine.run(&owner, run).await?.ok_or_else(Problem::not_found)?;
        }
        Ok(CancelReply::Accepted(Answer(row.try_into()?)))
    }
}
