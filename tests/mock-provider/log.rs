//! Remembers every call: what was asked, and when it began, ended or was hung up on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use poem::http::HeaderMap;
use serde_json::{Value as Json, json};

/// Calls that are kept with their bodies; a load test makes more than anyone reads.
const KEPT: usize = 10_000;
/// The headers that tests ask for.
const HEADERS: &[&str] = &[
    "authorization",
    "x-api-key",
    "anthropic-version",
    "idempotency-key",
    "x-attempt",
    "user-agent",
    "content-type",
    "accept",
    "traceparent",
];

fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// One call. Times are milliseconds since 1970; 0 means that it has not happened.
#[derive(Debug, Default)]
pub(crate) struct Call {
    n: u64,
    headers: BTreeMap<&'static str, String>,
    body: Bytes,
    status: AtomicU64,
    tokens: AtomicU64,
    started: i64,
    first: AtomicI64,
    finished: AtomicI64,
    disconnected: AtomicI64,
}

impl Call {
    /// Counts a token that was sent.
    pub(crate) fn token(&self) {
        if self.tokens.fetch_add(1, Relaxed) == 0 {
            self.first.store(now(), Relaxed);
        }
    }

    fn to_json(&self) -> Json {
        let time = |at: i64| if at == 0 { Json::Null } else { at.into() };
        json!({
            "n": self.n,
            "headers": self.headers,
            "body": serde_json::from_slice::<Json>(&self.body).unwrap_or(Json::Null),
            "status": self.status.load(Relaxed),
            "tokens": self.tokens.load(Relaxed),
            "started_ms": time(self.started),
            "first_ms": time(self.first.load(Relaxed)),
            "finished_ms": time(self.finished.load(Relaxed)),
            "disconnected_ms": time(self.disconnected.load(Relaxed)),
        })
    }
}

/// All calls since the last reset.
#[derive(Default)]
pub(crate) struct Log(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    total: u64,
    over: Arc<AtomicU64>,
    calls: VecDeque<Arc<Call>>,
    counts: HashMap<String, usize>,
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call, and hands out the counter of calls that are over.
    pub(crate) fn add(&self, headers: &HeaderMap, body: Bytes) -> (Arc<Call>, Arc<AtomicU64>) {
        let found = |name: &&'static str| Some((*name, headers.get(*name)?.to_str().ok()?.to_owned()));
        let headers = HEADERS.iter().filter_map(found).collect();
        let mut inner = self.inner();
        inner.total += 1;
        let call = Arc::new(Call { n: inner.total, headers, body, started: now(), ..Call::default() });
        if inner.calls.len() == KEPT {
            inner.calls.pop_front();
        }
        inner.calls.push_back(Arc::clone(&call));
        (call, Arc::clone(&inner.over))
    }

    /// Counts a call under `key`, from 1.
    pub(crate) fn count(&self, key: &str) -> usize {
        let mut inner = self.inner();
        let count = inner.counts.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Returns how many calls came and how many of them are under way.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.total, inner.total - inner.over.load(Relaxed))
    }

    pub(crate) fn to_json(&self) -> Json {
        let calls = self.inner().calls.clone();
        json!({"calls": calls.iter().map(|call| call.to_json()).collect::<Vec<_>>()})
    }

    pub(crate) fn reset(&self) {
        *self.inner() = Inner::default();
    }
}

/// A call under way. Dropped before it is finished, the client has hung up.
pub(crate) struct Live {
    call: Arc<Call>,
    over: Arc<AtomicU64>,
}

impl Live {
    pub(crate) fn begin((call, over): (Arc<Call>, Arc<AtomicU64>)) -> Self {
        call.status.store(200, Relaxed);
        Self { call, over }
    }

    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    pub(crate) fn finish(&mut self, status: u16) {
        self.call.status.store(status.into(), Relaxed);
        self.call.finished.store(now(), Relaxed);
    }
}

impl Live {
    /// Notes that the client is gone; what is finished stays finished.
    pub(crate) fn hang_up(&self) {
        if self.call.finished.load(Relaxed) == 0 {
            // The first time that it was noticed counts.
            let _ignored = self.call.disconnected.compare_exchange(0, now(), Relaxed, Relaxed);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.hang_up();
        self.over.fetch_add(1, Relaxed);
    }
}
