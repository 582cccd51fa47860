//! What a template binds itself: values, the loop around, macros, and the files that they come from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast::{self, CallArg};

use super::args::Args;
use super::{Facts, Family, Infer, Slot, Typed, range};
use crate::diagnostic::did_you_mean;
use crate::expr::table::{FUNCTIONS, find};
use crate::expr::walk::unpacked;
use crate::expr::words::filter_for;
use crate::state::Type;

/// What a name of the template itself stands for.
#[derive(Debug, Clone)]
pub(crate) enum Local {
    /// A value.
    Value(Slot),
    /// `loop`.
    Loop(Rc<Around>),
    /// A namespace, by the key of what is known of its fields.
    Space(Rc<str>),
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
    /// The names of its items.
    names: Vec<String>,
    item: Type,
}

/// What a macro takes.
#[derive(Debug)]
pub(crate) struct Macro {
    /// Which macro of the template it is.
    pub(crate) id: usize,
    /// Its name.
    pub(crate) name: String,
    /// Its arguments, and whether each can be left out.
    pub(crate) args: Vec<(String, bool)>,
}

/// A call of a macro: its body is looked at with what the call gives it.
#[derive(Debug)]
pub(crate) struct Called {
    /// Which macro of the template it is.
    pub(crate) id: usize,
    /// What is given, by the names of the arguments, with what is known of its parts.
    pub(crate) args: Vec<(String, Typed, Facts)>,
    /// Arguments are unpacked from a list: which are given is not known.
    pub(crate) unpacked: bool,
    /// The block that the macro can call, where it is called for one.
    pub(crate) caller: Option<Rc<Macro>>,
    /// The place of its name.
    pub(crate) at: Range<usize>,
    /// The place of the call.
    pub(crate) whole: Range<usize>,
}

/// A field of a namespace.
#[derive(Debug, Clone)]
pub(crate) struct SpaceField {
    /// What is put into it, wherever that is done.
    pub(crate) typed: Typed,
    /// It has a value from the beginning.
    pub(crate) set: bool,
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
    pub(crate) fn of(item: &Slot, names: Vec<String>, recursive: bool) -> Self {
        let neighbour = Slot { unset: true, ..item.clone() };
        let counts = ["depth", "depth0", "index", "index0", "length", "revindex", "revindex0"];
        let fields = counts.map(|name| (name, Slot::of(Type::NATURAL))).into_iter();
        let ends = ["first", "last"].map(|name| (name, Slot::of(Type::Boolean)));
        let items = ["nextitem", "previtem"].map(|name| (name, neighbour.clone()));
        let fields = fields.chain(ends).chain(items).collect();
        Self { fields, recursive, names, item: item.ty.clone() }
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
            Local::Loop(_) | Local::Space(_) => Typed::of(Type::Object),
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
            Local::Space(key) => Some(self.space_field(key, root, name, at)),
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

    /// Reads a field of a namespace.
    fn space_field(&mut self, key: &str, root: &str, name: &str, at: Range<usize>) -> Typed {
        let Some(fields) = self.spaces.get(key) else { return Typed::any() };
        let Some(field) = fields.get(name).cloned() else {
            let message = format!("`{root}` has no field `{name}`");
            let help = did_you_mean(name, fields.keys().map(String::as_str));
            self.fault(self.no_field, message, at, "nothing sets it", help, None);
            return Typed::any();
        };
        let slot =
            Slot { unset: !field.set, untrusted: field.typed.untrusted, ..Slot::of(field.typed.whole()) };
        let typed = self.slot(&slot, format!("{root}.{name}"), at);
        Typed { empty: field.typed.empty, literal: field.typed.literal, ..typed }
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
                Some(Local::Macro(decl)) => return self.call_macro(&decl, call, &args, at),
                Some(Local::Loop(around)) => return self.call_loop(&around, var.id, call, &args, at),
                Some(Local::Value(_)) if var.id == "caller" => {
                    if !self.facts.is_defined("caller") {
                        let message =
                            "`caller` is there only where the macro is called for a block".to_owned();
                        let help = "write  {% call … %}text{% endcall %}  or ask before:  {% if caller is defined %}";
                        self.fault("E103", message, at, "not here", Some(help.to_owned()), None);
                    }
                }
                Some(Local::Value(slot)) if slot.ty != Type::Any => {
                    let (message, label) =
                        (format!("`{}` is no function", var.id), format!("this is {}", slot.ty));
                    self.fault("E103", message, at, label, None, None);
                }
                None if var.id == "range" => {
                    self.range(&call.args);
                    return Typed::of(Type::List(Box::new(Type::INTEGER)));
                }
                None if var.id == "dict" => return self.dict(&call.args, args),
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
                        if call.args.is_empty() {
                            let message = "`cycle` takes one argument or more".to_owned();
                            self.fault("E103", message, at, "none given", None, None);
                        }
                        return Typed {
                            untrusted,
                            ..args.placed.into_iter().reduce(Typed::union).unwrap_or_else(Typed::any)
                        };
                    }
                    Some(Local::Loop(_)) => self.no_method(attr, &["changed", "cycle"]),
                    Some(Local::Module(module)) => match self.imported(&module, attr.name, at.clone()) {
                        Local::Macro(decl) => return self.call_macro(&decl, call, &args, at),
                        _ => return Typed { untrusted, ..Typed::any() },
                    },
                    // What stands on a name that the template binds was not looked at before there were types.
                    Some(Local::Value(_) | Local::Space(_)) | None if self.on_local(&attr.expr) => {
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

    /// A macro gives text. Its body is looked at afterwards, with these arguments.
    fn call_macro(&mut self, decl: &Rc<Macro>, call: &ast::Call<'_>, args: &Args, at: Range<usize>) -> Typed {
        let before = self.faults.len();
        self.arity(decl, &call.args, at.clone());
        if self.faults.len() == before {
            let placed = decl.args.iter().map(|(name, _)| name.clone()).zip(args.placed.iter().cloned());
            let given = placed.chain(args.named.iter().cloned()).map(|(name, typed)| {
                let facts = match &typed.path {
                    Some(path) => self.facts.renamed(path, &name),
                    None => Facts::default(),
                };
                (name, typed, facts)
            });
            let args = given.collect();
            let unpacked = call.args.iter().any(unpacked);
            let last = call.args.last().map_or(at.end, |arg| match arg {
                CallArg::Pos(value)
                | CallArg::Kwarg(_, value)
                | CallArg::PosSplat(value)
                | CallArg::KwargSplat(value) => range(value).end,
            });
            let rest = self.source.get(last..).unwrap_or_default();
            let whole = at.start..last + rest.find(')').map_or(0, |end| end + 1);
            self.called.push(Called { id: decl.id, args, unpacked, caller: None, at, whole });
        }
        Typed { untrusted: args.untrusted, ..Typed::of(Type::STRING) }
    }

    /// A loop that calls itself goes through what its item holds, or no deeper than it says.
    fn call_loop(
        &mut self,
        around: &Around,
        name: &str,
        call: &ast::Call<'_>,
        args: &Args,
        at: Range<usize>,
    ) -> Typed {
        let found = match (call.args.as_slice(), args.placed.as_slice()) {
            _ if !around.recursive => Some((
                "this loop cannot be called",
                "it is not recursive",
                Some("write  {% for … in … recursive %}"),
            )),
            _ if name != "loop" => Some(("a loop is called by the name `loop`", "another name", None)),
            ([CallArg::Pos(list)], [typed]) => {
                let fits = typed.items().is_none_or(|item| around.item.accepts(&item));
                if !typed.must_be(&[Family::List]) || !fits {
                    let message = format!("this loop goes through items that are {}", around.item);
                    self.misfit(list, typed, &message);
                    None
                } else if self.facts.is_defined("loop[bounded]") || part_of(list, &around.names) {
                    None
                } else {
                    Some((
                        "this loop may call itself without end",
                        "not a part of its item",
                        Some("give it a field of its item, or ask before:  {% if loop.depth < 5 %}"),
                    ))
                }
            }
            _ => Some(("`loop` takes one list", "not one argument", None)),
        };
        if let Some((message, label, help)) = found {
            self.fault("E103", message.to_owned(), at, label, help.map(str::to_owned), None);
        }
        Typed { untrusted: args.untrusted, ..Typed::of(Type::STRING) }
    }

    /// `dict` makes an object of an object and of fields.
    fn dict(&mut self, written: &[CallArg<'_>], args: Args) -> Typed {
        let untrusted = args.untrusted;
        let mut known = !written.iter().any(unpacked);
        let mut fields = Vec::new();
        let placed = written.iter().filter_map(|arg| match arg {
            CallArg::Pos(value) => Some(value),
            _ => None,
        });
        for (n, (value, typed)) in placed.zip(args.placed).enumerate() {
            if n > 0 || typed.null || !typed.must_be(&[Family::Object]) {
                self.misfit(value, &typed, "`dict` takes one object, and fields by their names");
                return Typed::any();
            }
            let typed = self.some(value, typed, "`dict`");
            match typed.ty {
                Type::Record(own) => {
                    fields.extend(own.into_iter().map(|(name, field)| (name, Typed::of(field.ty))));
                }
                _ => known = false,
            }
        }
        fields.extend(args.named);
        if known {
            Typed { untrusted, ..Typed::record(fields.into_iter()) }
        } else {
            Typed { untrusted, ..Typed::any() }
        }
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
        if args.iter().any(unpacked) {
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

/// Says whether a value is a part of one of these, as it is or filtered.
fn part_of(expr: &ast::Expr<'_>, names: &[String]) -> bool {
    let (mut at, mut part) = (expr, false);
    loop {
        at = match at {
            ast::Expr::GetAttr(attr) => {
                part = true;
                &attr.expr
            }
            ast::Expr::GetItem(item) => {
                part = true;
                &item.expr
            }
            ast::Expr::Filter(filter) => match &filter.expr {
                Some(value) => value,
                None => return false,
            },
            ast::Expr::Var(var) => return part && names.iter().any(|name| name == var.id),
            _ => return false,
        };
    }
}
