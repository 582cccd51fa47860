//! Which server answers: the one behind an address can be another one from one connection to the next.
//!
//! Invariant: no statement is sent to a server that is another one than that which was opened, or that stands behind it: a
//! split brain, or a backup that was restored beside us. A failover goes forward, and is said.

use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{Row, raw_sql};
use tracing::{debug, error, warn};

/// What tells a server from another one, and from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    system: i64,
    /// Each promotion of a standby begins a new one.
    timeline: i32,
}

/// Reads who answers; nothing where a provider keeps that to itself.
pub(super) async fn of(connection: &mut PgConnection) -> Result<Option<Identity>, sqlx::Error> {
    let text = "select system_identifier, timeline_id from pg_control_system(), pg_control_checkpoint()";
    match raw_sql(text).fetch_one(connection).await {
        Ok(row) => Ok(Some(Identity { system: row.try_get(0)?, timeline: row.try_get(1)? })),
        Err(sqlx::Error::Database(error)) => {
            debug!(%error, "The server does not say who it is.");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Who answered last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Identity>,
    /// That another one answers was said.
    told: bool,
}

impl Known {
    /// Says whether a connection still leads to the server that answered last.
    pub(super) fn is_current(&self, identity: Option<Identity>) -> bool {
        let last = self.state().last;
        identity.is_none() || identity == last
    }

    /// Takes in who answers at a new connection, or says why nothing may be sent there.
    pub(super) fn meet(&self, found: Option<Identity>) -> Result<(), String> {
        let Some(found) = found else { return Ok(()) };
        let mut state = self.state();
        let wrong = match state.last {
            Some(last) if last.system != found.system => Some(format!(
                "another server answers: its system identifier is {}, and was {}",
                found.system, last.system
            )),
            Some(last) if last.timeline > found.timeline => Some(format!(
                "the server is behind: its timeline is {}, and was {}",
                found.timeline, last.timeline
            )),
            _ => None,
        };
        if let Some(wrong) = wrong {
            metrics::counter!("graphloom_foreign_databases_total").increment(1);
            if !std::mem::replace(&mut state.told, true) {
                error!(reason = wrong, "The database is not the one that was opened; nothing is sent to it.");
            }
            return Err(format!("{wrong}; restart this process if that is meant"));
        }
        if let Some(last) = state.last.filter(|last| *last != found) {
            warn!(
                before = last.timeline,
                now = found.timeline,
                "The database failed over, or was restored: what it had not copied is lost."
            );
        }
        *state = State { last: Some(found), told: false };
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_server_and_what_it_became_is_met() {
        let server = |system, timeline| Some(Identity { system, timeline });
        let known = Known::default();
        for (found, fine) in [
            (None, true),
            (server(7, 2), true),
            (server(8, 2), false),
            (server(7, 1), false),
            (None, true),
            (server(7, 3), true),
            (server(7, 2), false),
            (server(7, 3), true),
        ] {
            assert_eq!(known.meet(found).is_ok(), fine, "{found:?}");
        }
        assert!(known.is_current(server(7, 3)) && known.is_current(None));
        assert!(!known.is_current(server(7, 2)), "connections to what it was are given up");
    }
}
