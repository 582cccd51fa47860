//! The fields of values.

use std::ops::Range;

use minijinja::machinery::ast;

use super::{Infer, Root, Slot, Typed, of_calls, range};
use crate::diagnostic::did_you_mean;
use crate::state::{Type, either};

impl Infer<'_> {
    /// Reads a field of `state`, `input`, `run` or `loop`; nothing when the name is none of these.
    pub(super) fn root_field(&mut self, root: &str, name: &str, range: Range<usize>) -> Option<Typed> {
        if let Some(local) = self.local(root).cloned() {
            return self.local_field(&local, root, name, range);
        }
        let Some(Root::Fields(fields)) = self.roots.get(root) else { return None };
        // An unknown field was reported when the names were looked at.
        let Some(slot) = fields.get(name) else { return Some(Typed::any()) };
        Some(self.slot(slot, format!("{root}.{name}"), range))
    }

    pub(super) fn slot(&mut self, slot: &Slot, path: String, range: Range<usize>) -> Typed {
        if slot.unset && !self.lenient && !self.facts.is_defined(&path) {
            let message = format!("`{path}` may be unset here");
            let help = "write it first, give it a `default:`, or guard with `is defined`";
            self.fault("S404", message, range, "read here", Some(help.to_owned()), Some(path.clone()));
            // Once is enough within one expression.
            self.facts.define(path.clone());
        }
        let some = self.facts.is_some(&path);
        let ty = if some { slot.ty.non_null().clone() } else { slot.ty.clone() };
        let ty = self.facts.told(&path, ty);
        let (untrusted, gradual, parts) = (slot.untrusted, slot.gradual, slot.parts.clone());
        Typed { path: Some(path), untrusted, gradual, parts, ..Typed::of(ty) }
    }

    /// Reads a field of a value.
    pub(super) fn field(
        &mut self,
        expr: &ast::Expr<'_>,
        object: Typed,
        name: &str,
        range: Range<usize>,
    ) -> Typed {
        let object = self.some(expr, object, "a field");
        let path = object.path.as_ref().map(|path| format!("{path}.{name}"));
        let untrusted = object.untrusted;
        let told = path.as_ref().is_some_and(|path| self.facts.is_defined(path));
        let found = match &object.ty {
            Type::Record(_) if of_calls(&object.ty, name).is_some() => {
                if !self.lenient && !told {
                    let message = format!("`{}.{name}` may be unset here", self.text(expr));
                    let help = "guard it with `is defined`, or give a value instead with `default`";
                    let at = self.last_part(expr, range.clone());
                    let label = "only turns about tools have it";
                    self.fault("S404", message, at, label, Some(help.to_owned()), None);
                }
                of_calls(&object.ty, name).unwrap_or(Type::Any)
            }
            Type::Record(fields) => match fields.get(name) {
                Some(field) => field.ty.clone(),
                None => {
                    let message = format!("{} has no field `{name}`", self.named(expr, &object));
                    let at = self.last_part(expr, range.clone());
                    let help = did_you_mean(name, fields.keys().map(String::as_str));
                    let label = format!("this is {}", object.ty);
                    self.fault(self.no_field, message, at, label, help, object.path.clone());
                    Type::Any
                }
            },
            Type::Any => Type::Any,
            Type::Union(all) if all.iter().all(|ty| matches!(ty, Type::Record(_) | Type::Any)) => {
                let asked = self.lenient || path.as_ref().is_some_and(|path| self.facts.is_defined(path));
                match in_branches(all, name) {
                    (Some(ty), whole) if whole || asked => ty,
                    (found, _) => {
                        let named = self.named(expr, &object);
                        let (message, help) = match found {
                            Some(_) => (
                                format!("{named} may be without a field `{name}`"),
                                Some("give it in each branch, or guard with `is defined`".to_owned()),
                            ),
                            None => (format!("{named} has no field `{name}`"), None),
                        };
                        let at = self.last_part(expr, range.clone());
                        let label = format!("this is {}", object.ty);
                        self.fault(self.no_field, message, at, label, help, object.path.clone());
                        Type::Any
                    }
                }
            }
            Type::List(_) | Type::Messages => {
                let message = format!("a list has no field `{name}`");
                let at = self.last_part(expr, range.clone());
                let text = self.text(expr);
                let help = match name {
                    "length" | "len" | "size" | "count" => format!("write  {text} | length"),
                    _ => format!(
                        "a field belongs to an item:  ({text} | last).{name}  or  {text} | map(attribute='{name}')"
                    ),
                };
                let label = format!("this is {}", object.ty);
                self.fault(self.no_field, message, at, label, Some(help), object.path.clone());
                Type::Any
            }
            Type::Object => {
                let message = format!("`object` has no field `{name}`");
                let help = "declare its fields, or use `any`".to_owned();
                let at = self.last_part(expr, range.clone());
                self.fault(
                    self.no_field,
                    message,
                    at,
                    "nothing is known of it",
                    Some(help),
                    object.path.clone(),
                );
                Type::Any
            }
            other => {
                let message = format!("{other} has no field `{name}`");
                let at = self.last_part(expr, range.clone());
                self.fault(self.no_field, message, at, "no fields here", None, object.path.clone());
                Type::Any
            }
        };
        if object.gradual && !self.lenient && !told {
            let named = path.clone().unwrap_or_else(|| format!("{}.{name}", self.text(expr)));
            let message = format!("`{named}` may be unset here");
            let help = "write the field first, give the channel a `default:`, or guard with `is defined`";
            let at = self.last_part(expr, range.clone());
            self.fault("S404", message, at, "read here", Some(help.to_owned()), path.clone());
            self.facts.define(path.clone().unwrap_or_default());
        }
        let some = path.as_ref().is_some_and(|path| self.facts.is_some(path));
        let ty = if some { found.non_null().clone() } else { found };
        let ty = path.as_ref().map_or_else(|| ty.clone(), |path| self.facts.told(path, ty.clone()));
        Typed { untrusted, path, ..Typed::of(ty) }
    }

    /// Returns the place of what follows an expression: the field, without the dot.
    fn last_part(&self, object: &ast::Expr<'_>, whole: Range<usize>) -> Range<usize> {
        let from = range(object).end.min(whole.end);
        let rest = self.source.get(from..whole.end).unwrap_or_default();
        let gap = rest.len() - rest.trim_start_matches([')', '.', '[', ' ', '\'', '"']).len();
        let tail = rest.trim_end_matches([']', ' ', '\'', '"']).len();
        if gap < tail { from + gap..from + tail } else { whole }
    }
}

/// Returns the type of a field in the branches that have it, and whether all do.
pub(super) fn in_branches(all: &[Type], name: &str) -> (Option<Type>, bool) {
    let found: Vec<Type> = all
        .iter()
        .filter_map(|ty| match ty {
            Type::Record(fields) => fields.get(name).map(|field| field.ty.opened()),
            _ => Some(Type::Any),
        })
        .collect();
    let whole = found.len() == all.len();
    (found.into_iter().reduce(either), whole)
}
