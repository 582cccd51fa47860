use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value as Json, json};

use super::*;
use crate::event::Usage;
use crate::model::testing::{HEAD, call, error, request, serve, text};
use crate::model::traffic;
use crate::model::{Kind, OutputSchema, Params, Role, ToolCall, ToolSpec, Turn};

/// A recorded answer with what answers have: thoughts, some of them hidden, text, two calls, pings, blocks of later
/// versions, and counts that come in pieces.
const RECORDED: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":20,\"cache_read_input_tokens\":300,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm, 世\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"c2ln\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"aGlkZGVu\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
    "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\r\n\r\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"text_delta\",\"text\":\"Grüße \"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"text_delta\",\"text\":\"🌍\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":3,\"content_block\":{\"type\":\"from_a_later_version\"}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":4,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"add\",\"input\":{}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":4,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":4,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"n\\\": \"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":4,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":4}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":5,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_2\",\"name\":\"now\",\"input\":{}}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":5}\n\n",
    "event: from_a_later_version\ndata: {\"type\":\"from_a_later_version\"}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":42}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn kept() -> Json {
    json!({"anthropic": "m1", "blocks": [
        {"type": "thinking", "thinking": "Hm, 世", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "aGlkZGVu"},
        {"type": "text", "text": "Grüße 🌍"},
        {"type": "tool_use", "call": 0},
        {"type": "tool_use", "call": 1},
    ]})
}

fn expected() -> Vec<Result<Chunk, ModelError>> {
    let usage = |output_tokens| {
        let (cache_read_tokens, cache_write_tokens) = (300, 20);
        let (input_tokens, model_calls) = (330, 1);
        let usage = Usage { input_tokens, output_tokens, model_calls, ..Usage::default() };
        Chunk::Usage(Usage { cache_read_tokens, cache_write_tokens, ..usage })
    };
    let call = |index, id: &str, name: &str| Chunk::ToolCall { index, id: id.into(), name: name.into() };
    let args = |delta: &str| Chunk::ToolArgs { index: 0, delta: delta.into() };
    let chunks = [
        usage(1),
        Chunk::Reasoning("Hm, 世".into()),
        Chunk::Text("Grüße ".into()),
        Chunk::Text("🌍".into()),
        call(0, "toolu_1", "add"),
        args("{\"n\": "),
        args("1}"),
        call(1, "toolu_2", "now"),
        usage(42),
        Chunk::Kept(kept()),
        usage(42),
        Chunk::End { truncated: false },
    ];
    chunks.into_iter().map(Ok).collect()
}

fn model(address: &str, schemas: bool) -> Anthropic {
    let client = egress::Client::new(egress::Settings::default());
    // What its first call would wait for is no part of what is timed.
    client.prepare().unwrap();
    let key = Some(Secret::new("sk-secret"));
    Anthropic::new(&client, &format!("http://{address}"), "m1".into(), key, schemas).unwrap()
}

/// Answers once with these bytes.
async fn answered(bytes: &str) -> Vec<Result<Chunk, ModelError>> {
    let (address, _requests) = serve(vec![bytes.as_bytes().to_vec()]);
    call(&model(&address, true), request()).await
}

async fn parts(parts: Vec<Bytes>) -> Vec<Result<Chunk, ModelError>> {
    Answer::new(egress::Body::of(parts), Message::new("m1", None, "k", None)).collect().await
}

async fn events(events: &str) -> Vec<Result<Chunk, ModelError>> {
    parts(vec![Bytes::copy_from_slice(events.as_bytes())]).await
}

#[tokio::test]
async fn a_recorded_answer_gives_its_chunks_and_one_end() {
    assert_eq!(answered(&format!("{HEAD}{RECORDED}")).await, expected());
}

#[tokio::test]
async fn a_split_at_any_byte_changes_nothing_and_a_cut_is_an_error() {
    let bytes = Bytes::from_static(RECORDED.as_bytes());
    // Once the reason for the end is there, only `message_stop` is missing.
    let whole = RECORDED.find("event: message_stop").unwrap();
    for at in 0..=bytes.len() {
        assert_eq!(parts(vec![bytes.slice(..at), bytes.slice(at..)]).await, expected(), "split at {at}");
        let cut = parts(vec![bytes.slice(..at)]).await;
        if at >= whole {
            assert_eq!(cut, expected(), "cut at {at}");
        } else {
            assert_eq!(error(cut).kind, Kind::Connection, "cut at {at}");
        }
    }
}

#[tokio::test]
async fn what_was_really_streamed_loses_and_doubles_nothing_wherever_it_is_cut() {
    traffic::recorded("anthropic", parts, |plain, event| {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let (index, delta) = (event["index"].as_u64().unwrap_or_default(), &event["delta"]);
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                let block = &event["content_block"];
                match block["type"].as_str().unwrap() {
                    "text" => plain.text += &text(&block["text"]),
                    "tool_use" => {
                        plain.args.insert(index, String::new());
                        plain.given.insert(index, block["input"].clone());
                    }
                    _ => {}
                }
            }
            "content_block_delta" => match delta["type"].as_str().unwrap() {
                "text_delta" => plain.text += &text(&delta["text"]),
                "thinking_delta" => plain.reasoning += &text(&delta["thinking"]),
                "input_json_delta" => {
                    if let Some(args) = plain.args.get_mut(&index) {
                        *args += &text(&delta["partial_json"]);
                    }
                }
                _ => {}
            },
            "content_block_stop" => {
                // What was never streamed was all there at the beginning.
                let given = plain.given.get(&index).filter(|given| **given != json!({}));
                if let (Some(args), Some(given)) = (plain.args.get_mut(&index), given)
                    && args.is_empty()
                {
                    *args = given.to_string();
                }
            }
            "message_delta" => {
                let reason = delta["stop_reason"].as_str();
                plain.finished |= reason.is_some();
                plain.failed = matches!(reason, Some("refusal" | "pause_turn"));
            }
            "error" => plain.failed = true,
            _ => {}
        }
    })
    .await;
}

#[tokio::test]
async fn the_request_carries_key_version_and_what_the_api_wants() {
    let (address, requests) = serve(vec![format!("{HEAD}{RECORDED}").into_bytes()]);
    let extra = json!({"top_k": 4, "messages": "no", "stream": false, "output_config": {"x": 1}});
    let params = Params {
        temperature: Some(0.5),
        top_p: Some(0.9),
        stop: vec!["END".into()],
        reasoning_effort: Some("minimal".into()),
        extra: extra.as_object().unwrap().clone(),
        ..Params::default()
    };
    let schema = json!({"type": "object"});
    let output =
        Some(Arc::new(OutputSchema { name: "answer".into(), schema: schema.clone(), bounded: Json::Null }));
    call(&model(&address, true), Request { output, params, ..request() }).await;
    let sent = requests.recv().unwrap();
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{head}");
    for header in ["x-api-key: sk-secret", "anthropic-version: 2023-06-01", "idempotency-key: task-1"] {
        assert!(head.contains(header), "{header} is missing in {head}");
    }
    assert!(!head.contains("authorization"), "{head}");
    let config = json!({"effort": "low", "format": {"type": "json_schema", "schema": schema}, "x": 1});
    let expected = json!({
        "model": "m1", "max_tokens": 8192, "stream": true, "temperature": 0.5, "top_p": 0.9, "top_k": 4,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stop_sequences": ["END"],
        "thinking": {"type": "adaptive"}, "output_config": config,
    });
    assert_eq!(serde_json::from_str::<Json>(body).unwrap(), expected);
}

fn body(turns: &[Turn], params: &Params) -> Json {
    let body = Body { model: "m1", turns, params, tools: &[], output: None, schemas: true };
    serde_json::to_value(&body).unwrap()
}

#[test]
fn a_conversation_alternates_and_begins_with_the_user() {
    let say = |role, said: &str| Turn::new(role, said.into());
    let text = |said: &str| json!({"type": "text", "text": said});
    let add = || ToolCall { id: "functions.add:0".into(), name: "add".into(), arguments: "{\"n\":".into() };
    let id = json!("call_2aab2b9e6b10fe772400632a");
    let called = json!({"type": "tool_use", "id": id, "name": "add", "input": {}});
    let result = json!({"type": "tool_result", "tool_use_id": id, "content": [text("3")]});
    for (what, turns, messages) in [
        ("nothing said", vec![], json!([{"role": "user", "content": [text("(The conversation goes on.)")]}])),
        (
            "a beginning that was clipped, and an empty turn",
            vec![say(Role::Assistant, "hello"), say(Role::User, " "), say(Role::Assistant, "there")],
            json!([
                {"role": "user", "content": [text("(The conversation goes on.)")]},
                {"role": "assistant", "content": [text("hello"), text("there")]},
            ]),
        ),
        (
            "calls with ids and arguments that the API refuses",
            vec![
                say(Role::User, "1+2"),
                Turn::calls("".into(), vec![add()]),
                Turn::result("functions.add:0", "3".into()),
                say(Role::User, "and?"),
            ],
            json!([
                {"role": "user", "content": [text("1+2")]},
                {"role": "assistant", "content": [called]},
                {"role": "user", "content": [result, text("and?")]},
            ]),
        ),
    ] {
        assert_eq!(body(&turns, &Params::default())["messages"], messages, "{what}");
    }
    let turns = [say(Role::System, "Be kind."), say(Role::User, "hi"), say(Role::System, "Be brief.")];
    assert_eq!(body(&turns, &Params::default())["system"], "Be kind.\n\nBe brief.");
}

#[test]
fn images_and_documents_are_named_as_the_protocol_names_them() {
    let content = json!([
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "image", "url": "data:image/png;base64,AA=="},
        {"type": "file", "url": "data:application/pdf;base64,AA==", "name": "a.pdf"},
        {"type": "file", "url": "data:text/plain;charset=utf-8;base64,aGk="},
    ]);
    let turns = [Turn::new(Role::User, content)];
    let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "AA=="});
    let expected = json!([
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
    ]);
    assert_eq!(body(&turns, &Params::default())["messages"][0]["content"], expected);
}

/// The API refuses a round of tools whose thoughts are missing, changed, or in another place.
#[test]
fn thoughts_go_back_as_they_came_and_only_to_the_model_that_had_them() {
    let call = |id: &str, name: &str| ToolCall { id: id.into(), name: name.into(), arguments: "{}".into() };
    let calls = vec![call("toolu_1", "add"), call("toolu_2", "now")];
    let turn = Turn { kept: Some(kept()), ..Turn::calls("Grüße 🌍".into(), calls) };
    let mut other = turn.clone();
    other.kept.as_mut().unwrap()["anthropic"] = json!("m2");
    let user = Turn::new(Role::User, "hi".into());
    let sent = |turn| body(&[user.clone(), turn], &Params::default())["messages"][1]["content"].clone();
    let mut expected = kept()["blocks"].clone();
    for (place, id, name) in [(3, "toolu_1", "add"), (4, "toolu_2", "now")] {
        expected[place] = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
    }
    assert_eq!(sent(turn), expected);
    assert_eq!(sent(other), json!(expected.as_array().unwrap()[2..]));
}

#[test]
fn an_effort_is_said_as_the_api_wants_it() {
    for (effort, extra, thinking, config) in [
        (None, json!({}), json!(null), json!(null)),
        (Some("none"), json!({}), json!({"type": "disabled"}), json!(null)),
        (Some("max"), json!({}), json!({"type": "adaptive"}), json!({"effort": "max"})),
        (Some("low"), json!({"thinking": null, "output_config": null}), json!(null), json!(null)),
        (
            Some("low"),
            json!({"thinking": {"type": "enabled"}}),
            json!({"type": "enabled"}),
            json!({"effort": "low"}),
        ),
    ] {
        let extra = extra.as_object().unwrap().clone();
        let params = Params { reasoning_effort: effort.map(str::to_owned), extra, ..Params::default() };
        let sent = body(&[], &params);
        assert_eq!((&sent["thinking"], &sent["output_config"]), (&thinking, &config), "{effort:?}");
    }
}

#[tokio::test]
async fn a_model_without_schemas_is_made_to_answer_by_a_tool() {
    let start = |name: &str, input: &str| {
        format!(
            "data: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"{name}\",\"input\":{input}}}}}\n\n"
        )
    };
    let delta = "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"n\\\":1}\"}}\n\n";
    let stop = concat!(
        "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
    );
    let streamed = format!("{HEAD}{}{delta}{stop}", start("answer", "{}"));
    let whole = format!("{HEAD}{}{stop}", start("answer", "{\"n\":1}"));
    let (address, requests) = serve(vec![streamed.into_bytes(), whole.into_bytes()]);
    let schema = json!({"type": "object"});
    for _ in 0..2 {
        let output = Some(Arc::new(OutputSchema {
            name: "answer".into(),
            schema: schema.clone(),
            bounded: Json::Null,
        }));
        let params = Params { reasoning_effort: Some("high".into()), ..Params::default() };
        let items = call(&model(&address, false), Request { output, params, ..request() }).await;
        assert_eq!(text(&items), "{\"n\":1}");
        assert!(!items.iter().any(|item| matches!(item, Ok(Chunk::ToolCall { .. }))), "{items:?}");
        let sent = requests.recv().unwrap();
        let sent: Json = serde_json::from_str(sent.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(sent["tool_choice"], json!({"type": "tool", "name": "answer"}));
        assert_eq!(sent["tools"][0]["input_schema"], schema);
        assert_eq!(sent["thinking"], json!({"type": "disabled"}));
    }
}

#[test]
fn tools_are_sent_as_the_protocol_has_them() {
    let spec =
        ToolSpec { name: "add".into(), description: "Adds.".into(), parameters: json!({"type": "object"}) };
    let params = Params { max_tokens: Some(7), ..Params::default() };
    let body = Body { model: "m", turns: &[], params: &params, tools: &[spec], output: None, schemas: true };
    let sent = serde_json::to_value(&body).unwrap();
    let tool = json!({"name": "add", "description": "Adds.", "input_schema": {"type": "object"}});
    assert_eq!((&sent["tools"], &sent["max_tokens"]), (&json!([tool]), &json!(7)));
}

#[tokio::test]
async fn a_reason_for_the_end_is_understood() {
    let end = |reason: &str| {
        format!(
            "data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{reason}\"}}}}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
        )
    };
    for (reason, truncated) in [
        ("end_turn", false),
        ("stop_sequence", false),
        ("max_tokens", true),
        ("model_context_window_exceeded", true),
    ] {
        assert_eq!(events(&end(reason)).await.pop(), Some(Ok(Chunk::End { truncated })), "{reason}");
    }
    for (reason, why) in [("refusal", "refused to answer"), ("pause_turn", "paused the answer")] {
        let error = error(events(&end(reason)).await);
        assert!(error.kind == Kind::Schema && error.message.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_error_has_its_kind_before_and_within_the_stream() {
    for (kind, expected) in [
        ("overloaded_error", Kind::Http(529)),
        ("api_error", Kind::ServerError),
        ("rate_limit_error", Kind::Http(429)),
        ("timeout_error", Kind::Http(504)),
        ("invalid_request_error", Kind::Http(400)),
        ("authentication_error", Kind::Http(401)),
        ("request_too_large", Kind::Http(413)),
    ] {
        let data =
            format!("{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"Over\\nloaded\"}}}}");
        let error = error(events(&format!("event: error\ndata: {data}\n\n")).await);
        assert_eq!(error.kind, expected, "{kind}");
        assert_eq!(error.message, "the provider failed within the answer: Over\\nloaded");
    }
    let body =
        "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded sk-secret\"}}";
    let head = format!("HTTP/1.1 529 X\r\nretry-after: 7\r\ncontent-length: {}", body.len());
    let error = error(answered(&format!("{head}\r\n\r\n{body}")).await);
    assert_eq!(error.kind, Kind::Http(529));
    assert_eq!(error.retry_after, Some(std::time::Duration::from_secs(7)));
    assert_eq!(error.message, "the provider answered 529: Overloaded ***");
}

#[tokio::test]
async fn nonsense_is_an_error_and_no_panic() {
    let block = |index: u64, kind: &str| {
        format!(
            "data: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{{\"type\":\"{kind}\"}}}}\n\n"
        )
    };
    let many: String = (0..5000).map(|n| block(n, "text")).collect();
    let twice = block(0, "text").repeat(2);
    let unbegun = "data: {\"type\":\"content_block_delta\",\"index\":9,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n";
    for bad in [many.as_str(), &twice, unbegun, &block(0, "tool_use"), "data: 7\n\n", "data: x\n\n"] {
        assert_eq!(error(events(bad).await).kind, Kind::Schema, "{}", &bad[..bad.len().min(80)]);
    }
    let null = "data: {\"type\":\"message_start\",\"message\":null,\"usage\":null}\n\ndata: {\"type\":\"message_stop\",\"index\":null}\n\n";
    assert_eq!(events(null).await.pop(), Some(Ok(Chunk::End { truncated: false })));
    let absurd = "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1e300,\"cache_read_input_tokens\":1e300}}}\n\n";
    let Some(Ok(Chunk::Usage(usage))) = events(absurd).await.into_iter().next() else { panic!("no usage") };
    assert_eq!(usage.input_tokens, u64::MAX);
}

#[test]
fn the_address_may_be_written_with_and_without_the_version() {
    let client = egress::Client::new(egress::Settings::default());
    for (base, url) in [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
        ("https://x.example.com/anthropic?a=1#f", "https://x.example.com/anthropic/v1/messages?a=1"),
    ] {
        let model = Anthropic::new(&client, base, "m".into(), None, true).unwrap();
        assert_eq!(model.endpoint.url.as_str(), url);
    }
    let model =
        Anthropic::new(&client, "https://x.example.com", "m".into(), Some(Secret::new("sk-secret")), true);
    assert!(!format!("{model:?}").contains("secret"), "{model:?}");
}
