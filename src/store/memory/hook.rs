//! Who reads a run, when a run is due, and who is told of its end.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::tables::{HookRow, Tables, ago, has_turn, lease};
use crate::id::{HookId, Part, RunId};
use crate::store::{Hook, HookCounts, HookFilter, HookState, Run, RunState, Told};

impl Tables {
    /// Lets runs that are due take their places behind the others of their threads.
    pub(super) fn wake(&mut self, now: DateTime<Utc>) {
        let rows = self.runs.values().filter(|row| row.run.state == RunState::Queued);
        let mut due: Vec<_> = rows
            .filter_map(|row| Some((row.run.due_at.filter(|at| *at <= now)?, row.ord, row.run.run)))
            .collect();
        due.sort_unstable();
        for (_, _, run) in due {
            self.next_ord += 1;
            let ord = self.next_ord;
            if let Some(row) = self.runs.get_mut(&run) {
                (row.run.due_at, row.ord) = (None, ord);
            }
        }
    }

    pub(super) fn read_on(&mut self, runs: &[(Part, RunId)], time: Duration) {
        for (tenant, run) in runs {
            let row = self.runs.get_mut(run).filter(|row| row.run.key.owner.tenant == *tenant);
            if let Some(until) = row.and_then(|row| row.read_until.as_mut()) {
                *until = lease(time);
            }
        }
    }

    pub(super) fn unread(&self, limit: u32) -> Vec<Run> {
        let now = Utc::now();
        let works = |run: &Run| matches!(run.state, RunState::Queued | RunState::Running);
        let rows = self.runs.values().filter(|row| works(&row.run) && !row.run.cancel_requested);
        let mut rows: Vec<_> = rows.filter(|row| row.read_until.is_some_and(|at| at < now)).collect();
        rows.sort_by_key(|row| row.read_until);
        rows.into_iter().take(limit as usize).map(|row| row.run.clone()).collect()
    }

    /// Has the end or the pause of a run told, when somebody is to be told.
    pub(super) fn tell(&mut self, run: RunId, data: Vec<u8>) {
        let Some(url) = self.runs.get(&run).and_then(|row| row.run.webhook.clone()) else { return };
        let now = Utc::now();
        let row = HookRow {
            run,
            url,
            data,
            state: HookState::Queued,
            attempts: 0,
            error: None,
            created_at: now,
            due_at: now,
            finished_at: None,
        };
        self.hooks.insert(HookId::new(), row);
    }

    fn hook(&self, id: HookId) -> Option<Hook> {
        let row = self.hooks.get(&id)?;
        Some(Hook {
            id,
            run: self.runs.get(&row.run)?.run.clone(),
            url: row.url.clone(),
            data: row.data.clone(),
            state: row.state,
            attempts: row.attempts,
            error: row.error.clone(),
            created_at: row.created_at,
            due_at: row.due_at,
            finished_at: row.finished_at,
        })
    }

    pub(super) fn claim_hooks(&mut self, time: Duration, limit: u32) -> Vec<Hook> {
        let now = Utc::now();
        let is_due = |row: &HookRow| row.state == HookState::Queued && row.due_at <= now;
        let mut due: Vec<_> = self.hooks.iter().filter(|(_, row)| is_due(row)).collect();
        due.sort_by_key(|(_, row)| row.due_at);
        let due: Vec<HookId> = due.into_iter().take(limit as usize).map(|(id, _)| *id).collect();
        for id in &due {
            if let Some(row) = self.hooks.get_mut(id) {
                (row.attempts, row.due_at) = (row.attempts + 1, lease(time));
            }
        }
        due.into_iter().filter_map(|id| self.hook(id)).collect()
    }

    pub(super) fn told(&mut self, tenant: &Part, hook: HookId, attempt: u32, told: Told) {
        let runs = &self.runs;
        let is_of = |run: &RunId| runs.get(run).is_some_and(|row| row.run.key.owner.tenant == *tenant);
        let row = self.hooks.get_mut(&hook).filter(|row| row.state == HookState::Queued && is_of(&row.run));
        let Some(row) = row else { return };
        match told {
            Told::Delivered => {
                (row.state, row.finished_at, row.error) = (HookState::Delivered, Some(Utc::now()), None);
                row.data = Vec::new();
            }
            _ if row.attempts != attempt => {}
            Told::Again { error, after } => (row.error, row.due_at) = (Some(error), lease(after)),
            Told::GivenUp { error } => {
                (row.state, row.finished_at, row.error) = (HookState::Failed, Some(Utc::now()), Some(error));
            }
        }
    }

    pub(super) fn hooks(&self, filter: &HookFilter, limit: u32) -> Vec<Hook> {
        let all = self.hooks.keys().rev().filter_map(|id| self.hook(*id));
        let is_asked = |hook: &Hook| {
            (filter.states.is_empty() || filter.states.contains(&hook.state))
                && filter.tenant.as_ref().is_none_or(|tenant| hook.run.key.owner.tenant == *tenant)
                && filter.id.is_none_or(|id| hook.id == id)
        };
        let mut found: Vec<Hook> = all.filter(is_asked).collect();
        found.sort_by_key(|hook| std::cmp::Reverse((hook.created_at, hook.id)));
        found.truncate(limit as usize);
        found
    }

    pub(super) fn hook_counts(&self) -> HookCounts {
        let count = |state| self.hooks.values().filter(|row| row.state == state).count() as u64;
        let [queued, delivered, failed] = HookState::ALL.map(count);
        HookCounts { queued, delivered, failed }
    }

    pub(super) fn retry_hook(&mut self, id: HookId) -> Option<Hook> {
        let row = self.hooks.get_mut(&id).filter(|row| row.state != HookState::Delivered)?;
        (row.state, row.attempts, row.due_at, row.finished_at) = (HookState::Queued, 0, Utc::now(), None);
        self.hook(id)
    }

    pub(super) fn forget_hooks(&mut self, delivered: Duration, failed: Duration, limit: u32) -> u64 {
        let is_old = |row: &HookRow| {
            let age = if row.state == HookState::Delivered { delivered } else { failed };
            row.finished_at.is_some_and(|at| at < ago(age))
        };
        let old = self.hooks.iter().filter(|(_, row)| is_old(row)).map(|(id, _)| *id);
        let old: Vec<HookId> = old.take(limit as usize).collect();
        for id in &old {
            self.hooks.remove(id);
        }
        old.len() as u64
    }

    /// Counts the runs of a thread that wait for their turn, and those that wait for their time.
    pub(super) fn waiting(&self, thread: crate::id::ThreadId) -> (usize, usize) {
        let runs = self.runs.values().filter(|row| row.run.thread == thread);
        let queued = runs.filter(|row| row.run.state == RunState::Queued);
        queued.fold(
            (0, 0),
            |(turn, time), row| {
                if has_turn(&row.run) { (turn + 1, time) } else { (turn, time + 1) }
            },
        )
    }
}
