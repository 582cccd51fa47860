//! Claims of the store that forgets.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::tables::{RunRow, Tables, has_turn, holds_thread};
use crate::id::{Part, RunId, ThreadId};
use crate::store::turns::{self, Asking};
use crate::store::{Claim, Kept, Process, Run, RunState};

impl RunRow {
    /// Says whether its owner is gone, as a process sees it.
    fn is_lost(&self, process: &Process, now: DateTime<Utc>) -> bool {
        let reborn = self.instance == process.instance && self.boot != process.boot;
        self.run.state == RunState::Running && (self.lease_until < now || reborn)
    }

    /// Says whether it is one that was lost before, and the process has it.
    fn is_suspect_of(&self, process: &Process, now: DateTime<Utc>) -> bool {
        let mine = self.instance == process.instance && self.boot == process.boot;
        self.run.state == RunState::Running && self.run.crashes > 0 && mine && self.lease_until >= now
    }
}

impl Tables {
    pub(super) fn claim(&mut self, process: &Process, limit: u32) -> Vec<Claim> {
        let (now, most) = (Utc::now(), limit as usize);
        self.wake(now);
        let mut rows: Vec<&RunRow> = self.runs.values().collect();
        rows.sort_unstable_by_key(|row| row.ord);
        let held: BTreeSet<ThreadId> =
            rows.iter().filter(|row| holds_thread(row.run.state)).map(|row| row.run.thread).collect();
        let mut next: BTreeMap<ThreadId, RunId> = BTreeMap::new();
        for row in rows.iter().filter(|row| has_turn(&row.run)) {
            next.entry(row.run.thread).or_insert(row.run.run);
        }
        let is_ready = |row: &RunRow| {
            let free = !held.contains(&row.run.thread) && next.get(&row.run.thread) == Some(&row.run.run);
            has_turn(&row.run) && free
        };
        let mut found = Vec::new();
        if !rows.iter().any(|row| row.is_suspect_of(process, now)) {
            let suspect =
                |row: &&&RunRow| row.run.crashes > 0 && (row.is_lost(process, now) || is_ready(row));
            found.extend(rows.iter().find(suspect).map(|row| row.run.run));
        }
        let lost = rows.iter().filter(|row| row.run.crashes == 0 && row.is_lost(process, now));
        found.extend(lost.map(|row| row.run.run));
        found.truncate(most);
        let mut tenants: BTreeMap<&Part, Asking<RunId>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.run.crashes == 0) {
            let run = row.run.run;
            if is_ready(row) || row.run.state == RunState::Interrupted && self.is_due(run, now) {
                let tenant = &row.run.key.owner.tenant;
                let none = || Asking { working: self.working(tenant), ready: Vec::new() };
                tenants.entry(tenant).or_insert_with(none).ready.push((row.ord, run));
            }
        }
        let room = most - found.len();
        found.extend(turns::choose(tenants.into_values().collect(), room, process.tenant_runs));
        let take = |run| {
            let crashed = self.runs.get(&run).is_some_and(|row| row.run.state == RunState::Running);
            self.take(run, process, crashed)
        };
        found.into_iter().filter_map(take).collect()
    }

    /// Counts the runs of a tenant that are at work.
    fn working(&self, tenant: &Part) -> u64 {
        let at_work =
            |row: &&RunRow| row.run.state == RunState::Running && row.run.key.owner.tenant == *tenant;
        self.runs.values().filter(at_work).count() as u64
    }

    /// Says whether a tenant may have one more run at work.
    pub(super) fn has_room(&self, tenant: &Part, process: &Process) -> bool {
        process.tenant_runs.is_none_or(|most| self.working(tenant) < u64::from(most))
    }

    /// Puts a run into the queue.
    pub(super) fn queue(&mut self, run: RunId) -> Option<Run> {
        let row = self.runs.get_mut(&run)?;
        row.run.state = RunState::Queued;
        (row.run.kept, row.swept, row.stopped) = (Kept::All, false, false);
        Some(row.run.clone())
    }
}
