//! What is open in braces and brackets.

use super::{Cursor, Key, Place};

/// An open bracket.
pub(super) struct Frame<'t> {
    pub(super) map: bool,
    pub(super) key: Option<Key<'t>>,
    pub(super) keys: Vec<&'t str>,
    /// Where the scalar begins that is being written.
    pub(super) from: usize,
}

/// Finds the brackets that are open at the end of a piece of a text, and what is written in them.
pub(super) fn frames(text: &str, from: usize, to: usize) -> Vec<Frame<'_>> {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    let mut quote = None;
    let mut comment = false;
    let mut last = ' ';
    for (n, c) in text[from..to].char_indices() {
        let at = from + n;
        let fresh = frames.last().is_none_or(|frame| text[frame.from..at].trim().is_empty());
        if comment {
            comment = c != '\n';
            continue;
        }
        match (quote, c) {
            (Some(open), _) => quote = (open != c || last == '\\').then_some(open),
            (None, '"' | '\'') if fresh => quote = Some(c),
            (None, '#') if last.is_whitespace() => comment = true,
            (None, '{' | '[') if fresh => {
                frames.push(Frame { map: c == '{', key: None, keys: Vec::new(), from: at + 1 });
            }
            (None, '}' | ']') => {
                frames.pop();
                if frames.is_empty() {
                    return frames;
                }
            }
            (None, ',') => {
                if let Some(frame) = frames.last_mut() {
                    (frame.key, frame.from) = (None, at + 1);
                }
            }
            (None, ':') if text[at + 1..].starts_with([' ', '\n', '\r']) || at + 1 == to => {
                if let Some(frame) = frames.last_mut().filter(|frame| frame.map && frame.key.is_none()) {
                    let written = &text[frame.from..at];
                    let lead = written.len() - written.trim_start().len();
                    let name = written.trim().trim_matches(['"', '\'']);
                    frame.keys.push(name);
                    frame.key = Some(Key { name, at: frame.from + lead, column: None });
                    frame.from = at + 1;
                }
            }
            _ => {}
        }
        last = c;
    }
    frames
}

/// Finds the place within brackets.
pub(super) fn flow<'t>(text: &'t str, from: usize, offset: usize, mut path: Vec<Key<'t>>) -> Cursor<'t> {
    let frames = frames(text, from, offset);
    path.extend(frames.iter().filter_map(|frame| frame.key));
    let Some(last) = frames.into_iter().next_back() else {
        return Cursor { path, place: Place::Nothing, typed: "", siblings: Vec::new(), flow: false };
    };
    let place = match (last.map, last.key) {
        (true, None) => Place::Key,
        // A value begins behind a space.
        (true, Some(_)) if last.from == offset => Place::Nothing,
        (true, Some(_)) => Place::Value,
        (false, _) => Place::Item,
    };
    Cursor { path, place, typed: text[last.from..offset].trim_start(), siblings: last.keys, flow: true }
}
