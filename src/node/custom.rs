//! `custom`: a function of the host program.

use std::sync::Arc;

use async_trait::async_trait;
use indexmap::IndexMap;
use serde_json::Value as Json;

use super::{Attempt, Done, ErrorKind, Failure, Node, Outcome};
use crate::expr::ExprTree;
use crate::state::Type;
use crate::tool::{Call, Tool};

/// Calls what is registered under a name.
#[derive(Debug)]
pub struct Custom {
    /// The name.
    pub name: String,
    /// What is called.
    pub function: Arc<dyn Tool>,
    /// The type of its arguments.
    pub args: Type,
    /// The type of its result.
    pub result: Type,
    /// The arguments.
    pub with: IndexMap<String, ExprTree>,
}

#[async_trait]
impl Node for Custom {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let scope = attempt.scope();
        let args = self.with.iter().map(|(name, tree)| Ok((name.clone(), tree.eval(&scope)?)));
        let mut args = Json::Object(args.collect::<Result<_, Failure>>()?);
        let misfit = |what, why| {
            Failure::new(ErrorKind::Schema, format!("the {what} of `{}` cannot be taken: {why}", self.name))
        };
        // Nothing was called yet.
        self.args.check(&args).map_err(|why| Failure { undone: true, ..misfit("arguments", why) })?;
        self.args.fill(&mut args);
        let call = Call {
            caller: attempt.emit.place().caller(),
            args: Arc::new(args),
            run: attempt.run.id,
            thread: attempt.thread.clone(),
            idempotency_key: attempt.task.to_string(),
            attempt: attempt.attempt,
            emit: attempt.emit.clone(),
        };
        let mut result = self.function.call(&call).await?;
        self.result.check(&result).map_err(|why| misfit("result", why))?;
        self.result.fill(&mut result);
        Ok(Done { result, ..Done::default() }.into())
    }
}
