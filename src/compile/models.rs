//! Models: their entries in project.yaml, checked and built.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outside::{Address, Outside};
use super::providers::{Providers, url_of};
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::model::anthropic::Anthropic;
use crate::model::{ChatModel, Kind};
use crate::node::{Price, Retry};
use crate::spec::{Folder, ModelSpec, ParamsSpec, TimeoutSpec};

/// A model that can be called.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) name: Spanned<String>,
    /// The models that stand in for it.
    pub(super) fallback: Vec<Spanned<String>>,
    pub(super) price: Option<Price>,
    pub(super) provider: &'static str,
    pub(super) chat: Arc<dyn ChatModel>,
    pub(super) params: ParamsSpec,
    pub(super) timeout: TimeoutSpec,
    pub(super) retry: Option<Spanned<String>>,
    /// How it answers in JSON.
    pub(super) json: JsonBy,
    /// It calls tools.
    pub(super) tools: bool,
    /// It takes images.
    pub(super) images: bool,
}

/// How a model answers in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonBy {
    /// Its provider holds it to a schema.
    Schema,
    /// By the call of a tool, beside which there can be no others.
    Tool,
    /// It is asked for it in words.
    Words,
}

/// Builds all models; those that are wrong are named apart.
pub(super) fn models(
    folder: &Folder,
    providers: &Providers,
    outside: &Outside<'_>,
    retries: &BTreeMap<String, Retry>,
    bag: &mut Bag,
) -> (BTreeMap<String, Model>, BTreeSet<String>) {
    let mut models = BTreeMap::new();
    let mut broken: BTreeSet<String> = folder.project.broken_models.iter().cloned().collect();
    for (name, spec) in &folder.project.models {
        if let Some(retry) = spec.retry.as_ref().filter(|retry| !retries.contains_key(&retry.value)) {
            if folder.project.unsure || folder.project.broken.contains(&retry.value) {
                broken.insert(name.value.clone());
                continue;
            }
            let finding = Diagnostic::error(
                "M501",
                format!("unknown retry policy `{}`", retry.value),
                retry.span,
                "`retries` declares no such policy",
            );
            bag.report(finding.help_maybe(did_you_mean(&retry.value, retries.keys().map(String::as_str))));
            broken.insert(name.value.clone());
            continue;
        }
        match model(spec, name, providers, outside, bag) {
            Some(model) => drop(models.insert(name.value.clone(), model)),
            None => drop(broken.insert(name.value.clone())),
        }
    }
    check_fallbacks(folder, &models, &mut broken, bag);
    models.retain(|name, _| !broken.contains(name));
    (models, broken)
}

/// Checks that those are models that stand in for others, and that none of them stands in for itself in the end.
fn check_fallbacks(
    folder: &Folder,
    models: &BTreeMap<String, Model>,
    broken: &mut BTreeSet<String>,
    bag: &mut Bag,
) {
    let (mut wrong, mut circle) = (BTreeSet::new(), BTreeSet::new());
    for (name, spec) in &folder.project.models {
        for wanted in spec.fallback.iter().filter(|wanted| !models.contains_key(&wanted.value)) {
            wrong.insert(name.value.clone());
            if folder.project.unsure || broken.contains(&wanted.value) {
                continue;
            }
            let message = format!("unknown model `{}`", wanted.value);
            let finding = Diagnostic::error("M501", message, wanted.span, "`models` declares no such model");
            bag.report(finding.help_maybe(did_you_mean(&wanted.value, models.keys().map(String::as_str))));
        }
        // A circle is told once, at the first of its models in the file.
        if !circle.contains(&name.value)
            && let Some(way) = way_back(&name.value, models)
        {
            let first = spec.fallback.iter().find(|wanted| Some(&wanted.value) == way.get(1));
            let span = first.map_or(name.span, |wanted| wanted.span);
            let message = format!("model `{}` stands in for itself", name.value);
            let finding = Diagnostic::error("M501", message, span, way.join(" -> "));
            bag.report(finding.help("remove one of these from the `fallback` of the one before it"));
            circle.extend(way);
        }
    }
    broken.extend(wrong);
    broken.extend(circle);
}

/// Returns the way from a model by those that stand in for it back to it.
fn way_back(from: &str, models: &BTreeMap<String, Model>) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![from.to_owned()]];
    while let Some(way) = ways.pop() {
        let last = way.last().and_then(|last| models.get(last));
        for next in last.iter().flat_map(|model| model.fallback.iter().rev()) {
            let mut longer = way.clone();
            longer.push(next.value.clone());
            if next.value == from {
                return Some(longer);
            }
            if seen.insert(next.value.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

/// Returns a model, and behind it those that stand in for it, each with those that stand in for itself; each once.
pub(super) fn chain<'m>(first: &'m Model, models: &'m BTreeMap<String, Model>) -> Vec<&'m Model> {
    let mut chain: Vec<&Model> = Vec::new();
    let mut next = vec![first];
    while let Some(model) = next.pop() {
        if chain.iter().any(|known| known.name.value == model.name.value) {
            continue;
        }
        chain.push(model);
        next.extend(model.fallback.iter().rev().filter_map(|name| models.get(&name.value)));
    }
    chain
}

fn model(
    spec: &ModelSpec,
    name: &Spanned<String>,
    providers: &Providers,
    outside: &Outside<'_>,
    bag: &mut Bag,
) -> Option<Model> {
    let provider = spec.provider.value;
    let key = match &spec.api_key {
        None => None,
        Some(secret) => {
            if let Some(to) = url_of(spec).and_then(Address::of)
                && !outside.may_go(secret, &to, bag)
            {
                return None;
            }
            outside.secret(secret, bag).ok()?
        }
    };
    if !params_fit(provider, &spec.params, bag) || !can_fail(spec, bag) {
        return None;
    }
    let supports = |word| spec.supports.as_ref().is_none_or(|words| words.contains(&word));
    let json = match provider {
        "openai" | "anthropic" if supports("json_schema") => JsonBy::Schema,
        "openai" | "anthropic" if supports("tools") => JsonBy::Tool,
        "openai" | "anthropic" => JsonBy::Words,
        // What is made up fits by itself.
        _ => JsonBy::Schema,
    };
    match providers.model(spec, key) {
        Ok(chat) => Some(Model {
            name: name.clone(),
            fallback: spec.fallback.clone(),
            price: spec.price.map(|price| Price {
                input: price.input,
                output: price.output,
                cache_read: price.cache_read.unwrap_or(price.input),
                cache_write: price.cache_write.unwrap_or(price.input),
            }),
            provider,
            chat,
            params: spec.params.clone(),
            timeout: spec.timeout,
            retry: spec.retry.clone(),
            json,
            tools: supports("tools"),
            images: supports("images"),
        }),
        Err(error) => {
            let span = spec.base_url.as_ref().map_or(name.span, |url| url.span);
            let finding = Diagnostic::error("M510", "the model cannot be reached", span, error.to_string());
            bag.report(finding.help("write a URL like  https://api.openai.com/v1"));
            None
        }
    }
}

/// Checks the errors of a scripted model; false: the bag says what.
fn can_fail(spec: &ModelSpec, bag: &mut Bag) -> bool {
    let errors = spec.script.iter().filter_map(|line| line.entry.error());
    let unknown: Vec<_> = errors.filter(|kind| Kind::named(&kind.value).is_none()).collect();
    for kind in &unknown {
        let message = format!("a call to a model cannot fail with `{}`", kind.value);
        let finding = Diagnostic::error("M513", message, kind.span, "no kind of its errors");
        let kinds = ["timeout", "connection", "rate_limit", "server_error", "schema"];
        bag.report(finding.help_maybe(did_you_mean(&kind.value, kinds)));
    }
    unknown.is_empty()
}

/// Checks what the providers of a chain would refuse of parameters; false: the bag says what.
pub(super) fn all_fit(chain: &[&Model], params: &ParamsSpec, bag: &mut Bag) -> bool {
    let mut fine = true;
    for model in chain {
        fine &= params_fit(model.provider, params, bag);
    }
    fine
}

/// Checks what a provider would refuse of parameters; false: the bag says what.
fn params_fit(provider: &str, params: &ParamsSpec, bag: &mut Bag) -> bool {
    // A version that was stored runs with the models of today; what its provider does not know is not sent.
    if provider != "anthropic" || bag.is_trusting() {
        return true;
    }
    let mut fine = true;
    let mut refuse = |message: String, span: Span, help: String| {
        let finding = Diagnostic::error("M502", message, span, "`anthropic` would refuse it");
        bag.report(finding.help(help));
        fine = false;
    };
    if let Some(seed) = &params.seed {
        refuse("`anthropic` has no `seed`".into(), seed.span, "remove it".into());
    }
    if let Some(temperature) = params.temperature.as_ref().filter(|number| number.value > 1.0) {
        let message = format!("{} is outside 0 to 1", temperature.value);
        refuse(message, temperature.span, "write a number from 0 to 1".into());
    }
    let known = |effort: &&Spanned<String>| !Anthropic::EFFORTS.contains(&effort.value.as_str());
    if let Some(effort) = params.reasoning_effort.as_ref().filter(known) {
        let message = format!("unknown effort `{}`", effort.value);
        refuse(message, effort.span, format!("write one of {}", Anthropic::EFFORTS.join(", ")));
    }
    fine
}
