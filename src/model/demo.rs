//! The built-in model: offline, deterministic, friendly. It lets a graph run before anyone has a key.
//!
//! Invariant: the same conversation gets the same answer.

mod value;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value as Json;

use super::timed::Clock;
use super::{ChatModel, Chunk, ModelError, Request, Role, ToolSpec, Turn};
use crate::event::Usage;
use value::made_up;

/// The most characters of a user's text that an answer repeats.
const ECHO: usize = 400;

/// Answers from a few fixed sentences, word by word. It calls each tool that the user names, once, and makes up
/// structured answers from the user's words.
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
        let said = last_said(&request.turns);
        let calls =
            if results(&request.turns).is_empty() { named(&request.tools, &said) } else { Vec::new() };
        let (pieces, truncated) = if calls.is_empty() {
            let answer = match &request.output {
                Some(output) => made_up(&output.bounded, &said).to_string(),
                None => answer(&request.turns),
            };
            let limit =
                request.params.max_tokens.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
            let words = words(&answer);
            let truncated = words.len() > limit;
            (words.into_iter().take(limit).map(Chunk::Text).collect(), truncated)
        } else {
            (called(&calls, &said, request.turns.len()), false)
        };
        let usage = Usage {
            input_tokens: request.turns.iter().map(|turn| text(turn).split_whitespace().count() as u64).sum(),
            output_tokens: pieces.len() as u64,
            model_calls: 1,
            ..Usage::default()
        };
        let delay = self.delay;
        let paced = stream::iter(pieces).then(move |piece: Chunk| async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            piece
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
pub(super) fn text(turn: &Turn) -> String {
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

/// Lists the tools that the user names: every word of their names was said.
fn named<'t>(tools: &'t [ToolSpec], said: &str) -> Vec<&'t ToolSpec> {
    let lower = said.to_lowercase();
    let is_named = |tool: &&ToolSpec| {
        let mut words = tool.name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.all(|word| lower.contains(&word.to_lowercase()))
    };
    tools.iter().filter(is_named).collect()
}

/// Writes calls of tools. The place in the conversation makes their ids different from those of other turns.
fn called(tools: &[&ToolSpec], said: &str, place: usize) -> Vec<Chunk> {
    let call = |(index, tool): (usize, &&ToolSpec)| {
        let id = format!("call_{place}_{}", index + 1);
        let delta = made_up(&tool.parameters, said).to_string();
        [Chunk::ToolCall { index, id, name: tool.name.clone() }, Chunk::ToolArgs { index, delta }]
    };
    tools.iter().enumerate().flat_map(call).collect()
}

/// Returns what tools gave since the user spoke last, with their names.
fn results(turns: &[Turn]) -> Vec<(String, String)> {
    let begin = turns.iter().rposition(|turn| turn.role == Role::User).map_or(0, |at| at + 1);
    let mut calls = Vec::new();
    let mut results = Vec::new();
    for turn in &turns[begin..] {
        calls.extend(&turn.tool_calls);
        let Some(id) = &turn.tool_call_id else { continue };
        if let Some(call) = calls.iter().find(|call| call.id == *id) {
            results.push((call.name.clone(), text(turn)));
        }
    }
    results
}

/// Writes the answer to a conversation.
fn answer(turns: &[Turn]) -> String {
    let results = results(turns);
    if !results.is_empty() {
        let gave = |(name, result): &(String, String)| format!(" {name} gave: “{}”.", quote(result));
        let gave: String = results.iter().map(gave).collect();
        return format!("I am the demo model, so I only tell what the tools said.{gave}");
    }
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
    use crate::model::{Params, Timeouts, ToolCall};

    async fn ask(turns: &[(Role, Json)], max_tokens: Option<u64>) -> Vec<Chunk> {
        let turns = turns.iter().map(|(role, content)| Turn::new(*role, content.clone())).collect();
        ask_with(turns, Arc::default(), max_tokens).await
    }

    async fn ask_with(turns: Vec<Turn>, tools: Arc<[ToolSpec]>, max_tokens: Option<u64>) -> Vec<Chunk> {
        let request = Request {
            node: "answer".to_owned(),
            model: "m".to_owned(),
            turns,
            tools,
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

    #[tokio::test]
    async fn it_calls_the_tools_that_are_named_once_and_tells_what_they_gave() {
        let tool = |name: &str, arg: &str| ToolSpec {
            name: name.to_owned(),
            description: String::new(),
            parameters: json!({"type": "object", "properties": {arg: {"type": "string"}}, "required": [arg]}),
        };
        let tools: Arc<[ToolSpec]> =
            vec![tool("search_kb", "query"), tool("open_ticket", "subject"), tool("close", "id")].into();
        let user = |text: &str| Turn::new(Role::User, json!(text));
        let said = "Search the KB, then open a ticket.";
        let mut turns = vec![user("Open a ticket."), Turn::new(Role::Assistant, json!("No.")), user(said)];
        let chunks = ask_with(turns.clone(), tools.clone(), Some(1)).await;
        let args = |index: usize, arg: &str| Chunk::ToolArgs { index, delta: json!({arg: said}).to_string() };
        let call = |index: usize, id: &str, name: &str| Chunk::ToolCall {
            index,
            id: id.to_owned(),
            name: name.to_owned(),
        };
        let expected = [
            call(0, "call_3_1", "search_kb"),
            args(0, "query"),
            call(1, "call_3_2", "open_ticket"),
            args(1, "subject"),
        ];
        assert_eq!(chunks[..4], expected);

        let calls = ["search_kb", "open_ticket"].iter().zip(["call_3_1", "call_3_2"]);
        let calls = calls.map(|(name, id)| ToolCall {
            id: id.to_owned(),
            name: (*name).to_owned(),
            arguments: "{}".to_owned(),
        });
        turns.push(Turn::calls(json!(""), calls.collect()));
        turns.push(Turn::result("call_3_1", json!("nothing")));
        turns.push(Turn::result("call_3_2", json!("{\"id\": 7}")));
        let text = joined(&ask_with(turns.clone(), tools.clone(), None).await);
        assert!(text.ends_with("search_kb gave: “nothing”. open_ticket gave: “{\"id\": 7}”."), "{text}");

        turns.push(Turn::new(Role::Assistant, json!(text)));
        turns.push(user("Thanks!"));
        let text = joined(&ask_with(turns, tools, None).await);
        assert!(text.starts_with("You wrote: “Thanks!”"), "{text}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quote(&"世".repeat(ECHO + 1)), format!("{}…", "世".repeat(ECHO)));
        assert_eq!(answer(&[]), answer(&[]));
    }
}
