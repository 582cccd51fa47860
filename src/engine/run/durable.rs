//! When barriers are stored: before the next superstep, beside it, or all at the end.
//!
//! Invariant: at most one barrier is on its way, and what follows it in the stream waits for it.

use std::pin::pin;

use super::{Cut, Driver, Halt, Position};
use crate::engine::Stop;
use crate::engine::step::{Ended, Leaf};
use crate::node::RunFacts;

impl Driver<'_> {
    /// Does a superstep while the barrier before it is stored.
    pub(super) async fn beside_commit(
        &self,
        at: &mut Position,
        leaves: &[Leaf<'_>],
        facts: &RunFacts,
    ) -> Result<Vec<Ended>, Cut> {
        let Some(sealed) = at.sealed.take() else { return self.superstep(at, leaves, facts).await };
        let mut commit = pin!(self.send(sealed));
        let mut work = pin!(self.superstep(at, leaves, facts));
        let (cancel, ended) = tokio::select! {
            biased;
            done = &mut commit => {
                let cancel = done.map_err(Cut::Halted)?;
                if cancel {
                    self.live.ask(Stop::Cancel);
                }
                // What it used is counted also when it is stopped.
                (cancel, work.await)
            }
            ended = &mut work => {
                // Its barrier tells of a wish for the end again; what it came to is not lost.
                commit.await.map_err(Cut::Halted)?;
                (false, ended)
            }
        };
        if cancel { Err(Cut::Cancelled) } else { ended }
    }

    /// Stores what was not stored yet; says whether somebody asked for the end of the run.
    pub(super) async fn flush(&self, at: &mut Position) -> Result<bool, Halt> {
        // What is pending is of the superstep to come.
        let has_kept = std::mem::take(&mut at.has_kept);
        // The input is the same each time.
        let stored = if at.pending.is_empty() || at.number == 0 {
            self.settled(at).await
        } else {
            self.commit(at, Vec::new(), None).await
        };
        at.has_kept = has_kept;
        stored
    }

    /// Gives the run back with all that it has done, so that another process goes on at once.
    pub(super) async fn hand_back(&self, mut at: Position) -> Halt {
        if matches!(self.live.stop(), Some(Stop::Drain | Stop::Leave))
            && let Err(halt) = self.flush(&mut at).await
        {
            return halt;
        }
        self.leave().await
    }
}
