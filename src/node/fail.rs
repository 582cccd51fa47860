//! `fail`: ends the run with an error.

use async_trait::async_trait;

use super::{Attempt, ErrorKind, Failure, Node, Outcome};
use crate::template::Templates;

/// Ends the run with an error of its own words.
#[derive(Debug)]
pub struct Fail {
    /// The project's templates.
    pub templates: Templates,
    /// The template of the message.
    pub error: String,
    /// The code, when the author gave one.
    pub code: Option<String>,
}

#[async_trait]
impl Node for Fail {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let message = self.templates.render(&self.error, &attempt.scope())?;
        let code = self.code.clone().unwrap_or_else(|| ErrorKind::Failed.name());
        Err(Failure { code, ..Failure::new(ErrorKind::Failed, message) })
    }

    fn is_pure(&self) -> bool {
        true
    }
}
