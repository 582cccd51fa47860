//! `http`: an outbound request.

use async_trait::async_trait;

use super::{Attempt, Done, Failure, Node, Outcome};
use crate::tool::http::Http;

#[async_trait]
impl Node for Http {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let key = attempt.task.to_string();
        let result =
            self.call(&attempt.emit.place().caller(), attempt.scope(), &key, attempt.attempt).await?;
        Ok(Done { result, ..Done::default() }.into())
    }
}
