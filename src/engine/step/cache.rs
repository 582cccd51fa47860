//! Results that are kept: what they are found by, and what becomes of a task whose result is there.
//!
//! Invariant: what is found stands for the whole work. Nothing of it is begun, and nothing is told but its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::Doing;
use super::begin::{Level, Locals, MAX_ITEMS, Part, Planner, locals};
use super::held::Going;
use super::result::{self, Came, Results};
use crate::expr::{ExprTree, Scope};
use crate::failure::{Caught, Failure};
use crate::id::{CacheKey, sha256_hex};
use crate::node::{Reading, RunFacts};
use crate::plan::{Cache, Each, Job, ToolBody, ToolPlan, Work};
use crate::state::State;

/// What was looked for, with what was found of it.
pub type Found = BTreeMap<CacheKey, Option<Arc<Json>>>;

/// Nothing was looked for.
pub static UNSOUGHT: Found = Found::new();

/// A result to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Fresh {
    /// What it is found by.
    pub key: CacheKey,
    /// The result.
    pub result: Json,
    /// For how long.
    pub ttl: Duration,
}

impl<'a> Planner<'a> {
    /// Plans work whose result may be there.
    pub(super) fn cached(&mut self, level: &Level<'a>, part: &Part<'a, '_>, cache: &Cache) -> Doing {
        let scope = self.scope(level, part);
        let view = || View {
            facts: self.world.facts,
            state: &level.state,
            input: &level.input,
            locals: part.locals(),
            error: part.error(),
            scope: scope.clone(),
        };
        let reads = match &cache.key {
            Some(key) => key.eval(&scope).map_err(Failure::from),
            None => view().reads(part.job),
        };
        let key = match reads {
            Ok(reads) => CacheKey::of(&cache.of, &reads),
            Err(failure) => return Doing::Fails(failure),
        };
        match self.world.found.get(&key) {
            Some(Some(result)) => return Doing::Cached(Arc::clone(result)),
            Some(None) => {}
            None => drop(self.sought.insert(key.clone())),
        }
        to_cache(key, self.work(level, part, None))
    }
}

/// Lets a result be kept when it is there.
pub(super) fn to_cache(key: CacheKey, doing: Doing) -> Doing {
    match doing {
        Doing::Waits(going) => Doing::Waits(Going::ToCache(key, Box::new(going))),
        doing => Doing::ToCache(key, Box::new(doing)),
    }
}

impl<'a> Results<'a> {
    /// Takes what a part came to whose result is kept.
    pub(super) fn fresh(&mut self, part: &mut result::Part<'a, '_>, key: CacheKey, doing: Doing) -> Came {
        match self.part(part, doing) {
            Came::Still(going, told) => Came::Still(Going::ToCache(key, Box::new(going)), told),
            Came::Done { result, writes, kept, told } => {
                // A model that stands in for another one gives answers only until that one is back.
                let stands_in =
                    part.job.model.is_some() && part.model.is_some() && part.model != part.job.model;
                if let Some(cache) = part.job.cache.as_ref().filter(|_| !stands_in) {
                    self.to_cache.push(Fresh { key, result: result.clone(), ttl: cache.ttl });
                }
                Came::Done { result, writes, kept, told }
            }
            other => other,
        }
    }
}

/// What work can read before it begins.
struct View<'v> {
    facts: &'v RunFacts,
    state: &'v State,
    input: &'v Json,
    locals: Locals,
    error: Option<&'v Caught>,
    scope: Scope,
}

impl View<'_> {
    /// Returns all that a job reads, as far as its result depends on it.
    fn reads(&self, job: &Job) -> Result<Json, Failure> {
        let user_text = |hears: bool| hears.then_some(&*self.facts.user_text);
        match &job.work {
            Work::Node(node) => {
                let asks = match node.asks(&Reading { state: self.state, scope: &self.scope })? {
                    Some(asks) => asks,
                    None => self.all(),
                };
                Ok(json!([asks, user_text(job.tools.values().any(|tool| is_graph(tool)))]))
            }
            Work::Tool(tool, with) => Ok(json!([self.given(with)?, user_text(is_graph(tool))])),
            // The graphs of a run all read what the user said last.
            Work::Graph(call) => Ok(json!([self.given(&call.with)?, user_text(true)])),
            Work::Map(each) => self.items(each),
            Work::Ask(_) => Ok(Json::Null),
        }
    }

    fn given(&self, with: &IndexMap<String, ExprTree>) -> Result<Json, Failure> {
        with.iter().map(|(name, tree)| Ok((name.clone(), tree.eval(&self.scope)?))).collect()
    }

    /// Returns what a job reads for all items together.
    fn items(&self, each: &Each) -> Result<Json, Failure> {
        let list = match each.over.eval(&self.scope)? {
            Json::Array(list) if list.len() <= MAX_ITEMS => list,
            // Whoever works on it says what is wrong.
            _ => return Ok(Json::Null),
        };
        let item = |(index, item): (usize, Json)| {
            let locals = locals(each, Arc::new(item), index as u64);
            let scope = locals
                .iter()
                .fold(self.scope.clone(), |scope, (name, value)| scope.json(name, Arc::clone(value)));
            View { locals, scope, ..*self }.reads(&each.job)
        };
        list.into_iter().enumerate().map(item).collect()
    }

    fn all(&self) -> Json {
        let locals: Vec<(&String, &Json)> =
            self.locals.iter().map(|(name, value)| (name, &**value)).collect();
        let error = self.error.map(Caught::to_json);
        json!([sha256_hex(&self.state.encode()), self.input, locals, error, &*self.facts.user_text])
    }
}

fn is_graph(tool: &ToolPlan) -> bool {
    matches!(tool.body, ToolBody::Graph(_))
}
