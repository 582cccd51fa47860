//! Where the result of a node goes: `into` and `emit`.

use indexmap::IndexMap;

use super::{Gives, Scene, rules_of, taken_type, takes, takes_null, within_rules};
use crate::diagnostic::{Bag, Diagnostic, Spanned};
use crate::expr::{Expr, ExprTree, Typed};
use crate::plan::Sent;
use crate::spec::{ExprSpec, IntoSpec, KindSpec, NodeSpec};
use crate::state::{Channel, Type};

impl Scene<'_> {
    /// Checks `into`. `untyped`: the result is a response of which nothing is known.
    pub(super) fn sent(&self, spec: &NodeSpec, gives: &Gives, untyped: bool, bag: &mut Bag) -> Option<Sent> {
        match &spec.into {
            None => Some(Sent::Nothing),
            Some(IntoSpec::Channel(channel)) => {
                if !self.channel(channel, bag) || !self.channel_takes(channel, spec, gives, bag) {
                    return None;
                }
                // What a request gives is more than its body.
                if matches!(spec.body, KindSpec::Http(_)) {
                    let body = ExprTree::Expr(Expr::parse("result.body").ok()?);
                    return Some(Sent::Map([(channel.value.clone(), body)].into()));
                }
                Some(Sent::Channel(channel.value.clone()))
            }
            Some(IntoSpec::Map(map)) => {
                let names = self.names.clone().with("result", gives.result.clone());
                let mut trees = IndexMap::new();
                let mut fine = true;
                for (channel, value) in map {
                    let known = self.channel(channel, bag);
                    fine &= !untyped || typed_response(value, bag);
                    match names.tree(value, bag) {
                        Some(tree) if known => {
                            fine &= self.fits(&names, channel, value, &tree, bag);
                            trees.insert(channel.value.clone(), tree);
                        }
                        _ => fine = false,
                    }
                }
                fine.then_some(Sent::Map(trees))
            }
        }
    }

    /// Checks that a channel takes the whole result.
    fn channel_takes(
        &self,
        channel: &Spanned<String>,
        spec: &NodeSpec,
        gives: &Gives,
        bag: &mut Bag,
    ) -> bool {
        let Some(target) = self.channels.get(&channel.value).filter(|_| !bag.is_trusting()) else {
            return true;
        };
        let typed = Typed::of(gives.taken.clone());
        // The answers of a question are held against the channel one by one.
        let listed = matches!(&spec.body, KindSpec::Ask(ask) if ask.options.is_some());
        let fits = takes(target.merge, &target.field.ty, &typed);
        if listed || (fits && (takes_null(target) || !typed.may_be_null())) {
            return self.keeps_rules(channel, target, gives, &spec.body, bag);
        }
        let message = format!("`{}` holds {}", channel.value, target.field.ty);
        let label = match &spec.body {
            KindSpec::Llm(llm) if llm.output.is_none() => "the answer of a model is a text".to_owned(),
            _ => format!("{} is {typed}", gives.what),
        };
        let finding = Diagnostic::error(gives.code, message, channel.span, label);
        bag.report(match self.names.declared(&format!("state.{}", channel.value)) {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        });
        false
    }

    /// Refuses an answer of a model or of a person whose type allows more than the channel does: nothing holds it to the
    /// rules of the channel, and the run would end.
    fn keeps_rules(
        &self,
        channel: &Spanned<String>,
        target: &Channel,
        gives: &Gives,
        body: &KindSpec,
        bag: &mut Bag,
    ) -> bool {
        let (mut due, mut answer) = (taken_type(target), gives.taken.opened());
        let mut body = body;
        if let (KindSpec::Map(map), Type::List(item)) = (body, &answer) {
            let Some(inner) = &map.body else { return true };
            body = &inner.body;
            if let Type::List(due_item) = &due {
                due = due_item.opened();
            }
            answer = item.opened();
        }
        let (key, code) = match body {
            KindSpec::Llm(llm) if llm.output.is_none() => ("", "S403"),
            KindSpec::Llm(_) => ("output", "S403"),
            KindSpec::Ask(ask) if ask.schema.is_some() => ("schema", "M512"),
            _ => return true,
        };
        let (due, answer) = (due.non_null(), answer.non_null());
        let Some(rules) = rules_of(due).filter(|_| !within_rules(answer, due)) else { return true };
        let label = match key {
            "" => "nothing holds the answer of the model to that".to_owned(),
            key => format!("its `{key}` allows more"),
        };
        let message = format!("`{}` takes only values with  {rules}", channel.value);
        let finding = Diagnostic::error(code, message, channel.span, label);
        let finding = match self.names.declared(&format!("state.{}", channel.value)) {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        };
        let key = if key.is_empty() { "output" } else { key };
        bag.report(finding.help(format!(
            "write  {key}: {{type: {due}, {rules}}}  at the node that answers, or take the rule from the channel"
        )));
        false
    }

    /// Checks `emit`.
    pub(super) fn events(
        &self,
        spec: &NodeSpec,
        gives: &Gives,
        untyped: bool,
        bag: &mut Bag,
    ) -> Option<IndexMap<String, ExprTree>> {
        let names = self.names.clone().with("result", gives.result.clone());
        let mut events = IndexMap::new();
        let mut fine = true;
        for (name, value) in &spec.emit {
            fine &= !untyped || typed_response(value, bag);
            match names.tree(value, bag) {
                Some(tree) => drop(events.insert(name.value.clone(), tree)),
                None => fine = false,
            }
        }
        fine.then_some(events)
    }
}

/// Reports fields that are read from a response of which nothing is known; false when there are some.
fn typed_response(value: &ExprSpec, bag: &mut Bag) -> bool {
    let mut fine = true;
    value.for_each_text(&mut |text| {
        let Ok(expr) = Expr::parse(&text.value) else { return };
        let of_body = |path: &[String]| path.len() > 1 && path[0] == "body";
        for read in expr.reads().iter().filter(|read| read.root == "result" && of_body(&read.path)) {
            let field = &read.path[1];
            let message = format!("nothing is known of `{field}`: the response has no type");
            let finding = Diagnostic::error("M510", message, text.locate(read.range.clone()), "read here");
            bag.report(finding.help(format!("say what comes back:  response: {{{field}: …}}")));
            fine = false;
        }
    });
    fine
}
