//! Places, paths and texts in the words of the protocol.

use std::ops::Range;
use std::path::{Path, PathBuf};

use gen_lsp_types as lsp;

use crate::diagnostic::Lines;

/// Returns bytes as lines and columns.
pub(super) fn range(lines: &Lines<'_>, bytes: &Range<usize>) -> lsp::Range {
    let at = |byte| {
        let (line, column) = lines.utf16(byte);
        lsp::Position::new(line as u32, column as u32)
    };
    lsp::Range::new(at(bytes.start), at(bytes.end))
}

/// Returns the byte at a place.
pub(super) fn offset(lines: &Lines<'_>, at: lsp::Position) -> usize {
    lines.offset(at.line as usize, at.character as usize)
}

/// Names a file; nothing for a path that is not absolute.
pub(super) fn uri(path: &Path) -> Option<lsp::Uri> {
    lsp::Uri::from_file_path(path).ok()
}

/// Returns the file that is named; nothing for what is no file of this machine.
pub(super) fn path(uri: &lsp::Uri) -> Option<PathBuf> {
    (uri.scheme() == "file").then(|| uri.to_file_path().ok()).flatten()
}

/// Applies the changes of an editor, one after another.
pub(super) fn edit(mut text: String, changes: Vec<lsp::TextDocumentContentChangeEvent>) -> String {
    use lsp::TextDocumentContentChangeEvent as Change;
    for change in changes {
        match change {
            Change::TextDocumentContentChangeWholeDocument(whole) => text = whole.text,
            Change::TextDocumentContentChangePartial(part) => {
                let lines = Lines::of(&text);
                let (start, end) = (offset(&lines, part.range.start), offset(&lines, part.range.end));
                text.replace_range(start.min(end)..start.max(end), &part.text);
            }
        }
    }
    unified(text)
}

/// Returns a text as it is read: with one sort of line ends, which moves no line and no column.
pub(super) fn unified(text: String) -> String {
    if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(from: (u32, u32), to: (u32, u32), text: &str) -> lsp::TextDocumentContentChangeEvent {
        let (from, to) = (lsp::Position::new(from.0, from.1), lsp::Position::new(to.0, to.1));
        let json = serde_json::json!({"range": lsp::Range::new(from, to), "text": text});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn edits_are_taken_at_utf16_columns_and_drawn_into_the_text() {
        for (text, edit_from, edit_to, new, expected) in [
            ("a🦀b", (0, 3), (0, 4), "c", "a🦀c"),
            ("a🦀b", (0, 2), (0, 3), "", "ab"),
            ("a\nb", (0, 9), (1, 0), " ", "a b"),
            ("a\nb", (1, 1), (0, 1), "", "a"),
            ("a", (9, 9), (9, 9), "b", "ab"),
            ("", (0, 0), (u32::MAX, u32::MAX), "x", "x"),
            ("a\r\nb", (1, 0), (1, 1), "c\r\nd", "a\nc\nd"),
        ] {
            assert_eq!(edit(text.to_owned(), vec![change(edit_from, edit_to, new)]), expected, "{text}");
        }
        let whole = serde_json::from_value(serde_json::json!({"text": "new"})).unwrap();
        assert_eq!(edit("old".to_owned(), vec![whole]), "new");
    }

    #[test]
    fn a_name_of_a_file_reads_back() {
        let file = Path::new("/w/a b/ü#.yaml");
        assert_eq!(path(&uri(file).unwrap()).as_deref(), Some(file));
        assert_eq!(path(&"untitled:Untitled-1".parse().unwrap()), None);
        assert_eq!(uri(Path::new("a.yaml")), None);
    }
}
