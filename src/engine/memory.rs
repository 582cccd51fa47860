//! How much memory the process has left, so that it refuses work before the system ends it.
//!
//! Invariant: runs at work go on, whatever is used: their end is what gives memory back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tracing::warn;

use super::{Shared, recover};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What is given up, at which part of the limit, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strain {
    None,
    /// Nothing is taken from the queue, and no state is kept that nobody works on.
    Claims,
    /// Requests for runs are refused, too.
    Requests,
    /// Streams that have fallen behind are cut, too.
    Readers,
}

impl Strain {
    const ALL: [(Self, u64); 3] = [(Self::Readers, 90), (Self::Requests, 85), (Self::Claims, 80)];

    fn at(used: u64, limit: u64) -> Self {
        let percent = used.saturating_mul(100).checked_div(limit).unwrap_or(0);
        Self::ALL.iter().find(|(_, from)| percent >= *from).map_or(Self::None, |(strain, _)| *strain)
    }
}

/// What the process uses, as it was last seen.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicU64,
    limit: u64,
}

/// Returns what this process uses.
fn used() -> Option<u64> {
    let mut system = System::new().ok()?;
    let me = Pid::from_u32(std::process::id());
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, kind);
    Some(system.process(me)?.memory())
}

/// Returns what its container allows, or the machine has.
fn allowed() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(system.cgroup_limits().map_or(system.total_memory(), |group| group.total_memory))
}

impl Memory {
    /// Looks for the first time.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let memory = Self { used: AtomicU64::new(0), limit: limit.or_else(allowed).unwrap_or(0) };
        memory.look();
        memory
    }

    pub(super) fn strain(&self) -> Strain {
        Strain::at(self.used.load(Ordering::Relaxed), self.limit)
    }

    fn look(&self) {
        if let Some(used) = used() {
            self.used.store(used, Ordering::Relaxed);
            metrics::gauge!("graphloom_memory_bytes").set(used as f64);
            metrics::gauge!("graphloom_memory_limit_bytes").set(self.limit as f64);
        }
    }
}

/// Looks at the memory until the engine is closed.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let mut before = shared.memory.strain();
    while recover::rest(&mut closed, LOOK).await {
        shared.memory.look();
        let strain = shared.memory.strain();
        if strain >= Strain::Claims {
            shared.heads.clear();
        }
        if strain != before {
            let (used, limit) = (shared.memory.used.load(Ordering::Relaxed), shared.memory.limit);
            match strain {
                Strain::None => tracing::info!(used, limit, "There is enough memory again."),
                Strain::Claims => warn!(used, limit, "Memory is short: nothing is taken from the queue."),
                Strain::Requests => warn!(used, limit, "Memory is short: runs are refused."),
                Strain::Readers => warn!(used, limit, "Memory is short: streams that fell behind are cut."),
            }
            before = strain;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Strain};

    #[test]
    fn more_is_given_up_the_less_is_left() {
        let cases = [(0, Strain::None), (79, Strain::None), (80, Strain::Claims), (85, Strain::Requests)];
        for (used, strain) in cases.into_iter().chain([(90, Strain::Readers), (200, Strain::Readers)]) {
            assert_eq!(Strain::at(used, 100), strain, "{used}");
        }
        assert_eq!(Strain::at(u64::MAX, 0), Strain::None, "without a limit nothing is known to be short");
    }

    #[test]
    fn the_limit_is_that_of_the_machine_or_its_container() {
        let memory = Memory::new(None);
        assert!(memory.limit > 64 << 20, "{memory:?}");
        assert_eq!(Memory::new(Some(1)).strain(), Strain::Readers, "this process uses more");
    }
}
