//! The closed list of filters, tests and functions, and the environment that knows them.

use std::fmt::Write as _;

use minijinja::filters;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::scope::to_json;

/// What a filter or function gives, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// It depends on what it is given.
    Unknown,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

/// A filter, test or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// The fewest arguments in parentheses.
    pub min: usize,
    /// The most arguments in parentheses.
    pub max: usize,
    /// What it gives.
    pub gives: Gives,
}

const MANY: usize = usize::MAX;

const fn builtin(name: &'static str, min: usize, max: usize, gives: Gives) -> Builtin {
    Builtin { name, min, max, gives }
}

const fn test(name: &'static str, arguments: usize) -> Builtin {
    builtin(name, arguments, arguments, Gives::Boolean)
}

/// Every filter, sorted. HTML escaping has no place in prompts, so its filters are left out.
pub const FILTERS: &[Builtin] = &[
    builtin("abs", 0, 0, Gives::Number),
    builtin("attr", 1, 1, Gives::Unknown),
    builtin("batch", 1, 2, Gives::List),
    builtin("bool", 0, 0, Gives::Boolean),
    builtin("capitalize", 0, 0, Gives::Text),
    builtin("chain", 1, MANY, Gives::Unknown),
    builtin("count", 0, 0, Gives::Number),
    builtin("d", 0, 2, Gives::Unknown),
    builtin("default", 0, 2, Gives::Unknown),
    builtin("dictsort", 0, 3, Gives::List),
    builtin("first", 0, 0, Gives::Unknown),
    builtin("float", 0, 1, Gives::Number),
    builtin("format", 0, MANY, Gives::Text),
    builtin("groupby", 1, 3, Gives::List),
    builtin("indent", 0, 3, Gives::Text),
    builtin("int", 0, 2, Gives::Number),
    builtin("items", 0, 0, Gives::List),
    builtin("join", 0, 2, Gives::Text),
    builtin("last", 0, 0, Gives::Unknown),
    builtin("last_text", 0, 0, Gives::Text),
    builtin("length", 0, 0, Gives::Number),
    builtin("lines", 0, 0, Gives::List),
    builtin("list", 0, 0, Gives::List),
    builtin("lower", 0, 0, Gives::Text),
    builtin("map", 1, MANY, Gives::List),
    builtin("max", 0, 2, Gives::Unknown),
    builtin("min", 0, 2, Gives::Unknown),
    builtin("quoted", 0, 0, Gives::Text),
    builtin("reject", 0, MANY, Gives::List),
    builtin("rejectattr", 1, MANY, Gives::List),
    builtin("replace", 2, 3, Gives::Text),
    builtin("reverse", 0, 0, Gives::Unknown),
    builtin("round", 0, 2, Gives::Number),
    builtin("select", 0, MANY, Gives::List),
    builtin("selectattr", 1, MANY, Gives::List),
    builtin("slice", 1, 2, Gives::List),
    builtin("sort", 0, 3, Gives::List),
    builtin("split", 0, 2, Gives::List),
    builtin("string", 0, 0, Gives::Text),
    builtin("sum", 0, 2, Gives::Number),
    builtin("title", 0, 0, Gives::Text),
    builtin("tojson", 0, 1, Gives::Text),
    builtin("trim", 0, 1, Gives::Text),
    builtin("unique", 0, 2, Gives::List),
    builtin("upper", 0, 0, Gives::Text),
    builtin("urlencode", 0, 0, Gives::Text),
    builtin("zip", 1, MANY, Gives::List),
];

/// Every test (`x is odd`), sorted. Those that are signs stand in `select` and its like only.
pub const TESTS: &[Builtin] = &[
    test("!=", 1),
    test("<", 1),
    test("<=", 1),
    test("==", 1),
    test(">", 1),
    test(">=", 1),
    test("boolean", 0),
    test("defined", 0),
    test("divisibleby", 1),
    test("endingwith", 1),
    test("eq", 1),
    test("equalto", 1),
    test("even", 0),
    test("false", 0),
    test("float", 0),
    test("ge", 1),
    test("greaterthan", 1),
    test("gt", 1),
    test("in", 1),
    test("int", 0),
    test("integer", 0),
    test("iterable", 0),
    test("le", 1),
    test("lessthan", 1),
    test("lower", 0),
    test("lt", 1),
    test("mapping", 0),
    test("ne", 1),
    test("none", 0),
    test("number", 0),
    test("odd", 0),
    test("sameas", 1),
    test("sequence", 0),
    test("startingwith", 1),
    test("string", 0),
    test("true", 0),
    test("undefined", 0),
    test("upper", 0),
];

/// Every function, sorted.
pub const FUNCTIONS: &[Builtin] =
    &[builtin("dict", 0, MANY, Gives::Object), builtin("range", 1, 3, Gives::List)];

/// The functions that only templates have.
pub const TEMPLATE_FUNCTIONS: &[Builtin] = &[builtin("namespace", 0, MANY, Gives::Object)];

/// Returns the entry of a name.
pub(crate) fn find(table: &'static [Builtin], name: &str) -> Option<&'static Builtin> {
    table.iter().find(|builtin| builtin.name == name)
}

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
        ("replace", Value::from_function(filters::replace)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, builtin) in texts {
        env.add_filter(name, move |state: &mut State, value: Value, rest: Rest<Value>| {
            text_of(&value)?;
            let args: Vec<Value> = std::iter::once(value).chain(rest.0).collect();
            builtin.call(state, &args)
        });
    }
    env.add_filter("d", default);
    env.add_filter("default", default);
    env.add_filter("join", join);
    env.add_filter("last_text", last_text);
    env.add_filter("quoted", quoted);
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

/// Accounts for text that a filter makes.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

/// Returns the text of the newest message of a list.
fn last_text(state: &State, value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let count = value.len().ok_or_else(|| refused("`last_text` takes a list of messages"))?;
    let Some(last) = count.checked_sub(1) else {
        return Err(refused("`last_text` of a list without messages"));
    };
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
