//! Channels, types, merges and writes.
//!
//! Invariant: pure. The same writes on the same state give the same state and the same bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::Vector;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One type language for state, input, output and prompt inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// A text, with optional rules.
    String { pattern: Option<String>, min: Option<u64>, max: Option<u64> },
    /// A whole number within optional bounds.
    Integer { min: Option<i64>, max: Option<i64> },
    /// A number within optional bounds.
    Number { min: Option<f64>, max: Option<f64> },
    /// `true` or `false`.
    Boolean,
    /// An object of which nothing is known.
    Object,
    /// Anything; its fields are checked when they are read.
    Any,
    /// The conversation: chat turns, merged by id.
    Messages,
    /// One of these texts.
    Enum(Vec<String>),
    /// A list.
    List(Box<Type>),
    /// An object with exactly these fields, in the order written.
    Record(IndexMap<String, Field>),
    /// The type, or null.
    Nullable(Box<Type>),
}

/// A field of a record, an input, or what a channel holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its type; `Nullable` when it may be left out.
    pub ty: Type,
    /// Used when it is left out.
    pub default: Option<Json>,
    /// For people and for models.
    pub description: Option<String>,
}

/// How a write joins its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merge {
    #[default]
    Replace,
    Append,
    Add,
    Union,
    Merge,
    First,
    Max,
    Min,
    Messages,
}

/// One key of the state.
#[derive(Debug, Clone, PartialEq)]
pub struct Channel {
    /// What it holds.
    pub field: Field,
    /// How writes join it.
    pub merge: Merge,
    /// Kept out of outputs, events and the public state.
    pub private: bool,
    /// Starts anew with each run (`keep: run`).
    pub per_run: bool,
}

/// The channels of a graph by name.
pub type Channels = BTreeMap<String, Channel>;

/// What a channel holds. Lists that grow are persistent vectors, so that an append costs the same
/// however long the list is, and a snapshot for a task costs nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Any value but a list of a growing channel.
    Value(Arc<Json>),
    /// The list of an `append`, `union` or `messages` channel.
    List(Vector<Arc<Json>>),
}

/// The values of all channels that are set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    cells: BTreeMap<String, Cell>,
}

/// A value on its way to a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// Joins the channel by its merge.
    Put { channel: String, value: Json },
    /// Resets the channel to its start value, before all puts of the superstep.
    Clear { channel: String },
}

/// What a barrier did to one channel. Independent of merges, so that an old checkpoint loads whatever
/// the graph says today.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The channel holds this now.
    Set(Json),
    /// These items came to the end of the list.
    Extend(Vec<Json>),
    /// The channel holds nothing now.
    Unset,
}

/// What a barrier did, by channel.
pub type Delta = BTreeMap<String, Change>;

/// Why a write cannot join its channel.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// Two writes of one superstep meet in a `replace` channel.
    #[error("two writes to `{channel}` in one superstep")]
    Conflict { channel: String },
    /// The value does not have the channel's type.
    #[error("a write to `{channel}` does not fit: {why}")]
    Type { channel: String, why: String },
    /// A message to remove is not there.
    #[error("`{channel}` has no message `{id}` to remove")]
    UnknownMessage { channel: String, id: String },
    /// The graph has no such channel.
    #[error("there is no channel `{channel}`")]
    UnknownChannel { channel: String },
}
