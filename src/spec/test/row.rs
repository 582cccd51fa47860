//! Tables of cases: `{{ row.x }}` in a case becomes a value of each row.
//!
//! Invariant: nothing but a name of the row is filled in; other braces are text.

use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, suggest};
use crate::spec::reader::Reader;
use crate::spec::tree::{Node, Style, Tree};

/// The most values of a file, written out for each row.
const MOST_VALUES: usize = 100_000;
/// The most bytes of its texts.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What the tables of a file may still fill in: a long row and a long case would make much more than both.
pub(super) struct Room {
    values: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { values: MOST_VALUES, bytes: MOST_BYTES }
    }
}

impl Room {
    fn take(&mut self, values: usize, bytes: usize) {
        self.values = self.values.saturating_sub(values);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Says whether there is none left: what was filled in is not whole.
    fn is_used_up(&self) -> bool {
        self.values == 0 || self.bytes == 0
    }
}

impl Reader<'_> {
    /// Returns the rows of a case, and its name as written; one empty row for a case without a table. Nothing: the
    /// table cannot be read.
    pub(super) fn rows(&mut self, case: &Node) -> Option<(Vec<Option<Node>>, Option<String>)> {
        let Tree::Map(entries) = &case.tree else {
            self.wrong(case, "a map");
            return None;
        };
        let entry = |key: &str| entries.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, v)| v);
        let name = entry("name").and_then(Node::as_str).map(str::to_owned);
        let Some(table) = entry("table") else { return Some((vec![None], name)) };
        let mut rows = Vec::new();
        for row in self.filled(table, "rows") {
            if !matches!(row.tree, Tree::Map(_)) {
                self.wrong(row, "a row: a map of names and values");
                return None;
            }
            rows.push(Some(row.clone()));
        }
        Some((rows, name))
    }

    /// Fills the values of a row into a case. Nothing: there is no room for it, and that is reported.
    pub(super) fn filled_in(&mut self, case: &Node, row: Option<&Node>, room: &mut Room) -> Option<Node> {
        let Tree::Map(entries) = &case.tree else { return Some(case.clone()) };
        let mut table = case.span;
        let mut filled = Vec::new();
        for (key, value) in entries {
            if row.is_some() && key.as_str() == Some("table") {
                table = key.span;
                continue;
            }
            filled.push((self.fill(key, row, room), self.fill(value, row, room)));
        }
        if row.is_none() || !room.is_used_up() {
            return Some(Node { tree: Tree::Map(filled), span: case.span, style: case.style });
        }
        let label = format!("at most {MOST_VALUES} values and {} MiB of text", MOST_BYTES >> 20);
        let message = "the tables of the file fill in too much";
        let finding = Diagnostic::error("Y007", message, table, label);
        self.bag.report(finding.help("take rows out, or put them into another file"));
        None
    }

    fn fill(&mut self, node: &Node, row: Option<&Node>, room: &mut Room) -> Node {
        if row.is_some() {
            room.take(1, node.as_str().map_or(0, str::len));
        }
        let tree = match &node.tree {
            _ if row.is_some() && room.is_used_up() => Tree::Null,
            Tree::Str(text) if text.contains("{{") => return self.filled_text(node, text, row, room),
            Tree::Seq(items) => Tree::Seq(items.iter().map(|item| self.fill(item, row, room)).collect()),
            Tree::Map(entries) => {
                let fill =
                    |(key, value): &(Node, Node)| (self.fill(key, row, room), self.fill(value, row, room));
                Tree::Map(entries.iter().map(fill).collect())
            }
            other => other.clone(),
        };
        Node { tree, span: node.span, style: node.style }
    }

    fn filled_text(&mut self, node: &Node, text: &str, row: Option<&Node>, room: &mut Room) -> Node {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find("{{").filter(|_| row.is_none() || !room.is_used_up()) {
            let Some(end) = rest[at..].find("}}").map(|end| at + end) else { break };
            let name = rest[at + 2..end].trim();
            let Some(path) = name.strip_prefix("row.") else {
                out += &rest[..end + 2];
                rest = &rest[end + 2..];
                continue;
            };
            let Some(value) = self.cell(node, path, row) else { return node.clone() };
            if at == 0 && end + 2 == text.len() {
                room.take(1, value.to_json().to_string().len());
                let scalar = matches!(value.tree, Tree::Int(_) | Tree::Float(_) | Tree::Bool(_));
                let style = if scalar { Style::Row } else { value.style };
                // What is wrong with a value is wrong where it is written.
                return Node { style, ..value };
            }
            let before = out.len();
            out += &rest[..at];
            match value.to_json() {
                Json::String(text) => out += &text,
                other => out += &other.to_string(),
            }
            room.take(0, out.len() - before);
            rest = &rest[end + 2..];
        }
        out += rest;
        Node { tree: Tree::Str(out), span: node.span, style: node.style }
    }

    /// Finds a value of the row.
    fn cell(&mut self, node: &Node, path: &str, row: Option<&Node>) -> Option<Node> {
        let Some(row) = row else {
            let message = "there is no `row` in this case";
            let finding = Diagnostic::error("M514", message, node.span, "the case has no `table`");
            self.bag.report(finding.help("add  table: [{x: 1}]  to the case"));
            return None;
        };
        let mut found = row;
        for part in path.split('.') {
            let Tree::Map(entries) = &found.tree else {
                return self.no_cell(node, path, row);
            };
            match entries.iter().find(|(key, _)| key.as_str() == Some(part)) {
                Some((_, value)) => found = value,
                None => return self.no_cell(node, path, row),
            }
        }
        Some(found.clone())
    }

    fn no_cell(&mut self, node: &Node, path: &str, row: &Node) -> Option<Node> {
        let names: Vec<String> = match &row.tree {
            Tree::Map(entries) => entries.iter().map(|(key, _)| key.key_text()).collect(),
            _ => Vec::new(),
        };
        let message = format!("a row of the table has no `{path}`");
        let finding = Diagnostic::error("M514", message, node.span, "nothing to fill in");
        let near = suggest(path, names.iter().map(String::as_str));
        let help = match near {
            Some(near) => format!("did you mean `{{{{ row.{near} }}}}`?"),
            None => format!("the row has: {}", names.join(", ")),
        };
        self.bag.report(finding.related(row.span, "this row").help(help));
        None
    }
}
