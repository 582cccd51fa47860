//! `http`: an outbound request.

use async_trait::async_trait;

use serde_json::Value as Json;

use super::{Attempt, Done, Failure, Node, Outcome, Reading};
use crate::tool::http::Http;

#[async_trait]
impl Node for Http {
    fn asks(&self, reading: &Reading<'_>) -> Result<Option<Json>, Failure> {
        self.told(reading.scope.clone()).map(Some)
    }

    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let key = attempt.task.to_string();
        let result =
            self.call(&attempt.emit.place().caller(), attempt.scope(), &key, attempt.attempt).await?;
        Ok(Done { result, ..Done::default() }.into())
    }
}
