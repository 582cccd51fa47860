//! What is told of the ends and pauses of runs, to whom it was to be told.
//!
//! Invariant: a row is written in the transaction of the end that it tells of, and by nothing else.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Run;
use crate::id::{HookId, Part};

/// Where the telling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookState {
    /// It is told as soon as its time has come.
    Queued,
    /// It was told.
    Delivered,
    /// It was given up.
    Failed,
}

impl HookState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Queued, Self::Delivered, Self::Failed];

    /// Returns its name, as it is stored and told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// What is told of one end or pause of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// Its id, the same at every try.
    pub id: HookId,
    /// The run, as it is now.
    pub run: Run,
    /// Where it is told.
    pub url: String,
    /// What is told, as the engine encoded it; empty once it was.
    pub data: Vec<u8>,
    /// Where it stands.
    pub state: HookState,
    /// How often it was tried; of what was claimed, with this time.
    pub attempts: u32,
    /// What went wrong the last time.
    pub error: Option<String>,
    /// When the run ended or paused.
    pub created_at: DateTime<Utc>,
    /// When it is tried again, while it is queued.
    pub due_at: DateTime<Utc>,
    /// When it was told or given up.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was taken.
    Delivered,
    /// It was not, and is tried again after a while.
    Again {
        /// What went wrong.
        error: String,
        /// How long until then.
        after: Duration,
    },
    /// It was not, and is given up.
    GivenUp {
        /// What went wrong.
        error: String,
    },
}

/// What an operator asks for, over all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookFilter {
    /// In these states; empty: in any.
    pub states: Vec<HookState>,
    /// Of this tenant.
    pub tenant: Option<Part>,
    /// This one.
    pub id: Option<HookId>,
}

/// How much there is to tell and was told, as far as it is kept, over all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookCounts {
    /// Still to tell.
    pub queued: u64,
    /// Told.
    pub delivered: u64,
    /// Given up.
    pub failed: u64,
}
