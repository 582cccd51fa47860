//! Types and channels as written.

use serde_json::Value as Json;

use super::fields::Fields;
use super::grammar::types::{BASES, CHANNEL_ONLY};
use super::grammar::{CHANNEL_RULES, TYPE_RULES};
use super::reader::Reader;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, Spanned, suggest};

/// A type as written; names are not resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum TypeSpec {
    /// A built-in or declared type by name, without its `?`.
    Name {
        /// The name.
        name: Spanned<String>,
        /// It ends in `?`: the value may be null.
        nullable: bool,
    },
    /// `[T]`.
    List(Box<TypeSpec>, Span),
    /// `{field: T, …}`.
    Record(Vec<(Spanned<String>, TypeSpec)>, Span),
    /// A map with one of the keys `type enum fields schema`.
    Descriptor(Box<Descriptor>),
}

/// A type with its rules; as a channel also with its merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    /// The first token.
    pub span: Span,
    /// `type: T`, `enum: […]`, `fields: {…}` or `schema: PATH`.
    pub base: Base,
    /// The value when none is written.
    pub default: Option<Spanned<Json>>,
    /// The least number, or the fewest characters.
    pub min: Option<Spanned<f64>>,
    /// The greatest number, or the most characters.
    pub max: Option<Spanned<f64>>,
    /// A regular expression that the text matches.
    pub pattern: Option<Spanned<String>>,
    /// For people and for models.
    pub description: Option<String>,
    /// May be null.
    pub optional: bool,
    /// How writes join the channel.
    pub merge: Option<Spanned<String>>,
    /// Kept out of outputs, events and the public state.
    pub private: bool,
    /// `keep: run`: starts anew with each run.
    pub per_run: bool,
}

/// What a descriptor describes.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// `type: T`.
    Type(TypeSpec),
    /// `enum: [a, b]`.
    Enum(Vec<Spanned<String>>),
    /// `fields: {…}`.
    Fields(Vec<(Spanned<String>, TypeSpec)>),
    /// `schema: PATH`.
    Schema(Spanned<String>),
}

impl TypeSpec {
    /// Returns the place to point at.
    pub fn span(&self) -> Span {
        match self {
            Self::Name { name, .. } => name.span,
            Self::List(_, span) | Self::Record(_, span) => *span,
            Self::Descriptor(descriptor) => descriptor.span,
        }
    }
}

impl Reader<'_> {
    /// Reads a type.
    pub(super) fn ty(&mut self, node: &Node, channel: bool) -> Option<TypeSpec> {
        match &node.tree {
            Tree::Str(text) => {
                let (name, nullable) =
                    text.strip_suffix('?').map_or((text.as_str(), false), |name| (name, true));
                let span = Span { end: node.span.end.max(node.span.start), ..node.span };
                Some(TypeSpec::Name { name: Spanned { value: name.to_owned(), span }, nullable })
            }
            Tree::Seq(items) => {
                if let [item] = items.as_slice() {
                    return Some(TypeSpec::List(Box::new(self.ty(item, false)?), node.span));
                }
                let finding =
                    Diagnostic::error("G105", "a list type has one item type", node.span, "not one type");
                let words: Option<Vec<&str>> = items.iter().map(Node::as_str).collect();
                let words = words.filter(|words| !words.is_empty());
                self.bag.report(finding.help(match words {
                    Some(words) => {
                        format!("write  {{enum: [{}]}}  where it is one of these words", words.join(", "))
                    }
                    None => "write  [string]".to_owned(),
                }));
                None
            }
            Tree::Map(entries) => {
                let is = |key: &str| entries.iter().any(|(name, _)| name.as_str() == Some(key));
                if BASES.iter().any(|key| is(key.name)) {
                    return self.descriptor(node, channel).map(|d| TypeSpec::Descriptor(Box::new(d)));
                }
                // A list of words is no type: `enum` was meant.
                let listed = |value: &Node| matches!(&value.tree, Tree::Seq(items) if items.len() != 1);
                if let Some((key, _)) = entries.iter().find(|(key, value)| {
                    listed(value) && key.as_str().is_some_and(|key| suggest(key, ["enum"]).is_some())
                }) {
                    let name = key.key_text();
                    let finding = Diagnostic::error(
                        "G102",
                        format!("unknown key `{name}`"),
                        key.span,
                        "not a key of a type",
                    );
                    self.bag.report(finding.help("did you mean `enum`?"));
                    return None;
                }
                Some(TypeSpec::Record(self.record(node)?, node.span))
            }
            _ => {
                self.wrong(node, "a type");
                None
            }
        }
    }

    /// Reads the fields of a record; one bad field leaves out only itself.
    pub(super) fn record(&mut self, node: &Node) -> Option<Vec<(Spanned<String>, TypeSpec)>> {
        if matches!(&node.tree, Tree::Map(entries) if entries.is_empty()) {
            let finding = Diagnostic::error("G105", "a record without fields", node.span, "holds nothing");
            self.bag.report(finding.help("write its fields  {name: string}, or use `object`"));
        }
        let entries = self.names(node, "fields and types");
        let mut fields = Vec::new();
        for (name, value) in entries {
            self.identifier(&name, "a field");
            // What reads a broken field is not blamed.
            let any = TypeSpec::Name {
                name: Spanned { value: "any".to_owned(), span: value.span },
                nullable: false,
            };
            let ty = self.ty(value, false).unwrap_or(any);
            fields.push((name, ty));
        }
        (!fields.is_empty()).then_some(fields)
    }

    /// Reports a descriptor that says twice what it describes.
    fn one_base(&mut self, fields: &Fields<'_>) {
        let given: Vec<(&str, Span)> =
            BASES.iter().filter_map(|key| Some((key.name, fields.place(key.name)?))).collect();
        if let [(first, at), (second, again), ..] = given.as_slice() {
            let message = format!("`{first}` and `{second}` exclude each other");
            let finding = Diagnostic::error("G105", message, *again, "a second description")
                .related(*at, "the first one");
            self.bag.report(finding.help("keep one of them"));
        }
    }

    fn descriptor(&mut self, node: &Node, channel: bool) -> Option<Descriptor> {
        let (map, what) = if channel { (&CHANNEL_RULES, "a channel") } else { (&TYPE_RULES, "a type") };
        let errors = self.bag.errors_in(node.span.file);
        let mut fields = self.fields(node, map, what)?;
        self.one_base(&fields);
        let base = if let Some(ty) = fields.take("type") {
            self.ty(ty, false).map(Base::Type)
        } else if let Some(values) = fields.take("enum") {
            let items = self.filled(values, "texts");
            let values: Vec<_> = items
                .iter()
                .filter_map(|item| {
                    let text = self.text(item, "a text")?;
                    Some(Spanned { value: text.value, span: text.span })
                })
                .collect();
            self.once(&values, "the value");
            (!values.is_empty()).then_some(Base::Enum(values))
        } else if let Some(record) = fields.take("fields") {
            self.record(record).map(Base::Fields)
        } else if let Some(path) = fields.take("schema") {
            self.name(path, "the path of a JSON Schema file").map(Base::Schema)
        } else {
            None
        };
        for key in &BASES {
            fields.take(key.name);
        }
        let default = fields.take("default").and_then(|node| self.literal(node));
        let min = fields.take("min").and_then(|node| self.number(node));
        let max = fields.take("max").and_then(|node| self.number(node));
        let pattern = fields.take("pattern").and_then(|node| self.name(node, "a regular expression"));
        let description = fields.take("description").and_then(|node| self.text(node, "a text"));
        let optional = fields.take("optional").and_then(|node| self.boolean(node)).unwrap_or(false);
        let (mut merge, mut private, mut per_run) = (None, false, false);
        if channel {
            merge = fields.take("merge").and_then(|node| self.name(node, "a merge"));
            private = fields.take("private").and_then(|node| self.boolean(node)).unwrap_or(false);
            let keep = fields.take("keep").and_then(|node| self.word(node, &["thread", "run"]));
            per_run = keep.is_some_and(|keep| keep.value == "run");
        }
        let span = fields.span;
        fields.finish(self, |key| {
            let record = "for a record with a field of that name write  {fields: {…}}";
            match suggest(key, TYPE_RULES.names()) {
                _ if key == "required" => {
                    Some("everything is required; `string?`, or `optional: true`, may be left out".to_owned())
                }
                _ if CHANNEL_ONLY.iter().any(|own| own.name == key) => {
                    Some(format!("`{key}` belongs to a channel under `state`"))
                }
                None => Some(record.to_owned()),
                Some(_) => None,
            }
        });
        // What a wrong part was meant to say, nobody knows.
        if self.bag.errors_in(node.span.file) > errors {
            return None;
        }
        Some(Descriptor {
            span,
            base: base?,
            default,
            min,
            max,
            pattern,
            description: description.map(|text| text.value),
            optional,
            merge,
            private,
            per_run,
        })
    }
}
