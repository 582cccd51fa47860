//! Claims of the store that forgets.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::tables::{RunRow, Tables, has_turn, holds_thread};
use crate::id::{Part, RunId, ThreadId};
use crate::store::turns::{self, Asking};
use crate::store::{Claim, Kept, Process, Run, RunState};

impl RunRow {
    /// Says whether its owner is gone, as a process sees it.
    fn is_free_for(&self, process: &Process, now: DateTime<Utc>) -> bool {
        let reborn = self.instance == process.instance && self.boot != process.boot;
        self.run.state == RunState::Running && (self.lease_until < now || reborn)
    }

    /// Says whether the process took it alone, and it did not move on since.
    fn is_suspect_of(&self, process: &Process, now: DateTime<Utc>) -> bool {
        let mine = self.instance == process.instance && self.boot == process.boot;
        let suspect = self.suspect && self.run.crashes > 0;
        self.run.state == RunState::Running && suspect && mine && self.lease_until >= now
    }
}

impl Tables {
    pub(super) fn claim(&mut self, process: &Process, limit: u32) -> Vec<Claim> {
        let (now, most) = (Utc::now(), limit as usize);
        self.wake(now);
        let ready = self.ready();
        let mut rows: Vec<&RunRow> = self.runs.values().collect();
        rows.sort_unstable_by_key(|row| row.ord);
        let mut suspect = None;
        if most > 0 && !rows.iter().any(|row| row.is_suspect_of(process, now)) {
            let waits = |row: &RunRow| row.is_free_for(process, now) || ready.contains(&row.run.run);
            suspect = rows.iter().find(|row| row.run.crashes > 0 && waits(row)).map(|row| row.run.run);
        }
        let mut found: Vec<RunId> = suspect.into_iter().collect();
        let lost = rows.iter().filter(|row| row.run.crashes == 0 && row.is_free_for(process, now));
        found.extend(lost.map(|row| row.run.run));
        found.truncate(most);
        let mut tenants: BTreeMap<&Part, Asking<RunId>> = BTreeMap::new();
        for row in rows.iter().filter(|row| self.is_offered(row, &ready, now)) {
            let tenant = &row.run.key.owner.tenant;
            let none = || Asking { working: self.working(tenant), ready: Vec::new() };
            tenants.entry(tenant).or_insert_with(none).ready.push((row.ord, row.run.run));
        }
        let room = most - found.len();
        found.extend(turns::choose(tenants.into_values().collect(), room, process.tenant_runs));
        let take = |run| {
            let crashed = self.runs.get(&run).is_some_and(|row| row.run.state == RunState::Running);
            let claim = self.take(run, process, crashed)?;
            if let Some(row) = self.runs.get_mut(&run) {
                row.suspect = suspect == Some(run);
            }
            Some(claim)
        };
        found.into_iter().filter_map(take).collect()
    }

    /// Returns the queued runs whose turn on their thread it is.
    fn ready(&self) -> BTreeSet<RunId> {
        let held: BTreeSet<ThreadId> =
            self.runs.values().filter(|row| holds_thread(row.run.state)).map(|row| row.run.thread).collect();
        let mut next: BTreeMap<ThreadId, &RunRow> = BTreeMap::new();
        for row in self.runs.values().filter(|row| has_turn(&row.run) && !held.contains(&row.run.thread)) {
            let first = next.entry(row.run.thread).or_insert(row);
            if row.ord < first.ord {
                *first = row;
            }
        }
        next.into_values().map(|row| row.run.run).collect()
    }

    /// Says whether a run begins or goes on as soon as its tenant has a turn.
    fn is_offered(&self, row: &RunRow, ready: &BTreeSet<RunId>, now: DateTime<Utc>) -> bool {
        let run = row.run.run;
        let due = row.run.state == RunState::Interrupted && self.is_due(run, now);
        row.run.crashes == 0 && (ready.contains(&run) || due)
    }

    /// Counts the runs of a tenant that are at work.
    fn working(&self, tenant: &Part) -> u64 {
        let now = Utc::now();
        let at_work = |row: &&RunRow| {
            // Not those that wait to be taken alone.
            let taken = row.run.crashes == 0 || row.lease_until >= now;
            row.run.state == RunState::Running && taken && row.run.key.owner.tenant == *tenant
        };
        self.runs.values().filter(at_work).count() as u64
    }

    /// Says whether a run of a tenant may be one more at work: there is room, and no other waits for it.
    pub(super) fn has_room(&self, run: RunId, tenant: &Part, process: &Process) -> bool {
        let Some(most) = process.tenant_runs else { return true };
        let (ready, now) = (self.ready(), Utc::now());
        let of_others = |row: &RunRow| row.run.key.owner.tenant == *tenant && row.run.run != run;
        let waits = |row: &RunRow| of_others(row) && self.is_offered(row, &ready, now);
        self.working(tenant) < u64::from(most) && !self.runs.values().any(waits)
    }

    /// Counts the runs of a tenant that wait for their turn.
    pub(super) fn in_line(&self, tenant: &Part) -> usize {
        let waits = |row: &&RunRow| has_turn(&row.run) && row.run.key.owner.tenant == *tenant;
        self.runs.values().filter(waits).count()
    }

    /// Puts a run into the queue.
    pub(super) fn queue(&mut self, run: RunId) -> Option<Run> {
        let row = self.runs.get_mut(&run)?;
        (row.run.state, row.run.result, row.run.finished_at) = (RunState::Queued, None, None);
        (row.run.kept, row.swept, row.stopped) = (Kept::All, false, false);
        Some(row.run.clone())
    }
}
