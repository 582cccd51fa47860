//! Traces as a collector gets them.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use reqwest::RequestBuilder;
use serde_json::{Value as Json, json};

use crate::support::Fresh;
use crate::support::collector::{Collector, attribute, hex};
use crate::support::process::{Folder, Mock, Service};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Longer than anything takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const PARENT: &str = "b7ad6b7169203331";

/// Reads from a server, asks the user where that is wished for, and then a model.
const GRAPH: &str = "\
format: 1
input: {pause: {type: boolean, default: false}}
state: {messages: messages, orders: any, sure: string?}
start: fetch
nodes:
  fetch:
    kind: http
    url: \"@BASE@/orders/path-canary?token=query-canary\"
    headers: {x-key: {secret: KEY}}
    into: orders
    next: check
  check: {kind: route, next: [{when: input.pause, to: ask}, {else: answer}]}
  ask: {kind: ask, question: Question-canary?, options: [answer-canary], into: sure, next: answer}
  answer: {kind: llm, text: Be a system-canary., history: {last: 1}, reply: true, next: end}
";

/// A service that is traced.
struct Traced {
    service: Service,
    collector: Collector,
    mock: Mock,
    folder: Folder,
    fresh: Fresh,
    http: reqwest::Client,
}

impl Traced {
    async fn start(mute: bool) -> Self {
        graphloom::egress::install_crypto();
        let (collector, mock, folder, fresh) =
            (Collector::start(mute).await, Mock::start(), Folder::new(), Fresh::sqlite());
        let other = collector.base.strip_prefix("http://").unwrap();
        folder.write(
            "graphs/project.yaml",
            &format!(
                "format: 1\nhosts: {{allow: [\"{other}\"]}}\ndefault_model: clever\nmodels:\n  \
                 clever: {{provider: openai, model: mock-1, base_url: \"{}/v1\", api_key: {{secret: KEY}}}}\n",
                mock.base
            ),
        );
        folder.write("graphs/chat.yaml", &GRAPH.replace("@BASE@", &collector.base));
        let drain = "[drain]\nnotice_seconds = 0\nruns_seconds = 1\nexit_seconds = 6\n";
        folder.write("graphloom.toml", &format!("allow_private = [\"{other}\"]\n{drain}"));
        let service = Self::serve(&folder, &fresh, &collector.base);
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
        Self { service, collector, mock, folder, fresh, http }
    }

    fn serve(folder: &Folder, fresh: &Fresh, collector: &str) -> Service {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
            ("OTEL_SERVICE_NAME", "desk"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector=header-canary"),
            ("KEY", "key-canary"),
        ];
        Service::start_with(folder, &fresh.url, "one", &env)
    }

    fn restart(&mut self) {
        self.service = Self::serve(&self.folder, &self.fresh, &self.collector.base);
    }

    fn post(&self, path: &str, body: &Json) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.service.base)).json(body)
    }

    fn turn(&self, session: &str, message: &str, pause: bool) -> RequestBuilder {
        let body = json!({"session_id": session, "message": message, "input": {"pause": pause}});
        self.post("/v1/graphs/chat/chat", &body)
    }

    /// Sends a request and reads the whole stream.
    async fn told(&self, request: RequestBuilder) -> String {
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        answer.text().await.unwrap()
    }

    /// Waits until so many runs are there with all that they did.
    async fn runs(&self, count: usize) -> Vec<Span> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let spans = self.collector.spans();
            let runs = spans.iter().filter(|span| span.name == "invoke_workflow chat").count();
            if runs >= count {
                return spans;
            }
            assert!(Instant::now() < patience, "{runs} runs of {count}: {}", self.service.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn traced(request: RequestBuilder, trace: &str, span: &str) -> RequestBuilder {
    request.header("traceparent", format!("00-{trace}-{span}-01"))
}

fn runs(spans: &[Span]) -> Vec<&Span> {
    let mut runs: Vec<&Span> = spans.iter().filter(|span| span.name == "invoke_workflow chat").collect();
    runs.sort_by_key(|span| span.start_time_unix_nano);
    runs
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    let span = found.next().unwrap_or_else(|| panic!("no `{name}` among {names:?}"));
    assert!(found.next().is_none(), "several `{name}` among {names:?}");
    span
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_a_tree_of_spans_below_the_request_that_began_it() {
    let desk = Traced::start(false).await;
    let asked = traced(desk.turn("session-canary", "user-canary [[say=model-canary]]", false), TRACE, PARENT)
        .header("tracestate", "vendor=state-canary");
    desk.told(asked).await;
    let spans = desk.runs(1).await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let run = named(&spans, "invoke_workflow chat");
    assert_eq!(hex(&run.parent_span_id), PARENT);
    let tree = [
        ("superstep 1", "invoke_workflow chat"),
        ("task fetch", "superstep 1"),
        ("GET", "task fetch"),
        ("superstep 2", "invoke_workflow chat"),
        ("task check", "superstep 2"),
        ("superstep 3", "invoke_workflow chat"),
        ("task answer", "superstep 3"),
        ("chat mock-1", "task answer"),
    ];
    for (child, parent) in tree {
        let parent_id = hex(&named(&spans, parent).span_id);
        assert_eq!(hex(&named(&spans, child).parent_span_id), parent_id, "{child} below {parent}");
    }
    assert_eq!(spans.len(), tree.len() + 1, "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    let (chat, get) = (named(&spans, "chat mock-1"), named(&spans, "GET"));
    let port = |base: &str| base.rsplit_once(':').unwrap().1.to_owned();
    for (span, name, value) in [
        (run, "gen_ai.operation.name", "invoke_workflow"),
        (run, "gen_ai.workflow.name", "chat"),
        (run, "graphloom.tenant", "dev"),
        (run, "graphloom.run.status", "completed"),
        (chat, "gen_ai.operation.name", "chat"),
        (chat, "gen_ai.provider.name", "openai"),
        (chat, "gen_ai.request.model", "mock-1"),
        (chat, "graphloom.model", "clever"),
        (chat, "server.port", &port(&desk.mock.base)),
        (get, "http.request.method", "GET"),
        (get, "http.response.status_code", "200"),
        (get, "server.address", "127.0.0.1"),
        (get, "server.port", &port(&desk.collector.base)),
    ] {
        assert_eq!(attribute(span, name), value, "{name} of {}", span.name);
    }
    for name in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"] {
        assert!(attribute(chat, name).parse::<u64>().unwrap() > 0, "{name}");
    }
    // Whoever is called learns which span calls.
    let calls = desk.mock.calls(&desk.http).await;
    let due = |span: &Span| format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert!(calls[0]["headers"].to_string().contains(&due(chat)), "{}", calls[0]["headers"]);
    assert!(!calls[0]["headers"].to_string().contains("tracestate"), "{}", calls[0]["headers"]);
    let heads = desk.collector.heads();
    assert!(heads.len() == 1 && heads[0].contains(&due(get)), "{heads:?}");
    assert!(heads[0].contains("key-canary"), "the secret went where it should");
    assert!(!heads[0].contains("tracestate"), "{heads:?}");
    let resource = desk.collector.resource();
    assert!(resource.contains(&("service.name".into(), "desk".into())), "{resource:?}");
    // What was said, and what is secret, is nowhere in it.
    let bytes = String::from_utf8_lossy(&desk.collector.bytes()).into_owned();
    assert!(bytes.contains("mock-1"));
    assert!(!bytes.contains("canary"), "{}", bytes.split("canary").next().unwrap());
    assert!(!desk.service.log().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_names_no_trace_begins_a_new_one() {
    let desk = Traced::start(false).await;
    for (n, header) in
        [None, Some("nonsense"), Some("00-00000000000000000000000000000000-b7ad6b7169203331-01")]
            .into_iter()
            .enumerate()
    {
        let request = desk.turn(&format!("s{n}"), "hi", false);
        let request = match header {
            Some(text) => request.header("traceparent", text),
            None => request,
        };
        desk.told(request).await;
    }
    let spans = desk.runs(3).await;
    let runs = runs(&spans);
    let traces: std::collections::BTreeSet<String> = runs.iter().map(|run| hex(&run.trace_id)).collect();
    assert_eq!((runs.len(), traces.len()), (3, 3));
    assert!(runs.iter().all(|run| run.parent_span_id.is_empty()), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_its_trace_when_it_is_answered_and_when_it_is_taken_over() {
    let mut desk = Traced::start(false).await;
    desk.told(traced(desk.turn("s", "hi", true), TRACE, PARENT)).await;
    let first = runs(&desk.runs(1).await)[0].clone();
    assert_eq!(attribute(&first, "graphloom.run.status"), "interrupted");
    let url = format!("{}/v1/threads/s/interrupts", desk.service.base);
    let open: Json = desk.http.get(url).send().await.unwrap().json().await.unwrap();
    let question = open["interrupts"][0]["interrupt_id"].as_str().unwrap().to_owned();
    let other = "1234567890abcdef1234567890abcdef";
    let answer = desk.post(&format!("/v1/interrupts/{question}/answer"), &json!({"answer": "answer-canary"}));
    desk.told(traced(answer, other, PARENT)).await;
    // Who answers is another trace, which refers to the first.
    let spans = desk.runs(2).await;
    let second = runs(&spans)[1];
    assert_eq!((hex(&second.trace_id), hex(&second.parent_span_id)), (other.to_owned(), PARENT.to_owned()));
    let links: Vec<_> = second.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(links, [(TRACE.to_owned(), hex(&first.span_id))]);
    // Who takes over goes on in the trace.
    let hangs =
        traced(desk.turn("t", "[[hang fail_first=1 key=t]]", false), TRACE, PARENT).send().await.unwrap();
    let run = hangs.headers()["x-run-id"].to_str().unwrap().to_owned();
    while desk.mock.calls(&desk.http).await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    desk.service.process.crash();
    desk.restart();
    desk.told(desk.http.get(format!("{}/v1/runs/{run}/events", desk.service.base))).await;
    let spans = desk.runs(3).await;
    let third = runs(&spans)[2];
    assert_eq!((hex(&third.trace_id), attribute(third, "graphloom.run.id")), (TRACE.to_owned(), run));
    assert!(third.links.is_empty() && !third.parent_span_id.is_empty());
    assert_ne!(hex(&third.parent_span_id), PARENT, "its parent is the span that died");
    assert!(!String::from_utf8_lossy(&desk.collector.bytes()).contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_nothing_up_and_what_is_left_is_sent_at_the_end() {
    for mute in [true, false] {
        let mut desk = Traced::start(mute).await;
        let begun = Instant::now();
        for n in 0..10 {
            let told = desk.told(desk.turn(&format!("s{n}"), "hi", false)).await;
            assert!(told.contains("run.finished"), "{told}");
        }
        let took = begun.elapsed();
        assert!(took < PATIENCE, "{took:?}: {}", desk.service.log());
        let stopped = Instant::now();
        desk.service.process.terminate();
        assert!(desk.service.process.wait());
        let took = stopped.elapsed();
        assert!(took < PATIENCE, "{took:?}: {}", desk.service.log());
        if !mute {
            assert_eq!(runs(&desk.collector.spans()).len(), 10, "all of them: {}", desk.service.log());
        }
    }
}
