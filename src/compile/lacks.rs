//! Names that are used and not declared: each is one mistake, whoever runs into it.
//!
//! Invariant: what follows from a name that is told itself is not told.

use std::cell::RefCell;
use std::collections::BTreeSet;

use indexmap::IndexMap;

use crate::diagnostic::{Bag, Diagnostic};

/// What a graph or a prompt lacks.
#[derive(Debug, Default)]
pub(super) struct Lacks(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    /// Names that are told where they are read.
    told: BTreeSet<String>,
    /// By name, what its own parts miss.
    missed: IndexMap<String, Diagnostic>,
    /// What others give by a name that nobody takes.
    given: Vec<(String, Diagnostic)>,
    count: usize,
}

/// The most that is kept.
const KEPT: usize = 1000;

impl Lacks {
    /// Notes a name that is told where it is read.
    pub(super) fn note(&self, name: &str) {
        self.0.borrow_mut().told.insert(name.to_owned());
    }

    /// Keeps what a part misses; a second one for the same name is shown with the first.
    pub(super) fn miss(&self, name: &str, finding: Diagnostic) {
        let state = &mut *self.0.borrow_mut();
        state.count += 1;
        match state.missed.get_mut(name) {
            Some(first) => first.also(&finding),
            None => drop(state.missed.insert(name.to_owned(), finding)),
        }
    }

    /// Keeps what others give and nobody takes.
    pub(super) fn give(&self, name: &str, finding: Diagnostic) {
        let state = &mut *self.0.borrow_mut();
        state.count += 1;
        state.given.push((name.to_owned(), finding));
    }

    /// Says whether there is more than anybody reads.
    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().count >= KEPT
    }

    /// Reports what does not follow from something that is told.
    pub(super) fn report(&self, bag: &mut Bag) {
        let state = &mut *self.0.borrow_mut();
        for (name, finding) in std::mem::take(&mut state.missed) {
            if state.told.insert(name) {
                bag.report(finding);
            }
        }
        let given =
            std::mem::take(&mut state.given).into_iter().filter(|(name, _)| !state.told.contains(name));
        given.for_each(|(_, finding)| bag.report(finding));
    }

    /// Says whether a name is told.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.borrow().told.contains(name)
    }

    /// Says whether no name is told.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().told.is_empty()
    }
}
