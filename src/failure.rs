//! Why work fails: the closed list of kinds that a graph can name, and what of an error is kept for its handler.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::expr::EvalError;
use crate::model::{Kind, ModelError};

/// The closed list of error kinds that a graph can name.
///
/// ```
/// use graphloom::ErrorKind;
///
/// assert_eq!(ErrorKind::Http(503).name(), "http_503");
/// assert_eq!(ErrorKind::Http(503).groups(), ["http_5xx", "server_error"]);
/// assert!(ErrorKind::Http(503).retryable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Something took too long.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The other side asks to slow down.
    RateLimit,
    /// The other side failed.
    ServerError,
    /// The other side answered with this status.
    Http(u16),
    /// A value does not have its type.
    Schema,
    /// A tool failed.
    Tool,
    /// A write cannot join its channel.
    Merge,
    /// An expression or a template failed.
    Template,
    /// A `fail` node ended the run.
    Failed,
    /// A call that must not be made twice may have been made.
    Uncertain,
    /// A question was cancelled.
    Dismissed,
    /// A limit of the run is used up.
    Limit,
}

impl ErrorKind {
    /// Returns the most specific name, as `error.kind` and `catch` have it.
    ///
    /// ```
    /// assert_eq!(graphloom::ErrorKind::RateLimit.name(), "rate_limit");
    /// ```
    pub fn name(self) -> String {
        match self {
            Self::Timeout => "timeout".into(),
            Self::Connection => "connection".into(),
            Self::RateLimit => "rate_limit".into(),
            Self::ServerError => "server_error".into(),
            Self::Http(status) => format!("http_{status}"),
            Self::Schema => "schema".into(),
            Self::Tool => "tool".into(),
            Self::Merge => "merge".into(),
            Self::Template => "template".into(),
            Self::Failed => "failed".into(),
            Self::Uncertain => "uncertain".into(),
            Self::Dismissed => "dismissed".into(),
            Self::Limit => "limit".into(),
        }
    }

    /// Returns the wider kinds that it belongs to, besides `any`.
    ///
    /// ```
    /// assert_eq!(graphloom::ErrorKind::Http(429).groups(), ["http_4xx", "rate_limit"]);
    /// ```
    pub fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Http(408) => &["http_4xx", "timeout"],
            Self::Http(429) => &["http_4xx", "rate_limit"],
            Self::Http(400..=499) => &["http_4xx"],
            Self::Http(500..=599) => &["http_5xx", "server_error"],
            _ => &[],
        }
    }

    /// Says whether the same work may succeed later.
    ///
    /// ```
    /// use graphloom::ErrorKind;
    ///
    /// assert!(ErrorKind::Timeout.retryable() && !ErrorKind::Schema.retryable());
    /// ```
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Connection
                | Self::RateLimit
                | Self::ServerError
                | Self::Http(408 | 429 | 500..=599)
        )
    }
}

/// Why a task failed.
///
/// ```
/// use graphloom::{ErrorKind, Failure};
///
/// // A handler can catch it as `{catch: [{code: sold_out}], to: …}`.
/// let sold_out = Failure { code: "sold_out".into(), ..Failure::new(ErrorKind::Tool, "there is none left") };
/// assert!(sold_out.is("tool") && !sold_out.kind.retryable());
///
/// // Errors of your own become one by `From`, so that `?` works in your functions.
/// enum Refused {
///     Busy,
/// }
/// impl From<Refused> for Failure {
///     fn from(_: Refused) -> Self {
///         // It was refused before anything happened, so it may be tried again even where that must not be done twice.
///         Failure { undone: true, ..Failure::new(ErrorKind::RateLimit, "the desk is busy") }
///     }
/// }
/// assert!(Failure::from(Refused::Busy).is_undone());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// For `catch` and `retry`.
    pub kind: ErrorKind,
    /// The `code` of a `fail` node; else the kind's name.
    pub code: String,
    /// One sentence that may be shown to the user.
    pub message: String,
    /// How long the other side asked to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// The other side was never reached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
    /// The call must not be made twice, and may have been made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncertain: bool,
}

impl Failure {
    /// Makes a failure whose code is its kind. Of a message too long for a sentence, as a tool may give it, the beginning is
    /// kept: it goes into events, checkpoints and conversations.
    ///
    /// ```
    /// use graphloom::{ErrorKind, Failure};
    ///
    /// let failure = Failure::new(ErrorKind::Connection, "the warehouse does not answer");
    /// assert_eq!((failure.code.as_str(), failure.undone), ("connection", false));
    /// ```
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind, code: kind.name(), message, retry_after: None, undone: false, uncertain: false }
    }

    /// Says whether it is of a kind that a `catch` or the `for` of a retry policy names.
    ///
    /// ```
    /// use graphloom::{ErrorKind, Failure};
    ///
    /// let failure = Failure::new(ErrorKind::Http(503), "no");
    /// assert!(failure.is("http_503") && failure.is("server_error") && failure.is("any") && !failure.is("tool"));
    /// ```
    pub fn is(&self, kind: &str) -> bool {
        self.kind.name() == kind
            || kind == "any"
            || self.kind.groups().contains(&kind)
            || (self.uncertain && kind == ErrorKind::Uncertain.name())
    }

    /// Says whether the call that it is of was surely not made, or refused by the other side.
    ///
    /// ```
    /// use graphloom::{ErrorKind, Failure};
    ///
    /// assert!(Failure::new(ErrorKind::Http(404), "no").is_undone());
    /// assert!(!Failure::new(ErrorKind::Timeout, "it may have been done").is_undone());
    /// ```
    pub fn is_undone(&self) -> bool {
        self.undone
            || matches!(self.kind, ErrorKind::RateLimit | ErrorKind::Template)
            || matches!(self.kind, ErrorKind::Http(status) if (400..500).contains(&status) && status != 408)
    }

    /// Says whether a graph may handle it: a limit ends the run, or goes to `on_limit`.
    ///
    /// ```
    /// use graphloom::{ErrorKind, Failure};
    ///
    /// assert!(Failure::new(ErrorKind::Tool, "no").can_be_caught());
    /// ```
    pub fn can_be_caught(&self) -> bool {
        self.kind != ErrorKind::Limit
    }
}

/// The longest message of an error that is kept for its handler, in bytes: it is stored with every checkpoint.
const MAX_MESSAGE: usize = 4096;

/// An error on its way to the nodes that handle it: what they read as `error.*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caught {
    /// Its most specific kind.
    pub kind: String,
    /// Its code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The node that failed; empty when a limit is used up.
    pub node: String,
}

impl Caught {
    /// The fields of `error`.
    pub const FIELDS: [&str; 4] = ["kind", "message", "node", "code"];

    /// Takes the failure of a node.
    pub fn new(node: &str, failure: &Failure) -> Self {
        let mut message = failure.message.clone();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind: failure.kind.name(), code: failure.code.clone(), message, node: node.to_owned() }
    }

    /// Returns the value of `error`.
    pub fn to_json(&self) -> Json {
        json!({"kind": self.kind, "message": self.message, "node": self.node, "code": self.code})
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        Self::new(ErrorKind::Template, error.to_string())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let kind = match error.kind {
            Kind::Timeout => ErrorKind::Timeout,
            Kind::Connection => ErrorKind::Connection,
            Kind::RateLimit => ErrorKind::RateLimit,
            Kind::ServerError => ErrorKind::ServerError,
            Kind::Http(status) => ErrorKind::Http(status),
            Kind::Schema => ErrorKind::Schema,
        };
        Self { retry_after: error.retry_after, ..Self::new(kind, error.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A retry for `http_503` and a `catch: [http_5xx]` matched requests only: models had forgotten the status.
    #[test]
    fn an_error_of_a_model_is_of_its_status_and_of_the_kinds_around_it() {
        for (kind, is, is_not) in [
            (
                Kind::Http(503),
                &["http_503", "http_5xx", "server_error", "any"][..],
                &["http_500", "http_4xx"][..],
            ),
            (Kind::Http(529), &["http_529", "http_5xx", "server_error"], &["rate_limit"]),
            (Kind::Http(429), &["http_429", "http_4xx", "rate_limit"], &["http_5xx", "server_error"]),
            (Kind::Http(408), &["http_408", "http_4xx", "timeout"], &["rate_limit"]),
            (Kind::Http(401), &["http_401", "http_4xx"], &["timeout", "server_error"]),
            (Kind::ServerError, &["server_error"], &["http_5xx", "http_500"]),
            (Kind::Timeout, &["timeout"], &["http_408", "http_4xx"]),
        ] {
            let failure = Failure::from(ModelError::new(kind, "x"));
            assert!(is.iter().all(|name| failure.is(name)), "{kind:?} {failure:?}");
            assert!(!is_not.iter().any(|name| failure.is(name)), "{kind:?} {failure:?}");
            assert_eq!(failure.kind.name(), is[0], "the most specific one is told");
            assert_eq!(failure.kind.retryable(), kind != Kind::Http(401), "{kind:?}");
        }
    }
}
