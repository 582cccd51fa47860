//! Which edges a node takes, and the branches that go along them.

use std::collections::BTreeSet;

use super::{Activation, Taken, Token};
use crate::expr::Scope;
use crate::failure::{Caught, ErrorKind, Failure};
use crate::plan::{Next, Plan, Rule, Target};

/// A chosen edge: where to, and under which condition.
pub(super) type Choice = (Target, Option<String>);

/// Chooses the edges whose conditions hold.
pub(super) fn choose(next: &Next, scope: &Scope) -> Result<Vec<Choice>, Failure> {
    let mut chosen = Vec::new();
    follow(next, scope, None, &mut chosen)?;
    let mut seen = BTreeSet::new();
    chosen.retain(|(to, _)| seen.insert(to.clone()));
    Ok(chosen)
}

fn follow(
    next: &Next,
    scope: &Scope,
    condition: Option<&str>,
    chosen: &mut Vec<Choice>,
) -> Result<(), Failure> {
    match next {
        Next::To(target) => chosen.push((target.clone(), condition.map(str::to_owned))),
        Next::All(targets) => {
            chosen.extend(targets.iter().map(|target| (target.clone(), condition.map(str::to_owned))));
        }
        Next::Some(arms, otherwise) => {
            let before = chosen.len();
            for (when, target) in arms {
                if when.eval_bool(scope)? {
                    chosen.push((target.clone(), Some(when.source().to_owned())));
                }
            }
            if chosen.len() == before {
                follow(otherwise, scope, Some("else"), chosen)?;
            }
        }
        Next::Rules(rules) => {
            for rule in rules {
                match rule {
                    Rule::When(when, next) => {
                        if when.eval_bool(scope)? {
                            return follow(next, scope, Some(when.source()), chosen);
                        }
                    }
                    Rule::Match(on, cases) => {
                        let value = on.eval(scope)?;
                        if let Some((case, next)) = cases.iter().find(|(case, _)| *case == value) {
                            let case = case.as_str().map_or_else(|| case.to_string(), str::to_owned);
                            return follow(next, scope, Some(&format!("{} = {case}", on.source())), chosen);
                        }
                    }
                    Rule::Else(next) => return follow(next, scope, Some("else"), chosen),
                }
            }
            return Err(Failure::new(ErrorKind::Template, "no rule of `next` matches"));
        }
    }
    Ok(())
}

/// A node, or the start, whose edges are taken.
pub(super) struct Sender<'a> {
    pub(super) node: &'a str,
    pub(super) activation: (u64, u64),
    pub(super) open: &'a BTreeSet<Activation>,
    pub(super) error: Option<Caught>,
    /// Where its graph is called from.
    pub(super) path: &'a [String],
    pub(super) item: Option<u64>,
}

impl<'a> Sender<'a> {
    /// Makes one of the run's own graph, without an error.
    pub(super) fn of(node: &'a str, activation: (u64, u64), open: &'a BTreeSet<Activation>) -> Self {
        Self { node, activation, open, error: None, path: &[], item: None }
    }

    /// Sends a token along each chosen edge. Two or more make a fan-out that all of them remember. An error goes along
    /// as far as it can be read.
    pub(super) fn send(&self, plan: &Plan, chosen: Vec<Choice>, tokens: &mut Vec<Token>) -> Vec<Taken> {
        let mut open = self.open.clone();
        if chosen.len() > 1 {
            open.insert(Activation(self.activation.0, self.activation.1, self.node.to_owned()));
        }
        let take = |(to, condition)| {
            if let Target::Node(at) = &to {
                let error = self.error.clone().filter(|_| plan.has_error(at));
                let (at, from) = (at.clone(), self.node.to_owned());
                tokens.push(Token { at, from, open: open.clone(), error, held: None });
            }
            let (path, item) = (self.path.to_vec(), self.item);
            Taken { from: self.node.to_owned(), to, condition, path, item }
        };
        chosen.into_iter().map(take).collect()
    }
}
