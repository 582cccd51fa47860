//! Where the result of a node goes: `into` and `emit`.

use indexmap::IndexMap;

use super::{Gives, Scene, rules_of, taken_type, takes};
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
        if listed || takes(target.merge, &target.field.ty, &typed) {
            return self.keeps_rules(channel, target, &spec.body, bag);
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

    /// Refuses the free answer of a model where the channel has rules for its texts: nothing holds the model to them,
    /// and the run would end.
    fn keeps_rules(
        &self,
        channel: &Spanned<String>,
        target: &Channel,
        body: &KindSpec,
        bag: &mut Bag,
    ) -> bool {
        let due = taken_type(target);
        let (body, due) = match (body, &due) {
            (KindSpec::Map(map), Type::List(item)) => match &map.body {
                Some(body) => (&body.body, item.opened()),
                None => return true,
            },
            (KindSpec::Map(map), _) => match &map.body {
                Some(body) => (&body.body, due),
                None => return true,
            },
            (body, _) => (body, due),
        };
        let free = matches!(body, KindSpec::Llm(llm) if llm.output.is_none());
        let Some(rules) = rules_of(due.non_null()).filter(|_| free) else { return true };
        let message = format!("`{}` takes only texts with  {rules}", channel.value);
        let finding =
            Diagnostic::error("S403", message, channel.span, "nothing holds the answer of the model to that");
        let finding = match self.names.declared(&format!("state.{}", channel.value)) {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        };
        bag.report(finding.help(format!(
            "write  output: {{type: string, {rules}}}  at the `llm`, or take the rule from the channel"
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
