//! What a template binds itself: values, the loop around, macros, and the files that they come from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast::{self, CallArg};

use super::{Infer, Slot, Typed, range};
use crate::diagnostic::did_you_mean;
use crate::expr::table::{FUNCTIONS, find};
use crate::expr::words::filter_for;
use crate::state::Type;

/// What a name of the template itself stands for.
#[derive(Debug, Clone)]
pub(crate) enum Local {
    /// A value.
    Value(Slot),
    /// `loop`.
    Loop(Rc<Around>),
    /// A macro.
    Macro(Rc<Macro>),
    /// A file that was imported as a whole.
    Module(Rc<Module>),
    /// Something of a file that is not known.
    Unknown,
}

/// The loop around a place.
#[derive(Debug)]
pub(crate) struct Around {
    fields: BTreeMap<&'static str, Slot>,
    recursive: bool,
}

/// What a macro takes.
#[derive(Debug)]
pub(crate) struct Macro {
    /// Its name.
    pub(crate) name: String,
    /// Its arguments, and whether each can be left out.
    pub(crate) args: Vec<(String, bool)>,
}

/// What an imported file has.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its name.
    pub(crate) file: String,
    /// What it binds at its top.
    pub(crate) names: BTreeMap<String, Local>,
}

impl Around {
    /// Makes the loop over items of a kind.
    pub(crate) fn of(item: &Slot, recursive: bool) -> Self {
        let neighbour = Slot { unset: true, ..item.clone() };
        let counts = ["depth", "depth0", "index", "index0", "length", "revindex", "revindex0"];
        let fields = counts.map(|name| (name, Slot::of(Type::INTEGER))).into_iter();
        let ends = ["first", "last"].map(|name| (name, Slot::of(Type::Boolean)));
        let items = ["nextitem", "previtem"].map(|name| (name, neighbour.clone()));
        Self { fields: fields.chain(ends).chain(items).collect(), recursive }
    }
}

impl Infer<'_> {
    /// Returns what the template itself binds to a name.
    pub(crate) fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|(known, _)| known == name).map(|(_, local)| local)
    }

    /// Reads a name that the template binds.
    pub(super) fn local_value(&mut self, local: &Local, name: &str, at: Range<usize>) -> Typed {
        match local {
            Local::Value(slot) => self.slot(slot, name.to_owned(), at),
            Local::Loop(_) => Typed::of(Type::Object),
            Local::Macro(_) | Local::Module(_) | Local::Unknown => Typed::any(),
        }
    }

    /// Reads a field of a name that the template binds, where it is no value.
    pub(super) fn local_field(
        &mut self,
        local: &Local,
        root: &str,
        name: &str,
        at: Range<usize>,
    ) -> Option<Typed> {
        match local {
            Local::Value(_) | Local::Macro(_) => None,
            Local::Unknown => Some(Typed::any()),
            Local::Module(module) => match module.names.get(name).cloned() {
                Some(local) => Some(self.local_value(&local, &format!("{root}.{name}"), at)),
                None => {
                    self.not_in(module, name, at);
                    Some(Typed::any())
                }
            },
            Local::Loop(around) => {
                let Some(slot) = around.fields.get(name) else {
                    let message = format!("`{root}` has no field `{name}`");
                    let help = did_you_mean(name, around.fields.keys().copied());
                    self.fault(self.no_field, message, at, "no loop has it", help, None);
                    return Some(Typed::any());
                };
                let path = format!("{root}.{name}");
                if slot.unset && !self.lenient && !self.facts.is_defined(&path) {
                    let (round, end) = if name == "previtem" { ("first", "first") } else { ("last", "last") };
                    let message = format!("`{path}` may be unset here");
                    let help = format!("guard it with  {{% if not {root}.{end} %}}");
                    let label = format!("the {round} round has none");
                    self.fault("S404", message, at.clone(), label, Some(help), None);
                    self.facts.define(path.clone());
                }
                Some(self.slot(&Slot { unset: false, ..slot.clone() }, path, at))
            }
        }
    }

    fn not_in(&mut self, module: &Module, name: &str, at: Range<usize>) {
        let message = format!("`{}` has no macro `{name}`", module.file);
        let help = did_you_mean(name, module.names.keys().map(String::as_str));
        self.fault("T305", message, at, "not in this file", help, None);
    }

    /// Returns what a name of an imported file stands for.
    pub(crate) fn imported(&mut self, module: &Module, name: &str, at: Range<usize>) -> Local {
        match module.names.get(name) {
            Some(local) => local.clone(),
            None => {
                self.not_in(module, name, at);
                Local::Unknown
            }
        }
    }

    /// Finds the type of what a call gives.
    pub(crate) fn call(&mut self, call: &ast::Call<'_>) -> Typed {
        let known = match &call.expr {
            ast::Expr::Var(var) if self.local(var.id).is_none() => find(FUNCTIONS, var.id),
            _ => None,
        };
        let args = self.args("function", known, &call.args);
        let untrusted = args.untrusted;
        let at = range(&call.expr);
        match &call.expr {
            ast::Expr::Var(var) => match self.local(var.id).cloned() {
                Some(Local::Macro(decl)) => {
                    self.arity(&decl, &call.args, at);
                    return Typed { untrusted, ..Typed::of(Type::STRING) };
                }
                Some(Local::Loop(around)) if !around.recursive => {
                    let help = "write  {% for … in … recursive %}".to_owned();
                    let message = "this loop cannot be called".to_owned();
                    self.fault("E103", message, at, "it is not recursive", Some(help), None);
                }
                Some(Local::Value(slot)) if slot.ty != Type::Any => {
                    let (message, label) =
                        (format!("`{}` is no function", var.id), format!("this is {}", slot.ty));
                    self.fault("E103", message, at, label, None, None);
                }
                None if var.id == "range" => return Typed::of(Type::List(Box::new(Type::INTEGER))),
                Some(_) | None => {}
            },
            ast::Expr::GetAttr(attr) => {
                let root = match &attr.expr {
                    ast::Expr::Var(var) => self.local(var.id).cloned(),
                    _ => None,
                };
                match root {
                    Some(Local::Loop(_)) if attr.name == "changed" => return Typed::of(Type::Boolean),
                    Some(Local::Loop(_)) if attr.name == "cycle" => {
                        return Typed {
                            untrusted,
                            ..args.placed.into_iter().reduce(Typed::union).unwrap_or_else(Typed::any)
                        };
                    }
                    Some(Local::Loop(_)) => self.no_method(attr, &["changed", "cycle"]),
                    Some(Local::Module(module)) => match self.imported(&module, attr.name, at.clone()) {
                        Local::Macro(decl) => {
                            self.arity(&decl, &call.args, at);
                            return Typed { untrusted, ..Typed::of(Type::STRING) };
                        }
                        _ => return Typed { untrusted, ..Typed::any() },
                    },
                    // What stands on a name that the template binds was not looked at before there were types.
                    Some(Local::Value(_)) | None if self.on_local(&attr.expr) => {
                        let object = self.expr(&attr.expr);
                        if object.ty != Type::Any {
                            self.no_method(attr, &[]);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Typed { untrusted, ..Typed::any() }
    }

    /// Says whether a path begins with a name that the template binds.
    fn on_local(&self, expr: &ast::Expr<'_>) -> bool {
        super::chain(expr).is_some_and(|(root, _)| self.local(root).is_some())
    }

    /// Reports a method: values have none.
    fn no_method(&mut self, attr: &ast::GetAttr<'_>, there: &[&str]) {
        let message = format!("unknown function `{}`", attr.name);
        let object = self.text(&attr.expr);
        let help = match filter_for(attr.name) {
            Some(filter) if there.is_empty() => Some(format!("write `{object} | {filter}`")),
            _ if there.is_empty() => Some("there are no methods; filters are written `x | name`".to_owned()),
            _ => did_you_mean(attr.name, there.iter().copied()),
        };
        let from = range(&attr.expr).end;
        // Up to its parenthesis: the name and the dot before it.
        let rest = self.source.get(from..).unwrap_or_default();
        let to = from + rest.find('(').unwrap_or(0);
        self.fault("E103", message, from..to, "no function has this name", help, None);
    }

    /// Checks that a macro gets what it takes.
    fn arity(&mut self, decl: &Macro, args: &[CallArg<'_>], at: Range<usize>) {
        if args.iter().any(|arg| matches!(arg, CallArg::PosSplat(_) | CallArg::KwargSplat(_))) {
            return;
        }
        let takes = || {
            let names: Vec<&str> = decl.args.iter().map(|(name, _)| name.as_str()).collect();
            if names.is_empty() {
                "takes no arguments".to_owned()
            } else {
                format!("takes {}", names.join(", "))
            }
        };
        let placed = args.iter().filter(|arg| matches!(arg, CallArg::Pos(_))).count();
        if placed > decl.args.len() {
            let message = format!("the macro `{}` has {placed} arguments", decl.name);
            return self.fault("E103", message, at, takes(), None, None);
        }
        let mut named = Vec::new();
        for arg in args {
            let CallArg::Kwarg(name, value) = arg else { continue };
            if *name != "caller" && !decl.args.iter().any(|(known, _)| known == name) {
                let message = format!("the macro `{}` has no argument `{name}`", decl.name);
                let help = did_you_mean(name, decl.args.iter().map(|(name, _)| name.as_str()));
                self.fault("E103", message, range(value), takes(), help, None);
                return;
            }
            named.push(*name);
        }
        let lacks = decl.args.iter().skip(placed);
        let lacking = lacks.filter(|(name, optional)| !optional && !named.contains(&name.as_str()));
        let Some((lacking, _)) = lacking.clone().next() else { return };
        let message = format!("the macro `{}` lacks its argument `{lacking}`", decl.name);
        let help = format!("give it, or let the macro have a default:  {lacking}=''");
        self.fault("E103", message, at, takes(), Some(help), None);
    }
}
