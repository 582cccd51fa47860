//! `set` and `route`: pure updates of the state.

use async_trait::async_trait;
use indexmap::IndexMap;

use super::{Attempt, Done, Failure, Node, Outcome};
use crate::expr::ExprTree;
use crate::state::Write;

/// Clears channels, then writes expressions to others. A `route` is a `set` that does nothing.
#[derive(Debug, Default)]
pub struct Set {
    /// Channels to reset, before the writes.
    pub clear: Vec<String>,
    /// What to write.
    pub set: IndexMap<String, ExprTree>,
}

#[async_trait]
impl Node for Set {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let mut writes: Vec<Write> =
            self.clear.iter().map(|channel| Write::Clear { channel: channel.clone() }).collect();
        if !self.set.is_empty() {
            let scope = attempt.scope();
            // The order of map keys never means anything: each expression sees the state as it was.
            for (channel, tree) in &self.set {
                writes.push(Write::Put { channel: channel.clone(), value: tree.eval(&scope)? });
            }
        }
        Ok(Done { writes, ..Done::default() }.into())
    }

    fn is_pure(&self) -> bool {
        true
    }
}
