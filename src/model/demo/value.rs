//! What the demo model puts into structured answers and calls of tools: values that fit a JSON Schema, taken from the
//! user's words where those say something.
//!
//! Invariant: the same schema and the same words give the same value.

use regex::Regex;
use serde_json::{Map, Value as Json};

use super::quote;

/// Makes up a value that fits. It ends, because a type contains itself only where a list may be empty or null may stand.
pub(super) fn made_up(schema: &Json, said: &str) -> Json {
    fit(schema, schema, said)
}

/// Makes up a value for a part of a whole schema.
fn fit(whole: &Json, schema: &Json, said: &str) -> Json {
    if let Some(named) = schema["$ref"].as_str().and_then(|to| whole.pointer(to.strip_prefix('#')?)) {
        return fit(whole, named, said);
    }
    if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
        return match schema.get("default") {
            Some(default) => default.clone(),
            None if schema["nullable"] == true => Json::Null,
            None => fit(whole, only, said),
        };
    }
    let arms = ["anyOf", "oneOf"].iter().find_map(|key| schema[key].as_array());
    let arms = arms.map_or(std::slice::from_ref(schema), Vec::as_slice);
    let nullable = arms.iter().any(|arm| arm["nullable"] == true || names(arm).any(|name| name == "null"));
    let default = schema.get("default");
    let Some(schema) = arms.iter().find(|arm| arm["type"] != "null") else { return Json::Null };
    if let Some(values) = schema["enum"].as_array() {
        let lower = said.to_lowercase();
        let named =
            |value: &&Json| value.as_str().is_some_and(|word| lower.contains(&word.replace('_', " ")));
        let otherwise = || if nullable { None } else { values.last() };
        return values.iter().find(named).or(default).or_else(otherwise).cloned().unwrap_or_default();
    }
    if let Some(default) = default {
        return default.clone();
    }
    if schema.get("$ref").is_some() {
        return if nullable { Json::Null } else { fit(whole, schema, said) };
    }
    let name = names(schema).find(|name| *name != "null").unwrap_or_default();
    match name {
        "string" => text(schema, said, nullable),
        // Whatever else may be null is.
        _ if nullable => Json::Null,
        "object" => Json::Object(schema["properties"].as_object().map_or_else(Map::new, |fields| {
            fields.iter().map(|(name, schema)| (name.clone(), fit(whole, schema, said))).collect()
        })),
        "array" => Json::Array(Vec::new()),
        "boolean" => Json::Bool(false),
        "integer" => {
            let bound = |key: &str, otherwise| schema[key].as_i64().unwrap_or(otherwise);
            Json::from(1.max(bound("minimum", i64::MIN)).min(bound("maximum", i64::MAX)))
        }
        "number" => {
            let bound = |key: &str, otherwise| schema[key].as_f64().unwrap_or(otherwise);
            Json::from(0.9_f64.max(bound("minimum", f64::MIN)).min(bound("maximum", f64::MAX)))
        }
        _ => Json::Null,
    }
}

/// Lists the types that a schema names.
fn names(schema: &Json) -> impl Iterator<Item = &str> {
    let names = match &schema["type"] {
        Json::Array(names) => names.as_slice(),
        name => std::slice::from_ref(name),
    };
    names.iter().filter_map(Json::as_str)
}

/// Takes a text from what the user said: the word that has the wanted pattern, or, where the text may be missing, one
/// with a digit, since that looks like a number of something. Else it is all that was said.
fn text(schema: &Json, said: &str, nullable: bool) -> Json {
    let bound = |key: &str, otherwise| {
        schema[key].as_u64().map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    let (least, most) = (bound("minLength", 0), bound("maxLength", usize::MAX));
    let pattern = schema["pattern"].as_str().and_then(|pattern| Regex::new(pattern).ok());
    let fits = |text: &str| {
        let length = text.chars().count();
        (least..=most).contains(&length) && pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    };
    let trimmed = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let word =
        |is: fn(&str) -> bool| said.split_whitespace().map(trimmed).find(|word| is(word) && fits(word));
    let numbered = |word: &str| word.contains(|c: char| c.is_ascii_digit());
    if nullable {
        return word(if pattern.is_some() { |_| true } else { numbered }).map_or(Json::Null, Json::from);
    }
    let whole = quote(said);
    if !fits(&whole)
        && pattern.is_some()
        && let Some(word) = word(|_| true)
    {
        return Json::from(word);
    }
    let mut whole: String = whole.chars().take(most).collect();
    while whole.chars().count() < least {
        whole.push('.');
    }
    Json::from(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Field, Type};

    /// What a schema says is what the demo model keeps to, since its answers are held against the type as any others.
    #[test]
    fn a_made_up_value_fits_its_type_and_takes_what_was_said() {
        let named = || Type::Enum(vec!["refund".into(), "not_sure".into()]);
        let text =
            |pattern: Option<&str>, min, max| Type::String { pattern: pattern.map(Into::into), min, max };
        let plain = || text(None, None, None);
        let maybe = |ty| Type::Nullable(Box::new(ty));
        for (ty, said, expected) in [
            (named(), "A REFUND please", json!("refund")),
            (named(), "I am not sure", json!("not_sure")),
            (named(), "Hello", json!("not_sure")),
            (maybe(named()), "Hello", json!(null)),
            (maybe(named()), "a refund", json!("refund")),
            (plain(), "two\nlines", json!("two lines")),
            (text(None, Some(4), None), "ab", json!("ab..")),
            (text(None, None, Some(3)), "世界🌍abc", json!("世界🌍")),
            (text(Some("^[A-Z]-[0-9]+$"), None, None), "Refund (A-17)!", json!("A-17")),
            (maybe(plain()), "Refund (A-17), please", json!("A-17")),
            (maybe(plain()), "Refund it", json!(null)),
            (maybe(text(Some("^[A-Z]-[0-9]+$"), None, None)), "17 of B-4", json!("B-4")),
            (Type::Integer { min: Some(5), max: Some(9) }, "", json!(5)),
            (Type::Integer { min: None, max: Some(-2) }, "", json!(-2)),
            (Type::Number { min: None, max: Some(0.5) }, "", json!(0.5)),
            (Type::Number { min: Some(0.0), max: Some(1.0) }, "", json!(0.9)),
            (maybe(Type::Boolean), "yes", json!(null)),
            (Type::List(Box::new(plain())), "a", json!([])),
            (
                Type::Record(
                    [
                        ("ok".to_owned(), Field::of(Type::Boolean)),
                        (
                            "limit".to_owned(),
                            Field {
                                default: Some(json!(7)),
                                ..Field::of(Type::Integer { min: None, max: None })
                            },
                        ),
                        ("order".to_owned(), Field::of(maybe(plain()))),
                    ]
                    .into(),
                ),
                "order 12",
                json!({"ok": false, "limit": 7, "order": "12"}),
            ),
        ] {
            let value = made_up(&ty.json_schema(), said);
            assert_eq!(value, expected, "{said}");
            assert_eq!(ty.check(&value), Ok(()), "{said}");
            let answer = made_up(&ty.answer_schema().unwrap(), said);
            let answer = if matches!(ty, Type::Record(_)) { &answer } else { &answer["value"] };
            assert_eq!(answer.is_null(), value.is_null(), "the schema for providers says the same: {said}");
        }
        // Schemas of other makers.
        for (schema, expected) in [
            (json!({"type": ["string", "null"]}), json!(null)),
            (json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}), json!(1)),
            (json!({"type": "object"}), json!({})),
            (json!({}), json!(null)),
        ] {
            assert_eq!(made_up(&schema, "hi"), expected);
        }
    }

    #[test]
    fn a_made_up_value_of_a_type_that_contains_itself_ends() {
        let node = json!({
            "type": "object",
            "properties": {
                "word": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "all": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
        });
        let schema = json!({"type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}});
        let expected = json!({"node": {"word": "hi", "next": null, "all": []}});
        assert_eq!(made_up(&schema, "hi"), expected);
    }
}
