//! Writes cases as a test file.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use super::Case;
use super::script::{Answer, Entry};
use super::turns::{Opening, Turn};
use crate::spec::{WriteError, Yaml};

/// Tells what is to be filled in, and what no test can say; true: nothing is.
pub(super) fn gaps(cases: &[Case], name: &str, told: &mut Vec<String>) -> bool {
    let mut whole = true;
    for (nth, case) in cases.iter().enumerate() {
        for (number, turn) in case.turns.iter().enumerate() {
            let at = format!("case `{}`, turn {}", case_name(name, nth, cases.len()), number + 1);
            for (caller, entries) in &turn.script.calls {
                for entry in entries.iter().filter(|entry| entry.gap) {
                    whole = false;
                    let why = entry.note.as_deref().unwrap_or_default();
                    told.push(format!("{at}: what `{caller}` got is {why}"));
                }
            }
            for why in turn.gaps.iter().chain(&turn.script.beyond) {
                whole = false;
                told.push(format!("{at}: {why}"));
            }
        }
    }
    whole
}

fn case_name(name: &str, nth: usize, of: usize) -> String {
    if of == 1 { name.to_owned() } else { format!("{name} ({})", nth + 1) }
}

/// Writes the file.
pub(super) fn write(graph: &str, cases: &[Case], name: &str) -> Result<String, WriteError> {
    let listed = cases.iter().enumerate().map(|(nth, case)| {
        let mut texts = Vec::new();
        let turns = case.turns.iter().map(|turn| self::turn(turn, &mut texts)).collect();
        let name = json!(case_name(name, nth, cases.len()));
        let mut entries = vec![("name".to_owned(), plain(&name, &mut texts))];
        let given = given(case, &mut texts);
        if !given.is_empty() {
            entries.push(("given".to_owned(), Yaml::Map(given)));
        }
        entries.push(("turns".to_owned(), Yaml::List(turns)));
        if !texts.is_empty() {
            // What looks like a value of a table is one: the texts themselves.
            let row: Map<String, Json> =
                texts.into_iter().enumerate().map(|(n, text)| (cell(n), Json::String(text))).collect();
            entries.push(("table".to_owned(), Yaml::List(vec![Yaml::Plain(Json::Object(row))])));
        }
        Yaml::Map(entries)
    });
    let file = Yaml::Map(vec![
        ("format".to_owned(), Yaml::Plain(json!(1))),
        ("tests".to_owned(), text(graph)),
        ("cases".to_owned(), Yaml::List(listed.collect())),
    ]);
    crate::spec::write(&file)
}

fn text(text: &str) -> Yaml {
    Yaml::Plain(Json::String(text.to_owned()))
}

fn cell(n: usize) -> String {
    format!("text_{}", n + 1)
}

/// Makes a value of what is stored. A text that a table's row would fill in is taken from a row of its own.
fn plain(value: &Json, texts: &mut Vec<String>) -> Yaml {
    fn spared(value: &Json, texts: &mut Vec<String>) -> Json {
        match value {
            Json::String(text) if text.contains("{{") && text.contains("row.") => {
                let n = texts.iter().position(|known| known == text).unwrap_or_else(|| {
                    texts.push(text.clone());
                    texts.len() - 1
                });
                Json::String(format!("{{{{ row.{} }}}}", cell(n)))
            }
            Json::Array(items) => items.iter().map(|item| spared(item, texts)).collect(),
            Json::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), spared(value, texts))).collect()
            }
            other => other.clone(),
        }
    }
    Yaml::Plain(spared(value, texts))
}

fn named(values: &[(String, Json)], texts: &mut Vec<String>) -> Yaml {
    Yaml::Map(values.iter().map(|(name, value)| (name.clone(), plain(value, texts))).collect())
}

fn given(case: &Case, texts: &mut Vec<String>) -> Vec<(String, Yaml)> {
    let mut given = Vec::new();
    if !case.input.is_empty() {
        let input: Vec<(String, Json)> =
            case.input.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        given.push(("input".to_owned(), named(&input, texts)));
    }
    if !case.state.is_empty() {
        given.push(("state".to_owned(), named(&case.state, texts)));
    }
    if !case.messages.is_empty() {
        let messages = case.messages.iter().map(|message| plain(message, texts)).collect();
        given.push(("messages".to_owned(), Yaml::List(messages)));
    }
    given
}

fn turn(turn: &Turn, texts: &mut Vec<String>) -> Yaml {
    let mut entries: Vec<(String, Yaml)> = Vec::new();
    let mut put = |name: &str, value: Yaml| entries.push((name.to_owned(), value));
    match &turn.opening {
        Opening::User(Some(message)) => put("user", plain(message, texts)),
        Opening::User(None) => {}
        Opening::Answer(value) => put("answer", plain(value, texts)),
        Opening::Answers(all) => put("answers", named(all, texts)),
        Opening::Resume => put("resume", Yaml::Plain(json!(true))),
    }
    if !turn.script.calls.is_empty() {
        put("script", Yaml::Map(script(turn, texts)));
    }
    let expect = expect(turn, texts);
    if !expect.is_empty() {
        put("expect", Yaml::Map(expect));
    }
    let turn_yaml = Yaml::Map(entries);
    let beyond = turn.script.beyond.iter().map(|beyond| format!("not to be said in a test: {beyond}"));
    let notes: Vec<String> = turn.gaps.iter().cloned().chain(beyond).collect();
    if notes.is_empty() { turn_yaml } else { Yaml::Noted(notes, Box::new(turn_yaml)) }
}

fn script(turn: &Turn, texts: &mut Vec<String>) -> Vec<(String, Yaml)> {
    let calls = &turn.script.calls;
    let mut value = |entries: &[Entry]| match entries {
        [entry] => answer(entry, texts),
        entries => Yaml::List(entries.iter().map(|entry| answer(entry, texts)).collect()),
    };
    let mut script = Vec::new();
    for (caller, entries) in calls {
        match of_list(caller, calls) {
            // All items stand where the first of them does.
            Some((list, 0)) => {
                let items = (0..).map_while(|n| calls.get(&format!("{list}[{n}]")));
                let items = Yaml::List(items.map(|entries| value(entries)).collect());
                script.push((list.to_owned(), Yaml::Map(vec![("items".to_owned(), items)])));
            }
            Some(_) => {}
            None => script.push((caller.clone(), value(entries))),
        }
    }
    script
}

/// Returns the list that a caller is an item of, with its index, where the calls of its items are all that is scripted of it,
/// from the first one on without a gap.
fn of_list<'c>(caller: &'c str, calls: &IndexMap<String, Vec<Entry>>) -> Option<(&'c str, usize)> {
    let (list, index) = caller.strip_suffix(']')?.split_once('[')?;
    let index = index.parse().ok()?;
    let of = |other: &&String| other.split(['[', '/']).next() == Some(list);
    let all = calls.keys().filter(of).count();
    let whole = !list.contains('/') && (0..all).all(|n| calls.contains_key(&format!("{list}[{n}]")));
    whole.then_some((list, index))
}

fn answer(entry: &Entry, texts: &mut Vec<String>) -> Yaml {
    let mut fields: Vec<(String, Yaml)> = Vec::new();
    let mut put = |name: &str, value: &Json, texts: &mut Vec<String>| {
        fields.push((name.to_owned(), plain(value, texts)));
    };
    match &entry.answer {
        Answer::Text(said) if entry.note.is_none() => return plain(&json!(said), texts),
        Answer::Text(said) => put("text", &json!(said), texts),
        Answer::Output(value) => put("output", value, texts),
        Answer::Calls(said, calls) => {
            if !said.is_empty() {
                put("text", &json!(said), texts);
            }
            let calls: Vec<Json> = calls.iter().map(|(tool, args)| json!({ tool: args })).collect();
            put("calls", &json!(calls), texts);
        }
        Answer::Result(value) => put("result", value, texts),
        Answer::Response(status, body) => {
            if let Some(status) = status {
                put("status", status, texts);
            }
            put("json", body, texts);
        }
        Answer::Error(kind) => put("error", &json!(kind), texts),
    }
    let short = fields.iter().map(|(name, value)| match value {
        Yaml::Plain(value) => Some((name.clone(), value.clone())),
        _ => None,
    });
    match (&entry.note, short.collect::<Option<Map<String, Json>>>()) {
        (Some(note), _) => Yaml::Noted(vec![note.clone()], Box::new(Yaml::Map(fields))),
        (None, Some(fields)) => Yaml::Plain(Json::Object(fields)),
        (None, None) => Yaml::Map(fields),
    }
}

fn expect(turn: &Turn, texts: &mut Vec<String>) -> Vec<(String, Yaml)> {
    let mut expect: Vec<(String, Yaml)> = Vec::new();
    let mut put = |name: &str, value: Yaml| expect.push((name.to_owned(), value));
    if !turn.path.is_empty() {
        let step = |step: &Vec<String>| match step.as_slice() {
            [node] => json!(node),
            several => json!(several),
        };
        put("path", Yaml::Plain(turn.path.iter().map(step).collect()));
    }
    if let Some((code, message)) = &turn.error {
        put(
            "error",
            match message {
                Some(message) => plain(&json!({"code": code, "message": message}), texts),
                None => text(code),
            },
        );
    }
    if let Some(reply) = &turn.reply {
        put("reply", plain(&json!(reply), texts));
    }
    match turn.paused_at.as_slice() {
        [] => {}
        [one] => put("paused_at", text(one)),
        several => put("paused_at", Yaml::Plain(json!(several))),
    }
    if !turn.state.is_empty() {
        put("state", named(&turn.state, texts));
    }
    if !turn.output.is_empty() {
        put("output", named(&turn.output, texts));
    }
    expect
}
