//! Identities: who owns a thread, and the ids of runs, checkpoints, tasks and events.
//!
//! Invariant: a value of these types has been checked; nothing below parses an id twice.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Why a text cannot be part of a thread's identity.
///
/// ```
/// let error = "a:b".parse::<graphloom::Part>().unwrap_err();
/// assert_eq!(error.found, "a:b");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` may hold only letters, digits and `. _ @ -`, 1 to 128 of them")]
pub struct PartError {
    /// The refused text, shortened to 64 characters.
    pub found: String,
}

/// One part of a thread's identity: `[A-Za-z0-9._@-]{1,128}`, so never a `:`.
///
/// ```
/// use graphloom::Part;
///
/// assert!("ada@example.com".parse::<Part>().is_ok());
/// assert!("a:b".parse::<Part>().is_err() && "".parse::<Part>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Part(Arc<str>);

impl Part {
    /// Returns the text.
    ///
    /// ```
    /// let user: graphloom::Part = "ada".parse()?;
    /// assert_eq!(user.as_str(), "ada");
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Part {
    type Err = PartError;

    fn from_str(text: &str) -> Result<Self, PartError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
        // `.` and `..` are steps in a path: no client could name them in a URL.
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..") {
            Ok(Self(text.into()))
        } else {
            Err(PartError { found: text.chars().take(64).flat_map(char::escape_debug).collect() })
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Who asks: the tenant and the user that authentication found.
///
/// ```
/// let ada = graphloom::Owner { tenant: "acme".parse()?, user: "ada".parse()? };
/// assert_eq!(ada.tenant.as_str(), "acme");
/// # Ok::<(), graphloom::PartError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The customer that the data belongs to.
    pub tenant: Part,
    /// The person or program within the tenant.
    pub user: Part,
}

/// A thread's identity, three parts that are never joined except for people.
///
/// ```
/// use graphloom::{Owner, ThreadKey};
///
/// let owner = Owner { tenant: "acme".parse()?, user: "ada".parse()? };
/// assert_eq!(ThreadKey { owner, session: "desk".parse()? }.to_string(), "acme:ada:desk");
/// # Ok::<(), graphloom::PartError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThreadKey {
    /// Tenant and user.
    pub owner: Owner,
    /// The conversation, chosen by the client.
    pub session: Part,
}

impl fmt::Display for ThreadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.owner.tenant, self.owner.user, self.session)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new id; ids sort by the time they were made.
            #[doc(hidden)]
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// One execution on a thread.
    ///
    /// ```
    /// use graphloom::RunId;
    ///
    /// let id: RunId = "0190a5c0-9b4e-7d3a-8a8e-3f2b6c1d0e9f".parse()?;
    /// assert_eq!(id.to_string(), "0190a5c0-9b4e-7d3a-8a8e-3f2b6c1d0e9f");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    RunId
}
uuid_id! {
    /// A saved barrier of a thread.
    ///
    /// ```
    /// use graphloom::CheckpointId;
    ///
    /// let id: CheckpointId = "0190a5c0-9b4e-7d3a-8a8e-3f2b6c1d0e9f".parse()?;
    /// assert_eq!(id.to_string(), "0190a5c0-9b4e-7d3a-8a8e-3f2b6c1d0e9f");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    CheckpointId
}
uuid_id! {
    /// What is told of one end or pause of a run.
    HookId
}
uuid_id! {
    /// The stored row of a thread; a deleted and re-created thread has another one.
    ThreadId
}

/// One node in one superstep; the same after a crash, so results and outside idempotency keys match.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// while let Some(event) = turn.next().await {
///     if let Some(scope) = event?.scope {
///         assert_eq!(scope.task_id.to_string().len(), 20);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Arc<str>);

impl TaskId {
    /// Derives the id from what identifies the task: 20 hex digits of a SHA-256.
    #[doc(hidden)]
    #[must_use]
    pub fn derive(run: RunId, step: u64, node: &str, rank: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(run.0.as_bytes());
        hash.update(step.to_be_bytes());
        hash.update(rank.to_be_bytes());
        hash.update(node.as_bytes());
        Self(hex(&hash.finalize()[..10]).into())
    }

    /// Derives the id of a part of this task: of a node of a graph that it calls, of an item, of a tool's call.
    #[doc(hidden)]
    #[must_use]
    pub fn part(&self, step: u64, node: &str, rank: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update(step.to_be_bytes());
        hash.update(rank.to_be_bytes());
        hash.update(node.as_bytes());
        Self(hex(&hash.finalize()[..10]).into())
    }
}

/// What a result is found by that is kept for a tenant: a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(pub Arc<str>);

impl CacheKey {
    /// Makes the key of what work of a `definition` gives for what it reads.
    #[must_use]
    pub fn of(definition: &str, reads: &serde_json::Value) -> Self {
        Self(sha256_hex(format!("{definition}\n{reads}").as_bytes()).into())
    }
}

/// A question to a person; the same after a crash.
///
/// ```
/// use graphloom::AnswerError;
///
/// fn told(error: &AnswerError) -> String {
///     match error {
///         AnswerError::Taken { id, by, .. } => format!("{by} was first to answer {id}"),
///         other => other.to_string(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InterruptId(pub Arc<str>);

impl InterruptId {
    /// Returns the id of the question that a task asks.
    #[doc(hidden)]
    #[must_use]
    pub fn of(task: &TaskId) -> Self {
        Self(format!("i_{task}").into())
    }
}

impl fmt::Display for InterruptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of an event in its run: ordered by fence, then by number.
///
/// ```
/// use graphloom::Seq;
///
/// // What the next owner of a run tells comes after all that the one before it told.
/// assert!(Seq { fence: 2, n: 1 } > Seq { fence: 1, n: 900 });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Seq {
    /// The owner's fence when the event was made.
    pub fence: u64,
    /// Counts the events of that fence from 1.
    pub n: u64,
}

/// The wire id of an event: `<run_id>:<fence>-<n>`, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// The run it belongs to.
    pub run: RunId,
    /// Its place in the run.
    pub seq: Seq,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.run, self.seq.fence, self.seq.n)
    }
}

/// A text that is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event id looks like `<run_id>:<fence>-<n>`")]
pub struct EventIdError;

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let decimal = |s: &str| {
            let digits = (1..=18).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| s.parse().ok()).flatten().ok_or(EventIdError)
        };
        let (run, seq) = text.split_once(':').ok_or(EventIdError)?;
        let (fence, n) = seq.split_once('-').ok_or(EventIdError)?;
        Ok(Self {
            run: run.parse().map_err(|_| EventIdError)?,
            seq: Seq { fence: decimal(fence)?, n: decimal(n)? },
        })
    }
}

/// Returns the lower-case hex digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a `String` cannot fail.
        let _infallible = write!(out, "{b:02x}");
        out
    })
}

/// Returns the SHA-256 of `bytes` as hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_refuses_the_separator_and_anything_outside_the_alphabet() {
        for bad in ["", ".", "..", "a:b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<Part>().is_err(), "{bad:?}");
        }
        for good in ["a", "A.b_c@d-9", &"x".repeat(128)] {
            assert!(good.parse::<Part>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_event_id_reads_back_what_it_prints() {
        let id = EventId { run: RunId::new(), seq: Seq { fence: 3, n: 17 } };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in
            ["", "x:1-2", &format!("{}:1", id.run), &format!("{}:+1-2", id.run), &format!("{}:1--2", id.run)]
        {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }
}
