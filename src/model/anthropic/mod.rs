//! Anthropic's Messages API, and servers that speak it.

mod answer;
mod wire;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};

use self::answer::Message;
use self::wire::Body;
use super::http::{Endpoint, below};
use super::names::own_names;
use super::sse::Answer;
use super::timed::Clock;
use super::{ChatModel, Chunk, ModelError, Request};
use crate::egress::header::HeaderName;
use crate::egress::{self, Secret};
use crate::trace::Provider;

/// The version of the protocol that is spoken here.
const VERSION: &str = "2023-06-01";

/// A model of Anthropic.
#[derive(Debug, Clone)]
pub struct Anthropic {
    endpoint: Endpoint,
    provider: Provider,
    /// It answers by a schema itself; else it is made to call a tool with the schema's arguments.
    schemas: bool,
}

impl Anthropic {
    /// Where Anthropic itself listens.
    pub const URL: &str = "https://api.anthropic.com/v1";

    /// What `reasoning_effort` can be; `none` turns thinking off.
    pub const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

    /// Prepares calls of `POST {base_url}/messages`. Where `base_url` does not end in `/v1`, that is added, since some
    /// write it with the version and some without.
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
        let base = below(base_url, &[])?;
        let versioned = base.path().trim_end_matches('/').ends_with("/v1");
        let url = below(base_url, if versioned { &["messages"] } else { &["v1", "messages"] })?;
        let endpoint = Endpoint::new(client, url, key)?
            .header(HeaderName::from_static("anthropic-version"), VERSION)
            .key_in(HeaderName::from_static("x-api-key"), "")?;
        let provider = endpoint.provider("anthropic", model)?;
        Ok(Self { endpoint, provider, schemas })
    }
}

#[async_trait]
impl ChatModel for Anthropic {
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
            schemas: self.schemas,
        };
        let events = self.endpoint.open(&request, &body, &clock).await?;
        let forced = request.output.as_ref().filter(|_| !self.schemas).map(|output| output.name.clone());
        let answer =
            Message::new(&self.provider.model, self.endpoint.key.clone(), &request.idempotency_key, forced);
        Ok(own_names(clock.watch(Answer::new(events, answer)).boxed(), &request.tools))
    }
}

#[cfg(test)]
mod tests;
