//! The types of what a template prints, loops over and asks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast::{self, Stmt};
use minijinja::machinery::parse;

use super::macros::Declared;
use super::{DEEPEST_INCLUDE, MOST_INCLUDES, names, syntax};
use crate::expr::{
    Around, Facts, Family, Fault, Infer, Local, Module, Place, Roots, Slot, Typed, parts_of_group, range,
};
use crate::state::{Type, either};

/// Finds the text of a partial by its name.
type Parts<'p> = &'p dyn for<'n> Fn(&'n str) -> Option<&'p str>;

/// A template and all files that it includes or imports, by their names; its own name is empty.
type Files<'t> = BTreeMap<String, (&'t str, Stmt<'t>)>;

/// How often a template is gone through until it is known what its namespaces hold.
const MOST_ROUNDS: usize = 8;

/// What was found in a template and in the partials that it includes.
#[derive(Debug, Default)]
pub struct Found {
    /// What is wrong with its types, and in which partial.
    pub faults: Vec<(Option<String>, Fault)>,
    /// Where text from outside is printed as it is, and in which partial.
    pub untrusted: Vec<(Option<String>, Range<usize>)>,
}

/// Looks at the types of a template that has been parsed before.
pub fn check_types<'t>(
    source: &'t str,
    roots: &'t Roots,
    facts: &Facts,
    no_field: &'static str,
    parts: Parts<'t>,
) -> Found {
    let files = files(source, parts);
    let mut spaces = BTreeMap::new();
    let mut round = 0;
    loop {
        let mut shared = Shared {
            files: &files,
            around: Vec::new(),
            looked: 0,
            found: Found::default(),
            macros: Vec::new(),
            entered: BTreeSet::new(),
            stack: Vec::new(),
            changed: Vec::new(),
            widened: false,
            round,
        };
        let mut infer = Infer::new(source, Place::Template, roots, facts.clone(), no_field);
        infer.spaces = spaces;
        let mut typer = Typer { infer, part: None, shared: &mut shared };
        if let Some((_, template)) = files.get("") {
            typer.stmt(template);
        }
        typer.take_faults();
        spaces = typer.infer.spaces;
        round += 1;
        // What was found to be put into a namespace may be read before, in a loop.
        if !shared.widened || round == MOST_ROUNDS {
            return shared.found;
        }
    }
}

/// Parses a template and what it includes. What cannot be parsed was reported before.
fn files<'t>(source: &'t str, parts: Parts<'t>) -> Files<'t> {
    let mut files = Files::new();
    let mut todo = vec![(String::new(), source)];
    while let Some((name, source)) = todo.pop() {
        if files.contains_key(&name) {
            continue;
        }
        let Ok(template) = parse(source, "template", syntax()) else { continue };
        let inner = names::names(source, &template).includes.into_iter();
        todo.extend(inner.filter_map(|(name, _)| parts(&name).map(|text| (name, text))));
        files.insert(name, (source, template));
    }
    files
}

/// What all files of a template share.
pub(super) struct Shared<'t> {
    files: &'t Files<'t>,
    /// The partials around this place: a cycle ends.
    around: Vec<String>,
    /// How many files and macros were looked at: what they see depends on where they are used.
    pub(super) looked: usize,
    pub(super) found: Found,
    /// All macros, in the order in which they were met.
    pub(super) macros: Vec<Declared<'t>>,
    /// The calls of macros that were looked at.
    pub(super) entered: BTreeSet<String>,
    /// The macros around this place.
    pub(super) stack: Vec<usize>,
    /// The fields of namespaces that were put, in order.
    pub(super) changed: Vec<String>,
    /// A namespace holds more than was known.
    pub(super) widened: bool,
    pub(super) round: usize,
}

pub(super) struct Typer<'s, 't> {
    pub(super) infer: Infer<'t>,
    /// The partial that is looked at.
    pub(super) part: Option<String>,
    pub(super) shared: &'s mut Shared<'t>,
}

impl<'t> Typer<'_, 't> {
    pub(super) fn take_faults(&mut self) {
        let faults = std::mem::take(&mut self.infer.faults);
        self.shared.found.faults.extend(faults.into_iter().map(|fault| (self.part.clone(), fault)));
    }

    pub(super) fn stmts(&mut self, stmts: &'t [Stmt<'t>]) {
        for stmt in stmts {
            self.stmt(stmt);
        }
    }

    pub(super) fn bind(&mut self, name: &str, local: Local) {
        self.infer.facts.unset(name);
        self.infer.locals.push((name.to_owned(), local));
    }

    /// Gives a value a name; what is no value, such as `loop`, keeps what it is.
    fn assign(&mut self, target: &ast::Expr<'_>, value: &ast::Expr<'_>) {
        if let (ast::Expr::Var(name), ast::Expr::Call(call)) = (target, value)
            && matches!(&call.expr, ast::Expr::Var(of) if of.id == "namespace")
            && self.infer.local("namespace").is_none()
        {
            let local = self.namespace(&call.args, value);
            return self.bind(name.id, local);
        }
        self.counted(target, value);
        let before = self.infer.faults.len();
        let typed = self.infer.expr(value);
        if let ast::Expr::GetAttr(attr) = target {
            // What is wrong gives nothing that would be known.
            let right = self.infer.faults.len() == before;
            return self.put(attr, range(target), right.then_some(typed));
        }
        if let (ast::Expr::Var(name), ast::Expr::Var(of)) = (target, value)
            && let Some(local) = self.infer.local(of.id).filter(|local| !matches!(local, Local::Value(_)))
        {
            let local = local.clone();
            return self.bind(name.id, local);
        }
        self.bind_target(target, &typed, Some(value));
    }

    /// Gives names to a value, or to its parts; `value` is how it is written, as far as it is.
    pub(super) fn bind_target(
        &mut self,
        target: &ast::Expr<'_>,
        typed: &Typed,
        value: Option<&ast::Expr<'_>>,
    ) {
        let targets = match target {
            ast::Expr::Var(var) => {
                let (untrusted, parts) = (typed.untrusted, typed.parts.clone());
                let slot = Slot { untrusted, parts, ..Slot::of(typed.whole()) };
                let known = typed.path.as_ref().map(|path| self.infer.facts.renamed(path, var.id));
                self.bind(var.id, Local::Value(slot));
                if let Some(known) = known {
                    self.infer.facts.extend(&known);
                }
                if parts_of_group(&typed.ty).is_some() {
                    for list in ["list", "1"] {
                        self.infer.facts.fill(format!("{}.{list}[]", var.id));
                    }
                }
                return;
            }
            ast::Expr::List(list) => &list.items,
            ast::Expr::Tuple(tuple) => &tuple.items,
            _ => return,
        };
        if let Some(parts) = parts_of_group(&typed.ty) {
            return self.bind_parts(target, targets, &parts, typed);
        }
        let items = value.and_then(written).filter(|items| items.len() == targets.len());
        if !typed.null && !typed.must_be(&[Family::List]) {
            let message = format!("{} names for one value", targets.len());
            let label = format!("it is {typed}, which has no items");
            self.infer.fault("S403", message, range(target), label, None, typed.path.clone());
        } else if value.and_then(written).is_none() && typed.may_be(&[Family::List]) {
            let message = format!("{} names for a list of any length", targets.len());
            let label = format!("it is {typed}");
            let help = "name the list, and ask for each item:  {% if x[1] is defined %}".to_owned();
            self.infer.fault("S403", message, range(target), label, Some(help), typed.path.clone());
        }
        // Where the parts are of several kinds, which is where is not in the type.
        let part = match typed.items() {
            None | Some(Type::Union(_) | Type::Nullable(_)) => Type::Any,
            Some(part) => part,
        };
        let part = Typed { untrusted: typed.untrusted, ..Typed::of(part) };
        for (n, target) in targets.iter().enumerate() {
            self.bind_target(target, &part, items.and_then(|items| items.get(n)));
        }
    }

    /// Gives names to the parts of a value that has exactly these.
    fn bind_parts(&mut self, target: &ast::Expr<'_>, targets: &[ast::Expr<'_>], parts: &[Type], of: &Typed) {
        if targets.len() != parts.len() {
            let message = format!("{} names for {} values", targets.len(), parts.len());
            self.infer.fault("S403", message, range(target), "one each", None, None);
        }
        for (n, target) in targets.iter().enumerate() {
            let part = parts.get(n).cloned().unwrap_or(Type::Any);
            self.bind_target(target, &Typed { untrusted: of.untrusted, ..Typed::of(part) }, None);
        }
        // No group is empty.
        let group = of.items().is_some_and(|item| parts_of_group(&item).is_some())
            || parts_of_group(&of.ty).is_some();
        if let (true, Some(ast::Expr::Var(list))) = (group, targets.get(1)) {
            self.infer.facts.fill(format!("{}[]", list.id));
        }
    }

    /// Goes through a body of which the names and what is known are gone after it. Returns what it set.
    fn scoped(&mut self, body: &'t [Stmt<'t>]) -> Vec<(String, Local)> {
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        let changed = self.shared.changed.len();
        self.stmts(body);
        self.back_to(facts, changed);
        self.infer.locals.split_off(names)
    }

    fn print(&mut self, expr: &ast::Expr<'_>) {
        let typed = self.infer.expr(expr);
        self.printed(expr, typed);
    }

    fn printed(&mut self, expr: &ast::Expr<'_>, typed: Typed) {
        if self.infer.is_macro(expr) {
            return;
        }
        let untrusted = typed.untrusted;
        let typed = self.infer.some(expr, typed, "a text");
        let outside = |ty: &Type| matches!(ty, Type::String { .. } | Type::Any);
        if typed.may_be(&[Family::List, Family::Object]) {
            self.infer.raw(expr, &typed);
        } else if untrusted && typed.ty.each().iter().any(outside) {
            self.shared.found.untrusted.push((self.part.clone(), range(expr)));
        }
    }

    fn each(&mut self, each: &'t ast::ForLoop<'t>) {
        let iter = self.infer.expr(&each.iter);
        let item = if iter.may_be(&[Family::Number, Family::Boolean]) {
            let label = format!("this is {iter}");
            let message = "a loop takes a list".to_owned();
            self.infer.fault("S403", message, range(&each.iter), label, None, iter.path.clone());
            Typed::any()
        } else if matches!(iter.family(), Family::Text | Family::Object) {
            // Its characters, or the names of its fields.
            Typed::of(Type::STRING)
        } else {
            iter.items().map_or_else(Typed::any, Typed::of)
        };
        for row in written(&each.iter).unwrap_or_default() {
            self.counted(&each.target, row);
        }
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        let changed = self.shared.changed.len();
        let item = Typed { untrusted: iter.untrusted, ..item };
        let slot = Slot { untrusted: item.untrusted, ..Slot::of(item.whole()) };
        let targets = bound(&each.target);
        self.bind("loop", Local::Loop(Rc::new(Around::of(&slot, targets.clone(), each.recursive))));
        self.forget_spaces();
        match (&iter.parts, &each.target) {
            (Some(parts), ast::Expr::List(list)) => self.bind_parts(&each.target, &list.items, parts, &iter),
            (Some(parts), ast::Expr::Tuple(list)) => self.bind_parts(&each.target, &list.items, parts, &iter),
            _ => {
                // Each row was counted.
                let rows = written(&each.iter).filter(|rows| rows.iter().all(|row| written(row).is_some()));
                self.bind_target(&each.target, &item, rows.and_then(<[_]>::first));
            }
        }
        if let (Family::Object, Some(path), [key]) = (iter.family(), &iter.path, targets.as_slice()) {
            self.infer.facts.hold(path, key);
        }
        self.infer.gone_through(&each.iter, iter.path.as_deref(), targets.first().map(String::as_str));
        if let Some(filter) = &each.filter_expr {
            self.infer.condition(filter);
            self.infer.assume(filter, true);
        }
        self.stmts(&each.body);
        self.infer.locals.truncate(names);
        self.back_to(facts, changed);
        self.scoped(&each.else_body);
    }

    fn choice(&mut self, cond: &'t ast::IfCond<'t>) {
        self.infer.condition(&cond.expr);
        let before = self.infer.assume(&cond.expr, true);
        let changed = self.shared.changed.len();
        let then = self.scoped(&cond.true_body);
        self.infer.facts = before;
        let before = self.infer.assume(&cond.expr, false);
        let other = self.scoped(&cond.false_body);
        self.back_to(before, changed);
        // What a branch set has the type that it got there, or the one from the other way.
        let names: BTreeSet<String> = then.iter().chain(&other).map(|(name, _)| name.clone()).collect();
        for name in names {
            let set = |all: &[(String, Local)]| {
                all.iter().rev().find(|(known, _)| *known == name).map(|(_, local)| local.clone())
            };
            let before = self.infer.local(&name).cloned();
            let local = match (set(&then).or_else(|| before.clone()), set(&other).or(before)) {
                (Some(Local::Value(a)), Some(Local::Value(b))) => {
                    let untrusted = a.untrusted || b.untrusted;
                    Local::Value(Slot {
                        untrusted,
                        unset: a.unset || b.unset,
                        parts: a.parts.filter(|parts| b.parts.as_ref() == Some(parts)),
                        ..Slot::of(either(a.ty, b.ty))
                    })
                }
                (Some(Local::Macro(one)), None) | (None, Some(Local::Macro(one))) => Local::Macro(one),
                // On the other way it has no value, which was reported where it is read.
                (Some(Local::Value(slot)), None) | (None, Some(Local::Value(slot))) => {
                    Local::Value(Slot { untrusted: slot.untrusted, ..Slot::of(Type::Any) })
                }
                _ => Local::Unknown,
            };
            self.bind(&name, local);
        }
    }

    pub(super) fn stmt(&mut self, stmt: &'t Stmt<'t>) {
        self.tag(stmt);
        self.follow();
    }

    fn tag(&mut self, stmt: &'t Stmt<'t>) {
        match stmt {
            Stmt::Template(template) => self.stmts(&template.children),
            Stmt::EmitExpr(emit) => self.print(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::Do(run) => drop(self.infer.call(&run.call)),
            Stmt::ForLoop(each) => self.each(each),
            Stmt::IfCond(cond) => self.choice(cond),
            Stmt::WithBlock(with) => {
                let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
                let changed = self.shared.changed.len();
                for (target, value) in &with.assignments {
                    self.assign(target, value);
                }
                self.stmts(&with.body);
                self.infer.locals.truncate(names);
                self.back_to(facts, changed);
            }
            Stmt::Set(set) => self.assign(&set.target, &set.expr),
            Stmt::SetBlock(set) => {
                // What is captured is printed where the name is.
                let before = self.shared.found.untrusted.len();
                self.scoped(&set.body);
                let typed = match &set.filter {
                    Some(filter) => self.infer.expr(filter),
                    None => Typed::of(Type::STRING),
                };
                let untrusted = self.shared.found.untrusted.len() > before;
                self.shared.found.untrusted.truncate(before);
                let typed = Typed { untrusted: untrusted || typed.untrusted, ..typed };
                match &set.target {
                    ast::Expr::GetAttr(attr) => self.put(attr, range(&set.target), Some(typed)),
                    target => self.bind_target(target, &typed, None),
                }
            }
            Stmt::AutoEscape(escape) => self.stmts(&escape.body),
            Stmt::FilterBlock(filter) => {
                let before = self.shared.found.untrusted.len();
                let typed = self.infer.expr(&filter.filter);
                self.printed(&filter.filter, typed);
                self.scoped(&filter.body);
                if matches!(&filter.filter, ast::Expr::Filter(filter) if filter.name == "quoted") {
                    self.shared.found.untrusted.truncate(before);
                }
            }
            Stmt::Block(block) => drop(self.scoped(&block.body)),
            Stmt::Import(import) => {
                let local =
                    self.module(&import.expr).map_or(Local::Unknown, |module| Local::Module(module.into()));
                if let ast::Expr::Var(name) = &import.name {
                    self.bind(name.id, local);
                }
            }
            Stmt::FromImport(import) => {
                let module = self.module(&import.expr);
                for (name, alias) in &import.names {
                    let ast::Expr::Var(wanted) = name else { continue };
                    let local = match &module {
                        Some(module) => self.infer.imported(module, wanted.id, range(name)),
                        None => Local::Unknown,
                    };
                    if let ast::Expr::Var(name) = alias.as_ref().unwrap_or(name) {
                        self.bind(name.id, local);
                    }
                }
            }
            Stmt::Extends(extends) => drop(self.file(&extends.name)),
            Stmt::Include(include) => drop(self.file(&include.name)),
            Stmt::Macro(decl) => self.declare(decl),
            Stmt::CallBlock(block) => self.call_block(block),
        }
    }

    /// Checks that a list that is written out has an item for each name.
    fn counted(&mut self, target: &ast::Expr<'_>, value: &ast::Expr<'_>) {
        let count = |expr| written(expr).map(<[_]>::len);
        if let (Some(names), Some(values)) = (count(target), count(value))
            && names != values
        {
            let (message, label) = (format!("{names} names for {values} values"), "one each");
            self.infer.fault("S403", message, range(value), label, None, None);
        }
    }

    /// Returns what a file has for those who import it.
    fn module(&mut self, name: &ast::Expr<'_>) -> Option<Module> {
        let ast::Expr::Const(literal) = name else { return None };
        let file = literal.value.as_str()?.to_owned();
        let names = self.file(name)?;
        Some(Module { file, names: names.into_iter().collect() })
    }

    /// Looks into a partial with the names that it sees here. Returns what it binds at its top.
    fn file(&mut self, name: &ast::Expr<'_>) -> Option<Vec<(String, Local)>> {
        let ast::Expr::Const(literal) = name else { return None };
        let name = literal.value.as_str()?;
        let (source, template) = self.shared.files.get(name)?;
        self.shared.looked += 1;
        if self.shared.around.iter().any(|outer| outer == name)
            || self.shared.looked > MOST_INCLUDES
            || self.shared.around.len() > DEEPEST_INCLUDE
        {
            return None;
        }
        self.shared.around.push(name.to_owned());
        let (locals, facts) = (self.infer.locals.clone(), self.infer.facts.clone());
        let own = locals.len();
        let names = self.within(source, Some(name.to_owned()), locals, facts, |within| {
            within.stmt(template);
            within.infer.locals.split_off(own)
        });
        self.shared.around.pop();
        Some(names)
    }

    /// Goes through a part of another file, or of this one with other names.
    pub(super) fn within<T>(
        &mut self,
        source: &'t str,
        part: Option<String>,
        locals: Vec<(String, Local)>,
        facts: Facts,
        run: impl FnOnce(&mut Typer<'_, 't>) -> T,
    ) -> T {
        let around = &mut self.infer;
        let mut infer = Infer::new(source, Place::Template, around.roots, facts, around.no_field);
        infer.locals = locals;
        infer.spaces = std::mem::take(&mut around.spaces);
        let mut within = Typer { infer, part, shared: &mut *self.shared };
        let made = run(&mut within);
        within.take_faults();
        self.infer.spaces = within.infer.spaces;
        made
    }
}

/// Returns the items of a list that is written out.
fn written<'e, 'a>(expr: &'e ast::Expr<'a>) -> Option<&'e [ast::Expr<'a>]> {
    match expr {
        ast::Expr::List(list) => Some(&list.items),
        ast::Expr::Tuple(tuple) => Some(&tuple.items),
        _ => None,
    }
}

/// Returns the names that a target gives.
fn bound(target: &ast::Expr<'_>) -> Vec<String> {
    match target {
        ast::Expr::Var(var) => vec![var.id.to_owned()],
        ast::Expr::List(list) => list.items.iter().flat_map(bound).collect(),
        ast::Expr::Tuple(list) => list.items.iter().flat_map(bound).collect(),
        _ => Vec::new(),
    }
}
