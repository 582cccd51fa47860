//! The notes of acts, in memory.
//!
//! Invariant: so many are kept at most, since nothing else bounds them.

use std::time::Duration;

use super::tables::{Tables, ago, key};
use crate::id::{Part, RunId, ThreadKey};
use crate::store::audit::YOUNG;
use crate::store::{Act, Actor, AuditFilter, Noted};

/// How many notes are kept.
const MOST: usize = 10_000;

impl Tables {
    pub(super) fn noted(&mut self, note: Noted) {
        if self.notes.len() == MOST {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    pub(super) fn noted_of_run(&mut self, act: Act, run: RunId) {
        if let Some(row) = self.runs.get(&run) {
            let note = Noted::of_run(&row.run.key.owner.tenant, act, run);
            self.noted(note);
        }
    }

    /// Deletes a thread with all that hangs on it; false when there was none.
    pub(super) fn delete(&mut self, thread: &ThreadKey, actor: Actor) -> bool {
        let Some(row) = self.threads.remove(&key(thread)) else { return false };
        self.runs.retain(|_, run| run.run.thread != row.thread);
        let Self { keys, runs, questions, pending, cache, hooks, .. } = self;
        hooks.retain(|_, hook| runs.contains_key(&hook.run));
        cache.retain(|_, kept| kept.thread != row.thread);
        questions.retain(|_, row| runs.contains_key(&row.question.run));
        pending.retain(|(run, ..), _| runs.contains_key(run));
        keys.retain(|_, key| runs.contains_key(&key.run));
        self.noted(Noted::deleted(thread, actor));
        true
    }

    /// Lets the notes of a tenant go, or of nobody, and leaves one.
    pub(super) fn erased(&mut self, tenant: &Part, user: Option<&Part>, threads: u64) -> Noted {
        if user.is_none() {
            self.notes.retain(|note| note.tenant != tenant.as_str());
        }
        let note = Noted::erased(tenant, user, threads);
        self.noted(note.clone());
        note
    }

    pub(super) fn audit(&self, filter: &AuditFilter, limit: u32) -> Vec<Noted> {
        let names = filter.names();
        let is_named = |note: &Noted| {
            names.as_ref().is_none_or(|names| names.contains(&note.subject) || names.contains(&note.actor))
        };
        let is_asked = |note: &&Noted| {
            filter.tenant.as_ref().is_none_or(|tenant| note.tenant == *tenant)
                && filter.since.is_none_or(|since| note.at >= since)
                && is_named(note)
        };
        self.notes.iter().rev().filter(is_asked).take(limit as usize).cloned().collect()
    }

    pub(super) fn forget_audit(&mut self, age: Duration, limit: u32) -> u64 {
        let before = ago(age.max(YOUNG));
        let old = self.notes.iter().take(limit as usize).take_while(|note| note.at < before).count();
        self.notes.drain(..old);
        old as u64
    }
}
