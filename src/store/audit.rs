//! What is noted of acts: who did what, to what, and when.
//!
//! Invariant: whom and what a note is about is in it as a hash, so it may outlive what was deleted; a note is never changed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::GraphVersion;
use crate::id::{InterruptId, Owner, Part, RunId, ThreadKey, sha256_hex};

/// How young a note is that no retention forgets.
pub(super) const YOUNG: Duration = Duration::from_hours(24);
/// The tenant of what belongs to the deployment.
const DEPLOYMENT: &str = "*";
const OPERATOR: &str = "operator";
const SERVICE: &str = "service";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Somebody asked for the end of a run.
    RunCancelled,
    /// A run that was given up is in the queue again.
    RunRetried,
    /// A run that was given up is cancelled.
    RunDiscarded,
    /// A question was answered.
    QuestionAnswered,
    /// A thread was deleted.
    ThreadDeleted,
    /// Nothing is left of a user.
    UserErased,
    /// Nothing is left of a tenant.
    TenantErased,
    /// A graph version was stored that was not there.
    GraphPublished,
    /// A tenant has a new data key.
    KeyMade,
}

impl Act {
    /// Returns its name, as it is stored and told.
    pub fn name(self) -> &'static str {
        match self {
            Self::RunCancelled => "run.cancelled",
            Self::RunRetried => "run.retried",
            Self::RunDiscarded => "run.discarded",
            Self::QuestionAnswered => "question.answered",
            Self::ThreadDeleted => "thread.deleted",
            Self::UserErased => "user.erased",
            Self::TenantErased => "tenant.erased",
            Self::GraphPublished => "graph.published",
            Self::KeyMade => "key.made",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The caller, in whose name the operation is.
    User,
    /// Whoever has the command line.
    Operator,
    /// The service by itself.
    Service,
}

/// Returns how a user, a thread, a run, a question, a tenant stands in a note: the SHA-256 of its name.
fn hashed(name: &str) -> String {
    sha256_hex(name.as_bytes())
}

fn user(owner: &Owner) -> String {
    hashed(&format!("{}:{}", owner.tenant, owner.user))
}

/// A note of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its id; later ones of a process are greater.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// Whose rows it is about; `*` for the deployment, and for a tenant that is no more.
    pub tenant: String,
    /// What was done, as [`Act::name`] says.
    pub act: String,
    /// Who did it: `operator`, `service`, or the SHA-256 of `tenant:user`.
    pub actor: String,
    /// To what: the SHA-256 of the id of a run, a question or a key, of `tenant:user:session`, `tenant:user` or `tenant`; the
    /// hash of a graph version.
    pub subject: String,
    /// What else is known, as JSON.
    pub detail: Option<String>,
}

fn by(actor: Actor, owner: &Owner) -> String {
    match actor {
        Actor::User => user(owner),
        Actor::Operator => OPERATOR.into(),
        Actor::Service => SERVICE.into(),
    }
}

impl Noted {
    fn new(tenant: &str, act: Act, actor: impl Into<String>, subject: String) -> Self {
        Self {
            id: Uuid::now_v7(),
            at: Utc::now(),
            tenant: tenant.to_owned(),
            act: act.name().to_owned(),
            actor: actor.into(),
            subject,
            detail: None,
        }
    }

    fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.detail = Some(serde_json::json!({name: value.into()}).to_string());
        self
    }

    pub(super) fn cancelled(owner: &Owner, run: RunId, actor: Actor, rollback: bool) -> Self {
        let subject = hashed(&run.to_string());
        let note = Self::new(owner.tenant.as_str(), Act::RunCancelled, by(actor, owner), subject);
        if rollback { note.with("rollback", true) } else { note }
    }

    pub(super) fn of_run(tenant: &Part, act: Act, run: RunId) -> Self {
        Self::new(tenant.as_str(), act, OPERATOR, hashed(&run.to_string()))
    }

    /// An answer stands in it as the hash of the question's id, which nobody can guess, and of the answer as it is encoded.
    pub(super) fn answered(who: &Owner, id: &InterruptId, answer: &[u8]) -> Self {
        let digest = sha256_hex(&[id.0.as_bytes(), b"\n", answer].concat());
        let note = Self::new(who.tenant.as_str(), Act::QuestionAnswered, user(who), hashed(&id.0));
        note.with("answer", digest)
    }

    pub(super) fn deleted(key: &ThreadKey, actor: Actor) -> Self {
        let Owner { tenant, user } = &key.owner;
        let subject = hashed(&format!("{tenant}:{user}:{}", key.session));
        Self::new(tenant.as_str(), Act::ThreadDeleted, by(actor, &key.owner), subject)
    }

    /// Of a user, or else of the whole tenant, of whose notes this one is left.
    pub(super) fn erased(tenant: &Part, user: Option<&Part>, threads: u64) -> Self {
        let note = match user {
            Some(user) => {
                let subject = hashed(&format!("{tenant}:{user}"));
                Self::new(tenant.as_str(), Act::UserErased, OPERATOR, subject)
            }
            None => Self::new(DEPLOYMENT, Act::TenantErased, OPERATOR, hashed(tenant.as_str())),
        };
        note.with("threads", threads)
    }

    /// The hash of a version is its name.
    pub(super) fn published(version: &GraphVersion) -> Self {
        let note = Self::new(DEPLOYMENT, Act::GraphPublished, SERVICE, version.hash.clone());
        note.with("graph", version.graph.as_str())
    }

    pub(super) fn key_made(tenant: &str, key: Uuid, actor: Actor) -> Self {
        let actor = if actor == Actor::Operator { OPERATOR } else { SERVICE };
        Self::new(tenant, Act::KeyMade, actor, hashed(&key.to_string()))
    }
}

/// Which notes an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// Those of this tenant, or of `*`.
    pub tenant: Option<String>,
    /// Those from then on.
    pub since: Option<DateTime<Utc>>,
    /// Those about what has this name, or by whom.
    pub of: Option<String>,
}

impl AuditFilter {
    /// Returns how what is asked for may stand in a note.
    pub(super) fn names(&self) -> Option<[String; 2]> {
        self.of.as_ref().map(|of| [hashed(of), of.clone()])
    }
}

/// What a deletion of a user or a tenant came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erased {
    /// So many threads are deleted, and there may be more.
    Threads(u64),
    /// Nothing is left, and this is the note of it.
    All(Noted),
}
