//! Models: their entries in project.yaml, checked and built.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outside::{Address, Outside};
use super::providers::{Providers, url_of};
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::model::ChatModel;
use crate::model::anthropic::Anthropic;
use crate::node::Retry;
use crate::spec::{Folder, ModelSpec, ParamsSpec, TimeoutSpec};

/// A model that can be called.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) provider: &'static str,
    pub(super) chat: Arc<dyn ChatModel>,
    pub(super) params: ParamsSpec,
    pub(super) timeout: TimeoutSpec,
    pub(super) retry: Option<Spanned<String>>,
    /// It answers in JSON that fits a schema.
    pub(super) schemas: bool,
    /// It does so by the call of a tool, beside which there can be no others.
    pub(super) forced: bool,
    /// It calls tools.
    pub(super) tools: bool,
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
        match model(spec, name.span, providers, outside, bag) {
            Some(model) => drop(models.insert(name.value.clone(), model)),
            None => drop(broken.insert(name.value.clone())),
        }
    }
    (models, broken)
}

fn model(
    spec: &ModelSpec,
    at: Span,
    providers: &Providers,
    outside: &Outside<'_>,
    bag: &mut Bag,
) -> Option<Model> {
    let provider = spec.provider.value;
    let key = match &spec.api_key {
        None => None,
        Some(name) => {
            if let Some(to) = url_of(spec).and_then(Address::of)
                && !outside.may_go(name, &to, bag)
            {
                return None;
            }
            outside.secret(name, bag).ok()?
        }
    };
    if !params_fit(provider, &spec.params, bag) {
        return None;
    }
    let supports = |word| spec.supports.as_ref().is_none_or(|words| words.contains(&word));
    let forced = provider == "anthropic" && !supports("json_schema") && supports("tools");
    match providers.model(spec, key) {
        Ok(chat) => Some(Model {
            provider,
            chat,
            params: spec.params.clone(),
            timeout: spec.timeout,
            retry: spec.retry.clone(),
            schemas: forced || supports("json_schema"),
            forced,
            tools: supports("tools"),
        }),
        Err(error) => {
            let span = spec.base_url.as_ref().map_or(at, |url| url.span);
            let finding = Diagnostic::error("M510", "the model cannot be reached", span, error.to_string());
            bag.report(finding.help("write a URL like  https://api.openai.com/v1"));
            None
        }
    }
}

/// Checks what a provider would refuse of parameters; false: the bag says what.
pub(super) fn params_fit(provider: &str, params: &ParamsSpec, bag: &mut Bag) -> bool {
    if provider != "anthropic" {
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
