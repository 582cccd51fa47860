//! Checks events against the served OpenAPI document, with the part of JSON Schema that it uses.

use std::sync::Arc;

use serde_json::Value as Json;

/// The `GraphEvent` schema of a document.
#[derive(Clone)]
pub(crate) struct EventSchema(Arc<Json>);

impl EventSchema {
    pub(crate) fn new(document: Json) -> Self {
        Self(Arc::new(document))
    }

    /// Panics unless the event is one that the document promises.
    pub(crate) fn check(&self, event: &Json) {
        let schema = &self.0["components"]["schemas"]["GraphEvent"];
        let mapping = &schema["discriminator"]["mapping"];
        let kind = event["type"].as_str().unwrap();
        let target = mapping[kind].as_str().unwrap_or_else(|| panic!("the document has no event `{kind}`"));
        assert!(schema["oneOf"].as_array().unwrap().iter().any(|arm| arm["$ref"] == target), "{target}");
        if let Err(why) = self.fits(event, self.find(target), "") {
            panic!("{why} in {event}");
        }
    }

    /// Panics unless a value is what the document says of its name.
    pub(crate) fn check_as(&self, name: &str, value: &Json) {
        let schema = self.find(&format!("#/components/schemas/{name}"));
        if let Err(why) = self.fits(value, schema, "") {
            panic!("{why} in {value}");
        }
    }

    fn find(&self, target: &str) -> &Json {
        self.0.pointer(target.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("nothing is at {target}"))
    }

    fn fits(&self, value: &Json, schema: &Json, at: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("at `{at}`: {value} is {what}: {schema}"));
        if let Some(target) = schema["$ref"].as_str() {
            return self.fits(value, self.find(target), at);
        }
        let number = value.as_f64();
        let fits = match schema["type"].as_str() {
            None => true,
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some(_) => false,
        };
        if !fits {
            return wrong("of another type");
        }
        if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
            return wrong("none of these");
        }
        if schema["minimum"].as_f64().zip(number).is_some_and(|(least, value)| value < least) {
            return wrong("too small");
        }
        for one in schema["allOf"].as_array().into_iter().flatten() {
            self.fits(value, one, at)?;
        }
        for choice in ["oneOf", "anyOf"] {
            if let Some(arms) = schema[choice].as_array() {
                let fitting = arms.iter().filter(|arm| self.fits(value, arm, at).is_ok()).count();
                if fitting == 0 || (choice == "oneOf" && fitting > 1) {
                    return wrong("not one of these");
                }
            }
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            if let Some(items) = schema.get("items") {
                self.fits(item, items, &format!("{at}/{i}"))?;
            }
        }
        let Some(fields) = value.as_object() else { return Ok(()) };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if !fields.contains_key(name) {
                return wrong(&format!("without `{name}`"));
            }
        }
        for (name, field) in fields {
            let at = format!("{at}/{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(known), _) => self.fits(field, known, &at)?,
                (None, Some(Json::Bool(false))) => return wrong(&format!("with an unknown `{name}`")),
                (None, Some(other @ Json::Object(_))) => self.fits(field, other, &at)?,
                _ => {}
            }
        }
        Ok(())
    }
}
