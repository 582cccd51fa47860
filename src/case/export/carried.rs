//! Leaves out of a case what no file carries.
//!
//! Invariant: what is left out is told, with its place, and the rest is exported.

use serde_json::Value as Json;

use super::Case;
use super::script::{Answer, Entry, FILL};
use super::turns::{Opening, Turn};
use crate::spec::MAX_DEPTH;

/// How many lists and maps of the file are around a value: of what a case is given, …
const GIVEN: usize = 5;
/// … of what opens a turn, …
const OPENING: usize = 6;
/// … of what is expected, …
const EXPECTED: usize = 7;
/// … of an answer in a script, …
const ANSWER: usize = 10;
/// … and of the arguments of a call there.
const ARGS: usize = 12;

/// Puts a mark where a value cannot be written.
pub(super) fn leave_out(case: &mut Case) {
    let mut gaps = Vec::new();
    let mut given = |what: String, value: &mut Json| {
        gaps.extend(left_out(value, MAX_DEPTH - GIVEN).map(|why| format!("{what} is left out: {why}")));
    };
    for (name, value) in &mut case.input {
        given(format!("the input `{name}` of the case"), value);
    }
    for (name, value) in &mut case.state {
        given(format!("what `{name}` held before the case"), value);
    }
    for value in &mut case.messages {
        given("a message from before the case".to_owned(), value);
    }
    case.turns.iter_mut().for_each(of_turn);
    if let Some(first) = case.turns.first_mut() {
        first.gaps.splice(0..0, gaps);
    }
}

fn of_turn(turn: &mut Turn) {
    let mut said: Vec<(&str, &mut Json)> = match &mut turn.opening {
        Opening::User(None) | Opening::Resume => Vec::new(),
        Opening::User(Some(value)) => vec![("the user", value)],
        Opening::Answer(value) => vec![("the answer", value)],
        Opening::Answers(all) => all.iter_mut().map(|(name, value)| (name.as_str(), value)).collect(),
    };
    for (name, value) in &mut said {
        let why = left_out(value, MAX_DEPTH - OPENING);
        turn.gaps.extend(why.map(|why| format!("what was said (`{name}`) is left out: {why}")));
    }
    for (name, value) in turn.state.iter_mut().chain(&mut turn.output) {
        let why = left_out(value, MAX_DEPTH - EXPECTED);
        turn.gaps.extend(why.map(|why| format!("what `{name}` was to be is left out: {why}")));
    }
    turn.script.calls.values_mut().flatten().for_each(of_entry);
}

fn of_entry(entry: &mut Entry) {
    let why = match &mut entry.answer {
        Answer::Text(_) | Answer::Error(_) => None,
        Answer::Output(value) | Answer::Result(value) | Answer::Response(_, value) => {
            left_out(value, MAX_DEPTH - ANSWER)
        }
        Answer::Calls(_, calls) => {
            calls.iter_mut().filter_map(|(_, args)| left_out(args, MAX_DEPTH - ARGS)).last()
        }
    };
    if let Some(why) = why {
        entry.note = Some(format!("left out: {why}"));
        entry.gap = true;
    }
}

/// Replaces what cannot be written of a value that may be so deep, and says why.
fn left_out(value: &mut Json, depth: usize) -> Option<&'static str> {
    let why = match value {
        Json::Number(number) if number.as_i64().is_none() && number.is_u64() => {
            "a whole number above 9223372036854775807 is in it, which no file carries"
        }
        Json::Array(_) | Json::Object(_) if depth == 0 => "it is nested deeper than a file may be",
        Json::Array(items) => return items.iter_mut().filter_map(|item| left_out(item, depth - 1)).last(),
        Json::Object(fields) => {
            return fields.values_mut().filter_map(|field| left_out(field, depth - 1)).last();
        }
        _ => return None,
    };
    *value = Json::String(FILL.to_owned());
    Some(why)
}
