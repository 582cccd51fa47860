//! Tools of MCP servers: connections that are opened when a tool is called first, and opened again when they are gone.
//!
//! Invariant: a tool is called only while the server says of it what the project has written down; and no call is made
//! twice here, unless the server is known not to have taken it.

mod answer;
mod link;
mod program;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use self::link::Link;
use super::{Call, Tool, http};
use crate::egress::header::HeaderMap;
use crate::egress::{Client, Secret, Tape, Url};
use crate::failure::{ErrorKind, Failure};
use crate::spec::McpSignature;
use crate::state::Type;

/// How long a call may take where nothing is said.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// A server of the Model Context Protocol.
#[derive(Debug)]
pub struct Server {
    name: String,
    way: Way,
    timeout: Duration,
    /// Keeps calls, or answers them in the place of the server.
    tape: Option<Tape>,
    /// The connection while there is one. Whoever opens it lets the others wait.
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
}

/// How a server is reached.
#[derive(Debug)]
pub enum Way {
    /// At an address.
    Url {
        /// Who sends the requests.
        client: Client,
        /// The address.
        url: Url,
        /// Headers of every request; those with secrets are marked sensitive.
        headers: HeaderMap,
    },
    /// As a program that is started here.
    Program {
        /// The program and its arguments.
        command: Vec<String>,
        /// All of its environment.
        env: Vec<(String, Secret)>,
    },
    /// Not at all, and why.
    Nowhere(Failure),
}

impl Way {
    /// Returns what stands for it; secrets are in that only as a hash.
    fn hash(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        match self {
            Self::Url { url, headers, .. } => {
                part(b"url");
                part(url.as_str().as_bytes());
                for (name, value) in headers {
                    part(name.as_str().as_bytes());
                    part(value.as_bytes());
                }
            }
            Self::Program { command, env } => {
                part(b"program");
                for word in command {
                    part(word.as_bytes());
                }
                part(b"env");
                for (name, value) in env {
                    part(name.as_bytes());
                    part(value.expose().as_bytes());
                }
            }
            Self::Nowhere(why) => part(why.message.as_bytes()),
        }
        digest.finalize().into()
    }
}

/// What tells one server from another: its name, how it is reached, and how long a call may take.
type Key = (String, [u8; 32], Duration);

/// Knows the servers that something uses, so that a project that is compiled again keeps their connections. Clones are
/// one.
#[derive(Debug, Clone, Default)]
pub struct Servers(Arc<Mutex<HashMap<Key, Weak<Server>>>>);

impl Servers {
    /// Returns the server that is known by this name and reached in this way, else a new one.
    #[must_use]
    pub fn server(&self, name: &str, way: Way, timeout: Duration, tape: Option<Tape>) -> Arc<Server> {
        let key = (name.to_owned(), way.hash(), timeout);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.get(&key).and_then(Weak::upgrade) {
            return server;
        }
        known.retain(|_, server| server.strong_count() > 0);
        let server = Arc::new(Server {
            name: name.to_owned(),
            way,
            timeout,
            tape,
            link: tokio::sync::Mutex::default(),
        });
        known.insert(key, Arc::downgrade(&server));
        server
    }
}

impl Servers {
    /// Closes all connections; a call that is made later opens its own anew.
    pub async fn close(&self) {
        let servers: Vec<Arc<Server>> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().filter_map(Weak::upgrade).collect()
        };
        futures_util::future::join_all(servers.iter().map(|server| server.close())).await;
    }
}

/// How a tool of a server is not what the project has written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The server does not have it.
    Gone,
    /// These parts of what it says are others.
    Changed(Vec<&'static str>),
}

impl Drift {
    /// Compares a tool with what a server says.
    #[must_use]
    pub fn of(tool: &str, written: &McpSignature, said: &BTreeMap<String, McpSignature>) -> Option<Self> {
        let Some(said) = said.get(tool) else { return Some(Self::Gone) };
        let parts = written.differs(said);
        (!parts.is_empty()).then_some(Self::Changed(parts))
    }
}

impl Server {
    /// Makes a server that cannot be reached.
    #[must_use]
    pub fn nowhere(name: &str) -> Arc<Self> {
        let why = Failure::new(ErrorKind::Failed, "it is nowhere");
        Servers::default().server(name, Way::Nowhere(why), TIMEOUT, None)
    }

    /// Returns its name in the project.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the server what its tools are.
    pub async fn tools(&self) -> Result<Arc<BTreeMap<String, McpSignature>>, Failure> {
        let link = self.link().await?;
        Ok(link.tools())
    }

    /// Returns the connection, with what the server says of its tools today. Who waits for another one's try waits no longer
    /// than for its own.
    async fn link(&self) -> Result<Arc<Link>, Failure> {
        self.within(self.connected()).await
    }

    async fn connected(&self) -> Result<Arc<Link>, Failure> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.as_ref().filter(|link| !link.is_closed()) {
            if !link.has_changed() {
                return Ok(Arc::clone(link));
            }
            if link.read_tools().await.is_ok() {
                return Ok(Arc::clone(link));
            }
        }
        *kept = None;
        let link = Arc::new(Link::open(&self.way).await?);
        *kept = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn close(&self) {
        // Who still calls, holds it; then it ends with that call.
        if let Some(link) = self.link.lock().await.take().and_then(Arc::into_inner) {
            link.close().await;
        }
    }

    /// Forgets a connection, unless another one has taken its place.
    async fn forget(&self, link: &Arc<Link>) {
        let mut kept = self.link.lock().await;
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, link)) {
            *kept = None;
        }
    }

    /// Waits no longer than a call may take, and says of what fails which server it was.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let name = &self.name;
        let Ok(done) = tokio::time::timeout(self.timeout, work).await else {
            let seconds = self.timeout.as_secs_f64();
            let message = format!("the MCP server `{name}` did not answer within {seconds} s");
            return Err(Failure::new(ErrorKind::Timeout, message));
        };
        done.map_err(|failure| Failure {
            message: format!("the MCP server `{name}`: {}", failure.message),
            ..failure
        })
    }

    /// Calls a tool, unless it is another one than the project knows.
    async fn call(&self, tool: &McpTool, call: &Call) -> Result<Json, Failure> {
        for last in [false, true] {
            let link = self.link().await.map_err(|failure| Failure { undone: true, ..failure })?;
            if let Some(drift) = Drift::of(&tool.tool, &tool.signature, &link.tools()) {
                return Err(self.drifted(&tool.tool, &drift));
            }
            let answer = self.within(async {
                match link.call(&tool.tool, &tool.signature, call).await {
                    Ok(answer) => Ok(Some(answer)),
                    // It said that it did not take the call, since it knows this session no more.
                    Err(error) if !last && link::has_forgotten(&error) => Ok(None),
                    Err(error) => Err(link.failure(&error)),
                }
            });
            if let Some(answer) = answer.await? {
                let read = answer::read(answer, tool.signature.output_schema.is_some(), &tool.result);
                return read.map_err(|failure| Failure {
                    message: format!("`{}.{}`: {}", self.name, tool.tool, failure.message),
                    ..failure
                });
            }
            self.forget(&link).await;
        }
        let message = format!("the MCP server `{}` forgets its sessions", self.name);
        Err(Failure { undone: true, ..Failure::new(ErrorKind::Connection, message) })
    }

    fn drifted(&self, tool: &str, drift: &Drift) -> Failure {
        let name = &self.name;
        let what = match drift {
            Drift::Gone => format!("the MCP server `{name}` has no tool `{tool}` any more"),
            Drift::Changed(parts) => {
                format!("`{tool}` of the MCP server `{name}` is not what it was: {}", parts.join(", "))
            }
        };
        let message = format!("{what}; look at it, and write it down:  graphloom mcp pull {name}");
        Failure { code: "tool_changed".into(), undone: true, ..Failure::new(ErrorKind::Tool, message) }
    }
}

/// A tool of a server.
#[derive(Debug)]
pub struct McpTool {
    /// The server.
    pub server: Arc<Server>,
    /// The tool, by the server's name.
    pub tool: String,
    /// What the project has written down of it.
    pub signature: Arc<McpSignature>,
    /// The type of its result.
    pub result: Type,
}

#[async_trait]
impl Tool for McpTool {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        let Some(tape) = &self.server.tape else { return self.server.call(self, call).await };
        let what = format!("mcp:{}/{}", self.server.name, self.tool);
        if let Some(played) = tape.played(&what, &call.args) {
            let mut played = played.map_err(|error| http::failed(&error))?;
            return match played.get_mut("failure").map(Json::take) {
                None => Ok(played.get_mut("result").map(Json::take).unwrap_or_default()),
                Some(failure) => Err(serde_json::from_value(failure)
                    .unwrap_or_else(|_| Failure::new(ErrorKind::Schema, "the recording cannot be read"))),
            };
        }
        let answer = self.server.call(self, call).await;
        let kept = match &answer {
            Ok(result) => json!({"result": result}),
            Err(failure) => json!({"failure": failure}),
        };
        tape.keep(&what, &call.args, &kept);
        answer
    }
}
