//! Takes a run over from an earlier owner.
//!
//! Invariant: what an earlier owner showed of an attempt that died is taken back before anything else is told.

use std::collections::BTreeSet;

use super::{Driver, Halt};
use crate::engine::follow::{PAGE, decode};
use crate::engine::journal::GONE;
use crate::engine::step::Step;
use crate::event::{Body, Event, Scope};
use crate::id::{Seq, TaskId};

impl Driver<'_> {
    /// Tells the readers that what earlier owners began and did not end is void; returns the tasks.
    pub(super) async fn inherit(&self) -> Result<BTreeSet<TaskId>, Halt> {
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

    /// Does the same for tasks that a crashed owner may have begun without storing it.
    pub(super) fn reset(&self, step: &Step, told: &BTreeSet<TaskId>) {
        for task in step.tasks.iter().filter(|task| !told.contains(&task.id)) {
            let scope = Scope { node: task.node.clone(), task_id: task.id.clone(), attempt: 1 };
            self.journal.send(Some(&scope), Body::NodeReset { reason: GONE.into() });
        }
    }
}
