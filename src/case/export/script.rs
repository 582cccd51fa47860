//! The script of a turn: what each caller got, call by call.

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::heard::Fault;
use super::into::{Found, Lost, Parts, Read};
use super::pieces::put;

use crate::model::Kind;

/// Stands where somebody has to fill in what is not stored.
pub(super) const FILL: &str = "FILL IN";

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// A model's text.
    Text(String),
    /// A model's value, or what a graph gives.
    Output(Json),
    /// What a model says, and the tools that it calls.
    Calls(String, Vec<(String, Json)>),
    /// What a tool gives.
    Result(Json),
    /// A response: its status, where it is stored, and its body.
    Response(Option<Json>, Json),
    /// A kind of error.
    Error(String),
}

/// The answer to a call, with what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) answer: Answer,
    pub(super) note: Option<String>,
    /// Something is to be filled in.
    pub(super) gap: bool,
}

impl Entry {
    /// Makes one of which all is stored.
    pub(super) fn whole(answer: Answer) -> Self {
        Self { answer, note: None, gap: false }
    }

    /// Makes one that is not stored.
    pub(super) fn gap(answer: Answer, why: &str) -> Self {
        Self { answer, note: Some(format!("not stored: {why}")), gap: true }
    }

    /// Makes one of a value that was read back, by what is made of it.
    pub(super) fn read(read: &Read, fill: impl Fn(Json) -> Answer) -> Self {
        let (value, missing) = match read {
            Err(lost) => return Self::gap(fill(json!(FILL)), lost.why()),
            Ok(Found { value, parts: Parts::All }) => return Self::whole(fill(value.clone())),
            Ok(Found { value, parts: Parts::Some }) => {
                let note = "only what `into` takes is stored".to_owned();
                return Self { answer: fill(value.clone()), note: Some(note), gap: false };
            }
            Ok(Found { value, parts: Parts::Without(missing) }) => (value, missing),
        };
        let mut value = value.clone();
        for path in missing {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            put(&mut value, &path, &json!(FILL));
        }
        Self::gap(fill(value), &format!("`into` takes nothing of {}", missing.join(", ")))
    }

    pub(super) fn lost(lost: Lost, fill: impl Fn(Json) -> Answer) -> Self {
        Self::gap(fill(json!(FILL)), lost.why())
    }
}

/// A graph that was called, as a whole.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// How often it began in the turn.
    pub(super) began: usize,
    /// What it gave, or why it failed.
    pub(super) ended: Vec<Result<Read, Fault>>,
    /// It said something, or asked somebody: its own nodes are needed.
    pub(super) spoke: bool,
}

/// The script of a turn.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// By caller, in the order of their first calls.
    pub(super) calls: IndexMap<String, Vec<Entry>>,
    /// The graphs that were called, by caller.
    pub(super) graphs: IndexMap<String, Whole>,
    /// What no script can say.
    pub(super) beyond: Vec<String>,
}

impl Script {
    pub(super) fn add(&mut self, caller: String, entry: Entry) {
        self.calls.entry(caller).or_default().push(entry);
    }

    /// Notes what no test can say, once.
    pub(super) fn beyond(&mut self, why: String) {
        if !self.beyond.contains(&why) {
            self.beyond.push(why);
        }
    }

    /// Lets a graph stand for its nodes where all is stored of what it gave, and not of what they got.
    pub(super) fn settle(&mut self) {
        // Outer ones first: with them the inner ones are gone.
        let mut names: Vec<String> = self.graphs.keys().map(|name| bare(name)).collect();
        names.sort_by_key(|name| name.matches('/').count());
        names.dedup();
        for name in names {
            let of = |caller: &str| bare(caller) == name;
            let inner = format!("{name}/");
            let has_gap = self
                .calls
                .iter()
                .any(|(caller, entries)| bare(caller).starts_with(&inner) && entries.iter().any(|e| e.gap));
            let all: Vec<(&String, &Whole)> = self.graphs.iter().filter(|(caller, _)| of(caller)).collect();
            let is_whole = |whole: &Whole| {
                let all = whole.ended.iter().all(|end| end_of(end).is_some());
                all && whole.began == whole.ended.len() && !whole.spoke
            };
            if !has_gap || all.is_empty() || !all.iter().all(|(_, whole)| is_whole(whole)) {
                continue;
            }
            let outputs: Vec<(String, Vec<Entry>)> = all
                .into_iter()
                .map(|(caller, whole)| (caller.clone(), whole.ended.iter().filter_map(end_of).collect()))
                .collect();
            self.calls.retain(|caller, _| !bare(caller).starts_with(&inner));
            self.calls.extend(outputs);
        }
    }
}

/// Returns the answer that stands for a whole graph, where it is known.
fn end_of(end: &Result<Read, Fault>) -> Option<Entry> {
    match end {
        Ok(Ok(Found { value, parts: Parts::All })) => Some(Entry::whole(Answer::Output(value.clone()))),
        Err(Fault { kind: Some(kind), .. }) if kind == "tool" || Kind::named(kind).is_some() => {
            Some(Entry::whole(Answer::Error(kind.clone())))
        }
        _ => None,
    }
}

/// Returns the name of a caller, whichever item it is for.
fn bare(name: &str) -> String {
    name.split('/').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join("/")
}
