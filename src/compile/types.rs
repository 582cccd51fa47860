//! Types as written become types: names are resolved, and defaults are checked against them.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde_json::Value as Json;

mod round;

use super::json_schema::Schemas;
use super::knots::{is_round, knots};
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::spec::{Base, Descriptor, Folder, Project, TypeSpec};
use crate::state::{Channel, Channels, Field, Merge, Type};
use round::mentions;

const BUILT_IN: [&str; 7] = ["string", "integer", "number", "boolean", "object", "any", "messages"];

/// The named types of a project.
#[derive(Debug, Default)]
pub struct Types {
    known: IndexMap<String, Field>,
    used: std::cell::RefCell<BTreeSet<String>>,
    /// Types that are there but cannot be read.
    broken: Vec<String>,
    /// A type that is not known may be there.
    unsure: bool,
    /// The JSON Schema files.
    schemas: Schemas,
    /// Types that contain one another.
    rounds: Vec<Vec<String>>,
}

/// Types as written, by name.
type Specs<'s> = BTreeMap<&'s str, &'s (Spanned<String>, TypeSpec)>;

impl Types {
    /// Resolves the types of a project without its JSON Schema files.
    pub fn resolve(project: &Project, bag: &mut Bag) -> Self {
        Self::with(project, Schemas::default(), bag)
    }

    /// Resolves the types of a folder.
    pub(super) fn of_folder(folder: &Folder, bag: &mut Bag) -> Self {
        Self::with(&folder.project, Schemas::of(folder), bag)
    }

    /// Resolves types, one after another as they need each other.
    fn with(project: &Project, schemas: Schemas, bag: &mut Bag) -> Self {
        let mut types =
            Self { broken: project.broken.clone(), unsure: project.unsure, schemas, ..Self::default() };
        let specs: Specs<'_> =
            project.types.iter().map(|declared| (declared.0.value.as_str(), declared)).collect();
        let forth = specs.iter().map(|(name, (_, spec))| (*name, mentions(spec))).collect();
        for part in knots(&forth) {
            match part.as_slice() {
                [name] if !is_round(&part, &forth) => {
                    let (declared, spec) = specs[name];
                    // A type whose parts are wrong is known as `any`, so that its users are not blamed.
                    let field = types.field(spec, bag).filter(|field| is_small(declared, &field.ty, bag));
                    types.known.insert((*name).to_owned(), field.unwrap_or_else(|| Field::of(Type::Any)));
                }
                round => types.tie(round, &specs, bag),
            }
        }
        types
    }

    /// Returns the declared types that nothing uses.
    pub(super) fn unused<'a>(&self, specs: &'a [(Spanned<String>, TypeSpec)]) -> Vec<&'a Spanned<String>> {
        let used = self.used.borrow();
        // Of types that contain one another, what uses one uses all.
        let by_others = |name: &String| {
            let around = self.rounds.iter().filter(|round| round.contains(name));
            around.flatten().any(|other| used.contains(other))
        };
        let is_unused = |name: &&Spanned<String>| !used.contains(&name.value) && !by_others(&name.value);
        specs.iter().map(|(name, _)| name).filter(is_unused).collect()
    }

    /// Resolves a type with what is said of it.
    pub fn field(&self, spec: &TypeSpec, bag: &mut Bag) -> Option<Field> {
        let plain = |ty| Some(Field::of(ty));
        match spec {
            TypeSpec::Name { name, nullable } => {
                let field = self.named(name, bag)?;
                if !*nullable {
                    return Some(field);
                }
                // Null from the start, whatever the type starts with elsewhere.
                let ty = if field.ty.is_nullable() { field.ty } else { Type::Nullable(Box::new(field.ty)) };
                Some(Field { ty, default: None, ..field })
            }
            TypeSpec::List(item, _) => plain(Type::List(Box::new(self.field(item, bag)?.ty))),
            TypeSpec::Record(fields, _) => plain(self.record(fields, bag)?),
            TypeSpec::Descriptor(descriptor) => self.described(descriptor, bag),
        }
    }

    fn named(&self, name: &Spanned<String>, bag: &mut Bag) -> Option<Field> {
        Some(Field::of(match name.value.as_str() {
            "string" => Type::String { pattern: None, min: None, max: None },
            "integer" => Type::Integer { min: None, max: None },
            "number" => Type::Number { min: None, max: None },
            "boolean" => Type::Boolean,
            "object" => Type::Object,
            "any" => Type::Any,
            "messages" => Type::Messages,
            other => {
                if let Some(field) = self.known.get(other) {
                    self.used.borrow_mut().insert(other.to_owned());
                    return Some(field.clone());
                }
                if self.unsure || self.broken.iter().any(|broken| broken == other) {
                    return Some(Field::of(Type::Any));
                }
                let known = BUILT_IN.into_iter().chain(self.known.keys().map(String::as_str));
                let finding = Diagnostic::error(
                    "S409",
                    format!("unknown type `{other}`"),
                    name.span,
                    "no type has this name",
                );
                bag.report(finding.help_maybe(elsewhere(other).or_else(|| did_you_mean(other, known))));
                return None;
            }
        }))
    }

    fn record(&self, fields: &[(Spanned<String>, TypeSpec)], bag: &mut Bag) -> Option<Type> {
        let fields: Vec<_> =
            fields.iter().map(|(name, spec)| Some((name.value.clone(), self.field(spec, bag)?))).collect();
        fields.into_iter().collect::<Option<_>>().map(Type::Record)
    }

    fn described(&self, d: &Descriptor, bag: &mut Bag) -> Option<Field> {
        // What a named type or a file says of itself holds unless something else is said here.
        let base = match &d.base {
            Base::Schema(path) => self.schemas.field(path, bag)?,
            Base::Type(spec) => self.field(spec, bag)?,
            Base::Enum(values) => Field::of(Type::Enum(values.iter().map(|v| v.value.clone()).collect())),
            Base::Fields(fields) => Field::of(self.record(fields, bag)?),
        };
        let mut ty = bounded(base.ty, d, bag)?;
        if d.optional && !matches!(ty, Type::Nullable(_)) {
            ty = Type::Nullable(Box::new(ty));
        }
        let default = base.default.filter(|default| ty.check(default).is_ok());
        let mut field = Field { ty, default, description: d.description.clone().or(base.description) };
        if let Some(default) = &d.default {
            match field.ty.check(&default.value) {
                Ok(()) if !field.ty.fill(&mut default.value.clone()) => {
                    let message = "the default has no end";
                    let label = "leaves out the field that it is the default of";
                    let finding = Diagnostic::error("S408", message, default.span, label);
                    bag.report(finding.help("write that field, too, for instance as `null`"));
                    field.default = Some(Json::Null);
                }
                Ok(()) => field.default = Some(default.value.clone()),
                Err(mismatch) => {
                    let message = format!("the default does not fit its type {}", field.ty);
                    bag.report(Diagnostic::error("S408", message, default.span, mismatch.why));
                    // The value is wrong, not the type: what reads it is not blamed.
                    field.default = Some(Json::Null);
                }
            }
        }
        Some(field)
    }

    /// Resolves the channels of a graph.
    pub(super) fn channels(
        &self,
        specs: &[(Spanned<String>, TypeSpec)],
        bag: &mut Bag,
    ) -> (Channels, Vec<String>) {
        let (mut channels, mut broken) = (Channels::new(), Vec::new());
        for (name, spec) in specs {
            match self.channel(name, spec, bag) {
                Some(channel) => drop(channels.insert(name.value.clone(), channel)),
                None => broken.push(name.value.clone()),
            }
        }
        (channels, broken)
    }

    /// Resolves a channel.
    pub fn channel(&self, name: &Spanned<String>, spec: &TypeSpec, bag: &mut Bag) -> Option<Channel> {
        let field = self.field(spec, bag)?;
        let mut channel =
            Channel { merge: Merge::default_of(&field.ty), field, private: false, per_run: false };
        if let TypeSpec::Descriptor(d) = spec {
            channel.private = d.private;
            channel.per_run = d.per_run;
            if let Some(merge) = &d.merge {
                channel.merge = merge_of(name, merge, &channel.field.ty, bag)?;
            }
        }
        Some(channel)
    }
}

/// Finds a merge by its name, and checks that it applies to the channel's type.
fn merge_of(channel: &Spanned<String>, merge: &Spanned<String>, ty: &Type, bag: &mut Bag) -> Option<Merge> {
    let names = || Merge::ALL.into_iter().map(Merge::name);
    let Some(found) = Merge::ALL.into_iter().find(|m| m.name() == merge.value) else {
        let finding = Diagnostic::error(
            "S407",
            format!("unknown merge `{}`", merge.value),
            merge.span,
            "no merge has this name",
        );
        bag.report(finding.help_maybe(did_you_mean(&merge.value, names().collect::<Vec<_>>())));
        return None;
    };
    if !found.applies_to(ty) {
        let message = format!("merge `{}` does not apply to {ty}", merge.value);
        let fitting: Vec<String> =
            Merge::ALL.into_iter().filter(|m| m.applies_to(ty)).map(|m| format!("`{}`", m.name())).collect();
        let finding = Diagnostic::error("S407", message, merge.span, format!("`{}` is {ty}", channel.value));
        bag.report(finding.help(format!("merges of this type: {}", fitting.join(", "))));
        return None;
    }
    Some(found)
}

/// The most parts of a type with all that it names.
pub(super) const LARGEST: usize = 10_000;

/// The most parts of a type, or of a JSON Schema, that lie within each other.
pub(super) const DEEPEST: usize = 64;

/// Reports a type that is too large, or too deep, when all that it names is written out.
fn is_small(name: &Spanned<String>, ty: &Type, bag: &mut Bag) -> bool {
    let (what, label) = if size(ty, LARGEST) >= LARGEST {
        ("large", format!("more than {LARGEST} parts"))
    } else if depth(ty) > DEEPEST {
        ("deep", format!("more than {DEEPEST} types within each other"))
    } else {
        return true;
    };
    let message = format!("type `{}` is too {what} when it is written out", name.value);
    let finding = Diagnostic::error("S409", message, name.span, label);
    bag.report(finding.help("use `any` or `object` for a part of it"));
    false
}

/// Counts the types within each other.
fn depth(ty: &Type) -> usize {
    match ty {
        Type::List(inner) => 1 + depth(inner),
        Type::Nullable(inner) => depth(inner),
        Type::Record(fields) => 1 + fields.values().map(|field| depth(&field.ty)).max().unwrap_or_default(),
        _ => 1,
    }
}

/// Counts the parts of a type, up to a limit.
fn size(ty: &Type, limit: usize) -> usize {
    match ty {
        Type::List(inner) | Type::Nullable(inner) => 1 + size(inner, limit),
        Type::Record(fields) => fields
            .values()
            .fold(1, |sum, field| if sum >= limit { sum } else { sum + size(&field.ty, limit - sum) }),
        _ => 1,
    }
}

/// Says how a type of other languages is written here.
fn elsewhere(name: &str) -> Option<String> {
    let simple = |name: &str| {
        Some(match name.to_lowercase().as_str() {
            "str" | "text" | "varchar" | "char" => "string",
            "int" | "int32" | "int64" | "long" => "integer",
            "float" | "double" | "decimal" | "real" => "number",
            "bool" => "boolean",
            "dict" | "map" | "json" | "struct" => "object",
            _ => return None,
        })
    };
    let item = |inner: &str| simple(inner).map_or_else(|| inner.to_owned(), str::to_owned);
    let between = |open: char, close: char, names: &[&str]| {
        let (outer, rest) = name.split_once(open)?;
        let inner = rest.strip_suffix(close)?;
        names.contains(&outer.to_lowercase().as_str()).then(|| item(inner))
    };
    let bare = |name: &str| {
        let name = name.trim_end_matches('?').trim_end();
        let name = name.strip_suffix("null").or_else(|| name.strip_suffix("None")).unwrap_or(name);
        name.trim_end_matches(['|', ' ']).to_owned()
    };
    let optional = bare(name);
    if optional != name && !optional.is_empty() && optional.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Some(format!("write `{}?`", item(&optional)));
    }
    let lists = ["list", "array", "sequence", "vec"];
    if let Some(simple) = simple(name) {
        return Some(format!("write `{simple}`"));
    }
    if matches!(name.to_lowercase().as_str(), "list" | "array") {
        return Some("write the type of the items in brackets:  [string]".to_owned());
    }
    if let Some(inner) = between('[', ']', &lists).or_else(|| between('<', '>', &lists)) {
        return Some(format!("write  [{inner}]"));
    }
    if let Some(inner) = name.strip_suffix("[]") {
        return Some(format!("write  [{}]", item(inner)));
    }
    between('[', ']', &["optional"]).map(|inner| format!("write  {inner}?"))
}

/// Puts the bounds of a descriptor into its type.
fn bounded(ty: Type, d: &Descriptor, bag: &mut Bag) -> Option<Type> {
    if let (Some(min), Some(max)) = (&d.min, &d.max)
        && min.value > max.value
        && !bag.is_trusting()
    {
        let message = "no value is at least `min` and at most `max`";
        let finding = Diagnostic::error("S408", message, max.span, format!("less than {}", min.value));
        bag.report(finding.related(min.span, "the least").help("exchange the two"));
        return None;
    }
    let bounds = [("min", &d.min), ("max", &d.max)];
    let mut wrong = |key: &str, span: Span, ty: &Type| {
        let message = format!("`{key}` does not apply to {ty}");
        bag.report(Diagnostic::error("S408", message, span, "no such rule for this type"));
    };
    let number = |bound: &Option<Spanned<f64>>| bound.as_ref().map(|b| b.value);
    if let Some(pattern) = &d.pattern
        && let Err(why) = crate::state::check_pattern(&pattern.value)
    {
        let finding = Diagnostic::error("S408", "the pattern cannot be used", pattern.span, why);
        bag.report(finding.help("write a regular expression without look-around and back-references"));
        return None;
    }
    let bounded = match ty {
        Type::Nullable(inner) => return bounded_inner(*inner, d, bag),
        Type::String { .. } => Type::String {
            pattern: d.pattern.as_ref().map(|p| p.value.clone()),
            min: number(&d.min).map(|x| x as u64),
            max: number(&d.max).map(|x| x as u64),
        },
        Type::Integer { .. } => {
            Type::Integer { min: number(&d.min).map(|x| x as i64), max: number(&d.max).map(|x| x as i64) }
        }
        Type::Number { .. } => Type::Number { min: number(&d.min), max: number(&d.max) },
        other => {
            for (key, bound) in bounds {
                if let Some(bound) = bound {
                    wrong(key, bound.span, &other);
                    return None;
                }
            }
            other
        }
    };
    if let Some(pattern) = d.pattern.as_ref().filter(|_| !matches!(bounded, Type::String { .. })) {
        wrong("pattern", pattern.span, &bounded);
        return None;
    }
    Some(bounded)
}

fn bounded_inner(inner: Type, d: &Descriptor, bag: &mut Bag) -> Option<Type> {
    bounded(inner, d, bag).map(|ty| Type::Nullable(Box::new(ty)))
}
