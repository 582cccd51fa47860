//! Reads a JSON body: bounded, strict, with messages that say where.
//!
//! Invariant: what comes out has no key twice, no U+0000, and is no deeper than 128.

use std::fmt;
use std::time::Duration;

use poem::http::{HeaderMap, header};
use poem::{Request, RequestBody};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::auth::one;
use super::problem::{Code, Problem};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read before the answer.
const DRAIN: u64 = 32 * 1024 * 1024;

/// Reads the body of a request, whatever its framing, up to so many bytes.
pub(super) async fn read(request: &Request, body: &mut RequestBody, limit: usize) -> Result<Json, Problem> {
    check_type(request.headers())?;
    let body = body.take().map_err(|_| Problem::internal())?;
    match tokio::time::timeout(PATIENCE, bytes(body.into_async_read(), limit)).await {
        Ok(Ok(Some(bytes))) => parse(&bytes),
        Ok(Ok(None)) => Err(Problem::new(Code::PayloadTooLarge, format!("send at most {limit} bytes"))),
        Ok(Err(_)) => Err(Problem::new(Code::MalformedJson, "the body ended before it was whole")),
        Err(_) => Err(Problem::new(Code::RequestTimeout, "send the whole body within 30 seconds")),
    }
}

/// Reads up to so many bytes; nothing when there are more. The rest is read too, up to a bound, and thrown away:
/// a client that is still writing when the connection closes never sees why it was refused.
async fn bytes(mut body: impl AsyncRead + Unpin, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    (&mut body).take(most.saturating_add(1)).read_to_end(&mut bytes).await?;
    if bytes.len() <= limit {
        return Ok(Some(bytes));
    }
    tokio::io::copy(&mut body.take(DRAIN), &mut tokio::io::sink()).await?;
    Ok(None)
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail| Err(Problem::new(Code::UnsupportedMediaType, detail));
    let Some(text) = one(headers, header::CONTENT_TYPE.as_str())? else {
        return refuse("send `Content-Type: application/json`");
    };
    let mut parts = text.split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return refuse("send `Content-Type: application/json`");
    }
    let utf8 = |part: &str| match part.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            let value = value.trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    };
    if !parts.all(utf8) {
        return refuse("JSON is UTF-8; leave the charset out");
    }
    match one(headers, header::CONTENT_ENCODING.as_str())? {
        None => Ok(()),
        Some(coding) if coding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(_) => refuse("send the body without a content coding"),
    }
}

/// Parses a body.
pub(super) fn parse(bytes: &[u8]) -> Result<Json, Problem> {
    let malformed = |why: String| Problem::new(Code::MalformedJson, why);
    if bytes.is_empty() {
        return Err(malformed("the body is empty".into()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| malformed(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer).map_err(|error| malformed(error.to_string()))?;
    deserializer.end().map_err(|error| malformed(error.to_string()))?;
    // Within a JSON text U+0000 can only be written like this, so most bodies need no second look.
    if !text.contains("\\u0000") {
        return Ok(value);
    }
    match nul(&value, &mut String::new()) {
        Some(pointer) => Err(Problem::at(Code::NulCharacter, &pointer, "take U+0000 out of this text")),
        None => Ok(value),
    }
}

/// Returns where a text holds U+0000, which no database keeps.
fn nul(value: &Json, at: &mut String) -> Option<String> {
    let step = |token: &str, inner: &Json, at: &mut String| {
        let length = at.len();
        at.push('/');
        at.push_str(&escape(token));
        let found = nul(inner, at);
        at.truncate(length);
        found
    };
    match value {
        Json::String(text) => text.contains('\0').then(|| at.clone()),
        Json::Array(items) => items.iter().enumerate().find_map(|(i, item)| step(&i.to_string(), item, at)),
        Json::Object(fields) => {
            fields.iter().find_map(
                |(key, inner)| {
                    if key.contains('\0') { Some(at.clone()) } else { step(key, inner, at) }
                },
            )
        }
        _ => None,
    }
}

/// Escapes a key for a JSON Pointer.
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Writes a value with sorted keys, so that the same request always has the same bytes.
pub(super) fn canonical(value: &Json, out: &mut String) {
    match value {
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// Builds a value and refuses a key that is there twice: two readers could take different ones.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {} is there twice", Json::from(key))));
            }
            let value = map.next_value_seed(Self)?;
            fields.insert(key, value);
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn code(body: &[u8]) -> &'static str {
        parse(body).map_or_else(|problem| problem.code.name(), |_| "fine")
    }

    #[test]
    fn whatever_is_not_json_has_a_code_and_a_place() {
        for bad in [
            &b""[..],
            b"{",
            b"{\"a\":1,}",
            b"[1] 2",
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b"{\"a\":1,\"a\":2}",
            b"\"\\ud800\"",
            b"1e400",
            b"NaN",
        ] {
            assert_eq!(code(bad), "malformed_json", "{bad:?}");
        }
        assert_eq!(code(b" {\"a\": [1, -2, 0.5, null, true]} "), "fine");
        let problem = parse(b"{\"a\":1,\n\"a\":2}").unwrap_err();
        assert!(problem.detail.contains("\"a\" is there twice at line 2"), "{problem}");
    }

    #[test]
    fn a_body_that_nests_too_deeply_is_refused_before_it_is_built() {
        let deep = "[".repeat(100_000);
        assert_eq!(code(deep.as_bytes()), "malformed_json");
        let objects = "{\"a\":".repeat(50_000);
        assert_eq!(code(objects.as_bytes()), "malformed_json");
    }

    #[test]
    fn a_nul_is_found_wherever_it_hides() {
        let pointer = |body: &[u8]| parse(body).unwrap_err().errors[0].pointer.clone();
        assert_eq!(pointer(br#"{"a":{"b/c":["x","\u0000"]}}"#), "/a/b~1c/1");
        assert_eq!(pointer(br#"{"a":[{"b\u0000":1}]}"#), "/a/0");
        assert_eq!(code(br#""\u0000""#), "nul_character");
    }

    #[test]
    fn the_same_request_has_the_same_canonical_text() {
        let text = |value: &Json| {
            let mut out = String::new();
            canonical(value, &mut out);
            out
        };
        let a = parse(br#"{"b":[{"y":1,"x":"\u00e9"}],"a":null}"#).unwrap();
        let b = parse("{ \"a\": null, \"b\": [ {\"x\":\"é\", \"y\":1} ] }".as_bytes()).unwrap();
        assert_eq!(text(&a), text(&b));
        assert_eq!(text(&a), r#"{"a":null,"b":[{"x":"é","y":1}]}"#);
        assert_ne!(text(&a), text(&json!({"a": null, "b": []})));
    }

    #[test]
    fn only_json_in_utf_8_without_a_coding_is_taken() {
        let ask = |kind: Option<&'static str>, coding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(coding) = coding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            check_type(&headers).is_ok()
        };
        assert!(ask(Some("application/json"), None));
        assert!(ask(Some("Application/JSON; charset=UTF-8"), Some("identity")));
        assert!(!ask(None, None));
        assert!(!ask(Some("text/plain"), None));
        assert!(!ask(Some("application/json; charset=utf-16"), None));
        assert!(!ask(Some("application/json"), Some("gzip")));
    }
}
