//! What can be written at a place of a file.

use std::ops::Range;

use super::cursor::{Cursor, Place, cursor};
use super::offer::{Offer, Root, Roots, What, Within, bind_loops, expression, within};
use super::project::{Project, is_partial};
use super::symbol::{Sort, Symbol};
use super::told::is_test;
use crate::compile::{Types, error_fields, run_fields};
use crate::diagnostic::CODES;
use crate::spec::grammar::{Named, Shape, Word};
use crate::state::{Field, Type};

mod shapes;
mod told;

pub(super) use shapes::{reach, table};

/// The roles of a prompt file.
const MARKERS: [(&str, &str); 4] = [
    ("@system", "What the model is told before everything else."),
    ("@user", "A turn of the user."),
    ("@assistant", "A turn of the model."),
    ("@messages", "The turns of an input: `@messages messages`."),
];

/// A file and a place in it.
#[derive(Clone, Copy)]
pub(super) struct At<'p> {
    pub(super) project: &'p Project,
    pub(super) path: &'p str,
    pub(super) text: &'p str,
    pub(super) offset: usize,
}

/// Returns what can be written, and the bytes that it replaces.
pub(super) fn complete(at: At<'_>) -> (Vec<Offer>, Range<usize>) {
    let offers = match (at.prompt_body(), at.path.strip_prefix("prompts/")) {
        (Some(body), Some(below)) => at.prompt(body, is_partial(below)),
        _ => at.yaml(),
    };
    let before = &at.text[..at.offset];
    let files = offers.first().is_some_and(|offer| offer.what == What::File);
    let part =
        |c: char| c.is_alphanumeric() || c == '_' || c == '@' || (files && matches!(c, '/' | '-' | '.'));
    // `docs.search` is one name, and so is `tickets::open`.
    let whole = |offer: &&Offer| matches!(offer.what, What::Tool | What::Registered);
    let signs: String = offers.iter().filter(whole).map(|offer| offer.label.as_str()).collect();
    let part = |c: char| part(c) || (c.is_ascii_punctuation() && signs.contains(c));
    (offers, before.trim_end_matches(part).len()..at.offset)
}

impl<'p> At<'p> {
    /// Returns the byte where the template of a prompt file begins, when the place is in it.
    pub(super) fn prompt_body(&self) -> Option<usize> {
        self.path.strip_prefix("prompts/")?;
        let from = front_end(self.text);
        (self.offset >= from).then_some(from)
    }

    /// Returns the part of the file that is YAML and the place in it.
    pub(super) fn yaml_part(&self) -> Option<(&'p str, usize)> {
        if !self.path.starts_with("prompts/") {
            return Some((self.text, self.offset));
        }
        // The first line opens the front-matter.
        let start = self.text.find('\n')? + 1;
        let end = front_end(self.text).min(self.text.len());
        (self.prompt_body().is_none() && start <= self.offset)
            .then(|| (&self.text[start..end.max(start)], self.offset - start))
    }

    fn yaml(&self) -> Vec<Offer> {
        let Some((text, offset)) = self.yaml_part() else { return Vec::new() };
        let Some(top) = table(self.path) else { return Vec::new() };
        let cursor = cursor(text, offset);
        if cursor.place == Place::Nothing {
            return Vec::new();
        }
        let reached = reach(Shape::Map(top), &cursor, text);
        let mut shapes = reached.shapes(&cursor);
        // What is there already tells which of several maps it is.
        let fits = |shape: &Shape| match shape {
            Shape::Map(map) => cursor.siblings.iter().all(|name| map.key(name).is_some()),
            _ => true,
        };
        if shapes.iter().any(|shape| matches!(shape, Shape::Map(_)) && fits(shape)) {
            shapes.retain(fits);
        }
        let mut offers = Vec::new();
        for shape in shapes {
            self.shape(shape, &cursor, text, &mut offers);
        }
        let mut seen = std::collections::BTreeSet::new();
        offers.retain(|offer| seen.insert(offer.label.clone()));
        offers
    }

    /// Offers what a shape asks for.
    fn shape(&self, shape: Shape, cursor: &Cursor<'_>, text: &str, offers: &mut Vec<Offer>) {
        let starts = cursor.place == Place::Key || (cursor.place == Place::Item && !cursor.flow);
        match shape {
            Shape::Map(map) if starts => {
                let fresh = map.keys().filter(|key| !cursor.siblings.contains(&key.name));
                let then = |shape| if matches!(shape, Shape::Map(_) | Shape::Names(..)) { ":" } else { ": " };
                offers.extend(
                    fresh.map(|key| Offer::new(key.name, What::Key).then(then(key.shape)).doc(Some(key.doc))),
                );
            }
            Shape::Names(named, _) if cursor.place == Place::Key && cursor.path.len() > 1 => {
                offers.extend(self.keys(named, cursor, text));
            }
            Shape::Names(Named::Code, _) if cursor.place == Place::Key => {
                offers.extend(self.keys(Named::Code, cursor, text));
            }
            Shape::Expression | Shape::Value => {
                let typed = cursor.typed.trim_start();
                let typed = typed.strip_prefix(['"', '\'']).unwrap_or(typed);
                offers.extend(expression(typed, &self.roots(cursor)));
            }
            // What goes on from the line before is no name.
            _ if cursor.place == Place::Key => {}
            Shape::Name(named) => offers.extend(self.named(named, cursor, text)),
            Shape::Word(list) => offers.extend(words(list)),
            Shape::Kind(kinds) => {
                offers.extend(kinds.iter().map(|k| Offer::new(k.name, What::Word).doc(Some(k.map.doc))));
            }
            Shape::Boolean => offers.extend(["true", "false"].map(|word| Offer::new(word, What::Word))),
            // Only values of a table stand in the texts of a test.
            Shape::Template if is_test(self.path) => {}
            Shape::Template => offers.extend(self.template(cursor.typed, self.roots(cursor))),
            _ => {}
        }
    }

    /// Offers names of a sort as values.
    fn named(&self, named: Named, cursor: &Cursor<'_>, text: &str) -> Vec<Offer> {
        if is_test(self.path) && matches!(named, Named::Node | Named::Event) {
            return self.told(named, cursor, text);
        }
        if named == Named::Registered {
            let functions = self.project.functions.keys();
            return functions.map(|name| Offer::new(name, What::Registered)).collect();
        }
        let ours = Sort::of(named).map(|sort| self.symbols(sort, self.path)).unwrap_or_default();
        ours.into_iter().chain(words(named.words())).collect()
    }

    /// Offers the names of a sort with their types.
    pub(super) fn symbols(&self, sort: Sort, file: &str) -> Vec<Offer> {
        let types = self.project.types();
        let what = match sort {
            Sort::Node => What::Node,
            Sort::Tool => What::Tool,
            Sort::Channel | Sort::Input | Sort::Setting => What::Variable,
            Sort::Type => What::Type,
            Sort::Prompt | Sort::Partial | Sort::Graph => What::File,
            Sort::Model | Sort::Retry => What::Value,
        };
        let offer = |name: String| {
            let symbol = Symbol::new(sort, file, &name);
            match self.project.field(&symbol, &types) {
                Some(field) => Offer::typed(&name, what, &field),
                None => Offer::new(name, what),
            }
        };
        self.project.names(sort, file).into_iter().map(offer).collect()
    }

    /// Offers names as keys of a map.
    fn keys(&self, named: Named, cursor: &Cursor<'_>, text: &str) -> Vec<Offer> {
        let mut offers = match named {
            Named::Code => {
                let light = CODES.iter().filter(|info| info.can_be_allowed());
                light.map(|info| Offer::new(info.code, What::Value).doc(Some(info.title))).collect()
            }
            _ if is_test(self.path) => self.told(named, cursor, text),
            Named::Channel => self.symbols(Sort::Channel, self.path),
            Named::Input => {
                let callee = |key| Cursor::value_in(Cursor::block(text, cursor.path.get(1)?), key);
                let prompt = callee("prompt").map(|prompt| format!("prompts/{prompt}.md"));
                let file = prompt.or_else(|| Some(format!("{}.yaml", callee("use")?)));
                file.map(|file| self.symbols(Sort::Input, &file)).unwrap_or_default()
            }
            Named::Argument => {
                let block = cursor.path.get(1).map(|node| Cursor::block(text, node)).unwrap_or_default();
                let function =
                    Cursor::value_in(block, "use").and_then(|name| self.project.functions.get(name));
                match (Cursor::value_in(block, "tool"), function) {
                    (Some(tool), _) => self.arguments(tool),
                    (None, Some(function)) => {
                        let args = function.args.iter();
                        args.map(|(name, field)| Offer::typed(name, What::Variable, field)).collect()
                    }
                    (None, None) => Vec::new(),
                }
            }
            Named::Case => self.cases(cursor, text),
            _ => Vec::new(),
        };
        offers.retain(|offer| !cursor.siblings.contains(&offer.label.as_str()));
        offers.into_iter().map(|offer| offer.then(": ")).collect()
    }

    /// Offers the values that an expression after `match` can have.
    fn cases(&self, cursor: &Cursor<'_>, text: &str) -> Vec<Offer> {
        let Some(cases) = cursor.path.last() else { return Vec::new() };
        // The rule begins before its `cases`.
        let before = text[..cases.at].rfind("match:").map(|at| &text[at..cases.at]);
        let Some(on) = before.and_then(|rule| Cursor::value_in(rule, "match")) else { return Vec::new() };
        let chain: Vec<&str> = on.split('.').collect();
        let (sort, rest) = match chain.as_slice() {
            ["state", rest @ ..] => (Sort::Channel, rest),
            ["input", rest @ ..] => (Sort::Input, rest),
            _ => return Vec::new(),
        };
        let Some((name, fields)) = rest.split_first() else { return Vec::new() };
        let mut symbol = Symbol::new(sort, self.path, name);
        symbol.fields = fields.iter().map(|field| (*field).to_owned()).collect();
        let Some(field) = self.project.field(&symbol, &self.project.types()) else { return Vec::new() };
        let mut values = match field.ty.non_null() {
            Type::Enum(values) => values.clone(),
            Type::Boolean => vec!["true".to_owned(), "false".to_owned()],
            _ => Vec::new(),
        };
        if matches!(field.ty, Type::Nullable(_)) {
            values.push("null".to_owned());
        }
        values.into_iter().map(|value| Offer::new(value, What::Value)).collect()
    }

    /// Offers the arguments of a tool with their types.
    pub(super) fn arguments(&self, tool: &str) -> Vec<Offer> {
        let fields = self.argument_fields(tool);
        fields.iter().map(|(name, field)| Offer::typed(name, What::Variable, field)).collect()
    }

    fn argument_fields(&self, tool: &str) -> Vec<(String, Field)> {
        let types = self.project.types();
        let field = |name: String| {
            let fields = vec![name.clone()];
            let symbol = Symbol { fields, ..Symbol::new(Sort::Tool, "", tool) };
            (name, self.project.field(&symbol, &types).unwrap_or_else(|| Field::of(Type::Any)))
        };
        self.project.arguments(tool).into_iter().map(field).collect()
    }

    /// Returns what an expression of a graph, or the text of a tool, can read.
    pub(super) fn roots(&self, cursor: &Cursor<'_>) -> Roots {
        let types = self.project.types();
        let origin = |root: &str, sort| (root.to_owned(), Symbol::new(sort, self.path, ""));
        let settings = || {
            let names = self.project.names(Sort::Setting, self.path).into_iter();
            ("env".to_owned(), Root::Fields(names.map(|name| (name, Field::of(Type::STRING))).collect()))
        };
        if self.path == "project.yaml" {
            let args = cursor.path.get(1).map(|tool| self.argument_fields(tool.name)).unwrap_or_default();
            let names = vec![("args".to_owned(), Root::Fields(args)), settings()];
            return Roots { names, origins: vec![origin("env", Sort::Setting)] };
        }
        let fields = |sort| Root::Fields(self.fields(sort, self.path, &types));
        let mut roots = Roots {
            names: vec![
                ("state".to_owned(), fields(Sort::Channel)),
                ("input".to_owned(), fields(Sort::Input)),
                ("run".to_owned(), Root::Fields(run_fields().collect())),
            ],
            origins: vec![
                origin("state", Sort::Channel),
                origin("input", Sort::Input),
                origin("env", Sort::Setting),
            ],
        };
        if ["on_error:", "on_limit:"].iter().any(|key| self.text.contains(key)) {
            let error = error_fields().map(|(name, ty)| (name, Field::of(ty))).collect();
            roots.names.push(("error".to_owned(), Root::Fields(error)));
        }
        let Some(node) = cursor.path.get(1) else { return roots };
        let block = Cursor::block(self.text, node);
        if block.contains("kind: http") {
            roots.names.push(settings());
        }
        let below = |key: &str| cursor.path.iter().skip(2).any(|found| found.name == key);
        if below("do") {
            let name = Cursor::value_in(block, "as").unwrap_or("item");
            roots.bind(name, Cursor::value_in(block, "over").unwrap_or_default());
            roots.names.push(("index".to_owned(), Root::Value(Field::of(Type::INTEGER))));
        } else if below("into") || below("emit") {
            let given = self.project.given(self.path, node.name, &types).unwrap_or(Type::Any);
            roots.names.push(("result".to_owned(), Root::Value(Field::of(given))));
        }
        roots
    }

    /// Returns names with what they hold; anything, where that cannot be told.
    fn fields(&self, sort: Sort, file: &str, types: &Types) -> Vec<(String, Field)> {
        let field = |name: String| {
            let field = self.project.field(&Symbol::new(sort, file, &name), types);
            (name, field.unwrap_or_else(|| Field::of(Type::Any)))
        };
        self.project.names(sort, file).into_iter().map(field).collect()
    }

    fn template(&self, before: &str, mut roots: Roots) -> Vec<Offer> {
        match within(before) {
            Within::Text => Vec::new(),
            Within::Include => self.symbols(Sort::Partial, ""),
            Within::Expression(source) => {
                bind_loops(before, &mut roots);
                expression(source, &roots)
            }
        }
    }

    /// Returns what the body of a prompt file can read: its inputs. A partial reads what the prompts that include it
    /// declare.
    pub(super) fn inputs(&self, partial: bool) -> Vec<(Symbol, Field)> {
        let types = self.project.types();
        let inputs = |file: &str| -> Vec<(Symbol, Field)> {
            let all = self.fields(Sort::Input, file, &types).into_iter();
            all.map(|(name, field)| (Symbol::new(Sort::Input, file, &name), field)).collect()
        };
        if partial {
            let name = self.path.strip_prefix("prompts/").unwrap_or_default();
            let places = self.project.places(&Symbol::new(Sort::Partial, "", name));
            places.iter().flat_map(|found| inputs(found.path)).collect()
        } else {
            inputs(self.path)
        }
    }

    /// Returns the same as the names of its expressions.
    pub(super) fn prompt_roots(&self, partial: bool) -> Roots {
        let mut roots = Roots::default();
        for (symbol, field) in self.inputs(partial) {
            roots.names.push((symbol.name.clone(), Root::Value(field)));
            roots.origins.push((symbol.name.clone(), symbol));
        }
        roots
    }

    /// Offers what fits the body of a prompt file.
    fn prompt(&self, body: usize, partial: bool) -> Vec<Offer> {
        let before = &self.text[body..self.offset];
        let line = before.rsplit('\n').next().unwrap_or_default();
        if let Some(typed) = line.strip_prefix("@messages ").filter(|_| !partial) {
            let turns = |field: &Field| {
                matches!(field.ty.non_null(), Type::Messages | Type::Any | Type::List(_))
                    && !typed.contains(' ')
            };
            let fitting = self.inputs(partial).into_iter().filter(|(_, field)| turns(field));
            return fitting
                .map(|(symbol, field)| Offer::typed(&symbol.name, What::Variable, &field))
                .collect();
        }
        if line.starts_with('@') && !line.contains(' ') && !partial {
            return MARKERS.map(|(name, doc)| Offer::new(name, What::Word).doc(Some(doc))).into();
        }
        self.template(before, self.prompt_roots(partial))
    }
}

fn words(list: &'static [Word]) -> impl Iterator<Item = Offer> {
    list.iter().map(|word| Offer::new(word.name, What::Word).doc(Some(word.doc)))
}

/// Returns the byte where the template of a prompt file begins, behind its front-matter.
fn front_end(text: &str) -> usize {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    if first.trim_start_matches('\u{feff}').trim_end() != "---" {
        return 0;
    }
    let mut at = first.len();
    for line in lines {
        at += line.len();
        if line.trim_end() == "---" {
            return at;
        }
    }
    // While it has no end, all of it is front-matter.
    usize::MAX
}
