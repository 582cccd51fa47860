//! The front door: what every request passes, and what every response gets.
//!
//! Invariant: nothing under `/v1/` is reached without an identity, and every refusal is a problem.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Addr, Endpoint, Request, Response};
use poem_openapi::OperationId;
use tracing::{Instrument, debug, error, info_span};
use uuid::Uuid;

use super::App;
use super::auth::{Auth, is_loopback_name, one};
use super::param::decode;
use super::problem::{Code, Problem, respond};
use crate::trace;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a page of an allowed origin may read and send.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Run-Id, Location, Content-Location, X-Request-Id, Retry-After, Idempotent-Replayed, Preference-Applied, X-Notice",
);
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, Traceparent, Tracestate, X-API-Key, \
     X-Tenant-Id, X-User-Id",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");

/// An endpoint behind the front door.
pub(super) struct Front<E> {
    inner: E,
    app: Arc<App>,
}

impl<E> Front<E> {
    /// Puts an endpoint behind the front door.
    pub(super) fn new(inner: E, app: Arc<App>) -> Self {
        Self { inner, app }
    }

    /// Lets a request in, and notes whose it is.
    fn admit(&self, request: &mut Request) -> Result<(), Problem> {
        let settings = &self.app.settings;
        if matches!(settings.auth, Auth::None) {
            let host = match one(request.headers(), header::HOST.as_str())? {
                Some(host) => Some(host),
                // HTTP/2 names the host in the URI.
                None => request.uri().authority().map(poem::http::uri::Authority::as_str),
            };
            if !host.is_some_and(is_loopback_name) {
                let detail = "without authentication only `localhost` and loopback addresses are served";
                return Err(Problem::new(Code::ForbiddenHost, detail));
            }
        }
        let path = request.uri().path();
        let closed = match path {
            "/metrics" => !settings.open_metrics,
            "/openapi.json" | "/openapi-3.2.json" => !settings.docs,
            path => path.starts_with("/v1/"),
        };
        if closed {
            let identity = settings.auth.identify(peer(request), request.headers())?;
            request.set_data(identity);
        }
        decode(request.uri().path(), false)?;
        decode(request.uri().query().unwrap_or_default(), true)?;
        request.set_data(self.app.clone());
        Ok(())
    }

    /// Returns the origin of a page that may read the answer.
    fn origin(&self, request: &Request) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let listed =
            self.app.settings.cors_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes());
        listed.then(|| origin.clone())
    }
}

/// Returns the address that a request came from.
pub(super) fn peer(request: &Request) -> Option<IpAddr> {
    match &request.remote_addr().0 {
        Addr::SocketAddr(address) => Some(address.ip()),
        _ => None,
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Front<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let began = Instant::now();
        let id = Uuid::now_v7().to_string();
        let origin = self.origin(&request);
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let (mut response, operation) = if let (true, Some(_)) = (asks, &origin) {
            (Response::builder().status(StatusCode::NO_CONTENT).finish(), "preflight")
        } else {
            let span = info_span!("request", request_id = id);
            let asked = trace::asked(request.headers());
            let work = trace::within(asked, async {
                self.admit(&mut request)?;
                self.inner.call(request).await
            });
            AssertUnwindSafe(work).catch_unwind().map(answer).instrument(span).await
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if !self.app.settings.cors_origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            if asks {
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            }
        }
        let status = response.status();
        debug!(request_id = id, operation, status = status.as_u16(), "Request answered.");
        let class = match status.as_u16() {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        metrics::counter!("graphloom_http_requests_total", "operation" => operation, "status" => class)
            .increment(1);
        metrics::histogram!("graphloom_http_response_seconds", "operation" => operation)
            .record(began.elapsed().as_secs_f64());
        Ok(response)
    }
}

/// Makes a response of whatever came, and finds out which operation it was: a name of ours, never a
/// path, so that nobody can invent labels.
fn answer(result: Result<poem::Result<Response>, Box<dyn std::any::Any + Send>>) -> (Response, &'static str) {
    match result {
        Ok(Ok(response)) => {
            let operation = response.data::<OperationId>().map_or("other", |id| id.0);
            (response, operation)
        }
        Ok(Err(refused)) => {
            let operation = refused.data::<OperationId>().map_or("other", |id| id.0);
            (respond(&refused), operation)
        }
        Err(_panic) => {
            error!("A handler panicked.");
            (respond(&Problem::internal().into()), "other")
        }
    }
}

/// The methods of one route.
pub(super) struct Methods {
    methods: Vec<(Method, BoxEndpoint<'static>)>,
    allow: HeaderValue,
}

impl Methods {
    /// Collects the methods of a route; `HEAD` comes with `GET`.
    pub(super) fn new(methods: impl IntoIterator<Item = (Method, BoxEndpoint<'static>)>) -> Self {
        let mut methods: Vec<_> = methods.into_iter().collect();
        methods.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        let mut names: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        let allow = HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static("GET"));
        Self { methods, allow }
    }
}

impl Endpoint for Methods {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let head = request.method() == Method::HEAD;
        if head {
            request.set_method(Method::GET);
        }
        let endpoint = self.methods.iter().find(|(method, _)| method == request.method());
        let Some((_, endpoint)) = endpoint else {
            let detail = "`/openapi.json` describes all routes";
            let problem =
                Problem { allow: Some(self.allow.clone()), ..Problem::new(Code::MethodNotAllowed, detail) };
            return Err(problem.into());
        };
        let mut response = endpoint.call(request).await?;
        if head {
            response.set_body(());
        }
        Ok(response)
    }
}
