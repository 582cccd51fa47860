//! Writes graphs as YAML.

use std::fmt::Write as _;

use super::graph::{Cond, Do, Form, Graph, Into, Kind, More, Next, Node, Over, Program, Prompt, To, Value};

impl Program {
    /// The files of the project.
    pub(super) fn files(&self) -> Vec<(&'static str, String)> {
        let mut project = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n\
                           retries: {twice: {attempts: 2, first: 1ms, for: [any]}}\n"
            .to_owned();
        let tools = |node: &Node| matches!(node.kind, Kind::Llm(Prompt { more: More::Tools, .. }, _));
        if self.root.nodes.iter().any(tools) {
            project += "tools: {look: {graph: child, description: Looks., args: {k: integer}}}\n";
        }
        let mut files = vec![("project.yaml", project), ("root.yaml", self.root.yaml())];
        if self.calls() {
            files.push(("child.yaml", self.child.yaml()));
        }
        files
    }

    fn calls(&self) -> bool {
        let calls = |node: &Node| match node.kind {
            Kind::Llm(prompt, _) => prompt.more == More::Tools,
            Kind::Graph(_) | Kind::Map(_, Do::Graph, _) => true,
            _ => false,
        };
        self.root.nodes.iter().any(calls)
    }

    /// Whether a node keeps what the model says.
    pub(super) fn keeps(&self) -> bool {
        let keeps = |node: &Node| matches!(node.kind, Kind::Llm(Prompt { more: More::Cache, .. }, _));
        self.root.nodes.iter().chain(&self.child.nodes).any(keeps)
    }

    /// The files as one text, for people.
    pub(super) fn text(&self) -> String {
        self.files().iter().map(|(name, text)| format!("--- {name}\n{text}")).collect()
    }
}

impl Cond {
    fn yaml(self, graph: &Graph) -> String {
        match self {
            Self::SumIs(k) => format!("state.sum % 2 == {k}"),
            Self::TopAbove(k) => format!("state.top > {k}"),
            Self::Seen(k) => format!("'{}' in state.seen", graph.nodes[k].name),
            Self::LogLonger(k) => format!("(state.log | length) > {k}"),
            Self::NoteSet => "state.note is defined".into(),
            Self::InputEven => "input.k % 2 == 0".into(),
        }
    }
}

impl Value {
    fn yaml(self, name: &str) -> String {
        match self {
            Self::Tag => format!("\"'{name}'\""),
            Self::TagSum => format!("\"'{name} ' ~ state.sum\""),
            Self::Pair => format!("[\"'{name}'\", \"'x'\"]"),
            Self::Error => "\"error.node ~ ' ' ~ error.kind ~ ' ' ~ error.message\"".into(),
            Self::Note => format!("\"'{name} ' ~ state.note\""),
            Self::Number(n) => n.to_string(),
            Self::Sum => "state.sum".into(),
            Self::TopPlus => "state.top + 1".into(),
            Self::LogLength => "state.log | length".into(),
            Self::Object => format!("{{a: state.sum, {name}: 1}}"),
        }
    }
}

impl Graph {
    fn name(&self, to: To) -> &str {
        to.map_or("end", |to| &self.nodes[to].name)
    }

    fn form(&self, form: &Form) -> String {
        match form {
            Form::To(to) => self.name(*to).to_owned(),
            Form::All(all) => {
                format!("{{all: [{}]}}", all.iter().map(|to| self.name(*to)).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn next(&self, next: &Next) -> String {
        match next {
            Next::Plain(form) => self.form(form),
            Next::Some(arms, other) => {
                let arm = |(when, to): &(Cond, To)| {
                    format!("{{when: \"{}\", to: {}}}", when.yaml(self), self.name(*to))
                };
                let arms = arms.iter().map(arm).collect::<Vec<_>>().join(", ");
                format!("{{some: [{arms}], else: {}}}", self.form(other))
            }
            Next::Rules(rules, other) => {
                let rule = |(when, to): &(Cond, Form)| {
                    format!("{{when: \"{}\", to: {}}}", when.yaml(self), self.form(to))
                };
                let rules = rules.iter().map(rule).collect::<Vec<_>>().join(", ");
                format!("[{rules}, {{else: {}}}]", self.form(other))
            }
        }
    }

    pub(super) fn yaml(&self) -> String {
        let mut out = String::from("format: 1\ninput: {k: {type: integer, default: 1}}\nstate:\n");
        if !self.called {
            out += "  messages: messages\n";
        }
        out += "  log: {type: [string], merge: append}\n  seen: {type: [string], merge: union}\n  \
                sum: {type: integer, merge: add}\n  top: {type: integer, merge: max, default: 0}\n  \
                low: {type: integer, merge: min, default: 0}\n  doc: {type: object, merge: merge}\n  \
                once: {type: string, merge: first, default: none}\n  last: {type: string, default: none}\n  note: string\n";
        if self.called {
            out += "output: {text: \"state.log | join(' ')\", n: state.sum}\n";
        }
        out += "limits: {steps: 400}\n";
        let _infallible = writeln!(out, "start: {}", self.next(&self.start));
        if let Some(handler) = self.on_error {
            let _infallible = writeln!(out, "on_error: {}", self.nodes[handler].name);
        }
        out += "nodes:\n";
        for node in &self.nodes {
            let _infallible = writeln!(out, "  {}:", node.name);
            for line in self.keys(node) {
                let _infallible = writeln!(out, "    {line}");
            }
        }
        out
    }

    fn keys(&self, node: &Node) -> Vec<String> {
        let name = &node.name;
        let mut keys = match &node.kind {
            Kind::Route => vec!["kind: route".into()],
            Kind::Set(writes, clears) => {
                let entries =
                    writes.iter().map(|(channel, value)| format!("{channel}: {}", value.yaml(name)));
                let mut keys =
                    vec!["kind: set".into(), format!("set: {{{}}}", entries.collect::<Vec<_>>().join(", "))];
                keys.extend(clears.map(|channel| format!("clear: [{channel}]")));
                keys
            }
            Kind::Llm(prompt, into) => {
                let into = match into {
                    Into::Log => "{log: \"[result]\"}",
                    Into::Once => "once",
                    Into::Last => "last",
                    Into::Note => "note",
                    Into::Length => "{sum: \"result | length\", log: result}",
                };
                let mut keys = vec![
                    "kind: llm".into(),
                    format!("text: \"{}\"", prompt.text(name, "")),
                    format!("into: {into}"),
                ];
                keys.extend(prompt.retry.then(|| "retry: twice".into()));
                match prompt.more {
                    More::Nothing => {}
                    More::Cache => keys.push("cache: {ttl: 1h}".into()),
                    More::Tools => keys.push("tools: [look]".into()),
                }
                keys
            }
            Kind::Say => vec!["kind: say".into(), format!("text: \"{name} {{{{ state.sum }}}}\"")],
            Kind::Ask => vec![
                "kind: ask".into(),
                "who: agent".into(),
                format!("question: \"{name} {{{{ state.sum }}}}?\""),
                "into: {log: result}".into(),
            ],
            Kind::Map(over, body, on_error) => {
                let over = match over {
                    Over::Seen => "state.seen",
                    Over::Numbers => "[1, 2, 3]",
                };
                let (body, into, retry) = match body {
                    Do::Llm(prompt) => {
                        let text = prompt.text(name, " {{ item }}");
                        let into = if *on_error == "null" {
                            "{sum: \"result | length\"}"
                        } else {
                            "{log: result, sum: \"result | length\"}"
                        };
                        (format!("{{kind: llm, text: \"{text}\"}}"), into, prompt.retry)
                    }
                    Do::Graph => (
                        "{kind: graph, use: child, with: {k: item}}".into(),
                        "{log: \"['all'] if result | length > 1 else ['few']\", sum: \"result | length\"}",
                        false,
                    ),
                };
                let _ = retry;
                vec![
                    "kind: map".into(),
                    format!("over: \"{over}\""),
                    format!("do: {body}"),
                    format!("on_item_error: \"{on_error}\""),
                    format!("into: {into}"),
                ]
            }
            Kind::Graph(kept) => vec![
                "kind: graph".into(),
                "use: child".into(),
                "with: {k: state.sum}".into(),
                format!("scope: {}", if *kept { "thread" } else { "call" }),
                "into: {log: \"[result.text]\", sum: result.n}".into(),
            ],
            Kind::Fail => vec![
                "kind: fail".into(),
                format!("error: \"{name} {{{{ state.sum }}}}\""),
                "code: boom".into(),
            ],
        };
        if !matches!(node.kind, Kind::Fail) {
            keys.push(format!("next: {}", self.next(&node.next)));
        }
        if node.each {
            keys.push("join: each".into());
        }
        if let Some((most, to)) = node.bound {
            keys.push(format!("max_visits: {most}"));
            keys.push(format!("on_max: {}", self.name(to)));
        }
        let rule = |(kind, to): &(Option<&str>, To)| match kind {
            Some(kind) => format!("{{catch: [{kind}], to: {}}}", self.name(*to)),
            None => format!("{{else: {}}}", self.name(*to)),
        };
        match node.catches.as_slice() {
            [] => {}
            [(None, to)] => keys.push(format!("on_error: {}", self.name(*to))),
            rules => {
                keys.push(format!("on_error: [{}]", rules.iter().map(rule).collect::<Vec<_>>().join(", ")));
            }
        }
        keys
    }
}

impl Prompt {
    fn text(self, name: &str, item: &str) -> String {
        format!("{name} {{{{ state.sum }}}}{item}{}", if self.flaky { "!" } else { "" })
    }
}
