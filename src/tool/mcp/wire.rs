//! Streamable HTTP by the one outbound client.
//!
//! Invariant: what signs requests in is put to them here; the SDK never sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, ErrorData, ServerJsonRpcMessage};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::SseRetryPolicy;
use rmcp::transport::common::http_header::{
    EVENT_STREAM_MIME_TYPE, HEADER_LAST_EVENT_ID, HEADER_SESSION_ID, JSON_MIME_TYPE,
};
use rmcp::transport::streamable_http_client::{
    HttpStatusError, SseError, StreamableHttpClient, StreamableHttpClientTransportConfig,
    StreamableHttpError, StreamableHttpPostResponse,
};
use rmcp_sse::{Sse, SseStream};

use crate::egress::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use crate::egress::{self, Client, ERROR_BODY_LIMIT, Method, Response, Url, header_value};

/// The most bytes of one message.
pub(super) const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The most calls of one server that are on their way at once.
const AT_ONCE: usize = 256;
/// How often a stream that is cut is taken up again.
const RESUMED: usize = 3;

/// How a call over HTTP fails.
pub(super) type WireError = StreamableHttpError<egress::Error>;

/// Sends the messages of one connection.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

/// Takes a stream up again a few times, and then lets it be.
#[derive(Debug)]
struct AFewTimes;

impl SseRetryPolicy for AFewTimes {
    fn retry(&self, times: usize) -> Option<Duration> {
        (times < RESUMED).then(|| Duration::from_secs(1 << times))
    }
}

/// Prepares a connection.
pub(super) fn transport(
    client: &Client,
    url: &Url,
    headers: &HeaderMap,
) -> StreamableHttpClientTransport<Wire> {
    let wire = Wire { client: client.clone(), url: url.clone(), headers: headers.clone() };
    // A session that the server has forgotten is a new connection, whose tools are looked at first.
    let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
        .max_concurrent_requests(AT_ONCE)
        .max_sse_event_size(MAX_MESSAGE)
        .max_json_response_size(MAX_MESSAGE)
        .reinit_on_expired_session(false);
    config.retry_config = Arc::new(AFewTimes);
    StreamableHttpClientTransport::with_client(wire, config)
}

impl Wire {
    async fn send(
        &self,
        method: Method,
        accept: &'static str,
        session: Option<&str>,
        more: HashMap<HeaderName, HeaderValue>,
        body: Vec<u8>,
    ) -> Result<Response, WireError> {
        let mut headers = self.headers.clone();
        headers.extend(more);
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(session) = session {
            let value = header_value(HEADER_SESSION_ID, session).map_err(WireError::Client)?;
            headers.insert(HeaderName::from_static("mcp-session-id"), value);
        }
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON_MIME_TYPE));
        }
        self.client.send(method, &self.url, headers, body).await.map_err(WireError::Client)
    }
}

/// Says whether a response is of a kind.
fn is(response: &Response, kind: &str) -> bool {
    let said = response.header(&CONTENT_TYPE).unwrap_or_default();
    said.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
}

/// Reads a body that is no stream.
async fn body(response: Response) -> Result<Vec<u8>, WireError> {
    let mut read = Vec::new();
    let mut pieces = response.into_body();
    while let Some(piece) = pieces.next().await {
        read.extend_from_slice(&piece.map_err(WireError::Client)?);
        if read.len() > MAX_MESSAGE {
            return Err(WireError::ResponseBodyTooLarge { max_size: MAX_MESSAGE });
        }
    }
    Ok(read)
}

/// Why a stream stops.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error(transparent)]
    Broken(egress::Error),
}

/// Reads the events of a response, none of them longer than a message may be.
fn events(response: Response) -> BoxStream<'static, Result<Sse, SseError>> {
    let pending = Arc::new(AtomicUsize::new(0));
    let read = Arc::clone(&pending);
    let pieces = response.into_body().map(move |piece: Result<Bytes, egress::Error>| {
        let piece = piece.map_err(Stop::Broken)?;
        let before = pending.fetch_add(piece.len(), Ordering::Relaxed);
        if before > MAX_MESSAGE { Err(Stop::TooLong) } else { Ok(piece) }
    });
    SseStream::from_bytes_stream(pieces).inspect(move |_| read.store(0, Ordering::Relaxed)).boxed()
}

/// Explains a status that is a failure.
fn refused(response: &Response) -> WireError {
    let after = response.header(&RETRY_AFTER).map(str::to_owned);
    HttpStatusError::new(response.status(), after).into()
}

/// Says whether an error is about a session: servers have forgotten them when they come back, and some answer 400 to that.
fn is_of_session(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).to_ascii_lowercase().contains("session")
}

/// Returns the error that a server tells in a response that is a failure, for the request that it is about.
fn told(message: &ClientJsonRpcMessage, status: u16, body: &[u8]) -> Option<ServerJsonRpcMessage> {
    let ClientJsonRpcMessage::Request(request) = message else { return None };
    if matches!(status, 401 | 403 | 429) {
        return None;
    }
    let error = match serde_json::from_slice(body) {
        Ok(ServerJsonRpcMessage::Error(error)) => error.error,
        // A server of an older protocol knows no discovery, and its frame may not tell that in its words.
        _ if status < 500 && matches!(request.request, ClientRequest::DiscoverRequest(_)) => {
            ErrorData::invalid_request("unknown to the server", None)
        }
        _ => return None,
    };
    Some(ServerJsonRpcMessage::error(error, Some(request.id.clone())))
}

impl StreamableHttpClient for Wire {
    type Error = egress::Error;

    async fn post_message(
        &self,
        _uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, WireError> {
        const ACCEPTED: &str = "application/json, text/event-stream";
        let awaited = matches!(message, ClientJsonRpcMessage::Request(_));
        let sent = serde_json::to_vec(&message)?;
        let response = self.send(Method::POST, ACCEPTED, session.as_deref(), headers, sent).await?;
        let status = response.status();
        if status == 404 && session.is_some() {
            return Err(StreamableHttpError::SessionExpired);
        }
        if !(200..300).contains(&status) {
            let failure = refused(&response);
            let body = response.read_start(ERROR_BODY_LIMIT).await;
            if status == 400 && session.is_some() && is_of_session(&body) {
                return Err(StreamableHttpError::SessionExpired);
            }
            return match told(&message, status, &body) {
                Some(error) => Ok(StreamableHttpPostResponse::Json(error, None)),
                None => Err(failure),
            };
        }
        let id = response.header(&HeaderName::from_static("mcp-session-id")).map(str::to_owned);
        if !awaited || matches!(status, 202 | 204) {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        if is(&response, EVENT_STREAM_MIME_TYPE) {
            return Ok(StreamableHttpPostResponse::Sse(events(response), id));
        }
        if !is(&response, JSON_MIME_TYPE) {
            let said = response.header(&CONTENT_TYPE).map(str::to_owned);
            return Err(StreamableHttpError::UnexpectedContentType(said));
        }
        let message = serde_json::from_slice(&body(response).await?)?;
        Ok(StreamableHttpPostResponse::Json(message, id))
    }

    async fn delete_session(
        &self,
        _uri: Arc<str>,
        session: Arc<str>,
        _auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), WireError> {
        let response = self.send(Method::DELETE, "*/*", Some(&*session), headers, Vec::new()).await?;
        match response.status() {
            // Not all servers end sessions by request.
            200..300 | 404 | 405 => Ok(()),
            _ => Err(refused(&response)),
        }
    }

    async fn get_stream(
        &self,
        _uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        _auth: Option<String>,
        mut headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, WireError> {
        if let Some(last) = last_event {
            let value = header_value(HEADER_LAST_EVENT_ID, &last).map_err(WireError::Client)?;
            headers.insert(HeaderName::from_static("last-event-id"), value);
        }
        let accept = EVENT_STREAM_MIME_TYPE;
        let response = self.send(Method::GET, accept, session.as_deref(), headers, Vec::new()).await?;
        match response.status() {
            200..300 if is(&response, EVENT_STREAM_MIME_TYPE) => Ok(events(response)),
            200..300 => {
                let said = response.header(&CONTENT_TYPE).map(str::to_owned);
                Err(StreamableHttpError::UnexpectedContentType(said))
            }
            405 => Err(StreamableHttpError::ServerDoesNotSupportSse),
            _ => Err(refused(&response)),
        }
    }
}
