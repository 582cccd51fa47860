//! Macros: what they take, and their bodies with what each call gives them.

use std::rc::Rc;

use minijinja::machinery::ast;

use super::MOST_INCLUDES;
use super::typed::Typer;
use crate::expr::{Called, Facts, Local, Macro, Slot, Typed};
use crate::state::Type;

/// A macro, or the block of a call, where it was met.
pub(super) struct Declared<'t> {
    decl: &'t ast::Macro<'t>,
    source: &'t str,
    part: Option<String>,
    locals: Vec<(String, Local)>,
    facts: Facts,
    /// The macros around a block of a call: it belongs to its place, not to the macro that prints it.
    stack: Option<Vec<usize>>,
}

impl<'t> Typer<'_, 't> {
    /// Takes in a macro, and looks at its body with arguments of which nothing is known.
    pub(super) fn declare(&mut self, decl: &'t ast::Macro<'t>) {
        let known = self.takes(decl, decl.name);
        self.bind(decl.name, Local::Macro(Rc::clone(&known)));
        self.keep(decl, None);
        self.body(decl, Local::Unknown, |_, _| Some(Typed::any()));
    }

    /// A macro that is called for a block can call that block.
    pub(super) fn call_block(&mut self, block: &'t ast::CallBlock<'t>) {
        let before = self.infer.called.len();
        self.infer.call(&block.call);
        let own = self.infer.called.len().checked_sub(1).filter(|last| *last >= before);
        let decl: &'t ast::Macro<'t> = &block.macro_decl;
        let known = self.takes(decl, "caller");
        self.keep(decl, Some(self.shared.stack.clone()));
        if let Some(called) = own.and_then(|last| self.infer.called.get_mut(last)) {
            called.caller = Some(known);
        }
        self.body(decl, Local::Unknown, |_, _| Some(Typed::any()));
    }

    /// Returns what a macro takes: its last arguments are those that have a default.
    fn takes(&self, decl: &ast::Macro<'_>, name: &str) -> Rc<Macro> {
        let needed = decl.args.len().saturating_sub(decl.defaults.len());
        let names = decl.args.iter().enumerate().filter_map(|(n, arg)| match arg {
            ast::Expr::Var(var) => Some((var.id.to_owned(), n >= needed)),
            _ => None,
        });
        Rc::new(Macro { id: self.shared.macros.len(), name: name.to_owned(), args: names.collect() })
    }

    fn keep(&mut self, decl: &'t ast::Macro<'t>, stack: Option<Vec<usize>>) {
        self.shared.macros.push(Declared {
            decl,
            source: self.infer.source,
            part: self.part.clone(),
            locals: self.infer.locals.clone(),
            facts: self.infer.facts.clone(),
            stack,
        });
    }

    /// Looks at the macros that the last tag called.
    pub(super) fn follow(&mut self) {
        for called in std::mem::take(&mut self.infer.called) {
            self.enter(&called);
        }
    }

    /// Looks at the body of a macro with what a call gives it.
    fn enter(&mut self, called: &Called) {
        let Some(declared) = self.shared.macros.get(called.id) else { return };
        let (decl, source, part) = (declared.decl, declared.source, declared.part.clone());
        let (locals, facts) = (declared.locals.clone(), declared.facts.clone());
        let mut stack = declared.stack.clone().unwrap_or_else(|| self.shared.stack.clone());
        if stack.contains(&called.id) {
            let message = format!("the macro `{}` calls itself", decl.name);
            let help = "write a loop:  {% for … in … recursive %} goes through what holds itself".to_owned();
            return self.infer.fault("E103", message, called.at.clone(), "leads back here", Some(help), None);
        }
        let block = called.caller.as_ref().map(|block| block.id);
        let call = format!("{} {block:?} {:?}", called.id, called.args);
        self.shared.looked += 1;
        if self.shared.looked > MOST_INCLUDES || !self.shared.entered.insert(call) {
            return;
        }
        self.take_faults();
        let known = self.shared.found.faults.len();
        let printed = self.shared.found.untrusted.len();
        stack.push(called.id);
        let outer = std::mem::replace(&mut self.shared.stack, stack);
        self.within(source, part, locals, facts, |within| {
            let block = match &called.caller {
                Some(known) => Local::Macro(Rc::clone(known)),
                None if called.unpacked || called.args.iter().any(|(name, ..)| name == "caller") => {
                    Local::Unknown
                }
                None => Local::Value(Slot { unset: true, ..Slot::of(Type::Any) }),
            };
            within.body(decl, block, |within, arg| {
                let given = called.args.iter().find(|(name, ..)| name == arg);
                if called.unpacked && given.is_none() {
                    return Some(Typed::any());
                }
                let (_, typed, facts) = given?;
                within.infer.facts.extend(facts);
                Some(Typed { path: None, ..typed.clone() })
            });
        });
        self.shared.stack = outer;
        // What the call gives is text from outside where one of its arguments is.
        self.shared.found.untrusted.truncate(printed);
        let call = self.infer.source.get(called.whole.clone()).unwrap_or_default();
        let mut found = self.shared.found.faults.split_off(known);
        found.retain(|(part, fault)| {
            let same = |(other, known): &(Option<String>, crate::expr::Fault)| {
                (other, known.error.code, &known.error.range) == (part, fault.error.code, &fault.error.range)
            };
            !self.shared.found.faults.iter().any(same)
        });
        for (_, fault) in &mut found {
            // What is wrong with a call within the macro says enough.
            if fault.error.code != "E103" && !fault.error.message.contains(" where `") {
                fault.error.message.push_str(&format!(" where `{call}` is called"));
            }
        }
        self.shared.found.faults.extend(found);
    }

    /// Goes through the body of a macro. `given` says what its arguments are, and nothing of those left out.
    fn body(
        &mut self,
        decl: &'t ast::Macro<'t>,
        caller: Local,
        given: impl Fn(&mut Self, &str) -> Option<Typed>,
    ) {
        let (names, facts) = (self.infer.locals.len(), self.infer.facts.clone());
        self.bind("caller", caller);
        let needed = decl.args.len().saturating_sub(decl.defaults.len());
        for (n, arg) in decl.args.iter().enumerate() {
            let ast::Expr::Var(var) = arg else { continue };
            self.infer.facts.unset(var.id);
            let default = n.checked_sub(needed).and_then(|n| decl.defaults.get(n));
            let default = default.map(|default| self.infer.expr(default));
            let typed = given(self, var.id);
            let known = self.infer.facts.clone();
            let typed = typed.or(default).unwrap_or_else(Typed::any);
            self.bind_target(arg, &Typed { path: None, ..typed }, None);
            self.infer.facts = known;
        }
        self.stmts(&decl.body);
        self.infer.locals.truncate(names);
        self.infer.facts = facts;
    }
}
