//! Errors before the first byte: RFC 9457 problems with a stable code.
//!
//! Invariant: a problem says what the client can change; what only the operator can change is in the log.

use std::fmt;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiResponse, Object};
use tracing::error;

use crate::engine::{AnswerError, StartError};
use crate::id::RunId;
use crate::state::Mismatch;
use crate::store::{Kept, Run, StoreError};

/// The media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code { $($(#[$doc])* $variant),* }

        impl Code {
            /// Every code.
            pub(super) const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the stable name.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Returns the HTTP status.
            pub(super) fn status(self) -> StatusCode {
                let status = match self { $(Self::$variant => $status),* };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// Returns the short text that is the same for every problem of this code.
            pub(super) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }
        }
    };
}

codes! {
    MalformedJson = "malformed_json", 400, "The body is not JSON";
    InvalidRequest = "invalid_request", 400, "The body does not have the right form";
    InvalidParameter = "invalid_parameter", 400, "A parameter does not have the right form";
    InvalidHeader = "invalid_header", 400, "A header does not have the right form";
    InvalidPath = "invalid_path", 400, "The path or the query is not UTF-8";
    InvalidEventId = "invalid_event_id", 400, "That is not an event of this run";
    InvalidIdentity = "invalid_identity", 400, "The tenant or the user is not well-formed";
    NulCharacter = "nul_character", 400, "The request holds the character U+0000";
    Unauthorized = "unauthorized", 401, "Authentication is needed";
    ForbiddenHost = "forbidden_host", 403, "This host name is not served";
    Forbidden = "forbidden", 403, "The caller may not do this";
    RouteNotFound = "route_not_found", 404, "There is no such route";
    GraphNotFound = "graph_not_found", 404, "There is no such graph";
    NotFound = "not_found", 404, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", 405, "The route does not take this method";
    RequestTimeout = "request_timeout", 408, "The body took too long";
    ThreadBusy = "thread_busy", 409, "The thread has a run that is not over";
    ThreadInterrupted = "thread_interrupted", 409, "The thread waits for an answer";
    ThreadExists = "thread_exists", 409, "The session is taken";
    InterruptAnswered = "interrupt_answered", 409, "The question was answered";
    InterruptExpired = "interrupt_expired", 409, "The time to answer is over";
    NothingToResume = "nothing_to_resume", 409, "Nothing waits to go on";
    StateIncompatible = "state_incompatible", 409, "The thread does not fit the graph";
    EventsExpired = "events_expired", 410, "The events of the run are not kept any more";
    PayloadTooLarge = "payload_too_large", 413, "The body is too large";
    UnsupportedMediaType = "unsupported_media_type", 415, "The body has to be `application/json`";
    Unprocessable = "unprocessable", 422, "The request does not fit the graph";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for another request";
    ThreadQueueFull = "thread_queue_full", 429, "Too many runs wait on this thread";
    Internal = "internal", 500, "Something went wrong in the service";
    Overloaded = "overloaded", 503, "The service has as much to do as it may";
    Draining = "draining", 503, "The service is shutting down";
    RunMoved = "run_moved", 503, "The run goes on elsewhere";
    DatabaseUnavailable = "database_unavailable", 503, "The database is not available";
}

/// A place in the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
pub(super) struct ProblemAt {
    /// A JSON Pointer (RFC 6901) into the body.
    pub(super) pointer: String,
    /// What is wrong there.
    pub(super) detail: String,
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Object)]
#[oai(rename = "Problem", skip_serializing_if_is_none)]
struct ProblemBody {
    /// Names the kind of problem.
    #[oai(rename = "type")]
    kind: String,
    /// The same for every problem of this kind.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The stable code, for programs.
    code: String,
    /// What was wrong this time, for people.
    detail: String,
    /// The places that are wrong.
    errors: Option<Vec<ProblemAt>>,
    /// The run that is in the way, or that the request was about.
    run_id: Option<String>,
    /// The open questions that are in the way.
    interrupt_ids: Option<Vec<String>>,
}

/// Open questions, by id.
#[derive(Debug, Clone)]
pub(super) struct Open(Vec<String>);

/// A refused request.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// For programs.
    pub(super) code: Code,
    /// For people.
    pub(super) detail: String,
    /// The places that are wrong.
    pub(super) errors: Vec<ProblemAt>,
    /// The run that is in the way.
    pub(super) run: Option<RunId>,
    /// The open questions that are in the way.
    pub(super) open: Option<Box<Open>>,
    /// The methods that a route has, for `Allow`.
    pub(super) allow: Option<HeaderValue>,
}

impl Problem {
    /// Makes a problem.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), run: None, open: None, allow: None }
    }

    /// Makes a problem at one place of the body.
    pub(super) fn at(code: Code, pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let errors = vec![ProblemAt { pointer: pointer.to_owned(), detail: detail.clone() }];
        let detail = if pointer.is_empty() { detail } else { format!("at `{pointer}`: {detail}") };
        Self { errors, ..Self::new(code, detail) }
    }

    /// Makes a problem at several places of the body.
    pub(super) fn places(code: Code, mut errors: Vec<ProblemAt>) -> Self {
        if errors.len() == 1 {
            let ProblemAt { pointer, detail } = errors.swap_remove(0);
            return Self::at(code, &pointer, detail);
        }
        let detail = format!("{} places are wrong; see `errors`", errors.len());
        Self { errors, ..Self::new(code, detail) }
    }

    /// Says that a thing does not exist, in the same bytes whatever the thing and whoever owns it.
    pub(super) fn not_found() -> Self {
        Self::new(Code::NotFound, "it does not exist, or it belongs to somebody else")
    }

    /// Says that the events of a run are gone, if they are.
    pub(super) fn forgotten(run: &Run) -> Result<(), Self> {
        if run.kept != Kept::Nothing {
            return Ok(());
        }
        let (run, session) = (run.run, &run.key.session);
        let detail = format!("what the run left: `GET /v1/runs/{run}` and `GET /v1/threads/{session}/state`");
        Err(Self { run: Some(run), ..Self::new(Code::EventsExpired, detail) })
    }

    /// Says that something is wrong here that the client cannot change. The log has the rest.
    pub(super) fn internal() -> Self {
        Self::new(Code::Internal, "the log of the service has the reason, under the request's `X-Request-Id`")
    }

    /// Seconds after which the same request may succeed.
    fn retry_after(&self) -> Option<u32> {
        match self.code {
            Code::ThreadQueueFull | Code::Draining | Code::Overloaded | Code::RunMoved => Some(1),
            Code::DatabaseUnavailable => Some(2),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn as_response(&self) -> Response {
        let body = ProblemBody {
            kind: format!("urn:graphloom:problem:{}", self.code.name()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            code: self.code.name().to_owned(),
            detail: self.detail.clone(),
            errors: (!self.errors.is_empty()).then(|| self.errors.clone()),
            run_id: self.run.map(|run| run.to_string()),
            interrupt_ids: self.open.as_ref().map(|open| open.0.clone()),
        };
        let mut response = Response::builder()
            .status(self.status())
            .content_type(MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(body.to_json_string());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = &self.allow {
            headers.insert(header::ALLOW, allow.clone());
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"graphloom\""));
        }
        response
    }
}

/// Only for the document: every operation answers problems.
pub(super) struct ProblemJson;

impl Payload for ProblemJson {
    const CONTENT_TYPE: &'static str = MEDIA_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        ProblemBody::schema_ref()
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: MEDIA_TYPE, schema: ProblemJson::schema_ref() };
        let response = MetaResponse {
            description: "The request was refused.",
            status: None,
            status_range: None,
            content: vec![content],
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        ProblemJson::register(registry);
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) | StoreError::Unknown(_) => {
                error!(%error, "The database did not answer a request.");
                Self::new(Code::DatabaseUnavailable, "the database is not available; try again soon")
            }
            StoreError::Corrupt { .. } | StoreError::Config(_) => {
                error!(%error, "The store could not answer a request.");
                Self::internal()
            }
        }
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::UnknownGraph(_) => {
                Self::new(Code::GraphNotFound, "`GET /v1/graphs` lists the graphs")
            }
            StartError::NotFound => Self::not_found(),
            StartError::Exists => Self::new(Code::ThreadExists, "take another `session_id`, or leave it out"),
            StartError::Forbidden => Self::new(
                Code::Forbidden,
                "the graph asks agents, so only callers with the role `agent` may go on past them",
            ),
            StartError::Unprocessable(wrong) => {
                let at = |Mismatch { pointer, why }| ProblemAt { pointer, detail: why };
                Self::places(Code::Unprocessable, wrong.into_iter().map(at).collect())
            }
            StartError::Busy(run) => Self {
                run: Some(run),
                ..Self::new(
                    Code::ThreadBusy,
                    "wait for the run, or cancel it; a turn may wait by `on_busy: enqueue`",
                )
            },
            StartError::Incompatible(why) => Self::new(Code::StateIncompatible, why),
            StartError::QueueFull => {
                Self::new(Code::ThreadQueueFull, "wait for the runs of this thread, or cancel some")
            }
            StartError::KeyReused => {
                Self::new(Code::IdempotencyKeyReused, "send another key, or the same body as the first time")
            }
            StartError::TenantQueueFull => {
                Self::new(Code::Overloaded, "as many runs of the tenant wait as may; try again soon")
            }
            StartError::Overloaded => Self::new(Code::Overloaded, "try again soon, or ask another replica"),
            StartError::Draining => {
                Self::new(Code::Draining, "another replica, or this one after its restart, will answer")
            }
            StartError::Stopped(run) => Self {
                run: Some(run),
                ..Self::new(
                    Code::ThreadInterrupted,
                    "its run is stopped; resume the thread to go on, or send `on_busy: interrupt` to end the run",
                )
            },
            StartError::Waits(open) => AnswerError::Waits(open).into(),
            StartError::Answer(error) => (*error).into(),
            StartError::Store(error) => error.into(),
        }
    }
}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        match error {
            // In the same words as whatever else does not exist.
            AnswerError::Unknown(_) => Self::not_found(),
            AnswerError::Taken { by, at, .. } => {
                let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                Self::new(Code::InterruptAnswered, format!("by `{by}`, at {at}"))
            }
            AnswerError::Expired { at, .. } => {
                let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                Self::new(Code::InterruptExpired, format!("since {at}; the run goes on without an answer"))
            }
            AnswerError::SeveralRuns => Self::at(
                Code::InvalidRequest,
                "/answers",
                "answers are to questions of one run, at least one",
            ),
            AnswerError::Unprocessable(wrong) => StartError::Unprocessable(wrong).into(),
            AnswerError::Unfit(_, wrong) => {
                let at = |Mismatch { pointer, why }| ProblemAt { pointer, detail: why };
                Self::places(Code::Unprocessable, wrong.into_iter().map(at).collect())
            }
            AnswerError::Version(failure) => Self::new(Code::StateIncompatible, failure.message),
            AnswerError::Nothing => {
                Self::new(Code::NothingToResume, "the newest run of the thread neither failed nor waits")
            }
            AnswerError::Waits(open) => {
                let detail = match open.as_slice() {
                    [] => "answer its question first".to_owned(),
                    open => format!("answer first: {}", open.join(", ")),
                };
                let open = (!open.is_empty()).then(|| Box::new(Open(open)));
                Self { open, ..Self::new(Code::ThreadInterrupted, detail) }
            }
            AnswerError::KeyReused => StartError::KeyReused.into(),
            AnswerError::Overloaded => StartError::Overloaded.into(),
            AnswerError::Draining => StartError::Draining.into(),
            AnswerError::Store(error) => error.into(),
        }
    }
}

/// Makes the answer to whatever a handler, an extractor or the router refused.
pub(super) fn respond(error: &poem::Error) -> Response {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return problem.as_response();
    }
    let problem = match error.status() {
        StatusCode::NOT_FOUND => Problem::new(Code::RouteNotFound, "`/openapi.json` describes all routes"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(Code::MethodNotAllowed, "`/openapi.json` describes all routes")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::PayloadTooLarge, error.to_string()),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(Code::UnsupportedMediaType, error.to_string()),
        status if status.is_client_error() => Problem::new(Code::InvalidRequest, error.to_string()),
        _ => {
            error!(%error, "A request failed.");
            Problem::internal()
        }
    };
    problem.into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.as_response()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn body(problem: &Problem) -> (StatusCode, Value) {
        let response = problem.as_response();
        assert_eq!(response.content_type(), Some(MEDIA_TYPE));
        (response.status(), response.into_body().into_json().await.unwrap())
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_rfc_9457_and_no_nulls() {
        let problem = Problem::at(Code::InvalidRequest, "/session_id", "this field is required");
        let (status, body) = body(&problem).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let expected = json!({
            "type": "urn:graphloom:problem:invalid_request",
            "title": "The body does not have the right form",
            "status": 400,
            "code": "invalid_request",
            "detail": "at `/session_id`: this field is required",
            "errors": [{"pointer": "/session_id", "detail": "this field is required"}],
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn a_busy_thread_names_its_run_and_a_full_queue_says_when_to_come_back() {
        let run = RunId::new();
        let (status, body) = body(&StartError::Busy(run).into()).await;
        assert_eq!((status, &body["run_id"]), (StatusCode::CONFLICT, &json!(run.to_string())));
        let full = Problem::from(StartError::QueueFull).as_response();
        assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(full.headers()["retry-after"], "1");
        let crowded = Problem::from(StartError::TenantQueueFull).as_response();
        assert_eq!(crowded.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(crowded.headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn what_the_database_says_stays_in_the_log() {
        let (status, body) = body(&StoreError::Unavailable("password of admin".into()).into()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!body.to_string().contains("password"), "{body}");
    }

    #[test]
    fn the_names_of_the_codes_are_all_different() {
        let mut names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
