//! What people who know other languages write, and what they mean by it.

use super::table::{Builtin, FILTERS, find};
use crate::diagnostic::suggest;

/// Returns the filter that does what a function or method of this name does elsewhere.
pub(super) fn filter_for(name: &str) -> Option<&'static str> {
    let elsewhere = match name {
        "len" | "size" | "count" => "length",
        "str" | "toString" | "to_string" => "string",
        "json" | "to_json" | "dumps" | "stringify" => "tojson",
        "toLowerCase" | "downcase" | "lowercase" => "lower",
        "toUpperCase" | "upcase" | "uppercase" => "upper",
        "strip" => "trim",
        "get" => "attr",
        "sorted" => "sort",
        "encodeURIComponent" => "urlencode",
        name => name,
    };
    find(FILTERS, elsewhere).map(|known| known.name)
}

/// Says what to write instead of an unknown filter or test.
pub(super) fn replacement(sort: &str, name: &str, table: &'static [Builtin]) -> Option<String> {
    let near = match (sort, name) {
        ("filter", "safe" | "escape" | "e") => {
            return Some("drop it: nothing is escaped, prompts are not HTML".to_owned());
        }
        ("filter", name) => filter_for(name),
        ("test", "null" | "None" | "nil") => Some("none"),
        ("test", "empty") => return Some("write `x | length == 0`".to_owned()),
        ("test", "list" | "array") => Some("sequence"),
        ("test", "object" | "dict") => Some("mapping"),
        ("test", "str" | "text") => Some("string"),
        ("test", "bool") => Some("boolean"),
        _ => None,
    };
    near.or_else(|| suggest(name, table.iter().map(|known| known.name)))
        .map(|near| format!("did you mean `{near}`?"))
}
