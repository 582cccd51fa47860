//! What a file of macros has for those who import it.

use std::collections::BTreeMap;
use std::rc::Rc;

use minijinja::machinery::ast::{self, Stmt};
use minijinja::machinery::parse;

use super::syntax;
use crate::expr::{Local, Macro, Module};

/// Returns what a file binds at its top; nothing where it cannot be read.
pub(super) fn module(file: &str, source: &str) -> Option<Module> {
    let template = parse(source, file, syntax()).ok()?;
    let mut names = BTreeMap::new();
    top(&template, &mut names);
    Some(Module { file: file.to_owned(), names })
}

/// Returns what a macro takes: its last arguments are those that have a default.
pub(super) fn takes(decl: &ast::Macro<'_>) -> Macro {
    let needed = decl.args.len().saturating_sub(decl.defaults.len());
    let names = decl.args.iter().enumerate().filter_map(|(n, arg)| match arg {
        ast::Expr::Var(var) => Some((var.id.to_owned(), n >= needed)),
        _ => None,
    });
    Macro { name: decl.name.to_owned(), args: names.collect() }
}

/// Collects what is left when a file has been gone through: an `if` keeps nothing for itself, a loop does.
fn top(stmt: &Stmt<'_>, names: &mut BTreeMap<String, Local>) {
    let mut all = |body: &[Stmt<'_>]| body.iter().for_each(|stmt| top(stmt, names));
    match stmt {
        Stmt::Template(template) => all(&template.children),
        Stmt::IfCond(cond) => {
            all(&cond.true_body);
            all(&cond.false_body);
        }
        Stmt::Macro(decl) => {
            names.insert(decl.name.to_owned(), Local::Macro(Rc::new(takes(decl))));
        }
        Stmt::Set(set) => bound(&set.target, names),
        Stmt::SetBlock(set) => bound(&set.target, names),
        Stmt::Import(import) => bound(&import.name, names),
        Stmt::FromImport(import) => {
            for (name, alias) in &import.names {
                bound(alias.as_ref().unwrap_or(name), names);
            }
        }
        _ => {}
    }
}

fn bound(target: &ast::Expr<'_>, names: &mut BTreeMap<String, Local>) {
    match target {
        ast::Expr::Var(var) => drop(names.insert(var.id.to_owned(), Local::Unknown)),
        ast::Expr::List(list) => list.items.iter().for_each(|item| bound(item, names)),
        ast::Expr::Tuple(list) => list.items.iter().for_each(|item| bound(item, names)),
        _ => {}
    }
}
