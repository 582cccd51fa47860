//! From the keys around a place to what the table of the language says of it.

use super::super::cursor::{Cursor, Place};
use crate::spec::grammar::{FRONT_MATTER, GRAPH, Key, Map, PROJECT, Shape, TEST};

/// Returns the keys at the top of a file.
pub(in crate::lsp) fn table(path: &str) -> Option<&'static Map> {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["project.yaml"] => Some(&PROJECT),
        [name] if name.strip_suffix(".yaml").is_some() => Some(&GRAPH),
        ["prompts", ..] => Some(&FRONT_MATTER),
        ["tests", .., name] if name.ends_with(".test.yaml") => Some(&TEST),
        _ => None,
    }
}

/// The shapes that a place can have.
pub(in crate::lsp) struct Reached(Vec<Shape>);

impl Reached {
    /// Returns the shapes, taken apart as far as the place tells.
    pub(in crate::lsp) fn shapes(&self, cursor: &Cursor<'_>) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for shape in &self.0 {
            open(*shape, cursor.place == Place::Item, &mut shapes);
            // `[{` begins a map that is an item.
            if cursor.flow && cursor.place == Place::Key {
                open(*shape, true, &mut shapes);
            }
        }
        shapes
    }

    /// Finds a key of the maps that the place can be in.
    pub(in crate::lsp) fn key(&self, cursor: &Cursor<'_>, name: &str) -> Option<&'static Key> {
        self.shapes(cursor).into_iter().find_map(|shape| match shape {
            Shape::Map(map) => map.key(name),
            _ => None,
        })
    }
}

/// How many lists may stand between two keys. A type can be a list of lists for ever.
const LISTS: usize = 2;

/// Follows the keys around a place.
pub(in crate::lsp) fn reach(top: Shape, cursor: &Cursor<'_>, text: &str) -> Reached {
    let mut shapes = vec![top];
    for (n, key) in cursor.path.iter().enumerate() {
        let parent = n.checked_sub(1).map(|n| Cursor::block(text, &cursor.path[n]));
        // What needs no list is meant before what needs one.
        let below = |lists| {
            let step = |shape: &Shape| step(*shape, key.name, parent, lists);
            Some(shapes.iter().flat_map(step).collect::<Vec<_>>()).filter(|found| !found.is_empty())
        };
        shapes = (0..=LISTS).find_map(below).unwrap_or_default();
    }
    let block = cursor.path.last().map(|key| Cursor::block(text, key));
    let kinds = |shape: Shape| match shape {
        Shape::Kinds(..) => maps(shape, block),
        other => vec![other],
    };
    Reached(shapes.into_iter().flat_map(kinds).collect())
}

/// Returns what a key leads to; items of lists count as their list, so many lists deep.
fn step(shape: Shape, key: &str, block: Option<&str>, lists: usize) -> Vec<Shape> {
    match shape {
        Shape::Shared(shared) => step(shared.shape, key, block, lists),
        Shape::OneOf(shapes) => shapes.iter().flat_map(|shape| step(*shape, key, block, lists)).collect(),
        Shape::List(_) | Shape::Filled(_) | Shape::One(_) if lists == 0 => Vec::new(),
        Shape::List(inner) | Shape::Filled(inner) | Shape::One(inner) => step(*inner, key, block, lists - 1),
        Shape::Map(map) => map.key(key).map(|key| key.shape).into_iter().collect(),
        Shape::Names(_, inner) => vec![*inner],
        Shape::Marked { map, fields, .. } => vec![map.key(key).map_or(*fields, |key| key.shape)],
        Shape::Kinds(..) => {
            maps(shape, block).into_iter().flat_map(|shape| step(shape, key, block, lists)).collect()
        }
        Shape::Value => vec![Shape::Value],
        _ => Vec::new(),
    }
}

/// Returns the maps of a node: that of its kind, or of all kinds while none is written.
fn maps(shape: Shape, block: Option<&str>) -> Vec<Shape> {
    let Shape::Kinds(_, kinds) = shape else { return Vec::new() };
    let kind =
        block.and_then(|block| Cursor::value_in(block.split_once(':').map_or(block, |(_, b)| b), "kind"));
    match kinds.iter().find(|known| Some(known.name) == kind) {
        Some(known) => vec![Shape::Map(known.map)],
        None => kinds.iter().map(|known| Shape::Map(known.map)).collect(),
    }
}

/// Takes a shape apart into those that stand at its beginning.
fn open(shape: Shape, item: bool, into: &mut Vec<Shape>) {
    match shape {
        Shape::Shared(shared) => open(shared.shape, item, into),
        Shape::OneOf(shapes) => shapes.iter().for_each(|shape| open(*shape, item, into)),
        Shape::List(inner) | Shape::Filled(inner) | Shape::One(inner) if item => open(*inner, false, into),
        Shape::Marked { map, .. } if !item => into.push(Shape::Map(map)),
        // What is no list has no items.
        Shape::Value => into.push(Shape::Value),
        _ if item => {}
        other => into.push(other),
    }
}
