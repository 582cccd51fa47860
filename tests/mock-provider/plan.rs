//! Decides what is sent when. Frames of the usual tokens are made once and shared by all calls.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::dialect::{Dialect, usage};
use crate::directives::Directives;

/// Tokens whose frames are kept; longer answers begin anew.
const PREPARED: usize = 1024;
/// The characters of an echo that go into one token.
const ECHO_PIECE: usize = 64;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sends a frame that is no token.
    Frame(Bytes),
    /// Sends a token.
    Token(Bytes),
    /// Waits until so long after the call began.
    Until(Duration),
    /// Lets what was sent so far go out alone.
    Flush,
    /// Does nothing any more.
    Hang,
    /// Breaks the connection.
    Abort,
}

/// The tokens of an answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// So many of the usual tokens.
    Usual(usize),
    /// These.
    Given(Vec<String>),
}

impl Answer {
    pub(crate) fn new(wanted: &Directives, messages: &[Json]) -> Self {
        if wanted.has("echo") {
            let text: Vec<char> = Json::from(messages).to_string().chars().collect();
            Self::Given(text.chunks(ECHO_PIECE).map(|piece| piece.iter().collect()).collect())
        } else if let Some(said) = wanted.text("say") {
            Self::Given(said.split_inclusive(' ').map(str::to_owned).collect())
        } else {
            Self::Usual(wanted.number("tokens").unwrap_or(16))
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Usual(n) => *n,
            Self::Given(tokens) => tokens.len(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Usual(n) => (0..*n).map(usual).collect(),
            Self::Given(tokens) => tokens.concat(),
        }
    }

    fn frame(&self, i: usize, dialect: Dialect) -> Bytes {
        static FRAMES: [OnceLock<Vec<Bytes>>; 2] = [OnceLock::new(), OnceLock::new()];
        match self {
            Self::Usual(_) => {
                let make = || (0..PREPARED).map(|i| dialect.token(&usual(i))).collect();
                FRAMES[dialect as usize].get_or_init(make)[i % PREPARED].clone()
            }
            Self::Given(tokens) => dialect.token(&tokens[i]),
        }
    }
}

/// Returns the usual token number `i`; every tenth holds characters of two, three and four bytes.
fn usual(i: usize) -> String {
    let i = i % PREPARED;
    if i % 10 == 9 { format!("é世🌍{i} ") } else { format!("tok{i} ") }
}

/// Returns how long the whole answer takes.
pub(crate) fn duration(wanted: &Directives, answer: &Answer) -> Duration {
    wanted.duration("first") + wanted.duration("delay") * answer.len().saturating_sub(1) as u32
}

/// Returns the body of an answer that is not streamed.
pub(crate) fn whole(answer: &Answer, prompt: usize) -> Json {
    json!({
        "id": "chatcmpl-mock", "object": "chat.completion", "created": 0, "model": "mock",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": answer.text()},
        }],
        "usage": usage(prompt, answer.len()),
    })
}

/// Plans a streamed answer; `prompt` is the number of prompt tokens, when usage is to be reported.
pub(crate) fn steps(
    wanted: &Directives,
    answer: &Answer,
    prompt: Option<usize>,
    dialect: Dialect,
) -> Vec<Step> {
    let mut steps = Vec::with_capacity(answer.len() + 8);
    steps.push(Step::Frame(dialect.start(prompt)));
    let (first, delay) = (wanted.duration("first"), wanted.duration("delay"));
    let thoughts = wanted.number("reasoning").unwrap_or(0);
    let mut sent = 0;
    let mut pace = |steps: &mut Vec<Step>| {
        let at = first + delay * sent;
        if !at.is_zero() {
            steps.push(Step::Until(at));
        }
        sent += 1;
    };
    for i in 0..thoughts {
        pace(&mut steps);
        steps.push(Step::Frame(dialect.thought(&format!("think{i} "))));
    }
    let reached = |name: &str, i: usize| wanted.number(name) == Some(i);
    // One round more than there are tokens, so that a fault may come after the last one.
    for i in 0..=answer.len() {
        if reached("cut_after", i) {
            // Without the flush, the frames before would be lost together with the connection.
            steps.extend([Step::Flush, Step::Abort]);
            return finish(steps, wanted);
        }
        if reached("hang_after", i) {
            steps.push(Step::Hang);
            return finish(steps, wanted);
        }
        if reached("malformed", i) {
            steps.push(Step::Frame(dialect.malformed()));
        }
        if reached("error_in_stream", i) {
            steps.push(Step::Frame(dialect.error()));
            return finish(steps, wanted);
        }
        if i < answer.len() {
            pace(&mut steps);
            steps.push(Step::Token(answer.frame(i, dialect)));
        }
    }
    let end = dialect.end(wanted.has("length"), prompt, answer.len(), !wanted.has("no_done"));
    steps.extend(end.into_iter().map(Step::Frame));
    finish(steps, wanted)
}

/// Splits every frame into single bytes when that is wanted.
fn finish(steps: Vec<Step>, wanted: &Directives) -> Vec<Step> {
    if !wanted.has("split") {
        return steps;
    }
    let mut split = Vec::new();
    for step in steps {
        let (token, bytes) = match step {
            Step::Token(bytes) => (true, bytes),
            Step::Frame(bytes) => (false, bytes),
            other => {
                split.push(other);
                continue;
            }
        };
        for i in 0..bytes.len() {
            let byte = bytes.slice(i..=i);
            split.extend([if token && i == 0 { Step::Token(byte) } else { Step::Frame(byte) }, Step::Flush]);
        }
    }
    split
}
