//! The names that expressions and templates of a file read.

use std::ops::Range;

use super::symbol::{Access, Sort, Symbol};
use super::walk::Walk;
use crate::diagnostic::Span;
use crate::expr::{Expr, Read};
use crate::spec::Text;
use crate::template::Set;
use crate::template::prompt::{Section, split};

/// Takes the reads of texts into a walk.
pub(super) struct Reads<'w, 'a> {
    walk: &'w mut Walk<'a>,
}

impl<'w, 'a> Reads<'w, 'a> {
    pub(super) fn new(walk: &'w mut Walk<'a>) -> Self {
        Self { walk }
    }

    pub(super) fn expression(&mut self, text: &Text) {
        match Expr::parse(&text.value) {
            Ok(expr) => expr.reads().iter().for_each(|read| self.read(text, read, 0)),
            Err(_) => self.hidden(text.span),
        }
    }

    /// Takes in a part of a text as a template.
    pub(super) fn template(&mut self, text: &Text, part: Range<usize>) {
        let source = text.value.get(part.clone()).unwrap_or_default();
        let Ok(parsed) = Set::new().add("text", source) else { return self.hidden(text.span) };
        for read in &parsed.reads {
            self.read(text, read, part.start);
        }
        for (name, range) in &parsed.includes {
            let span = text.locate(range.start + part.start..range.end + part.start);
            let range = self.walk.bytes(span, name);
            let symbol = Symbol::new(Sort::Partial, "", name);
            self.walk.mark(range, symbol, Access::Read);
        }
    }

    /// Takes in the body of a prompt file.
    pub(super) fn prompt(&mut self, body: &Text) {
        let Ok(sections) = split(&body.value) else {
            // A marker may be wrong where the names are right.
            return self.template(body, 0..body.value.len());
        };
        for section in sections {
            match section {
                Section::Text { range, .. } => self.template(body, range),
                Section::Messages { name: Some(name), range } => {
                    let range = bytes(body.locate(range));
                    let symbol = Symbol::new(Sort::Input, self.walk.path, &name);
                    self.walk.mark(range, symbol, Access::Read);
                }
                Section::Messages { name: None, .. } => {}
            }
        }
    }

    /// Takes in one read, whose place counts from `from` in the text.
    fn read(&mut self, text: &Text, read: &Read, from: usize) {
        let prompts = self.walk.path.starts_with("prompts/");
        let partial = self.walk.path.split('/').any(|part| matches!(part, "_partials" | "_macros"));
        if partial {
            self.walk.free.push(read.clone());
            return;
        }
        let range = read.range.start + from..read.range.end + from;
        let (sort, name, fields) = match (read.root.as_str(), read.path.split_first()) {
            (root, _) if prompts => (Sort::Input, root, &read.path[..]),
            ("state", Some((name, fields))) => (Sort::Channel, name.as_str(), fields),
            ("input", Some((name, fields))) => (Sort::Input, name.as_str(), fields),
            ("state" | "input", None) => return self.hidden(text.locate(range)),
            ("env", Some((name, _))) => (Sort::Setting, name.as_str(), &[][..]),
            // The arguments are fields of their tool.
            ("args", Some(_)) if self.walk.tool().is_some() => (Sort::Tool, "", &read.path[..]),
            _ => return,
        };
        let source = &text.value[range.clone()];
        let mut at = if prompts { 0 } else { read.root.len() };
        let tool = self.walk.tool().filter(|_| sort == Sort::Tool).map(str::to_owned);
        let mut symbol = Symbol::new(sort, self.walk.path, tool.as_deref().unwrap_or(name));
        let mut place = |name: &str| {
            let found = source[at..].find(name)? + at;
            at = found + name.len();
            Some(range.start + found..range.start + found + name.len())
        };
        if tool.is_none()
            && let Some(part) = place(name)
        {
            self.walk.mark(bytes(text.locate(part)), symbol.clone(), Access::Read);
        }
        for field in fields {
            let part = place(field);
            // The items of a list are all of one type.
            if field.parse::<i64>().is_ok() {
                continue;
            }
            symbol.fields.push(field.clone());
            if let Some(part) = part {
                self.walk.mark(bytes(text.locate(part)), symbol.clone(), Access::Read);
            }
        }
    }

    fn hidden(&mut self, span: Span) {
        self.walk.index.hidden.push(bytes(span));
    }
}

fn bytes(span: Span) -> Range<usize> {
    span.start as usize..span.end as usize
}
