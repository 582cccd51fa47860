//! `llm`: calls a chat model and streams its answer.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tracing::{Instrument, Span, info};

use super::meter::{Price, Tally};
use super::tools::{self, Memo, Offered};
use super::{Attempt, Done, ErrorKind, Failure, Node, Outcome, Reading, assistant_turn};
use crate::event::{Body, Usage};
use crate::expr::{ExprTree, Scope};
use crate::model::{ChatModel, Chunk, OutputSchema, Params, Request, Role, Timeouts, ToolCall, Turn};
use crate::state::{Cell, State, Type};
use crate::template::Templates;
use crate::trace;

/// The longest answer that is kept, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// A part of a prompt.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A turn, rendered from a template.
    Turn(Role, String),
    /// The turns of an input of the prompt.
    Messages(ExprTree),
    /// The turns of the graph's conversation, by its channel.
    Conversation(String),
}

/// How an input of a prompt file gets its value.
#[derive(Debug, Clone)]
pub struct Bind {
    /// The name inside the prompt.
    pub name: String,
    /// The expression outside.
    pub value: ExprTree,
}

/// How much of a conversation goes to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clip {
    /// All of it.
    All,
    /// The newest turns.
    Last(usize),
    /// The newest turns that fit into about so many tokens, four bytes each.
    Tokens(usize),
}

/// A model, and how the node calls it.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its name in project.yaml.
    pub name: String,
    /// The model.
    pub model: Arc<dyn ChatModel>,
    /// The parameters of the call.
    pub params: Params,
    /// How long the model may be silent.
    pub timeouts: Timeouts,
    /// What its tokens cost.
    pub price: Option<Price>,
    /// It knows neither schemas nor tools: for an answer in JSON it is asked in words.
    pub in_words: bool,
}

/// Calls a chat model.
#[derive(Debug)]
pub struct Llm {
    /// The model, and behind it those that stand in for it, in order.
    pub links: Vec<Link>,
    /// The project's templates.
    pub templates: Templates,
    /// The prompt, in order.
    pub pieces: Vec<Piece>,
    /// The inputs of a prompt file; absent for a prompt in the graph file, which sees what an expression sees.
    pub binds: Option<Vec<Bind>>,
    /// How much of the conversation is sent.
    pub clip: Clip,
    /// The type of the answer; a text where nothing is said.
    pub output: Option<Output>,
    /// The tools that the model may call.
    pub tools: Arc<[Offered]>,
    /// How often it may ask for some of them.
    pub max_rounds: u64,
    /// The answer joins the conversation.
    pub reply: bool,
    /// Whether the answer's tokens are sent as they come.
    pub stream: bool,
}

impl Llm {
    fn turns(&self, state: &State, outer: &Scope) -> Result<Vec<Turn>, Failure> {
        let inner = match &self.binds {
            None => None,
            Some(binds) => Some(binds.iter().try_fold(Scope::new(), |scope, bind| {
                Ok::<_, Failure>(scope.json(&bind.name, Arc::new(bind.value.eval(outer)?)))
            })?),
        };
        let scope = inner.as_ref().unwrap_or(outer);
        let mut turns = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Turn(role, template) => {
                    let text = self.templates.render(template, scope)?;
                    turns.push(Turn::new(*role, Json::String(text.trim().to_owned())));
                }
                Piece::Messages(tree) => {
                    let Json::Array(items) = tree.eval(scope)? else {
                        return Err(Failure::new(ErrorKind::Schema, "the conversation is not a list"));
                    };
                    for item in clip(items, self.clip) {
                        let no_turn =
                            || Failure::new(ErrorKind::Schema, "an item of the conversation is no chat turn");
                        turns.push(turn(&item).ok_or_else(no_turn)?);
                    }
                }
                Piece::Conversation(channel) => {
                    // Only what is sent is copied: a long conversation costs no more than its newest turns.
                    if let Some(Cell::List(items)) = state.get(channel) {
                        let keep = kept(items.iter().rev().map(|item| &**item), items.len(), self.clip);
                        turns.extend(items.iter().skip(items.len() - keep).filter_map(|item| turn(item)));
                    }
                }
            }
        }
        Ok(turns)
    }

    /// Returns the prompt, with what came of the rounds before.
    fn asked(&self, attempt: &Attempt, memo: &Memo) -> Result<Vec<Turn>, Failure> {
        let mut turns = self.turns(&attempt.state, &attempt.scope())?;
        // Only what the node itself keeps can hold what a provider wants back; a conversation comes from anywhere.
        let kept = |message: &Json| Some(Turn { kept: message.get("kept").cloned(), ..turn(message)? });
        turns.extend(memo.turns.iter().filter_map(kept));
        Ok(tools::repaired(turns))
    }
}

fn turn(message: &Json) -> Option<Turn> {
    let role = serde_json::from_value(message.get("role")?.clone()).ok()?;
    let content = match message.get("content")? {
        Json::Array(parts) => Json::Array(parts.iter().cloned().map(part).collect()),
        text => text.clone(),
    };
    let calls = message.get("tool_calls").and_then(Json::as_array).into_iter().flatten();
    let tool_calls = calls.map(ToolCall::of_json).collect::<Option<_>>()?;
    let tool_call_id = message.get("tool_call_id").and_then(Json::as_str).map(str::to_owned);
    Some(Turn { tool_calls, tool_call_id, ..Turn::new(role, content) })
}

/// A bare text within a list of parts is a text part.
fn part(part: Json) -> Json {
    if part.is_string() { json!({"type": "text", "text": part}) } else { part }
}

fn clip(mut items: Vec<Json>, clip: Clip) -> Vec<Json> {
    let keep = kept(items.iter().rev(), items.len(), clip);
    items.split_off(items.len() - keep)
}

/// Returns how many of the newest turns are sent.
fn kept<'a>(newest_first: impl Iterator<Item = &'a Json>, len: usize, clip: Clip) -> usize {
    match clip {
        Clip::All => len,
        Clip::Last(n) => n.min(len),
        Clip::Tokens(budget) => {
            let mut left = budget.saturating_mul(4);
            let fits = |item: &&Json| {
                let size = |key: &str| item.get(key).map_or(0, |part| part.to_string().len());
                let size = size("content") + size("tool_calls");
                left.checked_sub(size).map(|rest| left = rest).is_some()
            };
            // The newest turn is always sent: a call without a question makes no sense.
            newest_first.take_while(fits).count().max(1).min(len)
        }
    }
}

/// What a call gave.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    /// The reply was begun before the eyes of the user.
    started: bool,
    /// The provider cut it at the limit of tokens.
    truncated: bool,
    /// The tools that it asks for.
    calls: Vec<ToolCall>,
    /// What the provider wants back with it.
    kept: Option<Json>,
}

impl Llm {
    /// Makes one call. `nth` counts the calls of the task.
    async fn call(
        &self,
        attempt: &Attempt,
        message_id: &str,
        turns: Vec<Turn>,
        tools: &[Offered],
        nth: u64,
    ) -> Result<Answer, Failure> {
        let Some(link) = self.links.get(attempt.link) else {
            return Err(Failure::new(ErrorKind::Failed, "the node has no such model"));
        };
        let span = trace::model(&link.name, link.model.provider(), link.params.max_tokens, attempt.attempt);
        let asked =
            self.ask(link, attempt, message_id, (turns, tools, nth), &span).instrument(span.clone()).await;
        if let Err(failure) = &asked {
            trace::failed(&span, &failure.code);
        }
        asked
    }

    async fn ask(
        &self,
        link: &Link,
        attempt: &Attempt,
        message_id: &str,
        (mut turns, tools, nth): (Vec<Turn>, &[Offered], u64),
        span: &Span,
    ) -> Result<Answer, Failure> {
        let (in_words, held) = match &self.output {
            Some(output) if link.in_words => (Some(output), None),
            output => (None, output.as_ref()),
        };
        if let Some(output) = in_words {
            output.ask(&mut turns);
        }
        let mut key = attempt.task.to_string();
        // A provider must not take the second question for the first, nor one that is put to another model.
        if nth > 1 {
            key += &format!("-{nth}");
        }
        if attempt.link > 0 {
            key += &format!("-{}", link.name);
        }
        let mut tally = Tally {
            model: &link.name,
            meter: &attempt.meter,
            price: link.price,
            said: Usage::default(),
            sent: turns.iter().map(|turn| turn.content.to_string().len()).sum(),
            received: 0,
            span: span.clone(),
            whole: false,
        };
        let request = Request {
            node: attempt.emit.place().caller(),
            model: link.name.clone(),
            turns,
            tools: tools.iter().map(|tool| tool.spec.clone()).collect(),
            output: held.map(|output| Arc::clone(&output.schema)),
            params: link.params.clone(),
            timeouts: link.timeouts,
            idempotency_key: key,
            attempt: attempt.attempt,
        };
        let message_id = message_id.to_owned();
        let shown = self.reply && self.stream;
        let mut answer = Answer::default();
        let mut reasoning = false;
        let mut stream = link.model.stream(request).await?;
        loop {
            match stream.next().await {
                Some(Ok(Chunk::Text(delta))) => {
                    if delta.is_empty() {
                        continue;
                    }
                    if reasoning {
                        reasoning = false;
                        attempt.emit.send(Body::ReasoningFinished { message_id: message_id.clone() });
                    }
                    tally.received += delta.len();
                    answer.text.push_str(&delta);
                    if answer.text.len() > MAX_ANSWER {
                        return Err(Failure::new(
                            ErrorKind::Schema,
                            "the model's answer is longer than 1 MiB",
                        ));
                    }
                    if shown {
                        if !answer.started {
                            answer.started = true;
                            attempt.emit.send(started_event(&message_id));
                        }
                        attempt.emit.send(Body::MessageDelta { message_id: message_id.clone(), delta });
                    }
                }
                Some(Ok(Chunk::Reasoning(delta))) => {
                    tally.received += delta.len();
                    if shown && !answer.started {
                        if !reasoning {
                            reasoning = true;
                            attempt.emit.send(Body::ReasoningStarted { message_id: message_id.clone() });
                        }
                        attempt.emit.send(Body::ReasoningDelta { message_id: message_id.clone(), delta });
                    }
                }
                Some(Ok(Chunk::ToolCall { index: _, id, name })) => {
                    let started = Body::ToolStarted { call_id: id.clone(), tool: name.clone() };
                    attempt.emit.send(started);
                    answer.calls.push(ToolCall { id, name, arguments: String::new() });
                }
                Some(Ok(Chunk::ToolArgs { index, delta })) => {
                    let Some(call) = answer.calls.get_mut(index).filter(|_| !delta.is_empty()) else {
                        continue;
                    };
                    tally.received += delta.len();
                    call.arguments.push_str(&delta);
                    if call.arguments.len() > MAX_ANSWER {
                        let message = "the model's call of a tool is longer than 1 MiB";
                        return Err(Failure::new(ErrorKind::Schema, message));
                    }
                    let call_id = call.id.clone();
                    attempt.emit.send(Body::ToolArgsDelta { call_id, delta });
                }
                Some(Ok(Chunk::Kept(kept))) => answer.kept = Some(kept),
                Some(Ok(Chunk::Usage(used))) => tally.said = used,
                Some(Ok(Chunk::End { truncated })) => {
                    answer.truncated = truncated;
                    break;
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(ErrorKind::Connection, "the model's answer was cut")),
            }
        }
        tally.whole = true;
        if answer.truncated {
            let (node, model) = (attempt.emit.place().caller(), &link.name);
            info!(node, model, "The model's answer was cut at its limit of tokens.");
        }
        if reasoning {
            attempt.emit.send(Body::ReasoningFinished { message_id });
        }
        Ok(answer)
    }

    /// Reads an answer of a type; where it does not fit, asks once more with what was wrong.
    async fn typed(
        &self,
        output: &Output,
        attempt: &Attempt,
        mut turns: Vec<Turn>,
        first: Answer,
        nth: u64,
    ) -> Result<Json, Failure> {
        let why = match output.read(&first.text) {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        turns.push(Turn::new(Role::Assistant, Json::String(first.text)));
        let again = format!("This answer does not fit: {why}. Answer again, with the JSON alone.");
        turns.push(Turn::new(Role::User, Json::String(again)));
        let second = self.call(attempt, &attempt.message_id(), turns, &[], nth).await?;
        output.read(&second.text).map_err(|why| {
            Failure::new(ErrorKind::Schema, format!("the model's answer does not fit its type: {why}"))
        })
    }

    /// Makes the turn of an answer that is said to the user, and the events around it.
    fn say(attempt: &Attempt, message_id: &str, answer: &Answer) -> (Json, Body) {
        let message_id = message_id.to_owned();
        if !answer.started {
            attempt.emit.send(started_event(&message_id));
            if !answer.text.is_empty() {
                let (message_id, delta) = (message_id.clone(), answer.text.clone());
                attempt.emit.send(Body::MessageDelta { message_id, delta });
            }
        }
        let turn = assistant_turn(&message_id, &answer.text);
        let (content, truncated) = (Some(answer.text.clone()), answer.truncated);
        (turn, Body::MessageFinished { message_id, content, truncated })
    }
}

/// The type of an answer.
#[derive(Debug, Clone)]
pub struct Output {
    /// The type.
    pub ty: Type,
    /// What the provider holds the answer to.
    pub schema: Arc<OutputSchema>,
    /// The answer is the field `value` of an object, because providers take objects only.
    pub wrapped: bool,
}

impl Output {
    /// Asks in words for an answer that fits, at the end of the prompt. Turns still alternate, as some models demand.
    fn ask(&self, turns: &mut Vec<Turn>) {
        let ask =
            format!("Answer with JSON alone: an object that fits this JSON Schema.\n{}", self.schema.bounded);
        match turns.last_mut().filter(|turn| turn.role == Role::User).map(|turn| &mut turn.content) {
            Some(Json::String(text)) => text.push_str(&format!("\n\n{ask}")),
            Some(Json::Array(parts)) => parts.push(part(Json::String(ask))),
            _ => turns.push(Turn::new(Role::User, Json::String(ask))),
        }
    }

    /// Reads an answer; says what is wrong with it, without its text.
    fn read(&self, text: &str) -> Result<Json, String> {
        let mut value = json_in(text).map_err(|error| format!("it is not JSON ({error})"))?;
        if self.wrapped
            && let Json::Object(fields) = &mut value
            && let Some(inner) = fields.remove("value")
        {
            value = inner;
        }
        self.take(value)
    }

    /// Takes a value that is the answer.
    fn take(&self, mut value: Json) -> Result<Json, String> {
        self.ty.check(&value).map_err(|mismatch| mismatch.to_string())?;
        self.ty.fill(&mut value);
        Ok(value)
    }
}

/// Finds the JSON of an answer: all of it, else what is within a fence, else the first object. Models like to put fences
/// and words around what they are asked for.
fn json_in(text: &str) -> Result<Json, serde_json::Error> {
    let whole = serde_json::from_str(text);
    let fenced = || text.split("```").skip(1).step_by(2).find_map(in_fence);
    let object = || text.match_indices('{').find_map(|(at, _)| first(&text[at..]));
    whole.or_else(|error| fenced().or_else(object).ok_or(error))
}

/// Reads what is within a fence, behind the name of its language.
fn in_fence(text: &str) -> Option<Json> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(text.split_once('\n')?.1).ok())
}

/// Reads a value, whatever comes behind it.
fn first(text: &str) -> Option<Json> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

#[async_trait]
impl Node for Llm {
    fn asks(&self, reading: &Reading<'_>) -> Result<Option<Json>, Failure> {
        // Without the ids of turns: the same words are the same question in every conversation.
        let turn = |turn: Turn| {
            let calls: Vec<Json> = turn.tool_calls.iter().map(ToolCall::to_json).collect();
            json!([turn.role, turn.content, calls, turn.tool_call_id])
        };
        Ok(Some(self.turns(reading.state, reading.scope)?.into_iter().map(turn).collect()))
    }

    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let mut memo = Memo::of(attempt)?;
        memo.reply = self.reply;
        if let Some(result) = memo.ended(&self.tools) {
            return Ok(self.finish(attempt, memo, result)?.into());
        }
        // The repair of an answer that does not fit is a call, too.
        let nth = 2 * memo.rounds + 1;
        let message_id = memo.message_id(attempt);
        let turns = self.asked(attempt, &memo)?;
        let again = self.output.as_ref().map(|_| turns.clone()).unwrap_or_default();
        let answer = self.call(attempt, &message_id, turns, &self.tools, nth).await?;
        if !answer.calls.is_empty() {
            if memo.rounds >= self.max_rounds {
                let message = format!("the model asks for tools more than {} times", self.max_rounds);
                return Err(Failure::new(ErrorKind::Tool, message));
            }
            let mut events = Vec::new();
            if self.reply && !answer.text.is_empty() {
                events.push(Self::say(attempt, &message_id, &answer).1);
            }
            let round =
                memo.round(&message_id, &answer.text, &answer.calls, answer.kept, &self.tools, events);
            return Ok(Outcome::More(round));
        }
        if let Some(output) = &self.output {
            let result = self.typed(output, attempt, again, answer, nth + 1).await?;
            return Ok(Done { result, ..Done::default() }.into());
        }
        let mut done = Done::default();
        if self.reply {
            let (turn, event) = Self::say(attempt, &message_id, &answer);
            done.said = memo.said();
            done.said.push(turn);
            done.events.push(event);
        }
        done.result = Json::String(answer.text);
        Ok(done.into())
    }
}

impl Llm {
    /// Takes the result of a tool as the answer.
    fn finish(&self, attempt: &Attempt, memo: Memo, result: Json) -> Result<Done, Failure> {
        let mut done = Done::default();
        if self.reply {
            let answer = Answer { text: tools::text_of(&result), ..Answer::default() };
            let (turn, event) = Self::say(attempt, &memo.message_id(attempt), &answer);
            done.said = memo.said();
            done.said.push(turn);
            done.events.push(event);
        }
        done.result = match &self.output {
            Some(output) => output.take(result).map_err(|why| {
                Failure::new(ErrorKind::Schema, format!("the tool's result does not fit the output: {why}"))
            })?,
            None => Json::String(tools::text_of(&result)),
        };
        Ok(done)
    }
}

fn started_event(message_id: &str) -> Body {
    Body::MessageStarted { message_id: message_id.to_owned(), role: "assistant".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_type_is_read_from_what_models_write() {
        let ty =
            Type::Record([("n".to_owned(), crate::state::Field::of(Type::INTEGER))].into_iter().collect());
        let schema = Arc::new(OutputSchema { name: "a".into(), schema: Json::Null, bounded: Json::Null });
        let record = Output { ty, schema: Arc::clone(&schema), wrapped: false };
        let text = Output { ty: Type::Enum(vec!["a".into(), "b".into()]), schema, wrapped: true };
        for (output, answer, expected) in [
            (&record, r#"{"n": 1}"#, Ok(json!({"n": 1}))),
            (&record, "```json\n{\"n\": 1}\n```", Ok(json!({"n": 1}))),
            (&record, "It is\n```json\n{\"n\": 1}\n```\nas {you} said {\"n\": 2}.", Ok(json!({"n": 1}))),
            (&record, r#"As {you} said: {"n": 1}, and not {"n": 2}."#, Ok(json!({"n": 1}))),
            (&text, "```\n\"a\"\n```", Ok(json!("a"))),
            (&record, r#"{"n": "1"}"#, Err("at `/n`: expected an integer, found a text")),
            (&text, r#"{"value": "a"}"#, Ok(json!("a"))),
            (&text, r#""b""#, Ok(json!("b"))),
        ] {
            assert_eq!(output.read(answer), expected.map_err(str::to_owned), "{answer}");
        }
        for nothing in ["Sure! Here it is.", "", "{", "```", "{\"n\": ", &"{".repeat(10_000)] {
            assert!(record.read(nothing).unwrap_err().starts_with("it is not JSON"), "{nothing}");
        }
    }

    #[test]
    fn a_clipped_conversation_keeps_its_newest_turns() {
        let items: Vec<Json> =
            (0..5).map(|n| json!({"role": "user", "content": format!("turn {n}")})).collect();
        let texts = |c| clip(items.clone(), c).iter().map(|m| m["content"].to_string()).collect::<Vec<_>>();
        assert_eq!(texts(Clip::All).len(), 5);
        assert_eq!(texts(Clip::Last(2)), [r#""turn 3""#, r#""turn 4""#]);
        assert_eq!(texts(Clip::Tokens(4)), [r#""turn 3""#, r#""turn 4""#]);
        assert_eq!(texts(Clip::Tokens(0)), [r#""turn 4""#]);
        let calls = json!([{"id": "a", "name": "t", "args": {"text": "x".repeat(40)}}]);
        let called = vec![
            items[0].clone(),
            json!({"role": "assistant", "content": "", "tool_calls": calls}),
            items[1].clone(),
        ];
        assert_eq!(clip(called, Clip::Tokens(10)).len(), 1, "calls are sent, too, so they count");
    }

    /// Providers answer 400 to a result without its call, for as long as the conversation is clipped there.
    #[test]
    fn a_history_that_is_clipped_within_a_round_of_tools_is_still_one_that_providers_take() {
        let calls = json!([{"id": "a", "name": "t", "args": {}}, {"id": "b", "name": "t", "args": {}}]);
        let items = vec![
            json!({"role": "user", "content": "hi"}),
            json!({"role": "assistant", "content": "", "tool_calls": calls}),
            json!({"role": "tool", "tool_call_id": "a", "content": "1"}),
            json!({"role": "tool", "tool_call_id": "b", "content": "2"}),
            json!({"role": "assistant", "content": "three"}),
            json!({"role": "user", "content": "thanks"}),
        ];
        for last in 1..=items.len() {
            let turns: Vec<Turn> = clip(items.clone(), Clip::Last(last)).iter().filter_map(turn).collect();
            let sent = tools::repaired(turns);
            for (at, turn) in sent.iter().enumerate() {
                let of = |id: &String| {
                    sent[..at].iter().any(|before| before.tool_calls.iter().any(|c| c.id == *id))
                };
                assert!(turn.tool_call_id.as_ref().is_none_or(of), "last: {last}");
                assert!(turn.role != Role::Tool || turn.tool_call_id.is_some(), "last: {last}");
            }
            let (calls, results) = sent.iter().fold((0, 0), |(calls, results), turn| {
                (calls + turn.tool_calls.len(), results + usize::from(turn.role == Role::Tool))
            });
            assert_eq!(calls, results, "last: {last}");
        }
    }
}
