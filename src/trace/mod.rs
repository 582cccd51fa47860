//! Traces: what runs do, as spans of OpenTelemetry.
//!
//! Spans are those of `tracing` under one target, so that a host program with a layer of its own has them, too; without a
//! layer they cost nothing. Names and attributes follow the conventions for generative AI (version 1.41). Invariant: a span
//! has names, ids and numbers. It never has what anybody said, nor a secret, nor more of an address than host and port.

mod export;

use std::sync::LazyLock;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{FutureExt, TraceContextExt, WithContext};
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use self::export::{Exporter, Settings};
use crate::egress::Target;
use crate::egress::header::HeaderMap;
use crate::event::{Scope, Usage};
use crate::id::{Part, RunId, ThreadId};

/// What all spans here have as their target.
pub const TARGET: &str = "graphloom::trace";
/// The header that names a trace: ids and flags. What goes with it, `tracestate`, is text of whoever calls, so it is neither
/// taken nor passed on.
const PARENT: &str = "traceparent";

/// W3C trace context; it takes no state.
static W3C: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// One process's work on a run, from its claim to its end there; child of what the request named, if it named anything.
#[must_use]
pub fn run(graph: &str, run: RunId, tenant: &Part) -> Span {
    info_span!(
        target: TARGET,
        "run",
        otel.name = %format_args!("invoke_workflow {graph}"),
        otel.status_code = field::Empty,
        gen_ai.operation.name = "invoke_workflow",
        gen_ai.workflow.name = graph,
        gen_ai.conversation.id = field::Empty,
        graphloom.tenant = tenant.as_str(),
        graphloom.run.id = %run,
        graphloom.run.status = field::Empty,
        error.type = field::Empty,
    )
}

/// Notes which thread a run is on.
pub fn on_thread(span: &Span, thread: ThreadId) {
    span.record("gen_ai.conversation.id", field::display(thread.0));
}

/// Notes how the work on a run ended; with `code`, it failed.
pub fn ended(span: &Span, status: &str, code: Option<&str>) {
    span.record("graphloom.run.status", status);
    if let Some(code) = code {
        failed(span, code);
    }
}

/// Notes that what a span stands for failed.
pub fn failed(span: &Span, code: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", code);
}

/// One superstep of the run around it.
#[must_use]
pub fn superstep(number: u64) -> Span {
    info_span!(
        target: TARGET,
        "superstep",
        otel.name = %format_args!("superstep {number}"),
        graphloom.superstep = number,
    )
}

/// One node's work in a superstep, with all its attempts.
#[must_use]
pub fn task(kind: &str, place: &Scope) -> Span {
    info_span!(
        target: TARGET,
        "task",
        otel.name = %format_args!("task {}", place.node),
        otel.status_code = field::Empty,
        graphloom.node = %place.node,
        graphloom.node.kind = kind,
        graphloom.node.path = %place.caller(),
        graphloom.task.id = %place.task_id,
        graphloom.attempts = field::Empty,
        error.type = field::Empty,
    )
}

/// Notes how many attempts a task took.
pub fn attempts(span: &Span, number: u32) {
    span.record("graphloom.attempts", number);
}

/// One call of a tool.
#[must_use]
pub fn tool(name: &str, attempt: u32) -> Span {
    info_span!(
        target: TARGET,
        "tool",
        otel.name = %format_args!("execute_tool {name}"),
        otel.status_code = field::Empty,
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = name,
        graphloom.attempt = attempt,
        error.type = field::Empty,
    )
}

/// Who answers the calls of a model.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The provider, as the conventions name it.
    pub name: &'static str,
    /// The model, as the provider names it.
    pub model: String,
    /// Where it listens.
    pub target: Target,
}

/// One call of a model. `name` is what the project calls it.
#[must_use]
pub fn model(name: &str, provider: Option<&Provider>, max_tokens: Option<u64>, attempt: u32) -> Span {
    let model = provider.map_or(name, |provider| &provider.model);
    let span = info_span!(
        target: TARGET,
        "chat",
        otel.name = %format_args!("chat {model}"),
        otel.kind = "client",
        otel.status_code = field::Empty,
        gen_ai.operation.name = "chat",
        gen_ai.provider.name = provider.map(|provider| provider.name),
        gen_ai.request.model = model,
        gen_ai.request.max_tokens = max_tokens,
        gen_ai.request.stream = true,
        gen_ai.usage.input_tokens = field::Empty,
        gen_ai.usage.output_tokens = field::Empty,
        gen_ai.usage.cache_read.input_tokens = field::Empty,
        gen_ai.usage.cache_creation.input_tokens = field::Empty,
        graphloom.model = name,
        graphloom.attempt = attempt,
        server.address = field::Empty,
        server.port = field::Empty,
        error.type = field::Empty,
    );
    if let Some(provider) = provider {
        at(&span, &provider.target);
    }
    span
}

/// Notes what a call of a model used.
pub fn used(span: &Span, usage: &Usage) {
    span.record("gen_ai.usage.input_tokens", usage.input_tokens);
    span.record("gen_ai.usage.output_tokens", usage.output_tokens);
    if usage.cache_read_tokens > 0 {
        span.record("gen_ai.usage.cache_read.input_tokens", usage.cache_read_tokens);
    }
    if usage.cache_write_tokens > 0 {
        span.record("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens);
    }
}

/// One request of a node or a tool.
#[must_use]
pub fn request(method: &str, target: Option<&Target>) -> Span {
    let span = info_span!(
        target: TARGET,
        "http",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.response.status_code = field::Empty,
        server.address = field::Empty,
        server.port = field::Empty,
        error.type = field::Empty,
    );
    if let Some(target) = target {
        at(&span, target);
    }
    span
}

/// Notes the status of a response.
pub fn answered(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 400 && !span.is_disabled() {
        failed(span, &status.to_string());
    }
}

fn at(span: &Span, target: &Target) {
    span.record("server.address", target.host());
    span.record("server.port", target.port());
}

/// Returns the trace that a request names. A header that is missing, or that says nothing, names none.
#[must_use]
pub fn asked(headers: &HeaderMap) -> Option<Context> {
    let asked = W3C.extract(&Kept(headers.get(PARENT)?.to_str().ok()?));
    asked.has_active_span().then_some(asked)
}

/// Does the work of a request within the trace that it names.
pub async fn within<T>(asked: Option<Context>, work: impl Future<Output = T>) -> T {
    match asked {
        Some(asked) => work.with_context(asked).await,
        None => work.await,
    }
}

/// Lets work of a request that becomes a task of its own be within the same trace.
pub fn carried<F: Future>(work: F) -> WithContext<F> {
    work.with_current_context()
}

/// Names the current span to whoever is called, where that is wanted.
pub fn inject(headers: &mut HeaderMap) {
    put(&mut HeaderInjector(headers));
}

/// Returns the same as texts.
#[must_use]
pub fn named() -> Vec<(String, String)> {
    let mut texts = Texts(Vec::new());
    put(&mut texts);
    texts.0
}

fn put(into: &mut dyn Injector) {
    let span = Span::current();
    if !span.is_disabled() {
        let (here, into) = (span.context(), &mut Only(into));
        opentelemetry::global::get_text_map_propagator(|propagator| propagator.inject_context(&here, into));
    }
}

/// Lets only the name of the trace through.
struct Only<'a>(&'a mut dyn Injector);

impl Injector for Only<'_> {
    fn set(&mut self, key: &str, value: String) {
        if key == PARENT {
            self.0.set(key, value);
        }
    }
}

/// Returns what a run is stored with, so that who takes it over knows its trace; nothing where there is none.
#[must_use]
pub fn kept(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let mut texts = Texts(Vec::new());
    W3C.inject_context(&span.context(), &mut texts);
    texts.0.into_iter().find_map(|(name, value)| (name == PARENT).then_some(value))
}

/// Goes on in the trace that a run was stored with.
pub fn go_on(span: &Span, kept: &str) {
    // It fails where nobody listens, or where the span has begun.
    let _nobody = span.set_parent(W3C.extract(&Kept(kept)));
}

/// Refers to the trace that a run was stored with: what somebody asked for later is part of another.
pub fn refer(span: &Span, kept: &str) {
    span.add_link(W3C.extract(&Kept(kept)).span().span_context().clone());
}

struct Texts(Vec<(String, String)>);

impl Injector for Texts {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.push((key.to_owned(), value));
        }
    }
}

struct Kept<'a>(&'a str);

impl Extractor for Kept<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == PARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_trace_context_names_no_parent() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (text, good) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), true),
            (format!("00-{trace}-b7ad6b7169203331-00"), true),
            (format!("00-{trace}-0000000000000000-01"), false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01".into(), false),
            (format!("ff-{trace}-b7ad6b7169203331-01"), false),
            (format!("00-{trace}-b7ad6b7169203331"), false),
            (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), false),
            ("nonsense".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(W3C.extract(&Kept(&text)).has_active_span(), good, "{text}");
        }
    }
}
