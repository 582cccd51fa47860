//! JSON Schema files become types: the part of draft 7 and of 2020-12 that the type language can express.
//!
//! Invariant: what a file says is never taken for less. What the type language cannot express is an error, but for three
//! things: an object that names its fields has no others, a field that need not be there may be null, and `format` is
//! only a remark. What a server says of its tools is read leniently: whatever cannot be expressed is left to the server.

mod parts;
mod shape;

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use self::shape::SHAPES;
use super::types::{DEEPEST, LARGEST};
use crate::diagnostic::{Bag, Diagnostic, Spanned, did_you_mean};
use crate::spec::{Folder, JsonFile};
use crate::state::{Field, Type, check_pattern, kind};

/// The JSON Schema files of a project.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    files: BTreeMap<String, JsonFile>,
    /// Files that are there but cannot be read.
    broken: Vec<String>,
    /// What was made of a file; nothing where the bag says why not.
    known: RefCell<BTreeMap<String, Option<Field>>>,
}

impl Schemas {
    /// Takes the files of a project.
    pub(super) fn of(folder: &Folder) -> Self {
        let (files, broken) = (folder.schemas.clone(), folder.broken_schemas.clone());
        Self { files, broken, known: RefCell::default() }
    }

    /// Resolves a file by its path. What is wrong with it is told once.
    pub(super) fn field(&self, path: &Spanned<String>, bag: &mut Bag) -> Option<Field> {
        if let Some(known) = self.known.borrow().get(&path.value) {
            return known.clone();
        }
        let field = match self.files.get(&path.value) {
            Some(file) => Reader::new(file, path, false, bag).field(&file.json).ok(),
            None if self.broken.contains(&path.value) => None,
            None => {
                let message = format!("there is no schema file `{}`", path.value);
                let label = format!("looked for {}", path.value);
                let finding = Diagnostic::error("G107", message, path.span, label);
                let near = did_you_mean(&path.value, self.files.keys().map(String::as_str));
                let help = if path.value.starts_with("schemas/") && path.value.ends_with(".json") {
                    near
                } else {
                    Some("schema files are named by their path:  schemas/order.json".to_owned())
                };
                bag.report(finding.help_maybe(help));
                None
            }
        };
        self.known.borrow_mut().insert(path.value.clone(), field.clone());
        field
    }
}

/// Returns the type of what a server takes or gives, as far as the type language can express it. Of an object that names
/// its fields those are known, whatever else it may have.
pub fn lenient(schema: &Map<String, Json>, of: &Spanned<String>) -> Type {
    let file = JsonFile::part(of.span.file, Json::Object(schema.clone()));
    let mut nobody = Bag::default();
    let mut reader = Reader::new(&file, of, true, &mut nobody);
    let read = if schema.contains_key("properties") {
        reader.object(schema)
    } else {
        reader.field(&file.json).map(|field| field.ty)
    };
    read.unwrap_or(Type::Any)
}

/// What is wrong was told.
struct Told;

/// Keywords that say something to people only.
const REMARKS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "examples",
    "readOnly",
    "writeOnly",
    "deprecated",
    "format",
];

/// The drafts that are understood.
const DRAFTS: [&str; 2] = ["json-schema.org/draft-07/schema", "json-schema.org/draft/2020-12/schema"];

/// Goes through one file.
struct Reader<'a> {
    file: &'a JsonFile,
    /// Where the file is named.
    used: &'a Spanned<String>,
    /// The keys that lead to where it reads.
    path: Vec<String>,
    /// The references that it is in.
    open: Vec<String>,
    /// How many schemas it is in; a chain of references is as deep as one that is written out.
    depth: usize,
    parts: usize,
    /// What cannot be expressed is no mistake: anything fits.
    lenient: bool,
    bag: &'a mut Bag,
}

impl<'a> Reader<'a> {
    fn new(file: &'a JsonFile, used: &'a Spanned<String>, lenient: bool, bag: &'a mut Bag) -> Self {
        Self { file, used, path: Vec::new(), open: Vec::new(), depth: 0, parts: 0, lenient, bag }
    }

    /// Reports what is wrong with a key of what is read, or with all of it.
    fn wrong(&mut self, key: Option<&str>, message: impl Into<String>, help: Option<String>) -> Told {
        if self.lenient {
            return Told;
        }
        let mut pointer = self.path.clone();
        pointer.extend(key.map(str::to_owned));
        let label =
            if pointer.is_empty() { "at the top".to_owned() } else { format!("at #/{}", pointer.join("/")) };
        let finding = Diagnostic::error("S410", message, self.file.place(&pointer), label);
        self.bag.report(finding.related(self.used.span, "used here").help_maybe(help));
        Told
    }

    fn below<T>(
        &mut self,
        keys: &[&str],
        read: impl FnOnce(&mut Self) -> Result<T, Told>,
    ) -> Result<T, Told> {
        let depth = self.path.len();
        self.path.extend(keys.iter().map(|key| (*key).to_owned()));
        let found = read(self);
        self.path.truncate(depth);
        found
    }

    fn field(&mut self, schema: &Json) -> Result<Field, Told> {
        self.parts += 1;
        if self.parts > LARGEST && self.lenient {
            return Ok(Field::of(Type::Any));
        }
        if self.parts > LARGEST {
            return Err(self.wrong(None, "the schema is too large when it is written out", None));
        }
        if self.depth == DEEPEST && self.lenient {
            return Ok(Field::of(Type::Any));
        }
        if self.depth == DEEPEST {
            let help = "take  {}  for the inner one: anything fits".to_owned();
            let message = format!("more than {DEEPEST} schemas within each other");
            return Err(self.wrong(None, message, Some(help)));
        }
        self.depth += 1;
        let found = self.part(schema);
        self.depth -= 1;
        if self.lenient { Ok(found.unwrap_or_else(|Told| Field::of(Type::Any))) } else { found }
    }

    fn part(&mut self, schema: &Json) -> Result<Field, Told> {
        let schema = match schema {
            Json::Object(schema) => schema,
            Json::Bool(true) => return Ok(Field::of(Type::Any)),
            _ => return Err(self.wrong(None, "a schema is an object here", None)),
        };
        for (key, holds) in SHAPES {
            if let Some(value) = schema.get(key).filter(|value| !holds.fits(value)) {
                let message = format!("`{key}` is {}, found {}", holds.name(), kind(value));
                return Err(self.wrong(Some(key), message, None));
            }
        }
        if let Some(draft) = schema.get("$schema").filter(|_| !self.lenient) {
            let name = draft.as_str().unwrap_or_default();
            let bare =
                name.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('#');
            if !DRAFTS.contains(&bare) {
                let help = "this build reads draft 7 and 2020-12".to_owned();
                return Err(self.wrong(Some("$schema"), "a draft that is not understood", Some(help)));
            }
        }
        let mut field = self.described(schema)?;
        if let Some(text) = schema.get("description").and_then(Json::as_str) {
            field.description = Some(text.to_owned());
        }
        if let Some(default) = schema.get("default") {
            match field.ty.check(default) {
                Ok(()) => field.default = Some(default.clone()),
                Err(_) if self.lenient => {}
                Err(mismatch) => return Err(self.wrong(Some("default"), mismatch.why, None)),
            }
        }
        Ok(field)
    }

    /// Reads a schema but for what it says itself of its default and its purpose: what it refers to may say that, too.
    fn described(&mut self, schema: &Map<String, Json>) -> Result<Field, Told> {
        if let Some(reference) = schema.get("$ref") {
            self.only(schema, &["$ref"])?;
            return self.reference(reference);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(arms) = schema.get(key) {
                self.only(schema, &[key])?;
                return self.either(key, arms);
            }
        }
        self.ty(schema).map(Field::of)
    }

    fn ty(&mut self, schema: &Map<String, Json>) -> Result<Type, Told> {
        if let Some(values) = schema.get("enum") {
            self.only(schema, &["enum", "type"])?;
            let nullable = self.texts(schema, "enum")?;
            return self.listed(values, nullable);
        }
        if let Some(value) = schema.get("const") {
            self.only(schema, &["const", "type"])?;
            let Some(text) = value.as_str() else {
                return Err(self.wrong(Some("const"), "only a text can be the one value", None));
            };
            self.texts(schema, "const")?;
            return Ok(Type::Enum(vec![text.to_owned()]));
        }
        let (name, nullable) = self.name(schema)?;
        let ty = match name {
            "string" => {
                self.only(schema, &["type", "minLength", "maxLength", "pattern"])?;
                let pattern = schema.get("pattern").and_then(Json::as_str).map(str::to_owned);
                let pattern = pattern.filter(|pattern| !self.lenient || check_pattern(pattern).is_ok());
                if let Some(Err(why)) = pattern.as_deref().map(check_pattern) {
                    let help =
                        "write a regular expression without look-around and back-references".to_owned();
                    return Err(self.wrong(Some("pattern"), why, Some(help)));
                }
                Type::String {
                    pattern,
                    min: self.number(schema, "minLength", Json::as_u64)?,
                    max: self.number(schema, "maxLength", Json::as_u64)?,
                }
            }
            "integer" => {
                self.only(schema, &["type", "minimum", "maximum"])?;
                Type::Integer {
                    min: self.number(schema, "minimum", Json::as_i64)?,
                    max: self.number(schema, "maximum", Json::as_i64)?,
                }
            }
            "number" => {
                self.only(schema, &["type", "minimum", "maximum"])?;
                Type::Number {
                    min: self.number(schema, "minimum", Json::as_f64)?,
                    max: self.number(schema, "maximum", Json::as_f64)?,
                }
            }
            "boolean" => {
                self.only(schema, &["type"])?;
                Type::Boolean
            }
            "array" => {
                self.only(schema, &["type", "items"])?;
                let item = match schema.get("items") {
                    None => Type::Any,
                    Some(items) => self.below(&["items"], |reader| reader.field(items))?.ty,
                };
                Type::List(Box::new(item))
            }
            "object" => {
                self.only(schema, &["type", "properties", "required", "additionalProperties"])?;
                self.object(schema)?
            }
            _ => {
                self.only(schema, &[])?;
                return Ok(Type::Any);
            }
        };
        Ok(if nullable { Type::Nullable(Box::new(ty)) } else { ty })
    }

    /// Checks the type beside values that are texts; says whether it lets null stand beside them.
    fn texts(&mut self, schema: &Map<String, Json>, key: &str) -> Result<bool, Told> {
        match self.name(schema)? {
            ("any", _) => Ok(true),
            ("string", nullable) => Ok(nullable),
            (other, _) => {
                let message = format!("`{key}` lists texts, and `type` says {other}");
                Err(self.wrong(Some("type"), message, Some("write  \"type\": \"string\"".to_owned())))
            }
        }
    }

    /// Reports a keyword that is none of these.
    fn only(&mut self, schema: &Map<String, Json>, known: &[&str]) -> Result<(), Told> {
        if self.lenient {
            return Ok(());
        }
        let remark = |key: &str| {
            REMARKS.contains(&key) || matches!(key, "description" | "default") || key.starts_with("x-")
        };
        let Some(key) = schema.keys().find(|key| !known.contains(&key.as_str()) && !remark(key)) else {
            return Ok(());
        };
        let help = match key.as_str() {
            "nullable" => "write  \"type\": [\"string\", \"null\"]".to_owned(),
            "exclusiveMinimum" | "exclusiveMaximum" => "write `minimum` and `maximum`".to_owned(),
            "allOf" | "anyOf" | "oneOf" | "not" | "if" => {
                "write the fields out in one object, or take  type: object  and check it in the graph"
                    .to_owned()
            }
            "definition" | "def" => "write `$defs`".to_owned(),
            _ => "take it out, or write the type in YAML, where every rule has its key".to_owned(),
        };
        let key = key.clone();
        Err(self.wrong(Some(&key), format!("the keyword `{key}` cannot be expressed as a type"), Some(help)))
    }

    /// Reads `type`; what has properties or items says by that what it is.
    fn name<'s>(&mut self, schema: &'s Map<String, Json>) -> Result<(&'s str, bool), Told> {
        const NAMES: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];
        let one = |name: &str| NAMES.contains(&name);
        match schema.get("type") {
            None if schema.contains_key("properties") => Ok(("object", false)),
            None if schema.contains_key("items") => Ok(("array", false)),
            None => Ok(("any", false)),
            Some(Json::String(name)) if one(name) => Ok((name, false)),
            Some(Json::Array(names)) if names.iter().all(Json::is_string) => {
                let mut rest = names.iter().filter_map(Json::as_str).filter(|name| *name != "null");
                match (rest.next(), rest.next()) {
                    (Some(name), None) if one(name) => {
                        Ok((name, names.iter().any(|name| name.as_str() == Some("null"))))
                    }
                    _ => {
                        let help = "one type, and `null` beside it".to_owned();
                        Err(self.wrong(Some("type"), "a choice of types cannot be expressed", Some(help)))
                    }
                }
            }
            Some(_) => {
                let help = format!("types are: {}", NAMES.join(", "));
                Err(self.wrong(Some("type"), "no such type", Some(help)))
            }
        }
    }

    fn number<T>(
        &mut self,
        schema: &Map<String, Json>,
        key: &str,
        read: impl Fn(&Json) -> Option<T>,
    ) -> Result<Option<T>, Told> {
        match schema.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(number) => Ok(Some(number)),
                None if self.lenient => Ok(None),
                None => Err(self.wrong(Some(key), format!("`{key}` is no number that fits the type"), None)),
            },
        }
    }
}
