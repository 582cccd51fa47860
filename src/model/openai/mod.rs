//! Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, Ollama, llama.cpp, OpenRouter and others.
//!
//! Invariant: neither the key nor the conversation appears in an error.

mod answer;
mod calls;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::{BoxStream, StreamExt};

use self::answer::Answer;
use self::wire::{Body, Event};
use super::timed::Clock;
use super::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::egress::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use crate::egress::{self, ERROR_BODY_LIMIT, Secret, Target, Url, header_value};

/// The longest wait that a provider may ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How long the reason of a refusal is awaited.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(2);
/// The most characters of a provider's own words in an error.
const QUOTE: usize = 200;

/// A model of an OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct OpenAi {
    client: egress::Client,
    url: Url,
    model: String,
    authorization: Option<HeaderValue>,
    key: Option<Secret>,
}

impl OpenAi {
    /// Prepares calls of `POST {base_url}/chat/completions`; a query of `base_url` is kept.
    ///
    /// The operator writes `base_url` in `project.yaml`, so its host and port are always allowed, be they
    /// private or not. Never pass one that a graph or a user chose.
    pub fn new(
        client: &egress::Client,
        base_url: &str,
        model: String,
        key: Option<Secret>,
    ) -> Result<Self, egress::Error> {
        let mut url = egress::parse_url(base_url)?;
        url.set_fragment(None);
        url.path_segments_mut()
            .map_err(|()| egress::Error::Url)?
            .pop_if_empty()
            .extend(["chat", "completions"]);
        let client = client.allowing(Target::of(&url)?);
        let authorization = key.as_ref().map(bearer).transpose()?;
        Ok(Self { client, url, model, authorization, key })
    }

    fn headers(&self, request: &Request) -> Result<HeaderMap, egress::Error> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert("idempotency-key", header_value("Idempotency-Key", &request.idempotency_key)?);
        headers.insert("x-attempt", HeaderValue::from(request.attempt));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(headers)
    }

    /// Explains an answer that is no stream.
    async fn refused(&self, response: egress::Response) -> ModelError {
        let status = response.status();
        let wait = response.header(&RETRY_AFTER).and_then(|text| retry_after(text, Utc::now()));
        let body = tokio::time::timeout(ERROR_BODY_WAIT, response.read_start(ERROR_BODY_LIMIT)).await;
        let event: Event = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let said = quote(event.failure().unwrap_or_default(), self.key.as_ref());
        let kind = match status {
            408 => Kind::Timeout,
            429 => Kind::RateLimit,
            500.. => Kind::ServerError,
            // An error in the disguise of a success.
            200..300 if event.failure().is_some() => Kind::ServerError,
            200..300 => Kind::Schema,
            other => Kind::Http(other),
        };
        let message = match kind {
            Kind::Schema => "the provider's answer is no event stream".to_owned(),
            _ if said.is_empty() => format!("the provider answered {status}"),
            _ => format!("the provider answered {status}: {said}"),
        };
        ModelError { retry_after: wait, ..ModelError::new(kind, message) }
    }
}

/// Builds the header that carries the key; the HTTP stack never prints nor indexes it.
fn bearer(key: &Secret) -> Result<HeaderValue, egress::Error> {
    let mut value = header_value("Authorization", &format!("Bearer {}", key.expose()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads `Retry-After`: seconds or an HTTP date.
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Makes a provider's words fit for a log: short, on one line, without the key.
fn quote(message: &str, key: Option<&Secret>) -> String {
    let hidden = match key.map(Secret::expose).filter(|key| !key.is_empty()) {
        Some(key) => message.replace(key, "***"),
        None => message.to_owned(),
    };
    let mut quoted = String::new();
    for c in hidden.chars().take(QUOTE) {
        // Besides controls, these reorder or break a line.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            quoted.extend(c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    quoted
}

/// Turns a failed call into an error of the model.
fn connection(error: &egress::Error) -> ModelError {
    let kind = match error {
        egress::Error::Header { .. } => Kind::Schema,
        _ => Kind::Connection,
    };
    ModelError::new(kind, error.to_string())
}

#[async_trait]
impl ChatModel for OpenAi {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let clock = Clock::start(request.timeouts);
        let headers = self.headers(&request).map_err(|error| connection(&error))?;
        let body = Body {
            model: &self.model,
            turns: &request.turns,
            params: &request.params,
            tools: &request.tools,
            output: request.output.as_deref(),
        };
        let body = serde_json::to_vec(&body)
            .map_err(|_| ModelError::new(Kind::Schema, "the request cannot be written as JSON"))?;
        let sent = clock.before_first(self.client.post_json(&self.url, headers, body)).await?;
        let response = sent.map_err(|error| connection(&error))?;
        // Servers forget the type of a stream, but what says that it is something else is something else.
        let kind = response.header(&CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        if response.status() != 200 || kind.starts_with("application/json") || kind.starts_with("text/html") {
            return Err(clock.before_first(self.refused(response)).await?);
        }
        Ok(clock.watch(Answer::new(response.into_body(), self.key.clone())).boxed())
    }
}

#[cfg(test)]
mod tests;
