//! The limits of a run, and where it goes on when one of them is used up.
//!
//! Invariant: each limit is granted once more at most, so that every run ends.

use std::time::Instant;

use super::{Driver, Halt, Position};
use crate::engine::step::{self, Ended, Frontier, Leaf, Limit, Step, World};
use crate::event::usd_of;
use crate::failure::{ErrorKind, Failure};
use crate::plan::Limits;

impl Driver<'_> {
    /// Goes on where a limit leads that is used up, by a barrier of its own; else ends the run.
    pub(super) async fn divert(
        &self,
        mut at: Position,
        limit: Limit,
        world: World<'_>,
        step: Step,
        ended: Vec<Ended>,
    ) -> Result<Option<Position>, Halt> {
        let failure = used_up(limit, &at.plan.limits);
        let granted = at.head.frontier.granted.has(limit);
        let Some(to) = at.plan.on_limit.clone().filter(|_| !granted) else {
            for worked in ended.iter().flatten() {
                at.head.frontier.usage += worked.usage();
            }
            return self.fail(at, None, failure).await.map(|()| None);
        };
        let head = &at.head;
        let (state, frontier) = (&head.state, &head.frontier);
        let applied = step::divert(world, state, &at.input, frontier, step, ended, (limit, &to), &failure);
        if limit == Limit::Time {
            at.clock = Instant::now();
        }
        self.barrier(at, applied).await
    }
}

/// Returns the limit that is used up, or would be by these leaves.
pub(super) fn over_limit(at: &Position, leaves: &[Leaf<'_>]) -> Option<Limit> {
    let limits = &at.plan.limits;
    let due = leaves.iter().filter(|leaf| leaf.asks_model()).count() as u64;
    let Frontier { usage, granted, .. } = &at.head.frontier;
    if at.number >= most_steps(at) {
        Some(Limit::Steps)
    } else if at.clock.elapsed() > limits.time {
        Some(Limit::Time)
    } else if due > 0
        && usage.model_calls + due
            > granted.calls.unwrap_or(at.spent.usage.model_calls).saturating_add(limits.calls)
    {
        Some(Limit::Calls)
    } else if usage.tokens() > granted.tokens.unwrap_or(at.spent.usage.tokens()).saturating_add(limits.tokens)
    {
        Some(Limit::Tokens)
    } else if usage.cost_nano_usd
        > granted.cost.unwrap_or(at.spent.usage.cost_nano_usd).saturating_add(limits.cost_nano_usd)
    {
        Some(Limit::Cost)
    } else {
        None
    }
}

/// Returns the superstep that a run may come to.
pub(super) fn most_steps(at: &Position) -> u64 {
    at.head.frontier.granted.steps.unwrap_or(at.spent.steps).saturating_add(at.plan.limits.steps)
}

/// Says that a limit is used up.
fn used_up(limit: Limit, limits: &Limits) -> Failure {
    let what = match limit {
        Limit::Steps => format!("the run needs more than {} supersteps", limits.steps),
        Limit::Time => format!("the run takes longer than {} s", limits.time.as_secs()),
        Limit::Calls => format!("the run needs more than {} calls of models", limits.calls),
        Limit::Tokens => format!("the run needs more than {} tokens", limits.tokens),
        Limit::Cost => format!("the run costs more than {} US dollars", usd_of(limits.cost_nano_usd)),
    };
    Failure::new(ErrorKind::Limit, what)
}
