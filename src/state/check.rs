//! Checking a value against a type, and filling what was left out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use regex::{Regex, RegexBuilder};
use serde_json::{Number, Value as Json};

use super::Knot;
use super::types::{Channel, Merge, ROLES, Type};

/// Why a value does not have a type.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages, n: integer?}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::{StartError, Update};
///
/// let thread = app.thread("acme", "ada", "desk")?;
/// thread.start("chat", "Hello!").await?.finish().await?;
/// let Err(StartError::Unprocessable(wrong)) = thread.update(Update::as_node("a").value("n", "three")).await else {
///     panic!("it is a number");
/// };
/// assert_eq!(wrong[0].pointer, "/values/n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", if pointer.is_empty() { String::new() } else { format!("at `{pointer}`: ") })]
pub struct Mismatch {
    /// Where in the value, as a JSON pointer; empty for the value itself.
    pub pointer: String,
    /// What was due and what kind of value was found; never the value.
    pub why: String,
}

impl Mismatch {
    pub(crate) fn here(why: impl Into<String>) -> Self {
        Self { pointer: String::new(), why: why.into() }
    }

    /// Moves the place one step out: the value is the part `key` of another one.
    pub(crate) fn within(mut self, key: &str) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        self.pointer = format!("/{key}{}", self.pointer);
        self
    }
}

/// Names the kind of a value, for messages that must not show the value.
pub(crate) fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(n) if n.is_f64() => "a number",
        Json::Number(_) => "an integer",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

impl Type {
    /// Checks that a value has this type.
    pub fn check(&self, value: &Json) -> Result<(), Mismatch> {
        self.check_within(None, value)
    }

    /// The same for a type that stands in a knot. Goes as deep as the value does.
    fn check_within(&self, knot: Option<&Knot>, value: &Json) -> Result<(), Mismatch> {
        let due = |what: &str| Err(Mismatch::here(format!("expected {what}, found {}", kind(value))));
        match (self, value) {
            (Self::Any, _)
            | (Self::Nullable(_), Json::Null)
            | (Self::Object, Json::Object(_))
            | (Self::Boolean, Json::Bool(_)) => Ok(()),
            (Self::Nullable(inner), value) => inner.check_within(knot, value),
            (Self::String { pattern, min, max }, Json::String(text)) => {
                check_text(text, pattern.as_deref(), *min, *max)
            }
            (Self::Integer { min, max }, Json::Number(n)) => check_integer(n, *min, *max),
            (Self::Number { min, max }, Json::Number(n)) => check_number(n, *min, *max),
            (Self::Enum(values), Json::String(text)) => {
                if values.contains(text) {
                    Ok(())
                } else {
                    Err(Mismatch::here(format!("expected one of {}", values.join(", "))))
                }
            }
            (Self::List(item), Json::Array(items)) => each(items, |value| item.check_within(knot, value)),
            (Self::Messages, Json::Array(items)) => each(items, check_message),
            (Self::Record(fields), Json::Object(found)) => {
                for (name, field) in fields {
                    match found.get(name) {
                        Some(value) => field.ty.check_within(knot, value).map_err(|e| e.within(name))?,
                        None if field.may_be_left_out() => {}
                        None => return Err(Mismatch::here(format!("the field `{name}` is missing"))),
                    }
                }
                match found.keys().find(|name| !fields.contains_key(*name)) {
                    Some(name) => Err(no_field(name)),
                    None => Ok(()),
                }
            }
            (Self::Named(named), value) => match named.look(knot) {
                Some((ty, knot)) => ty.check_within(Some(knot), value),
                None => Ok(()),
            },
            (Self::Union(all), value) => {
                let mut found = all.iter().map(|ty| ty.check_within(knot, value));
                let first = found.next().unwrap_or(Ok(()));
                if first.is_ok() || found.any(|found| found.is_ok()) { Ok(()) } else { first }
            }
            (Self::String { .. }, _) => due("a text"),
            (Self::Integer { .. }, _) => due("an integer"),
            (Self::Number { .. }, _) => due("a number"),
            (Self::Boolean, _) => due("a boolean"),
            (Self::Object | Self::Record(_), _) => due("an object"),
            (Self::Messages, _) => due("a list of messages"),
            (Self::Enum(values), _) => due(&format!("one of {}", values.join(", "))),
            (Self::List(_), _) => due("a list"),
        }
    }

    /// Puts in the fields that a value of this type may leave out: their default, or null. Without it
    /// reading such a field would fail. False: a default leaves out itself, and what was put in is not the whole.
    pub fn fill(&self, value: &mut Json) -> bool {
        self.fill_within(None, value, 0)
    }

    /// `defaults` is how many the value lies in.
    fn fill_within(&self, knot: Option<&Knot>, value: &mut Json, defaults: usize) -> bool {
        match (self, value) {
            (Self::Nullable(inner), value) => inner.fill_within(knot, value, defaults),
            (Self::Named(named), value) => {
                named.look(knot).is_none_or(|(ty, knot)| ty.fill_within(Some(knot), value, defaults))
            }
            (Self::List(item), Json::Array(items)) => {
                items.iter_mut().all(|value| item.fill_within(knot, value, defaults))
            }
            (Self::Record(fields), Json::Object(found)) => fields.iter().all(|(name, field)| {
                if let Some(value) = found.get_mut(name) {
                    return field.ty.fill_within(knot, value, defaults);
                }
                if !field.may_be_left_out() {
                    return true;
                }
                let mut value = field.default.clone().unwrap_or(Json::Null);
                let whole = defaults < MOST_DEFAULTS && field.ty.fill_within(knot, &mut value, defaults + 1);
                found.insert(name.clone(), value);
                whole
            }),
            _ => true,
        }
    }
}

/// The most defaults within each other: where there are more, one leaves out itself.
const MOST_DEFAULTS: usize = 64;

impl Channel {
    /// Checks a value that the channel holds. An object that grows by `merge` may still lack fields.
    pub fn check_held(&self, value: &Json) -> Result<(), Mismatch> {
        match (self.merge, self.field.ty.non_null(), value) {
            (Merge::Merge, Type::Record(fields), Json::Object(found)) => {
                found.iter().try_for_each(|(name, value)| match fields.get(name) {
                    Some(field) => field.ty.check(value).map_err(|e| e.within(name)),
                    None => Err(no_field(name)),
                })
            }
            _ => self.field.ty.check(value),
        }
    }

    /// Checks a value that is written to the channel, as far as that needs no look at what it holds.
    pub fn check_write(&self, value: &Json) -> Result<(), Mismatch> {
        match self.merge {
            Merge::Append | Merge::Union => self.items(value).map(|_| ()),
            // Turns, and what removes them.
            Merge::Messages => Ok(()),
            Merge::Add | Merge::Max | Merge::Min | Merge::Merge if value.is_null() => {
                Err(Mismatch::here(format!("null cannot join by `{}`", self.merge)))
            }
            Merge::Merge => self.check_held(value),
            _ => self.field.ty.check(value),
        }
    }

    /// Returns the type of the items of a list; of anything else, `any`.
    pub(super) fn item_type(&self) -> &Type {
        match self.field.ty.non_null() {
            Type::List(item) => item,
            _ => &Type::Any,
        }
    }

    /// Returns the items that a write adds to a list: those of a list of such, or the value itself. Where the items are
    /// lists themselves, their types tell the two apart.
    pub(super) fn items<'v>(&self, value: &'v Json) -> Result<&'v [Json], Mismatch> {
        let item = self.item_type();
        let one = || item.check(value).map(|()| std::slice::from_ref(value));
        match value {
            Json::Array(items) => match each(items, |value| item.check(value)) {
                Err(wrong) if item.is_list() => one().map_err(|_| wrong),
                listed => listed.map(|()| items.as_slice()),
            },
            _ => one(),
        }
    }
}

/// The name may come from a model or a user: it is shown only as far as it is harmless.
fn no_field(name: &str) -> Mismatch {
    Mismatch::here(format!("there is no field `{}`", shown(name)))
}

/// Checks a chat turn: a known role, and as content a text or a list of parts.
pub(super) fn check_message(message: &Json) -> Result<(), Mismatch> {
    let Json::Object(message) = message else {
        return Err(Mismatch::here(format!("expected a message, found {}", kind(message))));
    };
    match message.get("id") {
        None => {}
        Some(Json::String(id)) if !id.is_empty() && id != "*" => {}
        Some(_) => {
            return Err(Mismatch::here("expected a text other than `*`").within("id"));
        }
    }
    match message.get("role") {
        Some(Json::String(role)) if ROLES.contains(&role.as_str()) => {}
        Some(_) => {
            let roles = format!("expected one of {}", ROLES.join(", "));
            return Err(Mismatch::here(roles).within("role"));
        }
        None => return Err(Mismatch::here("the field `role` is missing")),
    }
    match message.get("content") {
        Some(Json::String(_)) => Ok(()),
        Some(Json::Array(parts)) => each(parts, |part| match part {
            Json::Object(part) if matches!(part.get("type"), Some(Json::String(_))) => Ok(()),
            Json::Object(_) => Err(Mismatch::here("the field `type` of a part is missing")),
            other => Err(Mismatch::here(format!("expected a part, found {}", kind(other)))),
        })
        .map_err(|e| e.within("content")),
        Some(other) => {
            Err(Mismatch::here(format!("expected a text or a list of parts, found {}", kind(other)))
                .within("content"))
        }
        None => Err(Mismatch::here("the field `content` is missing")),
    }
}

fn each(items: &[Json], check: impl Fn(&Json) -> Result<(), Mismatch>) -> Result<(), Mismatch> {
    items.iter().enumerate().try_for_each(|(n, item)| check(item).map_err(|e| e.within(&n.to_string())))
}

fn check_text(text: &str, pattern: Option<&str>, min: Option<u64>, max: Option<u64>) -> Result<(), Mismatch> {
    if min.is_some() || max.is_some() {
        let length = text.chars().count() as u64;
        check_bounds(length, min, max, " characters")?;
    }
    match pattern {
        None => Ok(()),
        Some(pattern) => match compiled(pattern) {
            Some(regex) if regex.is_match(text) => Ok(()),
            Some(_) => Err(Mismatch::here(format!("expected a text that matches `{pattern}`"))),
            None => Err(Mismatch::here(format!("`{pattern}` is not a regular expression"))),
        },
    }
}

fn check_integer(n: &Number, min: Option<i64>, max: Option<i64>) -> Result<(), Mismatch> {
    match n.as_i64() {
        Some(n) => check_bounds(n, min, max, ""),
        None if n.is_f64() => Err(Mismatch::here("expected an integer, found a number")),
        None => Err(Mismatch::here("expected an integer of at most 64 bits")),
    }
}

fn check_number(n: &Number, min: Option<f64>, max: Option<f64>) -> Result<(), Mismatch> {
    match n.as_f64() {
        Some(n) => check_bounds(n, min, max, ""),
        None => Err(Mismatch::here("expected a number of at most 64 bits")),
    }
}

fn check_bounds<T: Copy + PartialOrd + std::fmt::Display>(
    found: T,
    min: Option<T>,
    max: Option<T>,
    unit: &str,
) -> Result<(), Mismatch> {
    if let Some(min) = min
        && found < min
    {
        return Err(Mismatch::here(format!("expected at least {min}{unit}")));
    }
    if let Some(max) = max
        && found > max
    {
        return Err(Mismatch::here(format!("expected at most {max}{unit}")));
    }
    Ok(())
}

/// Shortens and escapes a text that may come from a model or a user.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The most bytes of a compiled pattern: a few repeats within each other make megabytes of a line.
const LARGEST_PATTERN: usize = 1024 * 1024;

fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build()
}

/// Says in one line why a text is no pattern.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    regex(pattern).map(|_| ()).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

/// Compiles a pattern once per process: patterns come from graphs, so there are few.
fn compiled(pattern: &str) -> Option<Arc<Regex>> {
    static PATTERNS: OnceLock<Mutex<BTreeMap<String, Option<Arc<Regex>>>>> = OnceLock::new();
    let mut patterns = PATTERNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = patterns.get(pattern) {
        return found.clone();
    }
    let regex = regex(pattern).ok().map(Arc::new);
    patterns.insert(pattern.to_owned(), regex.clone());
    regex
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use serde_json::json;

    use super::*;
    use crate::state::Field;

    #[test]
    fn a_mismatch_names_the_place_and_what_is_due() {
        let hit = Type::Record(IndexMap::from([
            (
                "id".to_owned(),
                Field::of(Type::String { pattern: Some("^[a-z]+$".to_owned()), min: None, max: Some(3) }),
            ),
            ("n".to_owned(), Field::of(Type::Nullable(Box::new(Type::Integer { min: Some(0), max: None })))),
        ]));
        let hits = Type::List(Box::new(hit));
        for (value, found) in [
            (json!([{"id": "a"}, {"id": "abc", "n": null}]), ""),
            (json!({}), "expected a list, found an object"),
            (json!([{"id": "a", "n": -1}]), "at `/0/n`: expected at least 0"),
            (json!([{"id": "a", "n": 1.0}]), "at `/0/n`: expected an integer, found a number"),
            (json!([{"id": "a", "n": u64::MAX}]), "at `/0/n`: expected an integer of at most 64 bits"),
            (json!([{"id": "äöüx"}]), "at `/0/id`: expected at most 3 characters"),
            (json!([{"id": "A"}]), "at `/0/id`: expected a text that matches `^[a-z]+$`"),
            (json!([{"n": 1}]), "at `/0`: the field `id` is missing"),
            (json!([{"id": "a", "x": 1}]), "at `/0`: there is no field `x`"),
            (json!([{"id": true}]), "at `/0/id`: expected a text, found a boolean"),
        ] {
            assert_eq!(hits.check(&value).err().map_or(String::new(), |e| e.to_string()), found, "{value}");
        }
    }

    #[test]
    fn a_message_needs_a_known_role_and_a_content() {
        for (message, found) in [
            (json!({"role": "user", "content": "hi"}), ""),
            (
                json!({"id": "1", "role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "c"}),
                "",
            ),
            (
                json!({"role": "robot", "content": ""}),
                "at `/0/role`: expected one of system, user, assistant, tool",
            ),
            (json!({"role": "user"}), "at `/0`: the field `content` is missing"),
            (
                json!({"role": "user", "content": 1}),
                "at `/0/content`: expected a text or a list of parts, found an integer",
            ),
            (json!({"role": "user", "content": ["x"]}), "at `/0/content/0`: expected a part, found a text"),
            (json!({"id": "*", "role": "user", "content": ""}), "at `/0/id`: expected a text other than `*`"),
            (json!("hi"), "at `/0`: expected a message, found a text"),
        ] {
            let value = json!([message]);
            assert_eq!(
                Type::Messages.check(&value).err().map_or(String::new(), |e| e.to_string()),
                found,
                "{value}"
            );
        }
    }

    #[test]
    fn filling_gives_left_out_fields_their_default_or_null() {
        let ty = Type::List(Box::new(Type::Record(IndexMap::from([
            ("a".to_owned(), Field::of(Type::STRING)),
            ("b".to_owned(), Field::of(Type::Nullable(Box::new(Type::STRING)))),
            ("c".to_owned(), Field { default: Some(json!(3)), ..Field::of(Type::INTEGER) }),
        ]))));
        let mut value = json!([{"c": 1, "a": "x"}, {"a": "y"}]);
        ty.fill(&mut value);
        assert_eq!(value, json!([{"c": 1, "a": "x", "b": null}, {"a": "y", "b": null, "c": 3}]));
    }
}
