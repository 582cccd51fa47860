//! JSON files of a project, with the way from a pointer into one back to its text.

use serde_json::Value as Json;

use crate::diagnostic::{Bag, Diagnostic, FileId, Span};

/// A JSON file.
#[derive(Debug, Clone)]
pub struct JsonFile {
    /// The file.
    pub file: FileId,
    /// What it holds.
    pub json: Json,
    text: String,
    /// Where the text begins in the file.
    base: usize,
}

impl JsonFile {
    /// Reads a file. Nothing: it is no JSON; the bag says why.
    pub(super) fn parse(file: FileId, what: &str, text: &str, base: usize, bag: &mut Bag) -> Option<Self> {
        match serde_json::from_str(text) {
            Ok(json) => Some(Self { file, json, text: text.to_owned(), base }),
            Err(error) => {
                let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
                let at = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
                let at = text.floor_char_boundary(at.min(text.len()));
                let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
                let span = Span { file, start: (base + at) as u32, end: (base + end) as u32 };
                let why = error.to_string();
                let why = why.split(" at line ").next().unwrap_or_default().to_owned();
                bag.report(Diagnostic::error("S410", format!("{what} is not JSON"), span, why));
                None
            }
        }
    }

    /// Takes a part of a file that is read by itself. Its own parts have no places.
    pub fn part(file: FileId, json: Json) -> Self {
        Self { file, json, text: String::new(), base: 0 }
    }

    /// Returns the place of a part, by the keys and numbers that lead to it: the last key, or the first character of
    /// what has none.
    pub fn place(&self, pointer: &[String]) -> Span {
        let mut scan = Scan { text: &self.text, at: 0 };
        let range = scan.find(pointer).unwrap_or((0, 1.min(self.text.len())));
        Span { file: self.file, start: (self.base + range.0) as u32, end: (self.base + range.1) as u32 }
    }
}

/// Goes through JSON that is known to be right.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text.as_bytes().get(self.at).copied()
    }

    fn find(&mut self, pointer: &[String]) -> Option<(usize, usize)> {
        let Some((first, rest)) = pointer.split_first() else {
            self.peek()?;
            return Some((self.at, self.at + 1));
        };
        let open = self.peek()?;
        if open != b'{' && open != b'[' {
            return None;
        }
        self.at += 1;
        for n in 0.. {
            match self.peek()? {
                b'}' | b']' => return None,
                b',' => self.at += 1,
                _ => {}
            }
            self.peek()?;
            if open == b'{' {
                let start = self.at;
                self.skip()?;
                let key = (start, self.at);
                let name: String = serde_json::from_str(&self.text[start..self.at]).ok()?;
                self.peek()?;
                self.at += 1;
                if name == *first {
                    return if rest.is_empty() { Some(key) } else { self.find(rest) };
                }
            } else if n.to_string() == *first {
                return self.find(rest);
            }
            self.skip()?;
        }
        None
    }

    /// Goes past a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    let inner = &self.text[self.at + 1..];
                    let mut escaped = false;
                    let end = inner.bytes().position(|b| {
                        let ends = b == b'"' && !escaped;
                        escaped = b == b'\\' && !escaped;
                        ends
                    })?;
                    self.at += end + 2;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                _ => {
                    let rest = &self.text[self.at..];
                    let end =
                        rest.find(|c: char| c.is_whitespace() || ",:]}".contains(c)).unwrap_or(rest.len());
                    self.at += end.max(1);
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_back_to_its_key() {
        let text = r#"{"a": {"x\"}": [1, {"b": "c,d"}], "e": null}, "f": [true, [2]]}"#;
        let mut bag = Bag::default();
        let file = bag.add_source("a.json", text);
        let json = JsonFile::parse(file, "the schema", text, 0, &mut bag).unwrap();
        for (pointer, shown) in
            [("", "{"), ("a", "\"a\""), ("a e", "\"e\""), ("f", "\"f\""), ("f 1 0", "2"), ("a nope", "{")]
        {
            let pointer: Vec<String> =
                pointer.split(' ').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            let span = json.place(&pointer);
            assert_eq!(&text[span.start as usize..span.end as usize], shown, "{pointer:?}");
        }
        let inner = ["a".to_owned(), "x\"}".to_owned(), "1".to_owned(), "b".to_owned()];
        let span = json.place(&inner);
        assert_eq!(&text[span.start as usize..span.end as usize], "\"b\"");
    }
}
