//! The two protocols that the mock speaks, frame by frame.

use bytes::Bytes;
use serde_json::{Value as Json, json};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Chat Completions.
    Completions,
    /// Anthropic's Messages.
    Messages,
}

fn chunk(choices: &Json, more: &str) -> Bytes {
    let head = r#"data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":0,"model":"mock","choices":"#;
    format!("{head}{choices}{more}}}\n\n").into()
}

fn event(body: &Json) -> String {
    format!("event: {}\ndata: {body}\n\n", body["type"].as_str().unwrap_or_default())
}

fn delta(index: u64, delta: &Json) -> Bytes {
    event(&json!({"type": "content_block_delta", "index": index, "delta": delta})).into()
}

pub(crate) fn usage(prompt: usize, tokens: usize) -> Json {
    json!({"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens})
}

impl Dialect {
    /// Begins an answer.
    pub(crate) fn start(self, prompt: Option<usize>) -> Bytes {
        match self {
            Self::Completions => {
                let delta = json!({"role": "assistant", "content": null});
                chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null}]), "")
            }
            Self::Messages => {
                let usage = prompt.map(|n| json!({"input_tokens": n, "output_tokens": 1}));
                let message = json!({"id": "msg_mock", "role": "assistant", "content": [], "usage": usage});
                let block = |index: u64, block: Json| {
                    event(&json!({"type": "content_block_start", "index": index, "content_block": block}))
                };
                let thinking = json!({"type": "thinking", "thinking": "", "signature": ""});
                let mut start = event(&json!({"type": "message_start", "message": message}));
                start += &event(&json!({"type": "ping"}));
                start += &block(0, thinking);
                start += &block(1, json!({"type": "text", "text": ""}));
                start.into()
            }
        }
    }

    pub(crate) fn token(self, text: &str) -> Bytes {
        match self {
            Self::Completions => {
                chunk(&json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), "")
            }
            Self::Messages => delta(1, &json!({"type": "text_delta", "text": text})),
        }
    }

    pub(crate) fn thought(self, text: &str) -> Bytes {
        match self {
            Self::Completions => {
                chunk(&json!([{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": null}]), "")
            }
            Self::Messages => delta(0, &json!({"type": "thinking_delta", "thinking": text})),
        }
    }

    /// Sends what is no JSON.
    pub(crate) fn malformed(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Completions => b"data: {\"choices\":[{\"delta\":{\"content\":tru\n\n",
            Self::Messages => b"event: content_block_delta\ndata: {\"type\":tru\n\n",
        })
    }

    /// Fails within the answer.
    pub(crate) fn error(self) -> Bytes {
        let message = "the mock was told to fail in the stream";
        match self {
            Self::Completions => {
                format!("data: {}\n\n", json!({"error": {"message": message, "code": 500}})).into()
            }
            Self::Messages => {
                event(&json!({"type": "error", "error": {"type": "api_error", "message": message}})).into()
            }
        }
    }

    /// Ends an answer of so many tokens.
    pub(crate) fn end(self, truncated: bool, prompt: Option<usize>, tokens: usize, done: bool) -> Vec<Bytes> {
        let mut frames = Vec::new();
        match self {
            Self::Completions => {
                let reason = if truncated { "length" } else { "stop" };
                frames.push(chunk(&json!([{"index": 0, "delta": {}, "finish_reason": reason}]), ""));
                frames.extend(prompt.map(|n| chunk(&json!([]), &format!(",\"usage\":{}", usage(n, tokens)))));
                frames.extend(done.then(|| Bytes::from_static(b"data: [DONE]\n\n")));
            }
            Self::Messages => {
                for index in 0..2 {
                    frames.push(event(&json!({"type": "content_block_stop", "index": index})).into());
                }
                let reason = if truncated { "max_tokens" } else { "end_turn" };
                let usage = prompt.map(|_| json!({"output_tokens": tokens}));
                let delta = json!({"stop_reason": reason, "stop_sequence": null});
                frames.push(event(&json!({"type": "message_delta", "delta": delta, "usage": usage})).into());
                frames.extend(done.then(|| event(&json!({"type": "message_stop"})).into()));
            }
        }
        frames
    }
}
