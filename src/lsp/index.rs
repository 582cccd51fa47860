//! What a file defines and what it refers to: one walk along the table of the language.
//!
//! Invariant: an index depends on one file alone. What a name means is looked up when somebody asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::made::Made;
use super::symbol::{Access, Mark, Sort, Symbol};
use super::told::Told;
use super::walk::{Walk, entry, keys};
use crate::compile::lenient;
use crate::diagnostic::{Bag, FileId, Spanned};
use crate::spec::grammar::{GRAPH, PROJECT, TEST};
use crate::spec::{Files, Folder, Node, OutputSpec, ToolBodySpec, TypeSpec, load_files};
use crate::state::{Field, Type};

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
    /// What the nodes call, or their bodies for each item; in project.yaml what tools call.
    pub(super) calls: BTreeMap<String, Callee>,
    /// What the graph gives, where it names that itself.
    pub(super) outputs: Option<Vec<String>>,
    /// The channels that it gives, where it lists them.
    pub(super) listed: Option<Vec<String>>,
    /// What the nodes give.
    pub(super) made: BTreeMap<String, Made>,
    /// What tools give, in project.yaml and in the file of a server.
    pub(super) tools: BTreeMap<String, Made>,
    /// What a server says of its tools: what they are for, and their arguments.
    pub(super) signed: BTreeMap<String, Field>,
    /// The graph that a test is of.
    pub(super) tested: Option<String>,
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
        let Walk { mut index, tested, .. } = walk;
        index.tested = tested;
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
                if let ToolBodySpec::Custom(function) = &tool.body {
                    let callee = Callee::Function(function.value.clone());
                    walk.index.calls.insert(name.value.clone(), callee);
                }
                walk.index.tools.extend(Made::by_tool(tool).map(|made| (name.value.clone(), made)));
            }
        });
    }
    for graph in folder.graphs.values() {
        walk(graph.file, &|walk| {
            walk.map(&graph.tree, &GRAPH);
            walk.index.outputs = entry(&graph.tree, "output").and_then(keys);
            if let Some(OutputSpec::Channels(names)) = &graph.output {
                walk.index.listed = Some(names.iter().map(|name| name.value.clone()).collect());
            }
            for (name, node) in &graph.nodes {
                let made = node.as_ref().and_then(|node| Made::by_node(&node.body));
                walk.index.made.extend(made.map(|made| (name.value.clone(), made)));
            }
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
                let span = file.place(&path);
                let range = walk.bytes(span, tool);
                walk.mark(range, symbol.clone(), Access::Define);
                let name = Spanned { value: symbol.name.clone(), span };
                let mut signed = Field::of(lenient(&signature.input_schema, &name));
                signed.description.clone_from(&signature.description);
                walk.index.signed.insert(name.value.clone(), signed);
                let result = signature.output_schema.as_ref().map(|schema| lenient(schema, &name));
                walk.index.tools.insert(name.value, Made::Type(result.unwrap_or(Type::STRING)));
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
