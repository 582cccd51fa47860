//! HTTP: the operations, who may use them, and the stream.
//!
//! Invariant: only this module knows HTTP; it decides nothing about runs and keeps no state of its own.

mod auth;
mod body;
mod branches;
mod docs;
mod front;
mod graphs;
mod health;
mod interrupts;
mod invoke;
mod json;
pub mod openapi;
mod param;
mod problem;
mod runs;
mod schema;
mod serve;
mod sse;
mod tcp;
mod telemetry;
mod threads;
mod turn;
mod view;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use poem::endpoint::{BoxEndpoint, make};
use poem::http::{HeaderValue, Method, header};
use poem::{Endpoint, EndpointExt, Request, Response, Route};
use poem_openapi::{OpenApi, OperationId, Tags};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::compile::Catalog;
use crate::engine::Engine;

pub use auth::{ApiKey, ApiKeys, Auth, AuthError, Network};
pub use telemetry::install as install_metrics;

use front::{Front, Methods};
use graphs::Graphs;
use health::Health;
use interrupts::Interrupts;
use problem::{Code, Problem};
use runs::Runs;
use threads::Threads;

/// How the service answers.
///
/// ```
/// use graphloom::{Auth, Settings};
///
/// let mut settings = Settings::new("127.0.0.1:8080".parse()?, Auth::None);
/// settings.cors_origins = vec!["https://app.example.org".into()];
/// settings.docs = false;
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Who may ask, and as whom.
    pub auth: Auth,
    /// The most bytes of a body.
    pub body_limit: usize,
    /// The most streams that are open at once.
    pub streams: usize,
    /// Pages of these origins may call the service from a browser, like `https://app.example.org`.
    pub cors_origins: Vec<String>,
    /// `/docs` is there, and the documents need no identity.
    pub docs: bool,
    /// `/metrics` needs no identity.
    pub open_metrics: bool,
    /// How a stop goes.
    pub drain: Drain,
}

impl Settings {
    /// Returns the defaults.
    ///
    /// ```
    /// use graphloom::{Auth, Settings};
    ///
    /// let settings = Settings::new("127.0.0.1:0".parse()?, Auth::None);
    /// assert_eq!((settings.body_limit, settings.docs), (1024 * 1024, true));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn new(bind: SocketAddr, auth: Auth) -> Self {
        let open_metrics = matches!(auth, Auth::None);
        Self {
            bind,
            auth,
            body_limit: 1024 * 1024,
            streams: 5000,
            cors_origins: Vec::new(),
            docs: true,
            open_metrics,
            drain: Drain::default(),
        }
    }
}

/// How long a stop may take that is not to wait.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How a stop goes; all counted from the word to stop.
///
/// ```
/// use std::time::Duration;
///
/// use graphloom::{Auth, Drain, Settings};
///
/// let mut settings = Settings::new("127.0.0.1:0".parse()?, Auth::None);
/// // No load balancer has to notice.
/// settings.drain = Drain { notice: Duration::ZERO, ..Drain::default() };
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// So long the service says that it is not ready, and takes what comes: load balancers have to notice.
    pub notice: Duration,
    /// So long runs work on; each is given back at its next barrier.
    pub runs: Duration,
    /// Then the process ends, whatever hangs.
    pub exit: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        let [notice, runs, exit] = [5, 20, 25].map(Duration::from_secs);
        Self { notice, runs, exit }
    }
}

/// The word to stop.
///
/// ```
/// use graphloom::Word;
///
/// async fn stop() -> Word {
///     tokio::signal::ctrl_c().await.ok();
///     Word::Interrupt
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// By whoever runs the service: others may still send requests here for a while.
    Terminate,
    /// By a person at the keyboard.
    Interrupt,
}

/// Why the service cannot begin.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::{Auth, ServeError, Settings, Word};
///
/// let settings = Settings::new("0.0.0.0:0".parse()?, Auth::None);
/// let refused = app.serve(settings, async { Word::Interrupt }).await;
/// assert!(matches!(refused, Err(ServeError::Exposed(_))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody could act as anybody.
    #[error(
        "without authentication only loopback addresses are served, and {0} is none; set `mode` under `[auth]`"
    )]
    Exposed(SocketAddr),
    /// Nobody could ask anything.
    #[error("mode `proxy` needs at least one address or network in `peers`")]
    NoPeers,
    /// A browser would never send this as an origin.
    #[error("`{0}` is not an origin like `https://app.example.org`")]
    Origin(String),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// What operations share.
pub(crate) struct App {
    engine: Engine,
    settings: Settings,
    /// The streams that may still be opened.
    streams: Arc<Semaphore>,
    /// The documents, made when somebody asks for them.
    documents: Mutex<Option<Documents>>,
}

/// The document of OpenAPI 3.0, and that of 3.2, for these graphs.
#[derive(Clone)]
struct Documents {
    catalog: Arc<Catalog>,
    document: Bytes,
    newer: Bytes,
}

impl App {
    fn new(engine: Engine, settings: Settings) -> Self {
        // More than this many the semaphore cannot count.
        let streams = Arc::new(Semaphore::new(settings.streams.min(Semaphore::MAX_PERMITS)));
        Self { engine, settings, streams, documents: Mutex::default() }
    }

    /// Takes a place for a stream, which is given back when it is dropped.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let taken = self.streams.clone().try_acquire_owned();
        taken
            .map_err(|_| Problem::new(Code::Overloaded, "as many streams are open as may be; try again soon"))
    }

    /// Returns the documents for the graphs that are served now.
    fn documents(&self) -> Documents {
        let catalog = self.engine.catalog();
        let mut made = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(documents) if Arc::ptr_eq(&documents.catalog, &catalog) => documents.clone(),
            _ => {
                let document = openapi::served(&catalog, &self.settings.auth);
                let newer = Bytes::from(openapi::with_item_schema(&document).to_string());
                let document = Bytes::from(document.to_string());
                made.insert(Documents { catalog, document, newer }).clone()
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Tags)]
enum Tag {
    /// What is served, and talking to it.
    Graphs,
    /// Executions.
    Runs,
    /// Conversations.
    Threads,
    /// Questions to people.
    Interrupts,
    /// The service itself.
    Service,
}

/// A service that listens.
pub struct Server {
    settings: Settings,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Checks the settings and takes the address; connections wait until [`Server::run`].
    pub async fn bind(settings: Settings) -> Result<Self, ServeError> {
        check(&settings)?;
        telemetry::install();
        let listen = |error| ServeError::Listen { address: settings.bind, error };
        let listener = TcpListener::bind(settings.bind).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { settings, listener, address })
    }

    /// Returns where the service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the first word to stop, then drains: takes no more, gives the runs back, breaks the streams that
    /// are left so that clients come back. At a second word it does so at once. Returns how long the process has to end.
    pub async fn run(self, engine: Engine, mut words: impl Stream<Item = Word> + Send + Unpin) -> Duration {
        let Self { settings, listener, address } = self;
        let drain = settings.drain;
        let app = Arc::new(App::new(engine.clone(), settings));
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let mut serve = pin!(serve::serve(listener, address, endpoint(app), stop.clone(), cut.clone()));
        let word = tokio::select! {
            () = serve.as_mut() => return drain.exit,
            () = telemetry::keep_up() => return drain.exit,
            word = words.next() => word,
        };
        let begun = Instant::now();
        let left = |until: Duration| until.saturating_sub(begun.elapsed());
        info!("The service stops.");
        engine.leave();
        let mut again = pin!(words.next());
        let notice =
            if word == Some(Word::Terminate) { drain.notice.min(drain.runs) } else { Duration::ZERO };
        let at_once = tokio::select! {
            () = serve.as_mut() => return left(drain.exit),
            () = tokio::time::sleep(notice) => false,
            Some(_) = again.as_mut() => true,
        };
        stop.cancel();
        let closed = async {
            if !at_once {
                // What is stopped where it is has to be given back, too.
                let runs = left(drain.runs).min(left(drain.exit).mul_f32(0.8));
                let close = engine.close(runs, left(drain.exit));
                tokio::select! {
                    () = close => return,
                    Some(_) = again.as_mut() => {}
                }
            }
            engine.close(Duration::ZERO, AT_ONCE.min(left(drain.exit))).await;
        };
        let answered = async {
            serve.as_mut().await;
        };
        // What is read of a run that was given back ends by itself; what hangs is cut.
        let (mut closed, mut answered) = (pin!(closed), pin!(answered));
        tokio::select! {
            () = answered.as_mut() => {
                closed.await;
                return left(drain.exit);
            }
            () = closed.as_mut() => {}
        }
        if tokio::time::timeout(left(drain.exit).min(AT_ONCE), answered.as_mut()).await.is_err() {
            cut.cancel();
            answered.await;
        }
        left(drain.exit)
    }
}

fn check(settings: &Settings) -> Result<(), ServeError> {
    match &settings.auth {
        Auth::None if !settings.bind.ip().to_canonical().is_loopback() => {
            Err(ServeError::Exposed(settings.bind))
        }
        Auth::Proxy(peers) if peers.is_empty() => Err(ServeError::NoPeers),
        _ => Ok(()),
    }?;
    let is_origin = |text: &str| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"/*?#@,".contains(&b))
        })
    };
    match settings.cors_origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => Err(ServeError::Origin(origin.clone())),
        None => Ok(()),
    }
}

/// Returns everything that is served.
fn endpoint(app: Arc<App>) -> impl Endpoint<Output = Response> {
    let mut table = HashMap::new();
    (
        Graphs(app.clone()),
        Runs(app.clone()),
        Threads(app.clone()),
        Interrupts(app.clone()),
        Health(app.clone()),
    )
        .add_routes(&mut table);
    let mut table: Vec<_> = table.into_iter().collect();
    table.sort_by(|a, b| a.0.cmp(&b.0));
    let mut route = Route::new();
    for (path, methods) in table {
        route = route.at(path, Methods::new(methods));
    }
    for (path, name) in SYSTEM {
        if path.starts_with("/docs") && !app.settings.docs {
            continue;
        }
        route = route.at(path, Methods::new([(Method::GET, system(name, app.clone()))]));
    }
    Front::new(route, app)
}

/// What is no operation of the API.
const SYSTEM: [(&str, &str); 6] = [
    ("/live", "live"),
    ("/metrics", "metrics"),
    ("/openapi.json", "openapi"),
    ("/openapi-3.2.json", "openapi32"),
    ("/docs", "docs"),
    ("/docs/:asset", "docsAsset"),
];

fn system(name: &'static str, app: Arc<App>) -> BoxEndpoint<'static> {
    let text = |kind: &'static str, body: Bytes| {
        Response::builder()
            .content_type(kind)
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
            .body(body)
    };
    let endpoint = make(move |request: Request| {
        let app = app.clone();
        async move {
            let mut response = match name {
                "live" => text("text/plain; charset=utf-8", Bytes::from_static(b"live\n")),
                "metrics" => text("text/plain; version=0.0.4; charset=utf-8", {
                    telemetry::count(&app.engine).await;
                    telemetry::render().into()
                }),
                "openapi" => text("application/json", app.documents().document),
                "openapi32" => text("application/json", app.documents().newer),
                "docs" => docs::page(),
                _ => {
                    let asset = request.raw_path_param("asset").and_then(docs::asset);
                    asset.ok_or_else(|| Problem::new(Code::RouteNotFound, "`/docs` is the page"))?
                }
            };
            response.set_data(OperationId(name));
            Ok::<_, poem::Error>(response)
        }
    });
    endpoint.boxed()
}

#[cfg(test)]
mod tests;
