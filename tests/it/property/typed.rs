//! Random types, and expressions, prompts and replies of these types.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use graphloom::event::Usage;
use graphloom::model::{ChatModel, Chunk, ModelError, Request};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::mix;
use super::tape::Reader;

/// The bytes that one node, or what stands before them, is read from.
type Tape = [u8; 48];

/// Makes tapes of a graph.
pub(super) fn tapes() -> impl Strategy<Value = (Tape, Vec<Tape>)> {
    let tape = || proptest::collection::vec(any::<u8>(), 48).prop_map(|bytes| bytes.try_into().unwrap());
    (tape(), proptest::collection::vec(tape(), 1..=6))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ty {
    Str,
    Int,
    Num,
    Bool,
    Enum,
    List(Box<Ty>),
    Opt(Box<Ty>),
    Rec(Vec<(&'static str, Ty)>),
}

const COLOURS: [&str; 3] = ["red", "green", "blue"];

impl Ty {
    fn read(tape: &mut Reader<'_>, depth: usize) -> Self {
        match tape.pick(if depth == 0 { 6 } else { 12 }) {
            0 => Self::Str,
            1 | 2 => Self::Int,
            3 => Self::Num,
            4 => Self::Bool,
            5 => Self::Enum,
            6..=8 => Self::List(Box::new(Self::read(tape, depth - 1))),
            9 => match Self::read(tape, depth - 1) {
                Self::Opt(ty) => Self::Opt(ty),
                ty => Self::Opt(Box::new(ty)),
            },
            _ => {
                let fields = ["a", "b"].map(|name| (name, Self::read(tape, depth - 1)));
                Self::Rec(fields.into())
            }
        }
    }

    fn yaml(&self) -> String {
        match self {
            Self::Str => "string".into(),
            Self::Int => "integer".into(),
            Self::Num => "number".into(),
            Self::Bool => "boolean".into(),
            Self::Enum => "{enum: [red, green, blue]}".into(),
            Self::List(item) => format!("[{}]", item.yaml()),
            Self::Opt(ty) => match &**ty {
                Self::Enum => "{enum: [red, green, blue], optional: true}".into(),
                Self::Rec(fields) => format!("{{fields: {}, optional: true}}", record(fields)),
                ty => format!("{{type: {}, optional: true}}", ty.yaml()),
            },
            Self::Rec(fields) => record(fields),
        }
    }

    /// Makes a value of the type.
    pub(super) fn value(&self, seed: u64) -> Json {
        let hash = mix(seed, "value");
        let n = hash / 8 % 12;
        match self {
            Self::Str => {
                json!(["", "a b", "Ärger \"x\"", "7", "none", "{{ x }}", "two\nlines", "b"][n as usize % 8])
            }
            Self::Int => json!(n as i64 - 3),
            // A number may come without its fraction.
            Self::Num if hash.is_multiple_of(2) => json!(n as i64 - 3),
            Self::Num => json!(n as f64 / 2.0 - 2.0),
            Self::Bool => json!(n.is_multiple_of(2)),
            Self::Enum => json!(COLOURS[n as usize % 3]),
            Self::List(item) => (0..n % 4).map(|at| item.value(mix(hash, &at.to_string()))).collect(),
            Self::Opt(_) if n.is_multiple_of(3) => Json::Null,
            Self::Opt(ty) => ty.value(hash),
            Self::Rec(fields) => {
                fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.value(mix(hash, name)))).collect()
            }
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Self::Str | Self::Int | Self::Num | Self::Bool | Self::Enum)
    }
}

fn record(fields: &[(&str, Ty)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, ty)| format!("{name}: {}", ty.yaml())).collect();
    format!("{{{}}}", fields.join(", "))
}

/// Names that can be read, with their types.
type Env = Vec<(String, Ty)>;

/// Writes expressions.
struct Pen<'r, 't> {
    tape: &'r mut Reader<'t>,
    env: Env,
}

impl Pen<'_, '_> {
    /// A name of the type, or a field of one.
    fn path(&mut self, ty: &Ty) -> Option<String> {
        let mut all: Vec<String> = Vec::new();
        for (name, of) in &self.env {
            if of == ty {
                all.push(name.clone());
            }
            if let Ty::Rec(fields) = of {
                all.extend(
                    fields.iter().filter(|(_, of)| of == ty).map(|(field, _)| format!("{name}.{field}")),
                );
            }
        }
        (!all.is_empty()).then(|| all.swap_remove(self.tape.pick(all.len())))
    }

    fn literal(&mut self, ty: &Ty) -> String {
        match ty {
            Ty::Str => ["''", "'a'", "'b c'"][self.tape.pick(3)].into(),
            Ty::Int => (self.tape.pick(9)).to_string(),
            Ty::Num => ["1.5", "0.25", "2.0"][self.tape.pick(3)].into(),
            Ty::Bool => ["true", "false"][self.tape.pick(2)].into(),
            Ty::Enum => format!("'{}'", COLOURS[self.tape.pick(3)]),
            Ty::List(item) => {
                let (a, b) = (self.literal(item), self.literal(item));
                format!("[{a}, {b}]")
            }
            Ty::Opt(ty) if self.tape.pick(2) == 1 => self.literal(ty),
            Ty::Opt(_) => "none".into(),
            Ty::Rec(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, ty)| format!("'{name}': {}", self.literal(ty))).collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }

    /// An expression of the type; now and then one of another, which the compiler has to find.
    fn expr(&mut self, ty: &Ty, depth: usize) -> String {
        let choice = self.tape.byte();
        if choice == 255 {
            return self.expr(&Ty::Int, 0);
        }
        if depth == 0 || choice < 60 {
            let path = if choice % 4 == 0 { None } else { self.path(ty) };
            return path.unwrap_or_else(|| self.literal(ty));
        }
        let depth = depth - 1;
        if choice % 12 == 0 {
            let (when, yes, no) = (self.expr(&Ty::Bool, depth), self.expr(ty, depth), self.expr(ty, depth));
            return format!("({yes} if {when} else {no})");
        }
        if choice % 12 == 1 {
            let maybe = self.path(&Ty::Opt(Box::new(ty.clone())));
            if let Some(maybe) = maybe {
                let other = self.expr(ty, depth);
                return format!("({maybe} | default({other}))");
            }
        }
        if choice % 12 == 2 {
            let list = self.expr(&Ty::List(Box::new(ty.clone())), depth);
            let (pick, other) = (["first", "last"][self.tape.pick(2)], self.expr(ty, depth));
            return format!("({list} | {pick} | default({other}))");
        }
        match ty {
            Ty::Str => self.text(depth),
            Ty::Int | Ty::Num => self.number(ty, depth),
            Ty::Bool => self.truth(depth),
            Ty::Enum => self.path(ty).unwrap_or_else(|| self.literal(ty)),
            Ty::List(item) => self.list(item, depth),
            Ty::Opt(inner) => self.expr(inner, depth),
            Ty::Rec(_) => self.path(ty).unwrap_or_else(|| self.literal(ty)),
        }
    }

    fn any(&mut self, depth: usize) -> (Ty, String) {
        let ty = Ty::read(self.tape, 1);
        let text = self.expr(&ty, depth);
        (ty, text)
    }

    fn text(&mut self, depth: usize) -> String {
        let filters =
            ["upper", "lower", "trim", "title", "capitalize", "replace('a', 'bb')", "quoted", "urlencode"];
        match self.tape.pick(8) {
            0 => format!("({} ~ {})", self.expr(&Ty::Str, depth), self.expr(&Ty::Int, depth)),
            1 => format!("({} | {})", self.expr(&Ty::Str, depth), filters[self.tape.pick(8)]),
            2 => format!("({} | join(', '))", self.expr(&Ty::List(Box::new(Ty::Str)), depth)),
            3 => format!("({} | string)", self.expr(&Ty::Num, depth)),
            4 => format!("({} | tojson)", self.any(depth).1),
            5 => format!("({} ~ {})", self.expr(&Ty::Str, depth), self.expr(&Ty::Enum, depth)),
            6 => format!("{}[:2]", self.path(&Ty::Str).unwrap_or_else(|| "run.user_text".into())),
            _ => "run.user_text".into(),
        }
    }

    fn number(&mut self, ty: &Ty, depth: usize) -> String {
        let item = || Ty::List(Box::new(ty.clone()));
        match self.tape.pick(9) {
            n @ 0..=2 => {
                let sign = ["+", "-", "*"][n];
                format!("({} {sign} {})", self.expr(ty, depth), self.expr(ty, depth))
            }
            3 if *ty == Ty::Int => format!("({} // 3)", self.expr(ty, depth)),
            3 => format!("({} / 2)", self.expr(ty, depth)),
            4 => format!("({} % 5)", self.expr(ty, depth)),
            5 => format!("({} | abs)", self.expr(ty, depth)),
            6 => format!("({} | sum)", self.expr(&item(), depth)),
            7 => format!("([{}, {}] | max | default(1))", self.expr(ty, depth), self.expr(ty, depth)),
            _ if *ty == Ty::Num => format!("({} | round(1))", self.expr(ty, depth)),
            _ => {
                let ty = Ty::read(self.tape, 0);
                format!("({} | length)", self.expr(&Ty::List(Box::new(ty)), depth))
            }
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        let scalar = [Ty::Str, Ty::Int, Ty::Num, Ty::Bool, Ty::Enum][self.tape.pick(5)].clone();
        match self.tape.pick(10) {
            n @ 0..=1 => {
                let sign = ["==", "!="][n];
                format!("({} {sign} {})", self.expr(&scalar, depth), self.expr(&scalar, depth))
            }
            n @ 2..=3 => {
                let (ty, sign) = ([Ty::Int, Ty::Num][self.tape.pick(2)].clone(), ["<", ">="][n - 2]);
                format!("({} {sign} {})", self.expr(&ty, depth), self.expr(&ty, depth))
            }
            4 => format!("(not {})", self.expr(&Ty::Bool, depth)),
            n @ 5..=6 => {
                let word = ["and", "or"][n - 5];
                format!("({} {word} {})", self.expr(&Ty::Bool, depth), self.expr(&Ty::Bool, depth))
            }
            7 => {
                let list = self.expr(&Ty::List(Box::new(scalar.clone())), depth);
                format!("({} in {list})", self.expr(&scalar, depth))
            }
            8 => match self.path(&Ty::Opt(Box::new(scalar.clone()))) {
                Some(maybe) => format!("({maybe} is not none and {maybe} == {})", self.expr(&scalar, depth)),
                None => format!("({} is even)", self.expr(&Ty::Int, depth)),
            },
            _ => format!("({} is startingwith 'a')", self.expr(&Ty::Str, depth)),
        }
    }

    fn list(&mut self, item: &Ty, depth: usize) -> String {
        let ty = Ty::List(Box::new(item.clone()));
        match self.tape.pick(8) {
            0 => format!("[{}, {}]", self.expr(item, depth), self.expr(item, depth)),
            1 => format!("({} + {})", self.expr(&ty, depth), self.expr(&ty, depth)),
            2 => format!("{}[1:]", self.path(&ty).unwrap_or_else(|| self.literal(&ty))),
            3 => format!("({} | reverse)", self.expr(&ty, depth)),
            4 if item.is_scalar() => format!("({} | unique)", self.expr(&ty, depth)),
            5 if item.is_scalar() && *item != Ty::Bool => format!("({} | sort)", self.expr(&ty, depth)),
            6 if *item == Ty::Str => format!("({} | split(' '))", self.expr(&Ty::Str, depth)),
            6 if *item == Ty::Int => format!("range({})", self.tape.pick(4)),
            7 if *item == Ty::Str => format!("({} | map('upper'))", self.expr(&ty, depth)),
            7 if *item == Ty::Int => format!("({} | select('odd'))", self.expr(&ty, depth)),
            _ => self.path(&ty).unwrap_or_else(|| self.literal(&ty)),
        }
    }

    /// Something to print.
    fn shown(&mut self, depth: usize) -> String {
        match self.any(depth) {
            (ty, text) if ty.is_scalar() => text,
            (_, text) => format!("{text} | tojson"),
        }
    }

    fn template(&mut self) -> String {
        let mut out = String::from("Say");
        for _ in 0..=self.tape.pick(2) {
            let piece = match self.tape.pick(4) {
                0 => format!(" {{{{ {} }}}}", self.shown(2)),
                1 => {
                    let when = self.expr(&Ty::Bool, 1);
                    let (yes, no) = (self.shown(1), self.shown(1));
                    format!("{{% if {when} %}} {{{{ {yes} }}}}{{% else %}} {{{{ {no} }}}}{{% endif %}}")
                }
                2 => {
                    let item = Ty::read(self.tape, 1);
                    let list = self.expr(&Ty::List(Box::new(item.clone())), 1);
                    self.env.push(("each".into(), item));
                    let shown = self.shown(1);
                    self.env.pop();
                    format!("{{% for each in {list} %}} {{{{ {shown} }}}}{{% endfor %}}")
                }
                _ => {
                    let (ty, value) = self.any(1);
                    self.env.push(("kept".into(), ty));
                    let shown = self.shown(1);
                    self.env.pop();
                    format!("{{% set kept = {value} %}} {{{{ {shown} }}}}")
                }
            };
            out += &piece;
        }
        out + "."
    }
}

/// A graph as YAML, and the types that its models are to keep to, by node.
pub(super) fn read((head, tapes): &(Tape, Vec<Tape>)) -> (String, BTreeMap<String, Ty>) {
    let mut tape = Reader::new(head);
    let channels: Vec<(String, Ty)> = (0..4).map(|n| (format!("c{n}"), Ty::read(&mut tape, 2))).collect();
    let inputs: Vec<(String, Ty)> = (0..2).map(|n| (format!("x{n}"), Ty::read(&mut tape, 1))).collect();
    let mut out = String::from("format: 1\ninput:\n");
    let mut line = |text: String| {
        let _infallible = writeln!(out, "{text}");
    };
    let mut env: Env = Vec::new();
    for (name, ty) in &inputs {
        // Their values, but for those that may be left out, are defaults.
        let default = match ty {
            Ty::Opt(_) => String::new(),
            ty => format!(", default: {}", ty.value(head[0].into())),
        };
        line(match ty {
            Ty::Opt(_) => format!("  {name}: {}", ty.yaml()),
            Ty::Enum => format!("  {name}: {{enum: [red, green, blue]{default}}}"),
            Ty::Rec(fields) => format!("  {name}: {{fields: {}{default}}}", record(fields)),
            ty => format!("  {name}: {{type: {}{default}}}", ty.yaml()),
        });
        env.push((format!("input.{name}"), ty.clone()));
    }
    line("state:\n  messages: messages".into());
    for (n, (name, ty)) in channels.iter().enumerate() {
        let merge = if matches!(ty, Ty::List(_)) && head[40 + n] > 200 { ", merge: append" } else { "" };
        line(match ty {
            _ if merge.is_empty() => format!("  {name}: {}", ty.yaml()),
            ty => format!("  {name}: {{type: {}{merge}}}", ty.yaml()),
        });
        if matches!(ty, Ty::Opt(_)) || !merge.is_empty() {
            env.push((format!("state.{name}"), ty.clone()));
        }
    }
    line("start: n0\nnodes:".into());
    let mut types = BTreeMap::new();
    for (n, bytes) in tapes.iter().enumerate() {
        let mut tape = Reader::new(bytes);
        let (kind, to) = (tape.pick(8), tape.pick(channels.len()));
        let next = if n + 1 < tapes.len() { format!("n{}", n + 1) } else { "end".into() };
        let (channel, ty) = &channels[to];
        let mut pen = Pen { tape: &mut tape, env: env.clone() };
        let quoted = |text: &str| json!(text).to_string();
        line(format!("  n{n}:"));
        match (kind, ty) {
            (0..=3, _) => {
                types.insert(format!("n{n}"), ty.clone());
                line(format!("    kind: llm\n    text: {}", quoted(&pen.template())));
                line(format!("    output: {}\n    into: {channel}\n    next: {next}", ty.yaml()));
            }
            (4, Ty::List(item)) => {
                types.insert(format!("n{n}"), (**item).clone());
                let of = Ty::read(pen.tape, 1);
                let over = pen.expr(&Ty::List(Box::new(of.clone())), 1);
                line(format!("    kind: map\n    over: {}", quoted(&over)));
                pen.env.push(("item".into(), of));
                let text = pen.template();
                line(format!("    do: {{kind: llm, text: {}, output: {}}}", quoted(&text), item.yaml()));
                line(format!("    into: {channel}\n    next: {next}"));
            }
            (5, _) => {
                let after = if n + 2 < tapes.len() { format!("n{}", n + 2) } else { "end".into() };
                let when = pen.expr(&Ty::Bool, 3);
                line(format!(
                    "    kind: route\n    next: [{{when: {}, to: {after}}}, {{else: {next}}}]",
                    quoted(&when)
                ));
            }
            (6, _) => {
                line(format!("    kind: say\n    text: {}\n    next: {next}", quoted(&pen.template())));
            }
            _ => {
                let value = pen.expr(ty, 3);
                line(format!("    kind: set\n    set: {{{channel}: {}}}\n    next: {next}", quoted(&value)));
            }
        }
        // Whether it is set on every way is the validator's to say.
        if !env.iter().any(|(name, _)| *name == format!("state.{channel}")) {
            env.push((format!("state.{channel}"), ty.clone()));
        }
    }
    (out, types)
}

/// The model that keeps to the types.
#[derive(Debug, Default)]
pub(super) struct Keeps(pub(super) Arc<Mutex<(u64, BTreeMap<String, Ty>)>>);

#[async_trait]
impl ChatModel for Keeps {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let value = {
            let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let node = request.node.split('[').next().unwrap_or_default();
            let ty = &told.1[node];
            let value = ty.value(mix(told.0, &request.node));
            if matches!(ty, Ty::Rec(_)) { value } else { json!({"value": value}) }
        };
        let chunks =
            [Chunk::Text(value.to_string()), Chunk::Usage(Usage::default()), Chunk::End { truncated: false }];
        Ok(stream::iter(chunks.map(Ok)).boxed())
    }
}
