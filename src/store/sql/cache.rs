//! Results that are kept for a tenant. They are written with their barrier: see `commit` of the back ends.
//!
//! Invariant: what is over is not found, whether it was deleted yet or not.

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::base::Tx;
use super::put::{timed, write};
use super::read;
use crate::id::{CacheKey, Part, ThreadId};
use crate::store::{CacheEntry, Result};

/// The most keys of one statement on SQLite, where each is a parameter.
const KEYS: usize = 500;

/// Reads what is kept under some keys.
pub(super) async fn find<C: ConnectionTrait>(
    db: &C,
    tenant: &Part,
    keys: &[CacheKey],
) -> Result<Vec<(CacheKey, Vec<u8>)>> {
    let mut found = Vec::new();
    let postgres = db.get_database_backend() == DbBackend::Postgres;
    for keys in keys.chunks(if postgres { usize::MAX } else { KEYS }) {
        let names = keys.iter().map(|key| Value::from(&*key.0));
        let mut values: Vec<Value> = vec![tenant.as_str().into()];
        let among = if postgres {
            values.push(Value::Array(ArrayType::String, Some(Box::new(names.collect()))));
            "= any($2::text[])".to_owned()
        } else {
            values.extend(names);
            let places: Vec<String> = (2..=values.len()).map(|n| format!("${n}")).collect();
            format!("in ({})", places.join(", "))
        };
        let text =
            format!("select key, data from cache where tenant = $1 and key {among} and expires_at > {{NOW}}");
        for row in read::rows(db, "cached result", &timed(db, &text), values).await? {
            found.push((CacheKey(row.get::<String>("key")?.into()), row.get("data")?));
        }
    }
    Ok(found)
}

/// Stores results, on SQLite.
pub(super) async fn put(tx: &Tx, tenant: &str, thread: ThreadId, entries: Vec<CacheEntry>) -> Result<()> {
    let text = "insert into cache (tenant, key, thread_id, data, expires_at) values ($1, $2, $3, $4, {NOW} + $5) \
         on conflict (tenant, key) do update set thread_id = excluded.thread_id, data = excluded.data, \
           expires_at = excluded.expires_at";
    for CacheEntry { key, data, ttl } in entries {
        let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        let values = vec![tenant.into(), (&*key.0).into(), thread.0.into(), data.into(), ttl.into()];
        write(tx, &timed(tx, text), values).await?;
    }
    Ok(())
}
