//! The environment that knows the closed list of filters, tests and functions, and those of them that are our own.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::filters;
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::scope::to_json;

/// How deep a rendering may nest: an include counts ten, a macro five, a loop one. It is enough for the includes that
/// the compiler lets pass with loops around them, and little enough for the stack of any thread.
const RECURSION: usize = 150;

/// Makes an environment that knows the closed list and nothing of the outside.
pub(crate) fn environment(fuel: u64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(fuel));
    env.set_recursion_limit(RECURSION);
    // Debug information holds the values of variables.
    env.set_debug(false);
    env.set_formatter(|out, _, value| Ok(out.write_str(&text_of(value)?)?));
    env.remove_global("debug");
    for filter in ["safe", "escape", "e", "pprint"] {
        env.remove_filter(filter);
    }
    for test in ["safe", "escaped", "filter", "test"] {
        env.remove_test(test);
    }
    // The built-in ones make the word `none` of null.
    let texts = [
        ("capitalize", Value::from_function(filters::capitalize)),
        ("indent", Value::from_function(filters::indent)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, builtin) in texts {
        env.add_filter(name, move |state: &mut State, value: Value, rest: Rest<Value>, named: Kwargs| {
            text_of(&value)?;
            let named = named.args().next().is_some().then(|| Value::from(named.clone()));
            let args: Vec<Value> = std::iter::once(value).chain(rest.0).chain(named).collect();
            builtin.call(state, &args)
        });
    }
    // The built-in ones give nothing at all of an empty list, which no type could tell.
    env.add_filter("first", |state: &State, value: &Value| end_of(state, value, false));
    env.add_filter("last", |state: &State, value: &Value| end_of(state, value, true));
    env.add_filter("max", |state: &State, value: Value, kwargs: Kwargs| {
        filters::max(state, value, kwargs).map(or_null)
    });
    env.add_filter("min", |state: &State, value: Value, kwargs: Kwargs| {
        filters::min(state, value, kwargs).map(or_null)
    });
    env.add_filter("d", default);
    env.add_filter("default", default);
    env.add_filter("join", join);
    env.add_filter("last_text", last_text);
    env.add_filter("quoted", quoted);
    env.add_filter("replace", replace);
    env.add_filter("string", |value: &Value| text_of(value));
    env.add_filter("tojson", tojson);
    env.add_filter("urlencode", urlencode);
    env
}

/// Returns what a value prints as. Null, lists and objects print as nothing sensible, so they are
/// refused; booleans print as in JSON.
pub(super) fn text_of(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::String | ValueKind::Number => Ok(value.to_string()),
        ValueKind::Bool => Ok(value.is_true().to_string()),
        ValueKind::None => Err(refused("null is no text; use `default`")),
        _ => Err(refused("a list or an object is no text; use `tojson` or one of its fields")),
    }
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn or_null(value: Value) -> Value {
    if value.is_undefined() { Value::from(()) } else { value }
}

/// Returns the first or the last item: null of an empty list, and of an empty text an empty text.
fn end_of(state: &State, value: &Value, last: bool) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if let Some(text) = value.as_str() {
        let found = if last { text.chars().next_back() } else { text.chars().next() };
        return Ok(found.map_or_else(|| Value::from(""), Value::from));
    }
    let count = value.len().filter(|_| value.kind() == ValueKind::Seq);
    if let (true, Some(end)) = (last, count.and_then(|count| count.checked_sub(1))) {
        return value.get_item_by_index(end);
    }
    let mut items = value.try_iter()?;
    let mut found = items.next();
    if last {
        for item in items {
            charge(state, 0)?;
            found = Some(item);
        }
    }
    Ok(found.map_or_else(|| Value::from(()), or_null))
}

/// Replaces undefined and null; with `true` as second argument everything that counts as false.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn default(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    // Null is a value to give here, which an optional argument would take for none at all.
    let mut args = args.0.into_iter();
    let other = args.next();
    let falsy = match args.next() {
        Some(falsy) => bool::try_from(falsy)?,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let replace = value.is_undefined() || value.is_none() || (falsy && !value.is_true());
    Ok(if replace { other.unwrap_or_else(|| Value::from("")) } else { value })
}

/// Like the built-in one, but each item prints as it does on its own.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn join(
    state: &State,
    value: &Value,
    joiner: Option<&str>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let joiner = match joiner {
        Some(joiner) => Some(joiner),
        None => kwargs.get::<Option<&str>>("d")?,
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => kwargs.get::<Option<&str>>("attribute")?,
    };
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let mut out = String::new();
    for (n, item) in value.try_iter()?.enumerate() {
        let before = out.len();
        if n > 0 {
            out.push_str(joiner.unwrap_or_default());
        }
        match attribute {
            // `a.b` reaches into a field.
            Some(path) => {
                let mut item = item;
                for name in path.split('.') {
                    item = item.get_attr(name)?;
                }
                out.push_str(&text_of(&item)?);
            }
            None => out.push_str(&text_of(&item)?),
        }
        charge(state, out.len() - before)?;
    }
    Ok(out)
}

/// Like the built-in one, which takes no `count` when it is called from here.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn replace(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let (from, to, count): (Cow<'_, str>, Cow<'_, str>, Option<i64>) = from_args(&args.0)?;
    let count = match count {
        Some(count) => Some(count),
        None => kwargs.get::<Option<i64>>("count")?,
    };
    kwargs.assert_all_used()?;
    let text = text_of(value)?;
    // As in the built-in one, a count below zero is none.
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(&*from).take(count).count();
    charge(state, text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(text.replacen(&*from, &to, count))
}

/// Accounts for text that a filter makes.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

/// Returns the text of the newest message of a list; empty without one.
fn last_text(state: &State, value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let count = value.len().ok_or_else(|| refused("`last_text` takes a list of messages"))?;
    let Some(last) = count.checked_sub(1) else { return Ok(String::new()) };
    let content = value.get_item_by_index(last)?.get_attr("content")?;
    if let Some(text) = content.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    for part in content.try_iter()? {
        if let Some(text) = part.get_attr("text")?.as_str() {
            charge(state, text.len())?;
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(text);
        }
    }
    Ok(out)
}

/// Fences a text in a block that nothing in the text can close.
fn quoted(value: &Value) -> Result<String, Error> {
    let text = text_of(value)?;
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{fence}text\n{text}{end}{fence}"))
}

/// Prints a value as JSON, without the escapes that HTML would need.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands arguments over by value")]
fn tojson(state: &State, value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    kwargs.assert_all_used()?;
    let width = match indent {
        None => None,
        Some(value) if value.kind() == ValueKind::Bool => value.is_true().then_some(2),
        Some(value) => Some(value.as_usize().ok_or_else(|| refused("`indent` is a number"))?.min(16)),
    };
    let json = to_json(value)?;
    let text = match width {
        None => json.to_string(),
        Some(width) => pretty(&json, width)?,
    };
    charge(state, text.len())?;
    Ok(text)
}

fn pretty(json: &Json, width: usize) -> Result<String, Error> {
    use serde::Serialize as _;
    let indent = " ".repeat(width);
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .ok()
        .and_then(|()| String::from_utf8(bytes).ok())
        .ok_or_else(|| refused("a value that JSON cannot hold"))
}

/// Escapes a text for any place in a URL: only letters, digits and `-._~` stay. An object becomes
/// `key=value` pairs.
fn urlencode(value: &Value) -> Result<String, Error> {
    if value.kind() != ValueKind::Map {
        return Ok(percent(&text_of(value)?));
    }
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if !item.is_none() {
            pairs.push(format!("{}={}", percent(&text_of(&key)?), percent(&text_of(&item)?)));
        }
    }
    Ok(pairs.join("&"))
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Calls a function of the closed list.
pub(super) fn call(name: &str, args: &[Value], state: &mut State) -> Result<Value, Error> {
    let function = state.lookup(name).ok_or_else(|| Error::from(ErrorKind::UnknownFunction))?;
    function.call(state, args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::table::{FILTERS, FUNCTIONS, TESTS};

    /// The tables are sorted, and the environment knows exactly what they name.
    #[test]
    fn the_list_is_closed() {
        let env = environment(1000);
        let known = format!("{env:?}");
        for table in [FILTERS, TESTS, FUNCTIONS] {
            assert!(table.is_sorted_by_key(|builtin| builtin.name));
            for builtin in table {
                assert!(known.contains(&format!("{:?}", builtin.name)), "{}", builtin.name);
            }
        }
        for gone in ["debug", "safe", "escape", "pprint", "escaped"] {
            assert!(!known.contains(&format!("{gone:?}")), "{gone}");
        }
    }
}
