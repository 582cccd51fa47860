//! A connection with a server: the handshake, the list of its tools, calls.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::Utc;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, ErrorCode, Implementation,
    PaginatedRequestParams, ProtocolVersion, RequestMetaObject, Tool,
};
use rmcp::service::{
    ClientCacheConfig, ClientInitializeError, ClientLifecycleMode, ClientServiceExt, NotificationContext,
    RunningService, ServiceError,
};
use rmcp::transport::DynamicTransportError;
use rmcp::transport::streamable_http_client::{HttpStatusError, StreamableHttpError};
use rmcp::{ClientHandler, RoleClient};
use serde_json::json;
use tracing::debug;

use super::Way;
use super::answer::sendable;
use super::program::Program;
use super::wire::{self, WireError};
use crate::failure::{ErrorKind, Failure};
use crate::spec::{McpHints, McpSignature};
use crate::tool::{Call, http};
use crate::trace;

/// How long the end of a connection is awaited.
const GOOD_BYE: Duration = Duration::from_secs(3);
/// The most tools of one server.
const MAX_TOOLS: usize = 1000;
/// How old the list of tools may be at a call. A server without sessions has no way to say that it was replaced.
const FRESH: Duration = Duration::from_mins(1);
/// The most pages that a list of tools may have.
const MAX_PAGES: usize = 100;

/// What is said in the place of a person who could be asked: nothing is promised to a server but to call its tools.
#[derive(Debug, Clone, Default)]
struct Ear {
    /// The server has said that its tools are others.
    changed: Arc<AtomicBool>,
}

impl ClientHandler for Ear {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(
            ClientCapabilities::default(),
            Implementation::new("graphloom", env!("CARGO_PKG_VERSION")),
        )
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.store(true, Ordering::Relaxed);
    }
}

/// A connection.
pub(super) struct Link {
    service: RunningService<RoleClient, Ear>,
    tools: ArcSwap<BTreeMap<String, McpSignature>>,
    /// When they were asked for.
    asked: Mutex<Instant>,
    changed: Arc<AtomicBool>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// Opens a connection, and reads what the tools are.
    pub(super) async fn open(way: &Way) -> Result<Self, Failure> {
        let ear = Ear::default();
        let changed = Arc::clone(&ear.changed);
        let mode = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: None,
        };
        let opened = match way {
            Way::Url { client, url, headers } => {
                ear.serve_with_lifecycle(wire::transport(client, url, headers), mode).await
            }
            Way::Program { command, env } => {
                let program = Program::start(command, env).map_err(|error| {
                    let name = command.first().map_or("", String::as_str);
                    Failure::new(ErrorKind::Connection, format!("`{name}` cannot be started: {error}"))
                })?;
                ear.serve_with_lifecycle(program, mode).await
            }
            Way::Nowhere(why) => return Err(why.clone()),
        };
        let service = opened.map_err(|error| unopened(&error))?;
        // What a server says is asked of it, not of what it said before.
        service.set_response_cache_config(ClientCacheConfig::disabled()).await;
        let link = Self { service, tools: ArcSwap::default(), asked: Mutex::new(Instant::now()), changed };
        link.read_tools().await?;
        Ok(link)
    }

    /// Says good-bye, and waits a moment for it.
    pub(super) async fn close(self) {
        if tokio::time::timeout(GOOD_BYE, self.service.cancel()).await.is_err() {
            debug!("A connection to an MCP server did not end in time.");
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.service.is_transport_closed()
    }

    /// Says whether the server's tools may be others than when they were asked for.
    pub(super) fn has_changed(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.load(Ordering::Relaxed) || asked.elapsed() > FRESH
    }

    /// Returns what the server said of its tools.
    pub(super) fn tools(&self) -> Arc<BTreeMap<String, McpSignature>> {
        self.tools.load_full()
    }

    /// Reads what the tools are today.
    pub(super) async fn read_tools(&self) -> Result<(), Failure> {
        // What is said from here on, is said of another list.
        self.changed.store(false, Ordering::Relaxed);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let read = self.list().await.inspect_err(|_| self.changed.store(true, Ordering::Relaxed));
        self.tools.store(Arc::new(read?));
        Ok(())
    }

    async fn list(&self) -> Result<BTreeMap<String, McpSignature>, Failure> {
        let mut tools = BTreeMap::new();
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let asked = PaginatedRequestParams::default().with_cursor(cursor.take());
            let page = self.service.list_tools(Some(asked)).await.map_err(|error| self.failure(&error))?;
            tools.extend(page.tools.into_iter().map(|tool| (tool.name.to_string(), signature(tool))));
            if tools.len() > MAX_TOOLS {
                break;
            }
            match page.next_cursor {
                None => return Ok(tools),
                next => cursor = next,
            }
        }
        let message = format!("it has more than {MAX_TOOLS} tools, or never ends to list them");
        Err(Failure::new(ErrorKind::Schema, message))
    }

    /// Calls a tool. Dropping the future tells the server that nobody waits any more.
    pub(super) async fn call(
        &self,
        tool: &str,
        signature: &McpSignature,
        call: &Call,
    ) -> Result<CallToolResponse, ServiceError> {
        let mut params = CallToolRequestParams::new(tool.to_owned())
            .with_arguments(sendable(&call.args, &signature.input_schema));
        let mut meta = RequestMetaObject::new();
        meta.insert("graphloom/idempotency-key".into(), json!(call.idempotency_key));
        meta.insert("graphloom/attempt".into(), json!(call.attempt));
        for (name, value) in trace::named() {
            meta.insert(name, json!(value));
        }
        params.meta = Some(meta);
        self.service.call_tool_once(params).await
    }

    /// Explains what went wrong.
    pub(super) fn failure(&self, error: &ServiceError) -> Failure {
        match error {
            ServiceError::McpError(error) => {
                let refused = [
                    ErrorCode::INVALID_PARAMS,
                    ErrorCode::METHOD_NOT_FOUND,
                    ErrorCode::INVALID_REQUEST,
                    ErrorCode::PARSE_ERROR,
                ];
                let undone = refused.contains(&error.code);
                // Perhaps its tools are not what they were.
                self.changed.fetch_or(undone, Ordering::Relaxed);
                Failure { undone, ..Failure::new(ErrorKind::Tool, error.message.to_string()) }
            }
            ServiceError::TransportSend(error) => sending(error),
            ServiceError::TransportClosed | ServiceError::Cancelled { .. } => {
                Failure::new(ErrorKind::Connection, "the connection broke")
            }
            ServiceError::Timeout { .. } => Failure::new(ErrorKind::Timeout, "no answer came in time"),
            other => Failure::new(ErrorKind::Tool, other.to_string()),
        }
    }
}

/// Says whether a server did not take a call because it does not know the session any more.
pub(super) fn has_forgotten(error: &ServiceError) -> bool {
    let ServiceError::TransportSend(error) = error else { return false };
    matches!(of_wire(error), Some(StreamableHttpError::SessionExpired))
}

fn of_wire(error: &DynamicTransportError) -> Option<&WireError> {
    let first: &(dyn std::error::Error + 'static) = &*error.error;
    std::iter::successors(Some(first), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Explains why a message could not be sent.
fn sending(error: &DynamicTransportError) -> Failure {
    match of_wire(error) {
        Some(StreamableHttpError::Client(error)) => http::failed(error),
        Some(StreamableHttpError::HttpStatus(HttpStatusError { status, retry_after, .. })) => {
            let after = retry_after.as_ref().and_then(|text| http::retry_after(text, Utc::now()));
            let kind = if *status == 408 { ErrorKind::Timeout } else { ErrorKind::Http(*status) };
            let message = format!("it answered {status}");
            Failure { retry_after: after.map(|wait: Duration| wait), ..Failure::new(kind, message) }
        }
        Some(
            error @ (StreamableHttpError::ResponseBodyTooLarge { .. }
            | StreamableHttpError::UnexpectedContentType(_)
            | StreamableHttpError::Deserialize(_)),
        ) => Failure::new(ErrorKind::Schema, error.to_string()),
        Some(error) => Failure::new(ErrorKind::Connection, error.to_string()),
        None => Failure::new(ErrorKind::Connection, "the connection broke"),
    }
}

/// Explains why a connection could not be opened.
fn unopened(error: &ClientInitializeError) -> Failure {
    match error {
        ClientInitializeError::TransportError { error, .. } => sending(error),
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => unopened(fallback),
        ClientInitializeError::ConnectionClosed(_) => {
            Failure::new(ErrorKind::Connection, "it ended the connection before it said who it is")
        }
        other => Failure::new(ErrorKind::Connection, other.to_string()),
    }
}

fn signature(tool: Tool) -> McpSignature {
    let hints = tool.annotations.unwrap_or_default();
    McpSignature {
        description: tool.description.map(Into::into),
        input_schema: Arc::unwrap_or_clone(tool.input_schema),
        output_schema: tool.output_schema.map(Arc::unwrap_or_clone),
        annotations: McpHints {
            read_only_hint: hints.read_only_hint,
            destructive_hint: hints.destructive_hint,
            idempotent_hint: hints.idempotent_hint,
            open_world_hint: hints.open_world_hint,
        },
    }
}
