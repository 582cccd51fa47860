//! The model of `provider: scripted`: it says what project.yaml writes, by what was said last.
//!
//! Invariant: the same conversation gets the same answer, on every replica.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::demo::text;
use super::scripted::{Entry, Scripted};
use super::{ChatModel, Chunk, Kind, ModelError, Request, Role, Turn};

/// What is said to texts that have another one in them, or to all.
#[derive(Debug)]
pub(crate) struct Lines(Vec<(Option<String>, Entry)>);

impl Lines {
    /// Takes the lines; the first that fits is said.
    pub(crate) fn new(lines: impl Iterator<Item = (Option<String>, Entry)>) -> Self {
        Self(lines.map(|(contains, entry)| (contains.map(|text| text.to_lowercase()), entry)).collect())
    }
}

#[async_trait]
impl ChatModel for Lines {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let asks = |turn: &&Turn| matches!(turn.role, Role::User | Role::Tool);
        let last = request.turns.iter().rev().find(asks).map(text).unwrap_or_default().to_lowercase();
        let fits = |contains: &Option<String>| contains.as_ref().is_none_or(|part| last.contains(part));
        let Some((_, entry)) = self.0.iter().find(|(contains, _)| fits(contains)) else {
            let message = "no line of the model's `script` fits what was said last";
            return Err(ModelError::new(Kind::Schema, message));
        };
        // The place in the conversation makes the ids of its calls different from those of other turns.
        let entry = entry.clone().at(request.turns.len());
        Scripted::always(entry).stream(request).await
    }
}
