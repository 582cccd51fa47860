//! The schemas of Rust types become types of the language.
//!
//! Invariant: there is no error here. What the type language cannot express is `any`, and left to the Rust type.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::state::{Field, Type};

/// Returns the arguments by name; nothing where any are taken. An error: the function takes something else.
pub(super) fn args(schema: &Json) -> Result<Option<IndexMap<String, Field>>, Type> {
    if schema["type"] == "null" {
        return Ok(Some(IndexMap::new()));
    }
    let mut reader = Reader { root: schema, open: Vec::new(), given: true };
    match reader.field(schema).ty {
        Type::Record(fields) => Ok(Some(fields)),
        // A struct without fields has no properties; a map has those of any name.
        Type::Object if schema.get("additionalProperties").is_none_or(|more| *more == Json::Bool(false)) => {
            Ok(Some(IndexMap::new()))
        }
        Type::Object | Type::Any => Ok(None),
        other => Err(other),
    }
}

/// Returns the type of what is given.
pub(super) fn result(schema: &Json) -> Type {
    Reader { root: schema, open: Vec::new(), given: false }.field(schema).ty
}

struct Reader<'s> {
    root: &'s Json,
    /// The references that it is in.
    open: Vec<&'s str>,
    /// It is what a function is given; else what it gives.
    given: bool,
}

impl<'s> Reader<'s> {
    fn field(&mut self, schema: &'s Json) -> Field {
        let Json::Object(schema) = schema else { return Field::of(Type::Any) };
        let mut field = Field::of(self.ty(schema));
        field.description = schema.get("description").and_then(Json::as_str).map(str::to_owned);
        field.default = schema.get("default").filter(|default| field.ty.check(default).is_ok()).cloned();
        field
    }

    fn ty(&mut self, schema: &'s Map<String, Json>) -> Type {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            // A type that contains itself ends where it does.
            let Some(target) = target.filter(|_| !self.open.contains(&reference)) else { return Type::Any };
            self.open.push(reference);
            let found = self.field(target).ty;
            self.open.pop();
            return found;
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(Json::Array(arms)) = schema.get(key) {
                return self.either(arms);
            }
        }
        if let Some(Json::Array(values)) = schema.get("enum") {
            return listed(values);
        }
        if let Some(value) = schema.get("const") {
            return listed(std::slice::from_ref(value));
        }
        match schema.get("type") {
            Some(Json::String(name)) => self.named(name, schema),
            Some(Json::Array(names)) => {
                let mut rest = names.iter().filter_map(Json::as_str).filter(|name| *name != "null");
                match (rest.next(), rest.next()) {
                    (Some(name), None) => nullable(self.named(name, schema), names.len() > 1),
                    _ => Type::Any,
                }
            }
            _ => Type::Any,
        }
    }

    fn named(&mut self, name: &str, schema: &'s Map<String, Json>) -> Type {
        let natural = |key: &str| schema.get(key).and_then(Json::as_u64);
        match name {
            "string" => Type::String { pattern: None, min: natural("minLength"), max: natural("maxLength") },
            "integer" => {
                let bound = |key: &str| schema.get(key).and_then(Json::as_i64);
                Type::Integer { min: bound("minimum"), max: bound("maximum") }
            }
            "number" => {
                let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
                Type::Number { min: bound("minimum"), max: bound("maximum") }
            }
            "boolean" => Type::Boolean,
            "array" => {
                let item = schema.get("items").map_or(Type::Any, |items| self.field(items).ty);
                Type::List(Box::new(item))
            }
            "object" => self.object(schema),
            "null" => nullable(Type::Any, true),
            _ => Type::Any,
        }
    }

    fn object(&mut self, schema: &'s Map<String, Json>) -> Type {
        let properties = schema.get("properties").and_then(Json::as_object).filter(|all| !all.is_empty());
        let Some(properties) = properties else { return Type::Object };
        if schema.get("additionalProperties").is_some_and(|more| *more != Json::Bool(false)) {
            // Fields of any name beside those with a type.
            return Type::Object;
        }
        let required = schema.get("required").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let field = |(name, schema): (&String, &'s Json)| {
            let mut field = self.field(schema);
            // What a function may leave out is null. What it may be given has a default, or is due: null is no value of it.
            if !self.given && !required.iter().any(|due| due == name) {
                field.ty = nullable(field.ty, true);
            }
            (name.clone(), field)
        };
        Type::Record(properties.iter().map(field).collect())
    }

    /// Reads a choice: of a type and null, or of texts.
    fn either(&mut self, arms: &'s [Json]) -> Type {
        let (nulls, rest): (Vec<_>, Vec<_>) = arms.iter().partition(|arm| arm["type"] == "null");
        let types: Vec<Type> = rest.into_iter().map(|arm| self.field(arm).ty).collect();
        let ty = match types.as_slice() {
            [one] => one.clone(),
            [] => Type::Any,
            all => {
                let texts = all.iter().map(|ty| match ty {
                    Type::Enum(values) => Some(values.clone()),
                    _ => None,
                });
                texts.collect::<Option<Vec<_>>>().map_or(Type::Any, |texts| Type::Enum(texts.concat()))
            }
        };
        nullable(ty, !nulls.is_empty())
    }
}

fn listed(values: &[Json]) -> Type {
    let texts = values.iter().filter(|value| !value.is_null()).map(|value| value.as_str().map(str::to_owned));
    match texts.collect::<Option<Vec<_>>>() {
        Some(texts) if !texts.is_empty() => nullable(Type::Enum(texts), values.iter().any(Json::is_null)),
        _ => Type::Any,
    }
}

fn nullable(ty: Type, null: bool) -> Type {
    if null && !matches!(ty, Type::Nullable(_)) { Type::Nullable(Box::new(ty)) } else { ty }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the type language cannot express is `any`, never an error and never less than the Rust type.
    #[test]
    fn a_schema_of_rust_is_read_as_far_as_the_language_goes() {
        let record = |more: Json| {
            let mut schema =
                json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            schema
        };
        for (schema, given, gives) in [
            (json!({"type": "string", "format": "uuid"}), "string", "string"),
            (json!({"type": ["integer", "null"], "format": "int64"}), "integer?", "integer?"),
            (json!({"type": "null"}), "any?", "any?"),
            (json!(true), "any", "any"),
            (record(json!({})), "{n: integer}", "{n: integer}"),
            (record(json!({"required": []})), "{n: integer}", "{n: integer?}"),
            (record(json!({"additionalProperties": {"type": "string"}})), "object", "object"),
            (json!({"type": "object", "additionalProperties": {"type": "string"}}), "object", "object"),
            (json!({"type": "array", "prefixItems": [{"type": "string"}]}), "[any]", "[any]"),
            (
                json!({"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]}),
                "[number]?",
                "[number]?",
            ),
            (
                json!({"oneOf": [{"type": "string", "enum": ["a", "b"]}, {"const": "c", "description": "see"}]}),
                "enum(a, b, c)",
                "enum(a, b, c)",
            ),
            (json!({"oneOf": [{"type": "string"}, {"type": "object"}]}), "any", "any"),
            (json!({"const": 3}), "any", "any"),
            (
                json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}),
                "{next: {next: any}}",
                "{next: {next: any}}",
            ),
            (json!({"$ref": "#/$defs/N", "$defs": {"N": {"type": "boolean"}}}), "boolean", "boolean"),
        ] {
            let read =
                |given| Reader { root: &schema, open: Vec::new(), given }.field(&schema).ty.to_string();
            assert_eq!((read(true).as_str(), read(false).as_str()), (given, gives), "{schema}");
        }
    }

    #[test]
    fn arguments_have_names_or_are_not_known() {
        let names =
            |schema: Json| args(&schema).map(|args| args.map(|args| args.into_keys().collect::<Vec<_>>()));
        assert_eq!(names(json!({"type": "null"})), Ok(Some(Vec::new())));
        assert_eq!(names(json!({"type": "object"})), Ok(Some(Vec::new())));
        assert_eq!(names(json!({"type": "object", "properties": {"a": {}}})), Ok(Some(vec!["a".to_owned()])));
        assert_eq!(names(json!({"type": "object", "additionalProperties": true})), Ok(None));
        assert_eq!(names(json!(true)), Ok(None));
        assert_eq!(names(json!({"type": "string"})), Err(Type::STRING));
    }
}
