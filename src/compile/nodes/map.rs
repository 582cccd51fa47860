//! `map`: the same for each item of a list.

use super::{Body, EachDraft, Gives, Scene, Step};
use crate::compile::names::Names;
use crate::compile::prompts::Prompts;
use crate::diagnostic::{Bag, Diagnostic, Spanned};
use crate::expr::{ExprTree, Facts};
use crate::plan::ItemError;
use crate::spec::{KindSpec, MapSpec};
use crate::state::Type;

/// Names that are something else at the root of an expression.
const ROOTS: [&str; 8] = ["state", "input", "run", "index", "result", "error", "args", "env"];

impl Scene<'_> {
    pub(super) fn map(
        &mut self,
        step: &Step<'_>,
        map: &MapSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let over = map.over.as_ref().and_then(|over| self.names.tree(over, bag));
        let item = match (&map.over, &over) {
            (Some(written), Some(over)) => {
                let typed = self.names.type_of_tree(over, &Facts::default());
                match typed.items() {
                    // The turns of a conversation may be of any shape here.
                    Some(_) if matches!(typed.ty.non_null(), Type::Messages) => Some(Type::Any),
                    Some(item) if !typed.null => Some(item),
                    _ if bag.is_trusting() => Some(Type::Any),
                    _ => {
                        let label = format!("this is {typed}");
                        let finding =
                            Diagnostic::error("S413", "`over` is not a list", written.span(), label);
                        let declared = typed.path.as_deref().and_then(|path| self.names.declared(path));
                        let finding = match declared {
                            Some(at) => finding.related(at, "declared here"),
                            None => finding,
                        };
                        let help = match (over, typed.ty.non_null()) {
                            (ExprTree::Expr(over), Type::String { .. }) => Some(format!(
                                "take the text apart:  over: {} | split(',')",
                                over.source().trim()
                            )),
                            _ => None,
                        };
                        bag.report(finding.help_maybe(help));
                        None
                    }
                }
            }
            _ => None,
        };
        let is_free = map.name.as_ref().is_none_or(|name| check_name(name, bag));
        let name = map.name.as_ref().map_or("item", |name| name.value.as_str());
        let names = self.names.clone().with(name, item.clone().unwrap_or(Type::Any));
        let names = names.with("index", Type::NATURAL);
        let Some(body) = &map.body else { return (None, Gives::unknown()) };
        let inner = Step {
            name: step.name,
            kind: &body.kind,
            retry: body.retry.as_ref(),
            timeout: body.timeout,
            effects: body.effects.as_ref(),
            cache: body.cache.as_ref(),
            taken: step.taken,
            item: true,
            partial: step.partial,
            channel: None,
        };
        let (job, gives) = self.inside(&names, |scene, bag| scene.job(&inner, &body.body, prompts, bag), bag);
        let quiet = self.one_speaks(map, body.kind.span, &body.body, bag);
        let on_error = match map.on_item_error.as_ref().map(|word| word.value) {
            Some("skip") => ItemError::Skip,
            Some("null") => ItemError::Null,
            _ => ItemError::Fail,
        };
        let one = match on_error {
            ItemError::Null if !gives.taken.is_nullable() => Type::Nullable(Box::new(gives.taken)),
            _ => gives.taken,
        };
        let draft = || {
            item.as_ref().filter(|_| is_free && quiet)?;
            Some(EachDraft {
                over: over?,
                name: name.to_owned(),
                job: job?,
                at_once: map.max_parallel.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
                on_error,
            })
        };
        let body = draft().map(|each| Body::Map(Box::new(each)));
        (body, Gives::of(Type::List(Box::new(one)), "the list"))
    }

    /// Does something with other names.
    fn inside<T>(
        &mut self,
        names: &Names,
        work: impl FnOnce(&mut Scene<'_>, &mut Bag) -> T,
        bag: &mut Bag,
    ) -> T {
        let mut scene = Scene {
            graph: self.graph,
            limits: self.limits,
            shared: self.shared,
            edges: self.edges,
            names,
            handlers: self.handlers,
            on_error: self.on_error,
            channels: self.channels,
            broken_channels: self.broken_channels,
            input: self.input,
            messages: self.messages,
            silent: self.silent.clone(),
            sketches: Vec::new(),
            used: std::mem::take(&mut self.used),
        };
        let done = work(&mut scene, bag);
        let (silent, used) = (scene.silent.get(), scene.used);
        self.silent.set(silent);
        self.used = used;
        done
    }

    /// Reports items that would speak word by word at once; false when they do.
    fn one_speaks(&self, map: &MapSpec, at: crate::diagnostic::Span, body: &KindSpec, bag: &mut Bag) -> bool {
        if map.max_parallel == Some(1) {
            return true;
        }
        let speaks = match body {
            KindSpec::Llm(llm) => llm.reply.as_ref().filter(|reply| reply.value).map(|reply| reply.span),
            KindSpec::Graph(node) => {
                let head = node.graph.as_ref().and_then(|name| self.shared.heads.get(&name.value));
                head.filter(|head| head.speech.streams).map(|_| at)
            }
            _ => None,
        };
        let Some(span) = speaks else { return true };
        let message = "items can reply at the same time";
        let finding = Diagnostic::error("G213", message, span, "their words would mix");
        bag.report(finding.help("write  max_parallel: 1 , or let a node reply after the list"));
        false
    }
}

/// Checks the name of an item; false when it is something else already.
fn check_name(name: &Spanned<String>, bag: &mut Bag) -> bool {
    let identifier = name.value.starts_with(|c: char| c.is_ascii_lowercase())
        && name.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !identifier {
        let message = format!("`{}` cannot be the name of an item", name.value);
        let finding = Diagnostic::error("G106", message, name.span, "a name is a-z, then a-z, 0-9 or _");
        bag.report(finding.help("write it like `question`"));
        return false;
    }
    if !ROOTS.contains(&name.value.as_str()) {
        return true;
    }
    let message = format!("`{}` is the name of something else", name.value);
    let finding = Diagnostic::error("S413", message, name.span, "would hide it in the body");
    bag.report(finding.help("choose another name, or leave `as` out: then it is `item`"));
    false
}

/// Returns the names of an item's place and of itself, with their types, when the list is known.
pub(in crate::compile) fn locals(map: &MapSpec, names: &Names) -> Vec<(String, Type)> {
    let typed = map.over.as_ref().map(|over| names.type_of_spec(over, &Facts::default()));
    let item =
        typed.filter(|typed| !matches!(typed.ty.non_null(), Type::Messages)).and_then(|typed| typed.items());
    let item = item.unwrap_or(Type::Any);
    let name = map.name.as_ref().map_or("item", |name| name.value.as_str());
    vec![(name.to_owned(), item), ("index".to_owned(), Type::NATURAL)]
}
