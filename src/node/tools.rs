//! The rounds of an `llm` node that calls tools: what it keeps between them, and what the model is told.
//!
//! Invariant: every call of a model has one result, and no result is without its call: providers refuse anything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::{Attempt, ErrorKind, Failure, Round, Wanted};
use crate::event::Body;
use crate::model::{Role, ToolCall, ToolSpec, Turn};
use crate::state::Type;

/// What a model is told of a call whose end nobody knows.
const UNKNOWN: &str = "The call was cancelled; whether it had an effect is not known.";

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
            let content = match &answered.result {
                Ok(result) => text_of(result),
                Err(why) => format!("Error: {why}"),
            };
            let id = format!("t_{}_{}_{}", attempt.task, memo.rounds, memo.results.len());
            memo.turns
                .push(json!({"id": id, "role": "tool", "tool_call_id": answered.id, "content": content}));
            memo.results.push((answered.tool.clone(), answered.result.clone().ok()));
        }
        Ok(memo)
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
        let memo = json!({"rounds": self.rounds, "turns": self.turns});
        Round { memo, calls: wanted, events }
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
