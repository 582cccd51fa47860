//! The JSON that providers have in common: bodies with further keys, and texts where they send other things.
//!
//! Invariant: reading tolerates unknown and null fields.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

/// Writes the fields of a body. `extra` replaces a default one, and removes it when it is null: some servers
/// know `max_completion_tokens` only, or refuse `stream_options`.
pub(super) struct Fields<'a, M> {
    extra: &'a serde_json::Map<String, Json>,
    /// What `extra` cannot touch: a body with two lists of messages could mean anything.
    own: &'a [&'a str],
    map: M,
}

impl<'a, M: SerializeMap> Fields<'a, M> {
    pub(super) fn new<S: Serializer<SerializeMap = M, Ok = M::Ok, Error = M::Error>>(
        extra: &'a serde_json::Map<String, Json>,
        own: &'a [&'a str],
        serializer: S,
    ) -> Result<Self, M::Error> {
        Ok(Self { extra, own, map: serializer.serialize_map(None)? })
    }

    pub(super) fn fixed<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), M::Error> {
        self.map.serialize_entry(name, value)
    }

    pub(super) fn default<T: Serialize>(&mut self, name: &str, value: Option<&T>) -> Result<(), M::Error> {
        match value {
            Some(value) if !self.extra.contains_key(name) => self.map.serialize_entry(name, value),
            _ => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> Result<M::Ok, M::Error> {
        for (name, value) in self.extra {
            if !value.is_null() && !self.own.contains(&name.as_str()) {
                self.map.serialize_entry(name, value)?;
            }
        }
        self.map.end()
    }
}

/// Returns a count; some servers write floats or null. The cast saturates: a negative or absurd one becomes 0 or the
/// largest.
pub(super) fn count(n: Option<f64>) -> u64 {
    n.unwrap_or(0.0) as u64
}

/// The body of an answer that is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorBody {
    error: Option<WireError>,
    object: Option<String>,
    message: Option<Text>,
}

impl ErrorBody {
    /// Returns what the provider says; nothing when it is no error.
    pub(super) fn failure(&self) -> Option<&str> {
        said(self.error.as_ref(), self.object.as_deref(), self.message.as_ref())
    }
}

/// Returns what an error says. Older servers put `{"object":"error","message":…}` at the top.
pub(super) fn said<'a>(
    error: Option<&'a WireError>,
    object: Option<&str>,
    message: Option<&'a Text>,
) -> Option<&'a str> {
    match error {
        Some(WireError(message)) => Some(message),
        None if object == Some("error") => Some(message.map_or("", |message| &message.0)),
        None => None,
    }
}

/// The message of an error: `"…"` or `{"message":"…"}`.
#[derive(Debug)]
pub(super) struct WireError(pub(super) String);

impl<'de> Deserialize<'de> for WireError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient).map(|text| Self(text.0))
    }
}

/// A text where servers send other things, too: a list of parts counts as its texts, the rest as nothing.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient)
    }
}

struct Lenient;

impl<'de> Visitor<'de> for Lenient {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(text))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Text, A::Error> {
        let mut all = String::new();
        while let Some(Text(part)) = parts.next_element()? {
            all.push_str(&part);
        }
        Ok(Text(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text, A::Error> {
        let mut text = String::new();
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "text" | "message" => text = fields.next_value::<Text>()?.0,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Text(text))
    }
}
