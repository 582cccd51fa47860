//! The types of what a template prints, loops over and asks.

use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast::{self, Stmt};
use minijinja::machinery::parse;

use super::{DEEPEST_INCLUDE, MOST_INCLUDES, library, syntax};
use crate::expr::{Around, Facts, Family, Fault, Infer, Local, Module, Place, Roots, Slot, Typed, range};
use crate::state::Type;

/// Finds the text of a partial by its name.
type Parts<'p> = &'p dyn for<'n> Fn(&'n str) -> Option<&'p str>;

/// What was found in a template and in the partials that it includes.
#[derive(Debug, Default)]
pub struct Found {
    /// What is wrong with its types, and in which partial.
    pub faults: Vec<(Option<String>, Fault)>,
    /// Where text from outside is printed as it is, and in which partial.
    pub untrusted: Vec<(Option<String>, Range<usize>)>,
}

/// Looks at the types of a template that has been parsed before.
pub fn check_types(
    source: &str,
    roots: &Roots,
    facts: &Facts,
    no_field: &'static str,
    parts: Parts<'_>,
) -> Found {
    let infer = Infer::new(source, Place::Template, roots, facts.clone(), no_field);
    let mut typer =
        Typer { infer, parts, part: None, around: Vec::new(), looked: 0, found: Found::default() };
    typer.template(source);
    typer.take_faults();
    typer.found
}

struct Typer<'e, 'p> {
    infer: Infer<'e>,
    parts: Parts<'p>,
    /// The partial that is looked at.
    part: Option<String>,
    /// The partials around this place: a cycle ends.
    around: Vec<String>,
    /// How many were looked at: what a partial sees depends on where it is included.
    looked: usize,
    found: Found,
}

impl Typer<'_, '_> {
    fn template(&mut self, source: &str) {
        // What cannot be parsed was reported before.
        if let Ok(template) = parse(source, "template", syntax()) {
            self.stmt(&template);
        }
    }

    fn take_faults(&mut self) {
        let faults = std::mem::take(&mut self.infer.faults);
        self.found.faults.extend(faults.into_iter().map(|fault| (self.part.clone(), fault)));
    }

    fn stmts(&mut self, stmts: &[Stmt<'_>]) {
        for stmt in stmts {
            self.stmt(stmt);
        }
    }

    fn bind(&mut self, name: &str, local: Local) {
        self.infer.facts.unset(name);
        self.infer.locals.push((name.to_owned(), local));
    }

    /// Gives a value a name; what is no value, such as `loop`, keeps what it is.
    fn assign(&mut self, target: &ast::Expr<'_>, value: &ast::Expr<'_>) {
        let typed = self.infer.expr(value);
        if let (ast::Expr::Var(name), ast::Expr::Var(of)) = (target, value)
            && let Some(local) = self.infer.local(of.id).filter(|local| !matches!(local, Local::Value(_)))
        {
            let local = local.clone();
            return self.bind(name.id, local);
        }
        self.bind_target(target, &typed);
    }

    fn bind_target(&mut self, target: &ast::Expr<'_>, typed: &Typed) {
        let targets = match target {
            ast::Expr::Var(var) => {
                let slot = Slot { untrusted: typed.untrusted, ..Slot::of(typed.whole()) };
                return self.bind(var.id, Local::Value(slot));
            }
            ast::Expr::List(list) => &list.items,
            ast::Expr::Tuple(tuple) => &tuple.items,
            _ => return,
        };
        if !typed.null && !typed.must_be(&[Family::List]) {
            let message = format!("{} names for one value", targets.len());
            let label = format!("it is {typed}, which has no items");
            self.infer.fault("S403", message, range(target), label, None, typed.path.clone());
        }
        // Where the parts are of several kinds, which is where is not in the type.
        let part = match typed.items() {
            None | Some(Type::Union(_) | Type::Nullable(_)) => Type::Any,
            Some(part) => part,
        };
        let part = Typed { untrusted: typed.untrusted, ..Typed::of(part) };
        for target in targets {
            self.bind_target(target, &part);
        }
    }

    /// Goes through a body of which the names and what is known are gone after it. Returns what it set.
    fn scoped(&mut self, body: &[Stmt<'_>]) -> Vec<(String, Local)> {
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        self.stmts(body);
        self.infer.facts = facts;
        self.infer.locals.split_off(names)
    }

    fn print(&mut self, expr: &ast::Expr<'_>) {
        let typed = self.infer.expr(expr);
        let untrusted = typed.untrusted;
        let typed = self.infer.some(expr, typed, "a text");
        let outside = |ty: &Type| matches!(ty, Type::String { .. } | Type::Any);
        if typed.may_be(&[Family::List, Family::Object]) {
            self.infer.raw(expr, &typed);
        } else if untrusted && typed.ty.each().iter().any(outside) {
            self.found.untrusted.push((self.part.clone(), range(expr)));
        }
    }

    fn each(&mut self, each: &ast::ForLoop<'_>) {
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
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        let item = Typed { untrusted: iter.untrusted, ..item };
        let slot = Slot { untrusted: item.untrusted, ..Slot::of(item.whole()) };
        self.bind("loop", Local::Loop(Rc::new(Around::of(&slot, each.recursive))));
        // Whatever is gone through has items.
        if let Some(path) = &iter.path {
            self.infer.facts.fill(format!("{path}[]"));
        }
        self.bind_target(&each.target, &item);
        if let Some(filter) = &each.filter_expr {
            self.infer.condition(filter);
            self.infer.assume(filter, true);
        }
        self.stmts(&each.body);
        self.infer.locals.truncate(names);
        self.infer.facts = facts;
        self.scoped(&each.else_body);
    }

    fn choice(&mut self, cond: &ast::IfCond<'_>) {
        self.infer.condition(&cond.expr);
        let before = self.infer.assume(&cond.expr, true);
        let then = self.scoped(&cond.true_body);
        self.infer.facts = before;
        let before = self.infer.assume(&cond.expr, false);
        let other = self.scoped(&cond.false_body);
        self.infer.facts = before;
        // What a branch set is not known to be of one type after it.
        for (name, local) in then.into_iter().chain(other) {
            let local = match local {
                Local::Value(slot) => Local::Value(Slot { untrusted: slot.untrusted, ..Slot::of(Type::Any) }),
                _ => Local::Unknown,
            };
            self.bind(&name, local);
        }
    }

    fn stmt(&mut self, stmt: &Stmt<'_>) {
        match stmt {
            Stmt::Template(template) => self.stmts(&template.children),
            Stmt::EmitExpr(emit) => self.print(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::Do(run) => drop(self.infer.call(&run.call)),
            Stmt::ForLoop(each) => self.each(each),
            Stmt::IfCond(cond) => self.choice(cond),
            Stmt::WithBlock(with) => {
                let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
                for (target, value) in &with.assignments {
                    self.assign(target, value);
                }
                self.stmts(&with.body);
                self.infer.locals.truncate(names);
                self.infer.facts = facts;
            }
            Stmt::Set(set) => {
                self.counted(&set.target, &set.expr);
                self.assign(&set.target, &set.expr);
            }
            Stmt::SetBlock(set) => {
                // What is captured is printed where the name is.
                let before = self.found.untrusted.len();
                self.scoped(&set.body);
                if let Some(filter) = &set.filter {
                    self.infer.expr(filter);
                }
                let untrusted = self.found.untrusted.len() > before;
                self.found.untrusted.truncate(before);
                self.bind_target(&set.target, &Typed { untrusted, ..Typed::of(Type::STRING) });
            }
            Stmt::AutoEscape(escape) => self.stmts(&escape.body),
            Stmt::FilterBlock(filter) => {
                let before = self.found.untrusted.len();
                self.infer.expr(&filter.filter);
                self.scoped(&filter.body);
                if matches!(&filter.filter, ast::Expr::Filter(filter) if filter.name == "quoted") {
                    self.found.untrusted.truncate(before);
                }
            }
            Stmt::Block(block) => drop(self.scoped(&block.body)),
            Stmt::Import(import) => {
                self.part(&import.expr);
                let local =
                    self.module(&import.expr).map_or(Local::Unknown, |module| Local::Module(Rc::new(module)));
                if let ast::Expr::Var(name) = &import.name {
                    self.bind(name.id, local);
                }
            }
            Stmt::FromImport(import) => {
                self.part(&import.expr);
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
            Stmt::Extends(extends) => self.part(&extends.name),
            Stmt::Include(include) => self.part(&include.name),
            Stmt::Macro(decl) => {
                self.bind(decl.name, Local::Macro(Rc::new(library::takes(decl))));
                self.declared(decl);
            }
            Stmt::CallBlock(block) => {
                self.infer.call(&block.call);
                self.declared(&block.macro_decl);
            }
        }
    }

    fn declared(&mut self, decl: &ast::Macro<'_>) {
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        self.bind("caller", Local::Unknown);
        for arg in &decl.args {
            self.bind_target(arg, &Typed::any());
        }
        self.stmts(&decl.body);
        self.infer.locals.truncate(names);
        self.infer.facts = facts;
    }

    /// Checks that a list that is written out has an item for each name.
    fn counted(&mut self, target: &ast::Expr<'_>, value: &ast::Expr<'_>) {
        let count = |expr: &ast::Expr<'_>| match expr {
            ast::Expr::List(list) => Some(list.items.len()),
            ast::Expr::Tuple(tuple) => Some(tuple.items.len()),
            _ => None,
        };
        if let (Some(names), Some(values)) = (count(target), count(value))
            && names != values
        {
            let (message, label) = (format!("{names} names for {values} values"), "one each");
            self.infer.fault("S403", message, range(value), label, None, None);
        }
    }

    /// Returns what a file has for those who import it.
    fn module(&self, name: &ast::Expr<'_>) -> Option<Module> {
        let ast::Expr::Const(literal) = name else { return None };
        let file = literal.value.as_str()?;
        library::module(file, (self.parts)(file)?)
    }

    /// Looks into a partial with the names that it sees here.
    fn part(&mut self, name: &ast::Expr<'_>) {
        let ast::Expr::Const(literal) = name else { return };
        let Some(name) = literal.value.as_str() else { return };
        let Some(source) = (self.parts)(name) else { return };
        self.looked += 1;
        if self.around.iter().any(|outer| outer == name)
            || self.looked > MOST_INCLUDES
            || self.around.len() > DEEPEST_INCLUDE
        {
            return;
        }
        self.around.push(name.to_owned());
        let around = &self.infer;
        let mut infer =
            Infer::new(source, Place::Template, around.roots, around.facts.clone(), around.no_field);
        infer.locals.clone_from(&around.locals);
        let mut within = Typer {
            infer,
            parts: self.parts,
            part: Some(name.to_owned()),
            around: std::mem::take(&mut self.around),
            looked: self.looked,
            found: std::mem::take(&mut self.found),
        };
        within.template(source);
        within.take_faults();
        self.around = within.around;
        self.around.pop();
        self.looked = within.looked;
        self.found = within.found;
    }
}
