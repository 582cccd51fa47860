//! Sorts the errors of the driver by what may have happened to the write.
//!
//! Invariant: only an error that proves that nothing was stored becomes something else than `Unknown` for a write.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

use crate::store::StoreError;

/// What an error says about the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It was never sent.
    Unsent,
    /// The connection broke under it.
    Cut,
    /// The database undid it because of another one; the same again can succeed.
    Race,
    /// The database undid it for want of time, space or rights to write.
    Refused,
    /// The tables are not there, or older than this.
    NoTables,
    /// It does not fit the tables.
    Wrong,
}

fn class(error: &DbErr) -> Class {
    match error {
        // Nobody can log in to become a role that the first migration makes.
        DbErr::Conn(RuntimeErr::SqlxError(e)) if is_code(e, "22023") => Class::NoTables,
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Class::Unsent,
        DbErr::Exec(RuntimeErr::SqlxError(e)) | DbErr::Query(RuntimeErr::SqlxError(e)) => match &**e {
            SqlxError::Database(e) if e.is_unique_violation() => Class::Race,
            SqlxError::Database(e) => code(e.code().as_deref().unwrap_or_default()),
            SqlxError::PoolTimedOut | SqlxError::PoolClosed => Class::Unsent,
            SqlxError::ColumnDecode { .. }
            | SqlxError::ColumnNotFound(_)
            | SqlxError::ColumnIndexOutOfBounds { .. }
            | SqlxError::Decode(_)
            | SqlxError::Encode(_) => Class::Wrong,
            SqlxError::TypeNotFound { .. } => Class::NoTables,
            _ => Class::Cut,
        },
        _ => Class::Wrong,
    }
}

/// Sorts an SQLSTATE; the shorter codes of SQLite all mean that the statement was undone.
fn code(code: &str) -> Class {
    match code {
        "40001" | "40P01" => Class::Race,
        "57P01" | "57P02" | "57P03" | "57P05" => Class::Cut,
        "42P01" | "42883" => Class::NoTables,
        _ if code.len() != 5 => Class::Refused,
        _ if code.starts_with("08") => Class::Cut,
        _ if ["22", "23", "42"].iter().any(|class| code.starts_with(class)) => Class::Wrong,
        _ => Class::Refused,
    }
}

/// Tells whether the same again can succeed because another statement was in the way.
pub(super) fn is_race(error: &DbErr) -> bool {
    class(error) == Class::Race
}

/// Tells whether the statement was undone because somebody else held a lock.
pub(super) fn is_locked(error: &DbErr) -> bool {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(e)) | DbErr::Query(RuntimeErr::SqlxError(e)) => is_code(e, "55P03"),
        _ => false,
    }
}

fn is_code(error: &SqlxError, code: &str) -> bool {
    error.as_database_error().is_some_and(|e| e.code().as_deref() == Some(code))
}

fn settle(error: &DbErr, cut: fn(String) -> StoreError) -> StoreError {
    match class(error) {
        Class::Cut => cut(error.to_string()),
        Class::Unsent | Class::Race | Class::Refused => StoreError::Unavailable(error.to_string()),
        Class::NoTables => {
            StoreError::Config(format!("the database is not at this version, migrate it first: {error}"))
        }
        Class::Wrong => StoreError::Corrupt { what: "row", why: error.to_string() },
    }
}

/// Translates the error of a read, or of a write that is undone with its connection.
pub(super) fn undone(error: &DbErr) -> StoreError {
    settle(error, StoreError::Unavailable)
}

/// Translates the error of a statement or commit that may have been carried out.
pub(super) fn unsure(error: &DbErr) -> StoreError {
    settle(error, StoreError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_leaves_a_write_unknown_and_a_read_unavailable() {
        let cut = || DbErr::Query(RuntimeErr::SqlxError(SqlxError::WorkerCrashed.into()));
        assert!(matches!(unsure(&cut()), StoreError::Unknown(_)));
        assert!(matches!(undone(&cut()), StoreError::Unavailable(_)));
    }

    #[test]
    fn a_full_pool_leaves_a_write_unsent() {
        let full = DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout);
        assert!(matches!(unsure(&full), StoreError::Unavailable(_)));
    }

    #[test]
    fn a_code_says_whether_the_statement_was_undone() {
        for (text, class) in [
            ("40P01", Class::Race),
            ("57P01", Class::Cut),
            ("57014", Class::Refused),
            ("55P03", Class::Refused),
            ("53300", Class::Refused),
            ("22021", Class::Wrong),
            ("42P01", Class::NoTables),
            ("5", Class::Refused),
        ] {
            assert_eq!(code(text), class, "{text}");
        }
    }
}
