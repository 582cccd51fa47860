//! Channels, types, merges and writes.
//!
//! Invariant: pure. The same writes on the same state give the same state and the same bytes.

mod accepts;
mod check;
mod fold;
mod named;
mod schema;
mod types;
mod union;
mod value;

pub(crate) use accepts::is_turn;
pub(crate) use check::kind;
pub use check::{Mismatch, check_pattern};
pub use fold::{Change, Delta, MergeError, Write, fold, fold_writes, join, overlay};
pub use named::{Knot, Named};
pub use schema::{Loose, Schemas};
pub(crate) use types::ROLES;
pub use types::{Channel, Channels, Field, Merge, Type, UnknownMerge};
pub(crate) use union::{either, nullable};
pub use value::{Cell, DecodeError, State};
