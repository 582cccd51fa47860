//! Requests: of `http` nodes, and of tools that are one.
//!
//! Invariant: where a request goes was checked before it is rendered; what a run fills in can change its path, its query
//! and its body, never its host.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use indexmap::IndexMap;
use serde_json::{Value as Json, json};
use tracing::{Instrument, Span};

use super::{Call, Tool};
use crate::egress::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use crate::egress::{self, Method, Secret, Target, Url, header_value};
use crate::expr::Scope;
use crate::failure::{ErrorKind, Failure};
use crate::state::Type;
use crate::template::Templates;
use crate::trace;

/// The largest body of a response that is read.
const MAX_BODY: usize = 1024 * 1024;
/// The longest wait that another side may ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The headers; those with secrets are marked sensitive.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<String>,
    /// How long the response may be silent.
    pub waits: Waits,
}

/// How long a response may be silent, where that is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// Until its head is there.
    pub first: Option<Duration>,
    /// Between two parts of its body.
    pub idle: Option<Duration>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, by their names in small letters.
    pub headers: IndexMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Sends requests: to the world, or to a script in its place.
#[async_trait]
pub trait Caller: Send + Sync + std::fmt::Debug + 'static {
    /// Sends one request. `from` is the node, or `node/tool`; dropping the future closes the connection.
    async fn send(&self, from: &str, request: Request) -> Result<Response, Failure>;
}

#[async_trait]
impl Caller for egress::Client {
    async fn send(&self, _from: &str, request: Request) -> Result<Response, Failure> {
        let span = trace::request(request.method.as_str(), Target::of(&request.url).ok().as_ref());
        let sent = send(self, request, &span).instrument(span.clone()).await;
        if let Err(failure) = &sent {
            trace::failed(&span, &failure.code);
        }
        sent
    }
}

async fn send(client: &egress::Client, request: Request, span: &Span) -> Result<Response, Failure> {
    let Request { method, url, mut headers, body, waits } = request;
    trace::inject(&mut headers);
    let body = body.unwrap_or_default().into_bytes();
    let answer = within(waits.first, "no response within", client.send(method, &url, headers, body)).await?;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    trace::answered(span, status);
    let headers = answer.headers();
    let mut read = Vec::new();
    let mut pieces = answer.into_body();
    while let Some(piece) = within(waits.idle, "the response was silent for", pieces.next()).await? {
        read.extend_from_slice(&piece.map_err(|error| failed(&error))?);
        if read.len() > MAX_BODY {
            let message = "the body of the response is larger than 1 MiB";
            return Err(Failure::new(ErrorKind::Schema, message));
        }
    }
    Ok(Response { status, headers, body: read })
}

/// Waits for something no longer than it may take.
async fn within<T>(limit: Option<Duration>, what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    let Some(limit) = limit else { return Ok(work.await) };
    let late = |_| Failure::new(ErrorKind::Timeout, format!("{what} {} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, work).await.map_err(late)
}

pub(super) fn failed(error: &egress::Error) -> Failure {
    let kind = match error {
        egress::Error::Connect { .. } | egress::Error::Broken(_) | egress::Error::Cut => {
            ErrorKind::Connection
        }
        _ => ErrorKind::Schema,
    };
    Failure { undone: error.is_unsent(), ..Failure::new(kind, error.to_string()) }
}

/// The value of a header.
#[derive(Debug, Clone)]
pub enum Header {
    /// The name of a template.
    Text(String),
    /// A secret; nothing where it is missing and nobody calls.
    Secret(Option<Secret>),
}

/// How a request is signed in.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer(Option<Secret>),
    /// `Authorization: Basic`, with the template of the user.
    Basic(String, Option<Secret>),
    /// A header.
    Header(HeaderName, Option<Secret>),
}

/// A declared request.
#[derive(Debug, Clone)]
pub struct Http {
    /// Who sends it.
    pub caller: Arc<dyn Caller>,
    /// The project's templates.
    pub templates: Templates,
    /// The method.
    pub method: Method,
    /// The template of the address.
    pub url: String,
    /// The headers.
    pub headers: Vec<(HeaderName, Header)>,
    /// The template of the body.
    pub body: Option<String>,
    /// How it is signed in.
    pub auth: Option<Auth>,
    /// What `env` is in its templates.
    pub env: Arc<Json>,
    /// The type of the response's body.
    pub response: Type,
    /// How long the response may be silent.
    pub waits: Waits,
}

impl Http {
    /// Renders and sends the request; gives `{status, headers, body}`. A status from 300 up is a failure: a
    /// redirect leads where nobody has looked whether requests may go.
    pub async fn call(&self, from: &str, scope: Scope, key: &str, attempt: u32) -> Result<Json, Failure> {
        let request = self.render(&scope.json("env", Arc::clone(&self.env)), key, attempt)?;
        let response = self.caller.send(from, request).await?;
        if response.status >= 300 {
            return Err(refused(&response));
        }
        let body = self.read(&response)?;
        Ok(json!({"status": response.status, "headers": response.headers, "body": body}))
    }

    /// Returns what a run fills in of the request, by which it can be told from others.
    pub fn told(&self, scope: Scope) -> Result<Json, Failure> {
        let scope = scope.json("env", Arc::clone(&self.env));
        let text = |template: &String| self.templates.render(template, &scope);
        let mut told = vec![text(&self.url)?];
        for (_, value) in &self.headers {
            if let Header::Text(template) = value {
                told.push(text(template)?);
            }
        }
        if let Some(Auth::Basic(user, _)) = &self.auth {
            told.push(text(user)?);
        }
        told.extend(self.body.as_ref().map(text).transpose()?);
        Ok(told.into())
    }

    /// Renders where it goes and its headers, of settings alone.
    pub fn fixed(&self) -> Result<(Url, HeaderMap), Failure> {
        self.head(&Scope::new().json("env", Arc::clone(&self.env)))
    }

    fn head(&self, scope: &Scope) -> Result<(Url, HeaderMap), Failure> {
        let text = |template: &String| self.templates.render(template, scope);
        let url = egress::parse_url(text(&self.url)?.trim()).map_err(|error| failed(&error))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let value = match value {
                Header::Text(template) => Some(plain(name, &text(template)?)?),
                Header::Secret(secret) => secret_value(name, "", secret.as_ref())?,
            };
            headers.extend(value.map(|value| (name.clone(), value)));
        }
        match &self.auth {
            None => {}
            Some(Auth::Bearer(secret)) => {
                let value = secret_value(&AUTHORIZATION, "Bearer ", secret.as_ref())?;
                headers.extend(value.map(|value| (AUTHORIZATION, value)));
            }
            Some(Auth::Basic(user, secret)) => {
                let password = secret.as_ref().map(Secret::expose).unwrap_or_default();
                let pair = Secret::new(egress::base64(format!("{}:{password}", text(user)?).as_bytes()));
                let value = secret_value(&AUTHORIZATION, "Basic ", secret.as_ref().map(|_| &pair))?;
                headers.extend(value.map(|value| (AUTHORIZATION, value)));
            }
            Some(Auth::Header(name, secret)) => {
                let value = secret_value(name, "", secret.as_ref())?;
                headers.extend(value.map(|value| (name.clone(), value)));
            }
        }
        Ok((url, headers))
    }

    fn render(&self, scope: &Scope, key: &str, attempt: u32) -> Result<Request, Failure> {
        let (url, mut headers) = self.head(scope)?;
        if self.method != Method::GET && self.method != Method::HEAD {
            let name = HeaderName::from_static("idempotency-key");
            let value = plain(&name, key)?;
            headers.entry(name).or_insert(value);
        }
        headers.insert(HeaderName::from_static("x-attempt"), HeaderValue::from(attempt));
        let body = self.body.as_ref().map(|body| self.templates.render(body, scope)).transpose()?;
        if let Some(body) = &body
            && !headers.contains_key(CONTENT_TYPE)
        {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
            let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Ok(Request { method: self.method.clone(), url, headers, body, waits: self.waits })
    }

    /// Reads a body: JSON where the response says so, or where its type is none of a text; else a text.
    fn read(&self, response: &Response) -> Result<Json, Failure> {
        let kind = response.headers.get("content-type").map(String::as_str).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let says_json = kind == "application/json" || kind.ends_with("+json");
        let is_text = matches!(self.response.non_null(), Type::String { .. } | Type::Enum(_));
        let is_any = matches!(self.response.non_null(), Type::Any);
        let mut body = if response.body.is_empty() {
            if is_text { Json::String(String::new()) } else { Json::Null }
        } else if says_json || !(is_text || is_any) {
            serde_json::from_slice(&response.body).map_err(|error| {
                Failure::new(ErrorKind::Schema, format!("the response is not JSON ({error})"))
            })?
        } else {
            Json::String(String::from_utf8_lossy(&response.body).into_owned())
        };
        if is_any {
            return Ok(body);
        }
        self.response
            .check(&body)
            .map_err(|why| Failure::new(ErrorKind::Schema, format!("the response does not fit: {why}")))?;
        self.response.fill(&mut body);
        Ok(body)
    }
}

fn plain(name: &HeaderName, value: &str) -> Result<HeaderValue, Failure> {
    header_value(name.as_str(), value).map_err(|error| failed(&error))
}

/// Builds a header with a secret; the HTTP stack never prints nor indexes it. A secret that is missing is left out: a
/// service does not start without it, and a script does not ask for it.
fn secret_value(
    name: &HeaderName,
    before: &str,
    secret: Option<&Secret>,
) -> Result<Option<HeaderValue>, Failure> {
    let Some(secret) = secret else { return Ok(None) };
    let mut value = plain(name, &format!("{before}{}", secret.expose()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Explains a status that is a failure.
fn refused(response: &Response) -> Failure {
    let kind = match response.status {
        408 => ErrorKind::Timeout,
        status => ErrorKind::Http(status),
    };
    let asked = response.headers.get("retry-after").and_then(|text| retry_after(text, Utc::now()));
    let mut message = format!("the other side answered {}", response.status);
    if let (300..400, Some(to)) = (response.status, response.headers.get("location")) {
        let host = Url::parse(to).ok().and_then(|url| url.host_str().map(str::to_owned));
        message += &host.map_or_else(
            || ": it redirects, which is not followed".to_owned(),
            |host| format!(": it redirects to {host}, which is not followed"),
        );
    }
    Failure { retry_after: asked, ..Failure::new(kind, message) }
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

/// A tool that is a request.
#[derive(Debug)]
pub struct HttpTool(pub Http);

#[async_trait]
impl Tool for HttpTool {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        let scope = Scope::new().json("args", Arc::clone(&call.args));
        let answer = self.0.call(&call.caller, scope, &call.idempotency_key, call.attempt).await?;
        Ok(match answer {
            Json::Object(mut answer) => answer.remove("body").unwrap_or(Json::Null),
            other => other,
        })
    }
}
