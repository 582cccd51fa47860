//! What JSON answers look like.
//!
//! Invariant: an absent value has no key; there are no nulls but those of the user's own data.

mod run;
mod thread;

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde_json::Value as Json;

pub(super) use run::{
    ErrorView, InvokeResult, NOT_UNDONE, RunView, SentMessage, Status, UsageView, run_urls,
};
pub(super) use thread::{
    CheckpointOverview, History, MessagesView, StateView, ThreadOverview, ThreadPage, cursor, parse_cursor,
};

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(String);

        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                concat!("string_", $format).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", $format)))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(self.as_raw_value().into_iter())
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Json> {
                Some(self.0.clone().into())
            }
        }

        // The derive of objects asks for it; answers are only written.
        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<Json>) -> ParseResult<Self> {
                match value {
                    Some(Json::String(text)) => Ok(Self(text)),
                    other => Err(ParseError::expected_type(other.unwrap_or_default())),
                }
            }
        }
    };
}

text_type! {
    /// A moment, in UTC with milliseconds.
    Time, "date-time"
}
text_type! {
    /// An id.
    Id, "uuid"
}

impl From<DateTime<Utc>> for Time {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Id {
    /// Writes an id.
    pub(super) fn new(id: impl ToString + Copy) -> Self {
        Self(id.to_string())
    }
}

/// A JSON answer. The stock payload writes `; charset=utf-8`, which JSON does not have.
#[derive(Debug)]
pub(super) struct Answer<T>(pub(super) T);

impl<T: Type> Payload for Answer<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ToJSON> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        Response::builder().content_type("application/json").body(self.0.to_json_string())
    }
}

impl<T: ToJSON> ApiResponse for Answer<T> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() };
        let response = MetaResponse {
            description: "",
            status: Some(200),
            status_range: None,
            content: vec![content],
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ThreadId;

    #[test]
    fn a_cursor_reads_back_to_the_nanosecond_and_nothing_else_is_one() {
        let (at, thread) = (DateTime::from_timestamp_nanos(1_764_000_000_123_456_789), ThreadId::new());
        assert_eq!(parse_cursor(&cursor(at, thread)), Some((at, thread)));
        for bad in ["", "0", &"g".repeat(48), &"F".repeat(48), &"0".repeat(47), &"ä".repeat(24)] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_absent_value_has_no_key() {
        let page = ThreadPage { threads: Vec::new(), next_cursor: None };
        assert_eq!(page.to_json_string(), r#"{"threads":[]}"#);
    }

    #[test]
    fn a_time_has_milliseconds_and_a_z() {
        let time = Time::from(DateTime::from_timestamp_nanos(1_700_000_000_123_999_999));
        assert_eq!(time.0, "2023-11-14T22:13:20.123Z");
    }
}
