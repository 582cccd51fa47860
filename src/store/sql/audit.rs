//! The notes of acts: written in the transaction of the act, read by operators, and forgotten when they are old.
//!
//! Invariant: on Postgres the service can only add to them; what reads and forgets them are functions that it may call.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::base::{Base, Tx};
use super::put::write;
use super::row::{Row, moment};
use super::{postgres, read, sqlite};
use crate::id::Part;
use crate::store::audit::YOUNG;
use crate::store::{AuditFilter, Noted, Result};

/// Stores a note of the tenant of the transaction.
pub(super) async fn note(tx: &Tx, note: &Noted) -> Result<()> {
    let text = "insert into audit (tenant, audit_id, at, act, actor, subject, detail) values ($1, $2, $3, $4, $5, $6, $7)";
    let mut all = vec![note.tenant.as_str().into()];
    all.extend(columns(tx.get_database_backend(), note));
    write(tx, text, all).await.map(|_| ())
}

/// Returns the columns of a note, without its tenant.
pub(super) fn columns(backend: DbBackend, note: &Noted) -> [Value; 6] {
    [
        note.id.into(),
        moment(backend, note.at),
        note.act.as_str().into(),
        note.actor.as_str().into(),
        note.subject.as_str().into(),
        note.detail.as_deref().into(),
    ]
}

/// Deletes the notes of a tenant that has no thread any more, and leaves one of that.
pub(super) async fn erase(tx: &Tx, tenant: &Part, of_it: &Noted) -> Result<()> {
    if tx.get_database_backend() == DbBackend::Postgres {
        let text = "select erase_audit($1, $2, $3, $4, $5, $6, $7)";
        let mut all = vec![tenant.as_str().into()];
        all.extend(columns(DbBackend::Postgres, of_it));
        return read::rows(tx, "note", text, all).await.map(drop);
    }
    write(tx, "delete from audit where tenant = $1", vec![tenant.as_str().into()]).await?;
    note(tx, of_it).await
}

/// Lists notes, newest first.
pub(super) async fn list(base: &Base, filter: &AuditFilter, limit: u32) -> Result<Vec<Noted>> {
    let rows = match base {
        Base::Postgres(db) => postgres::wide::audit(db, filter, limit).await?,
        Base::Sqlite(db) => sqlite::wide::audit(db, filter, limit).await?,
    };
    rows.iter().map(Row::noted).collect()
}

/// Deletes notes that are so old, of all tenants; never young ones.
pub(super) async fn forget(base: &Base, age: Duration, limit: u32) -> Result<u64> {
    let age = age.max(YOUNG);
    match base {
        Base::Postgres(db) => postgres::wide::forget_audit(db, age, limit).await,
        Base::Sqlite(db) => sqlite::wide::forget_audit(db, age, limit).await,
    }
}

/// Returns when notes begin that are asked for.
pub(super) fn since(backend: DbBackend, filter: &AuditFilter) -> Value {
    match (filter.since, backend) {
        (Some(at), backend) => moment(backend, at),
        (None, DbBackend::Postgres) => Value::ChronoDateTimeUtc(None),
        (None, _) => Value::BigInt(None),
    }
}
