//! Tells the end and the pauses of runs to those whom it is to be told.
//!
//! Invariant: what is told was committed with the end that it tells of. It is told at least once, signed, to nobody whom the
//! guard of `egress` refuses, and a receiver that does not answer costs one of a bounded number of places.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{info, warn};

use super::record::{self, Notice, RunError};
use super::recover::rest;
use super::{Engine, Shared};
use crate::egress::{self, Client, SigningKey, Target, Url, header};
use crate::event::{Interrupt, RunStatus, Usage};
use crate::state::Mismatch;
use crate::store::{Hook, HookCounts, StoreError, Told};

/// How many are told at once.
const AT_ONCE: usize = 32;
/// How long a receiver may take for its whole answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long nobody else tries meanwhile: longer than the connection and the answer may take.
const LEASE: Duration = Duration::from_mins(1);
/// How long a receiver may still take when the process is to stop.
const AT_STOP: Duration = Duration::from_secs(5);
/// How often it is tried: over about a day.
const TRIES: u32 = 10;
/// The wait after the first try; each is four times the one before.
const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
const LONGEST: Duration = Duration::from_hours(10);
/// The most bytes of an address.
const MOST_BYTES: usize = 2048;
/// The most bytes of an answer that are read, so that its connection can be used again.
const READ: usize = 4096;
/// How often it is tried to note what came of a try.
const NOTES: u32 = 5;

/// What a webhook is sent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunNotice {
    /// What happened. New types may come: ignore what you do not know.
    #[serde(rename = "type")]
    pub kind: NoticeKind,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub timestamp: DateTime<Utc>,
    /// The run.
    pub data: NoticeData,
}

/// What happened to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub enum NoticeKind {
    /// It reached its end.
    #[serde(rename = "run.completed")]
    Completed,
    /// It ended with an error.
    #[serde(rename = "run.failed")]
    Failed,
    /// It waits for a person, or is stopped.
    #[serde(rename = "run.interrupted")]
    Interrupted,
    /// It was cancelled.
    #[serde(rename = "run.cancelled")]
    Cancelled,
    /// It was undone.
    #[serde(rename = "run.rolled_back")]
    RolledBack,
    /// It was given up after repeated crashes.
    #[serde(rename = "run.dead")]
    Dead,
}

/// A run as a webhook is told of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NoticeData {
    /// The run.
    pub run_id: String,
    /// The tenant.
    pub tenant: String,
    /// The user.
    pub user_id: String,
    /// The conversation.
    pub session_id: String,
    /// The graph's id.
    pub graph: String,
    /// The hash of the graph's version.
    pub graph_hash: String,
    /// How it ended, or that it waits.
    pub status: RunStatus,
    /// The graph's output, when it completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Tokens used.
    pub usage: Usage,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// The open questions, when it waits for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interrupts: Vec<Interrupt>,
    /// When it was accepted.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: DateTime<Utc>,
    /// When it ended; absent while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<DateTime<Utc>>,
}

impl NoticeKind {
    fn of(status: RunStatus) -> Self {
        match status {
            RunStatus::Completed => Self::Completed,
            RunStatus::Failed => Self::Failed,
            RunStatus::Interrupted => Self::Interrupted,
            RunStatus::Cancelled => Self::Cancelled,
            RunStatus::RolledBack => Self::RolledBack,
            RunStatus::Dead => Self::Dead,
        }
    }
}

/// Makes what is sent: the same bytes at every try.
fn body(hook: &Hook) -> Result<Vec<u8>, StoreError> {
    let notice: Notice = record::decode("webhook", &hook.data)?;
    let millis = |at: DateTime<Utc>| crate::event::to_millis(at);
    let (run, key) = (&hook.run, &hook.run.key);
    let at = millis(hook.created_at);
    let told = RunNotice {
        kind: NoticeKind::of(notice.status),
        timestamp: at,
        data: NoticeData {
            run_id: run.run.to_string(),
            tenant: key.owner.tenant.to_string(),
            user_id: key.owner.user.to_string(),
            session_id: key.session.to_string(),
            graph: run.graph.clone(),
            graph_hash: run.hash.clone(),
            status: notice.status,
            output: notice.output,
            usage: notice.usage,
            error: notice.error,
            interrupts: notice.interrupts,
            created_at: millis(run.created_at),
            finished_at: (notice.status != RunStatus::Interrupted).then_some(at),
        },
    };
    serde_json::to_vec(&told).map_err(|e| StoreError::Corrupt { what: "webhook", why: e.to_string() })
}

/// Why a try came to nothing.
struct Refused {
    why: String,
    /// Nobody is there any more.
    gone: bool,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self { why, gone: false }
    }
}

/// Reads an address that may be told, or says why it may not.
fn address(client: &Client, text: &str) -> Result<Url, String> {
    if text.len() > MOST_BYTES {
        return Err(format!("an address here has at most {MOST_BYTES} bytes"));
    }
    let url = egress::parse_url(text).map_err(|error| error.to_string())?;
    client.check(&url).map_err(|error| error.to_string())?;
    let listed = Target::of(&url).is_ok_and(|target| client.allows(&target));
    if url.scheme() != "https" && !listed {
        return Err("an address here begins with `https://`".into());
    }
    Ok(url)
}

impl Engine {
    /// Refuses an address that could never be told anything.
    pub(super) fn check_webhook(&self, url: Option<&str>) -> Result<(), Mismatch> {
        let Some(url) = url else { return Ok(()) };
        let wrong = |why: String| Mismatch { pointer: "/webhook".into(), why };
        if self.shared.settings.webhook_keys.is_empty() {
            let why = "this service tells nothing to webhooks: its settings name no secret to sign with";
            return Err(wrong(why.into()));
        }
        address(self.shared.providers.client(), url).map(drop).map_err(wrong)
    }

    /// Counts what is to be told and was, of all tenants.
    pub async fn hook_counts(&self) -> Result<HookCounts, StoreError> {
        self.shared.store.hook_counts().await
    }
}

/// Looks for what is to be told, and tells it.
pub(super) async fn tell(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while !*closed.borrow() {
        let places = u32::try_from(room.available_permits()).unwrap_or(u32::MAX);
        let due = if places == 0 { Ok(Vec::new()) } else { shared.store.claim_hooks(LEASE, places).await };
        match due {
            Ok(hooks) => {
                let again = !hooks.is_empty();
                for hook in hooks {
                    let (shared, room) = (shared.clone(), room.clone());
                    // Nobody else takes places, so there is one for each.
                    let place = room.acquire_owned().await;
                    shared.tracker.clone().spawn(async move {
                        let mut closed = shared.closed.subscribe();
                        let stop = async {
                            rest(&mut closed, Duration::MAX).await;
                            tokio::time::sleep(AT_STOP).await;
                        };
                        // What is cut off is told by another process when its lease is over.
                        tokio::select! {
                            () = deliver(&shared, &hook) => {}
                            () = stop => {}
                        }
                        drop(place);
                    });
                }
                if again {
                    continue;
                }
            }
            Err(error) => warn!(%error, "What webhooks are to be told cannot be read."),
        }
        // Replicas that started together should not look together.
        let wait = shared.settings.poll.mul_f64(0.75 + fastrand::f64() / 2.0);
        tokio::select! {
            () = shared.ended.notified() => {}
            _ = rest(&mut closed, wait) => {}
        }
    }
}

async fn deliver(shared: &Shared, hook: &Hook) {
    let (run, attempt) = (hook.run.run, hook.attempts);
    let outcome = match body(hook) {
        // A row that cannot be read is not better the next time.
        Err(error) => Err(Refused { why: error.to_string(), gone: true }),
        Ok(body) => send(shared, hook, body).await,
    };
    let (told, word) = match outcome {
        Ok(()) => (Told::Delivered, "delivered"),
        Err(Refused { why, gone }) if gone || attempt >= TRIES => {
            warn!(%run, hook = %hook.id, attempt, why, "Webhook given up.");
            (Told::GivenUp { error: why }, "given_up")
        }
        Err(Refused { why, .. }) => {
            info!(%run, hook = %hook.id, attempt, why, "Webhook is tried again later.");
            (Told::Again { error: why, after: pause(attempt, fastrand::f64()) }, "failed")
        }
    };
    metrics::counter!("graphloom_webhook_deliveries_total", "outcome" => word).increment(1);
    let tenant = &hook.run.key.owner.tenant;
    for _ in 0..NOTES {
        match shared.store.told(tenant, hook.id, attempt, told.clone()).await {
            Ok(()) => return,
            Err(error) => warn!(%run, %error, "What came of a webhook cannot be noted."),
        }
        tokio::time::sleep(shared.settings.poll).await;
    }
}

/// Returns the wait after a try; `random` from 0 to 1 moves it by a fifth.
fn pause(attempt: u32, random: f64) -> Duration {
    let plain = FIRST.saturating_mul(4_u32.saturating_pow(attempt.saturating_sub(1))).min(LONGEST);
    plain.mul_f64(0.8 + random * 0.4)
}

async fn send(shared: &Shared, hook: &Hook, body: Vec<u8>) -> Result<(), Refused> {
    // The settings of today count, not those of when it was wished.
    let (client, keys) = (shared.providers.client(), &shared.settings.webhook_keys);
    let url = address(client, &hook.url)?;
    let headers = headers(keys, &hook.id.to_string(), Utc::now().timestamp(), &body)
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = client.post_json(&url, headers, body).await.map_err(|error| error.to_string())?;
        let status = response.status();
        response.read_start(READ).await;
        Ok::<u16, String>(status)
    };
    let status = timeout(ANSWER, answer).await;
    match status.map_err(|_| format!("no answer within {} seconds", ANSWER.as_secs()))?? {
        200..300 => Ok(()),
        410 => Err(Refused { why: "answered with status 410: it is gone".into(), gone: true }),
        status => Err(format!("answered with status {status}").into()),
    }
}

fn headers(keys: &[SigningKey], id: &str, at: i64, body: &[u8]) -> Result<header::HeaderMap, egress::Error> {
    let mut headers = header::HeaderMap::new();
    let signature = egress::signatures(keys, id, at, body);
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", &at.to_string()), ("webhook-signature", &signature)]
    {
        headers.insert(header::HeaderName::from_static(name), egress::header_value(name, value)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tries_go_over_about_a_day() {
        let waits = |random: f64| (1..TRIES).map(|attempt| pause(attempt, random)).sum::<Duration>();
        for random in [0.0, 0.5, 1.0] {
            let hours = waits(random).as_secs() / 3600;
            assert!((20..36).contains(&hours), "{hours}");
        }
        assert!(pause(1, 0.5) == FIRST && pause(u32::MAX, 1.0) == LONGEST.mul_f64(1.2));
    }
}
