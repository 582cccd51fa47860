//! What is new of runs that somebody follows.

use super::{EventBatch, Result, Run, RunState, Store};
use crate::id::{Owner, RunId, Seq};

/// What is new of a run that somebody follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The run.
    pub run: RunId,
    /// Where it stands.
    pub state: RunState,
    /// What it has told since, if that is anything.
    pub batches: Vec<EventBatch>,
}

/// Reads them run by run, for a store that is in this process: asking it often costs no more than asking for much.
pub(super) async fn one_by_one<S: Store>(
    store: &S,
    of: &[(Owner, RunId, Seq)],
    limit: usize,
) -> Result<Vec<News>> {
    let mut news = Vec::new();
    for (owner, run, after) in of {
        let Some(Run { state, .. }) = store.run(owner, *run).await? else { continue };
        news.push(News { run: *run, state, batches: store.events(owner, *run, *after, limit).await? });
    }
    Ok(news)
}
