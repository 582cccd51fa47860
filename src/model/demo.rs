//! The built-in model: offline, deterministic, friendly. It lets a graph run before anyone has a key.
//!
//! Invariant: the same conversation gets the same answer.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value as Json;

use super::timed::Clock;
use super::{ChatModel, Chunk, ModelError, Request, Role, Turn};
use crate::event::Usage;

/// The most characters of a user's text that an answer repeats.
const ECHO: usize = 400;

/// Answers from a few fixed sentences, word by word.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The pause before each word; zero is fine.
    pub delay: Duration,
}

impl Default for Demo {
    fn default() -> Self {
        Self { delay: Duration::from_millis(15) }
    }
}

#[async_trait]
impl ChatModel for Demo {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let clock = Clock::start(request.timeouts);
        let said = match &request.output {
            Some(output) => made_up(&output.schema, &output.schema, &last_said(&request.turns)).to_string(),
            None => answer(&request.turns),
        };
        let mut words = words(&said);
        let limit =
            request.params.max_tokens.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let truncated = words.len() > limit;
        words.truncate(limit);
        let usage = Usage {
            input_tokens: request.turns.iter().map(|turn| text(turn).split_whitespace().count() as u64).sum(),
            output_tokens: words.len() as u64,
            model_calls: 1,
            ..Usage::default()
        };
        let delay = self.delay;
        let paced = stream::iter(words).then(move |word| async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Chunk::Text(word)
        });
        let end = stream::iter([Chunk::Usage(usage), Chunk::End { truncated }]);
        Ok(clock.watch(paced.chain(end).map(Ok).boxed()).boxed())
    }
}

/// Splits a text so that each piece is one word and the white space after it.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(char::is_whitespace).map(str::to_owned).collect()
}

/// Returns the texts of a turn, without images and files.
fn text(turn: &Turn) -> String {
    match &turn.content {
        Json::String(text) => text.clone(),
        Json::Array(parts) => {
            let texts: Vec<_> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            texts.join(" ")
        }
        _ => String::new(),
    }
}

/// Repeats a user's text on one line, shortened.
fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(ECHO).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// Returns what the user said last.
fn last_said(turns: &[Turn]) -> String {
    turns.iter().rev().find(|turn| turn.role == Role::User).map(text).unwrap_or_default()
}

/// Makes up a value that fits a schema, a part of a whole one: of several words the one that the user said, else the
/// last. It ends, because a type contains itself only where a list may be empty or null may stand.
fn made_up(whole: &Json, schema: &Json, said: &str) -> Json {
    if let Some(named) = schema["$ref"].as_str().and_then(|to| whole.pointer(to.strip_prefix('#')?)) {
        return made_up(whole, named, said);
    }
    if let Some(values) = schema["enum"].as_array() {
        let lower = said.to_lowercase();
        let named =
            |value: &&Json| value.as_str().is_some_and(|word| lower.contains(&word.replace('_', " ")));
        return values.iter().find(named).or(values.last()).cloned().unwrap_or_default();
    }
    if schema["anyOf"].is_array() {
        // Whatever may be null is.
        return Json::Null;
    }
    match schema["type"].as_str() {
        Some("object") => schema["properties"].as_object().map_or_else(Json::default, |fields| {
            fields.iter().map(|(name, schema)| (name.clone(), made_up(whole, schema, said))).collect()
        }),
        Some("array") => Json::Array(Vec::new()),
        Some("boolean") => Json::Bool(false),
        Some("integer") => Json::from(1),
        Some("number") => Json::from(0.9),
        _ => Json::from(quote(said)),
    }
}

/// Writes the answer to a conversation.
fn answer(turns: &[Turn]) -> String {
    let said: Vec<_> = turns.iter().filter(|turn| turn.role == Role::User).map(text).collect();
    match said.as_slice() {
        [] => "Hello! I am the demo model. Nobody has said anything yet, so I just wave.".to_owned(),
        [only] => format!(
            "Hello! I am the demo model: I work offline and cost nothing. You wrote: “{}”. \
             Name a real model in project.yaml and the same graph will answer in earnest. \
             Write again, and you will see that I remember.",
            quote(only)
        ),
        [.., before, last] => format!(
            "You wrote: “{}”. This is your message {} of this conversation; the one before was: “{}”. \
             So the memory works, though I am only the demo model.",
            quote(last),
            said.len(),
            quote(before)
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::{Params, Timeouts};

    async fn ask(turns: &[(Role, Json)], max_tokens: Option<u64>) -> Vec<Chunk> {
        let turns = turns.iter().map(|(role, content)| Turn::new(*role, content.clone())).collect();
        let request = Request {
            node: "answer".to_owned(),
            model: "m".to_owned(),
            turns,
            tools: Arc::default(),
            output: None,
            params: Params { max_tokens, ..Params::default() },
            timeouts: Timeouts::default(),
            idempotency_key: "k".to_owned(),
            attempt: 1,
        };
        let stream = Demo { delay: Duration::ZERO }.stream(request).await.unwrap();
        stream.map(Result::unwrap).collect().await
    }

    fn joined(chunks: &[Chunk]) -> String {
        let texts = chunks.iter().map(|chunk| if let Chunk::Text(text) = chunk { text } else { "" });
        texts.collect()
    }

    #[tokio::test]
    async fn it_greets_echoes_and_ends_with_its_usage() {
        let chunks =
            ask(&[(Role::System, json!("Be kind.")), (Role::User, json!("Wie geht’s, 世界? 🌍"))], None)
                .await;
        let text = joined(&chunks);
        assert!(text.starts_with("Hello! I am the demo model"), "{text}");
        assert!(text.contains("“Wie geht’s, 世界? 🌍”"), "{text}");
        let words = text.split_whitespace().count() as u64;
        let usage = Usage { input_tokens: 6, output_tokens: words, model_calls: 1, ..Usage::default() };
        assert!(chunks.ends_with(&[Chunk::Usage(usage), Chunk::End { truncated: false }]), "{chunks:?}");
        assert_eq!(chunks.len() as u64, words + 2, "one chunk a word");
    }

    #[tokio::test]
    async fn it_shows_that_it_remembers() {
        let parts = json!([{"type": "text", "text": "two"}, {"type": "image", "url": "x"}]);
        let turns = [(Role::User, json!("one")), (Role::Assistant, json!("hi")), (Role::User, parts)];
        let text = joined(&ask(&turns, None).await);
        assert!(
            text.contains("“two”. This is your message 2 of this conversation; the one before was: “one”")
        );
    }

    #[tokio::test]
    async fn it_keeps_to_the_token_limit_and_says_so() {
        let chunks = ask(&[(Role::User, json!("hi"))], Some(3)).await;
        assert_eq!(joined(&chunks), "Hello! I am ");
        assert_eq!(chunks.last(), Some(&Chunk::End { truncated: true }));
    }

    #[test]
    fn it_makes_up_a_value_of_a_type_that_contains_itself() {
        let node = json!({
            "type": "object",
            "properties": {
                "word": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "all": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
        });
        let schema = json!({"type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}});
        let expected = json!({"node": {"word": "hi", "next": null, "all": []}});
        assert_eq!(made_up(&schema, &schema, "hi"), expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quote(&"世".repeat(ECHO + 1)), format!("{}…", "世".repeat(ECHO)));
        assert_eq!(answer(&[]), answer(&[]));
    }
}
