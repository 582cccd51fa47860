//! `next` as written becomes edges: names are resolved, and what must cover everything does.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::names::Names;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean, suggest};
use crate::expr::{Expr, Scope, is_total};
use crate::plan::{END, Next, Rule, Target};
use crate::spec::{Graph, NextSpec, RuleSpec, Text, snake_case};
use crate::state::Type;

/// The nodes of a graph by name, with their places.
#[derive(Debug)]
pub(super) struct Edges<'a> {
    nodes: IndexMap<&'a str, &'a Spanned<String>>,
    /// The names that some edge has.
    named: BTreeSet<&'a str>,
    /// The right forms of names that have a wrong one: who uses one means that node.
    mended: BTreeSet<String>,
    /// There are nodes that cannot be read: an unknown name may be one of them.
    broken: bool,
    /// There are types that cannot be read: a value of any type may be one of them.
    untyped: bool,
}

impl<'a> Edges<'a> {
    /// Takes the names of all nodes, also of those that are broken.
    pub(super) fn new(graph: &'a Graph, untyped: bool) -> Self {
        let nodes: IndexMap<_, _> = graph.nodes.iter().map(|(name, _)| (name.value.as_str(), name)).collect();
        let mended = nodes.keys().map(|name| (name, snake_case(name))).filter(|(name, form)| *name != form);
        let mended = mended.map(|(_, form)| form).collect();
        Self { nodes, named: named(graph), mended, broken: graph.broken_nodes, untyped }
    }

    /// Resolves a name.
    pub(super) fn target(&self, name: &Spanned<String>, bag: &mut Bag) -> Option<Target> {
        if name.value == END {
            return Some(Target::End);
        }
        if self.nodes.contains_key(name.value.as_str()) {
            return Some(Target::Node(name.value.clone()));
        }
        if self.broken || self.mended.contains(&name.value) || bag.is_full(name.span.file) {
            return None;
        }
        let finding = Diagnostic::error(
            "G201",
            format!("unknown node `{}`", name.value),
            name.span,
            "no node has this name",
        );
        let names = self.nodes.keys().copied().filter(|name| *name != END);
        let near = suggest(&name.value, names.clone().chain([END]));
        // After a node got another name, nothing leads to it: unless a slip explains it as well, that one is meant.
        let slip = near.is_some_and(|near| is_slip(near, &name.value));
        let lost = || names.clone().filter(|name| !self.named.contains(*name));
        let orphan = match lost().collect::<Vec<_>>()[..] {
            _ if slip => None,
            [only] => Some(only),
            _ => suggest(&name.value, lost()),
        };
        let finding = match (orphan, near.and_then(|near| self.nodes.get(near))) {
            (Some(orphan), _) => {
                let finding = finding.help(format!("did you mean `{orphan}`? nothing else leads there"));
                match self.nodes.get(orphan) {
                    Some(node) => finding.related(node.span, "no edge leads to this node"),
                    None => finding,
                }
            }
            (None, Some(node)) => finding.related(node.span, "a node with a similar name is defined here"),
            (None, None) => finding,
        };
        let all = names.chain([END]).collect::<Vec<_>>();
        bag.report(match orphan {
            Some(_) => finding,
            None => finding.help_maybe(did_you_mean(&name.value, all)),
        });
        None
    }

    /// Resolves any form of `next`; `key` is where the word stands.
    pub(super) fn next(&self, spec: &NextSpec, key: Span, names: &Names, bag: &mut Bag) -> Option<Next> {
        match spec {
            NextSpec::To(name) => self.target(name, bag).map(Next::To),
            NextSpec::All(list, _) => {
                let targets: Vec<_> = list.iter().map(|name| self.target(name, bag)).collect();
                targets.into_iter().collect::<Option<_>>().map(Next::All)
            }
            NextSpec::Some(arms, otherwise, span) => {
                let arms: Vec<Option<Vec<_>>> = arms
                    .iter()
                    .map(|(when, to)| {
                        let to: Vec<_> = to.iter().map(|to| self.target(to, bag)).collect();
                        let parts = (names.condition(when, bag), to.into_iter().collect::<Option<Vec<_>>>());
                        if let Some(expr) = &parts.0 {
                            let (label, help) =
                                ("always true: taken each time", "lead there by  {all: […]}  before this");
                            check_constant(expr, when, (label, help), bag);
                        }
                        let (when, to) = parts.0.zip(parts.1)?;
                        Some(to.into_iter().map(|to| (when.clone(), to)).collect())
                    })
                    .collect();
                let Some(otherwise) = otherwise else {
                    let finding = Diagnostic::error("G207", "`some` without `else`", key, "none may match")
                        .related(*span, "what comes next when none does?");
                    bag.report(finding.help("add  else: <node>"));
                    return None;
                };
                let otherwise = self.next(otherwise, key, names, bag);
                let arms = arms.into_iter().collect::<Option<Vec<_>>>();
                let arms = arms.map(|arms| arms.into_iter().flatten().collect());
                arms.zip(otherwise).map(|(arms, otherwise)| Next::Some(arms, Box::new(otherwise)))
            }
            NextSpec::Rules(rules, _) => self.rules(rules, key, names, bag),
        }
    }

    fn rules(&self, rules: &[RuleSpec], key: Span, names: &Names, bag: &mut Bag) -> Option<Next> {
        let mut done = Vec::new();
        let mut broken = false;
        let mut total = false;
        let mut conditions: Vec<(&str, Span)> = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            if let Some(RuleSpec::Else(_, span)) = at.checked_sub(1).and_then(|before| rules.get(before)) {
                let finding = Diagnostic::error("G208", "a rule after `else`", rule.span(), "never reached");
                bag.report(finding.related(*span, "everything ends here").help("move `else` to the end"));
                return None;
            }
            let followed = rules[at + 1..].iter().any(|rule| matches!(rule, RuleSpec::Else(..)));
            let rule = match rule {
                RuleSpec::When(when, next) => {
                    let same = conditions.iter().find(|(text, _)| *text == when.value.trim());
                    if let Some((_, first)) = same {
                        let finding =
                            Diagnostic::error("G208", "the same condition twice", when.span, "never reached");
                        bag.report(
                            finding.related(*first, "the first one matches").help("remove one of them"),
                        );
                        broken = true;
                    }
                    conditions.push((when.value.trim(), when.span));
                    let parts = (names.condition(when, bag), self.next(next, key, names, bag));
                    if let Some(expr) = &parts.0 {
                        let (label, help) = (
                            "always true: what follows is never reached",
                            "write  else:  for what happens in any case",
                        );
                        check_constant(expr, when, (label, help), bag);
                    }
                    parts.0.zip(parts.1).map(|(when, next)| Rule::When(when, next))
                }
                RuleSpec::Match(on, span, cases) => {
                    total = true;
                    self.cases(on, *span, cases, followed, names, bag)
                }
                RuleSpec::Else(next, _) => {
                    total = true;
                    self.next(next, key, names, bag).map(Rule::Else)
                }
            };
            match rule {
                Some(rule) => done.push(rule),
                None => broken = true,
            }
        }
        let asked: Vec<&str> = conditions.iter().map(|(text, _)| *text).collect();
        if !total && !broken && !is_total(&asked, &names.roots) {
            let last = rules.last().map_or(key, RuleSpec::span);
            let finding = Diagnostic::error("G207", "no rule may match", key, "the last rule is a condition")
                .related(last, "what comes next when this does not hold?");
            bag.report(finding.help("add a last rule  - else: <node>"));
            return None;
        }
        (!broken).then_some(Next::Rules(done))
    }

    fn cases(
        &self,
        on: &Text,
        span: Span,
        cases: &[(Spanned<Json>, NextSpec)],
        followed: bool,
        names: &Names,
        bag: &mut Bag,
    ) -> Option<Rule> {
        let expr = names.expression(on, bag);
        let nexts: Vec<_> = cases
            .iter()
            .map(|(value, next)| Some((value.value.clone(), self.next(next, value.span, names, bag)?)))
            .collect();
        let expr = expr?;
        let typed = names.type_of(&expr);
        let ty = (typed.ty != Type::Any || typed.path.is_some()).then_some(typed.ty);
        let declared = |value: Option<&str>| {
            let path = typed.path.as_deref()?;
            let value = value.and_then(|value| names.declared(&format!("{path}={value}")));
            value.or_else(|| names.declared(path))
        };
        let mut fine = true;
        let nullable = ty.as_ref().is_some_and(Type::is_nullable);
        let values: Option<Vec<Json>> = match ty.as_ref().map(Type::non_null) {
            Some(Type::Enum(values)) => Some(values.iter().map(|v| Json::String(v.clone())).collect()),
            Some(Type::Boolean) => Some(vec![Json::Bool(true), Json::Bool(false)]),
            _ => None,
        };
        if let Some(values) = &values {
            let known: BTreeSet<String> = values.iter().map(ToString::to_string).collect();
            let texts: BTreeSet<String> = values.iter().map(text_of).collect();
            let mut told = 0;
            for (case, _) in cases {
                let fits = known.contains(&case.value.to_string()) || (nullable && case.value.is_null());
                if !fits && texts.contains(&text_of(&case.value)) {
                    let raw = text_of(&case.value);
                    let (label, help) = if case.value.is_string() {
                        (
                            format!("a text, not {}", ty.as_ref().map_or(String::new(), ToString::to_string)),
                            format!("write  {raw}  without quotes"),
                        )
                    } else {
                        ("YAML reads no text here".to_owned(), format!("quote it: \"{raw}\""))
                    };
                    let code = if case.value.is_string() { "G209" } else { "Y008" };
                    let message = format!("`{raw}` is not a value of this type");
                    bag.report(Diagnostic::error(code, message, case.span, label).help(help));
                    fine = false;
                } else if !fits && told == MANY {
                    fine = false;
                } else if !fits {
                    told += 1;
                    let shown = text_of(&case.value);
                    let known: Vec<String> = values.iter().map(text_of).collect();
                    let finding = Diagnostic::error(
                        "G209",
                        format!(
                            "`{shown}` is not a value of {}",
                            ty.as_ref().map_or(String::new(), ToString::to_string)
                        ),
                        case.span,
                        "never matches",
                    );
                    let finding = finding.help_maybe(did_you_mean(&shown, known.iter().map(String::as_str)));
                    bag.report(match declared(None) {
                        Some(at) => finding.related(at, "declared here"),
                        None => finding,
                    });
                    fine = false;
                }
            }
            let covered: BTreeSet<String> = cases.iter().map(|(case, _)| case.value.to_string()).collect();
            let null = nullable.then_some(Json::Null);
            let missing: Vec<String> = values
                .iter()
                .chain(&null)
                .filter(|value| !covered.contains(&value.to_string()))
                .map(text_of)
                .collect();
            if !missing.is_empty() && !followed && fine {
                let list = missing.iter().map(|m| format!("`{m}`")).collect::<Vec<_>>().join(", ");
                let label = if missing.len() == 1 {
                    format!("value {list} has no case")
                } else {
                    format!("values {list} have no case")
                };
                let finding = Diagnostic::error("G210", "routing is not exhaustive", span, label);
                let finding = match declared(missing.first().map(String::as_str)) {
                    Some(at) => finding.related(at, "declared here"),
                    None => finding,
                };
                bag.report(
                    finding.help(format!("add  {}: <node>  or a last rule  - else: <node>", missing[0])),
                );
                fine = false;
            }
        } else if self.untyped && ty.as_ref().is_none_or(|ty| *ty == Type::Any) {
            fine = false;
        } else if !followed {
            let what = ty.map_or_else(|| "this expression".to_owned(), |ty| ty.to_string());
            let finding = Diagnostic::error(
                "G211",
                "the values of this `match` cannot be listed",
                on.span,
                format!("{what} has other values too"),
            );
            bag.report(finding.help("add a last rule  - else: <node>"));
            fine = false;
        }
        let nexts = nexts.into_iter().collect::<Option<Vec<_>>>()?;
        fine.then_some(Rule::Match(expr, nexts))
    }
}

/// Collects the names that edges of a graph have.
fn named(graph: &Graph) -> BTreeSet<&str> {
    let specs = || graph.nodes.iter().filter_map(|(_, spec)| spec.as_ref());
    let next = graph.start.iter().chain(specs().filter_map(|spec| spec.next.as_ref()));
    let rules = graph.on_error.iter().chain(specs().filter_map(|spec| spec.on_error.as_ref()));
    let others = specs().flat_map(|spec| spec.on_max.iter().chain(spec.on_timeout()));
    next.flat_map(NextSpec::targets)
        .chain(rules.flat_map(|on_error| &on_error.rules).map(|rule| &rule.to))
        .chain(others)
        .chain(&graph.on_limit)
        .map(|name| name.value.as_str())
        .collect()
}

/// Says whether one name becomes the other by a slip or two of the hand.
fn is_slip(a: &str, b: &str) -> bool {
    a.chars().count().abs_diff(b.chars().count()) <= 1 && suggest(a, [b]).is_some()
}

/// The most wrong cases of a `match` that are told: looking for what was meant takes time.
const MANY: usize = 20;

/// Warns of a condition that asks nothing; `always` is what to say of one that is true.
fn check_constant(expr: &Expr, text: &Text, always: (&str, &str), bag: &mut Bag) {
    if !expr.reads().is_empty() {
        return;
    }
    if let Ok(truth) = expr.eval_bool(&Scope::new()) {
        let (label, help) = if truth { always } else { ("always false: never taken", "remove the rule") };
        let message = "a condition that asks nothing";
        bag.report(Diagnostic::warning("G208", message, text.span, label).help(help));
    }
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
