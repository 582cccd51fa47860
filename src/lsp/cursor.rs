//! Where in a YAML text somebody is typing: which keys are around, by indent and brackets alone.
//!
//! Invariant: works on text that is not YAML yet. It looks at the lines above and at the one with the cursor.

mod flow;
mod line;

use flow::{flow, frames};
use line::Line;

/// A place in a text.
#[derive(Debug)]
pub(super) struct Cursor<'t> {
    /// The keys around the place, from the outermost on.
    pub(super) path: Vec<Key<'t>>,
    /// What is being typed.
    pub(super) place: Place,
    /// The part of it before the cursor.
    pub(super) typed: &'t str,
    /// The other keys of the same map.
    pub(super) siblings: Vec<&'t str>,
    /// It stands in brackets.
    pub(super) flow: bool,
}

/// A key and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'t> {
    pub(super) name: &'t str,
    /// Its first byte.
    pub(super) at: usize,
    /// Its column, unless it stands in brackets.
    column: Option<usize>,
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A key of a map, or a scalar that goes on from the line before.
    Key,
    /// An item of a list: a scalar, or a key of a map.
    Item,
    /// The value of the last key of the path.
    Value,
    /// A comment, or the end of a value.
    Nothing,
}

/// The furthest that is looked back for a bracket.
const FURTHEST: usize = 200;

/// Finds out where in a text a byte is.
pub(super) fn cursor(text: &str, offset: usize) -> Cursor<'_> {
    let offset = text.floor_char_boundary(offset.min(text.len()));
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let here = Line::of(start, &text[start..offset]);
    let above = || lines_above(text, start);
    if let Some((header, path)) = text_in_lines(above(), &here, text) {
        let from = text[header..].find('\n').map_or(offset, |at| header + at + 1).min(offset);
        return Cursor {
            path,
            place: Place::Value,
            typed: &text[from..offset],
            siblings: Vec::new(),
            flow: false,
        };
    }
    if is_comment(here.text) {
        return Cursor {
            path: Vec::new(),
            place: Place::Nothing,
            typed: "",
            siblings: Vec::new(),
            flow: false,
        };
    }
    let base = bracketed(text, &here, offset).unwrap_or(here);
    let Around { mut path, mut siblings, item } = around(lines_above(text, base.start), &base);
    siblings.extend(below(text, &base));
    path.extend(base.key());
    let value_from = base.start + if base.key.is_some() { base.value } else { base.column };
    let value = text.get(value_from..offset).unwrap_or_default();
    if value.starts_with(['{', '[']) {
        return flow(text, value_from, offset, path);
    }
    let (place, typed) = match base.key {
        Some(_) if offset == base.start + base.text.len() && base.text.ends_with(':') => {
            (Place::Nothing, value)
        }
        Some(_) => (Place::Value, value),
        None if item => (Place::Item, value),
        None => (Place::Key, value),
    };
    Cursor { path, place, typed, siblings, flow: false }
}

impl<'t> Cursor<'t> {
    /// Returns the text of a key with all that is below it.
    pub(super) fn block(text: &'t str, key: &Key<'t>) -> &'t str {
        let rest = &text[key.at..];
        let Some(column) = key.column else {
            let mut depth = 0_i32;
            let ends = |c: char| {
                depth += match c {
                    '{' | '[' => 1,
                    '}' | ']' => -1,
                    _ => 0,
                };
                depth < 0
            };
            return &rest[..rest.find(ends).unwrap_or(rest.len())];
        };
        let mut end = key.at;
        for line in text[key.at..].split_inclusive('\n') {
            let parsed = Line::of(end, line);
            if end > key.at && !parsed.is_blank() && parsed.indent() <= column {
                break;
            }
            end += line.len();
        }
        &text[key.at..end]
    }

    /// Returns the plain value of a key somewhere in a piece of YAML.
    pub(super) fn value_in(block: &'t str, key: &str) -> Option<&'t str> {
        let found = block.match_indices(key).find(|(at, _)| {
            let before = block[..*at].trim_end_matches(' ');
            let starts = before.is_empty() || before.ends_with(['\n', '{', ',']) || before.ends_with("\n-");
            starts && block[at + key.len()..].starts_with(": ")
        });
        let rest = block[found?.0 + key.len() + 2..].trim_start_matches(' ');
        let end = rest.find(['\n', '\r', ',', '}']).unwrap_or(rest.len());
        Some(rest[..end].split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']))
    }
}

/// Returns the lines before a byte, the nearest first.
fn lines_above(text: &str, start: usize) -> impl Iterator<Item = Line<'_>> {
    let mut end = start;
    text[..start].split_inclusive('\n').rev().map(move |line| {
        end -= line.len();
        Line::of(end, line)
    })
}

/// Says whether the end of a line stands in a comment.
fn is_comment(before: &str) -> bool {
    let mut quote = None;
    let mut last = ' ';
    for c in before.chars() {
        match quote {
            Some(open) => quote = (open != c).then_some(open),
            None if c == '#' && last == ' ' => return true,
            None if matches!(c, '"' | '\'') && !last.is_alphanumeric() => quote = Some(c),
            None => {}
        }
        last = c;
    }
    false
}

/// Finds the line whose text in lines (`|`, `>`) the cursor is in.
fn text_in_lines<'t>(
    above: impl Iterator<Item = Line<'t>>,
    here: &Line<'t>,
    text: &'t str,
) -> Option<(usize, Vec<Key<'t>>)> {
    let blank = here.text.trim().is_empty();
    let mut limit = if blank { here.text.len() } else { here.indent() };
    let mut found = None;
    for line in above.filter(|line| !line.is_blank()) {
        let column = if line.key.is_some() { line.column } else { line.indent() };
        if column < limit {
            if line.opens_lines() {
                found = Some(line.start);
            }
            limit = line.indent();
        }
        if limit == 0 {
            break;
        }
    }
    let start = found?;
    let header = Line::of(start, text[start..].split('\n').next().unwrap_or_default());
    let Around { mut path, .. } = around(lines_above(text, start), &header);
    path.extend(header.key());
    Some((start, path))
}

/// Finds the line with the outermost bracket that is still open.
fn bracketed<'t>(text: &'t str, here: &Line<'t>, offset: usize) -> Option<Line<'t>> {
    let mut least = if here.is_blank() { usize::MAX } else { here.indent() };
    let mut found = None;
    for line in lines_above(text, here.start).take(FURTHEST).filter(|line| !line.is_blank()) {
        let indent = line.indent();
        if indent < least {
            let from = if line.key.is_some() { line.value } else { line.column };
            let opens = line.text.get(from..).is_some_and(|value| value.starts_with(['{', '[']));
            if opens && !frames(text, line.start + from, offset).is_empty() {
                found = Some(line);
            }
            least = indent;
        }
        if least == 0 {
            break;
        }
    }
    found
}

/// What stands above a line.
struct Around<'t> {
    /// The keys that the line is below.
    path: Vec<Key<'t>>,
    /// The keys of the same map.
    siblings: Vec<&'t str>,
    /// The line belongs to an item of a list.
    item: bool,
}

fn around<'t>(above: impl Iterator<Item = Line<'t>>, line: &Line<'t>) -> Around<'t> {
    let (mut path, mut siblings, mut item) = (Vec::new(), Vec::new(), line.dash.is_some());
    // A key in the column of the dashes is the key of the list.
    let (mut limit, mut same) = match line.dash {
        Some(dash) => (dash + 1, None),
        None => (line.column, Some(line.column)),
    };
    for above in above.filter(|line| !line.is_blank()) {
        if limit == 0 {
            break;
        }
        if above.column < limit {
            path.extend(above.key());
            limit = above.dash.map_or(above.column, |dash| dash + 1);
            same = None;
        } else if same == Some(above.column) {
            siblings.extend(above.key);
            if let Some(dash) = above.dash {
                (limit, same, item) = (dash + 1, None, true);
            }
        } else if let Some(dash) = above.dash.filter(|dash| dash + 1 < limit) {
            (limit, same) = (dash + 1, None);
        }
    }
    path.reverse();
    Around { path, siblings, item }
}

/// Returns the keys of the same map that stand below a line.
fn below<'t>(text: &'t str, line: &Line<'t>) -> Vec<&'t str> {
    let mut start = text[line.start..].find('\n').map_or(text.len(), |at| line.start + at + 1);
    let mut keys = Vec::new();
    for next in text[start..].split_inclusive('\n') {
        let parsed = Line::of(start, next);
        start += next.len();
        if parsed.is_blank() {
            continue;
        }
        if parsed.indent() < line.column {
            break;
        }
        if parsed.dash.is_none() && parsed.column == line.column {
            keys.extend(parsed.key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows the place of `‸` as `keys/place/typed`.
    fn shown(marked: &str) -> String {
        let at = marked.find('‸').unwrap();
        let text = marked.replace('‸', "");
        let cursor = cursor(&text, at);
        let path: Vec<&str> = cursor.path.iter().map(|key| key.name).collect();
        format!("{} {:?} {}", path.join("."), cursor.place, cursor.typed)
    }

    #[test]
    fn the_keys_around_a_place_are_told_by_indent_and_brackets() {
        for (text, expected) in [
            ("sta‸", " Key sta"),
            ("start: ‸", "start Value "),
            ("start:‸", "start Nothing "),
            ("start: an‸swer\n", "start Value an"),
            ("nodes:\n  a:\n    kind: say\n    next: b‸", "nodes.a.next Value b"),
            ("nodes:\n  a:\n    kind: say\n    ‸", "nodes.a Key "),
            ("nodes:\n  a:\n    kind: say\n\n    # why\n    ne‸\n  b:\n", "nodes.a Key ne"),
            ("nodes:\n  a:\n    kind: say\n  ‸", "nodes Key "),
            ("nodes: {a: {kind: say, next: ‸", "nodes.a.next Value "),
            ("nodes: {a: {kind: say, ne‸}}", "nodes.a Key ne"),
            ("nodes:\n  a:\n    next: {all: [b, ‸", "nodes.a.next.all Item "),
            ("nodes:\n  a:\n    next: {all: [b]}‸", "nodes.a.next Nothing "),
            ("next:\n  - when: state.‸", "next.when Value state."),
            ("next:\n  - when: state.x\n    to: ‸\n  - else: b", "next.to Value "),
            ("next:\n- when: state.x\n  to: ‸", "next.to Value "),
            ("next:\n  - when: x\n    to: a\n  - e‸", "next Item e"),
            ("next:\n  - when: x\n    ‸", "next Item "),
            ("next:\n  - match: x\n    cases: {a: b, c: ‸}", "next.cases.c Value "),
            ("next:\n  - match: x\n    cases:\n      a: ‸", "next.cases.a Value "),
            ("cases: {\n  a: b,\n  c: {all: [d,\n    ‸", "cases.c.all Item "),
            ("a: {b: c}\nd: ‸", "d Value "),
            ("clear: [‸]", "clear Item "),
            ("clear:\n  - ‸", "clear Item "),
            ("text: |\n  one: {\n\n  two {{ sta‸", "text Value   one: {\n\n  two {{ sta"),
            ("a:\n  - text: >-\n      x\n      y‸\n", "a.text Value       x\n      y"),
            ("a:\n  text: |\n    x\n  next: ‸", "a.next Value "),
            ("a: b # ‸", " Nothing "),
            ("a: \"b # ‸", "a Value \"b # "),
            ("\"a b\": ‸", "a b Value "),
            ("a: {'b c': ‸", "a.b c Value "),
            ("when: state.a and\n  state.‸", "when Key state."),
            ("a:\r\n  b: ‸\r\n", "a.b Value "),
            ("ü: 🦀 ‸", "ü Value 🦀 "),
            ("- - ‸", " Item "),
            ("‸", " Key "),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn other_keys_of_the_map_and_values_nearby_are_found() {
        let text = "nodes:\n  a:\n    kind: say # why\n    \n    next: end\n  b: {kind: route, next: a}\n";
        let at = text.find("    \n").unwrap() + 4;
        let cursor = cursor(text, at);
        assert_eq!(cursor.siblings, ["kind", "next"]);
        let block = Cursor::block(text, &cursor.path[1]);
        assert!(block.starts_with("a:") && block.ends_with("end\n"), "{block}");
        assert_eq!(Cursor::value_in(block, "kind"), Some("say"));
        let flow = "a: {kind: route, next: {kind: x}}";
        assert_eq!(Cursor::value_in(flow, "kind"), Some("route"));
    }
}
