//! Namespaces: what a template puts into them, wherever that is.

use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast;

use super::typed::Typer;
use crate::expr::{Facts, Local, SpaceField, Typed, range};
use crate::state::Type;

impl Typer<'_, '_> {
    /// Notes what a namespace begins with.
    pub(super) fn namespace(&mut self, args: &[ast::CallArg<'_>], whole: &ast::Expr<'_>) -> Local {
        let mut begins = Vec::new();
        let mut known = true;
        for arg in args {
            match arg {
                ast::CallArg::Kwarg(name, value) => begins.push(((*name).to_owned(), self.infer.expr(value))),
                ast::CallArg::Pos(value) => {
                    let typed = self.infer.expr(value);
                    match typed.ty {
                        Type::Record(fields) => {
                            begins
                                .extend(fields.into_iter().map(|(name, field)| (name, Typed::of(field.ty))));
                        }
                        Type::Object | Type::Any => known = false,
                        _ => {
                            let message = "`namespace` takes an object, or fields by their names".to_owned();
                            let label = format!("this is {typed}");
                            self.infer.fault("S403", message, range(value), label, None, None);
                            known = false;
                        }
                    }
                }
                ast::CallArg::PosSplat(value) | ast::CallArg::KwargSplat(value) => {
                    self.infer.expr(value);
                    known = false;
                }
            }
        }
        if !known {
            return Local::Unknown;
        }
        let key: Rc<str> =
            format!("{}:{}", self.part.as_deref().unwrap_or_default(), range(whole).start).into();
        self.infer.spaces.entry(Rc::clone(&key)).or_default();
        for (name, typed) in begins {
            self.widen(&key, &name, typed, true);
        }
        Local::Space(key)
    }

    /// Puts a value into a field of a namespace.
    pub(super) fn put(&mut self, target: &ast::GetAttr<'_>, at: Range<usize>, typed: Option<Typed>) {
        let ast::Expr::Var(of) = &target.expr else { return };
        match self.infer.local(of.id).cloned() {
            Some(Local::Space(key)) => {
                let path = format!("{}.{}", of.id, target.name);
                if let Some(typed) = typed {
                    self.widen(&key, target.name, typed, false);
                }
                self.infer.facts.forget(&path);
                self.infer.facts.define(path.clone());
                self.shared.changed.push(path);
            }
            Some(Local::Unknown) => {}
            _ => {
                let message = format!("`{}` cannot be changed", of.id);
                let help =
                    format!("only a namespace can:  {{% set {} = namespace({}=…) %}}", of.id, target.name);
                self.infer.fault("S403", message, at, "no namespace", Some(help), None);
            }
        }
    }

    fn widen(&mut self, key: &Rc<str>, name: &str, typed: Typed, begins: bool) {
        let typed = Typed { path: None, ..typed };
        let fields = self.infer.spaces.entry(Rc::clone(key)).or_default();
        let Some(field) = fields.get_mut(name) else {
            fields.insert(name.to_owned(), SpaceField { typed, set: begins });
            self.shared.widened |= !begins;
            return;
        };
        let both = field.typed.clone().union(typed);
        if field.typed.ty != Type::Any || field.typed.null {
            let more = both.whole() != field.typed.whole() || both.untrusted != field.typed.untrusted;
            self.shared.widened |= more;
            // What grows on and on is anything.
            field.typed = if more && self.shared.round > 3 { Typed::any() } else { both };
        }
    }

    /// Goes back to what was known before a body, but for what that has put into namespaces.
    pub(super) fn back_to(&mut self, facts: Facts, changed: usize) {
        self.infer.facts = facts;
        for path in self.shared.changed.iter().skip(changed) {
            self.infer.facts.forget(path);
        }
    }

    /// A later round of a loop finds in a namespace what an earlier one has put there.
    pub(super) fn forget_spaces(&mut self) {
        let spaces = self.infer.locals.iter().filter(|(_, local)| matches!(local, Local::Space(_)));
        for name in spaces.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.infer.facts.forget(&name);
        }
    }
}
