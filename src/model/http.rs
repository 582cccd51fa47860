//! Calls a provider over HTTP: headers, refusals and waits. What is said is the matter of each protocol.
//!
//! Invariant: neither the key nor the conversation appears in an error.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::timed::Clock;
use super::wire::ErrorBody;
use super::{Kind, ModelError, Request};
use crate::egress::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use crate::egress::{self, ERROR_BODY_LIMIT, Secret, Target, Url, header_value};
use crate::trace::{self, Provider};

/// The longest wait that a provider may ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How long the reason of a refusal is awaited.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(2);
/// The most characters of a provider's own words in an error.
const QUOTE: usize = 200;

/// Where a model is called, and with which key.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    client: egress::Client,
    pub(super) url: Url,
    /// Headers of every call; that of the key is marked, so that it is never printed.
    headers: HeaderMap,
    pub(super) key: Option<Secret>,
}

impl Endpoint {
    /// Prepares calls of a URL. The operator writes it in `project.yaml`, so its host and port are always allowed, be
    /// they private or not. Never pass one that a graph or a user chose.
    pub(super) fn new(client: &egress::Client, url: Url, key: Option<Secret>) -> Result<Self, egress::Error> {
        let client = client.allowing(Target::of(&url)?);
        Ok(Self { client, url, headers: HeaderMap::new(), key })
    }

    /// Sends a header with every call.
    pub(super) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// Sends the key in a header, behind a prefix.
    pub(super) fn key_in(mut self, name: HeaderName, prefix: &str) -> Result<Self, egress::Error> {
        if let Some(key) = &self.key {
            let mut value = header_value(name.as_str(), &format!("{prefix}{}", key.expose()))?;
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        Ok(self)
    }

    /// Says who answers here.
    pub(super) fn provider(&self, name: &'static str, model: String) -> Result<Provider, egress::Error> {
        Ok(Provider { name, model, target: Target::of(&self.url)? })
    }

    fn headers(&self, request: &Request) -> Result<HeaderMap, egress::Error> {
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert("idempotency-key", header_value("Idempotency-Key", &request.idempotency_key)?);
        headers.insert("x-attempt", HeaderValue::from(request.attempt));
        trace::inject(&mut headers);
        Ok(headers)
    }

    /// Sends a body, and returns the events of the answer as they come.
    pub(super) async fn open(
        &self,
        request: &Request,
        body: &impl Serialize,
        clock: &Clock,
    ) -> Result<egress::Body, ModelError> {
        let headers = self.headers(request).map_err(|error| connection(&error))?;
        let body = serde_json::to_vec(body)
            .map_err(|_| ModelError::new(Kind::Schema, "the request cannot be written as JSON"))?;
        let sent = clock.before_first(self.client.post_json(&self.url, headers, body)).await?;
        let response = sent.map_err(|error| connection(&error))?;
        // Servers forget the type of a stream, but what says that it is something else is something else.
        let kind = response.header(&CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        if response.status() != 200 || kind.starts_with("application/json") || kind.starts_with("text/html") {
            return Err(clock.before_first(self.refused(response)).await?);
        }
        Ok(response.into_body())
    }

    /// Explains an answer that is no stream.
    async fn refused(&self, response: egress::Response) -> ModelError {
        let status = response.status();
        let wait = response.header(&RETRY_AFTER).and_then(|text| retry_after(text, Utc::now()));
        let body = tokio::time::timeout(ERROR_BODY_WAIT, response.read_start(ERROR_BODY_LIMIT)).await;
        let body: ErrorBody = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let said = quote(body.failure().unwrap_or_default(), self.key.as_ref());
        let kind = match status {
            // An error in the disguise of a success.
            200..300 if body.failure().is_some() => Kind::ServerError,
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

/// Returns the URL of an endpoint below a base; a query of the base is kept.
pub(super) fn below(base: &str, path: &[&str]) -> Result<Url, egress::Error> {
    let mut url = egress::parse_url(base)?;
    url.set_fragment(None);
    url.path_segments_mut().map_err(|()| egress::Error::Url)?.pop_if_empty().extend(path);
    Ok(url)
}

/// Reads `Retry-After`: seconds or an HTTP date.
pub(super) fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Makes a provider's words fit for a log: short, on one line, without the key.
pub(super) fn quote(message: &str, key: Option<&Secret>) -> String {
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
pub(super) fn connection(error: &egress::Error) -> ModelError {
    let kind = match error {
        egress::Error::Header { .. } | egress::Error::Unrecorded => Kind::Schema,
        _ => Kind::Connection,
    };
    ModelError::new(kind, error.to_string())
}
