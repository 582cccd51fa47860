//! `say`: a reply, emitted whole.

use async_trait::async_trait;

use serde_json::Value as Json;

use super::{Attempt, Done, Failure, Node, Outcome, assistant_turn};
use crate::event::Body;
use crate::template::Templates;

/// Says a rendered text to the user.
#[derive(Debug)]
pub struct Say {
    /// The project's templates.
    pub templates: Templates,
    /// The template of the text.
    pub text: String,
}

#[async_trait]
impl Node for Say {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let text = self.templates.render(&self.text, &attempt.scope())?;
        let message_id = attempt.message_id();
        attempt.emit.send(Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        attempt.emit.send(Body::MessageDelta { message_id: message_id.clone(), delta: text.clone() });
        Ok(Done {
            said: vec![assistant_turn(&message_id, &text)],
            result: Json::String(text.clone()),
            events: vec![Body::MessageFinished { message_id, content: Some(text), truncated: false }],
            ..Done::default()
        }
        .into())
    }

    fn is_pure(&self) -> bool {
        true
    }
}
