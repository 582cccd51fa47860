//! Types as JSON Schema, for the API's description, for tools and for structured output.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use super::Named;
use super::types::{Field, ROLES, Type};

/// Writes schemas. Types that contain themselves are written apart, and referred to.
#[derive(Debug)]
pub struct Schemas {
    /// What stands before their names in a reference: `#/$defs/`.
    place: String,
    /// Them, with the names that they have here.
    named: Vec<(Named, String, Json)>,
}

impl Schemas {
    /// Makes a writer of schemas that refer to a place such as `#/components/schemas/`.
    pub fn at(place: impl Into<String>) -> Self {
        Self { place: place.into(), named: Vec::new() }
    }

    /// Makes a writer of schemas that stand alone: see [`Schemas::close`].
    pub fn alone() -> Self {
        Self::at("#/$defs/")
    }

    /// Adds what was referred to to a schema that stands alone.
    #[must_use]
    pub fn close(self, mut schema: Json) -> Json {
        let definitions = self.into_definitions();
        if let Json::Object(keys) = &mut schema
            && !definitions.is_empty()
        {
            keys.insert("$defs".to_owned(), Json::Object(definitions));
        }
        schema
    }

    /// Returns what was referred to, by the names that it has here.
    pub fn into_definitions(self) -> Map<String, Json> {
        self.named.into_iter().map(|(_, name, schema)| (name, schema)).collect()
    }

    /// Writes a type in the dialect of OpenAPI 3.0.
    pub fn ty(&mut self, ty: &Type) -> Json {
        if let Some(named) = ty.folded() {
            return self.reference(&named);
        }
        match ty {
            Type::String { pattern, min, max } => object(
                [("type", Some(json!("string"))), ("pattern", pattern.as_ref().map(|p| json!(p)))]
                    .into_iter()
                    .chain([("minLength", min.map(|n| json!(n))), ("maxLength", max.map(|n| json!(n)))]),
            ),
            Type::Integer { min, max } => object([
                ("type", Some(json!("integer"))),
                ("minimum", min.map(|n| json!(n))),
                ("maximum", max.map(|n| json!(n))),
            ]),
            Type::Number { min, max } => object([
                ("type", Some(json!("number"))),
                ("minimum", min.map(|n| json!(n))),
                ("maximum", max.map(|n| json!(n))),
            ]),
            Type::Boolean => json!({"type": "boolean"}),
            Type::Object => json!({"type": "object", "additionalProperties": true}),
            Type::Any => json!({}),
            Type::Messages => json!({
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
            Type::Enum(values) => json!({"type": "string", "enum": values}),
            Type::List(item) => json!({"type": "array", "items": self.ty(item)}),
            Type::Record(fields) => self.record(fields),
            Type::Nullable(inner) => {
                let mut schema = self.ty(inner);
                if let Json::Object(keys) = &mut schema
                    && !matches!(inner.non_null(), Type::Any)
                {
                    if let Some(Json::Array(values)) = keys.get_mut("enum")
                        && !values.contains(&Json::Null)
                    {
                        values.push(Json::Null);
                    }
                    // Nothing counts beside a reference.
                    if keys.contains_key("$ref") {
                        schema = json!({"allOf": [schema], "nullable": true});
                    } else {
                        keys.insert("nullable".to_owned(), json!(true));
                    }
                }
                schema
            }
            Type::Named(named) => self.reference(named),
            Type::Union(all) => json!({"anyOf": all.iter().map(|ty| self.ty(ty)).collect::<Vec<_>>()}),
        }
    }

    /// Writes a field: its type with default and description.
    pub fn field(&mut self, field: &Field) -> Json {
        let mut schema = self.ty(&field.ty);
        if field.description.is_none() && field.default.is_none() {
            return schema;
        }
        if schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        if let Json::Object(keys) = &mut schema {
            if let Some(description) = &field.description {
                keys.insert("description".to_owned(), json!(description));
            }
            if let Some(default) = &field.default {
                keys.insert("default".to_owned(), default.clone());
            }
        }
        schema
    }

    fn record(&mut self, fields: &IndexMap<String, Field>) -> Json {
        let required: Vec<_> =
            fields.iter().filter(|(_, f)| !f.may_be_left_out()).map(|(name, _)| name).collect();
        let properties: Map<_, _> =
            fields.iter().map(|(name, field)| (name.clone(), self.field(field))).collect();
        object([
            ("type", Some(json!("object"))),
            ("properties", Some(Json::Object(properties))),
            // OpenAPI 3.0 does not allow an empty list here.
            ("required", (!required.is_empty()).then(|| json!(required))),
            ("additionalProperties", Some(json!(false))),
        ])
    }

    fn reference(&mut self, named: &Named) -> Json {
        let (at, new) = self.allot(named);
        if new {
            let schema = match named.open() {
                // Not a name again.
                Type::Record(fields) => self.record(&fields),
                Type::List(item) => json!({"type": "array", "items": self.ty(&item)}),
                other => self.ty(&other),
            };
            self.named[at].2 = schema;
        }
        self.to(at)
    }

    /// Finds the place of a name among those that were referred to, and says whether it is new there.
    fn allot(&mut self, named: &Named) -> (usize, bool) {
        if let Some(at) = self.named.iter().position(|(known, ..)| known == named) {
            return (at, false);
        }
        let taken = |name: &str| self.named.iter().any(|(_, known, _)| known == name);
        let numbered = (2..).map(|n| format!("{}{n}", named.name));
        let name = std::iter::once(named.name.clone()).chain(numbered).find(|name| !taken(name));
        self.named.push((named.clone(), name.unwrap_or_default(), Json::Null));
        (self.named.len() - 1, true)
    }

    fn to(&self, at: usize) -> Json {
        json!({"$ref": format!("{}{}", self.place, self.named[at].1)})
    }

    /// Writes the schema that a provider holds an answer to: closed objects all of whose fields are there, null where
    /// a field may be left out. Bounds and patterns are left to our own check of the answer.
    fn answer(&mut self, ty: &Type) -> Result<Json, Loose> {
        let loose = |what| Err(Loose { path: Vec::new(), what });
        Ok(match ty {
            Type::String { .. } => json!({"type": "string"}),
            Type::Integer { .. } => json!({"type": "integer"}),
            Type::Number { .. } => json!({"type": "number"}),
            Type::Boolean => json!({"type": "boolean"}),
            Type::Object => return loose("object"),
            Type::Any | Type::Union(_) => return loose("any"),
            Type::Messages => return loose("messages"),
            Type::Enum(values) => json!({"type": "string", "enum": values}),
            Type::List(item) => json!({"type": "array", "items": self.answer(item)?}),
            Type::Record(fields) => {
                let mut properties = Map::new();
                for (name, field) in fields {
                    let mut schema = self.answer(&field.ty).map_err(|mut loose| {
                        loose.path.insert(0, name.clone());
                        loose
                    })?;
                    // Providers refuse a word beside a reference.
                    if let (Json::Object(keys), Some(description)) = (&mut schema, &field.description)
                        && !keys.contains_key("$ref")
                    {
                        keys.insert("description".to_owned(), json!(description));
                    }
                    properties.insert(name.clone(), schema);
                }
                let required: Vec<_> = fields.keys().collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }
            Type::Nullable(inner) => json!({"anyOf": [self.answer(inner)?, {"type": "null"}]}),
            Type::Named(named) => {
                let (at, new) = self.allot(named);
                if new {
                    self.named[at].2 = self.answer(&named.open())?;
                }
                self.to(at)
            }
        })
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
    /// Returns the JSON Schema of the type by itself, in the dialect of OpenAPI 3.0.
    pub fn json_schema(&self) -> Json {
        let mut schemas = Schemas::alone();
        let schema = schemas.ty(self);
        schemas.close(schema)
    }

    /// Returns the JSON Schema that a provider holds an answer to. Providers take objects only: a value of another type
    /// is the one field `value` of one.
    pub fn answer_schema(&self) -> Result<Json, Loose> {
        let mut schemas = Schemas::alone();
        let schema = schemas.answer(self)?;
        Ok(schemas.close(self.in_object(schema)))
    }

    /// Returns the same with the bounds and patterns that our own check holds an answer to.
    pub fn bounded_schema(&self) -> Json {
        let mut schemas = Schemas::alone();
        let schema = schemas.ty(self);
        schemas.close(self.in_object(schema))
    }

    fn in_object(&self, schema: Json) -> Json {
        match self {
            Self::Record(_) => schema,
            _ => {
                json!({"type": "object", "properties": {"value": schema}, "required": ["value"], "additionalProperties": false})
            }
        }
    }

    /// Says whether the type contains one that contains itself.
    pub fn is_recursive(&self) -> bool {
        self.knotted().is_some()
    }

    /// Returns the name that stands for the type, where a name was opened.
    fn folded(&self) -> Option<Named> {
        match self {
            Self::Record(_) | Self::List(_) => self.knotted()?.folded(self),
            _ => None,
        }
    }

    /// Finds the name of a type that contains itself.
    fn knotted(&self) -> Option<&Named> {
        match self {
            Self::Named(named) => Some(named),
            Self::List(inner) | Self::Nullable(inner) => inner.knotted(),
            Self::Record(fields) => fields.values().find_map(|field| field.ty.knotted()),
            Self::Union(all) => all.iter().find_map(Self::knotted),
            _ => None,
        }
    }
}

/// Makes an object of the keys that have a value.
fn object(keys: impl IntoIterator<Item = (&'static str, Option<Json>)>) -> Json {
    Json::Object(keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

#[cfg(test)]
mod tests {
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
