//! The values of a state, and their stored form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::Vector;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::{Change, Channels, Delta};

/// What a channel holds. Lists are persistent vectors, so that an append costs the same however long the
/// list is, and a snapshot for a task costs nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Any value but a list.
    Value(Arc<Json>),
    /// A list, whatever the channel's type.
    List(Vector<Arc<Json>>),
}

impl Cell {
    /// Returns a copy of the value.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Value(value) => Json::clone(value),
            Self::List(items) => Json::Array(items.iter().map(|item| Json::clone(item)).collect()),
        }
    }

    /// Tells whether the cell holds this value.
    pub fn holds(&self, value: &Json) -> bool {
        match (self, value) {
            (Self::Value(found), value) => **found == *value,
            (Self::List(items), Json::Array(values)) => {
                items.len() == values.len() && items.iter().zip(values).all(|(item, value)| **item == *value)
            }
            (Self::List(_), _) => false,
        }
    }
}

impl From<Json> for Cell {
    fn from(value: Json) -> Self {
        match value {
            Json::Array(items) => Self::List(items.into_iter().map(Arc::new).collect()),
            value => Self::Value(Arc::new(value)),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(s),
            Self::List(items) => s.collect_seq(items.iter()),
        }
    }
}

/// The values of all channels that are set. Cheap to clone, whatever it holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State(Arc<Values>);

#[derive(Debug, Clone, PartialEq, Default)]
struct Values {
    cells: BTreeMap<String, Cell>,
    /// The channels that were written since they were started or cleared: `first` asks for it.
    written: BTreeSet<String>,
}

/// The stored form. A reader tolerates keys that it does not know.
#[derive(Serialize)]
struct Stored<'a> {
    values: &'a BTreeMap<String, Cell>,
    written: &'a BTreeSet<String>,
}

#[derive(Deserialize)]
struct Loaded {
    values: BTreeMap<String, Json>,
    #[serde(default)]
    written: BTreeSet<String>,
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Stored { values: &self.0.cells, written: &self.0.written }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Loaded { values, written } = Loaded::deserialize(d)?;
        let cells = values.into_iter().map(|(name, value)| (name, Cell::from(value))).collect();
        Ok(Self(Arc::new(Values { cells, written })))
    }
}

/// The leading byte of the stored form.
const FORMAT: u8 = 1;

/// Why bytes are not a stored state.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer build wrote it.
    #[error("format {found} of a stored state is not {FORMAT}")]
    Format {
        /// The leading byte; 0 when there is none.
        found: u8,
    },
    /// The bytes are damaged.
    #[error("a stored state is not the JSON that it should be")]
    Json(#[from] serde_json::Error),
}

impl State {
    /// Returns the state of a new thread: the channels with a start value.
    pub fn initial(channels: &Channels) -> Self {
        let mut state = Self::default();
        state.begin_run(channels);
        state
    }

    /// Returns what a channel holds, if it is set.
    pub fn get(&self, channel: &str) -> Option<&Cell> {
        self.0.cells.get(channel)
    }

    /// Returns a copy of what a channel holds, if it is set.
    pub fn json(&self, channel: &str) -> Option<Json> {
        self.0.cells.get(channel).map(Cell::to_json)
    }

    /// Tells whether anything was written to a channel since it was started or cleared.
    pub fn is_written(&self, channel: &str) -> bool {
        self.0.written.contains(channel)
    }

    /// Returns the names of the channels that are set, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.cells.keys().map(String::as_str)
    }

    /// Returns the channels that are set and not private, as an object.
    pub fn public(&self, channels: &Channels) -> Json {
        let shown = channels.iter().filter(|(_, channel)| !channel.private);
        Json::Object(shown.filter_map(|(name, _)| Some((name.clone(), self.json(name)?))).collect())
    }

    /// Returns the stored form: a byte for the format, then JSON. The same writes on the same state give
    /// the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        serde_json::to_writer(&mut bytes, self)
            .expect("JSON values under text keys can be written to memory");
        bytes
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((&FORMAT, json)) = bytes.split_first() else {
            return Err(DecodeError::Format { found: bytes.first().copied().unwrap_or(0) });
        };
        Ok(serde_json::from_slice(json)?)
    }

    /// Does what a barrier did.
    pub fn apply(&mut self, delta: &Delta) {
        if delta.is_empty() {
            return;
        }
        let values = Arc::make_mut(&mut self.0);
        for (name, change) in delta {
            match change {
                Change::Start(value) => {
                    values.cells.insert(name.clone(), value.clone().into());
                    values.written.remove(name);
                }
                Change::Set(value) => {
                    values.cells.insert(name.clone(), value.clone().into());
                    values.written.insert(name.clone());
                }
                Change::Extend(items) => {
                    let items = items.iter().cloned().map(Arc::new);
                    if let Some(Cell::List(list)) = values.cells.get_mut(name) {
                        list.extend(items);
                    } else {
                        values.cells.insert(name.clone(), Cell::List(items.collect()));
                    }
                    values.written.insert(name.clone());
                }
                Change::Unset => {
                    values.cells.remove(name);
                    values.written.remove(name);
                }
            }
        }
    }

    /// Begins a run: channels with `keep: run` go back to their start, and channels that are new since
    /// the last checkpoint get theirs.
    pub fn begin_run(&mut self, channels: &Channels) -> Delta {
        let mut delta = Delta::new();
        for (name, channel) in channels {
            if (channel.per_run || !self.0.cells.contains_key(name))
                && let Some(change) = self.restart(name, channel.start())
            {
                delta.insert(name.clone(), change);
            }
        }
        self.apply(&delta);
        delta
    }

    /// Returns what brings a channel back to its start; none if it is there.
    pub(super) fn restart(&self, name: &str, start: Option<Json>) -> Option<Change> {
        match (self.0.cells.get(name), start) {
            (None, None) => None,
            (Some(cell), Some(start)) if !self.is_written(name) && cell.holds(&start) => None,
            (_, Some(start)) => Some(Change::Start(start)),
            (Some(_), None) => Some(Change::Unset),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Channel, Field, Merge, Type};

    fn channel(ty: Type, merge: Merge) -> Channel {
        Channel { field: Field::of(ty), merge, private: false, per_run: false }
    }

    #[test]
    fn a_state_begins_with_the_start_values_and_shows_what_is_not_private() {
        let channels = Channels::from([
            ("log".to_owned(), channel(Type::List(Box::new(Type::STRING)), Merge::Append)),
            ("n".to_owned(), Channel { private: true, ..channel(Type::INTEGER, Merge::Add) }),
            ("x".to_owned(), channel(Type::STRING, Merge::Replace)),
        ]);
        let state = State::initial(&channels);
        assert_eq!(state.names().collect::<Vec<_>>(), ["log", "n"]);
        assert_eq!(state.public(&channels), json!({"log": []}));
        assert!(!state.is_written("log"));
    }

    #[test]
    fn a_run_begins_with_per_run_channels_at_their_start_and_new_channels_set() {
        let per_run = |ty, merge| Channel { per_run: true, ..channel(ty, merge) };
        let mut channels = Channels::from([
            ("kept".to_owned(), channel(Type::INTEGER, Merge::Add)),
            ("count".to_owned(), per_run(Type::INTEGER, Merge::Add)),
            ("word".to_owned(), per_run(Type::STRING, Merge::Replace)),
        ]);
        let mut state = State::initial(&channels);
        state.apply(&Delta::from([
            ("kept".to_owned(), Change::Set(json!(5))),
            ("count".to_owned(), Change::Set(json!(5))),
            ("word".to_owned(), Change::Set(json!("w"))),
        ]));
        channels.insert("new".to_owned(), channel(Type::Object, Merge::Merge));
        let old = state.clone();
        let delta = state.begin_run(&channels);
        assert_eq!(
            delta,
            Delta::from([
                ("count".to_owned(), Change::Start(json!(0))),
                ("new".to_owned(), Change::Start(json!({}))),
                ("word".to_owned(), Change::Unset),
            ])
        );
        let mut replayed = old;
        replayed.apply(&delta);
        assert_eq!(replayed, state);
        assert_eq!(state.begin_run(&channels), Delta::new());
    }

    #[test]
    fn a_stored_state_holds_lists_as_lists_and_refuses_other_formats() {
        let mut state = State::default();
        state.apply(&Delta::from([
            ("a".to_owned(), Change::Set(json!([1, [2]]))),
            ("b".to_owned(), Change::Start(json!({"z": 1, "a": 0.1}))),
        ]));
        let bytes = state.encode();
        assert_eq!(bytes[0], 1);
        assert_eq!(&bytes[1..], br#"{"values":{"a":[1,[2]],"b":{"z":1,"a":0.1}},"written":["a"]}"#);
        let read = State::decode(&bytes).unwrap();
        assert_eq!(read, state);
        assert!(matches!(read.get("a"), Some(Cell::List(_))));
        assert!(matches!(State::decode(&[2, b'{', b'}']), Err(DecodeError::Format { found: 2 })));
        assert!(matches!(State::decode(&[]), Err(DecodeError::Format { found: 0 })));
        assert!(matches!(State::decode(&[1, b'{']), Err(DecodeError::Json(_))));
    }
}
