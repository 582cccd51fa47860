//! Answers: from the network, or from a tape.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use indexmap::IndexMap;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::Error;
use super::tape::{Answered, Recording};

/// An answer whose body has not been read.
pub struct Response {
    pub(super) from: From,
    pub(super) recording: Option<Recording>,
}

/// Where an answer comes from.
pub(super) enum From {
    Wire(reqwest::Response),
    Tape(Answered, Vec<Result<Bytes, Error>>),
}

/// Returns the headers that are ASCII, by their names in small letters; of one that comes again the last.
pub(super) fn texts(headers: &HeaderMap) -> IndexMap<String, String> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Response {
    /// Returns the status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match &self.from {
            From::Wire(response) => response.status().as_u16(),
            From::Tape(answer, _) => answer.status,
        }
    }

    /// Returns a header's text; absent when the header is, or is not ASCII.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        match &self.from {
            From::Wire(response) => response.headers().get(name)?.to_str().ok(),
            From::Tape(answer, _) => answer.headers.get(name.as_str()).map(String::as_str),
        }
    }

    /// Returns the headers that are ASCII, by their names in small letters; of one that comes again the last.
    #[must_use]
    pub fn headers(&self) -> IndexMap<String, String> {
        match &self.from {
            From::Wire(response) => texts(response.headers()),
            From::Tape(answer, _) => answer.headers.clone(),
        }
    }

    /// Returns the body as it arrives; dropping it closes the call.
    #[must_use]
    pub fn into_body(self) -> Body {
        let pieces = match self.from {
            From::Wire(response) => {
                response.bytes_stream().map(|piece| piece.map_err(|e| Error::Broken(e.without_url()))).boxed()
            }
            From::Tape(_, frames) => futures_util::stream::iter(frames).boxed(),
        };
        Body(match self.recording {
            Some(recording) => pieces.inspect(move |piece| recording.piece(piece)).boxed(),
            None => pieces,
        })
    }

    /// Reads at most `limit` bytes; what a break cuts off is missing without an error.
    pub async fn read_start(self, limit: usize) -> Vec<u8> {
        let mut body = self.into_body();
        let mut start = Vec::new();
        while let Some(Ok(piece)) = body.next().await {
            start.extend_from_slice(&piece[..piece.len().min(limit - start.len())]);
            if start.len() == limit {
                break;
            }
        }
        start
    }
}

/// A streaming body.
pub struct Body(BoxStream<'static, Result<Bytes, Error>>);

#[cfg(test)]
impl Body {
    /// Makes a body of the given pieces.
    pub(crate) fn of(pieces: Vec<Bytes>) -> Self {
        Self(futures_util::stream::iter(pieces.into_iter().map(Ok)).boxed())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}
