//! Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, Ollama, llama.cpp, OpenRouter and others.

mod answer;
mod calls;
mod wire;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};

use self::answer::Completion;
use self::wire::Body;
use super::http::{Endpoint, below};
use super::names::own_names;
use super::sse::Answer;
use super::timed::Clock;
use super::{ChatModel, Chunk, ModelError, Request};
use crate::egress::header::AUTHORIZATION;
use crate::egress::{self, Secret};
use crate::trace::Provider;

/// A model of an OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct OpenAi {
    endpoint: Endpoint,
    provider: Provider,
    /// Answers are held to a schema by the provider; else a model is made to answer by the call of a tool.
    schemas: bool,
    official: bool,
}

impl OpenAi {
    /// Where OpenAI itself listens.
    pub const URL: &str = "https://api.openai.com/v1";

    /// Prepares calls of `POST {base_url}/chat/completions`; a query of `base_url` is kept.
    ///
    /// The operator writes `base_url` in `project.yaml`, so its host and port are always allowed, be they
    /// private or not. Never pass one that a graph or a user chose.
    pub fn new(
        client: &egress::Client,
        base_url: &str,
        model: String,
        key: Option<Secret>,
        schemas: bool,
    ) -> Result<Self, egress::Error> {
        let url = below(base_url, &["chat", "completions"])?;
        let endpoint = Endpoint::new(client, url, key)?.key_in(AUTHORIZATION, "Bearer ")?;
        let official = base_url.trim_end_matches('/') == Self::URL;
        let provider = endpoint.provider("openai", model)?;
        Ok(Self { endpoint, provider, schemas, official })
    }
}

#[async_trait]
impl ChatModel for OpenAi {
    fn provider(&self) -> Option<&Provider> {
        Some(&self.provider)
    }

    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let clock = Clock::start(request.timeouts);
        let body = Body {
            model: &self.provider.model,
            turns: &request.turns,
            params: &request.params,
            tools: &request.tools,
            output: request.output.as_deref(),
            forced: !self.schemas,
            official: self.official,
        };
        let events = self.endpoint.open(&request, &body, &clock).await?;
        let forced = request.output.as_ref().filter(|_| !self.schemas).map(|output| output.name.clone());
        let (key, seed) = (self.endpoint.key.clone(), &request.idempotency_key);
        let answer = Completion::new(&self.provider.model, key, seed, forced);
        Ok(own_names(clock.watch(Answer::new(events, answer)).boxed(), &request.tools))
    }
}

#[cfg(test)]
mod tests;
