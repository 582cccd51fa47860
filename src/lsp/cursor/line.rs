//! A line of YAML, taken apart: its indent, its dashes and its key.

use super::Key;

/// A line, taken apart.
pub(super) struct Line<'t> {
    /// The first byte.
    pub(super) start: usize,
    pub(super) text: &'t str,
    /// The columns of the dashes in front.
    pub(super) dash: Option<usize>,
    /// The column of what follows.
    pub(super) column: usize,
    pub(super) key: Option<&'t str>,
    /// The column of what follows the key.
    pub(super) value: usize,
}

impl<'t> Line<'t> {
    pub(super) fn of(start: usize, text: &'t str) -> Self {
        let text = text.trim_end_matches(['\n', '\r']);
        let mut column = text.len() - text.trim_start_matches(' ').len();
        let mut dash = None;
        while text[column..].starts_with("- ") || &text[column..] == "-" {
            dash = dash.or(Some(column));
            let rest = &text[column + 1..];
            column += 1 + rest.len() - rest.trim_start_matches(' ').len();
        }
        let content = &text[column..];
        let quote = content.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (key, end) = match quote {
            Some(quote) => {
                let end = content[1..].find(quote).map(|end| end + 1);
                let end = end.filter(|end| content[end + 1..].starts_with(':'));
                (end.map(|end| &content[1..end]), end.map_or(0, |end| end + 2))
            }
            None if content.starts_with(['{', '[', '#', '|', '>', '&', '*', '!', '%', '@']) => (None, 0),
            None => {
                let end = content.find(": ").or_else(|| content.strip_suffix(':').map(str::len));
                (end.map(|end| &content[..end]), end.map_or(0, |end| end + 1))
            }
        };
        let rest = &content[end..];
        let value = column + end + (rest.len() - rest.trim_start_matches(' ').len());
        Self { start, text, dash, column, key, value }
    }

    pub(super) fn is_blank(&self) -> bool {
        let text = self.text.trim_start();
        text.is_empty() || text.starts_with('#')
    }

    pub(super) fn key(&self) -> Option<Key<'t>> {
        let quote = usize::from(self.text[self.column..].starts_with(['"', '\'']));
        let at = self.start + self.column + quote;
        self.key.map(|name| Key { name, at, column: Some(self.column) })
    }

    /// The first column that says something.
    pub(super) fn indent(&self) -> usize {
        self.dash.unwrap_or(self.column)
    }

    /// Tells whether a text in lines follows.
    pub(super) fn opens_lines(&self) -> bool {
        let value = self.text.get(self.value..).unwrap_or_default();
        let value = value.split(" #").next().unwrap_or_default().trim_end();
        let sign = value.strip_prefix(['|', '>']);
        (self.key.is_some() || self.dash.is_some())
            && sign.is_some_and(|rest| rest.chars().all(|c| matches!(c, '+' | '-' | '0'..='9')))
    }
}
