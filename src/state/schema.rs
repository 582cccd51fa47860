//! Types as JSON Schema, for the API's description, for tools and for structured output.

use serde_json::{Map, Value as Json, json};

use super::types::{Field, ROLES, Type};

impl Type {
    /// Returns the JSON Schema of the type, in the dialect of OpenAPI 3.0.
    pub fn json_schema(&self) -> Json {
        match self {
            Self::String { pattern, min, max } => object(
                [("type", Some(json!("string"))), ("pattern", pattern.as_ref().map(|p| json!(p)))]
                    .into_iter()
                    .chain([("minLength", min.map(|n| json!(n))), ("maxLength", max.map(|n| json!(n)))]),
            ),
            Self::Integer { min, max } => object([
                ("type", Some(json!("integer"))),
                ("minimum", min.map(|n| json!(n))),
                ("maximum", max.map(|n| json!(n))),
            ]),
            Self::Number { min, max } => object([
                ("type", Some(json!("number"))),
                ("minimum", min.map(|n| json!(n))),
                ("maximum", max.map(|n| json!(n))),
            ]),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Object => json!({"type": "object", "additionalProperties": true}),
            Self::Any => json!({}),
            Self::Messages => json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "role": {"type": "string", "enum": ROLES},
                        "content": {"oneOf": [
                            {"type": "string"},
                            {"type": "array", "items": {"type": "object"}},
                        ]},
                    },
                    "required": ["role", "content"],
                },
            }),
            Self::Enum(values) => json!({"type": "string", "enum": values}),
            Self::List(item) => json!({"type": "array", "items": item.json_schema()}),
            Self::Record(fields) => {
                let required: Vec<_> =
                    fields.iter().filter(|(_, f)| !f.may_be_left_out()).map(|(name, _)| name).collect();
                let properties: Map<_, _> =
                    fields.iter().map(|(name, field)| (name.clone(), field.json_schema())).collect();
                object([
                    ("type", Some(json!("object"))),
                    ("properties", Some(Json::Object(properties))),
                    // OpenAPI 3.0 does not allow an empty list here.
                    ("required", (!required.is_empty()).then(|| json!(required))),
                    ("additionalProperties", Some(json!(false))),
                ])
            }
            Self::Nullable(inner) => {
                let mut schema = inner.json_schema();
                if let Json::Object(keys) = &mut schema
                    && !matches!(inner.non_null(), Self::Any)
                {
                    if let Some(Json::Array(values)) = keys.get_mut("enum")
                        && !values.contains(&Json::Null)
                    {
                        values.push(Json::Null);
                    }
                    keys.insert("nullable".to_owned(), json!(true));
                }
                schema
            }
        }
    }
}

/// What providers cannot hold an answer to: which part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loose {
    /// The fields that lead to it; empty for the type itself.
    pub path: Vec<String>,
    /// What it is.
    pub what: &'static str,
}

impl Type {
    /// Returns the JSON Schema that a provider holds an answer to: closed objects all of whose fields are there, null
    /// where a field may be left out. Bounds and patterns are left to our own check of the answer.
    pub fn answer_schema(&self) -> Result<Json, Loose> {
        let loose = |what| Err(Loose { path: Vec::new(), what });
        Ok(match self {
            Self::String { .. } => json!({"type": "string"}),
            Self::Integer { .. } => json!({"type": "integer"}),
            Self::Number { .. } => json!({"type": "number"}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Object => return loose("object"),
            Self::Any => return loose("any"),
            Self::Messages => return loose("messages"),
            Self::Enum(values) => json!({"type": "string", "enum": values}),
            Self::List(item) => json!({"type": "array", "items": item.answer_schema()?}),
            Self::Record(fields) => {
                let mut properties = Map::new();
                for (name, field) in fields {
                    let mut schema = field.ty.answer_schema().map_err(|mut loose| {
                        loose.path.insert(0, name.clone());
                        loose
                    })?;
                    if let (Json::Object(keys), Some(description)) = (&mut schema, &field.description) {
                        keys.insert("description".to_owned(), json!(description));
                    }
                    properties.insert(name.clone(), schema);
                }
                let required: Vec<_> = fields.keys().collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }
            Self::Nullable(inner) => json!({"anyOf": [inner.answer_schema()?, {"type": "null"}]}),
        })
    }
}

impl Field {
    /// Returns the JSON Schema of the field: its type with default and description.
    pub fn json_schema(&self) -> Json {
        let mut schema = self.ty.json_schema();
        if let Json::Object(keys) = &mut schema {
            if let Some(description) = &self.description {
                keys.insert("description".to_owned(), json!(description));
            }
            if let Some(default) = &self.default {
                keys.insert("default".to_owned(), default.clone());
            }
        }
        schema
    }
}

/// Makes an object of the keys that have a value.
fn object(keys: impl IntoIterator<Item = (&'static str, Option<Json>)>) -> Json {
    Json::Object(keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    #[test]
    fn a_schema_keeps_the_order_written_and_has_no_type_lists() {
        let ty = Type::Record(IndexMap::from([
            ("z".to_owned(), Field::of(Type::Nullable(Box::new(Type::Enum(vec!["x".to_owned()]))))),
            (
                "a".to_owned(),
                Field { default: Some(json!(3)), ..Field::of(Type::Integer { min: Some(1), max: None }) },
            ),
            ("m".to_owned(), Field::of(Type::List(Box::new(Type::Boolean)))),
        ]));
        assert_eq!(
            ty.json_schema().to_string(),
            r#"{"type":"object","properties":{"z":{"type":"string","enum":["x",null],"nullable":true},"a":{"type":"integer","minimum":1,"default":3},"m":{"type":"array","items":{"type":"boolean"}}},"required":["m"],"additionalProperties":false}"#
        );
    }
}
