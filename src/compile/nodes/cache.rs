//! `cache`: which results can be kept, and what they are found by.
//!
//! Invariant: a result is kept only where nobody misses anything when the work is left out.

use super::draft::CacheDraft;
use super::{Scene, Step};
use crate::compile::calls::within;
use crate::compile::tools::effects_of;
use crate::diagnostic::{Bag, Diagnostic};
use crate::plan::Effects;
use crate::spec::{CacheSpec, KindSpec};

impl Scene<'_> {
    /// Checks `cache` of a node, or of the body of a `map`. Nothing: something is wrong with it.
    pub(super) fn cache(
        &self,
        step: &Step<'_>,
        cache: &CacheSpec,
        body: &KindSpec,
        bag: &mut Bag,
    ) -> Option<CacheDraft> {
        let key = cache.key.as_ref().map(|key| self.names.tree(key, bag));
        if let Some((label, help)) = self.misses(step, body).filter(|_| !bag.is_trusting()) {
            let message = format!("the result of `{}` cannot be kept", step.name.value);
            bag.report(Diagnostic::error("M518", message, cache.at, label).help(help));
            return None;
        }
        let key = match key {
            None => None,
            Some(key) => Some(key?),
        };
        Some(CacheDraft { ttl: cache.ttl?, key })
    }

    /// Says what would be missed when the work was left out, and what to do.
    fn misses(&self, step: &Step<'_>, body: &KindSpec) -> Option<(String, &'static str)> {
        const REMOVE: &str = "remove `cache`";
        let what = match body {
            KindSpec::Say { .. } => Some("what it says is for the user"),
            KindSpec::Ask(_) => Some("a person is asked each time"),
            KindSpec::Set { .. } | KindSpec::Route | KindSpec::Fail { .. } => Some("it has no result"),
            _ => None,
        };
        if let Some(what) = what {
            return Some((what.to_owned(), REMOVE));
        }
        let within = within(body, &self.shared.folder.graphs, self.shared.project);
        let replies = |body: &&KindSpec| match body {
            KindSpec::Say { .. } => true,
            KindSpec::Llm(llm) => llm.reply.as_ref().is_some_and(|reply| reply.value),
            _ => false,
        };
        if within.bodies.iter().any(replies) {
            let help = "keep the answer with `into`, and let a `say` node after it say it";
            return Some(("it replies to the user, who would hear nothing".to_owned(), help));
        }
        let asks = within.bodies.iter().any(|body| matches!(body, KindSpec::Ask(_)));
        if asks || within.tools.iter().any(|tool| tool.approval) {
            return Some(("it asks a person, who would not be asked".to_owned(), REMOVE));
        }
        if let KindSpec::Graph(node) = body
            && node.scope.as_ref().is_some_and(|scope| scope.value == "thread")
        {
            let help = "leave `scope` out, or remove `cache`";
            return Some(("its graph goes on from call to call".to_owned(), help));
        }
        let word = match self.strongest(step, body) {
            Effects::None => return None,
            Effects::Idempotent => "idempotent",
            Effects::AtMostOnce => "at_most_once",
        };
        let help = "remove `cache`; where it only reads, write  effects: none";
        Some((format!("its effects are `{word}`, and would be left out"), help))
    }

    /// Returns the strongest effects of a node with all that it calls. What it declares stands for all of it.
    fn strongest(&self, step: &Step<'_>, body: &KindSpec) -> Effects {
        if let Some(effects) = step.effects {
            return effects_of(effects.value);
        }
        let llm = match body {
            KindSpec::Llm(llm) => llm,
            KindSpec::Map(map) => match &map.body {
                Some(inner) if inner.effects.is_none() => match &inner.body {
                    KindSpec::Llm(llm) => llm,
                    _ => return self.effects(body),
                },
                _ => return self.effects(body),
            },
            _ => return self.effects(body),
        };
        let tools = llm.tools.iter().filter_map(|name| self.shared.tools.known.get(&name.value));
        tools.map(|tool| tool.reach.effects).max().unwrap_or(Effects::None)
    }
}
