//! Nodes that call tools, addresses, graphs, and what a host program has registered.

use indexmap::IndexMap;

use super::misfit::misfit;
use super::{Body, Gives, Scene, Step};
use crate::compile::custom::{self, Found};
use crate::compile::names::Names;
use crate::compile::prompts::Prompts;
use crate::compile::request::{self, Surroundings};
use crate::compile::tools::find_graph;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, UNTAKEN, did_you_mean};
use crate::expr::{ExprTree, Facts, Typed};
use crate::node::Custom;
use crate::spec::{CustomSpec, ExprSpec, GraphNodeSpec, HttpSpec, ToolNodeSpec};
use crate::state::{Field, Type};
use crate::tool::http::Waits;

/// What values are given to.
struct Callee<'c> {
    code: &'static str,
    /// ``tool `search` ``.
    what: String,
    /// `argument` or `input`.
    noun: &'static str,
    fields: &'c IndexMap<String, Field>,
    /// Where it is named.
    at: Span,
    /// What it reads itself, where that is a graph.
    names: Option<&'c Names>,
}

impl Scene<'_> {
    pub(super) fn tool_node(
        &self,
        step: &Step<'_>,
        node: &ToolNodeSpec,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let Some(name) = &node.tool else {
            self.values(&node.with, bag);
            return (None, Gives::unknown());
        };
        self.shared.used_tools.borrow_mut().insert(name.value.clone());
        let Some(tool) = self.shared.tools.find(name, self.shared.project.unsure, bag) else {
            self.values(&node.with, bag);
            return (None, Gives::unknown());
        };
        let what = format!("tool `{}`", name.value);
        let callee =
            Callee { code: "M507", what, noun: "argument", fields: &tool.args, at: name.span, names: None };
        let with = if tool.open {
            self.values(&node.with, bag)
        } else {
            self.with(&callee, &node.with, step.partial, |arg| tool.declared(arg), bag)
        };
        let gives = Gives::of(tool.result.clone(), format!("the result of `{}`", name.value));
        (with.map(|with| Body::Tool { tool: name.value.clone(), with }), gives)
    }

    pub(super) fn http(
        &mut self,
        step: &Step<'_>,
        http: &HttpSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let response = match &http.response {
            None => Some(Type::Any),
            Some(spec) => self.shared.types.field(spec, bag).map(|field| field.ty),
        };
        let outside = self.shared.outside;
        let names = self.names.clone().with_settings(outside.settings(), &self.shared.project.broken_env);
        let place = self.place(step);
        let typed = http.response.as_ref().map(crate::spec::TypeSpec::span);
        let around =
            Surroundings { place: &place, names: &names, outside, typed, alone: false, of_operator: false };
        let known = response.clone().unwrap_or(Type::Any);
        let draft = request::request(&http.request, known.clone(), &around, prompts, &mut self.used, bag);
        let whole = [("status", Type::INTEGER), ("headers", Type::Object), ("body", known.clone())];
        let whole = whole.map(|(name, ty)| (name.to_owned(), Field::of(ty)));
        let gives =
            Gives { taken: known, ..Gives::of(Type::Record(whole.into()), "the body of the response") };
        let layers = [step.timeout, self.graph.defaults.timeout];
        let waits = Waits {
            first: layers.iter().find_map(|layer| layer.first),
            idle: layers.iter().find_map(|layer| layer.idle),
        };
        (response.and(draft).map(|draft| Body::Request(Box::new(draft.waiting(waits)))), gives)
    }

    pub(super) fn graph_node(
        &self,
        step: &Step<'_>,
        node: &GraphNodeSpec,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let found = node
            .graph
            .as_ref()
            .and_then(|name| Some((name, find_graph(name, self.shared.folder, self.shared.heads, bag)?)));
        let Some((name, head)) = found else {
            self.values(&node.with, bag);
            return (None, Gives::unknown());
        };
        let what = format!("graph `{}`", name.value);
        let callee = Callee {
            code: "S414",
            what,
            noun: "input",
            fields: &head.input,
            at: name.span,
            names: Some(&head.names),
        };
        let partial = step.partial || !head.broken.is_empty();
        let place = |input: &str| head.names.declared(&format!("input.{input}"));
        let with = self.with(&callee, &node.with, partial, place, bag);
        if head.speech.speaks && self.messages.is_none() {
            let what = format!("graph `{}` speaks", name.value);
            self.conversation(&what, name.span, bag);
            return (None, Gives::unknown());
        }
        let keeps = node.scope.as_ref().is_some_and(|scope| scope.value == "thread");
        let gives = Gives::of(head.gives.clone(), format!("the output of `{}`", name.value));
        let body = with.map(|with| Body::Graph { graph: name.value.clone(), with, keeps });
        (body, Gives { code: "S414", ..gives })
    }

    pub(super) fn custom(&self, step: &Step<'_>, node: &CustomSpec, bag: &mut Bag) -> (Option<Body>, Gives) {
        let found =
            node.name.as_ref().and_then(|name| Some((name, custom::find(name, self.shared.outside, bag)?)));
        let Some((name, Found { args, result, function })) = found else {
            self.values(&node.with, bag);
            return (None, Gives::unknown());
        };
        let gives = Gives::of(result.clone(), format!("the result of `{}`", name.value));
        let with = match &args {
            None => self.values(&node.with, bag),
            Some(fields) => {
                let what = format!("`{}`", name.value);
                let callee =
                    Callee { code: "M507", what, noun: "argument", fields, at: name.span, names: None };
                self.with(&callee, &node.with, step.partial, |_| None, bag)
            }
        };
        let args = args.map_or(Type::Object, Type::Record);
        let custom = |with| Custom { name: name.value.clone(), function, args, result, with };
        (with.map(|with| Body::Custom(Box::new(custom(with)))), gives)
    }

    /// Checks values of which nobody knows where they go.
    fn values(
        &self,
        with: &[(Spanned<String>, ExprSpec)],
        bag: &mut Bag,
    ) -> Option<IndexMap<String, ExprTree>> {
        let trees: Vec<_> = with
            .iter()
            .map(|(name, value)| Some((name.value.clone(), self.names.tree(value, bag)?)))
            .collect();
        trees.into_iter().collect()
    }

    /// Checks the values that are given to a tool or a graph.
    fn with(
        &self,
        callee: &Callee<'_>,
        with: &[(Spanned<String>, ExprSpec)],
        partial: bool,
        declared: impl Fn(&str) -> Option<Span>,
        bag: &mut Bag,
    ) -> Option<IndexMap<String, ExprTree>> {
        let Callee { code, what, noun, fields, at, names } = callee;
        let mut given = IndexMap::new();
        let mut fine = true;
        // What nothing takes may be what is missing.
        let mut odd = partial;
        for (name, value) in with {
            let tree = self.names.tree(value, bag);
            let Some(field) = fields.get(&name.value) else {
                if !partial {
                    let message = format!("{what} has no {noun} `{}`", name.value);
                    let finding = Diagnostic::error(code, message, name.span, UNTAKEN);
                    let known = fields.keys().map(String::as_str);
                    let finding = if fields.is_empty() {
                        finding.help(format!("it has no {noun}s: remove it"))
                    } else {
                        finding.help_maybe(did_you_mean(&name.value, known))
                    };
                    match names {
                        Some(names) => names.give(&name.value, finding),
                        None => bag.report(finding),
                    }
                }
                (fine, odd) = (false, true);
                continue;
            };
            let Some(tree) = tree else {
                fine = false;
                continue;
            };
            if let Some((at, why)) = self.refuses(field, value, &tree).filter(|_| !bag.is_trusting()) {
                let message = format!("{noun} `{}` of {what} is {}", name.value, field.ty);
                let finding = Diagnostic::error(code, message, at, why);
                bag.report(match declared(&name.value) {
                    Some(at) => finding.related(at, "declared here"),
                    None => finding,
                });
                fine = false;
            }
            given.insert(name.value.clone(), tree);
        }
        for (name, field) in fields.iter().filter(|(name, field)| {
            !odd && !field.may_be_left_out() && !with.iter().any(|(given, _)| given.value == **name)
        }) {
            let message = format!("{noun} `{name}` of {what} has no value");
            let finding = Diagnostic::error(code, message, *at, format!("`with` lacks `{name}`"));
            let finding = match declared(name) {
                Some(at) => finding.related(at, format!("declared here: {}", field.ty)),
                None => finding,
            };
            bag.report(finding.help(format!("add  with: {{{name}: …}}")));
            fine = false;
        }
        fine.then_some(given)
    }

    /// Says why a value does not fit a field, and where. Whether it may be null is a matter of the way that leads here:
    /// see `flow`.
    fn refuses(&self, field: &Field, value: &ExprSpec, tree: &ExprTree) -> Option<(Span, String)> {
        if let ExprTree::Const(constant) = tree {
            return field.ty.check(constant).err().map(|mismatch| (value.span(), mismatch.why));
        }
        let typed = self.names.type_of_tree(tree, &Facts::default());
        // Whether it may be null is a matter of the way that leads here.
        let fits = |typed: &Typed| {
            typed.null
                || (typed.empty && field.ty.is_list())
                || field.ty.non_null().accepts(typed.ty.non_null())
        };
        (!fits(&typed)).then(|| misfit(self.names, value, &typed, &field.ty, &fits))
    }
}
