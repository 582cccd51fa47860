//! What the calls of tools gave: by models, by nodes, and by graphs that are tools.

use serde_json::Value as Json;

use super::calls::{Came, Part, Walk};
use super::errors::{Failing, errors};
use super::heard::Fault;
use super::into::{After, Lost};
use super::script::{Answer, Entry};
use crate::engine::step::{Called, Calling, Going, Leaf, Making, Stage};
use crate::failure::ErrorKind;
use crate::node::Outcome;
use crate::plan::Work;

impl Walk<'_, '_, '_> {
    /// The call of a tool.
    pub(super) fn call(&mut self, part: &Part<'_>, calling: &Calling, came: &Came<'_>) {
        let called = &calling.called;
        let name = match part.job.kind {
            "tool" => part.place.caller(),
            _ => format!("{}/{}", part.place.caller(), called.tool),
        };
        let stage = match came {
            Came::Going(Going::Calls { calls, .. }) => {
                calls.iter().find(|c| c.id == called.id).map(|c| &c.stage)
            }
            Came::Going(Going::Tool(called)) => Some(&called.stage),
            _ => None,
        };
        match &calling.making {
            Making::Fails(failure) if failure.kind == ErrorKind::Dismissed => {
                let why = format!("a call of `{name}` was waiting for approval when it was cancelled");
                self.script.beyond(why);
            }
            Making::Rests | Making::Asks(_) | Making::Refused(_) | Making::Fails(_) => {}
            Making::Leaf => {
                let Some(leaf) = self.leaf() else { return };
                let succeeded =
                    self.heard.call(&part.place, &called.id).is_some_and(|end| end.result.is_ok());
                self.keeps(&leaf.place.task_id, succeeded);
                let entries = self.tool(part, called, &leaf, stage, came);
                self.add_all(&name, entries);
            }
            Making::Graph(frame, step) => {
                let muted = std::mem::replace(&mut self.muted, true);
                let inner = match stage {
                    Some(Stage::Graph(frame)) => Some(&**frame),
                    _ => None,
                };
                let after = inner.map_or(After::Nothing, |frame| After::State(&frame.state));
                self.inner(part, frame, step, after, inner, Fault::default());
                self.muted = muted;
                if inner.is_none() {
                    let entries = self.ended(part, called, stage, came);
                    self.add_all(&name, entries);
                }
            }
        }
    }

    /// Returns what the call of a tool gave.
    fn tool(
        &self,
        part: &Part<'_>,
        called: &Called,
        leaf: &Leaf<'_>,
        stage: Option<&Stage>,
        came: &Came<'_>,
    ) -> Vec<Entry> {
        if let Some(Ok(Outcome::Done(done))) =
            self.worked.get(&leaf.place.task_id).map(|worked| &worked.result)
        {
            return vec![given(part, called, &done.result)];
        }
        self.ended(part, called, stage, came)
    }

    fn ended(&self, part: &Part<'_>, called: &Called, stage: Option<&Stage>, came: &Came<'_>) -> Vec<Entry> {
        let end = self.heard.call(&part.place, &called.id);
        let (result, attempts) = match (stage, end) {
            (Some(Stage::Settled(Ok(result))), _) => (Ok(result), None),
            (Some(Stage::Settled(Err(why))), end) => (Err(why.as_str()), end.map(|end| end.attempt)),
            (_, Some(end)) => (end.result, Some(end.attempt)),
            _ => {
                return match came {
                    Came::Done(read) => vec![Entry::read(read, Answer::Result)],
                    _ => vec![Entry::lost(Lost::Cut, Answer::Result)],
                };
            }
        };
        match result {
            Ok(result) => vec![given(part, called, result)],
            Err(message) => {
                let kind = match came {
                    Came::Failed(fault) => fault.kind.clone(),
                    _ => None,
                };
                let fault = Fault { kind, message: Some(message.to_owned()) };
                let again = match came {
                    Came::Again(around) => Some(&around.retry),
                    _ => None,
                };
                let tool = match &part.job.work {
                    Work::Tool(tool, _) => Some(tool),
                    _ => part.job.tools.get(&called.tool),
                };
                let tool = tool.map(|tool| &**tool);
                errors(&Failing { job: part.job, tool, asked: true, attempts, again }, &fault, Answer::Result)
            }
        }
    }
}

/// Returns what a tool gave. Where that is what its node gives, it goes where that goes.
fn given(part: &Part<'_>, called: &Called, result: &Json) -> Entry {
    let is_final = part.job.tools.get(&called.tool).is_some_and(|tool| tool.is_final);
    if part.job.kind == "tool" || is_final {
        return Entry::read(&part.beside(result), Answer::Result);
    }
    Entry::whole(Answer::Result(result.clone()))
}
