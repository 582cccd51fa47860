//! The names that expressions and templates see, as values that read the state in place.

use std::fmt;
use std::sync::Arc;

use imbl::Vector;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::{Map, Number, Value as Json};

use crate::state::{Cell, State};

/// The names that expressions and templates see. Cheap to build and to clone: nothing is copied.
#[derive(Clone, Default)]
pub struct Scope {
    names: Vec<(Arc<str>, Value)>,
}

impl Scope {
    /// Returns a scope without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `state`.
    #[must_use]
    pub fn state(self, state: State) -> Self {
        self.with("state", Value::from_object(StateObject(state)))
    }

    /// Adds a name for a shared document.
    #[must_use]
    pub fn json(self, name: &str, value: Arc<Json>) -> Self {
        self.with(name, from_json(value))
    }

    /// Adds a name for a value.
    #[must_use]
    pub fn value(self, name: &str, value: impl Into<Json>) -> Self {
        self.json(name, Arc::new(value.into()))
    }

    /// Adds a name for a channel of a state, without a copy; nothing where the channel is not set.
    #[must_use]
    pub fn channel(self, name: &str, state: &State, channel: &str) -> Self {
        match state.get(channel) {
            Some(cell) => self.with(name, from_cell(cell)),
            None => self,
        }
    }

    /// A later value of a name hides an earlier one.
    fn with(mut self, name: &str, value: Value) -> Self {
        self.names.retain(|(known, _)| &**known != name);
        self.names.push((name.into(), value));
        self
    }

    /// Returns the value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.names.iter().find(|(known, _)| &**known == name).map(|(_, value)| value)
    }

    /// Returns the scope as what a template is rendered on.
    pub(crate) fn root(&self) -> Value {
        Value::from_object(self.clone())
    }
}

/// Shows names only: values may be secret.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.iter().map(|(name, _)| name)).finish()
    }
}

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.names.iter().map(|(name, _)| Value::from(&**name)).collect())
    }
}

/// `state`: the channels as fields.
struct StateObject(State);

impl fmt::Debug for StateObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.names()).finish()
    }
}

impl Object for StateObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.get(key).map(from_cell)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.names().map(Value::from).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.names().len())
    }
}

/// The list of a channel.
struct ListObject(Vector<Arc<Json>>);

impl fmt::Debug for ListObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0.len())
    }
}

impl Object for ListObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).map(|item| from_json(Arc::clone(item)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// A list or an object within a shared document: the document and the way to the part.
struct Doc {
    root: Arc<Json>,
    way: Box<[Step]>,
}

#[derive(Clone)]
enum Step {
    Key(Arc<str>),
    Index(usize),
}

impl Doc {
    fn json(&self) -> &Json {
        let part = self.way.iter().try_fold(&*self.root, |json, step| match (step, json) {
            (Step::Key(key), Json::Object(fields)) => fields.get(&**key),
            (Step::Index(index), Json::Array(items)) => items.get(*index),
            _ => None,
        });
        // The way was taken when the part was found, and a shared document does not change.
        part.unwrap_or(&Json::Null)
    }

    fn part(&self, json: &Json, step: impl FnOnce() -> Step) -> Value {
        from_scalar(json).unwrap_or_else(|| {
            let way = self.way.iter().cloned().chain([step()]).collect();
            Value::from_object(Self { root: Arc::clone(&self.root), way })
        })
    }
}

impl fmt::Debug for Doc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.json().is_array() { "a list" } else { "an object" })
    }
}

impl Object for Doc {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.json().is_array() { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match self.json() {
            Json::Array(items) => {
                let index = key.as_usize()?;
                items.get(index).map(|item| self.part(item, || Step::Index(index)))
            }
            _ => self.get_value_by_str(key.as_str()?),
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.json().as_object()?.get(key).map(|field| self.part(field, || Step::Key(key.into())))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.json() {
            Json::Array(items) => Enumerator::Seq(items.len()),
            Json::Object(fields) => {
                Enumerator::Values(fields.keys().map(|key| Value::from(&**key)).collect())
            }
            _ => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        match self.json() {
            Json::Array(items) => Some(items.len()),
            Json::Object(fields) => Some(fields.len()),
            _ => Some(0),
        }
    }
}

/// An object literal: its fields stay in the order written.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Vec<(Arc<str>, Value)>);

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.iter().find(|(name, _)| &**name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| Value::from(&**name)).collect())
    }
}

fn from_cell(cell: &Cell) -> Value {
    match cell {
        Cell::Value(value) => from_json(Arc::clone(value)),
        Cell::List(items) => Value::from_object(ListObject(items.clone())),
    }
}

fn from_json(json: Arc<Json>) -> Value {
    from_scalar(&json).unwrap_or_else(|| Value::from_object(Doc { root: json, way: Box::default() }))
}

/// Returns the value of anything but a list or an object.
fn from_scalar(json: &Json) -> Option<Value> {
    match json {
        Json::Null => Some(Value::from(())),
        Json::Bool(b) => Some(Value::from(*b)),
        Json::Number(n) => Some(match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (_, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        }),
        Json::String(text) => Some(Value::from(text.as_str())),
        Json::Array(_) | Json::Object(_) => None,
    }
}

/// Returns a value as JSON. What came from a document is copied as it is there.
pub(super) fn to_json(value: &Value) -> Result<Json, Error> {
    if let Some(doc) = value.downcast_object_ref::<Doc>() {
        return Ok(doc.json().clone());
    }
    if let Some(list) = value.downcast_object_ref::<ListObject>() {
        return Ok(Json::Array(list.0.iter().map(|item| Json::clone(item)).collect()));
    }
    let refused = |why: &'static str| Error::new(ErrorKind::InvalidOperation, why);
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => Ok(Json::Null),
        ValueKind::Bool => Ok(Json::Bool(value.is_true())),
        ValueKind::Number => {
            number(value).map(Json::Number).ok_or_else(|| refused("the number needs more than 64 bits"))
        }
        ValueKind::String => Ok(Json::String(value.as_str().unwrap_or_default().to_owned())),
        ValueKind::Seq | ValueKind::Iterable => {
            if let Some([grouper, list]) = group_of(value) {
                let mut group = Map::new();
                group.insert("grouper".to_owned(), to_json(&grouper)?);
                group.insert("list".to_owned(), to_json(&list)?);
                return Ok(Json::Object(group));
            }
            value.try_iter()?.map(|item| to_json(&item)).collect::<Result<_, _>>().map(Json::Array)
        }
        ValueKind::Map => {
            let mut fields = Map::new();
            for key in value.try_iter()? {
                let Some(name) = key.as_str() else {
                    return Err(refused("the key of a field is a text"));
                };
                fields.insert(name.to_owned(), to_json(&value.get_item(&key)?)?);
            }
            Ok(Json::Object(fields))
        }
        _ => Err(refused("the value is no data")),
    }
}

/// Returns the fields of a group of `groupby`, which is a list of them as well: its type is that of an object.
fn group_of(value: &Value) -> Option<[Value; 2]> {
    let field = |name: &str| value.get_attr(name).ok().filter(|field| !field.is_undefined());
    (value.len() == Some(2)).then(|| Some([field("grouper")?, field("list")?])).flatten()
}

fn number(value: &Value) -> Option<Number> {
    if value.is_integer() {
        i64::try_from(value.clone())
            .map(Number::from)
            .or_else(|_| u64::try_from(value.clone()).map(Number::from))
            .ok()
    } else {
        f64::try_from(value.clone()).ok().and_then(Number::from_f64)
    }
}
