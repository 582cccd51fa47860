//! Schemas that are made of others: lists of values, choices, objects, references.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use super::{Reader, Told};
use crate::state::{Field, Type, kind};

impl Reader<'_> {
    pub(super) fn listed(&mut self, values: &Json, nullable: bool) -> Result<Type, Told> {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        let texts: Vec<String> = values.iter().filter_map(Json::as_str).map(str::to_owned).collect();
        let nulls = values.iter().filter(|value| value.is_null()).count();
        if texts.is_empty() || texts.len() + nulls != values.len() {
            let help = "list texts, and `null` beside them".to_owned();
            return Err(self.wrong(Some("enum"), "only texts can be listed", Some(help)));
        }
        let ty = Type::Enum(texts);
        Ok(if nulls > 0 && nullable { Type::Nullable(Box::new(ty)) } else { ty })
    }

    /// Reads a choice of a type and null.
    pub(super) fn either(&mut self, key: &str, arms: &Json) -> Result<Field, Told> {
        let arms = arms.as_array().map(Vec::as_slice).unwrap_or_default();
        let null = |arm: &Json| arm.get("type").and_then(Json::as_str) == Some("null");
        let (nulls, rest): (Vec<_>, Vec<_>) = arms.iter().enumerate().partition(|(_, arm)| null(arm));
        match (nulls.len(), rest.as_slice()) {
            (1, [(n, arm)]) => {
                let n = n.to_string();
                let field = self.below(&[key, &n], |reader| reader.field(arm))?;
                let ty = field.ty;
                let ty = if ty.is_nullable() { ty } else { Type::Nullable(Box::new(ty)) };
                Ok(Field { ty, ..field })
            }
            _ => {
                let help =
                    "a type and `null` beside it can; else take  type: object  and check it in the graph";
                Err(self.wrong(Some(key), "a choice of types cannot be expressed", Some(help.to_owned())))
            }
        }
    }

    pub(super) fn object(&mut self, schema: &Map<String, Json>) -> Result<Type, Told> {
        let closed = match schema.get("additionalProperties") {
            None => None,
            Some(Json::Bool(more)) => Some(!more),
            Some(_) if self.lenient => None,
            Some(more) => {
                let help = "take  type: object  without `properties` for an object with fields of any name"
                    .to_owned();
                let message = match more {
                    Json::Object(_) => "fields of any name cannot have a type".to_owned(),
                    other => format!("`additionalProperties` is true or false, found {}", kind(other)),
                };
                return Err(self.wrong(Some("additionalProperties"), message, Some(help)));
            }
        };
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_array)
            .map(|names| names.iter().filter_map(Json::as_str).collect())
            .unwrap_or_default();
        let properties =
            schema.get("properties").and_then(Json::as_object).filter(|fields| !fields.is_empty());
        let Some(properties) = properties else {
            if self.lenient {
                return Ok(Type::Object);
            }
            let lacks = match (required.first(), closed) {
                (Some(name), _) => ("required", format!("`{name}` is required, and has no schema")),
                (None, Some(true)) => {
                    ("additionalProperties", "an object that has no fields at all".to_owned())
                }
                (None, _) => return Ok(Type::Object),
            };
            let help = "give the fields their schemas below `properties`".to_owned();
            return Err(self.wrong(Some(lacks.0), lacks.1, Some(help)));
        };
        if closed == Some(false) && !self.lenient {
            let help = "write  \"additionalProperties\": false , or take  type: object  without `properties`"
                .to_owned();
            let message = "an object with other fields beside those with a type cannot be expressed";
            return Err(self.wrong(Some("additionalProperties"), message, Some(help)));
        }
        let nameless = required.iter().find(|name| !properties.contains_key(**name));
        if let Some(name) = nameless.filter(|_| !self.lenient) {
            return Err(self.wrong(
                Some("required"),
                format!("`{name}` is required, and has no schema"),
                None,
            ));
        }
        let mut fields = IndexMap::new();
        let mut fine = true;
        for (name, schema) in properties {
            match self.below(&["properties", name], |reader| reader.field(schema)) {
                Ok(mut field) => {
                    let left_out = !required.contains(&name.as_str());
                    if left_out && field.default.is_none() && !matches!(field.ty, Type::Nullable(_)) {
                        field.ty = Type::Nullable(Box::new(field.ty));
                    }
                    fields.insert(name.clone(), field);
                }
                Err(Told) => fine = false,
            }
        }
        if fine { Ok(Type::Record(fields)) } else { Err(Told) }
    }

    pub(super) fn reference(&mut self, reference: &Json) -> Result<Field, Told> {
        let name = reference.as_str().unwrap_or_default().to_owned();
        let Some(pointer) = name.strip_prefix('#') else {
            let help = "copy it into this file, below `$defs`".to_owned();
            return Err(self.wrong(Some("$ref"), "a reference that leaves the file", Some(help)));
        };
        if self.open.contains(&name) {
            let help = "take  {}  for the inner one: anything fits".to_owned();
            return Err(self.wrong(Some("$ref"), "a schema that contains itself", Some(help)));
        }
        let Some(target) = self.file.json.pointer(pointer) else {
            return Err(self.wrong(Some("$ref"), format!("there is nothing at `{name}`"), None));
        };
        let keys: Vec<String> =
            pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
        let here = std::mem::replace(&mut self.path, keys);
        self.open.push(name);
        let found = self.field(target);
        self.open.pop();
        self.path = here;
        found
    }
}
