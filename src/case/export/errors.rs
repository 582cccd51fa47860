//! Calls that failed: with what kind of error, and how often.

use serde_json::Value as Json;

use super::heard::Fault;
use super::script::{Answer, Entry};
use crate::failure::{ErrorKind, Failure};
use crate::model::{Kind, ModelError};
use crate::node::Retry;
use crate::plan::{Effects, Job, ToolPlan};

/// A call that failed.
pub(super) struct Failing<'f> {
    pub(super) job: &'f Job,
    /// The tool, when it is one that is called.
    pub(super) tool: Option<&'f ToolPlan>,
    /// A model was asked in its task.
    pub(super) asked: bool,
    /// How many attempts were made, where that is stored.
    pub(super) attempts: Option<u32>,
    /// What is around it is tried again, by this policy.
    pub(super) again: Option<&'f Retry>,
}

impl Failing<'_> {
    fn is_model(&self) -> bool {
        self.job.kind == "llm" && self.tool.is_none()
    }

    fn may_repeat(&self) -> bool {
        self.tool.map_or(self.job.effects, |tool| tool.effects) != Effects::AtMostOnce
    }

    /// Returns the failure that a script can bring about.
    fn scripted(&self, kind: &str) -> Option<Failure> {
        match Kind::named(kind) {
            Some(kind) => Some(ModelError::new(kind, "").into()),
            None if kind == "tool" && !self.is_model() => Some(Failure::new(ErrorKind::Tool, "")),
            None => None,
        }
    }

    /// Returns a kind of error after which the run goes on as it did, where the kind is not stored.
    fn fitting(&self) -> Option<String> {
        let repeats = |retry: &Retry| {
            let kinds = retry.kinds.iter().map(|kind| if kind == "any" { "server_error" } else { kind });
            kinds.filter(|kind| self.scripted(kind).is_some()).map(str::to_owned).next()
        };
        if let Some(retry) = self.again {
            return repeats(retry);
        }
        if self.attempts.is_some_and(|attempts| attempts > 1) {
            return repeats(&self.job.retry);
        }
        let once = ["tool", "http_400", "schema", "connection", "timeout"];
        let mut once = once.into_iter().filter_map(|kind| Some((kind, self.scripted(kind)?)));
        let stays = |failure: &Failure| !self.may_repeat() || self.job.retry.delay(1, failure, 0.0).is_none();
        once.find(|(_, failure)| stays(failure)).map(|(kind, _)| kind.to_owned())
    }

    /// Returns how often a call is made that fails each time.
    fn times(&self, failure: &Failure) -> usize {
        let others = if self.is_model() { self.job.fallbacks.len() } else { 0 };
        let mut times = 0;
        for link in 0..=others {
            let (_, retry, _) = self.job.link(link);
            times += 1;
            for attempt in 1.. {
                if !self.may_repeat() || retry.delay(attempt, failure, 0.0).is_none() {
                    break;
                }
                times += 1;
            }
            if !self.may_repeat() || !failure.kind.retryable() {
                break;
            }
        }
        times
    }
}

/// Returns the entries of a call that failed, one an attempt. The attempts of a call that came to something in the end are
/// none of them: without them it comes to the same at once.
pub(super) fn errors(failing: &Failing<'_>, fault: &Fault, fill: impl Fn(Json) -> Answer) -> Vec<Entry> {
    let said = fault.message.as_deref().filter(|message| !message.is_empty());
    let said = said.map(|message| format!("it failed: {message}"));
    // A prompt that cannot be written is never sent.
    if fault.kind.as_deref() == Some("template") && !failing.asked {
        return Vec::new();
    }
    let (kind, note) = match &fault.kind {
        Some(kind) if failing.scripted(kind).is_some() => (Some(kind.clone()), said),
        Some(kind) => {
            let why = format!("the call ended with an error of the kind `{kind}`, which no script has");
            return vec![Entry::gap(fill(super::script::FILL.into()), &why)];
        }
        None => {
            let guess = "of which kind its error was is not stored";
            let note = said.map_or_else(|| guess.to_owned(), |said| format!("{said} ({guess})"));
            (failing.fitting(), Some(note))
        }
    };
    let Some(kind) = kind else {
        return vec![Entry::gap(fill(super::script::FILL.into()), "the call failed, and nothing says how")];
    };
    let times = failing.scripted(&kind).map_or(1, |failure| failing.times(&failure));
    let times = if failing.again.is_some() { 1 } else { times };
    let entry = |note: Option<String>| Entry { answer: Answer::Error(kind.clone()), note, gap: false };
    let mut entries = vec![entry(note)];
    entries.extend((1..times).map(|_| entry(None)));
    entries
}
