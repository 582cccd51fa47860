//! Random types, and expressions, prompts and replies of these types.

mod pen;

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
use pen::Pen;

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
    /// Contains itself: see [`TREE`].
    Tree,
}

/// A type of the project that contains itself, in a list and by itself.
pub(super) const TREE: &str = "  Tree: {value: integer, children: [Tree], next: 'Tree?'}\n";

const COLOURS: [&str; 3] = ["red", "green", "blue"];

impl Ty {
    fn read(tape: &mut Reader<'_>, depth: usize) -> Self {
        match tape.pick(if depth == 0 { 6 } else { 13 }) {
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
            10 => Self::Tree,
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
            Self::Tree => "Tree".into(),
        }
    }

    /// Returns the fields of a record.
    fn fields(&self) -> Vec<(&'static str, Self)> {
        match self {
            Self::Rec(fields) => fields.clone(),
            Self::Tree => {
                let (list, next) = (Self::List(Box::new(Self::Tree)), Self::Opt(Box::new(Self::Tree)));
                vec![("value", Self::Int), ("children", list), ("next", next)]
            }
            _ => Vec::new(),
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
            // Fewer and fewer within each other, so that it ends.
            Self::Tree if !hash.is_multiple_of(3) => json!({"value": 1, "children": []}),
            Self::Rec(_) | Self::Tree => {
                let fields = self.fields().into_iter();
                fields.map(|(name, ty)| (name.to_owned(), ty.value(mix(hash, name)))).collect()
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

/// A graph as YAML, and the types that its models are to keep to, by node.
pub(super) fn read((head, nodes): &(Tape, Vec<Tape>)) -> (String, BTreeMap<String, Ty>) {
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
    for (n, bytes) in nodes.iter().enumerate() {
        let mut tape = Reader::new(bytes);
        let (kind, to) = (tape.pick(8), tape.pick(channels.len()));
        let next = if n + 1 < nodes.len() { format!("n{}", n + 1) } else { "end".into() };
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
                let after = if n + 2 < nodes.len() { format!("n{}", n + 2) } else { "end".into() };
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
            if matches!(ty, Ty::Rec(_) | Ty::Tree) { value } else { json!({"value": value}) }
        };
        let chunks =
            [Chunk::Text(value.to_string()), Chunk::Usage(Usage::default()), Chunk::End { truncated: false }];
        Ok(stream::iter(chunks.map(Ok)).boxed())
    }
}
