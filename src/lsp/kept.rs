//! A file as an editor has it now, with the last index that could be made of it.
//!
//! Invariant: places that come out are places of the text as it is now. While a file cannot be read, what the last
//! good text held outside the part that changed is still known.

use std::ops::Range;
use std::sync::Arc;

use super::index::{Index, index_one};
use super::symbol::Mark;

/// A file of a project.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The text as it is now.
    pub(super) text: Arc<str>,
    /// An editor has it.
    pub(super) open: bool,
    /// The last index.
    good: Option<Index>,
    /// The text that the last index was tried on.
    tried: Option<Arc<str>>,
}

impl Kept {
    /// Takes a text in.
    pub(super) fn set(&mut self, text: Arc<str>, open: bool) {
        (self.text, self.open) = (text, open);
    }

    /// Takes in what was made of the text elsewhere.
    pub(super) fn adopt(&mut self, text: Arc<str>, index: Option<Index>) {
        self.text = Arc::clone(&text);
        self.tried = Some(text);
        self.good = index.or(self.good.take());
    }

    /// Takes in an index of a text that was here before, for when the one that is here now cannot be read.
    pub(super) fn recall(&mut self, index: Option<Index>) {
        if index.is_some() && !self.is_sound() {
            self.good = index;
        }
    }

    /// Makes an index of the text as it is now, if there is none. Says whether it did.
    pub(super) fn settle(&mut self, path: &str) -> bool {
        if self.tried.as_ref().is_some_and(|tried| Arc::ptr_eq(tried, &self.text)) {
            return false;
        }
        if let Some(mut index) = index_one(path, &self.text) {
            index.text = Arc::clone(&self.text);
            self.good = Some(index);
        }
        self.tried = Some(Arc::clone(&self.text));
        true
    }

    /// Takes in what the names of a test stand for.
    pub(super) fn link(&mut self, linked: Vec<Mark>) {
        if let Some(index) = &mut self.good {
            index.linked = linked;
        }
    }

    /// Returns the last index. Its places are not those of the text when the file cannot be read now.
    pub(super) fn index(&self) -> Option<&Index> {
        self.good.as_ref()
    }

    /// Tells whether the last index is of the text as it is now.
    pub(super) fn is_sound(&self) -> bool {
        self.good.as_ref().is_some_and(|index| *index.text == *self.text)
    }

    /// Returns the name at a byte of the text, and its place.
    pub(super) fn mark_at(&self, offset: usize) -> Option<(&Mark, Range<usize>)> {
        let index = self.good.as_ref()?;
        let shift = Shift::between(&index.text, &self.text);
        let place = |mark: &Mark| shift.now(&mark.range);
        let found = index.marks.iter().chain(&index.linked).filter_map(|mark| Some((mark, place(mark)?)));
        // Behind a name is still at the name.
        found
            .filter(|(_, range)| range.start <= offset && offset <= range.end)
            .min_by_key(|(_, range)| (usize::from(offset == range.end), range.len()))
    }

    /// Returns all names with their places and the places of their definitions.
    pub(super) fn marks(&self) -> impl Iterator<Item = (&Mark, Range<usize>, Range<usize>)> {
        let shift = self.good.as_ref().map(|index| Shift::between(&index.text, &self.text));
        let marks = self.good.iter().flat_map(|index| index.marks.iter().chain(&index.linked));
        marks.filter_map(move |mark| {
            let range = shift.as_ref()?.now(&mark.range)?;
            let extent = shift.as_ref()?.now(&mark.extent).unwrap_or_else(|| range.clone());
            Some((mark, range, extent))
        })
    }
}

/// Where two texts part, and where they are the same again.
struct Shift {
    same_before: usize,
    old: usize,
    new: usize,
    same_after: usize,
}

impl Shift {
    fn between(old: &str, new: &str) -> Self {
        if std::ptr::eq(old, new) {
            return Self { same_before: old.len(), old: old.len(), new: new.len(), same_after: old.len() };
        }
        let pairs = old.bytes().zip(new.bytes());
        let before = pairs.take_while(|(a, b)| a == b).count();
        // The same bytes may end within a character.
        let before = old.floor_char_boundary(before).min(new.floor_char_boundary(before));
        let rest = (&old.as_bytes()[before..], &new.as_bytes()[before..]);
        let mut after = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(|(a, b)| a == b).count();
        while !(old.is_char_boundary(old.len() - after) && new.is_char_boundary(new.len() - after)) {
            after -= 1;
        }
        Self { same_before: before, old: old.len(), new: new.len(), same_after: after }
    }

    /// Returns where a part of the old text stands now.
    fn now(&self, range: &Range<usize>) -> Option<Range<usize>> {
        if range.end <= self.same_before {
            return Some(range.clone());
        }
        let to_end = self.old.checked_sub(range.start).filter(|left| *left <= self.same_after)?;
        let start = self.new - to_end;
        Some(start..start + range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_outside_the_change_is_found_again() {
        let shift = Shift::between("ab€cd ef", "ab₩cdd ef");
        assert_eq!(shift.now(&(0..2)), Some(0..2));
        assert_eq!(shift.now(&(2..5)), None, "a part of the character is the same");
        assert_eq!(shift.now(&(8..10)), Some(9..11));
        assert_eq!(Shift::between("x", "x").now(&(0..1)), Some(0..1));
        assert_eq!(Shift::between("", "x").now(&(0..0)), Some(0..0));
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_its_last_names() {
        let mut kept = Kept::default();
        let text =
            "format: 1\nstart: a\nnodes:\n  a: {kind: route, next: b}\n  b: {kind: route, next: end}\n";
        kept.set(text.into(), true);
        kept.settle("g.yaml");
        assert!(kept.is_sound());
        let broken = text.replace("next: b}", "next: {all: [b, ");
        kept.set(broken.as_str().into(), true);
        kept.settle("g.yaml");
        assert!(!kept.is_sound());
        let at = broken.find("  b:").unwrap() + 2;
        let (mark, range) = kept.mark_at(at).unwrap();
        assert_eq!((mark.symbol.name.as_str(), range), ("b", at..at + 1));
    }
}
