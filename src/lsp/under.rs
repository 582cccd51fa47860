//! What an expression says at a place, where no name of the project stands: `item.title`, `result.pages`, `| tojson`.

use std::ops::Range;

use super::complete::{At, reach, table};
use super::cursor::cursor;
use super::offer::{Roots, Within, arguments, bind_loops, chain, table as builtins, within};
use super::project::is_partial;
use super::symbol::Symbol;
use crate::spec::grammar::Shape;

impl<'p> At<'p> {
    /// Returns what there is to say of the word at the place, and its bytes.
    pub(super) fn under(&self) -> Option<(String, Range<usize>)> {
        let range = self.word()?;
        let (source, roots) = At { offset: range.end, ..*self }.expression()?;
        let parts = chain(source);
        if let [word] = parts.as_slice()
            && let Some((what, table)) = builtins(source)
        {
            let known = table.iter().find(|known| known.name == *word)?;
            let takes = arguments(known);
            let more = "`graphloom explain expressions` lists all that there are.";
            return Some((format!("**{what}** `{word}{takes}`\n\n{more}"), range));
        }
        let field = roots.resolve(&parts)?;
        let mut said = format!("**value** `{}`: `{}`", parts.join("."), field.ty);
        if let Some(description) = field.description {
            said += &format!("\n\n{description}");
        }
        Some((said, range))
    }

    /// Returns the thing of the project that the word at the place leads to.
    pub(super) fn meant(&self) -> Option<Symbol> {
        let range = self.word()?;
        let (source, roots) = At { offset: range.end, ..*self }.expression()?;
        roots.meant(&chain(source))
    }

    /// Returns the word around the place.
    pub(super) fn word(&self) -> Option<Range<usize>> {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let rest = &self.text[self.offset..];
        let end = self.offset + rest.find(|c| !word(c)).unwrap_or(rest.len());
        let start = self.text[..self.offset].trim_end_matches(word).len();
        (start < end).then_some(start..end)
    }

    /// Returns the expression that ends at the place, and what it can read.
    fn expression(&self) -> Option<(&'p str, Roots)> {
        if let (Some(body), Some(below)) = (self.prompt_body(), self.path.strip_prefix("prompts/")) {
            return in_template(&self.text[body..self.offset], self.prompt_roots(is_partial(below)));
        }
        let (text, offset) = self.yaml_part()?;
        let cursor = cursor(text, offset);
        let shapes = reach(Shape::Map(table(self.path)?), &cursor, text).shapes(&cursor);
        let is = |wanted: fn(&Shape) -> bool| shapes.iter().any(wanted);
        if is(|shape| matches!(shape, Shape::Template)) {
            return in_template(cursor.typed, self.roots(&cursor));
        }
        let typed = cursor.typed.trim_start();
        is(|shape| matches!(shape, Shape::Expression | Shape::Value))
            .then(|| (typed.strip_prefix(['"', '\'']).unwrap_or(typed), self.roots(&cursor)))
    }
}

fn in_template(before: &str, mut roots: Roots) -> Option<(&str, Roots)> {
    match within(before) {
        Within::Expression(source) => {
            bind_loops(before, &mut roots);
            Some((source, roots))
        }
        Within::Text | Within::Include => None,
    }
}
