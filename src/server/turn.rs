//! The body of `chat` and `invoke`: one turn of a conversation.
//!
//! Invariant: every mistake of a body is told at once, each with its place.

use std::collections::BTreeMap;
use std::time::Duration;

use poem_openapi::{Enum, Object, Union};
use serde_json::{Map, Value as Json};

use super::body::{DurabilityChoice, EventGroup, Fields, Parsed, Stops, expected};
use super::json::escape;
use super::problem::Problem;
use super::sse::Groups;
use crate::engine::{Breakpoints, Wishes};
use crate::id::Part;
use crate::plan::Durability;
use crate::store::OnBusy;

/// One turn: what the user says, and the inputs of the graph.
#[derive(Debug, Object)]
pub(super) struct ChatRequest {
    /// The conversation, chosen by the client; letters, digits and `. _ @ -`.
    #[oai(validator(pattern = "^[A-Za-z0-9._@-]{1,128}$"))]
    session_id: String,
    /// What the user says.
    message: Option<Message>,
    /// The graph's inputs.
    input: Option<BTreeMap<String, Json>>,
    /// What to do when the thread has a run that is not over. Default: `enqueue`.
    on_busy: Option<OnBusyChoice>,
    /// When supersteps are stored. Default: as the graph says.
    durability: Option<DurabilityChoice>,
    /// The run stops before these nodes begin, with the status `interrupted`, and goes on when the thread is resumed.
    interrupt_before: Option<Stops>,
    /// The same after these nodes ended.
    interrupt_after: Option<Stops>,
    /// What becomes of the run when nobody reads it any more. Default: `continue`.
    on_disconnect: Option<OnDisconnectChoice>,
    /// The run begins so many seconds later, at most 30 days; until then it keeps no other run of the thread waiting.
    /// Default: 0, at once.
    #[oai(validator(minimum(value = "0"), maximum(value = "2592000")))]
    after_seconds: Option<u32>,
    /// Where the end of the run is told, and each pause, by a signed POST: an `https://` address.
    webhook: Option<String>,
    /// The groups of events that the stream holds. Default: `messages`, `nodes`, `tools`.
    include: Option<Vec<EventGroup>>,
}

/// A text, or a list of parts.
#[derive(Debug, Union)]
#[oai(one_of)]
enum Message {
    /// A text.
    Text(String),
    /// Texts, images and files, at least one.
    Parts(Vec<MessagePart>),
}

/// A part of a message; `openapi::parts` says the rest.
#[derive(Debug, Object)]
struct MessagePart {
    /// `text`, `image` or `file`.
    #[oai(rename = "type")]
    kind: String,
}

/// What to do when the thread has a run that is not over.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "lowercase", rename = "OnBusy")]
enum OnBusyChoice {
    /// Wait for it.
    Enqueue,
    /// Refuse with 409.
    Reject,
    /// Cancel it and those that wait, and begin when they have stopped. What they had committed stays.
    Interrupt,
    /// The same, and begin from before them: the thread goes back. What they did outside is not undone.
    Rollback,
}

/// What becomes of a run when nobody reads it any more.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "lowercase", rename = "OnDisconnect")]
pub(super) enum OnDisconnectChoice {
    /// It goes on.
    Continue,
    /// It is cancelled, unless somebody reads it again within a while, here or elsewhere. What it committed stays. A pause
    /// ends the wish.
    Cancel,
}

/// A turn that has the right form. Whether it fits the graph is for the engine to say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    /// The conversation.
    pub(super) session: Part,
    /// What the user says.
    pub(super) message: Option<Json>,
    /// The graph's inputs.
    pub(super) input: Map<String, Json>,
    /// What to do when the thread is busy.
    pub(super) on_busy: OnBusy,
    /// When supersteps are stored; absent: as the graph says.
    pub(super) durability: Option<Durability>,
    /// Where the run stops.
    pub(super) breakpoints: Breakpoints,
    /// It begins so much later.
    pub(super) delay: Option<Duration>,
    /// What is to come of it besides.
    pub(super) wishes: Wishes,
    /// What the stream holds.
    pub(super) groups: Groups,
    /// The SHA-256 of the canonical body.
    pub(super) hash: String,
}

/// What `on_busy` may be.
const ON_BUSY: &str = "`enqueue`, `reject`, `interrupt` or `rollback`";

/// The fields of a turn.
const FIELDS: [&str; 11] = [
    "session_id",
    "message",
    "input",
    "on_busy",
    "durability",
    "interrupt_before",
    "interrupt_after",
    "on_disconnect",
    "after_seconds",
    "webhook",
    "include",
];

/// The longest that a run can be delayed, in seconds.
const MOST_SECONDS: u64 = 30 * 24 * 60 * 60;

impl Parsed for Turn {
    type Schema = ChatRequest;

    fn parse(body: Json) -> Result<Self, Problem> {
        let mut fields = Fields::of(body, &FIELDS)?;
        let session = match fields.take("session_id") {
            None => fields.add("/session_id", "this field is required"),
            Some(Json::String(text)) => match text.parse::<Part>() {
                Ok(session) => Some(session),
                Err(error) => fields.add("/session_id", error.to_string()),
            },
            Some(other) => fields.add("/session_id", expected("a text", &other)),
        };
        let message = fields.take("message").inspect(|message| check_message(message, &mut fields));
        let input = fields.object("input");
        let on_busy = match fields.take("on_busy") {
            None => Some(OnBusy::default()),
            Some(Json::String(text)) if text == "enqueue" => Some(OnBusy::Enqueue),
            Some(Json::String(text)) if text == "reject" => Some(OnBusy::Reject),
            Some(Json::String(text)) if text == "interrupt" => Some(OnBusy::Interrupt),
            Some(Json::String(text)) if text == "rollback" => Some(OnBusy::Rollback),
            Some(Json::String(_)) => fields.add("/on_busy", format!("send {ON_BUSY}")),
            Some(other) => fields.add("/on_busy", expected(ON_BUSY, &other)),
        };
        let durability = fields.durability();
        let breakpoints = fields.breakpoints().unwrap_or_default();
        let wishes = fields.wishes();
        let wanted = "a whole number of seconds from 0 to 2592000";
        let delay = match fields.take("after_seconds") {
            None => None,
            Some(Json::Number(n)) => match n.as_u64().filter(|seconds| *seconds <= MOST_SECONDS) {
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(seconds)),
                None => fields.add("/after_seconds", format!("send {wanted}")),
            },
            Some(other) => fields.add("/after_seconds", expected(wanted, &other)),
        };
        if delay.is_some() && on_busy.is_some_and(|on_busy| on_busy != OnBusy::Enqueue) {
            fields.note(
                "/on_busy",
                "with `after_seconds` the run waits for its turn when it is due: leave this out",
            );
        }
        let groups = fields.include();
        let hash = fields.hash.clone();
        let turn = session.zip(on_busy).map(|(session, on_busy)| Self {
            session,
            message,
            input,
            on_busy,
            durability,
            breakpoints,
            delay,
            wishes,
            groups,
            hash,
        });
        fields.end(turn)
    }
}

fn check_message(message: &Json, wrong: &mut Fields) {
    let parts = match message {
        Json::String(_) => return,
        Json::Array(parts) => parts,
        other => return wrong.note("/message", expected("a text or a list of parts", other)),
    };
    if parts.is_empty() {
        wrong.note("/message", "a list of parts holds at least one");
    }
    for (i, part) in parts.iter().enumerate() {
        let at = format!("/message/{i}");
        let Json::Object(fields) = part else {
            wrong.note(&at, expected("a part like `{\"type\": \"text\", \"text\": \"…\"}`", part));
            continue;
        };
        check_part(fields, &at, wrong);
    }
}

fn check_part(fields: &Map<String, Json>, at: &str, wrong: &mut Fields) {
    let image = ["https://", "http://", "data:image/"].as_slice();
    let (kind, due, begins, known) = match fields.get("type").and_then(Json::as_str) {
        Some("text") => ("text", "text", [""].as_slice(), ["type", "text"].as_slice()),
        Some("image") => ("image", "url", image, ["type", "url"].as_slice()),
        Some("file") => ("file", "url", ["data:"].as_slice(), ["type", "url", "name"].as_slice()),
        _ => return wrong.note(&format!("{at}/type"), "the type of a part is `text`, `image` or `file`"),
    };
    match fields.get(due) {
        Some(Json::String(text)) if begins.iter().any(|begin| text.starts_with(begin)) => {}
        Some(Json::String(_)) => {
            let begins = begins.join("`, `");
            wrong.note(
                &format!("{at}/{due}"),
                format!("a part of type `{kind}` has an address here that begins with `{begins}`"),
            );
        }
        _ => wrong.note(&format!("{at}/{due}"), format!("a part of type `{kind}` has a text here")),
    }
    if fields.get("name").is_some_and(|name| !name.is_string()) {
        wrong.note(&format!("{at}/name"), "the name of a file is a text");
    }
    for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
        let detail = format!("a part of type `{kind}` has no such field; it has {}", known.join(", "));
        wrong.note(&format!("{at}/{}", escape(name)), detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::problem::Code;

    fn places(body: Json) -> Vec<String> {
        let problem = Turn::parse(body).unwrap_err();
        assert_eq!(problem.code, Code::InvalidRequest);
        problem.errors.into_iter().map(|at| at.pointer).collect()
    }

    #[test]
    fn every_mistake_of_a_body_is_told_with_its_place() {
        let body = json!({
            "sesion_id": "s", "message": 1, "input": [], "on_busy": "wait", "include": ["nodes", "x", 3],
        });
        let places = places(body);
        let expected =
            ["/sesion_id", "/session_id", "/message", "/input", "/on_busy", "/include/1", "/include/2"];
        assert_eq!(places, expected);
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_one_that_was_meant() {
        let detail = |body| Turn::parse(body).unwrap_err().errors[0].detail.clone();
        assert!(detail(json!({"session_id": "s", "mesage": "x"})).contains("did you mean `message`?"));
        assert!(detail(json!({"session_id": "s", "frobnicate": 1})).contains("the fields are session_id"));
        for name in ["tenant", "tenant_id", "user", "user_id"] {
            assert!(detail(json!({"session_id": "s", name: "x"})).contains("from authentication"), "{name}");
        }
    }

    #[test]
    fn a_session_id_is_a_text_of_the_alphabet() {
        for bad in
            [json!(null), json!(1), json!({"$gt": ""}), json!(""), json!("a:b"), json!("a/b"), json!(["a"])]
        {
            assert_eq!(places(json!({"session_id": bad})), ["/session_id"]);
        }
        assert_eq!(places(json!([])), [""]);
    }

    #[test]
    fn a_message_is_a_text_or_parts() {
        let turn = |message: Json| Turn::parse(json!({"session_id": "s", "message": message}));
        assert!(turn(json!("hi")).is_ok());
        let parts = json!([{"type": "text", "text": "hi"}, {"type": "image", "url": "https://example.org/a.png"},
                {"type": "file", "url": "data:application/pdf;base64,AA==", "name": "a.pdf"}]);
        assert_eq!(turn(parts.clone()).unwrap().message, Some(parts));
        let problem = turn(json!([{"type": "image", "url": "file:///etc/passwd"}, {"type": "image"},
            {"type": "file", "url": "data:,x", "title": "x"}]))
        .unwrap_err();
        let places: Vec<&str> = problem.errors.iter().map(|at| at.pointer.as_str()).collect();
        assert_eq!(places, ["/message/0/url", "/message/1/url", "/message/2/title"]);
        let problem = turn(json!([{"type": "text"}, {"type": "x"}, 1])).unwrap_err();
        let places: Vec<&str> = problem.errors.iter().map(|at| at.pointer.as_str()).collect();
        assert_eq!(places, ["/message/0/text", "/message/1/type", "/message/2"]);
        assert!(turn(json!(null)).is_err());
        assert!(turn(json!([])).is_err());
    }

    #[test]
    fn two_spellings_of_one_request_have_one_hash() {
        let a = Turn::parse(json!({"session_id": "s", "message": "x"})).unwrap();
        let b = Turn::parse(json!({"message": "x", "session_id": "s"})).unwrap();
        let c = Turn::parse(json!({"message": "y", "session_id": "s"})).unwrap();
        assert_eq!(a.hash, b.hash);
        assert_ne!(a.hash, c.hash);
        assert_eq!((a.on_busy, a.groups), (OnBusy::Enqueue, Groups::default()));
    }
}
