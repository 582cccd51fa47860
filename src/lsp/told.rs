//! The names in tests: what they stand for is in the graphs that are tested, and in those that these call.
//!
//! Invariant: an index of a test holds names as they are written; their meaning is looked up again whenever a file of
//! the project has changed.

use std::collections::BTreeMap;
use std::ops::Range;

use super::index::Callee;
use super::kept::Kept;
use super::project::Project;
use super::symbol::{Access, Mark, Sort, Symbol};
use super::walk::{Walk, entry};
use crate::spec::grammar::{Named, Shape};
use crate::spec::{Node, Tree};

/// A name in a test.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) range: Range<usize>,
    /// The graph that is tested.
    pub(super) graph: String,
    /// The nodes that lead to it, from one graph into the next.
    pub(super) way: Vec<String>,
    pub(super) named: Named,
    pub(super) name: String,
    /// One node runs alone: what it gives is not named by the graph.
    alone: bool,
}

/// The case that a walk is in.
#[derive(Debug, Default)]
pub(super) struct Case {
    rows: Vec<Node>,
    alone: bool,
    /// The nodes whose scripts the walk is in.
    way: Vec<String>,
    /// How often each value of the rows is a name.
    names: BTreeMap<String, usize>,
}

/// Where a way through graphs leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spot {
    /// Into a graph, by its file.
    Graph(String),
    /// To a node of the graph of a file.
    Node(String, String),
    /// To a tool that a model calls.
    Tool(String),
}

/// Tells whether a path is that of a test file.
pub(super) fn is_test(path: &str) -> bool {
    path.starts_with("tests/") && path.ends_with(".test.yaml")
}

/// Returns a part of a node's name without the number of an item: `get` of `get[1]`.
pub(super) fn plain(part: &str) -> &str {
    part.split('[').next().unwrap_or(part)
}

impl Walk<'_> {
    pub(super) fn begin_case(&mut self, node: &Node) {
        let rows = entry(node, "table").and_then(|table| match &table.tree {
            Tree::Seq(rows) => Some(rows.clone()),
            _ => None,
        });
        let alone = entry(node, "only").is_some();
        self.case = Case { rows: rows.unwrap_or_default(), alone, ..Case::default() };
    }

    /// A value of a row that is a name here and something else there cannot be renamed.
    pub(super) fn end_case(&mut self, node: &Node) {
        let (start, end) = (node.span.start as usize, node.extent().end as usize);
        let text = self.bag.source(node.span.file).1.get(start..end).unwrap_or_default().to_owned();
        // What a case is called names no nodes.
        let title = entry(node, "name").map_or(0..0, |name| name.span.start as usize..name.span.end as usize);
        for (path, names) in std::mem::take(&mut self.case.names) {
            let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
            let reads =
                |at: usize| !text[at + path.len()..].starts_with(goes_on) && !title.contains(&(start + at));
            if text.match_indices(&path).filter(|(at, _)| reads(*at)).count() > names {
                self.index.hidden.push(start..end);
            }
        }
        self.case = Case::default();
    }

    /// Walks the values of the table in the place of a text that they fill. Says whether it is such a text.
    pub(super) fn filled(&mut self, node: &Node, shape: Shape) -> bool {
        let Some(path) = node.as_str().filter(|_| self.tested.is_some()).and_then(cell) else { return false };
        let path = path.to_owned();
        self.in_rows(&path, |walk, cell| walk.shape(cell, shape));
        true
    }

    /// Does something with the value of each row.
    fn in_rows(&mut self, path: &str, mut each: impl FnMut(&mut Self, &Node)) {
        // A row fills nothing into itself.
        let rows = std::mem::take(&mut self.case.rows);
        let before = self.index.told.len();
        for row in &rows {
            let mut keys = path.split('.').skip(1);
            if let Some(found) = keys.try_fold(row, |node, key| entry(node, key)) {
                each(self, found);
            }
        }
        self.case.rows = rows;
        if self.index.told.len() > before {
            *self.case.names.entry(path.to_owned()).or_default() += 1;
        }
    }

    /// Takes in a map whose keys are names.
    pub(super) fn names_told(&mut self, entries: &[(Node, Node)], named: Named, inner: Shape) {
        for (key, value) in entries {
            match key.as_str().and_then(cell) {
                Some(path) => {
                    let path = path.to_owned();
                    self.in_rows(&path, |walk, cell| walk.told(cell, named));
                }
                None => self.told(key, named),
            }
            let depth = self.case.way.len();
            match named {
                Named::Node => {
                    self.case.way.extend(key.key_text().split('/').map(|part| plain(part).to_owned()));
                }
                Named::Tool => self.case.way.push(key.key_text()),
                _ => {}
            }
            self.shape(value, inner);
            self.case.way.truncate(depth);
        }
    }

    /// Notes a name of a test.
    pub(super) fn told(&mut self, node: &Node, named: Named) {
        let Some((graph, text)) = self.tested.clone().zip(node.as_str()) else { return };
        if !matches!(
            named,
            Named::Node | Named::Channel | Named::Input | Named::Output | Named::Tool | Named::Argument
        ) {
            return;
        }
        let range = self.bytes(node.span, text);
        if text.contains("{{") || range.len() != text.len() {
            return self.index.hidden.push(range);
        }
        let mut way = self.case.way.clone();
        let mut at = range.start;
        let parts: Vec<&str> = if named == Named::Node { text.split('/').collect() } else { vec![text] };
        for part in parts {
            let name = if named == Named::Node { plain(part) } else { part };
            if !name.is_empty() {
                let told = Told {
                    range: at..at + name.len(),
                    graph: graph.clone(),
                    way: way.clone(),
                    named,
                    name: name.to_owned(),
                    alone: self.case.alone,
                };
                self.index.told.push(told);
            }
            way.push(name.to_owned());
            at += part.len() + 1;
        }
    }
}

/// Returns the value of a row that a text is: `row.node` of `{{ row.node }}`.
fn cell(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    (inner.starts_with("row.") && inner.chars().all(plain)).then_some(inner)
}

impl Project {
    /// Looks up what the names in tests stand for.
    pub(super) fn link(&mut self) {
        let tests = self.files.iter().filter(|(path, _)| is_test(path));
        let linked: Vec<(String, Vec<Mark>)> = tests
            .filter_map(|(path, kept)| {
                let mark = |told: &Told| {
                    let (range, symbol) = (told.range.clone(), self.meaning(told)?);
                    let extent = range.clone();
                    Some(Mark { range, extent, symbol, access: Access::Read, within: None })
                };
                let mut marks: Vec<Mark> = kept.index()?.told.iter().filter_map(mark).collect();
                // A row is read at every place that it fills.
                marks.sort_by_key(|mark| (mark.range.start, mark.range.end, mark.symbol.clone()));
                marks.dedup_by(|a, b| a.range == b.range && a.symbol == b.symbol);
                Some((path.clone(), marks))
            })
            .collect();
        for (path, marks) in linked {
            if let Some(kept) = self.files.get_mut(&path) {
                kept.link(marks);
            }
        }
    }

    /// Follows a way from a graph.
    pub(super) fn spot<'n>(&self, graph: &str, way: impl IntoIterator<Item = &'n str>) -> Option<Spot> {
        way.into_iter().try_fold(Spot::Graph(format!("{graph}.yaml")), |spot, name| self.go(spot, name))
    }

    fn go(&self, spot: Spot, name: &str) -> Option<Spot> {
        match spot {
            Spot::Graph(file) => Some(Spot::Node(file, name.to_owned())),
            Spot::Node(file, node) => match self.callee(&file, &node)? {
                Callee::Graph(graph) => Some(Spot::Node(format!("{graph}.yaml"), name.to_owned())),
                Callee::Model => Some(Spot::Tool(name.to_owned())),
                Callee::Tool(_) | Callee::Function(_) => None,
            },
            Spot::Tool(_) => None,
        }
    }

    /// Returns what a node calls.
    pub(super) fn callee(&self, file: &str, node: &str) -> Option<&Callee> {
        self.files.get(file)?.index()?.calls.get(node)
    }

    /// Returns the tool whose arguments a spot takes.
    pub(super) fn tool_at(&self, spot: &Spot) -> Option<String> {
        match spot {
            Spot::Tool(tool) => Some(tool.clone()),
            Spot::Node(file, node) => match self.callee(file, node)? {
                Callee::Tool(tool) => Some(tool.clone()),
                _ => None,
            },
            Spot::Graph(_) => None,
        }
    }

    /// Returns the names that a graph gives its output by itself.
    pub(super) fn outputs(&self, file: &str) -> Option<&[String]> {
        self.files.get(file).and_then(Kept::index)?.outputs.as_deref()
    }

    /// Returns what a name in a test stands for.
    fn meaning(&self, told: &Told) -> Option<Symbol> {
        let file = format!("{}.yaml", told.graph);
        let way = || self.spot(&told.graph, told.way.iter().map(String::as_str));
        Some(match told.named {
            Named::Node if matches!(told.name.as_str(), "start" | "end") => return None,
            Named::Node => match self.go(way()?, &told.name)? {
                Spot::Node(file, node) => Symbol::new(Sort::Node, &file, &node),
                Spot::Tool(tool) => Symbol::new(Sort::Tool, "", &tool),
                Spot::Graph(_) => return None,
            },
            Named::Tool => Symbol::new(Sort::Tool, "", &told.name),
            Named::Argument => {
                let fields = vec![told.name.clone()];
                Symbol { fields, ..Symbol::new(Sort::Tool, "", &self.tool_at(&way()?)?) }
            }
            Named::Input => Symbol::new(Sort::Input, &file, &told.name),
            Named::Output if !told.alone && self.outputs(&file).is_some() => return None,
            Named::Channel | Named::Output => Symbol::new(Sort::Channel, &file, &told.name),
            _ => return None,
        })
    }
}
