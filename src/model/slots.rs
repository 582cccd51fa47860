//! How many calls of models are under way at once: in all, and to each provider.
//!
//! Invariant: what comes on top waits in order, without its own clock running, and one that waits for its provider holds
//! nobody else up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::trace::Provider;

/// The calls that may be under way. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    each: Option<usize>,
    /// Those of each provider, by its address.
    providers: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Slots {
    /// Makes so many, and so many for each provider.
    pub fn new(all: usize, each: Option<usize>) -> Self {
        let permits = |most: usize| most.clamp(1, Semaphore::MAX_PERMITS);
        let all = Arc::new(Semaphore::new(permits(all)));
        Self(Arc::new(Inner { all, each: each.map(permits), providers: Mutex::default() }))
    }

    /// Lets a model at this address take one for each call.
    pub fn around(&self, url: &str, model: impl ChatModel) -> impl ChatModel {
        let own = self.0.each.map(|each| {
            let mut providers = self.0.providers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(providers.entry(url.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(each))))
        });
        Limited { model, own, all: Arc::clone(&self.0.all) }
    }
}

#[derive(Debug)]
struct Limited<M> {
    model: M,
    own: Option<Arc<Semaphore>>,
    all: Arc<Semaphore>,
}

/// Counts what waits, or what is under way, for as long as it lives.
struct Counted(&'static str);

impl Counted {
    fn new(state: &'static str) -> Self {
        metrics::gauge!("graphloom_model_calls", "state" => state).increment(1.0);
        Self(state)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("graphloom_model_calls", "state" => self.0).decrement(1.0);
    }
}

async fn one(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ModelError> {
    // Nobody closes it.
    Arc::clone(of).acquire_owned().await.map_err(|error| ModelError::new(Kind::Connection, error.to_string()))
}

#[async_trait]
impl<M: ChatModel> ChatModel for Limited<M> {
    fn provider(&self) -> Option<&Provider> {
        self.model.provider()
    }

    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let waits = Counted::new("waiting");
        let own = match &self.own {
            Some(own) => Some(one(own).await?),
            None => None,
        };
        let held = (one(&self.all).await?, own, Counted::new("active"));
        drop(waits);
        let chunks = self.model.stream(request).await?;
        // It is held until the stream is dropped, which whoever reads it does at its end.
        let chunks = chunks.map(move |chunk| {
            let _held = &held;
            chunk
        });
        Ok(chunks.boxed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scripted::{Entry, Gate, Scripted};
    use super::super::testing::request;
    use super::*;

    /// Returns how many of six calls, three to each of two providers, reach the models at once.
    async fn at_once(all: usize, each: Option<usize>) -> [usize; 2] {
        let (gate, slots) = (Gate::new(), Slots::new(all, each));
        let models = ["https://one.test", "https://two.test"].map(|url| {
            let model = Scripted::always(Entry::text("yes").gated(&gate));
            (model.clone(), Arc::new(slots.around(url, model)))
        });
        let calls: Vec<_> = models
            .iter()
            .flat_map(|(_, limited)| [limited; 3])
            .map(|limited| {
                let limited = Arc::clone(limited);
                async move { limited.stream(request()).await.unwrap().count().await }
            })
            .collect();
        let mut calls = std::pin::pin!(futures_util::future::join_all(calls));
        let soon = tokio::time::timeout(Duration::from_millis(50), &mut calls);
        soon.await.expect_err("the gate is closed");
        let begun = models.each_ref().map(|(model, _)| model.requests().len());
        gate.open(6);
        assert!(calls.await.iter().all(|chunks| *chunks > 0));
        assert_eq!(models.map(|(model, _)| model.requests().len()), [3, 3], "who waits is served");
        begun
    }

    #[tokio::test]
    async fn what_comes_on_top_waits_and_a_busy_provider_holds_no_other_up() {
        assert_eq!(at_once(100, None).await, [3, 3]);
        assert_eq!(at_once(4, None).await, [3, 1]);
        assert_eq!(at_once(100, Some(2)).await, [2, 2]);
        assert_eq!(at_once(3, Some(2)).await, [2, 1]);
        assert_eq!(at_once(0, None).await, [1, 0], "none would be for ever");
    }
}
