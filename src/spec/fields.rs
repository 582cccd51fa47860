//! Maps with fixed keys: each key is taken once, and the others are reported.
//!
//! Invariant: the known keys are those of the grammar. A debug build stops where the reader asks for another one, or
//! leaves one out.

use super::grammar::Map;
use super::reader::Reader;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, suggest};

/// The entries of a map with fixed keys.
pub(super) struct Fields<'n> {
    /// The first token of the map.
    pub(super) span: Span,
    /// What the map is, for messages: `a node of kind `llm``.
    what: String,
    map: &'static Map,
    entries: Vec<(&'n Node, &'n Node, bool)>,
    /// The keys that were asked for, to hold against the table.
    #[cfg(debug_assertions)]
    asked: Vec<&'static str>,
}

/// The most unknown keys of one map that are looked at: looking for what was meant takes time.
const MAX_UNKNOWN: usize = 50;

impl<'n> Fields<'n> {
    /// Takes the value of a key. A key without a value counts as written.
    pub(super) fn take(&mut self, key: &str) -> Option<&'n Node> {
        self.take_entry(key).map(|(_, value)| value)
    }

    /// Takes a key's place and its value.
    pub(super) fn take_entry(&mut self, key: &str) -> Option<(Span, &'n Node)> {
        #[cfg(debug_assertions)]
        match self.map.key(key) {
            Some(key) => self.asked.push(key.name),
            None => panic!("the map `{}` of the grammar has no key `{key}`", self.map.name),
        }
        let entry = self.entries.iter_mut().find(|(name, ..)| name.as_str() == Some(key))?;
        entry.2 = true;
        Some((entry.0.span, entry.1))
    }

    /// Says which map it is, once that is known.
    pub(super) fn becomes(&mut self, map: &'static Map) {
        self.map = map;
    }

    /// Returns where a key stands, without taking it.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(name, ..)| name.as_str() == Some(key)).map(|(name, ..)| name.span)
    }

    /// Takes the value of a key that has to be there.
    pub(super) fn require(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        example: &str,
        at: Span,
    ) -> Option<&'n Node> {
        let found = self.take(key);
        if found.is_none() {
            let message = format!("{} needs `{key}`", self.what);
            reader.bag.report(
                Diagnostic::error("G104", message, at, format!("`{key}` is missing"))
                    .help(format!("write  {example}")),
            );
        }
        found
    }

    /// Reports the keys that nobody took. `elsewhere` says where a key does belong.
    pub(super) fn finish(self, reader: &mut Reader<'_>, elsewhere: impl Fn(&str) -> Option<String>) {
        #[cfg(debug_assertions)]
        for name in self.map.names() {
            assert!(self.asked.contains(&name), "nobody reads `{name}` of `{}`", self.map.name);
        }
        let mut left = MAX_UNKNOWN;
        for (key, _, taken) in self.entries {
            if left == 0 {
                return;
            }
            let Some(name) = key.as_str() else {
                let message = format!("{} has a key that is {}", self.what, key.sort());
                reader.bag.report(Diagnostic::error("G102", message, key.span, "keys are names here"));
                continue;
            };
            if taken || name.starts_with("x-") {
                continue;
            }
            left -= 1;
            let finding = Diagnostic::error(
                "G102",
                format!("unknown key `{name}`"),
                key.span,
                format!("not a key of {}", self.what),
            );
            reader.bag.report(match (suggest(name, self.map.names()), elsewhere(name)) {
                (_, Some(why)) => finding.help(why),
                (Some(near), None) => finding.help(format!("did you mean `{near}`?")),
                (None, None) => {
                    let keys = self.map.names().collect::<Vec<_>>().join(", ");
                    finding.help(format!("its keys are: {keys}"))
                }
            });
        }
    }
}

impl Reader<'_> {
    /// Opens a map with fixed keys.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        map: &'static Map,
        what: impl Into<String>,
    ) -> Option<Fields<'n>> {
        let what = what.into();
        let Tree::Map(entries) = &node.tree else {
            self.wrong(node, "a map");
            return None;
        };
        let entries = entries.iter().map(|(key, value)| (key, value, false)).collect();
        Some(Fields {
            span: node.span,
            what,
            map,
            entries,
            #[cfg(debug_assertions)]
            asked: Vec::new(),
        })
    }
}
