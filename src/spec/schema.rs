//! JSON Schemas of the files, for editors: generated from the grammar.
//!
//! Draft 7, which `yaml-language-server` knows best; what only that reads (`markdownDescription`,
//! `patternErrorMessage`) is ignored by others. A schema may be stricter than the reader, where `check` refuses the
//! file anyway; it never refuses what `check` accepts.

use serde_json::{Value as Json, json};

use super::grammar::{self, Key, Kind, Map, Named, RESERVED, Rule, Shape, Word};
use crate::diagnostic::CODES;

/// A file that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaFile {
    /// A graph.
    Graph,
    /// project.yaml.
    Project,
    /// The front-matter of a prompt file.
    Prompt,
    /// The cases of a graph.
    Test,
}

impl SchemaFile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Graph, Self::Project, Self::Prompt, Self::Test];

    /// Returns the name of the schema's file: `graph.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Graph => "graph.json",
            Self::Project => "project.json",
            Self::Prompt => "prompt.json",
            Self::Test => "test.json",
        }
    }

    /// Returns the schema as it is written to a file.
    pub fn text(self) -> String {
        format!("{:#}\n", self.schema())
    }

    /// Returns the schema.
    pub fn schema(self) -> Json {
        let map = match self {
            Self::Graph => &grammar::GRAPH,
            Self::Project => &grammar::PROJECT,
            Self::Prompt => &grammar::FRONT_MATTER,
            Self::Test => &grammar::TEST,
        };
        let mut writer = Writer::default();
        let mut root = Object::new();
        root.insert("$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
        // No title: an editor would put it above each hover text.
        root.insert("description".into(), json!(map.doc));
        root.extend(writer.map(map, None));
        root.insert("definitions".into(), Json::Object(writer.definitions));
        Json::Object(root)
    }
}

type Object = serde_json::Map<String, Json>;

/// Collects what is defined once and used in many places.
#[derive(Default)]
struct Writer {
    definitions: Object,
}

/// No braces: what stands in a name is fixed.
const FIXED: &str = r"^(?![\s\S]*\{[{%])";
/// An expression that begins with braces is none.
const BARE: &str = r"^(?!\s*\{[{%])";
const IDENTIFIER: &str = "[a-z][a-z0-9_]*$";

impl Writer {
    /// Writes a map with fixed keys. `kind` is what the map says of itself.
    fn map(&mut self, map: &Map, kind: Option<&str>) -> Object {
        let mut properties = Object::new();
        for key in map.keys() {
            let value = match (key.shape, kind) {
                (Shape::Kind(_), Some(kind)) => described(json!({"const": kind}), map.doc),
                _ => described(self.shape(key.shape), key.doc),
            };
            properties.insert(key.name.into(), value);
        }
        let mut schema = object(json!({"type": "object"}));
        let required: Vec<&str> = map.keys().filter(|key| map.needs(key)).map(|key| key.name).collect();
        if !required.is_empty() {
            schema.insert("required".into(), json!(required));
        }
        schema.insert("properties".into(), Json::Object(properties));
        schema.insert("patternProperties".into(), json!({"^x-": {}}));
        schema.insert("additionalProperties".into(), json!(false));
        rules(map.rules, &mut schema);
        schema
    }

    fn shape(&mut self, shape: Shape) -> Json {
        match shape {
            Shape::Format => json!({"const": 1}),
            Shape::Text | Shape::Template => json!({"type": "string"}),
            Shape::Expression => {
                let mut schema = pattern(BARE, "an expression has no braces: write  state.done");
                schema["type"] = json!(["string", "number", "boolean"]);
                schema
            }
            Shape::Value => self.define("value", |_| {
                let mut schema = pattern(BARE, "an expression has no braces: write  state.done");
                schema["items"] = reference("value");
                schema["additionalProperties"] = reference("value");
                schema
            }),
            Shape::Name(named) => name(named),
            Shape::Word(words) => word(words),
            Shape::Kind(kinds) => json!({
                "enum": kinds.iter().map(|kind| kind.name).collect::<Vec<_>>(),
                "markdownEnumDescriptions": kinds.iter().map(|kind| kind.map.doc).collect::<Vec<_>>(),
            }),
            Shape::Duration => {
                let mut schema = pattern(
                    "^[0-9]+(ms|s|m|h|d)$",
                    "write a duration like `500ms`, `30s`, `5m`, `2h` or `7d`",
                );
                schema["type"] = json!("string");
                schema["errorMessage"] = schema["patternErrorMessage"].clone();
                schema
            }
            Shape::Count => json!({"type": "integer", "minimum": 1}),
            Shape::Integer => json!({"type": "integer"}),
            Shape::Number => json!({"type": "number"}),
            Shape::Range(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Any => json!({}),
            Shape::AnyMap => json!({"type": "object"}),
            Shape::List(item) => json!({"type": "array", "items": self.shape(*item)}),
            Shape::Filled(item) => json!({"type": "array", "minItems": 1, "items": self.shape(*item)}),
            Shape::One(item) => {
                json!({"type": "array", "minItems": 1, "maxItems": 1, "items": self.shape(*item)})
            }
            Shape::Names(Named::Code, value) => codes(&self.shape(*value)),
            Shape::Names(named, value) => {
                let mut schema = json!({"type": "object", "additionalProperties": self.named(*value)});
                if let Some((names, why)) = names(named).filter(|_| is_given(named, *value)) {
                    schema["propertyNames"] = pattern(&names, why);
                    if matches!(named, Named::Node | Named::Field) {
                        schema["minProperties"] = json!(1);
                    }
                }
                schema
            }
            Shape::Map(map) => self.define(map.name, |writer| Json::Object(writer.map(map, None))),
            Shape::Marked { by, map, fields } => self.marked(by, map, *fields),
            Shape::Kinds(name, kinds) => self.define(name, |writer| writer.kinds(kinds)),
            Shape::OneOf(shapes) => {
                json!({"anyOf": shapes.iter().map(|shape| self.shape(*shape)).collect::<Vec<_>>()})
            }
            Shape::Shared(shared) => self.define(shared.name, |writer| writer.shape(shared.shape)),
        }
    }

    /// Writes a map that is a descriptor or a record.
    fn marked(&mut self, by: &[Key], map: &'static Map, fields: Shape) -> Json {
        let mut record = object(self.shape(Shape::Names(Named::Field, &Shape::Any)));
        record.insert("additionalProperties".into(), self.shape(fields));
        // With one of these it is no record: they are here only to be offered in an empty map.
        let keys = by.iter().map(|key| (key.name.to_owned(), described(json!({}), key.doc)));
        let offered: Object = keys.collect();
        record.insert("properties".into(), Json::Object(offered));
        let marks: Vec<Json> = by.iter().map(|key| json!({"required": [key.name]})).collect();
        json!({
            "type": "object",
            "if": {"anyOf": marks},
            "then": self.shape(Shape::Map(map)),
            "else": record,
        })
    }

    /// Writes a node: its kind says which keys it has.
    fn kinds(&mut self, kinds: &'static [Kind]) -> Json {
        let mut arms = Vec::new();
        for kind in kinds {
            let map = self.define(kind.map.name, |writer| {
                described(Json::Object(writer.map(kind.map, Some(kind.name))), kind.map.doc)
            });
            let is =
                json!({"type": "object", "required": ["kind"], "properties": {"kind": {"const": kind.name}}});
            arms.push(json!({"if": is, "then": map}));
        }
        let key = grammar::NODE.key("kind").map_or("", |key| key.doc);
        json!({
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": described(self.shape(Shape::Kind(kinds)), key)},
            "allOf": arms,
        })
    }

    /// Writes what stands behind a name: hovering over the name tells what it is.
    ///
    /// A definition has no text of its own: an editor would show that in the place of the key's.
    fn named(&mut self, shape: Shape) -> Json {
        let schema = self.shape(shape);
        match shape {
            Shape::Map(map) => described(schema, map.doc),
            Shape::Shared(shared) => described(schema, shared.doc),
            _ => schema,
        }
    }

    /// Defines a schema once, and refers to it.
    fn define(&mut self, name: &str, write: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.definitions.contains_key(name) {
            // Its place is taken first: it may refer to itself.
            self.definitions.insert(name.into(), Json::Null);
            let schema = write(self);
            self.definitions.insert(name.into(), schema);
        }
        reference(name)
    }
}

fn reference(name: &str) -> Json {
    json!({"$ref": format!("#/definitions/{name}")})
}

fn object(schema: Json) -> Object {
    match schema {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

/// Puts the documentation before a schema.
fn described(schema: Json, doc: &str) -> Json {
    let mut described = Object::new();
    described.insert("description".into(), json!(doc));
    if doc.contains('`') {
        described.insert("markdownDescription".into(), json!(doc));
    }
    described.extend(object(schema));
    Json::Object(described)
}

fn pattern(pattern: &str, why: &str) -> Json {
    json!({"pattern": pattern, "patternErrorMessage": why})
}

fn word(words: &[Word]) -> Json {
    // The word `null` without quotes is YAML's own.
    let bare = words.iter().filter(|word| word.name == "null").map(|word| (Json::Null, word.doc));
    let (names, docs): (Vec<_>, Vec<_>) =
        words.iter().map(|word| (json!(word.name), word.doc)).chain(bare).unzip();
    json!({"enum": names, "markdownEnumDescriptions": docs})
}

/// A name that stands for something.
fn name(named: Named) -> Json {
    let mut open = pattern(FIXED, "a name is fixed and has no braces");
    open["type"] = json!("string");
    let known = named.words();
    let all = || known.iter().map(|word| word.name).collect::<Vec<_>>().join("|");
    let (more, why) = match named {
        Named::Type => (format!("^({}|[A-Z][A-Za-z0-9]*)\\??$", all()), "no type has this name"),
        Named::ErrorKind => (format!("^({}|http_[0-9]{{3}})$", all()), "no error has this kind"),
        _ => return open,
    };
    open["pattern"] = json!(more);
    open["patternErrorMessage"] = json!(why);
    json!({"anyOf": [word(known), open]})
}

/// The pattern of a name that the author gives, and what is said of another one.
fn names(named: Named) -> Option<(String, &'static str)> {
    let why = "a name is a-z, then a-z, 0-9 or _";
    Some(match named {
        Named::Node => (
            format!("^(?!({})$){IDENTIFIER}", RESERVED.join("|")),
            "a node is a-z, then a-z, 0-9 or _, and no reserved name",
        ),
        Named::Type => ("^[A-Z][A-Za-z0-9]*$".into(), "a type is A-Z, then letters and digits"),
        Named::Secret | Named::Setting | Named::Variable => {
            ("^[A-Za-z_][A-Za-z0-9_]*$".into(), "a variable is letters, digits and _")
        }
        Named::Header => ("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$".into(), "a header is letters, digits and -"),
        Named::Output | Named::Case => return None,
        _ => (format!("^{IDENTIFIER}"), why),
    })
}

/// Says whether the author gives the names here. Elsewhere they may hold a value of a table's row.
fn is_given(named: Named, value: Shape) -> bool {
    match named {
        Named::Node => matches!(value, Shape::Kinds(..)),
        Named::Input | Named::Channel | Named::Argument => !matches!(value, Shape::Any),
        Named::Tool => matches!(value, Shape::Map(_)),
        _ => true,
    }
}

/// The codes that can be silenced.
fn codes(reason: &Json) -> Json {
    let fitting = CODES.iter().filter(|info| info.can_be_allowed());
    let properties: Object =
        fitting.map(|info| (info.code.to_owned(), described(reason.clone(), info.title))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Writes which keys need which others.
fn depends(needs: Object, schema: &mut Object) {
    if let Json::Object(all) = schema.entry("dependencies").or_insert_with(|| json!({})) {
        all.extend(needs);
    }
}

/// Writes what holds between keys.
fn rules(rules: &[Rule], schema: &mut Object) {
    let required =
        |keys: &[&str]| -> Vec<Json> { keys.iter().map(|key| json!({"required": [key]})).collect() };
    for rule in rules {
        match rule {
            Rule::Due(_) => {}
            Rule::OneOf(keys) => drop(schema.insert("oneOf".into(), json!(required(keys)))),
            Rule::AnyOf(keys) => drop(schema.insert("anyOf".into(), json!(required(keys)))),
            Rule::NotBoth(one, other) => drop(schema.insert("not".into(), json!({"required": [one, other]}))),
            Rule::Needs(key, due) => {
                let needs = [((*key).to_owned(), json!([due]))].into_iter().collect();
                depends(needs, schema);
            }
            Rule::Together(keys) => {
                let others =
                    |key: &&str| keys.iter().filter(|other| *other != key).copied().collect::<Vec<_>>();
                let needs: Object = keys.iter().map(|key| ((*key).to_owned(), json!(others(key)))).collect();
                depends(needs, schema);
            }
            Rule::If { key, is, due } => {
                let rule = json!({
                    "if": {"required": [key], "properties": {*key: {"const": is}}},
                    "then": {"required": [due]}
                });
                if let Json::Array(all) = schema.entry("allOf").or_insert_with(|| json!([])) {
                    all.push(rule);
                }
            }
        }
    }
}
