//! Channels, types, merges and writes.
//!
//! Invariant: pure. The same writes on the same state give the same state and the same bytes.

mod check;
mod fold;
mod schema;
mod types;
mod value;

pub use check::{Mismatch, check_pattern};
pub use fold::{Change, Delta, MergeError, Write, fold, fold_writes, overlay};
pub use schema::Loose;
pub(crate) use types::ROLES;
pub use types::{Channel, Channels, Field, Merge, Type, UnknownMerge};
pub use value::{Cell, DecodeError, State};
