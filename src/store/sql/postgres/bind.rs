//! Gives a statement its values, and its transaction its tenant.
//!
//! Row-level security shows what belongs to the tenant that the transaction names. Naming it takes no round trip: the
//! first value of a statement is the tenant, and its type is the domain `acting_tenant`, whose check names it. The
//! database reads values before it plans a statement, so that no part of it runs before that. Invariant: the first
//! value is compared with the tenant that the caller acts for, so a text of a user cannot take its place.

use sea_orm::sea_query::ArrayType;
use sea_orm::{DbBackend, DbErr, SqlxError, Statement, Value};
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::query::Query;
use sqlx::{Postgres, Type};
use uuid::Uuid;

use super::lane::failed;

/// What the options of a connection say where there is no pooler.
pub(super) const TIMES: [(&str, &str); 3] =
    [("statement_timeout", "5s"), ("lock_timeout", "2s"), ("idle_in_transaction_session_timeout", "10s")];

/// A value that names the tenant of the transaction.
struct Acting<'a>(&'a str);

impl Type<Postgres> for Acting<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("acting_tenant")
    }
}

impl Encode<'_, Postgres> for Acting<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

type Bound<'q> = Query<'q, Postgres, PgArguments>;

/// Says that a statement does not begin with the tenant that it is for.
pub(super) fn nameless() -> DbErr {
    DbErr::Custom("the first value of a statement is its tenant".into())
}

/// Gives a statement its next value; the first one names the tenant, if there is one.
pub(super) fn bind<'q>(
    query: Bound<'q>,
    tenant: Option<&'q str>,
    value: &'q Value,
) -> Result<Bound<'q>, DbErr> {
    if let Some(tenant) = tenant {
        return if is(value, tenant) { Ok(query.bind(Acting(tenant))) } else { Err(nameless()) };
    }
    Ok(match value {
        Value::Bool(v) => query.bind(v),
        Value::BigInt(v) => query.bind(v),
        Value::BigUnsigned(v) => query.bind(v.map(|v| i64::try_from(v).unwrap_or(i64::MAX))),
        Value::String(v) => query.bind(v.as_deref()),
        Value::Bytes(v) => query.bind(v.as_deref()),
        Value::Uuid(v) => query.bind(v),
        Value::ChronoDateTimeUtc(v) => query.bind(v),
        Value::Array(ArrayType::String, Some(cells)) => query.bind(strings(cells)),
        Value::Array(ArrayType::BigInt, Some(cells)) => query.bind(numbers(cells)),
        Value::Array(ArrayType::Uuid, Some(cells)) => query.bind(uuids(cells)),
        Value::Array(ArrayType::Bytes, Some(cells)) => query.bind(bytes(cells)),
        other => return Err(DbErr::Type(format!("a statement cannot take {other:?}"))),
    })
}

fn is(value: &Value, tenant: &str) -> bool {
    matches!(value, Value::String(Some(first)) if **first == *tenant)
}

fn strings(cells: &[Value]) -> Vec<Option<&str>> {
    cells.iter().map(|cell| if let Value::String(v) = cell { v.as_deref() } else { None }).collect()
}

fn numbers(cells: &[Value]) -> Vec<Option<i64>> {
    cells.iter().map(|cell| if let Value::BigInt(v) = cell { *v } else { None }).collect()
}

fn uuids(cells: &[Value]) -> Vec<Option<Uuid>> {
    cells.iter().map(|cell| if let Value::Uuid(v) = cell { *v } else { None }).collect()
}

fn bytes(cells: &[Value]) -> Vec<Option<&[u8]>> {
    cells.iter().map(|cell| if let Value::Bytes(v) = cell { v.as_deref() } else { None }).collect()
}

/// Returns the statement that says for the rest of a transaction whose it is, and how long its parts may take.
pub(super) fn opening(tenant: Option<&str>) -> String {
    let set = |(name, value): (&str, &str)| {
        let setting = Statement::from_sql_and_values(
            DbBackend::Postgres,
            "set_config($1, $2, true)",
            [name.into(), value.into()],
        );
        setting.to_string()
    };
    let tenant = tenant.map(|tenant| ("graphloom.tenant", tenant));
    format!("select {}", TIMES.into_iter().chain(tenant).map(set).collect::<Vec<_>>().join(", "))
}

/// Writes the values into a statement.
pub(super) fn written(tenant: Option<&str>, text: &str, values: &[Value]) -> Result<String, DbErr> {
    if let Some(tenant) = tenant
        && !values.first().is_some_and(|first| is(first, tenant))
    {
        return Err(nameless());
    }
    let text = Statement::from_sql_and_values(DbBackend::Postgres, text, values.to_vec()).to_string();
    // The text would end there.
    if text.contains('\0') {
        return Err(failed(SqlxError::Encode("a text with a NUL character cannot be stored".into())));
    }
    Ok(text)
}

/// Returns the text of a statement that is a transaction by itself.
pub(super) fn alone(tenant: Option<&str>, text: &str, values: &[Value]) -> Result<String, DbErr> {
    Ok(format!("{}; {}", opening(tenant), written(tenant, text, values)?))
}
