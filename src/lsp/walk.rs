//! One walk through a file along the table of the language.
//!
//! Invariant: keys come from the table; a key that it does not know is passed over.

use std::ops::Range;

use super::index::{Ask, Callee, Index};
use super::reads::Reads;
use super::symbol::{Access, Mark, Sort, Symbol};
use super::told::Case;
use crate::diagnostic::{Bag, Span, Spanned};
use crate::spec::grammar::{CASE, FRONT_MATTER, Map, Named, Shape};
use crate::spec::{Node, PromptFile, Tree, TypeSpec};

/// A walk through one file.
pub(super) struct Walk<'a> {
    pub(super) path: &'a str,
    pub(super) bag: &'a Bag,
    pub(super) index: Index,
    /// What was read without a meaning of its own.
    pub(super) free: Vec<crate::expr::Read>,
    /// The keys above, without list items.
    keys: Vec<String>,
    /// The node that the walk is in.
    within: Option<String>,
    /// The file that declares the inputs which that node gives: of its prompt, or of the graph that it runs.
    takes: Option<String>,
    /// The tool that the walk is in, or that the node calls.
    tool: Option<String>,
    /// What the types that are walked belong to.
    owner: Option<Symbol>,
    /// The graph that a test is of.
    pub(super) tested: Option<String>,
    /// The case of a test that the walk is in.
    pub(super) case: Case,
}

impl<'a> Walk<'a> {
    pub(super) fn new(path: &'a str, bag: &'a Bag) -> Self {
        Self {
            path,
            bag,
            index: Index::default(),
            free: Vec::new(),
            keys: Vec::new(),
            within: None,
            takes: None,
            tool: None,
            owner: None,
            tested: None,
            case: Case::default(),
        }
    }

    pub(super) fn types(&mut self, specs: &[(Spanned<String>, TypeSpec)], sort: Sort) {
        let named = |(name, spec): &(Spanned<String>, TypeSpec)| {
            (Symbol::new(sort, self.path, &name.value), spec.clone())
        };
        self.index.types.extend(specs.iter().map(named));
    }

    pub(super) fn prompt(&mut self, prompt: &PromptFile) {
        if let Some(front) = &prompt.front {
            self.map(front, &FRONT_MATTER);
        }
        self.types(&prompt.inputs, Sort::Input);
        self.reads().prompt(&prompt.body);
    }

    /// Returns the tool that the walk is in.
    pub(super) fn tool(&self) -> Option<&str> {
        self.tool.as_deref()
    }

    pub(super) fn reads(&mut self) -> Reads<'_, 'a> {
        Reads::new(self)
    }

    /// Notes a name.
    pub(super) fn mark(&mut self, range: Range<usize>, symbol: Symbol, access: Access) {
        let (extent, within) = (range.clone(), self.within.clone());
        self.index.marks.push(Mark { range, extent, symbol, access, within });
    }

    /// Returns the bytes of a name within its scalar, which may have quotes around it.
    pub(super) fn bytes(&self, span: Span, name: &str) -> Range<usize> {
        let (start, end) = (span.start as usize, span.end as usize);
        let raw = self.bag.source(span.file).1.get(start..end).unwrap_or_default();
        raw.find(name)
            .filter(|_| !name.is_empty())
            .map_or(start..end, |at| start + at..start + at + name.len())
    }

    pub(super) fn map(&mut self, node: &Node, map: &'static Map) {
        let Tree::Map(entries) = &node.tree else { return };
        if std::ptr::eq(map, &raw const CASE) {
            self.begin_case(node);
        }
        for (key, value) in entries {
            if let Some(known) = key.as_str().and_then(|name| map.key(name)) {
                self.keys.push(known.name.to_owned());
                self.shape(value, known.shape);
                self.keys.pop();
            }
        }
        if std::ptr::eq(map, &raw const CASE) {
            self.end_case(node);
        }
    }

    pub(super) fn shape(&mut self, node: &Node, shape: Shape) {
        if self.filled(node, shape) {
            return;
        }
        match shape {
            Shape::Shared(shared) => self.shape(node, shared.shape),
            Shape::OneOf(shapes) => {
                if let Some(shape) = choose(node, shapes) {
                    self.shape(node, shape);
                }
            }
            Shape::Map(map) => self.map(node, map),
            Shape::Kinds(_, kinds) => {
                let kind = entry(node, "kind").and_then(Node::as_str);
                let kind = kinds.iter().find(|known| Some(known.name) == kind);
                // Of a kind that is not known, any key may be meant.
                let maps = kind.map_or_else(|| kinds.iter().map(|k| k.map).collect(), |kind| vec![kind.map]);
                let Tree::Map(entries) = &node.tree else { return };
                for (key, value) in entries {
                    let known = key.as_str().and_then(|name| maps.iter().find_map(|map| map.key(name)));
                    if let Some(known) = known {
                        self.keys.push(known.name.to_owned());
                        self.shape(value, known.shape);
                        self.keys.pop();
                    }
                }
            }
            Shape::Names(named, inner) => self.names(node, named, *inner),
            Shape::Marked { by, map, .. } if by.iter().any(|key| entry(node, key.name).is_some()) => {
                self.map(node, map);
            }
            Shape::Marked { fields, .. } => self.names(node, Named::Field, *fields),
            Shape::List(inner) | Shape::Filled(inner) | Shape::One(inner) => {
                if let Tree::Seq(items) = &node.tree {
                    for item in items {
                        self.shape(item, *inner);
                    }
                }
            }
            Shape::Name(named) => self.name(node, named),
            Shape::Template => {
                if let Some(text) = node.text(self.bag) {
                    let all = 0..text.value.len();
                    self.reads().template(&text, all);
                }
            }
            Shape::Expression | Shape::Value => self.value(node),
            _ => {}
        }
    }

    /// Takes in an expression, or a list or map of them.
    fn value(&mut self, node: &Node) {
        match &node.tree {
            Tree::Seq(items) => items.iter().for_each(|item| self.value(item)),
            Tree::Map(entries) => entries.iter().for_each(|(_, value)| self.value(value)),
            _ => {
                if let Some(text) = node.text(self.bag) {
                    self.reads().expression(&text);
                }
            }
        }
    }

    /// Takes in a map whose keys are names: definitions at the top of a file, references elsewhere.
    fn names(&mut self, node: &Node, named: Named, inner: Shape) {
        let Tree::Map(entries) = &node.tree else { return };
        if self.tested.is_some() {
            return self.names_told(entries, named, inner);
        }
        let top = self.keys.len() == 1;
        for (key, value) in entries {
            let Some(name) = key.as_str() else { continue };
            let range = self.bytes(key.span, name);
            let before = (self.owner.clone(), self.within.clone(), self.takes.clone(), self.tool.clone());
            if let (Named::Argument, Some(tool)) = (named, &self.tool) {
                let mut symbol = Symbol::new(Sort::Tool, "", tool);
                symbol.fields.push(name.to_owned());
                // project.yaml declares arguments, the others give them.
                let declares = self.path == "project.yaml";
                let access = if declares { Access::Define } else { Access::Write };
                self.mark(range, symbol.clone(), access);
                self.owner = declares.then_some(symbol);
            } else if matches!(named, Named::Field) {
                if let Some(owner) = &mut self.owner {
                    owner.fields.push(name.to_owned());
                    let symbol = owner.clone();
                    self.mark(range, symbol, Access::Define);
                }
            } else if let Some(sort) = Sort::of(named) {
                let bound = (sort == Sort::Input && !top).then(|| self.takes.clone()).flatten();
                let file = bound.unwrap_or_else(|| self.path.to_owned());
                let symbol = Symbol::new(sort, &file, name);
                let access = if top { Access::Define } else { Access::Write };
                if sort == Sort::Node && top {
                    self.within = Some(name.to_owned());
                    self.ask(name, value);
                }
                self.mark(range.clone(), symbol.clone(), access);
                if let Some(mark) = self.index.marks.last_mut().filter(|_| top) {
                    mark.extent = range.start..range.end.max(value.extent().end as usize);
                    match sort {
                        // What is below it is a field of an argument, if of anything.
                        Sort::Tool => (self.tool, self.owner) = (Some(name.to_owned()), None),
                        _ => self.owner = Some(symbol),
                    }
                }
            }
            self.keys.push(name.to_owned());
            self.shape(value, inner);
            self.keys.pop();
            (self.owner, self.within, self.takes, self.tool) = before;
        }
    }

    /// Notes what a node, or its body for each item, calls.
    fn ask(&mut self, node: &str, body: &Node) {
        let body = entry(body, "do").unwrap_or(body);
        let text = |key: &str| entry(body, key).and_then(Node::as_str);
        self.tool = text("tool").map(str::to_owned);
        let graph = text("use").filter(|_| text("kind") == Some("graph"));
        self.takes = graph.map(|graph| format!("{graph}.yaml"));
        if let Some(prompt) = text("prompt").map(str::to_owned) {
            self.takes = Some(format!("prompts/{prompt}.md"));
            let with = entry(body, "with").and_then(keys).unwrap_or_default();
            self.index.asks.push(Ask { node: node.to_owned(), prompt, with });
        }
        let callee = match text("kind") {
            Some("llm") => Some(Callee::Model),
            Some("graph") => text("use").map(|graph| Callee::Graph(graph.to_owned())),
            Some("custom") => text("use").map(|name| Callee::Function(name.to_owned())),
            Some("tool") => self.tool.clone().map(Callee::Tool),
            _ => None,
        };
        self.index.calls.extend(callee.map(|callee| (node.to_owned(), callee)));
    }

    fn name(&mut self, node: &Node, named: Named) {
        if self.tested.is_some() && !matches!(named, Named::Graph) {
            return self.told(node, named);
        }
        let Some((name, sort)) = node.as_str().zip(Sort::of(named)) else { return };
        let name = if sort == Sort::Type { name.trim_end_matches('?') } else { name };
        // Built-in types and `end` are nowhere defined.
        if named.words().iter().any(|word| word.name == name) {
            return;
        }
        let range = self.bytes(node.span, name);
        let writes = sort == Sort::Channel && self.keys.first().is_none_or(|key| key != "output");
        let access = if writes { Access::Write } else { Access::Read };
        self.mark(range, Symbol::new(sort, self.path, name), access);
    }
}

/// Returns the keys of a map.
pub(super) fn keys(node: &Node) -> Option<Vec<String>> {
    let Tree::Map(entries) = &node.tree else { return None };
    Some(entries.iter().map(|(key, _)| key.key_text()).collect())
}

/// Returns the value of a key.
pub(super) fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Tree::Map(entries) = &node.tree else { return None };
    entries.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
}

/// Chooses the shape that a value was written in.
fn choose(node: &Node, shapes: &'static [Shape]) -> Option<Shape> {
    let scored = shapes.iter().map(|shape| (fits(node, *shape), *shape)).filter(|(score, _)| *score > 0);
    // Of equals the first.
    scored.rev().max_by_key(|(score, _)| *score).map(|(_, shape)| shape)
}

/// Says how well a value fits a shape; 0: not at all.
fn fits(node: &Node, shape: Shape) -> usize {
    match (shape, &node.tree) {
        (Shape::Shared(shared), _) => fits(node, shared.shape),
        (Shape::OneOf(shapes), _) => shapes.iter().map(|shape| fits(node, *shape)).max().unwrap_or(0),
        (Shape::Map(map), Tree::Map(entries)) => {
            let is = |name: &str| entries.iter().any(|(key, _)| key.as_str() == Some(name));
            2 * map.names().filter(|name| is(name)).count()
        }
        (
            Shape::Kinds(..)
            | Shape::Names(..)
            | Shape::Marked { .. }
            | Shape::AnyMap
            | Shape::Value
            | Shape::Any,
            Tree::Map(_),
        )
        | (Shape::List(_) | Shape::Filled(_) | Shape::One(_) | Shape::Value | Shape::Any, Tree::Seq(_))
        | (
            Shape::Name(_)
            | Shape::Text
            | Shape::Template
            | Shape::Expression
            | Shape::Value
            | Shape::Word(_)
            | Shape::Kind(_)
            | Shape::Duration
            | Shape::Any,
            Tree::Str(_),
        )
        | (Shape::Expression | Shape::Value | Shape::Any, _) => 1,
        _ => 0,
    }
}
