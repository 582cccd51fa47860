//! Looks for results that were kept, and makes those to keep ready for the store.
//!
//! Invariant: a result is stored with the barrier that it is part of, so nothing is found that was taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;
use tracing::warn;

use super::{Driver, Halt, Position};
use crate::engine::record;
use crate::engine::step::{self, Found, Fresh, World};
use crate::id::CacheKey;
use crate::store::CacheEntry;

impl Driver<'_> {
    /// Looks for what a superstep could have from the cache, until nothing is left to look for: what is not found may
    /// be made of parts that are.
    pub(super) async fn look_up(
        &self,
        at: &Position,
        world: World<'_>,
        mut sought: BTreeSet<CacheKey>,
    ) -> Result<Found, Halt> {
        let tenant = &self.claim.run.key.owner.tenant;
        let mut found = Found::new();
        while !sought.is_empty() {
            let keys: Vec<CacheKey> = std::mem::take(&mut sought).into_iter().collect();
            let rows = self.patiently(|| self.shared.store.cached(tenant, &keys)).await?;
            let mut rows: BTreeMap<CacheKey, Vec<u8>> = rows.into_iter().collect();
            for key in keys {
                let result = rows.remove(&key).and_then(|data| result(&data));
                let outcome = if result.is_some() { "hit" } else { "miss" };
                metrics::counter!("graphloom_cache_lookups_total", "outcome" => outcome).increment(1);
                found.insert(key, result);
            }
            let world = World { found: &found, ..world };
            if let Ok(planned) = step::plan_step(world, &at.head.state, &at.input, &at.head.frontier) {
                sought = planned.sought;
            }
        }
        Ok(found)
    }
}

fn result(data: &[u8]) -> Option<Arc<Json>> {
    match record::decode("cached result", data) {
        Ok(result) => Some(Arc::new(result)),
        // The work can be done again.
        Err(error) => {
            warn!(%error, "A cached result is left out.");
            None
        }
    }
}

/// Encodes results, and adds them to those that are not stored yet, each key once.
pub(super) fn entries(before: Vec<CacheEntry>, fresh: Vec<Fresh>) -> Vec<CacheEntry> {
    if fresh.is_empty() {
        return before;
    }
    let entry = |Fresh { key, result, ttl }: Fresh| {
        (key.clone(), CacheEntry { key, data: record::encode(&result), ttl })
    };
    let before = before.into_iter().map(|entry| (entry.key.clone(), entry));
    let entries: BTreeMap<CacheKey, CacheEntry> = before.chain(fresh.into_iter().map(entry)).collect();
    entries.into_values().collect()
}
