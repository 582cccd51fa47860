//! Tells the public state of a run: where it starts from, and what each barrier changed.
//!
//! Invariant: the events of the stream only name checkpoints; a state is read for those who ask, and what is private
//! in the graph that the run is pinned to is never told.

use serde_json::Value as Json;

use super::record::decode_delta;
use super::{Shared, heads};
use crate::event::{Body, PatchOp};
use crate::id::{Owner, ThreadId};
use crate::plan::Plan;
use crate::state::{Change, Delta, State};
use crate::store::{Run, StoreError};

/// Where the states of a run are.
#[derive(Debug)]
pub(super) struct States {
    thread: ThreadId,
    graph: String,
    hash: String,
}

impl States {
    /// Returns where the states of a run are.
    pub(super) fn of(row: &Run) -> Self {
        Self { thread: row.thread, graph: row.graph.clone(), hash: row.hash.clone() }
    }

    /// Fills an event of the state in; nothing when there is nothing to tell.
    pub(super) async fn tell(
        &self,
        shared: &Shared,
        owner: &Owner,
        body: &Body,
    ) -> Result<Option<Body>, StoreError> {
        // A version that cannot be used any more does not say what was private.
        let Ok(plan) = shared.plan(&self.graph, &self.hash).await? else { return Ok(None) };
        match body {
            Body::StateSnapshot { checkpoint_id, .. } => {
                let state = match checkpoint_id {
                    None => Some(State::default()),
                    Some(id) => heads::load(&*shared.store, owner, self.thread, *id)
                        .await?
                        .map(|(head, _)| head.state),
                };
                Ok(state.map(|state| Body::StateSnapshot {
                    checkpoint_id: *checkpoint_id,
                    state: state.public(&plan.channels),
                }))
            }
            Body::StatePatch { checkpoint_id, .. } => {
                let chain = shared.store.chain(owner, self.thread, *checkpoint_id).await?;
                let Some(row) = chain.last() else { return Ok(None) };
                let patch = patch(&plan, decode_delta(&row.delta)?);
                let body = Body::StatePatch { checkpoint_id: *checkpoint_id, patch };
                Ok(Some(body))
            }
            _ => Ok(None),
        }
    }
}

/// Writes what a barrier did to the public channels as a JSON Patch (RFC 6902). A channel that is extended holds a
/// list since the run began, and one that is unset holds something.
fn patch(plan: &Plan, delta: Delta) -> Vec<PatchOp> {
    let mut patch = Vec::new();
    let mut add = |path: String, value: Json| {
        patch.push(PatchOp { op: "add".into(), path, value: Some(value) });
    };
    let mut removed = Vec::new();
    for (name, change) in delta {
        if plan.channels.get(&name).is_none_or(|channel| channel.private) {
            continue;
        }
        match change {
            Change::Start(value) | Change::Set(value) => add(format!("/{name}"), value),
            Change::Extend(items) => {
                for item in items {
                    add(format!("/{name}/-"), item);
                }
            }
            Change::Unset => removed.push(format!("/{name}")),
        }
    }
    patch.extend(removed.into_iter().map(|path| PatchOp { op: "remove".into(), path, value: None }));
    patch
}
