//! What a host program has registered, as graphs see it.

mod signature;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use indexmap::IndexMap;
use serde_json::Value as Json;

use super::Providers;
use super::outside::Outside;
use crate::diagnostic::{Bag, Diagnostic, Severity, Spanned, did_you_mean};
use crate::failure::{ErrorKind, Failure};
use crate::node::{Attempt, Node, Outcome};
use crate::state::{Field, Type};
use crate::tool::custom::Registry;
use crate::tool::{Call, Tool};

/// A function, as far as it is known here.
pub(super) struct Found {
    /// Its arguments by name; nothing where they are not known.
    pub(super) args: Option<IndexMap<String, Field>>,
    /// What it gives.
    pub(super) result: Type,
    pub(super) function: Arc<dyn Tool>,
}

/// What a host program has registered, for editors.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its arguments by name, where they are known.
    pub args: IndexMap<String, Field>,
    /// What it gives.
    pub result: Type,
}

/// Returns what is registered, by name.
pub fn functions(providers: &Providers) -> BTreeMap<String, Function> {
    let registry = providers.registry();
    let function = |name: &str| {
        let known = registry?.get(name)?;
        let args = signature::args(&known.signature.args).ok().flatten().unwrap_or_default();
        Some((name.to_owned(), Function { args, result: signature::result(&known.signature.result) }))
    };
    registry.into_iter().flat_map(Registry::names).filter_map(function).collect()
}

/// Finds a function that something calls. Nothing: it is reported.
pub(super) fn find(name: &Spanned<String>, outside: &Outside<'_>, bag: &mut Bag) -> Option<Found> {
    let strict = outside.is_strict();
    let finding = |label: &str, help: Option<String>| {
        let message = format!("`{}` is not registered", name.value);
        Diagnostic::error("M506", message, name.span, label).help_maybe(help)
    };
    let Some(registry) = outside.registry() else {
        let label =
            if strict { "no host program has registered it" } else { "only its host program can run it" };
        let help = if strict {
            "the program that embeds graphloom registers it; run that program instead"
        } else {
            "`--registry FILE` tells of it; the host program writes the file:  PROGRAM registry > FILE"
        };
        let severity = if strict { Severity::Error } else { Severity::Lint };
        bag.report(Diagnostic { severity, ..finding(label, Some(help.to_owned())) });
        let function = outside.function(&name.value, None);
        return (!strict).then_some(Found { args: None, result: Type::Any, function });
    };
    let Some(known) = registry.get(&name.value) else {
        let near = did_you_mean(&name.value, registry.names());
        let near = near.or_else(|| Some("the program that embeds graphloom registers it".to_owned()));
        bag.report(finding("the host program has registered no such function", near));
        return None;
    };
    if strict && known.function.is_none() {
        let help = "run the host program itself: it has the same commands".to_owned();
        bag.report(finding("a registry file tells of it, and its code is not here", Some(help)));
        return None;
    }
    let args = match signature::args(&known.signature.args) {
        Ok(args) => args,
        Err(ty) => {
            let message = format!("`{}` cannot be called with arguments by name", name.value);
            let label = format!("as it is registered, it takes {ty}");
            let finding = Diagnostic::error("M506", message, name.span, label);
            bag.report(
                finding.help("register a function whose argument is a struct with named fields, or `()`"),
            );
            return None;
        }
    };
    let result = signature::result(&known.signature.result);
    let function = outside.function(&name.value, known.function.as_ref());
    Some(Found { args, result, function })
}

/// Returns the arguments of a function by name, where they are known.
pub(super) fn args(name: &str, registry: Option<&Registry>) -> Option<IndexMap<String, Field>> {
    signature::args(&registry?.get(name)?.signature.args).ok().flatten()
}

/// Writes the signature of a function for the hash of a graph, where it is known: `{order: string} -> boolean`.
pub(super) fn told(name: &str, registry: Option<&Registry>) -> Option<String> {
    let signature = &registry?.get(name)?.signature;
    let args = match signature::args(&signature.args) {
        Ok(Some(args)) => Type::Record(args),
        Ok(None) => Type::Object,
        Err(ty) => ty,
    };
    Some(format!("{args} -> {}", signature::result(&signature.result)))
}

/// Stands where only a host program could do something.
#[derive(Debug)]
pub(super) struct Unregistered(pub(super) String);

impl Unregistered {
    fn fail(&self) -> Failure {
        Failure::new(ErrorKind::Tool, format!("`{}` is not registered", self.0))
    }
}

#[async_trait]
impl Tool for Unregistered {
    async fn call(&self, _call: &Call) -> Result<Json, Failure> {
        Err(self.fail())
    }
}

#[async_trait]
impl Node for Unregistered {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        Err(self.fail())
    }
}
