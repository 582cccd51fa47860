//! Which names a template reads, and what is wrong with its expressions and includes.

use std::ops::Range;

use minijinja::machinery::ast::{self, Stmt};

use super::{Parsed, TemplateError};
use crate::expr::{ExprError, Place, Walk, range};

/// Goes through a parsed template.
pub(super) fn names<'a>(source: &'a str, template: &Stmt<'a>) -> Parsed {
    let mut names = Names {
        walk: Walk::new(source, Place::Template),
        includes: Vec::new(),
        bound: Vec::new(),
        extends: false,
        errors: Vec::new(),
    };
    names.stmt(template);
    let Names { walk, includes, bound, mut errors, .. } = names;
    errors.extend(walk.errors.into_iter().map(TemplateError::from));
    errors.sort_by_key(|error| (error.range.start, error.range.end));
    let mut reads = walk.reads;
    reads.sort_by_key(|read| (read.range.start, read.range.end));
    Parsed { reads, includes, bound, errors, len: source.len() }
}

impl From<ExprError> for TemplateError {
    fn from(error: ExprError) -> Self {
        let ExprError { code, message, label, help, range } = error;
        // Syntax has the template's own code.
        let code = if code == "E101" { "T301" } else { code };
        Self { code, message, label, help, range, related: None }
    }
}

struct Names<'a> {
    walk: Walk<'a>,
    includes: Vec<(String, Range<usize>)>,
    /// For each include the names that are bound around it: it sees them.
    bound: Vec<Vec<String>>,
    /// Its blocks stand for those of another file, which they can ask for.
    extends: bool,
    errors: Vec<TemplateError>,
}

impl<'a> Names<'a> {
    fn stmts(&mut self, stmts: &[Stmt<'a>]) {
        for stmt in stmts {
            self.stmt(stmt);
        }
    }

    /// Goes through a body of which the names are gone after it. Returns the names that it set.
    fn scoped(&mut self, bind: impl FnOnce(&mut Self), body: &[Stmt<'a>]) -> Vec<&'a str> {
        let outer = self.walk.bound.len();
        bind(self);
        let own = self.walk.bound.len();
        self.stmts(body);
        let set = self.walk.bound.split_off(own);
        self.walk.bound.truncate(outer);
        set
    }

    fn bind(&mut self, target: &ast::Expr<'a>) {
        match target {
            ast::Expr::Var(var) => self.walk.bound.push(var.id),
            ast::Expr::List(list) => self.bind_all(&list.items, list.span()),
            ast::Expr::Tuple(tuple) => self.bind_all(&tuple.items, tuple.span()),
            // `{% set ns.x = 1 %}` reads the namespace.
            other => self.walk.expr(other),
        }
    }

    fn bind_all(&mut self, targets: &[ast::Expr<'a>], at: minijinja::machinery::Span) {
        if targets.is_empty() {
            // The parser takes `{% set %}`, and says that it ends before it begins.
            let at = span(at);
            self.errors.push(TemplateError {
                code: "T301",
                message: "nothing is named here".to_owned(),
                label: "a name is missing".to_owned(),
                help: Some("write a name:  {% set NAME = … %}".to_owned()),
                range: at.start.min(at.end)..at.start.max(at.end),
                related: None,
            });
        }
        for target in targets {
            self.bind(target);
        }
    }

    fn stmt(&mut self, stmt: &Stmt<'a>) {
        match stmt {
            Stmt::Template(template) => self.stmts(&template.children),
            Stmt::EmitExpr(emit) => self.walk.expr(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                self.walk.expr(&each.iter);
                let bind = |names: &mut Self| {
                    names.walk.bound.push("loop");
                    names.bind(&each.target);
                    if let Some(filter) = &each.filter_expr {
                        names.walk.expr(filter);
                    }
                };
                self.scoped(bind, &each.body);
                self.scoped(|_| {}, &each.else_body);
            }
            Stmt::IfCond(cond) => {
                self.walk.expr(&cond.expr);
                // What both branches set is set after them.
                let when = self.scoped(|_| {}, &cond.true_body);
                let otherwise = self.scoped(|_| {}, &cond.false_body);
                self.walk.bound.extend(when.into_iter().filter(|name| otherwise.contains(name)));
            }
            Stmt::WithBlock(with) => {
                let bind = |names: &mut Self| {
                    for (target, value) in &with.assignments {
                        names.walk.expr(value);
                        names.bind(target);
                    }
                };
                self.scoped(bind, &with.body);
            }
            Stmt::Set(set) => {
                self.walk.expr(&set.expr);
                self.bind(&set.target);
            }
            Stmt::SetBlock(set) => {
                if let Some(filter) = &set.filter {
                    self.walk.expr(filter);
                }
                self.scoped(|_| {}, &set.body);
                self.bind(&set.target);
            }
            Stmt::AutoEscape(escape) => self.stmts(&escape.body),
            Stmt::FilterBlock(filter) => {
                self.walk.expr(&filter.filter);
                self.scoped(|_| {}, &filter.body);
            }
            Stmt::Block(block) => {
                let bind = |names: &mut Self| {
                    if names.extends {
                        names.walk.bound.push("super");
                    }
                };
                self.scoped(bind, &block.body);
            }
            Stmt::Import(import) => {
                self.library(&import.expr, "import");
                // The parser takes any expression here, and the engine stops the process at all but a name.
                if matches!(import.name, ast::Expr::Var(_)) {
                    self.bind(&import.name);
                } else {
                    self.errors.push(TemplateError {
                        code: "T301",
                        message: "`import` takes a name after `as`".to_owned(),
                        label: "not a name".to_owned(),
                        help: Some("write {% import \"_macros/name.md\" as name %}".to_owned()),
                        range: range(&import.name),
                        related: None,
                    });
                }
            }
            Stmt::FromImport(import) => {
                self.library(&import.expr, "from");
                for (name, alias) in &import.names {
                    self.bind(alias.as_ref().unwrap_or(name));
                }
            }
            Stmt::Extends(extends) => {
                self.extends = true;
                self.library(&extends.name, "extends");
            }
            Stmt::Include(include) => {
                if include.ignore_missing {
                    self.wrong(
                        "an include cannot ignore that its file is missing",
                        "files are known at start-up",
                        Some("drop `ignore missing`".to_owned()),
                        range(&include.name),
                    );
                }
                self.file(&include.name, "include");
            }
            Stmt::Macro(decl) => {
                self.walk.bound.push(decl.name);
                self.declared(decl);
            }
            Stmt::CallBlock(block) => {
                self.walk.call(&block.call, span(block.call_expr_span));
                self.declared(&block.macro_decl);
            }
            Stmt::Do(run) => self.walk.call(&run.call, span(run.call.span())),
        }
    }

    fn declared(&mut self, decl: &ast::Macro<'a>) {
        let bind = |names: &mut Self| {
            names.walk.bound.push("caller");
            for default in &decl.defaults {
                names.walk.expr(default);
            }
            for arg in &decl.args {
                names.bind(arg);
            }
        };
        self.scoped(bind, &decl.body);
    }

    /// Takes in the name of a file that only serves others.
    fn library(&mut self, name: &ast::Expr<'a>, tag: &str) {
        let before = self.includes.len();
        if let Some(file) = self.file(name, tag)
            && !file.starts_with("_macros/")
            && !file.starts_with("_partials/")
        {
            // Whether the file is there does not matter then.
            self.includes.truncate(before);
            self.bound.truncate(before);
            self.wrong(
                &format!("`{tag}` takes a file of `_macros/` or `_partials/`"),
                "not of these folders",
                None,
                range(name),
            );
        }
    }

    fn file(&mut self, name: &ast::Expr<'a>, tag: &str) -> Option<String> {
        let literal = match name {
            ast::Expr::Const(literal) => literal.value.as_str(),
            _ => None,
        };
        let at = range(name);
        let Some(file) = literal else {
            let help = Some(format!("write {{% {tag} \"_partials/name.md\" %}}, in an `if` for a choice"));
            self.wrong(&format!("`{tag}` takes a literal name"), "not a text in quotes", help, at);
            return None;
        };
        let escapes = file.starts_with('/')
            || file.contains('\\')
            || file.split('/').any(|part| matches!(part, "" | "." | ".."));
        if escapes {
            self.wrong(
                "a name is a path within `prompts/`",
                "leads elsewhere",
                Some("write the path from `prompts/` on, such as `_partials/name.md`".to_owned()),
                at,
            );
            return None;
        }
        self.includes.push((file.to_owned(), at));
        self.bound.push(self.walk.bound.iter().map(|&name| name.to_owned()).collect());
        Some(file.to_owned())
    }

    fn wrong(&mut self, message: &str, label: &str, help: Option<String>, range: Range<usize>) {
        self.errors.push(TemplateError {
            code: "T305",
            message: message.to_owned(),
            label: label.to_owned(),
            help,
            range,
            related: None,
        });
    }
}

fn span(span: minijinja::machinery::Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}
