//! What a run told in one go, found by whom it is of.
//!
//! Invariant: found by tasks and calls, never by the order of events: with `durability: exit` the events of many
//! supersteps are told together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::event::{Body, Event, NodeStatus, Scope};
use crate::id::TaskId;

/// Why something failed, as far as that is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// The kind of error.
    pub(super) kind: Option<String>,
    /// What was told of it.
    pub(super) message: Option<String>,
}

/// The end of a tool's call.
pub(super) struct CallEnd<'e> {
    pub(super) attempt: u32,
    pub(super) result: Result<&'e Json, &'e str>,
}

/// The events between two ends of a run.
pub(super) struct Heard<'e> {
    /// How often tasks failed.
    failed: BTreeMap<&'e TaskId, usize>,
    called: BTreeSet<&'e TaskId>,
    messages: BTreeMap<&'e str, &'e str>,
    calls: BTreeMap<(String, &'e str), CallEnd<'e>>,
    emitted: BTreeMap<&'e TaskId, BTreeMap<&'e str, &'e Json>>,
    /// The kinds of errors by the nodes that failed, oldest first.
    caught: BTreeMap<String, Vec<&'e str>>,
    /// The error that the run ended with.
    pub(super) error: Option<(&'e str, &'e str, Option<&'e str>)>,
}

/// Names a node, whatever its task.
pub(super) fn place_key(path: &[String], node: &str, item: Option<u64>) -> String {
    let place = Scope { path: path.to_vec(), item, ..Scope::new(node, TaskId("".into()), 1) };
    place.caller()
}

impl<'e> Heard<'e> {
    pub(super) fn new(events: &[&'e Event]) -> Self {
        let mut heard = Self {
            failed: BTreeMap::new(),
            called: BTreeSet::new(),
            messages: BTreeMap::new(),
            calls: BTreeMap::new(),
            emitted: BTreeMap::new(),
            caught: BTreeMap::new(),
            error: None,
        };
        for event in events {
            heard.hear(event);
        }
        heard
    }

    fn hear(&mut self, event: &'e Event) {
        match (&event.body, &event.scope) {
            (Body::NodeFinished { status, usage, .. }, Some(place)) => {
                if *status == NodeStatus::Failed {
                    *self.failed.entry(&place.task_id).or_default() += 1;
                }
                if usage.is_some_and(|usage| usage.model_calls > 0) {
                    self.called.insert(&place.task_id);
                }
            }
            (Body::MessageFinished { message_id, content: Some(text), .. }, _) => {
                self.messages.insert(message_id, text);
            }
            (Body::ToolFinished { call_id, result, error, .. }, Some(place)) => {
                let result = match (result, error) {
                    (Some(result), _) => Ok(result),
                    (None, error) => Err(error.as_deref().unwrap_or_default()),
                };
                let at = place_key(&place.path, &place.node, place.item);
                self.calls.insert((at, call_id), CallEnd { attempt: place.attempt, result });
            }
            (Body::Custom { name, data }, Some(place)) => {
                self.emitted.entry(&place.task_id).or_default().insert(name, data);
            }
            (Body::EdgeTaken { from, condition: Some(condition), path, item, .. }, _) => {
                if let Some(kind) = condition.strip_prefix("on_error: ") {
                    self.caught.entry(place_key(path, from, *item)).or_default().push(kind);
                }
            }
            (Body::Error { code, message, node, .. }, _) => {
                self.error = Some((code, message, node.as_deref()));
            }
            _ => {}
        }
    }

    /// Says whether a task failed.
    pub(super) fn has_failed(&self, task: &TaskId) -> bool {
        self.failed.get(task).is_some_and(|times| *times > 0)
    }

    /// Takes note of a failure of a task: in a later superstep it may come to something.
    pub(super) fn take_failed(&mut self, task: &TaskId) -> bool {
        let left = self.failed.get_mut(task).filter(|times| **times > 0);
        left.map(|times| *times -= 1).is_some()
    }

    /// Says whether a task called a model.
    pub(super) fn has_called(&self, task: &TaskId) -> bool {
        self.called.contains(task)
    }

    /// Returns a message that was said.
    pub(super) fn said(&self, id: &str) -> Option<&'e str> {
        self.messages.get(id).copied()
    }

    /// Returns how the call of a tool ended.
    pub(super) fn call(&self, place: &Scope, id: &str) -> Option<&CallEnd<'e>> {
        // No copy of the id would be needed, but for the key of the map.
        let at = place_key(&place.path, &place.node, place.item);
        self.calls.iter().find(|((of, call), _)| *of == at && *call == id).map(|(_, end)| end)
    }

    /// Returns what a task emitted.
    pub(super) fn emitted(&self, task: &TaskId) -> BTreeMap<&'e str, &'e Json> {
        self.emitted.get(task).cloned().unwrap_or_default()
    }

    /// Takes the kind of the error that a node failed with, oldest first.
    pub(super) fn caught(&mut self, place: &Scope) -> Option<&'e str> {
        let kinds = self.caught.get_mut(&place_key(&place.path, &place.node, place.item))?;
        (!kinds.is_empty()).then(|| kinds.remove(0))
    }
}
