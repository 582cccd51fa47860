//! The rounds of an `llm` node that calls tools: what it keeps between them, and what the model is told.
//!
//! Invariant: every call of a model has one result, and no result is without its call: providers refuse anything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::{Attempt, ErrorKind, Failure, Round, Wanted};
use crate::event::Body;
use crate::id::TaskId;
use crate::model::{Role, ToolCall, ToolSpec, Turn};
use crate::state::Type;

/// What a model is told of a call whose end nobody knows.
const UNKNOWN: &str = "The call was cancelled; whether it had an effect is not known.";
/// What it is told of one that a person was still asked about.
const UNMADE: &str = "The call was not made: nobody allowed it.";

/// A tool that a model may call.
#[derive(Debug, Clone)]
pub struct Offered {
    /// What the model is told of it.
    pub spec: ToolSpec,
    /// The type of its arguments.
    pub args: Type,
    /// Its result is the answer.
    pub is_final: bool,
}

/// What the node keeps between its rounds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Memo {
    /// The rounds so far.
    pub(super) rounds: u64,
    /// What was said in them, as turns of a conversation.
    pub(super) turns: Vec<Json>,
    /// They are of the user's conversation.
    #[serde(default)]
    pub(super) reply: bool,
    /// What came of the calls of the last one, in order: the tool, and its result.
    #[serde(skip)]
    results: Vec<(String, Option<Json>)>,
}

impl Memo {
    /// Takes up what an earlier round left, with the results of its calls.
    pub(super) fn of(attempt: &Attempt) -> Result<Self, Failure> {
        let Some(back) = &attempt.back else { return Ok(Self::default()) };
        let mut memo: Self = serde_json::from_value(back.memo.clone())
            .map_err(|_| Failure::new(ErrorKind::Failed, "what the node left for itself cannot be read"))?;
        for answered in &back.answers {
            memo.answer(&attempt.task, &answered.id, &content(answered.edited.as_deref(), &answered.result));
            memo.results.push((answered.tool.clone(), answered.result.clone().ok()));
        }
        Ok(memo)
    }

    /// Adds what a call came to.
    fn answer(&mut self, task: &TaskId, call: &str, content: &str) {
        let nth = self.turns.iter().rev().take_while(|turn| turn["role"] == "tool").count();
        let id = format!("t_{task}_{}_{nth}", self.rounds);
        self.turns.push(json!({"id": id, "role": "tool", "tool_call_id": call, "content": content}));
    }

    /// Returns the id of the message of this round.
    pub(super) fn message_id(&self, attempt: &Attempt) -> String {
        match self.rounds {
            0 => attempt.message_id(),
            rounds => format!("{}_{rounds}", attempt.message_id()),
        }
    }

    /// Returns the result that is the answer: that of the first final tool.
    pub(super) fn ended(&self, tools: &[Offered]) -> Option<Json> {
        let is_final = |name: &str| tools.iter().any(|tool| tool.is_final && tool.spec.name == name);
        self.results.iter().find(|(tool, _)| is_final(tool)).and_then(|(_, result)| result.clone())
    }

    /// Returns the turns for the conversation. What a provider wanted back ends with the rounds: it may hold thoughts.
    pub(super) fn said(mut self) -> Vec<Json> {
        for turn in self.turns.iter_mut().filter_map(Json::as_object_mut) {
            turn.shift_remove("kept");
        }
        self.turns
    }

    /// Makes the next round of the calls that the model wants.
    pub(super) fn round(
        &mut self,
        message_id: &str,
        text: &str,
        calls: &[ToolCall],
        kept: Option<Json>,
        tools: &[Offered],
        mut events: Vec<Body>,
    ) -> Round {
        self.rounds += 1;
        let shown: Vec<Json> = calls.iter().map(ToolCall::to_json).collect();
        let mut turn = json!({"id": message_id, "role": "assistant", "content": text, "tool_calls": shown});
        if let Some(kept) = kept {
            turn["kept"] = kept;
        }
        self.turns.push(turn);
        let mut wanted = Vec::with_capacity(calls.len());
        for call in calls {
            let args = checked(call, tools);
            if let Err(why) = &args {
                events.push(Body::ToolFinished {
                    call_id: call.id.clone(),
                    tool: call.name.clone(),
                    result: None,
                    error: Some(why.clone()),
                });
            }
            wanted.push(Wanted { id: call.id.clone(), tool: call.name.clone(), args });
        }
        let memo = json!({"rounds": self.rounds, "turns": self.turns, "reply": self.reply});
        Round { memo, calls: wanted, events }
    }
}

/// How far a call is of which its node takes no result any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Left<'a> {
    /// It gave this, or failed; before it, the arguments that a person gave it.
    Settled(Option<&'a Json>, &'a Result<Json, String>),
    /// It may have been made.
    Begun,
    /// A person was asked first, and said nothing.
    Asked,
}

/// Returns what a task that goes on no more has said and done so far, as turns of the conversation that it speaks in. What it
/// did outside stays done, and who speaks there next has to know it.
pub fn left_behind<'a>(
    task: &TaskId,
    memo: &Json,
    calls: impl IntoIterator<Item = (&'a str, Left<'a>)>,
) -> Vec<Json> {
    let Ok(mut memo) = serde_json::from_value::<Memo>(memo.clone()) else { return Vec::new() };
    if !memo.reply {
        return Vec::new();
    }
    for (call, left) in calls {
        let content = match left {
            Left::Settled(edited, result) => content(edited, result),
            Left::Begun => UNKNOWN.to_owned(),
            Left::Asked => UNMADE.to_owned(),
        };
        memo.answer(task, call, &content);
    }
    memo.said()
}

/// Returns what a model is told of what a call came to.
fn content(edited: Option<&Json>, result: &Result<Json, String>) -> String {
    let result = match result {
        Ok(result) => text_of(result),
        Err(why) => format!("Error: {why}"),
    };
    match edited {
        Some(args) => format!("A person changed the arguments to {args}.\n{result}"),
        None => result,
    }
}

/// Reads the arguments of a call; else says what the model did wrong.
fn checked(call: &ToolCall, tools: &[Offered]) -> Result<Json, String> {
    let Some(tool) = tools.iter().find(|tool| tool.spec.name == call.name) else {
        let names: Vec<&str> = tools.iter().map(|tool| tool.spec.name.as_str()).collect();
        return Err(format!("there is no tool `{}`; there are: {}", call.name, names.join(", ")));
    };
    let mut args = Json::Object(call.args()?);
    tool.args.check(&args).map_err(|why| format!("the arguments do not fit: {why}"))?;
    tool.args.fill(&mut args);
    Ok(args)
}

/// Returns a value as a text for a model.
pub(super) fn text_of(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Gives every call of a conversation its result, right behind it, and leaves out results without a call. A run that was
/// stopped, or a conversation that was cut, leaves such behind.
pub(super) fn repaired(turns: Vec<Turn>) -> Vec<Turn> {
    if turns.iter().all(|turn| turn.tool_calls.is_empty() && turn.role != Role::Tool) {
        return turns;
    }
    let mut results: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    let mut rest = Vec::with_capacity(turns.len());
    for turn in turns {
        match &turn.tool_call_id {
            Some(id) if turn.role == Role::Tool => results.entry(id.clone()).or_default().push(turn),
            _ if turn.role == Role::Tool => {}
            _ => rest.push(turn),
        }
    }
    let mut repaired = Vec::with_capacity(rest.len());
    for turn in rest {
        let ids: Vec<String> = turn.tool_calls.iter().map(|call| call.id.clone()).collect();
        repaired.push(turn);
        for id in ids {
            // Ids may come again in a later turn: the oldest result is that of the oldest call.
            let found = results.get_mut(&id).filter(|all| !all.is_empty()).map(|all| all.remove(0));
            repaired.push(found.unwrap_or_else(|| Turn::result(id, Json::String(UNKNOWN.to_owned()))));
        }
    }
    repaired
}

/// Returns the JSON Schema of a tool's arguments.
pub fn parameters(args: &Type) -> Json {
    match args.json_schema() {
        Json::Object(schema) => Json::Object(schema),
        _ => Json::Object(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_with_open_calls_is_repaired() {
        let call = |id: &str| ToolCall { id: id.into(), name: "t".into(), arguments: "{}".into() };
        let user = || Turn::new(Role::User, "hi".into());
        let calls = |ids: &[&str]| Turn::calls("".into(), ids.iter().map(|id| call(id)).collect());
        let result = |id: &str, text: &str| Turn::result(id, text.into());
        for (what, turns, expected) in [
            ("nothing to do", vec![user()], vec![user()]),
            (
                "whole",
                vec![calls(&["a", "b"]), result("b", "2"), result("a", "1")],
                vec![calls(&["a", "b"]), result("a", "1"), result("b", "2")],
            ),
            ("open", vec![calls(&["a"]), user()], vec![calls(&["a"]), result("a", UNKNOWN), user()]),
            ("orphan", vec![result("a", "1"), user()], vec![user()]),
            (
                "an id twice",
                vec![calls(&["a"]), result("a", "1"), calls(&["a"]), result("a", "2")],
                vec![calls(&["a"]), result("a", "1"), calls(&["a"]), result("a", "2")],
            ),
        ] {
            assert_eq!(repaired(turns), expected, "{what}");
        }
    }

    #[test]
    fn what_a_task_leaves_behind_has_a_result_for_each_call() {
        let task = TaskId("task".into());
        let calls: Vec<Json> =
            ["a", "b", "c", "d"].map(|id| json!({"id": id, "name": "t", "args": {}})).into();
        let said =
            json!({"id": "m", "role": "assistant", "content": "I buy.", "tool_calls": calls, "kept": 1});
        let (ok, bad) = (Ok(json!({"n": 1})), Err("sold out".to_owned()));
        let (args, left) =
            (json!({"n": 2}), |reply: bool| json!({"rounds": 1, "turns": [said], "reply": reply}));
        let all = || {
            [
                ("a", Left::Settled(None, &ok)),
                ("b", Left::Settled(Some(&args), &bad)),
                ("c", Left::Begun),
                ("d", Left::Asked),
            ]
        };
        assert!(left_behind(&task, &left(false), all()).is_empty(), "it did not speak to the user");
        let turns = left_behind(&task, &left(true), all());
        assert_eq!((turns[0]["content"].as_str(), turns[0].get("kept")), (Some("I buy."), None));
        let texts: Vec<&str> = turns[1..].iter().map(|turn| turn["content"].as_str().unwrap()).collect();
        let edited = "A person changed the arguments to {\"n\":2}.\nError: sold out";
        assert_eq!(texts, ["{\"n\":1}", edited, UNKNOWN, UNMADE]);
        let ids: Vec<String> = turns[1..].iter().map(|turn| turn["id"].to_string()).collect();
        assert_eq!(ids[3], "\"t_task_1_3\"");
    }

    #[test]
    fn a_call_that_makes_no_sense_is_answered_and_never_made() {
        let field = crate::state::Field::of(Type::INTEGER);
        let spec = ToolSpec { name: "add".into(), description: String::new(), parameters: Json::Null };
        let args = Type::Record([("n".to_owned(), field)].into_iter().collect());
        let tools = [Offered { spec, args, is_final: false }];
        let call = |name: &str, arguments: &str| ToolCall {
            id: "c".into(),
            name: name.into(),
            arguments: arguments.into(),
        };
        assert_eq!(checked(&call("add", r#"{"n": 1}"#), &tools), Ok(json!({"n": 1})));
        for (name, arguments, why) in [
            ("sub", "{}", "there is no tool `sub`; there are: add"),
            ("add", "{", "the arguments are not JSON (line 1 column 1)"),
            ("add", "[]", "the arguments are no JSON object"),
            ("add", r#"{"n": "x"}"#, "the arguments do not fit: at `/n`: expected an integer, found a text"),
        ] {
            assert_eq!(checked(&call(name, arguments), &tools), Err(why.to_owned()), "{name} {arguments}");
        }
    }
}
