//! Comparing and showing values.

use serde_json::Value as Json;

/// The longest value that is shown, in characters.
const SHOWN: usize = 300;

/// Says whether a value is the expected one: numbers by their size; of messages without an id any id.
pub(super) fn same(expected: &Json, found: &Json, messages: bool) -> bool {
    match (expected, found) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, messages))
        }
        (Json::Object(a), Json::Object(b)) => {
            let passed = |name: &str| messages && name == "id" && !a.contains_key("id");
            let both = |(name, value): (&String, &Json)| b.get(name).is_some_and(|b| same(value, b, false));
            a.iter().all(both) && b.keys().all(|name| a.contains_key(name) || passed(name))
        }
        (a, b) => a == b,
    }
}

/// Writes a value on one line, shortened.
pub(super) fn shown(value: &Json) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_compared_by_size_and_messages_without_their_ids() {
        let talk = json!([{"id": "m_1", "role": "user", "content": "hi"}]);
        for (expected, found, messages, fits) in [
            (json!(1), json!(1.0), false, true),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), false, false),
            (json!([{"role": "user", "content": "hi"}]), talk.clone(), true, true),
            (json!([{"role": "user", "content": "hi"}]), talk.clone(), false, false),
            (json!([{"id": "x", "role": "user", "content": "hi"}]), talk, true, false),
        ] {
            assert_eq!(same(&expected, &found, messages), fits, "{expected} {found}");
        }
    }
}
