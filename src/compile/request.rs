//! Requests of `http` nodes and of tools: methods, addresses, headers, secrets.
//!
//! Invariant: scheme and host are fixed, or come from settings. Nothing that a run reads can change where a request goes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;

use super::names::{BY_FLOW, Names};
use super::outside::{Address, Outside};
use super::prompts::Prompts;
use crate::diagnostic::{Bag, Diagnostic, Span, did_you_mean};
use crate::egress::Method;
use crate::egress::header::HeaderName;
use crate::expr::{Expr, Facts};
use crate::plan::Effects;
use crate::spec::{AuthSpec, HeaderSpec, RequestSpec, Text};
use crate::state::Type;
use crate::template::Templates;
use crate::tool::http::{Auth, Caller, Header, Http, Waits};

/// A request whose texts are templates of the project.
#[derive(Debug, Clone)]
pub(super) struct RequestDraft {
    caller: Arc<dyn Caller>,
    method: Method,
    /// The names of templates.
    url: String,
    headers: Vec<(HeaderName, Header)>,
    body: Option<String>,
    auth: Option<Auth>,
    /// What `env` is.
    env: Arc<Json>,
    /// The type of the response's body.
    response: Type,
    waits: Waits,
}

impl RequestDraft {
    /// Makes the request, now that all templates are there.
    pub(super) fn finish(&self, templates: &Templates) -> Http {
        Http {
            caller: Arc::clone(&self.caller),
            templates: templates.clone(),
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            auth: self.auth.clone(),
            env: Arc::clone(&self.env),
            response: self.response.clone(),
            waits: self.waits,
        }
    }

    /// Says how long a response may be silent.
    pub(super) fn waiting(self, waits: Waits) -> Self {
        Self { waits, ..self }
    }
}

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Returns what a method does outside.
pub(super) fn effects(spec: &RequestSpec) -> Effects {
    match spec.method.as_ref().map_or("GET", |method| method.value.as_str()) {
        "PUT" | "DELETE" => Effects::Idempotent,
        "POST" | "PATCH" => Effects::AtMostOnce,
        // What follows from a method that there is not, is not told.
        _ => Effects::None,
    }
}

/// What a request is checked with.
pub(super) struct Surroundings<'a> {
    /// Where it is written, for the names of its templates.
    pub(super) place: &'a str,
    pub(super) names: &'a Names,
    pub(super) outside: &'a Outside<'a>,
    /// Where the type of the response is written.
    pub(super) typed: Option<Span>,
    /// Whether a value may be null depends on no way that leads here.
    pub(super) alone: bool,
    /// The operator wrote the address: it needs no entry in the list of hosts.
    pub(super) of_operator: bool,
}

/// Checks a request. `used` takes the partials of its texts.
pub(super) fn request(
    spec: &RequestSpec,
    response: Type,
    around: &Surroundings<'_>,
    prompts: &mut Prompts,
    used: &mut BTreeSet<String>,
    bag: &mut Bag,
) -> Option<RequestDraft> {
    let method = method(spec, bag);
    let mut fine = method
        .as_ref()
        .is_some_and(|method| has_body(spec, method, bag) && gives_body(spec, method, around.typed, bag));
    for (key, text) in spec.texts() {
        fine &= template(&key, text, around, prompts, used, bag);
    }
    let mut env = serde_json::Map::new();
    for name in around.outside.settings() {
        let reads = |(_, text): &(String, &Text)| {
            prompts
                .reads_of(&text.value)
                .iter()
                .any(|read| read.root == "env" && read.path.first().is_none_or(|path| path == name))
        };
        if spec.texts().iter().any(reads) {
            let value = around.outside.setting(name, bag);
            env.extend(value.map(|value| (name.to_owned(), Json::String(value))));
        }
    }
    let address = match &spec.url {
        Some(url) if fine => address(url, &env, around, bag),
        _ => Where::Wrong,
    };
    fine &= !matches!(address, Where::Wrong);
    let mut secret = |name| {
        let allowed = match &address {
            Where::Known(address) => around.outside.may_go(name, address, bag),
            _ => true,
        };
        let found = around.outside.secret(name, bag);
        fine &= allowed && found.is_ok();
        found.ok().flatten()
    };
    let place = |key: &str| format!("{}.{key}", around.place);
    let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
    let headers: Option<Vec<_>> = spec
        .headers
        .iter()
        .map(|(name, value)| {
            let value = match value {
                HeaderSpec::Text(_) => Header::Text(place(&format!("headers.{}", name.value))),
                HeaderSpec::Secret(named) => Header::Secret(secret(named)),
            };
            Some((header(&name.value)?, value))
        })
        .collect();
    let auth = match &spec.auth {
        None => None,
        Some(AuthSpec::Bearer(name)) => Some(Auth::Bearer(secret(name))),
        Some(AuthSpec::Basic { password, .. }) => Some(Auth::Basic(place("auth.user"), secret(password))),
        Some(AuthSpec::Header(name, named)) => Some(Auth::Header(header(&name.value)?, secret(named))),
    };
    spec.url.as_ref().filter(|_| fine)?;
    Some(RequestDraft {
        caller: around.outside.caller(),
        method: method?,
        url: place("url"),
        headers: headers?,
        body: spec.body.as_ref().map(|_| place("body")),
        auth,
        env: Arc::new(Json::Object(env)),
        response,
        waits: Waits::default(),
    })
}

/// Finds the method.
fn method(spec: &RequestSpec, bag: &mut Bag) -> Option<Method> {
    let Some(wanted) = &spec.method else { return Some(Method::GET) };
    let found = METHODS.into_iter().find(|method| method.as_str() == wanted.value);
    if found.is_none() {
        let message = format!("there is no method `{}`", wanted.value);
        let finding = Diagnostic::error("M510", message, wanted.span, "not a method of requests");
        bag.report(finding.help_maybe(did_you_mean(&wanted.value, METHODS.iter().map(Method::as_str))));
    }
    found
}

/// Reports a body that is not sent; false when there is one.
fn has_body(spec: &RequestSpec, method: &Method, bag: &mut Bag) -> bool {
    let Some((at, _)) = spec.body.as_ref().filter(|_| *method == Method::GET || *method == Method::HEAD)
    else {
        return true;
    };
    let finding =
        Diagnostic::error("M510", format!("a {method} request has no body"), *at, "would not be sent");
    let finding = match &spec.method {
        Some(written) => finding.related(written.span, "the method"),
        None => finding,
    };
    bag.report(finding.help("write  method: POST , or put it into the query of the URL"));
    false
}

/// Reports the type of a body that never comes; false when there is one.
fn gives_body(spec: &RequestSpec, method: &Method, typed: Option<Span>, bag: &mut Bag) -> bool {
    let Some(at) = typed.filter(|_| *method == Method::HEAD) else { return true };
    let message = "the response to a HEAD request has no body";
    let finding = Diagnostic::error("M510", message, at, "nothing would ever fit it");
    let finding = match &spec.method {
        Some(written) => finding.related(written.span, "the method"),
        None => finding,
    };
    bag.report(finding.help("write  method: GET , or take `status` and `headers` of the result"));
    false
}

/// Adds a text of a request to the templates.
fn template(
    key: &str,
    text: &Text,
    around: &Surroundings<'_>,
    prompts: &mut Prompts,
    used: &mut BTreeSet<String>,
    bag: &mut Bag,
) -> bool {
    let name = format!("{}.{key}", around.place);
    let Some((_, includes)) = prompts.text(&name, text, around.names, bag) else { return false };
    used.extend(includes);
    if !around.alone {
        return true;
    }
    let found = prompts.find_types(&text.value, &around.names.roots, &Facts::default(), "S402");
    prompts.report_types(found, |code| BY_FLOW.contains(&code), text, 0, around.names, bag)
}

/// What is known of where a request goes.
enum Where {
    Known(Address),
    /// A setting has no value yet.
    Unknown,
    /// Told.
    Wrong,
}

/// A part of a template.
enum Piece {
    Text(Range<usize>),
    /// `{{ … }}`, or a block.
    Filled(Range<usize>),
}

fn address(
    url: &Text,
    env: &serde_json::Map<String, Json>,
    around: &Surroundings<'_>,
    bag: &mut Bag,
) -> Where {
    let outside = around.outside;
    let mut known = String::new();
    for piece in pieces(&url.value) {
        match piece {
            Piece::Text(range) => known += &url.value[range],
            Piece::Filled(_) if has_host(&known) => break,
            Piece::Filled(range) => match setting(&url.value[range.clone()]) {
                Some(name) => match env.get(&name).and_then(Json::as_str) {
                    Some(value) if known.is_empty() && !value.contains("://") => {
                        outside.no_scheme(&name, url.locate(range), bag);
                        return Where::Wrong;
                    }
                    Some(value) => known += value,
                    None => {
                        outside.unknown_address();
                        return Where::Unknown;
                    }
                },
                None => {
                    let span = url.locate(range);
                    let message = "what a run reads may not choose the host";
                    let finding =
                        Diagnostic::error("M510", message, span, "stands in the scheme or the host");
                    bag.report(finding.help(
                        "write the host out, or take it from a setting alone:  {{ env.SHOP_URL }}/orders",
                    ));
                    return Where::Wrong;
                }
            },
        }
    }
    let found = if around.of_operator {
        Outside::callable(url, &known, bag)
    } else {
        outside.address(url, &known, bag)
    };
    found.map_or(Where::Wrong, Where::Known)
}

/// Says whether a text goes on after the host of a URL.
fn has_host(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#', '\\']))
}

/// Returns the setting that is filled in, when it is nothing else.
fn setting(text: &str) -> Option<String> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?.trim_matches('-').trim();
    let name = inner.strip_prefix("env.")?;
    let expr = Expr::parse(inner).ok()?;
    let plain = expr.reads().len() == 1 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain.then(|| name.to_owned())
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find("{{").into_iter().chain(text[at..].find("{%")).min() {
        let start = at + open;
        let close = if text[start..].starts_with("{{") { "}}" } else { "%}" };
        let end = text[start..].find(close).map_or(text.len(), |end| start + end + 2);
        pieces.push(Piece::Text(at..start));
        pieces.push(Piece::Filled(start..end));
        at = end;
    }
    pieces.push(Piece::Text(at..text.len()));
    pieces
}
