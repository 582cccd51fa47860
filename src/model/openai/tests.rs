use std::io::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::DateTime;
use serde_json::{Value as Json, json};

use super::answer::Completion;
use super::wire::Body;
use super::*;
use crate::event::Usage;
use crate::model::http::retry_after;
use crate::model::testing::{HEAD, call, error, read_request, request, serve, text, until_closed};
use crate::model::traffic;
use crate::model::{Kind, OutputSchema, Params, Role, Timeouts, Turn};

/// A recorded answer with the usual quirks: role only, null, both line ends, comments, reasoning, usage last.
const RECORDED: &str = concat!(
    ": OPENROUTER PROCESSING\n\n",
    "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"hm\"},\"finish_reason\":null,\"logprobs\":{\"x\":[1]}}]}\r\n\r\n",
    "data:{\"choices\":[{\"delta\":{\"reasoning_content\":\"…\",\"reasoning\":\"…\"}}]}\n\n",
    "event: message\nid: 7\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße, \"}}]}\n\n",
    ": ping\r\n\r\n",
    "data: {\"choices\":[\ndata: {\"index\":0,\"delta\":{\"content\":\"世\\n界 🌍\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"another choice\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4.0,\"prompt_tokens_details\":{\"cached_tokens\":5},\"total_tokens\":13}}\n\n",
    "data: [DONE]\n\n",
);
const TEXT: &str = "Grüße, 世\n界 🌍";

fn model(address: &str, key: Option<&str>) -> OpenAi {
    let client = egress::Client::new(egress::Settings::default());
    // What its first call would wait for is no part of what is timed.
    client.prepare().unwrap();
    OpenAi::new(&client, &format!("http://{address}/v1/"), "m1".to_owned(), key.map(Secret::new), true)
        .unwrap()
}

/// Answers once with these bytes.
async fn answered(bytes: &str) -> Vec<Result<Chunk, ModelError>> {
    let (address, _requests) = serve(vec![bytes.as_bytes().to_vec()]);
    call(&model(&address, Some("sk-secret")), request()).await
}

/// Answers once with these events.
async fn events(events: &str) -> Vec<Result<Chunk, ModelError>> {
    answered(&format!("{HEAD}{events}")).await
}

fn expected() -> Vec<Result<Chunk, ModelError>> {
    let usage =
        Usage { input_tokens: 9, output_tokens: 4, model_calls: 1, cache_read_tokens: 5, ..Usage::default() };
    let chunks = [
        Chunk::Reasoning("hm".to_owned()),
        Chunk::Reasoning("…".to_owned()),
        Chunk::Text("Grüße, ".to_owned()),
        Chunk::Text("世\n界 🌍".to_owned()),
        Chunk::Usage(usage),
        Chunk::End { truncated: false },
    ];
    chunks.into_iter().map(Ok).collect()
}

#[tokio::test]
async fn a_recorded_answer_gives_its_chunks_and_one_end() {
    assert_eq!(events(RECORDED).await, expected());
    assert_eq!(events(&RECORDED.replace("\r\n", "\n").replace('\n', "\r\n")).await, expected());
    assert_eq!(events(&RECORDED.replace("\r\n", "\n").replace('\n', "\r")).await, expected());
}

#[tokio::test]
async fn a_split_at_any_byte_changes_nothing() {
    let bytes = Bytes::from_static(RECORDED.as_bytes());
    for at in 0..=bytes.len() {
        let body = egress::Body::of(vec![bytes.slice(..at), bytes.slice(at..)]);
        assert_eq!(
            Answer::new(body, Completion::new("m", None, "k", None)).collect::<Vec<_>>().await,
            expected(),
            "split at {at}"
        );
    }
    let single = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
    assert_eq!(
        Answer::new(egress::Body::of(single), Completion::new("m", None, "k", None))
            .collect::<Vec<_>>()
            .await,
        expected()
    );
}

#[tokio::test]
async fn what_was_really_streamed_loses_and_doubles_nothing_wherever_it_is_cut() {
    let decode = async |parts| {
        Answer::new(egress::Body::of(parts), Completion::new("m", None, "k", None)).collect::<Vec<_>>().await
    };
    traffic::recorded("openai", decode, |plain, event| {
        let choice = &event["choices"][0];
        let (delta, text) = (&choice["delta"], |value: &Json| value.as_str().unwrap_or_default().to_owned());
        plain.text += &text(&delta["content"]);
        plain.reasoning += &text(&delta["reasoning"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let args = plain.args.entry(call["index"].as_u64().unwrap()).or_default();
            *args += &text(&call["function"]["arguments"]);
        }
        plain.finished |= choice["finish_reason"].is_string();
        plain.failed |= event["error"].is_object();
    })
    .await;
}

#[tokio::test]
async fn a_cut_at_any_byte_gives_the_whole_text_and_an_end_or_an_error() {
    let close = format!("{HEAD}{RECORDED}").into_bytes();
    let head = HEAD.replace("connection: close", "transfer-encoding: chunked");
    let chunked = format!("{head}{:x}\r\n{RECORDED}\r\n0\r\n\r\n", RECORDED.len()).into_bytes();
    let sized_head = HEAD.replace("connection: close", &format!("content-length: {}", RECORDED.len()));
    let sized = format!("{sized_head}{RECORDED}").into_bytes();
    for whole in [close, chunked, sized] {
        let cuts = (0..=whole.len()).map(|n| whole[..n].to_vec()).collect::<Vec<_>>();
        let (address, _requests) = serve(cuts);
        let model = model(&address, None);
        let mut ended = 0;
        for n in 0..=whole.len() {
            let items = call(&model, request()).await;
            let ends = items.iter().filter(|item| matches!(item, Ok(Chunk::End { .. }))).count();
            let errors = items.iter().filter(|item| item.is_err()).count();
            assert_eq!(ends + errors, 1, "cut after {n} bytes: {items:?}");
            match items.last().unwrap() {
                Ok(Chunk::End { .. }) => assert_eq!(text(&items), TEXT, "cut after {n} bytes"),
                Ok(other) => panic!("{other:?} came last, cut after {n} bytes"),
                Err(error) => assert_eq!(error.kind, Kind::Connection, "cut after {n} bytes: {error}"),
            }
            assert!(TEXT.starts_with(&text(&items)), "cut after {n} bytes: {items:?}");
            ended += ends;
        }
        assert!(ended > 1 && ended < 200, "{ended} cuts came after the finish reason");
    }
}

/// The calls of an answer, as `id name arguments`.
fn calls(items: Vec<Result<Chunk, ModelError>>) -> Vec<String> {
    let mut calls: Vec<String> = Vec::new();
    for item in items {
        match item.unwrap() {
            Chunk::ToolCall { index, id, name } => {
                assert_eq!(index, calls.len(), "each call begins once, in order");
                calls.push(format!("{id} {name} "));
            }
            Chunk::ToolArgs { index, delta } => calls[index] += &delta,
            _ => {}
        }
    }
    calls
}

/// Returns calls with the ids that are made up in this test, without what tells them from those of other answers.
fn shortened(calls: Vec<String>) -> Vec<String> {
    calls.into_iter().map(|call| call.replace("call_7afaa346b4bf92bf_", "call_")).collect()
}

/// The arguments were read anew with every piece that repeats the name: a megabyte in pieces took minutes.
#[tokio::test]
async fn a_name_that_comes_with_every_piece_costs_no_more_than_the_pieces() {
    let piece = |arguments: &str| {
        let call = json!([{"function": {"name": "add", "arguments": arguments}}]);
        format!("data: {}\n\n", json!({"choices": [{"delta": {"tool_calls": call}}]}))
    };
    let inner = piece(&"x".repeat(20)).repeat(40_000);
    let stream = piece("{\"s\":\"}\\\"") + &inner + &piece("\"}") + "data: [DONE]\n\n";
    let parts = vec![Bytes::from(stream)];
    let items: Vec<_> =
        Answer::new(egress::Body::of(parts), Completion::new("m", None, "k", None)).collect().await;
    let calls = calls(items);
    assert_eq!((calls.len(), calls[0].len()), (1, "call_8254c329a92850f6_0 add ".len() + 800_011));
}

#[tokio::test]
async fn calls_of_tools_are_put_together_as_servers_send_them() {
    let end = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
    let both = ["a add {\"n\":1}", "b sub {\"n\":2}"].as_slice();
    for (what, deltas, expected) in [
        (
            "in pieces by index",
            &[
                r#"[{"index":0,"id":"a","type":"function","function":{"name":"add","arguments":""}}]"#,
                r#"[{"index":0,"function":{"arguments":"{\"n\""}}]"#,
                r#"[{"index":1,"id":"b","function":{"name":"sub","arguments":"{\"n\":2}"}}]"#,
                r#"[{"index":0,"function":{"arguments":":1}"}}]"#,
            ] as &[&str],
            both,
        ),
        (
            "whole, without an index",
            &[
                r#"[{"id":"a","function":{"name":"add","arguments":"{\"n\":1}"}},{"id":"b","function":{"name":"sub","arguments":{"n":2}}}]"#,
            ],
            both,
        ),
        (
            "one index for all",
            &[
                r#"[{"index":0,"id":"a","function":{"name":"add","arguments":"{\"n\":1}"}}]"#,
                r#"[{"index":0,"id":"b","function":{"name":"sub","arguments":"{\"n\":2}"}}]"#,
            ],
            both,
        ),
        (
            "without ids",
            &[
                r#"[{"index":0,"function":{"name":"add","arguments":""}},{"index":1,"function":{"name":"sub"}}]"#,
            ],
            &["call_0 add ", "call_1 sub "],
        ),
        (
            "the id again in each piece, the name last",
            &[
                r#"[{"index":0,"id":"a","function":{"name":null,"arguments":"{\"n\""}}]"#,
                r#"[{"index":0,"id":"a","function":{"name":"add","arguments":":1}"}}]"#,
            ],
            &both[..1],
        ),
        (
            "neither ids nor indices, in pieces",
            &[
                r#"[{"function":{"name":"add","arguments":"{\"n\""}}]"#,
                r#"[{"function":{"name":"add","arguments":":1}"}}]"#,
                r#"[{"function":{"name":"add","arguments":"{}"}}]"#,
                r#"[{"function":{"name":"now"}},{"function":{"name":"now"}}]"#,
            ],
            &["call_0 add {\"n\":1}", "call_1 add {}", "call_2 now ", "call_3 now "],
        ),
        (
            "one index and empty ids",
            &[
                r#"[{"index":0,"id":"","function":{"name":"add","arguments":"{\"n\":1}"}}]"#,
                r#"[{"index":0,"id":"","function":{"name":"add","arguments":"{\"n\":2}"}}]"#,
            ],
            &["call_0 add {\"n\":1}", "call_1 add {\"n\":2}"],
        ),
        (
            "the id after the name, and the second call before the first one's name",
            &[
                r#"[{"index":0,"function":{"arguments":"{}"}}]"#,
                r#"[{"index":1,"function":{"name":"sub"}}]"#,
                r#"[{"index":1,"id":"b","function":{"arguments":"{\"n\":2}"}}]"#,
                r#"[{"index":0,"id":"a","function":{"name":"add"}}]"#,
            ],
            &["call_0 sub {\"n\":2}", "a add {}"],
        ),
        (
            "one id for two calls",
            &[
                r#"[{"index":0,"id":"a","function":{"name":"add"}},{"index":1,"id":"a","function":{"name":"sub"}}]"#,
            ],
            &["a add ", "call_1 sub "],
        ),
        ("nothing", &["[]", "null", "[{}]", r#"[{"index":0,"function":null}]"#], &[]),
    ] {
        let chunk =
            |delta: &&str| format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":{delta}}}}}]}}\n\n");
        let stream = deltas.iter().map(chunk).collect::<String>() + end;
        assert_eq!(shortened(calls(events(&stream).await)), expected, "{what}");
    }
}

const CALLS: &str = concat!(
    "data: {\"choices\":[{\"delta\":{\"content\":\"Let me see.\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"add\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"ü\\\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"now\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
);

#[tokio::test]
async fn calls_of_tools_that_are_split_are_whole_and_those_that_are_cut_are_an_error() {
    let bytes = Bytes::from_static(CALLS.as_bytes());
    for at in 0..=bytes.len() {
        let body = egress::Body::of(vec![bytes.slice(..at), bytes.slice(at..)]);
        let items: Vec<_> = Answer::new(body, Completion::new("m", None, "k", None)).collect().await;
        assert_eq!(items.last(), Some(&Ok(Chunk::End { truncated: false })), "split at {at}");
        assert_eq!(calls(items), ["a add {\"ü\":1}", "b now "], "split at {at}");
        let items: Vec<_> =
            Answer::new(egress::Body::of(vec![bytes.slice(..at)]), Completion::new("m", None, "k", None))
                .collect()
                .await;
        // The last line end may be missing.
        let whole = at + 2 >= bytes.len() && items.last().unwrap().is_ok();
        assert!(whole || error(items).kind == Kind::Connection, "cut after {at} bytes");
    }
}

#[tokio::test]
async fn a_call_without_a_name_is_an_error_unless_the_answer_was_cut_at_its_limit() {
    let call = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\"}]}}]}\n\n";
    for (reason, fits) in [("tool_calls", false), ("length", true)] {
        let end = format!("data: {{\"choices\":[{{\"finish_reason\":\"{reason}\"}}]}}\n\ndata: [DONE]\n\n");
        let last = events(&format!("{call}{end}")).await.pop().unwrap();
        assert_eq!(last.is_ok(), fits, "{reason}");
    }
}

#[test]
fn tools_and_their_results_are_sent_as_the_protocol_has_them() {
    let call = crate::model::ToolCall { id: "a".into(), name: "add".into(), arguments: "{\"n\":".into() };
    let turns = [Turn::calls("".into(), vec![call]), Turn::result("a", "3".into())];
    let spec = crate::model::ToolSpec {
        name: "add".into(),
        description: "Adds.".into(),
        parameters: json!({"type": "object"}),
    };
    let (params, tools) = (Params::default(), [spec]);
    let body = Body {
        model: "m",
        turns: &turns,
        params: &params,
        tools: &tools,
        output: None,
        forced: false,
        official: false,
    };
    let sent = serde_json::to_value(&body).unwrap();
    let function = json!({"name": "add", "arguments": "{}"});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": function}]},
            {"role": "tool", "content": "3", "tool_call_id": "a"},
        ])
    );
    let function = json!({"name": "add", "description": "Adds.", "parameters": {"type": "object"}});
    assert_eq!(sent["tools"], json!([{"type": "function", "function": function}]));
}

/// DeepSeek refuses a conversation in which its thoughts are missing while tools are called, and Gemini one in which its
/// signatures are.
#[tokio::test]
async fn what_a_provider_wants_back_with_a_call_goes_back_with_it_and_to_nobody_else() {
    let signature = json!({"google": {"thought_signature": "sig"}});
    let call = json!([{"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}, "extra_content": signature}]);
    let answer = [
        json!({"reasoning_content": "I "}),
        json!({"reasoning_content": "add."}),
        json!({"tool_calls": call}),
    ];
    let answer: String =
        answer.map(|delta| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}))).concat();
    let end = "data: {\"choices\":[{\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
    let items = events(&format!("{answer}{end}")).await;
    let kept =
        items.into_iter().find_map(|item| if let Ok(Chunk::Kept(kept)) = item { Some(kept) } else { None });
    assert_eq!(kept, Some(json!({"openai": "m1", "reasoning_content": "I add.", "calls": [signature]})));

    let call = crate::model::ToolCall { id: "a".into(), name: "add".into(), arguments: "{}".into() };
    let turns = [Turn { kept, ..Turn::calls("".into(), vec![call]) }];
    for (model, goes) in [("m1", true), ("m2", false)] {
        let params = Params::default();
        let body = Body {
            model,
            turns: &turns,
            params: &params,
            tools: &[],
            output: None,
            forced: false,
            official: false,
        };
        let sent = &serde_json::to_value(&body).unwrap()["messages"][0];
        assert_eq!(sent["reasoning_content"] == "I add.", goes);
        assert_eq!(sent["tool_calls"][0]["extra_content"] == signature, goes);
        assert_eq!(sent.to_string().contains("sig"), goes);
    }
}

/// Many a server has no schemas, but tools.
#[tokio::test]
async fn a_model_without_schemas_answers_by_the_call_of_a_tool() {
    let piece = |arguments: &str| {
        let call = json!({"index": 0, "id": "a", "function": {"name": "answer", "arguments": arguments}});
        format!("data: {}\n\n", json!({"choices": [{"delta": {"tool_calls": [call]}}]}))
    };
    let end = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let second = piece("{}").replace("\"index\":0", "\"index\":1").replace("\"id\":\"a\"", "\"id\":\"b\"");
    let answer = format!("{HEAD}{}{}{second}{end}", piece("{\"n\":"), piece("1}"));
    let (address, requests) = serve(vec![answer.into_bytes()]);
    let schema = json!({"type": "object"});
    let output = OutputSchema { name: "answer".into(), schema: schema.clone(), bounded: Json::Null };
    let model = OpenAi { schemas: false, ..model(&address, None) };
    let items = call(&model, Request { output: Some(Arc::new(output)), ..request() }).await;
    assert_eq!(text(&items), "{\"n\":1}");
    let calls = |item: &Result<Chunk, ModelError>| {
        matches!(item, Ok(Chunk::ToolCall { .. } | Chunk::ToolArgs { .. } | Chunk::Kept(_)))
    };
    assert!(!items.iter().any(calls), "{items:?}");
    let sent = requests.recv().unwrap();
    let sent: Json = serde_json::from_str(sent.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(sent["tool_choice"], json!({"type": "function", "function": {"name": "answer"}}));
    assert_eq!(sent["tools"][0]["function"]["parameters"], schema);
    assert_eq!(sent.get("response_format"), None);
}

#[test]
fn openai_itself_has_another_name_for_the_limit_of_an_answer() {
    let client = egress::Client::new(egress::Settings::default());
    let official = |base: &str| OpenAi::new(&client, base, "m".to_owned(), None, true).unwrap().official;
    assert!(official("https://api.openai.com/v1/") && !official("https://api.example.com/v1"));
    let params = Params { max_tokens: Some(7), ..Params::default() };
    for (official, name, other) in
        [(true, "max_completion_tokens", "max_tokens"), (false, "max_tokens", "max_completion_tokens")]
    {
        let body = Body {
            model: "m",
            turns: &[],
            params: &params,
            tools: &[],
            output: None,
            forced: false,
            official,
        };
        let sent = serde_json::to_value(&body).unwrap();
        assert_eq!((&sent[name], sent.get(other)), (&json!(7), None));
    }
}

#[tokio::test]
async fn a_refusal_is_no_answer() {
    let said = "data: {\"choices\":[{\"delta\":{\"content\":\"I\"}}]}\n\n";
    let done = "data: [DONE]\n\n";
    for (end, why) in [
        ("{\"finish_reason\":\"content_filter\"}", "filter stopped the answer"),
        ("{\"delta\":{\"refusal\":\"No.\"},\"finish_reason\":\"stop\"}", "refused to answer"),
    ] {
        let items = events(&format!("{said}data: {{\"choices\":[{end}]}}\n\n{done}")).await;
        let error = error(items);
        assert!(error.kind == Kind::Schema && error.message.contains(why), "{error:?}");
    }
}

#[tokio::test]
async fn a_missing_done_is_an_end_only_after_a_finish_reason() {
    let part = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    assert_eq!(error(events(part).await).kind, Kind::Connection);
    assert_eq!(error(events("").await).kind, Kind::Connection);
    let finished = format!("{part}data: {{\"choices\":[{{\"finish_reason\":\"length\"}}]}}\n\n");
    assert_eq!(events(&finished).await.last(), Some(&Ok(Chunk::End { truncated: true })));
    let one_call = Usage { model_calls: 1, ..Usage::default() };
    assert!(events(&finished).await.contains(&Ok(Chunk::Usage(one_call))), "the call counts without usage");
    let done = events(&format!("{part}data: [DONE]\n\n")).await;
    assert_eq!((text(&done).as_str(), done.last()), ("x", Some(&Ok(Chunk::End { truncated: false }))));
}

#[tokio::test]
async fn an_error_within_the_stream_is_a_server_error_with_the_providers_words() {
    for (event, words) in [
        ("data: {\"error\":{\"message\":\"over\\nloaded\",\"code\":502}}", "over\\nloaded"),
        ("data: {\"error\":\"out of memory\"}", "out of memory"),
        ("data: {\"object\":\"error\",\"message\":\"bad\",\"code\":400}", "bad"),
        ("event: error\ndata: {\"x\":1}", ""),
        ("data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}", ""),
    ] {
        let first = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
        let items = events(&format!("{first}{event}\n\ndata: [DONE]\n\n")).await;
        assert_eq!(text(&items), "x");
        let error = error(items);
        assert_eq!(error.kind, Kind::ServerError, "{event}");
        assert_eq!(error.message, format!("the provider failed within the answer: {words}"));
    }
}

#[tokio::test]
async fn nonsense_is_a_schema_error_that_repeats_nothing_of_it() {
    let long = format!("data: {{\"choices\":[],\"x\":\"{}\"}}\n\n", "y".repeat(1024 * 1024));
    let endless = format!(": {}", "y".repeat(3 * 1024 * 1024));
    let broken = "data: {\"choices\":[{\"delta\":{\"content\":\"tell\n\n";
    let wrong = "data: {\"choices\":\"tell\"}\n\n";
    for bad in [long.as_str(), &endless, broken, wrong, "data: tell\n\n"] {
        let error = error(events(bad).await);
        assert_eq!(error.kind, Kind::Schema, "{error}");
        assert!(!error.message.contains("tell"), "{error}");
    }
    let (address, _requests) = serve(vec![[HEAD.as_bytes(), b"data: {\"\xff\"}\n\n"].concat()]);
    assert_eq!(error(call(&model(&address, None), request()).await).kind, Kind::Schema);
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\ntell";
    assert_eq!(error(answered(html).await).kind, Kind::Schema);
}

#[tokio::test]
async fn a_status_becomes_its_kind_and_the_message_is_short_and_clean() {
    for (status, kind) in [
        (400, Kind::Http(400)),
        (401, Kind::Http(401)),
        (408, Kind::Http(408)),
        (429, Kind::Http(429)),
        (500, Kind::Http(500)),
        (529, Kind::Http(529)),
        (302, Kind::Http(302)),
    ] {
        let body = format!("{{\"error\":{{\"message\":\"a\\u0007 sk-secret {}\"}}}}", "é".repeat(300));
        let head = format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: {}", body.len());
        let error = error(answered(&format!("{head}\r\n\r\n{body}")).await);
        assert_eq!((error.kind, error.retry_after), (kind, Some(Duration::from_secs(7))));
        let start = format!("the provider answered {status}: a\\u{{7}} *** é");
        assert!(error.message.starts_with(&start) && error.message.chars().count() < 240, "{error}");
    }
    let plain = error(answered("HTTP/1.1 503 X\r\ncontent-length: 4\r\n\r\n<hr>").await);
    assert_eq!((plain.message.as_str(), plain.retry_after), ("the provider answered 503", None));
}

#[test]
fn a_wait_is_seconds_or_a_date_and_never_longer_than_a_minute() {
    let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().to_utc();
    for (text, seconds) in [
        ("5", Some(5.0)),
        (" 0.5 ", Some(0.5)),
        ("9999", Some(60.0)),
        ("Thu, 01 Jan 2026 00:00:07 GMT", Some(7.0)),
        ("Thu, 01 Jan 2026 01:00:00 GMT", Some(60.0)),
        ("Wed, 31 Dec 2025 00:00:00 GMT", Some(0.0)),
        ("-1", None),
        ("NaN", None),
        ("soon", None),
    ] {
        assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs_f64), "{text}");
    }
}

#[tokio::test]
async fn the_request_carries_the_conversation_the_parameters_and_the_headers() {
    let (address, requests) = serve(vec![format!("{HEAD}{RECORDED}").into_bytes()]);
    let extra = json!({"seed": 9, "stream_options": null, "messages": "no", "stream": false, "top_k": 4});
    let params = Params {
        temperature: Some(0.5),
        top_p: Some(0.9),
        max_tokens: Some(100),
        seed: Some(7),
        stop: vec!["END".to_owned()],
        reasoning_effort: Some("low".to_owned()),
        extra: extra.as_object().unwrap().clone(),
    };
    call(&model(&address, Some("sk-secret")), Request { params, ..request() }).await;
    let sent = requests.recv().unwrap();
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    for header in ["authorization: Bearer sk-secret", "idempotency-key: task-1", "x-attempt: 2"] {
        assert!(head.contains(header), "{header} is missing in {head}");
    }
    let expected = json!({
        "model": "m1", "messages": [{"role": "user", "content": "hi"}], "stream": true, "max_tokens": 100,
        "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "reasoning_effort": "low", "seed": 9, "top_k": 4,
    });
    assert_eq!(serde_json::from_str::<Json>(body).unwrap(), expected);
    assert_eq!(body.matches("\"seed\"").count(), 1);
    let plain = Body {
        model: "m",
        turns: &[],
        params: &Params::default(),
        tools: &[],
        output: None,
        forced: false,
        official: false,
    };
    let plain = serde_json::to_value(plain).unwrap();
    let options = json!({"include_usage": true});
    assert_eq!(plain, json!({"model": "m", "messages": [], "stream": true, "stream_options": options}));
}

/// They went out as they came in, and no server knows a part of the type `image`.
#[test]
fn images_and_files_are_named_as_the_protocol_names_them() {
    let content = json!([
        {"type": "text", "text": "look"},
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "file", "url": "data:application/pdf;base64,AA==", "name": "a.pdf"},
    ]);
    let turns = [Turn::new(Role::User, content)];
    let body = Body {
        model: "m",
        turns: &turns,
        params: &Params::default(),
        tools: &[],
        output: None,
        forced: false,
        official: false,
    };
    let body = serde_json::to_value(body).unwrap();
    let expected = json!([
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
    ]);
    assert_eq!(body["messages"], json!([{"role": "user", "content": expected}]));
}

#[test]
fn the_address_of_the_endpoint_keeps_the_base_and_its_query() {
    let client = egress::Client::new(egress::Settings::default());
    for (base, url) in [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://x.example.com/", "https://x.example.com/chat/completions"),
        ("https://x.example.com/a?api-version=1#f", "https://x.example.com/a/chat/completions?api-version=1"),
    ] {
        assert_eq!(
            OpenAi::new(&client, base, "m".to_owned(), None, true).unwrap().endpoint.url.as_str(),
            url
        );
    }
    for bad in ["", "api.openai.com/v1", "file:///v1", "mailto:a@b.c", "https://user:pass@x.example.com/v1"] {
        assert!(OpenAi::new(&client, bad, "m".to_owned(), None, true).is_err(), "{bad}");
    }
    let bad_key =
        OpenAi::new(&client, "https://x.example.com", "m".to_owned(), Some(Secret::new("a\nb")), true);
    assert!(!format!("{bad_key:?}").contains("a\nb") && bad_key.is_err());
    let good =
        OpenAi::new(&client, "https://x.example.com", "m".to_owned(), Some(Secret::new("sk-secret")), true);
    assert!(!format!("{good:?}").contains("secret"), "{good:?}");
}

const ONE_TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stream_closes_the_socket_at_once() {
    let (address, closed) = until_closed(ONE_TOKEN);
    let mut stream = model(&address, None).stream(request()).await.unwrap();
    assert_eq!(stream.next().await, Some(Ok(Chunk::Text("x".to_owned()))));
    let dropped = Instant::now();
    drop(stream);
    let took = closed.recv_timeout(Duration::from_secs(5)).unwrap() - dropped;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_call_before_the_head_closes_the_socket_at_once() {
    let (address, closed) = until_closed("");
    let model = model(&address, None);
    let call = tokio::time::timeout(Duration::from_millis(50), model.stream(request()));
    assert!(call.await.is_err());
    let dropped = Instant::now();
    let took = closed.recv_timeout(Duration::from_secs(5)).unwrap() - dropped;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_timeout_ends_the_call_and_closes_the_socket() {
    let (short, long) = (Duration::from_millis(30), Duration::from_mins(1));
    for (bytes, timeouts, what) in [
        ("", Timeouts { first: short, idle: long, total: long }, "no first token"),
        (HEAD, Timeouts { first: short, idle: long, total: long }, "no first token"),
        (ONE_TOKEN, Timeouts { first: long, idle: short, total: long }, "silent"),
        (ONE_TOKEN, Timeouts { first: long, idle: long, total: short }, "not whole"),
    ] {
        let (address, closed) = until_closed(bytes);
        let error = error(call(&model(&address, None), Request { timeouts, ..request() }).await);
        assert_eq!(error.kind, Kind::Timeout);
        assert!(error.message.contains(what), "{error}");
        closed.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connection_error() {
    let error = error(call(&model("127.0.0.1:1", Some("sk-secret")), request()).await);
    assert_eq!(error.kind, Kind::Connection);
    assert!(error.message.starts_with("no connection to `127.0.0.1:1`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_the_next_call_after_a_whole_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, connections) = mpsc::channel();
    std::thread::spawn(move || {
        let head = HEAD.replace("connection: close", "transfer-encoding: chunked");
        let answer = format!("{head}{:x}\r\n{RECORDED}\r\n0\r\n\r\n", RECORDED.len());
        for socket in listener.incoming() {
            let (mut socket, answer) = (socket.unwrap(), answer.clone());
            let _ignored = send.send(());
            std::thread::spawn(move || {
                while socket.peek(&mut [0]).is_ok_and(|n| n > 0) {
                    read_request(&mut socket);
                    let _ignored = socket.write_all(answer.as_bytes());
                }
            });
        }
    });
    let model = model(&address, None);
    for _ in 0..20 {
        assert_eq!(call(&model, request()).await, expected());
    }
    // On a busy machine the end of a body may come after the grace, and then a connection is lost.
    let connections = connections.try_iter().count();
    assert!(connections < 20, "{connections} connections for 20 calls");
}
