//! Takes a run over from an earlier owner.
//!
//! Invariant: what an earlier owner showed of an attempt that died is taken back before anything else is told.

use super::tasks::INTENT;
use super::{Driver, Halt, Position};
use crate::engine::follow::{PAGE, decode};
use crate::engine::journal::GONE;
use crate::engine::record;
use crate::engine::step::Leaf;
use crate::event::{Body, Event, RunStatus, Scope, Usage};
use crate::id::Seq;
use crate::plan::Durability;

/// What earlier owners of a run left.
#[derive(Default)]
pub(super) struct Inherited {
    /// What they began and did not end.
    pub(super) open: Vec<Scope>,
    /// What the run had used up when it failed and was resumed: its limits start anew from there.
    pub(super) spent: Option<Spent>,
}

/// What of the limits of a run counts no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spent {
    pub(super) steps: u64,
    pub(super) usage: Usage,
}

fn spent(events: &[Event]) -> Option<Spent> {
    let (mut steps, mut spent) = (0, None);
    for event in events {
        match &event.body {
            Body::CheckpointSaved { step, .. } => steps = *step,
            Body::RunFinished { status: RunStatus::Failed | RunStatus::Dead, usage, .. } => {
                spent = Some(Spent { steps, usage: *usage });
            }
            _ => {}
        }
    }
    spent
}

impl Driver<'_> {
    /// Takes over what earlier owners began and did not end.
    pub(super) async fn inherit(&self) -> Result<Inherited, Halt> {
        let run = &self.claim.run;
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(Seq::default(), |event: &Event| event.seq);
            let read = || self.shared.store.events(&run.key.owner, run.run, after, PAGE);
            let batches = self.patiently(read).await?;
            let before = events.len();
            for batch in &batches {
                let batch = decode(batch).map_err(Halt::Broken)?;
                events.extend(batch.into_iter().filter(|event| event.seq > after));
            }
            if events.len() == before {
                return Ok(Inherited { open: self.journal.inherit(&events), spent: spent(&events) });
            }
        }
    }

    /// Reads what leaves of the next superstep came to before: those are not done again.
    pub(super) async fn recall(&self, at: &mut Position) -> Result<(), Halt> {
        let run = &self.claim.run;
        let rows =
            self.patiently(|| self.shared.store.pending(&run.key.owner, run.run, at.number + 1)).await?;
        for (task, data) in rows {
            at.has_kept = true;
            // One of a barrier that was never stored stands on nothing.
            let Some(task) = at.of_this_barrier(task) else { continue };
            let worked = if data == INTENT {
                None
            } else {
                Some(record::decode("pending write", &data).map_err(Halt::Broken)?)
            };
            at.kept.insert(task, worked);
        }
        Ok(())
    }

    /// Tells the readers that what earlier owners showed of the leaves is void: of those that they left open, and after a
    /// crash of all, which may have begun without being stored. So is what they showed of later supersteps, which they
    /// had come to before these were stored.
    pub(super) fn reset(&self, at: &mut Position, leaves: &[Leaf<'_>], open: &[Scope], crashed: bool) {
        let is_open = |leaf: &Leaf<'_>| open.iter().any(|place| place.task_id == leaf.place.task_id);
        for leaf in leaves.iter().filter(|leaf| crashed || is_open(leaf)) {
            self.take_back(std::slice::from_ref(&leaf.place));
        }
        if at.durability != Durability::Sync && !open.is_empty() {
            let (_, alive) = at.head.frontier.held(&at.plan);
            let is_leaf = |place: &Scope| leaves.iter().any(|leaf| leaf.place.task_id == place.task_id);
            let later = |place: &&Scope| !alive.contains(&place.task_id) && !is_leaf(place);
            for place in open.iter().filter(later) {
                self.take_back(std::slice::from_ref(place));
                at.later.insert(place.task_id.clone());
            }
        }
    }

    /// Tells the readers that what was shown of tasks is void.
    pub(super) fn take_back(&self, places: &[Scope]) {
        for place in places {
            self.journal.send(Some(place), Body::NodeReset { reason: GONE.into() });
        }
    }
}
