//! The model that stands in for all models: it plays the script of the turn that is on.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::model::scripted::{Entry, Scripted};
use crate::model::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::spec::ScriptSpec;

/// Stands in for all models of a project. Clones are one stage.
#[derive(Debug, Clone)]
pub struct Stage(Arc<ArcSwap<Scripted>>);

impl Default for Stage {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(scripted(&[]))))
    }
}

impl Stage {
    /// Puts the script of a turn on, and returns it, to be asked what came of it.
    pub(super) fn put_on(&self, script: &[ScriptSpec]) -> Scripted {
        let scripted = scripted(script);
        self.0.store(Arc::new(scripted.clone()));
        scripted
    }
}

fn scripted(script: &[ScriptSpec]) -> Scripted {
    Scripted::new(script.iter().map(|script| {
        let entries = script.entries.iter().map(|spec| {
            // The check knows all names of kinds; what it does not know is no kind.
            let kind = spec.error.as_ref().map(|kind| Kind::named(&kind.value).unwrap_or(Kind::Schema));
            let entry = match kind {
                Some(kind) => Entry::error(kind),
                None => Entry::chunks(words(spec.text.as_deref().unwrap_or_default())),
            };
            entry.after(spec.after.unwrap_or_default())
        });
        (script.node.value.clone(), entries.collect())
    }))
}

/// Cuts an answer into words, as a model sends it.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

#[async_trait]
impl ChatModel for Stage {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        self.0.load_full().stream(request).await
    }
}
