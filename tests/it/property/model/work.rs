//! What nodes do.

use super::*;
use crate::property::graph::{Do, Into, Kind, More, Over, Prompt, Value};
use crate::property::{answer, heard, reply, wants};

impl World<'_> {
    pub(super) fn begin(&mut self, graph: &Graph, level: &Level, at: usize) {
        self.tasks += 1;
        self.told.begun.push((self.number, format!("{}{}", level.path, graph.nodes[at].name)));
    }

    pub(super) fn task(&mut self, graph: &Graph, level: &Level, task: &Task) -> Came {
        let (node, state) = (&graph.nodes[task.at], &level.state);
        if task.held.is_none() {
            self.begin(graph, level, task.at);
        }
        let name = &node.name;
        let put = |channel: &str, value: Json| (channel.to_owned(), value);
        let done = |puts| Came::Done(Writes { clears: Vec::new(), puts }, None);
        let path = format!("{}{name}/", level.path);
        match (&node.kind, task.held.clone()) {
            (Kind::Route, _) => done(Vec::new()),
            (Kind::Set(writes, _), _)
                if writes.iter().any(|(_, value)| *value == Value::Note)
                    && !state.cells.contains_key("note") =>
            {
                self.told.unset += 1;
                let message = String::new();
                Came::Failed(Error { node: String::new(), kind: "template".into(), groups: &[], message })
            }
            (Kind::Set(writes, clears), _) => {
                let value = |(channel, value): &(&str, Value)| {
                    put(channel, value.of(name, state, task.error.as_ref()))
                };
                let puts = writes.iter().map(value).collect();
                Came::Done(Writes { clears: clears.iter().map(|c| (*c).to_owned()).collect(), puts }, None)
            }
            (Kind::Say, _) => {
                done(vec![put("messages", json!(format!("assistant: {name} {}", state.int("sum"))))])
            }
            (Kind::Fail, _) => Came::Failed(Error {
                node: String::new(),
                kind: "failed".into(),
                groups: &[],
                message: format!("{name} {}", state.int("sum")),
            }),
            (Kind::Llm(prompt, into), held) => match self.ask(*prompt, level, name, &path, held) {
                Err(came) => came,
                Ok(text) => done(match into {
                    Into::Log => vec![put("log", json!([text]))],
                    Into::Once => vec![put("once", json!(text))],
                    Into::Last => vec![put("last", json!(text))],
                    Into::Note => vec![put("note", json!(text))],
                    Into::Length => vec![put("sum", json!(text.chars().count())), put("log", json!(text))],
                }),
            },
            (Kind::Ask, None) => Came::Still(Work::Asked(format!("{name} {}?", state.int("sum")), false)),
            (Kind::Ask, Some(Work::Asked(question, true))) => match reply(&question) {
                Some(text) => done(vec![put("log", json!(text))]),
                None => Came::Failed(Error {
                    node: String::new(),
                    kind: "dismissed".into(),
                    groups: &[],
                    message: "the question was cancelled".into(),
                }),
            },
            (Kind::Ask, Some(work)) => Came::Waits(work),
            (Kind::Graph(keeps), held) => {
                let child = match held {
                    Some(Work::Child(child)) => *child,
                    _ => {
                        let kept = level.kept.get(&task.at).filter(|_| *keeps).cloned();
                        let state_of = kept.unwrap_or_else(|| State::start(true));
                        self.level(true, state.int("sum"), path, state_of)
                    }
                };
                match self.child(child) {
                    Child::Over(state, result) => {
                        let puts = vec![put("log", json!([result["text"]])), put("sum", result["n"].clone())];
                        Came::Done(Writes { clears: Vec::new(), puts }, keeps.then_some(state))
                    }
                    Child::On(level) => Came::Still(Work::Child(level)),
                    Child::Waits(level) => Came::Waits(Work::Child(level)),
                    Child::Failed(error) => Came::Failed(error),
                }
            }
            (Kind::Map(over, body, on_error), held) => {
                let items = match held {
                    Some(Work::Items(items)) => items,
                    _ => {
                        let list = match over {
                            Over::Seen => state.list("seen"),
                            Over::Numbers => vec![json!(1), json!(2), json!(3)],
                        };
                        let each = |item: Json| match body {
                            Do::Llm(_) => Item::Done(item),
                            Do::Graph => Item::Going(Box::new(self.level(
                                true,
                                item.as_i64().unwrap(),
                                path.clone(),
                                State::start(true),
                            ))),
                        };
                        list.into_iter().map(each).collect()
                    }
                };
                self.map(state, name, *body, on_error, items)
            }
        }
    }

    /// Asks the model; or lets its calls go on, until it is asked again.
    fn ask(
        &mut self,
        prompt: Prompt,
        level: &Level,
        name: &str,
        path: &str,
        held: Option<Work>,
    ) -> Result<String, Came> {
        let state = &level.state;
        let text = prompt.of(name, state, "");
        let mut rounds = match held {
            Some(Work::Rounds(rounds)) => rounds,
            _ => Rounds::default(),
        };
        let over = |call: &Called| if let Called::Over(text) = call { Some(text.clone()) } else { None };
        if let Some(over) = rounds.calls.iter().map(over).collect::<Option<Vec<_>>>() {
            let key = (level.called, text.clone());
            if let Some(said) = self.cache.get(&key).filter(|_| prompt.more == More::Cache) {
                return Ok(said.clone());
            }
            let said = self.call(prompt, name, state, "").map_err(Came::Failed)?;
            if prompt.more == More::Cache {
                self.fresh.push((key, said.clone()));
            }
            rounds.heard.extend(over);
            let calls = if prompt.more == More::Tools { wants(&text, rounds.number) } else { Vec::new() };
            if calls.is_empty() {
                return Ok(said + &heard(&rounds.heard));
            }
            (rounds.number, rounds.calls) = (rounds.number + 1, calls.into_iter().map(Called::Due).collect());
            return Err(Came::Still(Work::Rounds(rounds)));
        }
        let mut moves = false;
        let mut calls = Vec::new();
        for call in rounds.calls {
            let child = match call {
                Called::Over(_) => {
                    calls.push(call);
                    continue;
                }
                Called::Due(k) => self.level(true, k, path.to_owned(), State::start(true)),
                Called::Going(level) => *level,
            };
            let child = self.child(child);
            moves |= !matches!(child, Child::Waits(_));
            calls.push(match child {
                Child::Waits(level) | Child::On(level) => Called::Going(level),
                Child::Over(_, result) => Called::Over(result.to_string()),
                Child::Failed(_) => Called::Over("Error".into()),
            });
        }
        let work = Work::Rounds(Rounds { calls, ..rounds });
        Err(if moves { Came::Still(work) } else { Came::Waits(work) })
    }

    /// Goes on with a called graph.
    pub(super) fn child(&mut self, mut child: Level) -> Child {
        match self.step(&mut child) {
            Stepped::Waits => Child::Waits(Box::new(child)),
            Stepped::Failed(error) => Child::Failed(error),
            Stepped::Moved if !child.tokens.is_empty() => Child::On(Box::new(child)),
            Stepped::Moved | Stepped::Over => {
                let log = child.state.list("log");
                let text: Vec<&str> = log.iter().filter_map(Json::as_str).collect();
                let result = json!({"text": text.join(" "), "n": child.state.int("sum")});
                Child::Over(child.state, result)
            }
        }
    }

    pub(super) fn map(
        &mut self,
        state: &State,
        name: &str,
        body: Do,
        on_error: &str,
        items: Vec<Item>,
    ) -> Came {
        let (mut moves, mut failed) = (items.is_empty(), None);
        let mut left = Vec::new();
        for item in items {
            let came = match (item, body) {
                (Item::Done(item), Do::Llm(prompt)) => {
                    moves = true;
                    let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                    self.call(prompt, name, state, &format!(" {text}")).map(|text| Item::Done(json!(text)))
                }
                (Item::Going(level), _) => {
                    let child = self.child(*level);
                    moves |= !matches!(child, Child::Waits(_));
                    match child {
                        Child::Waits(level) | Child::On(level) => Ok(Item::Going(level)),
                        Child::Over(_, result) => Ok(Item::Done(result)),
                        Child::Failed(error) => Err(error),
                    }
                }
                (item, _) => Ok(item),
            };
            left.push(came.unwrap_or_else(|error| match on_error {
                "skip" => Item::Skipped,
                "null" => Item::Done(Json::Null),
                _ => {
                    failed.get_or_insert(error);
                    Item::Skipped
                }
            }));
        }
        if let Some(error) = failed {
            return Came::Failed(error);
        }
        if left.iter().any(|item| matches!(item, Item::Going(_))) {
            return if moves { Came::Still(Work::Items(left)) } else { Came::Waits(Work::Items(left)) };
        }
        let done = |item| match item {
            Item::Done(value) => Some(value),
            _ => None,
        };
        let result: Vec<Json> = left.into_iter().filter_map(done).collect();
        let length = ("sum".to_owned(), json!(result.len()));
        let log = match (body, on_error) {
            (Do::Graph, _) => Some(json!([if result.len() > 1 { "all" } else { "few" }])),
            (Do::Llm(_), "null") => None,
            (Do::Llm(_), _) => Some(json!(result)),
        };
        let log = log.map(|log| ("log".to_owned(), log));
        Came::Done(Writes { clears: Vec::new(), puts: log.into_iter().chain([length]).collect() }, None)
    }

    pub(super) fn call(
        &mut self,
        prompt: Prompt,
        name: &str,
        state: &State,
        item: &str,
    ) -> Result<String, Error> {
        let text = prompt.of(name, state, item);
        let attempts = if prompt.retry && item.is_empty() { 2 } else { 1 };
        let mut last = None;
        for attempt in 1..=attempts {
            self.tasks += 1;
            self.told.calls.push(text.clone());
            match answer(&text, attempt) {
                Ok(text) => return Ok(text),
                Err((kind, groups)) => {
                    last = Some(Error {
                        node: String::new(),
                        kind: kind.to_owned(),
                        groups,
                        message: "scripted".into(),
                    });
                }
            }
        }
        Err(last.unwrap())
    }
}

impl Prompt {
    fn of(self, name: &str, state: &State, item: &str) -> String {
        format!("{name} {}{item}{}", state.int("sum"), if self.flaky { "!" } else { "" })
    }
}
