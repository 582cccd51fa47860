//! Tables of cases: `{{ row.x }}` in a case becomes a value of each row.
//!
//! Invariant: nothing but a name of the row is filled in; other braces are text.

use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, suggest};
use crate::spec::reader::Reader;
use crate::spec::tree::{Node, Style, Tree};

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

    /// Fills the values of a row into a case.
    pub(super) fn filled_in(&mut self, node: &Node, row: Option<&Node>) -> Node {
        let tree = match &node.tree {
            Tree::Str(text) if text.contains("{{") => return self.filled_text(node, text, row),
            Tree::Seq(items) => Tree::Seq(items.iter().map(|item| self.filled_in(item, row)).collect()),
            Tree::Map(entries) => {
                let fill = |(key, value): &(Node, Node)| match key.as_str() {
                    Some("table") => (key.clone(), value.clone()),
                    _ => (self.filled_in(key, row), self.filled_in(value, row)),
                };
                Tree::Map(entries.iter().map(fill).collect())
            }
            other => other.clone(),
        };
        Node { tree, ..node.clone() }
    }

    fn filled_text(&mut self, node: &Node, text: &str, row: Option<&Node>) -> Node {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find("{{") {
            let Some(end) = rest[at..].find("}}").map(|end| at + end) else { break };
            let name = rest[at + 2..end].trim();
            let Some(path) = name.strip_prefix("row.") else {
                out += &rest[..end + 2];
                rest = &rest[end + 2..];
                continue;
            };
            let Some(value) = self.cell(node, path, row) else { return node.clone() };
            if at == 0 && end + 2 == text.len() {
                let scalar = matches!(value.tree, Tree::Int(_) | Tree::Float(_) | Tree::Bool(_));
                let style = if scalar { Style::Row } else { value.style };
                return Node { span: node.span, style, ..value };
            }
            out += &rest[..at];
            match value.to_json() {
                Json::String(text) => out += &text,
                other => out += &other.to_string(),
            }
            rest = &rest[end + 2..];
        }
        out += rest;
        Node { tree: Tree::Str(out), ..node.clone() }
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
