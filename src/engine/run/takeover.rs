//! Takes a run over from an earlier owner.
//!
//! Invariant: what an earlier owner showed of an attempt that died is taken back before anything else is told.

use super::tasks::INTENT;
use super::{Driver, Halt, Position};
use crate::engine::follow::{PAGE, decode};
use crate::engine::journal::GONE;
use crate::engine::record;
use crate::engine::step::Leaf;
use crate::event::{Body, Event, Scope};
use crate::id::Seq;

impl Driver<'_> {
    /// Takes over what earlier owners began and did not end; returns where.
    pub(super) async fn inherit(&self) -> Result<Vec<Scope>, Halt> {
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
                return Ok(self.journal.inherit(&events));
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
    /// crash of all, which may have begun without being stored.
    pub(super) fn reset(&self, leaves: &[Leaf<'_>], open: &[Scope], crashed: bool) {
        let is_open = |leaf: &Leaf<'_>| open.iter().any(|place| place.task_id == leaf.place.task_id);
        for leaf in leaves.iter().filter(|leaf| crashed || is_open(leaf)) {
            self.take_back(std::slice::from_ref(&leaf.place));
        }
    }

    /// Tells the readers that what was shown of tasks is void.
    pub(super) fn take_back(&self, places: &[Scope]) {
        for place in places {
            self.journal.send(Some(place), Body::NodeReset { reason: GONE.into() });
        }
    }
}
