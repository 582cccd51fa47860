//! Which names an expression or a text may read, of what type they are, and where they were declared.

use std::ops::Range;
use std::rc::Rc;

use indexmap::IndexMap;

use super::declared::Declared;
use super::lacks::Lacks;
use crate::diagnostic::{Bag, Diagnostic, Span, did_you_mean, suggest};
use crate::expr::{
    Expr, ExprError, ExprTree, Facts, Fault, Read, Root, Roots, Slot, Typed, boolean_help, infer,
};
use crate::node::Caught;
use crate::spec::{ANY, ExprSpec, Text};
use crate::state::{Channels, Field, Merge, Type};
use crate::template::TemplateError;

/// The fields of `run`, and what they are.
const RUN: [(&str, &str); 6] = [
    ("id", "The id of the run."),
    ("step", "The superstep of the run, from 1 on."),
    ("attempt", "The attempt of the node, from 1 on."),
    ("steps_left", "How many supersteps are left until the limit."),
    ("user_text", "The text of the new turn of the user; empty without one."),
    ("now", "The time, as a text in UTC."),
];

/// The codes that depend on the way that led to a node: see `flow`.
pub(super) const BY_FLOW: [&str; 2] = ["S404", "S412"];

/// Returns the fields of `run` with their types.
pub fn run_fields() -> impl Iterator<Item = (String, Field)> {
    RUN.into_iter().map(|(name, doc)| {
        let count = matches!(name, "step" | "attempt" | "steps_left");
        let field = Field::of(if count { Type::INTEGER } else { Type::STRING });
        (name.to_owned(), Field { description: Some(doc.to_owned()), ..field })
    })
}

/// Returns the fields of `error` with their types.
pub fn error_fields() -> impl Iterator<Item = (String, Type)> {
    Caught::FIELDS.into_iter().map(|name| (name.to_owned(), Type::STRING))
}

/// The names that are visible somewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Root names with the fields below them, where these are known.
    pub(super) roots: Roots,
    /// Where they were declared.
    declared: Rc<Declared>,
    /// Channels and inputs that are there but cannot be typed.
    broken: Vec<String>,
    /// Names that nobody declares.
    lacks: Rc<Lacks>,
}

impl Names {
    /// Returns what expressions of a graph can read: `state`, `input` and `run`.
    pub(super) fn of_graph(
        channels: &Channels,
        input: &IndexMap<String, Field>,
        broken: Vec<String>,
        declared: Declared,
    ) -> Self {
        let state = channels.iter().map(|(name, channel)| {
            let ty = channel.field.ty.clone();
            let untrusted = matches!(ty.non_null(), Type::Messages);
            let gradual = channel.merge == Merge::Merge && channel.field.default.is_none();
            let unset = channel.start().is_none();
            (name.clone(), Slot { unset, untrusted, gradual, ..Slot::of(ty) })
        });
        let input = input.iter().map(|(name, field)| (name.clone(), Slot::of(field.ty.clone())));
        let run = run_fields().map(|(name, field)| {
            let untrusted = name == "user_text";
            (name, Slot { untrusted, ..Slot::of(field.ty) })
        });
        let roots = [
            ("state".to_owned(), Root::Fields(state.collect())),
            ("input".to_owned(), Root::Fields(input.collect())),
            ("run".to_owned(), Root::Fields(run.collect())),
        ];
        Self { roots: roots.into(), declared: Rc::new(declared), broken, lacks: Rc::default() }
    }

    /// Leaves only what can be read where no run is: `state`.
    pub(super) fn without_run(mut self) -> Self {
        self.roots.retain(|name, _| name == "state");
        self
    }

    /// Returns what a prompt file can read: its inputs.
    pub(super) fn of_prompt(
        inputs: &IndexMap<String, Field>,
        broken: Vec<String>,
        declared: Declared,
    ) -> Self {
        let roots = inputs
            .iter()
            .map(|(name, field)| (name.clone(), Root::Value(Slot::of(field.ty.clone()))))
            .collect();
        Self { roots, declared: Rc::new(declared), broken, lacks: Rc::default() }
    }

    /// Adds a name.
    pub(super) fn with(mut self, name: &str, ty: Type) -> Self {
        self.roots.insert(name.to_owned(), Root::Value(Slot::of(ty)));
        self
    }

    /// Adds the settings, for tools and requests.
    pub(super) fn with_settings<'n>(
        mut self,
        names: impl Iterator<Item = &'n str>,
        broken: &[String],
    ) -> Self {
        if broken.iter().any(|name| name == ANY) {
            return self.with("env", Type::Any);
        }
        let fields = names.map(str::to_owned).chain(broken.iter().cloned());
        let fields = fields.map(|name| (name, Slot::of(Type::STRING))).collect();
        self.roots.insert("env".to_owned(), Root::Fields(fields));
        self
    }

    /// Returns what a tool can read besides settings: its arguments. They come from models.
    pub(super) fn of_tool(args: &IndexMap<String, Field>, broken: Vec<String>, declared: Declared) -> Self {
        let slot = |field: &Field| Slot { untrusted: true, ..Slot::of(field.ty.clone()) };
        let fields = args.iter().map(|(name, field)| (name.clone(), slot(field))).collect();
        let roots = [("args".to_owned(), Root::Fields(fields))];
        Self { roots: roots.into(), declared: Rc::new(declared), broken, lacks: Rc::default() }
    }

    /// Adds a name whose texts may come from outside.
    pub(super) fn with_slot(mut self, name: &str, slot: Slot) -> Self {
        self.roots.insert(name.to_owned(), Root::Value(slot));
        self
    }

    /// Takes a name away.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.roots.remove(name);
        self
    }

    /// Adds `error`, for a node that every way comes to by one.
    pub(super) fn with_error(mut self) -> Self {
        let fields = error_fields().map(|(name, ty)| (name, Slot::of(ty)));
        self.roots.insert("error".to_owned(), Root::Fields(fields.collect()));
        self
    }

    /// Returns where a path such as `state.triage.intent` was declared.
    pub(super) fn declared(&self, path: &str) -> Option<Span> {
        self.declared.get(path)
    }

    /// Parses an expression and checks what it reads and of what type that is.
    pub(super) fn expression(&self, text: &Text, bag: &mut Bag) -> Option<Expr> {
        match Expr::parse(&text.value) {
            Ok(expr) => {
                let read = self.reads(expr.reads(), text, false, bag);
                let (_, faults) = infer(expr.source(), &self.roots, &Facts::default());
                let typed =
                    self.faults(faults, |code| !BY_FLOW.contains(&code), |range| text.locate(range), bag);
                (read && typed).then_some(expr)
            }
            Err(errors) => {
                // What is wrong with one word does not hide what is wrong with another.
                if let Some(reads) = Expr::reads_of_wrong(&text.value) {
                    self.reads(&reads, text, false, bag);
                    let (_, mut faults) = infer(&text.value, &self.roots, &Facts::default());
                    faults.retain(|fault| errors.iter().all(|error| error.range != fault.error.range));
                    self.faults(faults, |code| !BY_FLOW.contains(&code), |range| text.locate(range), bag);
                }
                report_expr(errors, text, bag);
                None
            }
        }
    }

    /// Reports what is wrong with types; false when something was reported.
    pub(super) fn faults(
        &self,
        faults: Vec<Fault>,
        wanted: impl Fn(&str) -> bool,
        place: impl Fn(Range<usize>) -> Span,
        bag: &mut Bag,
    ) -> bool {
        if bag.is_trusting() {
            return true;
        }
        let mut fine = true;
        for fault in faults.into_iter().filter(|fault| wanted(fault.error.code)) {
            let span = place(fault.error.range.clone());
            bag.report(self.fault(fault, span));
            fine = false;
        }
        fine
    }

    /// Tells what is wrong with types at a place.
    pub(super) fn fault(&self, Fault { error, about }: Fault, span: Span) -> Diagnostic {
        let finding = Diagnostic::error(error.code, error.message, span, error.label);
        let declared = about.and_then(|path| Some((self.declared(&path)?, path)));
        let finding = match declared.filter(|(at, _)| *at != span) {
            Some((at, path)) => finding.related(at, format!("`{path}` is declared here")),
            None => finding,
        };
        finding.help_maybe(error.help)
    }

    /// Parses a condition, which must not be of another type than boolean.
    pub(super) fn condition(&self, text: &Text, bag: &mut Bag) -> Option<Expr> {
        let expr = self.expression(text, bag)?;
        let typed = self.type_of(&expr);
        if bag.is_trusting() || (typed.is_condition() && !typed.null) {
            return Some(expr);
        }
        let finding = Diagnostic::error(
            "E104",
            "the condition is not a boolean",
            text.span,
            format!("this is {typed}"),
        );
        let help = boolean_help(expr.source().trim(), &typed.ty);
        let declared = typed.path.as_deref().and_then(|path| self.declared(path));
        let finding = match declared {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        };
        // A literal is not what was meant to be compared.
        bag.report(if expr.reads().is_empty() { finding } else { finding.help(help) });
        None
    }

    /// Parses a value whose leaves are expressions.
    pub(super) fn tree(&self, spec: &ExprSpec, bag: &mut Bag) -> Option<ExprTree> {
        match spec {
            ExprSpec::Const(value, _) => Some(ExprTree::Const(value.clone())),
            ExprSpec::Text(text) => self.expression(text, bag).map(ExprTree::Expr),
            ExprSpec::List(items, _) => {
                let items: Vec<_> = items.iter().map(|item| self.tree(item, bag)).collect();
                items.into_iter().collect::<Option<_>>().map(ExprTree::List)
            }
            ExprSpec::Map(fields, _) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, spec)| Some((name.value.clone(), self.tree(spec, bag)?)))
                    .collect();
                fields.into_iter().collect::<Option<_>>().map(ExprTree::Map)
            }
        }
    }

    /// Returns the type of an expression where nothing is known of the way that led there.
    pub(super) fn type_of(&self, expr: &Expr) -> Typed {
        infer(expr.source(), &self.roots, &Facts::default()).0
    }

    /// Returns the type of a value whose leaves are expressions.
    pub(super) fn type_of_tree(&self, tree: &ExprTree, facts: &Facts) -> Typed {
        match tree {
            ExprTree::Const(value) => Typed::of_json(value),
            ExprTree::Expr(expr) => infer(expr.source(), &self.roots, facts).0,
            ExprTree::List(items) => Typed::list(items.iter().map(|item| self.type_of_tree(item, facts))),
            ExprTree::Map(fields) => Typed::record(
                fields.iter().map(|(name, tree)| (name.clone(), self.type_of_tree(tree, facts))),
            ),
        }
    }

    /// The same for a value as written.
    pub(super) fn type_of_spec(&self, spec: &ExprSpec, facts: &Facts) -> Typed {
        match spec {
            ExprSpec::Const(value, _) => Typed::of_json(value),
            ExprSpec::Text(text) => infer(&text.value, &self.roots, facts).0,
            ExprSpec::List(items, _) => Typed::list(items.iter().map(|item| self.type_of_spec(item, facts))),
            ExprSpec::Map(fields, _) => Typed::record(
                fields.iter().map(|(name, spec)| (name.value.clone(), self.type_of_spec(spec, facts))),
            ),
        }
    }

    /// Checks what is read; false when something was reported.
    pub(super) fn reads(&self, reads: &[Read], text: &Text, prompt: bool, bag: &mut Bag) -> bool {
        self.reads_at(reads, text, prompt, None, bag)
    }

    /// The same for what a partial reads where it is included.
    pub(super) fn reads_at(
        &self,
        reads: &[Read],
        text: &Text,
        prompt: bool,
        include: Option<Span>,
        bag: &mut Bag,
    ) -> bool {
        let mut fine = true;
        for read in reads {
            if !fine && (bag.is_full(text.span.file) || self.lacks.is_full()) {
                break;
            }
            if let Some(finding) = self.read(read, text, prompt) {
                let finding = match include {
                    Some(include) => finding.related(include, "included here"),
                    None => finding,
                };
                // A prompt is told once of each name.
                match finding.code {
                    "T302" => self.miss(&read.root, finding),
                    _ => bag.report(finding),
                }
                fine = false;
            } else {
                // What is broken elsewhere has no type here.
                fine &= !self.is_broken(read);
            }
        }
        fine
    }

    /// Notes that a name is told which nobody declares.
    pub(super) fn lack(&self, name: &str) {
        self.lacks.note(name);
    }

    /// Says whether a name is told which nobody declares.
    pub(super) fn lacks(&self, name: &str) -> bool {
        self.lacks.has(name)
    }

    /// Says whether any name is told which nobody declares.
    pub(super) fn lacks_any(&self) -> bool {
        !self.lacks.is_empty()
    }

    /// Keeps a finding about a name that is missing until [`Self::report_lacks`].
    pub(super) fn miss(&self, name: &str, finding: Diagnostic) {
        self.lacks.miss(name, finding);
    }

    /// The same for a value that is given by a name which nothing takes.
    pub(super) fn give(&self, name: &str, finding: Diagnostic) {
        self.lacks.give(name, finding);
    }

    /// Reports what was kept, where it does not follow from something that is told.
    pub(super) fn report_lacks(&self, bag: &mut Bag) {
        self.lacks.report(bag);
    }

    /// Says whether a name is there but cannot be read, or may be.
    pub(super) fn may_be(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name || broken == ANY)
    }

    fn is_broken(&self, read: &Read) -> bool {
        let declared = match (self.roots.get(&read.root), read.path.first()) {
            (Some(Root::Fields(fields)), Some(name)) => fields.contains_key(name),
            (root, _) => root.is_some(),
        };
        self.broken.iter().any(|broken| {
            *broken == read.root || Some(broken) == read.path.first() || (broken == ANY && !declared)
        })
    }

    /// Checks the name that a read begins with; fields of values are a matter of types.
    fn read(&self, read: &Read, text: &Text, prompt: bool) -> Option<Diagnostic> {
        if self.is_broken(read) {
            return None;
        }
        let span = text.locate(read.range.clone());
        let Some(root) = self.roots.get(&read.root) else {
            return Some(if prompt { self.not_an_input(read, span) } else { self.unknown_root(read, span) });
        };
        let Root::Fields(fields) = root else { return None };
        // `state` as a whole is an object of all channels.
        let name = read.path.first()?;
        if fields.contains_key(name) {
            return None;
        }
        let what = match read.root.as_str() {
            "state" => "channel",
            "input" => "input",
            "args" => "argument",
            "env" => return Some(no_setting(name, span, fields.keys())),
            _ => "field",
        };
        if matches!(read.root.as_str(), "state" | "input") {
            self.lack(name);
        }
        let finding = Diagnostic::error(
            "S401",
            format!("unknown {what} `{}.{name}`", read.root),
            span,
            format!("no {what} has this name"),
        );
        let near = did_you_mean(name, fields.keys().map(String::as_str));
        // The same name may be there under the other root.
        let elsewhere = self.roots.iter().find_map(|(root, fields)| match fields {
            Root::Fields(fields) if fields.contains_key(name) => Some(format!("write `{root}.{name}`")),
            _ => None,
        });
        Some(finding.help_maybe(elsewhere.or(near)))
    }

    fn unknown_root(&self, read: &Read, span: Span) -> Diagnostic {
        let name = read.root.as_str();
        let elsewhere = match name {
            "item" | "index" => Some("`item` and `index` are there inside a `map`"),
            "error" => Some("`error` is there where every way comes by an `on_error`"),
            "result" => Some("`result` is there under `into`"),
            "args" => Some("`args` is there in tools"),
            "env" => Some("`env` is there in tools and http nodes"),
            "input" | "run" => Some("`input` and `run` are there in a run"),
            _ => None,
        };
        if let Some(elsewhere) = elsewhere {
            return Diagnostic::error("E107", format!("`{name}` is not available here"), span, elsewhere);
        }
        let finding =
            Diagnostic::error("E102", format!("unknown name `{name}`"), span, "nothing has this name here");
        let known: Vec<&str> = self.roots.keys().map(String::as_str).collect();
        for (root, fields) in &self.roots {
            if let Root::Fields(fields) = fields
                && fields.contains_key(name)
            {
                return finding.help(format!("write `{root}.{name}`"));
            }
        }
        if let Some(near) = suggest(name, known.iter().copied().chain(read.near.as_deref())) {
            return finding.help(format!("did you mean `{near}`?"));
        }
        let names = known.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        if read.path.is_empty() {
            finding.help(format!("for the text write  \"'{name}'\"; names here: {names}"))
        } else {
            finding.help(format!("names here: {names}"))
        }
    }

    fn not_an_input(&self, read: &Read, span: Span) -> Diagnostic {
        let name = &read.root;
        let finding = Diagnostic::error(
            "T302",
            format!("`{name}` is not an input of this prompt"),
            span,
            "a prompt sees only its declared inputs",
        );
        let known = || self.roots.keys().map(String::as_str);
        // What is written as in a graph means an input of the graph or a channel, which `with:` hands over.
        let (meant, of_graph) = match read.path.first() {
            Some(field) if matches!(name.as_str(), "input" | "state") => (field, true),
            _ => (name, false),
        };
        if of_graph && self.roots.contains_key(meant) {
            return finding.help(format!("write `{meant}`"));
        }
        if let Some(near) = suggest(meant, known().chain(read.near.as_deref())) {
            return finding.help(format!("did you mean `{near}`?"));
        }
        let then = if of_graph { format!("  and write {{{{ {meant} }}}}") } else { String::new() };
        finding.help(format!("declare it:  inputs: {{{meant}: string}}{then}"))
    }
}

/// Reports a setting that project.yaml does not declare.
fn no_setting<'n>(name: &str, span: Span, known: impl Iterator<Item = &'n String>) -> Diagnostic {
    let message = format!("`env.{name}` is not declared");
    let finding = Diagnostic::error("E107", message, span, "project.yaml has no such setting");
    match suggest(name, known.map(String::as_str)) {
        Some(near) => finding.help(format!("did you mean `env.{near}`?")),
        None => finding.help(format!("declare it in project.yaml:  env: {{{name}: {{default: \"…\"}}}}")),
    }
}

/// Reports what is wrong with an expression, at its place in the file.
fn report_expr(errors: Vec<ExprError>, text: &Text, bag: &mut Bag) {
    for error in errors {
        let span = text.locate(error.range);
        bag.report(Diagnostic::error(error.code, error.message, span, error.label).help_maybe(error.help));
    }
}

/// Reports what is wrong with a template; `from` is where it begins in the text.
pub(super) fn report_template(errors: Vec<TemplateError>, text: &Text, from: usize, bag: &mut Bag) {
    let place = |range: Range<usize>| text.locate(range.start + from..range.end + from);
    for error in errors {
        let mut finding = Diagnostic::error(error.code, error.message, place(error.range), error.label);
        if let Some(related) = error.related {
            finding = finding.related(place(related.range), related.label);
        }
        bag.report(finding.help_maybe(error.help));
    }
}
