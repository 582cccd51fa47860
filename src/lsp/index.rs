//! What a file defines and what it refers to: one walk along the table of the language.
//!
//! Invariant: an index depends on one file alone. What a name means is looked up when somebody asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::reads::Reads;
use super::symbol::{Access, Mark, Sort, Symbol};
use super::told::{Case, Told};
use crate::diagnostic::{Bag, FileId, Span, Spanned};
use crate::spec::grammar::{CASE, FRONT_MATTER, GRAPH, Map, Named, PROJECT, Shape, TEST};
use crate::spec::{Files, Folder, Node, PromptFile, Tree, TypeSpec, load_files};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The text that all places are in.
    pub(super) text: Arc<str>,
    /// The names, in the order of their places.
    pub(super) marks: Vec<Mark>,
    /// The types of channels, inputs and named types as written.
    pub(super) types: Vec<(Symbol, TypeSpec)>,
    /// The nodes that ask with a prompt file.
    pub(super) asks: Vec<Ask>,
    /// What the nodes call, or their bodies for each item.
    pub(super) calls: BTreeMap<String, Callee>,
    /// What the graph gives, where it names that itself.
    pub(super) outputs: Option<Vec<String>>,
    /// The names in a test.
    pub(super) told: Vec<Told>,
    /// These names as the graphs of the project have them.
    pub(super) linked: Vec<Mark>,
    /// Places that may hide a name: what cannot be parsed, and `state` read as a whole.
    pub(super) hidden: Vec<Range<usize>>,
    /// What a partial reads: a root name and its first field. Who includes it says what that is.
    pub(super) free: Vec<(String, String)>,
}

/// What a node calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Callee {
    Graph(String),
    Tool(String),
    /// A function of a host program.
    Function(String),
    Model,
}

/// A node that asks with a prompt file.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) node: String,
    pub(super) prompt: String,
    /// The inputs that it binds itself.
    pub(super) with: Vec<String>,
}

/// Indexes the files of a project folder, by their paths within it. A file that cannot be read is not there.
pub(super) fn index(folder: &Folder, bag: &Bag, root: &Path) -> BTreeMap<String, Index> {
    let prefix = root.display().to_string();
    let mut done = BTreeMap::new();
    let mut walk = |file: FileId, fill: &dyn Fn(&mut Walk<'_>)| {
        let (path, text) = bag.source(file);
        let path = path.strip_prefix(&prefix).unwrap_or(path).trim_start_matches('/');
        let mut walk = Walk::new(path, bag);
        fill(&mut walk);
        let mut index = walk.index;
        index.text = Arc::from(text);
        index.marks.sort_by_key(|mark| (mark.range.start, mark.range.end));
        done.insert(path.to_owned(), index);
    };
    if let Some((file, tree)) = folder.project.file.zip(folder.project.tree.as_ref()) {
        walk(file, &|walk| {
            walk.map(tree, &PROJECT);
            walk.types(&folder.project.types, Sort::Type);
            for (name, tool) in &folder.project.tools {
                for (arg, spec) in tool.args.iter().flatten() {
                    let mut symbol = Symbol::new(Sort::Tool, "", &name.value);
                    symbol.fields.push(arg.value.clone());
                    walk.index.types.push((symbol, spec.clone()));
                }
            }
        });
    }
    for graph in folder.graphs.values() {
        walk(graph.file, &|walk| {
            walk.map(&graph.tree, &GRAPH);
            walk.index.outputs = entry(&graph.tree, "output").and_then(keys);
            walk.types(&graph.state, Sort::Channel);
            walk.types(&graph.input, Sort::Input);
        });
    }
    for prompt in folder.prompts.values() {
        walk(prompt.file, &|walk| walk.prompt(prompt));
    }
    for test in folder.tests.values() {
        walk(test.file, &|walk| {
            walk.tested = entry(&test.tree, "tests").and_then(Node::as_str).map(str::to_owned);
            walk.map(&test.tree, &TEST);
        });
    }
    for (server, (file, known)) in &folder.mcp {
        walk(file.file, &|walk| {
            for (tool, signature) in &known.tools {
                let mut symbol = Symbol::new(Sort::Tool, "", &format!("{server}.{tool}"));
                let mut path = vec!["tools".to_owned(), tool.clone()];
                let range = walk.bytes(file.place(&path), tool);
                walk.mark(range, symbol.clone(), Access::Define);
                path.extend(["inputSchema".to_owned(), "properties".to_owned()]);
                let args = signature.input_schema.get("properties").and_then(|args| args.as_object());
                for arg in args.into_iter().flat_map(|args| args.keys()) {
                    symbol.fields = vec![arg.clone()];
                    path.push(arg.clone());
                    let range = walk.bytes(file.place(&path), arg);
                    walk.mark(range, symbol.clone(), Access::Define);
                    path.pop();
                }
            }
        });
    }
    for text in folder.partials.values() {
        walk(text.span.file, &|walk| {
            walk.reads().template(text, 0..text.value.len());
            for read in std::mem::take(&mut walk.free) {
                let first = read.path.first().cloned().unwrap_or_default();
                walk.index.free.push((read.root, first));
            }
        });
    }
    done
}

/// Indexes one file.
pub(super) fn index_one(path: &str, text: &str) -> Option<Index> {
    let mut bag = Bag::default();
    let files = Files::from([(path.to_owned(), text.as_bytes().to_vec())]);
    let folder = load_files("", files, &mut bag);
    index(&folder, &bag, Path::new("")).remove(path)
}

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
    fn new(path: &'a str, bag: &'a Bag) -> Self {
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

    fn types(&mut self, specs: &[(Spanned<String>, TypeSpec)], sort: Sort) {
        let named = |(name, spec): &(Spanned<String>, TypeSpec)| {
            (Symbol::new(sort, self.path, &name.value), spec.clone())
        };
        self.index.types.extend(specs.iter().map(named));
    }

    fn prompt(&mut self, prompt: &PromptFile) {
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

    fn reads(&mut self) -> Reads<'_, 'a> {
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

    fn map(&mut self, node: &Node, map: &'static Map) {
        let Tree::Map(entries) = &node.tree else { return };
        if std::ptr::eq(map, &CASE) {
            self.begin_case(node);
        }
        for (key, value) in entries {
            if let Some(known) = key.as_str().and_then(|name| map.key(name)) {
                self.keys.push(known.name.to_owned());
                self.shape(value, known.shape);
                self.keys.pop();
            }
        }
        if std::ptr::eq(map, &CASE) {
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
fn keys(node: &Node) -> Option<Vec<String>> {
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
