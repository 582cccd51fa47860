//! Items by their number, and fields by a name that is a text.

use std::ops::Range;

use minijinja::machinery::ast;

use super::{Family, Infer, Place, Typed, facts, index, parts_of_group};
use crate::state::{Type, either};

impl Infer<'_> {
    pub(super) fn item(&mut self, item: &ast::GetItem<'_>, whole: Range<usize>) -> Typed {
        if let ast::Expr::Const(key) = &item.subscript_expr
            && let Some(name) = key.value.as_str()
        {
            if let ast::Expr::Var(root) = &item.expr
                && let Some(found) = self.root_field(root.id, name, whole.clone())
            {
                return found;
            }
            let object = self.holder(&item.expr);
            return self.field(&item.expr, object, name, whole);
        }
        let object = self.holder(&item.expr);
        let key = self.holder(&item.subscript_expr);
        let null = key.null;
        let key = self.some(&item.subscript_expr, key, "the number of an item");
        if null {
            return Typed::any().trust(&object);
        }
        let object = self.some(&item.expr, object, "an item");
        if let Some(parts) = parts_of_group(&object.ty)
            && let Some(part) = index(&item.subscript_expr).and_then(|n| {
                let n = if n < 0 { n + 2 } else { n };
                parts.get(usize::try_from(n).ok()?)
            })
        {
            return Typed::of(part.clone()).trust(&object);
        }
        match object.family() {
            Family::Object if !key.must_be(&[Family::Text]) => {
                self.misfit(&item.subscript_expr, &key, "a field has a text for its name");
            }
            Family::Object => return self.field_by(item, &object, &key, whole),
            Family::Unknown => {}
            _ if !object.must_be(&[Family::List, Family::Text, Family::Object]) => {
                self.misfit(&item.expr, &object, "an item belongs to a list or a text");
            }
            Family::Mixed if object.may_be(&[Family::Object]) => {}
            family if !is_whole(&key) => {
                let what = match family {
                    Family::Text => "a sign of a text has a whole number",
                    _ => "an item of a list has a whole number",
                };
                self.misfit(&item.subscript_expr, &key, what);
            }
            _ => self.there(item, &object, &key, whole),
        }
        let each = object.ty.non_null().each().iter().map(|ty| match Typed::of(ty.clone()) {
            text if text.family() == Family::Text => Type::STRING,
            other => other.items().unwrap_or(Type::Any),
        });
        let typed = Typed::of(each.reduce(either).unwrap_or(Type::Any)).trust(&object);
        let path = facts::item_path(item);
        match &path {
            Some(known) if self.facts.is_some(known) => {
                Typed { path, ty: typed.ty.non_null().clone(), ..typed }
            }
            _ => Typed { path, ..typed },
        }
    }

    /// Checks that a list or a text has the item of a number.
    fn there(&mut self, item: &ast::GetItem<'_>, object: &Typed, key: &Typed, whole: Range<usize>) {
        let number = index(&item.subscript_expr);
        let path = facts::item_path(item);
        let below = path.as_ref().is_some_and(|path| self.facts.is_defined(&format!("{path}<")));
        let end = matches!(number, Some(0 | -1));
        let known = self.lenient
            || path.is_some_and(|path| self.facts.is_defined(&path))
            || (end && self.filled(&item.expr))
            || (below && self.is_natural(&item.subscript_expr, key))
            || written(&item.expr, &object.ty)
                .zip(number)
                .is_some_and(|(count, number)| (-count..count).contains(&number));
        if known {
            return;
        }
        let text = self.source.get(self.whole(whole.clone())).unwrap_or_default().trim();
        let list = self.text(&item.expr);
        let message = format!("`{text}` may be unset here");
        let guard = match self.place {
            Place::Key if end => format!("{list} | length > 0"),
            Place::Key => format!("{text} is defined"),
            Place::Template if end => format!("{{% if {list} %}}"),
            Place::Template => format!("{{% if {text} is defined %}}"),
        };
        if below {
            let number = self.text(&item.subscript_expr);
            let help = format!("ask also  {number} >= 0  or declare it as  {{type: integer, min: 0}}");
            return self.fault(
                "S404",
                message,
                whole,
                format!("`{number}` may be below zero"),
                Some(help),
                None,
            );
        }
        let help = format!("guard it with  {guard}  or give a value instead:  {text} | default(…)");
        let sort = if object.family() == Family::Text { "text" } else { "list" };
        self.fault("S404", message, whole, format!("the {sort} may be shorter"), Some(help), None);
    }

    /// Says whether a number is known not to be below zero.
    fn is_natural(&self, number: &ast::Expr<'_>, typed: &Typed) -> bool {
        matches!(typed.ty, Type::Integer { min: Some(0..), .. })
            || facts::path_of(number).is_some_and(|path| self.facts.is_defined(&format!("{path}[>=0]")))
    }

    /// Reads the field of an object that has the name which a text holds.
    fn field_by(
        &mut self,
        item: &ast::GetItem<'_>,
        object: &Typed,
        key: &Typed,
        whole: Range<usize>,
    ) -> Typed {
        let path = facts::item_path(item);
        let named: Option<Vec<Type>> = match (object.ty.non_null(), key.ty.non_null()) {
            (Type::Record(fields), Type::Enum(names)) => {
                names.iter().map(|name| Some(fields.get(name)?.ty.clone())).collect()
            }
            _ => None,
        };
        let known = self.lenient
            || named.is_some()
            || path.as_ref().is_some_and(|path| {
                self.facts.is_defined(path) || self.facts.is_defined(&format!("{path}in"))
            });
        if !known {
            let text = self.source.get(self.whole(whole.clone())).unwrap_or_default().trim();
            let message = format!("`{text}` may be unset here");
            let guard = match self.place {
                Place::Key => format!("{text} is defined"),
                Place::Template => format!("{{% if {text} is defined %}}"),
            };
            let help = format!("guard it with  {guard}  or give a value instead:  {text} | default(…)");
            self.fault("S404", message, whole, "the object may have no such field", Some(help), None);
        }
        let ty = named.and_then(|types| types.into_iter().reduce(either)).unwrap_or(Type::Any);
        let some = path.as_ref().is_some_and(|path| self.facts.is_some(path));
        let ty = if some { ty.non_null().clone() } else { ty };
        Typed { path, ..Typed::of(ty).trust(object) }
    }
}

/// Returns how many items a list has that is written out, or how many signs a text has at least.
fn written(expr: &ast::Expr<'_>, ty: &Type) -> Option<i64> {
    let count = match (expr, ty) {
        (ast::Expr::List(list), _) => list.items.len(),
        (ast::Expr::Tuple(list), _) => list.items.len(),
        (_, Type::Enum(values)) => values.iter().map(|value| value.chars().count()).min()?,
        _ => return None,
    };
    i64::try_from(count).ok()
}

/// Says whether a value is a whole number, as far as it is known.
pub(super) fn is_whole(typed: &Typed) -> bool {
    typed.ty.non_null().each().iter().all(|ty| matches!(ty, Type::Integer { .. } | Type::Any))
}
