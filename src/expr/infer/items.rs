//! Items by their number, and fields by a name that is a text.

use std::ops::Range;

use minijinja::machinery::ast;

use super::{Family, Infer, Place, Typed, facts, index};
use crate::state::Type;

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
        let key = self.expr(&item.subscript_expr);
        let object = self.some(&item.expr, object, "an item");
        let (due, what) = match object.family() {
            Family::List => (Family::Number, "an item of a list has a whole number"),
            Family::Text => (Family::Number, "a sign of a text has a whole number"),
            Family::Object => (Family::Text, "a field has a text for its name"),
            _ => return Typed::of(object.items().unwrap_or(Type::Any)).trust(&object),
        };
        let part = matches!(&item.subscript_expr, ast::Expr::Const(key) if key.value.is_number() && !key.value.is_integer());
        if !key.must_be(&[due]) || part {
            self.misfit(&item.subscript_expr, &key, what);
        } else if object.family() == Family::List {
            self.there(item, &object, whole);
        }
        Typed::of(object.items().unwrap_or(Type::Any)).trust(&object)
    }

    /// Checks that a list has the item of a fixed number. What a computed one gives is known when it runs.
    fn there(&mut self, item: &ast::GetItem<'_>, list: &Typed, whole: Range<usize>) {
        let Some(number) = index(&item.subscript_expr) else { return };
        let end = matches!(number, 0 | -1);
        let path = facts::path_of(&item.expr).map(|path| format!("{path}.{number}"));
        let known = self.lenient
            || path.is_some_and(|path| self.facts.is_defined(&path))
            // A conversation is never empty in a run.
            || (end && (matches!(list.ty, Type::Messages) || self.filled(&item.expr)))
            || written(&item.expr).is_some_and(|count| (-count..count).contains(&number));
        if known {
            return;
        }
        let (text, list) = (self.source.get(whole.clone()).unwrap_or_default().trim(), self.text(&item.expr));
        let message = format!("`{text}` may be unset here");
        let guard = match self.place {
            Place::Key if end => format!("{list} | length > 0"),
            Place::Key => format!("{text} is defined"),
            Place::Template if end => format!("{{% if {list} %}}"),
            Place::Template => format!("{{% if {text} is defined %}}"),
        };
        let help = format!("guard it with  {guard}  or give a value instead:  {text} | default(…)");
        self.fault("S404", message, whole, "the list may be shorter", Some(help), None);
    }
}

/// Returns how many items a list has that is written out.
fn written(expr: &ast::Expr<'_>) -> Option<i64> {
    let items = match expr {
        ast::Expr::List(list) => &list.items,
        ast::Expr::Tuple(list) => &list.items,
        _ => return None,
    };
    i64::try_from(items.len()).ok()
}
