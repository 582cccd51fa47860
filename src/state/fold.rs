//! How the writes of a superstep join the state.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::Vector;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value as Json};

use super::check::{Mismatch, check_message, kind, shown};
use super::{Cell, Channel, Channels, Merge, State};
use crate::id::TaskId;

/// A value on its way to a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// Joins the channel by its merge.
    Put {
        /// Where it goes.
        channel: String,
        /// What is written.
        value: Json,
    },
    /// Resets the channel to its start value, before all puts of the superstep.
    Clear {
        /// Which one.
        channel: String,
    },
}

impl Write {
    /// Returns the channel that it goes to.
    pub fn channel(&self) -> &str {
        match self {
            Self::Put { channel, .. } | Self::Clear { channel } => channel,
        }
    }
}

/// What a barrier did to one channel. Independent of merges, so that an old checkpoint loads whatever
/// the graph says today.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The channel holds its start value again; that does not count as a write.
    Start(Json),
    /// The channel holds this now.
    Set(Json),
    /// These items came to the end of the list.
    Extend(Vec<Json>),
    /// The channel holds nothing now.
    Unset,
}

impl Change {
    /// Joins this change with a later one of the same channel: the two in one.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        let Self::Extend(more) = later else { return later };
        let longer = |mut items: Vec<Json>| {
            items.extend(more.iter().cloned());
            items
        };
        match self {
            Self::Extend(items) => Self::Extend(longer(items)),
            Self::Set(Json::Array(items)) | Self::Start(Json::Array(items)) => {
                Self::Set(Json::Array(longer(items)))
            }
            // Nothing that could be extended was there: the items are all there is.
            Self::Set(_) | Self::Start(_) | Self::Unset => Self::Set(Json::Array(more)),
        }
    }
}

/// What a barrier did, by channel.
pub type Delta = BTreeMap<String, Change>;

/// Adds what came later to a change of the state.
pub fn join(delta: &mut Delta, later: Delta) {
    for (channel, change) in later {
        let change = match delta.remove(&channel) {
            Some(earlier) => earlier.then(change),
            None => change,
        };
        delta.insert(channel, change);
    }
}

/// Why a write cannot join its channel.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// Two writes of one superstep meet in a `replace` channel.
    #[error("two writes to `{channel}` in one superstep")]
    Conflict {
        /// The channel.
        channel: String,
    },
    /// The value does not have the channel's type.
    #[error("a write to `{channel}` does not fit: {why}")]
    Type {
        /// The channel.
        channel: String,
        /// What was due and what kind of value was found; never the value.
        why: Mismatch,
    },
    /// A message to remove is not there.
    #[error("`{channel}` has no message `{id}` to remove")]
    UnknownMessage {
        /// The channel.
        channel: String,
        /// The id that was asked for, shortened.
        id: String,
    },
    /// The graph has no such channel.
    #[error("there is no channel `{channel}`")]
    UnknownChannel {
        /// The name that was asked for.
        channel: String,
    },
}

/// A put on its way through a merge.
struct Put<'a> {
    task: &'a TaskId,
    /// How many messages the task wrote before: names the messages without an id.
    rank: usize,
    value: &'a Json,
}

/// Folds the writes of a superstep into the state: all clears first, then the puts in the order given.
/// Returns the new state and the smallest delta from the old one to it.
pub fn fold(
    channels: &Channels,
    state: &State,
    tasks: &[(TaskId, Vec<Write>)],
) -> Result<(State, Delta), MergeError> {
    fold_writes(channels, state, tasks.iter().map(|(task, writes)| (task, writes.as_slice())))
}

/// Returns the state as one task's own edges see it: the state plus that task's writes.
pub fn overlay(
    channels: &Channels,
    state: &State,
    task: &TaskId,
    writes: &[Write],
) -> Result<State, MergeError> {
    fold_writes(channels, state, [(task, writes)]).map(|(state, _)| state)
}

/// The same as [`fold`] for some of the writes of tasks.
pub fn fold_writes<'a, W: IntoIterator<Item = &'a Write>>(
    channels: &Channels,
    state: &State,
    tasks: impl IntoIterator<Item = (&'a TaskId, W)>,
) -> Result<(State, Delta), MergeError> {
    let mut cleared = BTreeSet::new();
    let mut puts = BTreeMap::<&str, Vec<Put>>::new();
    for (task, writes) in tasks {
        let mut rank = 0;
        for write in writes {
            match write {
                Write::Clear { channel } => {
                    cleared.insert(channel.as_str());
                    puts.entry(channel).or_default();
                }
                Write::Put { channel, value } => {
                    puts.entry(channel).or_default().push(Put { task, rank, value });
                    rank += value.as_array().map_or(1, Vec::len);
                }
            }
        }
    }
    let mut delta = Delta::new();
    for (name, puts) in puts {
        let channel =
            channels.get(name).ok_or_else(|| MergeError::UnknownChannel { channel: name.to_owned() })?;
        if puts.iter().any(|put| !is_flat(put.value, DEEPEST)) {
            let why = format!("more than {DEEPEST} lists and objects within each other");
            return Err(MergeError::Type { channel: name.to_owned(), why: Mismatch::here(why) });
        }
        let merging = Merging { name, channel, state, cleared: cleared.contains(name) };
        if let Some(change) = merging.change(&puts)? {
            delta.insert(name.to_owned(), change);
        }
    }
    let mut new = state.clone();
    new.apply(&delta);
    Ok((new, delta))
}

/// The most lists and objects of a value within each other. What is stored is read back up to 128, with what is around
/// the value.
const DEEPEST: usize = 64;

/// Says whether a value nests no deeper than this.
fn is_flat(value: &Json, left: usize) -> bool {
    match value {
        Json::Array(items) => left > 0 && items.iter().all(|item| is_flat(item, left - 1)),
        Json::Object(fields) => left > 0 && fields.values().all(|field| is_flat(field, left - 1)),
        _ => true,
    }
}

/// One channel, before its puts.
struct Merging<'a> {
    name: &'a str,
    channel: &'a Channel,
    state: &'a State,
    cleared: bool,
}

impl Merging<'_> {
    /// Returns what clears and puts do to the channel; none if it stays as it is.
    fn change(&self, puts: &[Put]) -> Result<Option<Change>, MergeError> {
        if puts.is_empty() {
            return Ok(self.state.restart(self.name, self.channel.start()));
        }
        match self.channel.merge {
            Merge::Replace => {
                if puts.iter().any(|put| put.task != puts[0].task) {
                    return Err(MergeError::Conflict { channel: self.name.to_owned() });
                }
                // The last one wins; the others must fit all the same.
                let mut last = Json::Null;
                for put in puts {
                    last = self.typed(put.value)?;
                }
                Ok(self.set(last))
            }
            Merge::First => {
                for put in puts {
                    self.typed(put.value)?;
                }
                if self.state.is_written(self.name) && !self.cleared {
                    return Ok(None);
                }
                // A write of what the default says is a write: it keeps later ones out.
                let value = self.typed(puts[0].value)?;
                let same = self.state.is_written(self.name)
                    && self.state.get(self.name).is_some_and(|cell| cell.holds(&value));
                Ok((!same).then_some(Change::Set(value)))
            }
            Merge::Add => self.scan(puts, |sum, value| add(sum.unwrap_or(&Json::from(0)), value)),
            Merge::Max => self.scan(puts, |held, value| pick(held, value, Ordering::Greater)),
            Merge::Min => self.scan(puts, |held, value| pick(held, value, Ordering::Less)),
            Merge::Merge => self.merge(puts),
            Merge::Append => self.extend(puts, |_, _| true),
            Merge::Union => self.extend(puts, |held, new| !held.iter().any(|item| **item == *new)),
            Merge::Messages => self.messages(puts),
        }
    }

    /// Returns the channel's value as the puts find it.
    fn held(&self) -> Option<Cell> {
        if self.cleared { self.channel.start().map(Cell::from) } else { self.state.get(self.name).cloned() }
    }

    fn set(&self, value: Json) -> Option<Change> {
        let same = self.state.get(self.name).is_some_and(|cell| cell.holds(&value));
        // Where a cleared channel comes back to what it held, nothing has happened.
        (!same).then_some(Change::Set(value))
    }

    fn mismatch(&self, why: &Mismatch) -> MergeError {
        MergeError::Type { channel: self.name.to_owned(), why: why.clone() }
    }

    /// Checks a value against the channel's type and fills it.
    fn typed(&self, value: &Json) -> Result<Json, MergeError> {
        let mut value = value.clone();
        self.channel.field.ty.check(&value).map_err(|e| self.mismatch(&e))?;
        self.channel.field.ty.fill(&mut value);
        Ok(value)
    }

    /// Joins value after value.
    fn scan(
        &self,
        puts: &[Put],
        join: impl Fn(Option<&Json>, &Json) -> Result<Json, Mismatch>,
    ) -> Result<Option<Change>, MergeError> {
        let mut held = self.held().map(|cell| cell.to_json()).filter(|value| !value.is_null());
        for put in puts {
            let value = self.typed(put.value)?;
            if value.is_null() {
                return Err(
                    self.mismatch(&Mismatch::here(format!("null cannot join by `{}`", self.channel.merge)))
                );
            }
            let joined = join(held.as_ref(), &value).map_err(|e| self.mismatch(&e))?;
            // A sum may leave the bounds that each of its parts keeps.
            held = Some(self.typed(&joined)?);
        }
        Ok(held.and_then(|value| self.set(value)))
    }

    fn merge(&self, puts: &[Put]) -> Result<Option<Change>, MergeError> {
        let mut held = match self.held().map(|cell| cell.to_json()) {
            Some(Json::Object(fields)) => fields,
            _ => Map::new(),
        };
        for put in puts {
            let Json::Object(fields) = put.value else {
                let why = format!("expected an object, found {}", kind(put.value));
                return Err(self.mismatch(&Mismatch::here(why)));
            };
            self.channel.check_held(put.value).map_err(|e| self.mismatch(&e))?;
            for (name, value) in fields {
                let mut value = value.clone();
                if let Some(ty) = self.channel.field.ty.non_null().field(name) {
                    ty.fill(&mut value);
                }
                held.insert(name.clone(), value);
            }
        }
        Ok(self.set(Json::Object(held)))
    }

    /// Adds the items that `wanted` lets through to the end of the list.
    fn extend(
        &self,
        puts: &[Put],
        wanted: impl Fn(&Vector<Arc<Json>>, &Json) -> bool,
    ) -> Result<Option<Change>, MergeError> {
        let item_type = self.channel.item_type();
        let mut list = self.list();
        let mut new = Vec::new();
        for put in puts {
            for item in self.channel.items(put.value).map_err(|e| self.mismatch(&e))? {
                if wanted(&list, item) {
                    let mut item = item.clone();
                    item_type.fill(&mut item);
                    list.push_back(Arc::new(item.clone()));
                    new.push(item);
                }
            }
        }
        Ok(self.extended(&list, new))
    }

    /// Returns the list as the puts find it.
    fn list(&self) -> Vector<Arc<Json>> {
        match self.held() {
            Some(Cell::List(items)) => items,
            _ => Vector::new(),
        }
    }

    /// Returns the change to `list`, of which the items `new` came to its end.
    fn extended(&self, list: &Vector<Arc<Json>>, new: Vec<Json>) -> Option<Change> {
        if !self.cleared && matches!(self.state.get(self.name), Some(Cell::List(_))) {
            (!new.is_empty()).then_some(Change::Extend(new))
        } else {
            self.set(Json::Array(list.iter().map(|item| Json::clone(item)).collect()))
        }
    }

    fn messages(&self, puts: &[Put]) -> Result<Option<Change>, MergeError> {
        let mut list = self.list();
        let old = list.len();
        let mut new = Vec::new();
        let mut only_new = true;
        for put in puts {
            let items = match put.value {
                Json::Array(items) => items.as_slice(),
                value => std::slice::from_ref(value),
            };
            for (n, item) in items.iter().enumerate() {
                if let Some(id) = removal(item) {
                    only_new = false;
                    if id == "*" {
                        list.clear();
                    } else {
                        let at = position(&list, id).ok_or_else(|| MergeError::UnknownMessage {
                            channel: self.name.to_owned(),
                            id: shown(id),
                        })?;
                        list.remove(at);
                    }
                    continue;
                }
                let place = |e: Mismatch| if put.value.is_array() { e.within(&n.to_string()) } else { e };
                check_message(item).map_err(|e| self.mismatch(&place(e)))?;
                let (message, given) = with_id(item, put.task, put.rank + n);
                // A derived id is new to the list: it names the task.
                let at = given.and_then(|id| position(&list, id));
                if let Some(at) = at {
                    if *list[at] == message {
                        continue;
                    }
                    match at.checked_sub(old) {
                        // Still to be appended, so the list as stored does not change.
                        Some(nth) if only_new => new[nth] = message.clone(),
                        _ => only_new = false,
                    }
                    list.set(at, Arc::new(message));
                } else {
                    list.push_back(Arc::new(message.clone()));
                    new.push(message);
                }
            }
        }
        if only_new {
            Ok(self.extended(&list, new))
        } else {
            Ok(self.set(Json::Array(list.iter().map(|item| Json::clone(item)).collect())))
        }
    }
}

/// Returns the id of `{remove: ID}`.
fn removal(item: &Json) -> Option<&str> {
    match item {
        Json::Object(keys) if keys.len() == 1 => keys.get("remove")?.as_str(),
        _ => None,
    }
}

/// Returns the place of a message. Messages are stored with their id in front, so that looking through a
/// long conversation reads one key of each.
fn position(list: &Vector<Arc<Json>>, id: &str) -> Option<usize> {
    list.iter().position(|message| {
        let Json::Object(keys) = &**message else { return false };
        let found = match keys.iter().next() {
            Some((key, value)) if key == "id" => Some(value),
            _ => keys.get("id"),
        };
        found.and_then(Json::as_str) == Some(id)
    })
}

/// Returns the message with its id in front, and the id if the writer gave it. One without gets an id
/// that is the same when the task runs again.
fn with_id<'a>(message: &'a Json, task: &TaskId, rank: usize) -> (Json, Option<&'a str>) {
    let Json::Object(keys) = message else { return (message.clone(), None) };
    let given = keys.get("id").and_then(Json::as_str);
    let id = given.map_or_else(|| format!("{task}-{rank}"), str::to_owned);
    let rest = keys.iter().filter(|(key, _)| *key != "id").map(|(key, value)| (key.clone(), value.clone()));
    let keys = std::iter::once(("id".to_owned(), Json::String(id))).chain(rest).collect();
    (Json::Object(keys), given)
}

fn add(sum: &Json, value: &Json) -> Result<Json, Mismatch> {
    let number = |value: &Json| match value {
        Json::Number(n) => Ok(n.clone()),
        other => Err(Mismatch::here(format!("expected a number, found {}", kind(other)))),
    };
    let (a, b) = (number(sum)?, number(value)?);
    let total = match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Number::from),
        _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| Number::from_f64(a + b)),
    };
    total.map(Json::Number).ok_or_else(|| Mismatch::here("the sum needs more than 64 bits"))
}

/// Returns the one of two values that lies to the side of `side`.
fn pick(held: Option<&Json>, value: &Json, side: Ordering) -> Result<Json, Mismatch> {
    let Some(held) = held else { return Ok(value.clone()) };
    let order = match (value, held) {
        (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
        (Json::Number(a), Json::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        },
        _ => None,
    };
    match order {
        Some(order) if order == side => Ok(value.clone()),
        Some(_) => Ok(held.clone()),
        None => Err(Mismatch::here(format!("{} and {} have no order", kind(value), kind(held)))),
    }
}

#[cfg(test)]
mod tests;
