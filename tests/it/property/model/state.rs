//! What writes, conditions and expressions do.

use serde_json::Map;

use super::*;
use crate::property::graph::{Cond, Form, Next, Value};

impl State {
    pub(super) fn start(called: bool) -> Self {
        let mut cells: BTreeMap<String, Json> = [
            ("log", json!([])),
            ("seen", json!([])),
            ("sum", json!(0)),
            ("top", json!(0)),
            ("low", json!(0)),
            ("doc", json!({})),
            ("once", json!("none")),
            ("last", json!("none")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !called {
            cells.insert("messages".into(), json!([]));
        }
        Self { cells, once: false }
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        self.cells[name].as_i64().unwrap()
    }

    pub(super) fn list(&self, name: &str) -> Vec<Json> {
        self.cells[name].as_array().unwrap().clone()
    }

    pub(super) fn put(&mut self, name: &str, value: Json) {
        if name == "note" {
            self.cells.insert(name.to_owned(), value);
            return;
        }
        let held = self.cells.get_mut(name).unwrap();
        let items = |value: &Json| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        match name {
            "log" | "messages" => held.as_array_mut().unwrap().extend(items(&value)),
            "seen" => {
                for item in items(&value) {
                    let list = held.as_array_mut().unwrap();
                    if !list.contains(&item) {
                        list.push(item);
                    }
                }
            }
            "sum" => *held = json!(held.as_i64().unwrap() + value.as_i64().unwrap()),
            "top" => *held = json!(held.as_i64().max(value.as_i64())),
            "low" => *held = json!(held.as_i64().min(value.as_i64())),
            "doc" => {
                for (key, value) in value.as_object().unwrap() {
                    held.as_object_mut().unwrap().insert(key.clone(), value.clone());
                }
            }
            "once" if self.once => {}
            _ => {
                self.once |= name == "once";
                *held = value;
            }
        }
    }

    /// Folds what tasks wrote, in their order.
    pub(super) fn fold<'w>(&self, all: impl Iterator<Item = &'w Writes> + Clone) -> Self {
        let mut new = self.clone();
        let start = Self::start(false);
        for channel in all.clone().flat_map(|writes| &writes.clears) {
            match start.cells.get(channel) {
                Some(value) => drop(new.cells.insert(channel.clone(), value.clone())),
                None => drop(new.cells.remove(channel)),
            }
            new.once &= channel != "once";
        }
        for (channel, value) in all.flat_map(|writes| &writes.puts) {
            new.put(channel, value.clone());
        }
        new
    }
}

/// The targets that are chosen, each once.
pub(super) fn choose(next: &Next, graph: &Graph, state: &State, input: i64) -> Vec<To> {
    let form = |form: &Form| match form {
        Form::To(to) => vec![*to],
        Form::All(all) => all.clone(),
    };
    match next {
        Next::Plain(one) => form(one),
        Next::Some(arms, other) => {
            let held: Vec<To> =
                arms.iter().filter(|(when, _)| when.holds(graph, state, input)).map(|(_, to)| *to).collect();
            if held.is_empty() { form(other) } else { held }
        }
        Next::Rules(rules, other) => {
            let rule = rules.iter().find(|(when, _)| when.holds(graph, state, input));
            form(rule.map_or(other, |(_, to)| to))
        }
    }
}

impl Cond {
    pub(super) fn holds(self, graph: &Graph, state: &State, input: i64) -> bool {
        match self {
            Self::SumIs(k) => state.int("sum").rem_euclid(2) == k,
            Self::TopAbove(k) => state.int("top") > k,
            Self::Seen(k) => state.list("seen").contains(&json!(graph.nodes[k].name)),
            Self::LogLonger(k) => state.list("log").len() as i64 > k,
            Self::NoteSet => state.cells.contains_key("note"),
            Self::InputEven => input.rem_euclid(2) == 0,
        }
    }
}

impl Value {
    pub(super) fn of(self, name: &str, state: &State, error: Option<&Error>) -> Json {
        match self {
            Self::Tag => json!(name),
            Self::TagSum => json!(format!("{name} {}", state.int("sum"))),
            Self::Pair => json!([name, "x"]),
            Self::Error => {
                let error = error.unwrap();
                json!(format!("{} {} {}", error.node, error.kind, error.message))
            }
            Self::Note => json!(format!("{name} {}", state.cells["note"].as_str().unwrap())),
            Self::Number(n) => json!(n),
            Self::Sum => json!(state.int("sum")),
            Self::TopPlus => json!(state.int("top") + 1),
            Self::LogLength => json!(state.list("log").len()),
            Self::Object => {
                let mut fields = Map::new();
                fields.insert("a".into(), json!(state.int("sum")));
                fields.insert(name.to_owned(), json!(1));
                Json::Object(fields)
            }
        }
    }
}
