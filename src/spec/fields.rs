//! Maps with fixed keys: each key is taken once, and the others are reported.
//!
//! Invariant: the known keys are those of the grammar. A debug build stops where the reader asks for another one, or
//! leaves one out.

use super::grammar::Map;
use super::keys::{PROVIDERS, meant};
use super::reader::Reader;
use super::tree::{Node, Style, Tree};
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
/// The most keys of a map that a help names.
const SHOWN_KEYS: usize = 12;

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

    /// Counts the keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the value of a key, without taking it.
    pub(super) fn look(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, ..)| name.as_str() == Some(key)).map(|(_, value, _)| *value)
    }

    /// Returns where a key stands, without taking it.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(name, ..)| name.as_str() == Some(key)).map(|(name, ..)| name.span)
    }

    /// Finds a key that the map does not know.
    pub(super) fn other(&self, is: impl Fn(&str) -> bool) -> Option<(&'n str, Span)> {
        self.entries.iter().find_map(|(key, ..)| {
            let name = key.as_str()?;
            (self.map.key(name).is_none() && is(name)).then_some((name, key.span))
        })
    }

    /// Says whether there is a key that the map does not know: what is missing may be what it was meant to be.
    pub(super) fn is_odd(&self) -> bool {
        let odd = |key: &str| !key.starts_with("x-") && self.map.key(key).is_none();
        self.entries.iter().any(|(key, ..)| key.as_str().is_none_or(odd))
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
        if found.is_none() && !self.is_odd() {
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
        // What stands at the indent of a key without a value, instead of below it, is told there.
        let mut outdented = false;
        let before = std::iter::once(None).chain(self.entries.iter().map(|(_, value, _)| Some(*value)));
        for ((key, value, taken), before) in self.entries.iter().zip(before) {
            if left == 0 {
                return;
            }
            let known = key.as_str().is_some_and(|name| self.map.key(name).is_some());
            outdented = if known { value.style == Style::Absent } else { outdented };
            if outdented && !known && matches!(value.tree, Tree::Map(_) | Tree::Seq(_)) {
                continue;
            }
            let Some(name) = key.as_str() else {
                let message = format!("{} has a key that is {}", self.what, key.sort());
                reader.bag.report(Diagnostic::error("G102", message, key.span, "keys are names here"));
                continue;
            };
            if *taken || name.starts_with("x-") {
                continue;
            }
            left -= 1;
            let known = name.split_once(' ').filter(|(word, _)| self.map.key(word).is_some());
            if let Some((word, rest)) = known.filter(|_| value.style == Style::Absent) {
                let finding =
                    Diagnostic::error("Y001", "no colon after the key", key.span, "YAML reads one key");
                reader.bag.report(finding.help(format!("write  {word}: {rest}")));
                continue;
            }
            if let Some(cut) = before.filter(|cut| cut.style == Style::Plain && value.style == Style::Absent)
                && cut.as_str().is_some()
            {
                let span = Span { end: key.span.end, ..cut.span };
                let message = "a comma cuts the value";
                let finding = Diagnostic::error("Y006", message, span, "YAML ends the value at the comma");
                reader.bag.report(
                    finding.help("put the whole value into double quotes; several nodes are  {all: [a, b]}"),
                );
                continue;
            }
            let finding = Diagnostic::error(
                "G102",
                format!("unknown key `{name}`"),
                key.span,
                format!("not a key of {}", self.what),
            );
            let meant = meant(name).filter(|meant| self.map.key(meant).is_some());
            if let Some(meant) = meant {
                reader.bag.report(finding.help(format!("did you mean `{meant}`?")));
                continue;
            }
            if self.map.key("extra").is_some() && PROVIDERS.contains(&name) {
                let finding =
                    Diagnostic { code: "M502", message: format!("unknown parameter `{name}`"), ..finding };
                reader.bag.report(
                    finding.help(format!("what only a provider knows goes as  extra: {{{name}: …}}")),
                );
                continue;
            }
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
    /// Reports a value that is not a map with fixed keys, and names these.
    fn no_map(&mut self, node: &Node, map: &'static Map, what: &str) {
        let finding = if node.style == Style::Absent && node.span.end == 0 {
            let finding = Diagnostic::error("Y006", "the file is empty", node.span, format!("{what} is due"));
            let keys = map.keys().filter(|key| map.needs(key)).map(|key| key.name);
            finding
                .help(format!("write its keys {}, or remove the file", keys.collect::<Vec<_>>().join(", ")))
        } else if node.style == Style::Absent {
            return self.wrong(node, "a map");
        } else {
            let message = format!("expected a map, found {}", node.sort());
            let finding = Diagnostic::error("G105", message, node.span, format!("found {}", node.sort()));
            let keys = map.names().take(SHOWN_KEYS).collect::<Vec<_>>().join(", ");
            finding.help(format!("write a map; its keys are: {keys}"))
        };
        self.bag.report(finding);
    }

    /// Opens a map with fixed keys.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        map: &'static Map,
        what: impl Into<String>,
    ) -> Option<Fields<'n>> {
        let what = what.into();
        let Tree::Map(entries) = &node.tree else {
            self.no_map(node, map, &what);
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
