//! Parameters of path, query and headers: parsed once, with a message that says what would be right.
//!
//! Invariant: a parameter that is there twice, or that cannot be read, is refused and never ignored.

use std::borrow::Cow;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::json;

use super::auth::one;
use super::problem::{Code, Problem};
use super::sse::Groups;
use super::view::parse_cursor;
use crate::id::{CheckpointId, EventId, InterruptId, Part, RunId, ThreadId};
use crate::render::MOST_DEPTH;

/// A type that a parameter can have.
pub(super) trait Param: Sized + Send + Sync {
    /// Describes it in the document.
    fn schema() -> MetaSchema;

    /// Reads it, or says what would be right.
    fn parse(text: &str) -> Result<Self, String>;

    /// What to answer when it cannot be read.
    const CODE: Code = Code::InvalidParameter;
}

/// A parameter of the path.
pub(super) struct Path<T>(pub(super) T);

/// An optional parameter of the query.
pub(super) struct Query<T>(pub(super) Option<T>);

/// An optional header.
pub(super) struct Header<T>(pub(super) Option<T>);

impl<'a, T: Param> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let text = request.raw_path_param(options.name).ok_or_else(Problem::internal)?;
        Ok(Self(T::parse(text).map_err(|why| Problem::new(T::CODE, format!("in the path: {why}")))?))
    }
}

impl<'a, T: Param> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let text = query_value(request.uri().query().unwrap_or_default(), options.name)?;
        Ok(Self(read(options.name, text.as_deref())?))
    }
}

impl<'a, T: Param> ApiExtractor<'a> for Header<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(read(options.name, one(request.headers(), options.name)?)?))
    }
}

fn read<T: Param>(name: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    let parse = |text| T::parse(text).map_err(|why| Problem::new(T::CODE, format!("`{name}`: {why}")));
    text.map(parse).transpose()
}

/// Returns the only value of a query parameter.
fn query_value(query: &str, name: &str) -> Result<Option<String>, Problem> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(key, true)? != name {
            continue;
        }
        if found.replace(decode(value, true)?.into_owned()).is_some() {
            return Err(Problem::new(Code::InvalidParameter, format!("`{name}` is there more than once")));
        }
    }
    Ok(found)
}

/// Decodes `%XX`, and `+` in a query. What it stands for has to be UTF-8 without U+0000.
pub(super) fn decode(text: &str, query: bool) -> Result<Cow<'_, str>, Problem> {
    if !text.bytes().any(|b| b == b'%' || (query && b == b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let (byte, width) = match (byte, digits.and_then(|d| u8::from_str_radix(d, 16).ok())) {
            (b'%', Some(byte)) => (byte, 3),
            (b'+', _) if query => (b' ', 1),
            (byte, _) => (byte, 1),
        };
        out.push(byte);
        at += width;
    }
    if out.contains(&0) {
        return Err(Problem::new(Code::NulCharacter, "take `%00` out of the path and the query"));
    }
    let wrong = |_| Problem::new(Code::InvalidPath, "what `%XX` stands for has to be UTF-8");
    String::from_utf8(out).map(Cow::Owned).map_err(wrong)
}

fn text(format: Option<&'static str>, pattern: Option<&str>) -> MetaSchema {
    MetaSchema { format, pattern: pattern.map(str::to_owned), ..MetaSchema::new("string") }
}

/// The pattern of a session id, as `id::Part` checks it.
pub(super) const PART: &str = "^[A-Za-z0-9._@-]{1,128}$";

impl Param for Part {
    fn schema() -> MetaSchema {
        text(None, Some(PART))
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::id::PartError| error.to_string())
    }
}

/// A graph's id. Any text may be asked for; what is not served does not exist.
pub(super) struct GraphId(pub(super) String);

impl Param for GraphId {
    fn schema() -> MetaSchema {
        text(None, None)
    }

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// Reads an id in the one form that is also written, so that one thing has one URL.
fn uuid<T: FromStr + ToString>(text: &str, what: &str) -> Result<T, String> {
    let id = text.parse::<T>().ok().filter(|id| id.to_string() == text);
    id.ok_or_else(|| format!("this is not the id of a {what}"))
}

impl Param for RunId {
    fn schema() -> MetaSchema {
        text(Some("uuid"), None)
    }

    fn parse(text: &str) -> Result<Self, String> {
        uuid(text, "run")
    }
}

/// The id of a question.
pub(super) struct InterruptIdText(pub(super) InterruptId);

impl Param for InterruptIdText {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some("^i_[0-9a-f]{20}$".into()), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("i_").filter(|digits| {
            digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        match digits {
            Some(_) => Ok(Self(InterruptId(text.into()))),
            None => Err("the id of a question is `i_` and 20 hex digits".into()),
        }
    }
}

impl Param for CheckpointId {
    fn schema() -> MetaSchema {
        text(Some("uuid"), None)
    }

    fn parse(text: &str) -> Result<Self, String> {
        uuid(text, "checkpoint")
    }
}

/// The id of the last event that a client has; an empty one is none.
pub(super) struct LastEvent(pub(super) Option<EventId>);

impl Param for LastEvent {
    const CODE: Code = Code::InvalidEventId;

    fn schema() -> MetaSchema {
        // A run, a fence and a number; clients take it as it is.
        let id = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9]{1,18}-[0-9]{1,18}";
        text(None, Some(&format!("^({id})?$")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|id| Self(Some(id))).map_err(|error: crate::id::EventIdError| error.to_string())
    }
}

/// The key that makes a repeated request start one run.
pub(super) struct IdempotencyKey(pub(super) String);

impl Param for IdempotencyKey {
    const CODE: Code = Code::InvalidHeader;

    fn schema() -> MetaSchema {
        MetaSchema { min_length: Some(1), max_length: Some(255), ..text(None, Some("^[!-~]+$")) }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("send 1 to 255 visible ASCII characters".into())
        }
    }
}

/// What a client prefers (RFC 7240), as far as it is known here.
pub(super) struct Preferences {
    /// An answer at once, and not when the work is done.
    pub(super) respond_async: bool,
}

impl Preferences {
    /// The name of that preference.
    pub(super) const RESPOND_ASYNC: &str = "respond-async";
}

impl Param for Preferences {
    const CODE: Code = Code::InvalidHeader;

    fn schema() -> MetaSchema {
        text(None, None)
    }

    fn parse(text: &str) -> Result<Self, String> {
        // Commas and semicolons within quotes are of preferences that are not known here.
        let names = text.split(',').filter_map(|one| one.split([';', '=']).next());
        let respond_async = names.map(str::trim).any(|name| name.eq_ignore_ascii_case(Self::RESPOND_ASYNC));
        Ok(Self { respond_async })
    }
}

/// How many items a page holds.
pub(super) struct Limit(pub(super) u32);

impl Limit {
    /// The most items of a page.
    pub(super) const MOST: u32 = 100;
    /// The items of a page whose size was not asked for.
    pub(super) const DEFAULT: u32 = 20;
}

impl Param for Limit {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(1.0),
            maximum: Some(f64::from(Self::MOST)),
            default: Some(json!(Self::DEFAULT)),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten().filter(|n| (1..=Self::MOST).contains(n));
        number.map(Self).ok_or_else(|| format!("send a number from 1 to {}", Self::MOST))
    }
}

/// How many levels of called graphs a drawing opens.
pub(super) struct Depth(pub(super) u32);

impl Param for Depth {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(1.0),
            maximum: Some(f64::from(MOST_DEPTH)),
            default: Some(json!(1)),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten().filter(|n| (1..=MOST_DEPTH).contains(n));
        number.map(Self).ok_or_else(|| format!("send a number from 1 to {MOST_DEPTH}"))
    }
}

impl Param for bool {
    fn schema() -> MetaSchema {
        MetaSchema { default: Some(json!(false)), ..MetaSchema::new("boolean") }
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "send `true` or `false`".into())
    }
}

/// A place in the list of threads.
pub(super) struct Cursor(pub(super) (DateTime<Utc>, ThreadId));

impl Param for Cursor {
    fn schema() -> MetaSchema {
        text(None, Some("^[0-9a-f]{48}$"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        parse_cursor(text).map(Self).ok_or_else(|| "send `next_cursor` of the page before, as it is".into())
    }
}

/// A place in the list of questions to agents.
pub(super) struct QuestionCursor(pub(super) (DateTime<Utc>, InterruptId));

impl Param for QuestionCursor {
    fn schema() -> MetaSchema {
        text(None, Some("^[0-9a-f]{36}$"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let hex = text.len() == 36 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let at = hex.then(|| u64::from_str_radix(&text[..16], 16).ok()).flatten();
        let at = at.ok_or_else(|| "send `next_cursor` of the page before, as it is".to_owned())?;
        let at = DateTime::from_timestamp_nanos(at.cast_signed());
        Ok(Self((at, InterruptId(format!("i_{}", &text[16..]).into()))))
    }
}

/// Groups of events, separated by commas.
pub(super) struct Include(pub(super) Groups);

impl Param for Include {
    fn schema() -> MetaSchema {
        let names = Groups::NAMES.join("|");
        let pattern = format!("^(({names})(,({names}))*)?$");
        MetaSchema { default: Some(json!("messages,nodes,tools")), ..text(None, Some(&pattern)) }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Groups::parse(names).map(Self).map_err(Groups::unknown)
    }
}

/// A place in a JSON value (RFC 6901); the empty text is the whole value.
pub(super) struct Pointer(pub(super) String);

impl Param for Pointer {
    fn schema() -> MetaSchema {
        text(Some("json-pointer"), None)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if (text.is_empty() || text.starts_with('/')) && escaped {
            Ok(Self(text.to_owned()))
        } else {
            Err("a JSON Pointer is empty or begins with `/`, and writes `~` as `~0` and `/` as `~1`".into())
        }
    }
}

/// How a drawing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiagramFormat {
    /// A Mermaid flowchart.
    Mermaid,
    /// Nodes and edges.
    Json,
}

impl Param for DiagramFormat {
    fn schema() -> MetaSchema {
        let names = vec![json!("mermaid"), json!("json")];
        MetaSchema { enum_items: names, default: Some(json!("mermaid")), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "mermaid" => Ok(Self::Mermaid),
            "json" => Ok(Self::Json),
            "svg" | "dot" => Err(format!("this build does not draw `{text}`; it has `mermaid` and `json`")),
            _ => Err("the formats are `mermaid` and `json`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_parameter_is_decoded_strictly_and_may_be_there_once() {
        let value = |query, name| query_value(query, name).map_err(|problem| problem.code.name());
        assert_eq!(value("a=1&path=%2Fx%20y+z&b", "path"), Ok(Some("/x y z".into())));
        assert_eq!(value("a=1&b", "b"), Ok(Some(String::new())));
        assert_eq!(value("a=1", "b"), Ok(None));
        assert_eq!(value("a=100%", "a"), Ok(Some("100%".into())));
        assert_eq!(value("a=1&%61=2", "a"), Err("invalid_parameter"));
        assert_eq!(value("a=%FF", "a"), Err("invalid_path"));
        assert_eq!(value("a=%00", "a"), Err("nul_character"));
    }

    #[test]
    fn a_page_has_from_1_to_100_items() {
        for bad in ["", "0", "101", "+5", "1e1", "-1", "99999999999"] {
            assert!(Limit::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Limit::parse("100").map(|limit| limit.0), Ok(100));
    }

    #[test]
    fn a_run_has_one_spelling() {
        let run = RunId::new();
        assert!(<RunId as Param>::parse(&run.to_string()).is_ok());
        assert!(<RunId as Param>::parse(&run.to_string().to_uppercase()).is_err());
        assert!(<RunId as Param>::parse(&run.0.simple().to_string()).is_err());
        assert!(<RunId as Param>::parse("1").is_err());
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        for bad in ["", "a b", "a\tb", &"x".repeat(256)] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn a_preference_is_found_among_others() {
        let is_async = |text| Preferences::parse(text).is_ok_and(|prefer| prefer.respond_async);
        for good in ["respond-async", "Respond-Async", "wait=10, respond-async", "respond-async;x=1, a=\"b\""]
        {
            assert!(is_async(good), "{good}");
        }
        for bad in ["", "wait=10", "respond-asynchronously", "a=respond-async"] {
            assert!(!is_async(bad), "{bad}");
        }
    }

    #[test]
    fn a_pointer_is_empty_or_begins_with_a_slash() {
        for good in ["", "/", "/a~1b/~0/0"] {
            assert!(Pointer::parse(good).is_ok(), "{good}");
        }
        for bad in ["a", "/a~", "/~2"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
    }
}
