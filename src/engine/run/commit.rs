//! Writes barriers, for as long as it takes, and lets go of runs that are not this process's any more.
//!
//! Invariant: an outcome that is not known is settled by reading, never by guessing.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::{debug, warn};

use super::{COMMIT_RETRY, Driver, Halt, Position, Rest};
use crate::engine::Stop;
use crate::engine::follow::{PAGE, decode};
use crate::engine::journal::Held;
use crate::event::{Body, Scope};
use crate::id::{InterruptId, Seq};
use crate::store::{CacheEntry, Checkpoint, Commit, Committed, Question, RunState, StoreError};

/// What a barrier stores besides its events.
#[derive(Default)]
pub(super) struct Barrier {
    checkpoints: Vec<Checkpoint>,
    questions: Vec<Question>,
    closed: Vec<InterruptId>,
    pending: Option<u64>,
    cached: Vec<CacheEntry>,
    notice: Option<Vec<u8>>,
    stopped: bool,
}

/// A barrier on its way to the store. What is sent after it waits in the journal.
pub(super) struct Sealed {
    commit: Commit,
    held: Held,
}

/// What became of a commit.
struct Settled {
    /// Somebody asked for the end of the run.
    cancel: bool,
    /// What was appended before is there for sure.
    kept: bool,
}

impl Driver<'_> {
    /// Writes what was not stored yet, with events that become visible with it.
    pub(super) async fn commit(
        &self,
        at: &mut Position,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Result<bool, Halt> {
        let before = self.settled(at).await?;
        let sealed = self.seal(at, events, next);
        Ok(self.send(sealed).await? | before)
    }

    /// Waits for the barrier that is on its way.
    pub(super) async fn settled(&self, at: &mut Position) -> Result<bool, Halt> {
        match at.sealed.take() {
            Some(sealed) => self.send(sealed).await,
            None => Ok(false),
        }
    }

    /// Makes a barrier of what was not stored yet.
    pub(super) fn seal(
        &self,
        at: &mut Position,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Sealed {
        let is_over = next.as_ref().is_some_and(|(state, _)| *state != RunState::Interrupted);
        let barrier = Barrier {
            checkpoints: std::mem::take(&mut at.pending),
            questions: std::mem::take(&mut at.asked),
            closed: std::mem::take(&mut at.closed),
            // A run that is over needs none, also of what it was about to do.
            pending: at.has_kept.then_some(if is_over { u64::MAX } else { at.number }),
            cached: std::mem::take(&mut at.to_cache),
            notice: at.notice.take(),
            stopped: at.rest == Some(Rest::Stopped),
        };
        at.has_kept = false;
        let mut told = std::mem::take(&mut at.told);
        told.extend(events);
        let sealed = self.sealed(at.gate, barrier, told, next);
        at.gate += 1;
        sealed
    }

    fn sealed(
        &self,
        step: u64,
        barrier: Barrier,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Sealed {
        let claim = &self.claim.run;
        let (held, batch): (Held, _) = self.journal.hold(events);
        let commit = Commit {
            owner: claim.key.owner.clone(),
            thread: claim.thread,
            run: claim.run,
            fence: claim.fence,
            step,
            checkpoints: barrier.checkpoints,
            questions: barrier.questions,
            closed: barrier.closed,
            pending: barrier.pending,
            cached: barrier.cached,
            events: batch,
            appended: held.appended,
            next,
            notice: barrier.notice,
            stopped: barrier.stopped,
            lease: self.shared.process.lease,
        };
        Sealed { commit, held }
    }

    /// Writes a barrier that belongs to no position.
    pub(super) async fn write(
        &self,
        step: u64,
        barrier: Barrier,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Result<bool, Halt> {
        self.send(self.sealed(step, barrier, events, next)).await
    }

    /// Writes a barrier, for as long as it takes: the fence says when it is too late. Says whether somebody asked for the
    /// end of the run.
    pub(super) async fn send(&self, sealed: Sealed) -> Result<bool, Halt> {
        let settled = match self.settle(&sealed.commit).await {
            Ok(Settled { cancel, kept: true }) => Ok(cancel),
            Ok(Settled { cancel, kept: false }) => self.append_again().await.map(|()| cancel),
            Err(halt) => {
                self.journal.withdraw(sealed.held);
                return Err(halt);
            }
        };
        self.journal.release(sealed.held);
        settled
    }

    /// Stores again what a crash of the database took from the batches since the last barrier: readers were told it.
    async fn append_again(&self) -> Result<(), Halt> {
        let (claim, store) = (&self.claim.run, &self.shared.store);
        let owner = &claim.key.owner;
        let Some(first) = self.journal.first_appended() else { return Ok(()) };
        let mut there = BTreeSet::new();
        let mut after = Seq { fence: claim.fence, n: first - 1 };
        loop {
            let read = || store.events(owner, claim.run, after, PAGE);
            let batches = self.patiently(read).await?;
            let Some(last) = batches.last() else { break };
            after.n = last.last;
            for batch in &batches {
                there.extend(decode(batch).map_err(Halt::Broken)?.iter().map(|event| event.seq.n));
            }
        }
        let lost = self.journal.appended_but(&there);
        if lost.is_empty() {
            return Ok(());
        }
        warn!(run = %claim.run, events = lost.len(), "The database lost events that were told; they are stored again.");
        let batches: Vec<_> = lost.into_iter().map(|batch| (owner.clone(), claim.run, batch)).collect();
        self.patiently(|| store.append_events(batches.clone())).await
    }

    /// Sends a commit until its outcome is known.
    async fn settle(&self, commit: &Commit) -> Result<Settled, Halt> {
        let claim = &self.claim.run;
        let begun = Instant::now();
        let mut unsure = false;
        loop {
            match self.shared.store.commit(commit.clone()).await {
                Ok(Committed::Done { cancel_requested, kept }) => {
                    if commit.next.is_some() && claim.webhook.is_some() {
                        self.shared.ended.notify_one();
                    }
                    metrics::histogram!("graphloom_commit_seconds").record(begun.elapsed().as_secs_f64());
                    if claim.crashes > 0 && commit.step == claim.step {
                        // It moved on, so the next one that lost its process may be taken.
                        self.shared.queue.notify_one();
                    }
                    return Ok(Settled { cancel: cancel_requested, kept });
                }
                Ok(Committed::Lost) if !unsure => return Err(Halt::Gone),
                // Lost, perhaps to an earlier try of its own that took longer than its answer.
                outcome @ (Ok(Committed::Lost) | Err(StoreError::Unknown(_))) => {
                    let lost = outcome.is_ok();
                    unsure = true;
                    warn!(run = %claim.run, "Commit has no answer; reading the run.");
                    let read = || self.shared.store.run(&claim.key.owner, claim.run);
                    let Some(row) = self.patiently(read).await? else { return Err(Halt::Gone) };
                    if row.fence != claim.fence {
                        return Err(Halt::Gone);
                    }
                    if row.step == commit.step + 1 {
                        // Perhaps it was the database that went away.
                        return Ok(Settled { cancel: row.cancel_requested, kept: false });
                    }
                    if lost {
                        return Err(Halt::Gone);
                    }
                    self.rest().await?;
                }
                Err(StoreError::Unavailable(why)) => {
                    warn!(run = %claim.run, why, "Commit waits for the database.");
                    self.rest().await?;
                }
                Err(error) => return Err(Halt::Broken(error)),
            }
        }
    }

    /// Repeats a read until the database answers.
    pub(super) async fn patiently<T, F, R>(&self, read: F) -> Result<T, Halt>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match read().await {
                Ok(value) => return Ok(value),
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => self.rest().await?,
                Err(error) => return Err(Halt::Broken(error)),
            }
        }
    }

    pub(super) async fn rest(&self) -> Result<(), Halt> {
        if matches!(self.live.stop(), Some(Stop::Leave | Stop::Lost)) {
            return Err(Halt::Gone);
        }
        tokio::time::sleep(COMMIT_RETRY).await;
        Ok(())
    }

    /// Parts from a run that is not this process's any more: another has it, or its thread was deleted.
    pub(super) async fn part(&self) {
        let run = &self.claim.run;
        if matches!(self.shared.store.run(&run.key.owner, run.run).await, Ok(None)) {
            debug!(run = %run.run, "Run deleted with its thread.");
            return self.journal.bury();
        }
        debug!(run = %run.run, "Run left to another owner.");
        self.journal.abort();
    }

    /// Gives the run back, so that another process goes on at once.
    pub(super) async fn leave(&self) -> Halt {
        let run = &self.claim.run;
        if !matches!(self.live.stop(), Some(Stop::Drain | Stop::Leave)) {
            return Halt::Gone;
        }
        // The next owner must know what was begun here; without it, only a lease that ran out makes it doubt all.
        if let Some(batch) = self.journal.unstored() {
            let batch = vec![(run.key.owner.clone(), run.run, batch)];
            if let Err(error) = self.shared.store.append_events(batch).await {
                warn!(run = %run.run, %error, "Run could not be given back; its lease will run out.");
                return Halt::Gone;
            }
        }
        if let Err(error) = self.shared.store.release(&run.key.owner, run.run, run.fence).await {
            warn!(run = %run.run, %error, "Run could not be given back; its lease will run out.");
        }
        Halt::Gone
    }
}
