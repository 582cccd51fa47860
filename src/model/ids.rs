//! Ids of calls of tools, where a server gives none of its own.
//!
//! Invariant: no id is there twice within an answer, and one that is made up is in no other answer either: a
//! conversation holds the calls of many rounds, and each result is found by its id.

use std::collections::BTreeSet;

use crate::id::sha256_hex;

/// The ids of one answer.
pub(super) struct Ids {
    seed: String,
    told: BTreeSet<String>,
}

impl Ids {
    /// Makes ids of what no other call has, such as its idempotency key.
    pub(super) fn new(seed: &str) -> Self {
        let mut seed = sha256_hex(seed.as_bytes());
        seed.truncate(16);
        Self { seed, told: BTreeSet::new() }
    }

    /// Returns the server's id of a call, or one that no other call has.
    pub(super) fn own(&mut self, id: Option<&str>) -> String {
        let id = id.filter(|id| !id.is_empty() && !self.told.contains(*id));
        let made_up = || {
            let free = |n: &usize| !self.told.contains(&format!("call_{}_{n}", self.seed));
            // One more number than there are ids: one of them is free.
            let n = (self.told.len()..=2 * self.told.len()).find(free).unwrap_or_default();
            format!("call_{}_{n}", self.seed)
        };
        let id = id.map_or_else(made_up, str::to_owned);
        self.told.insert(id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rounds of tools of a server without ids had the same ones.
    #[test]
    fn an_id_that_is_made_up_repeats_neither_within_an_answer_nor_in_another_one() {
        let (mut first, mut second) = (Ids::new("task"), Ids::new("task-3"));
        let mut ids = BTreeSet::new();
        for given in [None, Some("a"), Some("a"), Some(""), None] {
            ids.insert(first.own(given));
            ids.insert(second.own(given.filter(|id| *id != "a")));
        }
        assert_eq!(ids.len(), 10);
        assert_eq!(Ids::new("task").own(None), Ids::new("task").own(None), "the same call has the same ids");
    }
}
