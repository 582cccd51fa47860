//! Types that contain themselves.
//!
//! Invariant: a type is a finite tree. Where a declared type comes round within itself, its name stands, and a name has
//! with it the types that it is one of. [`Type::opened`] goes one step on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Type;

/// Types that contain one another, by name.
#[derive(Debug, PartialEq)]
pub struct Knot {
    /// What they are made of: lists and records, or `any` where that is wrong. Names of each other stand in them
    /// without a knot, so that nothing holds itself.
    types: BTreeMap<String, Type>,
}

/// The name of a type that contains itself.
#[derive(Debug, Clone)]
pub struct Named {
    /// The name as it was declared.
    pub name: String,
    /// What it is one of; nothing within that.
    knot: Option<Arc<Knot>>,
}

impl Knot {
    /// Ties types, in which they stand as [`Named::within`].
    pub fn tie(types: BTreeMap<String, Type>) -> Arc<Self> {
        Arc::new(Self { types })
    }
}

impl Named {
    /// Names a type of a knot within that knot.
    pub fn within(name: impl Into<String>) -> Self {
        Self { name: name.into(), knot: None }
    }

    /// Names a type of a knot.
    pub fn of(knot: &Arc<Knot>, name: impl Into<String>) -> Self {
        Self { name: name.into(), knot: Some(Arc::clone(knot)) }
    }

    /// Returns what the type is made of, in which names stand again.
    pub fn open(&self) -> Type {
        match &self.knot {
            Some(knot) => knot.types.get(&self.name).map_or(Type::Any, |ty| tied(ty, knot)),
            // Nobody comes here but through a knot.
            None => Type::Any,
        }
    }

    /// Returns what the type is made of, without a copy. `around` is the knot that it stands in, if it does; it goes
    /// with what is returned.
    pub(super) fn look<'k>(&'k self, around: Option<&'k Knot>) -> Option<(&'k Type, &'k Knot)> {
        let knot = self.knot.as_deref().or(around)?;
        Some((knot.types.get(&self.name)?, knot))
    }

    /// Returns the name under which a type is one of this knot, if it is.
    pub(super) fn folded(&self, ty: &Type) -> Option<Self> {
        let knot = self.knot.as_ref()?;
        knot.types.keys().map(|name| Self::of(knot, name)).find(|named| named.open() == *ty)
    }
}

/// Equal are names of the same types, whichever project they come from.
impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.knot, &other.knot) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (one, other) => one.is_none() && other.is_none(),
        };
        self.name == other.name && same
    }
}

/// Gives the names within a type their knot.
fn tied(ty: &Type, knot: &Arc<Knot>) -> Type {
    match ty {
        Type::Named(Named { name, knot: None }) => Type::Named(Named::of(knot, name)),
        Type::List(item) => Type::List(Box::new(tied(item, knot))),
        Type::Nullable(inner) => Type::Nullable(Box::new(tied(inner, knot))),
        Type::Record(fields) => {
            let mut fields = fields.clone();
            for field in fields.values_mut() {
                field.ty = tied(&field.ty, knot);
            }
            Type::Record(fields)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::types::tests::list;
    use crate::state::{Field, either};

    /// A record of a value and of parts, which are such records again.
    fn tree(name: &str, value: Type) -> Type {
        let parts = list(Type::Named(Named::within(name)));
        let fields =
            [("value", Field::of(value)), ("parts", Field { default: Some(json!([])), ..Field::of(parts) })];
        let ty = Type::Record(fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect());
        Named::of(&Knot::tie(BTreeMap::from([(name.to_owned(), ty)])), name).open()
    }

    #[test]
    fn a_type_that_contains_itself_is_looked_at_to_its_end() {
        let (numbers, same, other) =
            (tree("N", Type::NUMBER), tree("M", Type::INTEGER), tree("T", Type::STRING));
        assert_eq!(numbers.to_string(), "{value: number, parts: [N]}");
        assert_eq!(numbers, tree("N", Type::NUMBER));
        assert_ne!(numbers, tree("N", Type::INTEGER));
        assert!(numbers.accepts(&same) && !same.accepts(&numbers) && !numbers.accepts(&other));
        assert!(list(numbers.clone()).accepts(&list(either(numbers.clone(), same.clone()))));
        assert!(!list(numbers.clone()).accepts(&list(either(numbers.clone(), other.clone()))));

        let mut value = json!({"value": 1, "parts": [{"value": 2}]});
        assert!(numbers.check(&value).is_ok() && numbers.fill(&mut value));
        assert_eq!(value, json!({"value": 1, "parts": [{"value": 2, "parts": []}]}));
        let wrong = numbers.check(&json!({"value": 1, "parts": [{"value": 2, "parts": [{"value": "x"}]}]}));
        assert_eq!(wrong.unwrap_err().pointer, "/parts/0/parts/0/value");

        // A list of nothing but such lists.
        let nest = list(Type::Named(Named::within("L")));
        let nest = Named::of(&Knot::tie(BTreeMap::from([("L".to_owned(), nest)])), "L").open();
        assert!(nest.is_list() && nest.accepts(&nest) && !nest.accepts(&list(Type::STRING)));
        assert!(nest.check(&json!([[], [[]]])).is_ok() && nest.check(&json!([[], [1]])).is_err());
    }

    #[test]
    fn a_schema_refers_to_a_type_that_contains_itself() {
        let schema = Type::Nullable(Box::new(tree("N", Type::NUMBER))).json_schema();
        let parts = json!({"type": "array", "items": {"$ref": "#/$defs/N"}, "default": []});
        let made = json!({
            "type": "object",
            "properties": {"value": {"type": "number"}, "parts": parts},
            "required": ["value"],
            "additionalProperties": false,
        });
        let reference = json!({"$ref": "#/$defs/N"});
        assert_eq!(schema, json!({"allOf": [reference], "nullable": true, "$defs": {"N": made}}));
        // What a provider gets is an object at its top.
        let answer = tree("N", Type::NUMBER).answer_schema().unwrap();
        assert_eq!(answer["properties"]["parts"]["items"], reference);
        assert_eq!(answer["$defs"]["N"]["required"], json!(["value", "parts"]));
        let answer = list(tree("N", Type::NUMBER)).answer_schema().unwrap();
        assert_eq!(answer["properties"]["value"]["items"]["properties"]["parts"]["items"], reference);
    }
}
