//! The one outbound HTTP client: who may be called, and how a call fails.
//!
//! Invariant: the address that is connected has been checked, or the operator named its host and port.
//! Nothing here reads proxies from the environment, follows a redirect, or prints a key or a body.

pub mod address;
mod guard;
mod response;
mod sign;
mod tape;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
pub use reqwest::header;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
pub use reqwest::{Method, Url};
pub use response::{Body, Response};
use serde::Deserialize;
pub use sign::{NoKey, SigningKey, signatures};
pub use tape::{Tape, TapeError};

use self::response::{From, texts};
use self::tape::Asked;

/// The most bytes of an error answer that are read.
pub const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// A key or password. It has no `Serialize`, and `Debug` hides it, so it cannot slip into a log.
///
/// ```
/// let key = graphloom::Secret::new("s3cret");
/// assert_eq!(format!("{key:?}"), "Secret(…)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    ///
    /// ```
    /// let key = graphloom::Secret::new("s3cret");
    /// ```
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the one place that sends it.
    ///
    /// ```
    /// assert_eq!(graphloom::Secret::from("s3cret").expose(), "s3cret");
    /// ```
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> std::convert::From<T> for Secret {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A host and a port, as `host:port`.
///
/// ```
/// use graphloom::Target;
///
/// let target: Target = "Models.Example.com:8443".parse()?;
/// assert_eq!(target.to_string(), "models.example.com:8443");
/// # Ok::<(), graphloom::EgressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    /// A name in lower case without a final dot, or an address; IPv6 in brackets.
    host: String,
    port: u16,
}

impl Target {
    /// Reads a host without a port, and puts the port to it. An address of version 6 may stand without its brackets.
    ///
    /// ```
    /// let target = graphloom::Target::on_port("::1", 8000)?;
    /// assert_eq!(target.to_string(), "[::1]:8000");
    /// # Ok::<(), graphloom::EgressError>(())
    /// ```
    pub fn on_port(host: &str, port: u16) -> Result<Self, Error> {
        match host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{port}").parse(),
            Err(_) => format!("{host}:{port}").parse(),
        }
    }

    /// Returns the host: a name in lower case without a final dot, or an address.
    ///
    /// ```
    /// let target: graphloom::Target = "localhost:8000".parse()?;
    /// assert_eq!(target.host(), "localhost");
    /// # Ok::<(), graphloom::EgressError>(())
    /// ```
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    ///
    /// ```
    /// let target: graphloom::Target = "localhost:8000".parse()?;
    /// assert_eq!(target.port(), 8000);
    /// # Ok::<(), graphloom::EgressError>(())
    /// ```
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what kind of non-public host this is, as far as the text alone tells.
    ///
    /// ```
    /// use graphloom::Target;
    ///
    /// assert!("127.0.0.1:80".parse::<Target>()?.private().is_some());
    /// assert!("example.com:443".parse::<Target>()?.private().is_none());
    /// # Ok::<(), graphloom::EgressError>(())
    /// ```
    #[must_use]
    pub fn private(&self) -> Option<&'static str> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        // Address literals never reach the resolver.
        match host.parse() {
            Ok(address) => address::refused_address(address),
            Err(_) => address::refused_name(host),
        }
    }

    /// Returns the host and port that `url` calls.
    #[doc(hidden)]
    pub fn of(url: &Url) -> Result<Self, Error> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::Scheme { scheme: url.scheme().to_owned() });
        }
        let host = url.host_str().map(|host| host.trim_end_matches('.')).filter(|host| !host.is_empty());
        match (host, url.port_or_known_default()) {
            (Some(host), Some(port)) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(Error::Url),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Target {
    type Err = Error;

    /// Reads `host:port`; the URL parser brings every spelling of a host into one form.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (_, port) = text.rsplit_once(':').ok_or(Error::Target)?;
        let plain = !text.contains(['/', '?', '#', '@', '\\']) && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| plain).ok_or(Error::Target)?;
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| Error::Target)?;
        Ok(Self { port, ..Self::of(&url)? })
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// How the client calls.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Targets that the operator allows though they are private or on an unusual port.
    pub allow: Vec<Target>,
    /// Until a connection stands, TLS included.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub pool_idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(90),
        }
    }
}

/// Why a call did not happen or broke. Targets are named; keys, queries and bodies never are.
///
/// ```
/// use graphloom::{EgressError, Target};
///
/// assert!(matches!("localhost".parse::<Target>(), Err(EgressError::Target)));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no `http://` or `https://` URL with a host.
    #[error("a URL here begins with `http://` or `https://` and names a host, without user or password")]
    Url,
    /// The text is no `host:port`.
    #[error("a target is written `host:port`")]
    Target,
    /// Another scheme than http and https.
    #[error("scheme `{scheme}` is not allowed, only `http` and `https` are")]
    Scheme {
        /// The refused scheme.
        scheme: String,
    },
    /// The host is not public and not on the allow-list.
    #[error("`{target}` is not allowed: {what}")]
    Refused {
        /// Who was to be called.
        target: Target,
        /// What kind of address or name it is.
        what: &'static str,
    },
    /// A header name or value that cannot be sent.
    #[error("header `{name}` may hold only visible ASCII characters")]
    Header {
        /// The header.
        name: String,
    },
    /// The client could not be set up.
    #[error("the HTTP client could not be set up: {}", deepest(.0))]
    Setup(#[source] reqwest::Error),
    /// No connection, or it ended before the answer's head came.
    #[error("no connection to `{target}`: {}", deepest(source))]
    Connect {
        /// Who was called.
        target: Target,
        /// Why, without the URL.
        source: reqwest::Error,
    },
    /// The connection broke within the answer.
    #[error("the connection broke: {}", deepest(.0))]
    Broken(#[source] reqwest::Error),
    /// The connection broke within an answer that was recorded.
    #[error("the connection broke when this was recorded")]
    Cut,
    /// The tape that is played has no such call; it tells by itself what differs.
    #[error("the call is not recorded")]
    Unrecorded,
}

impl Error {
    /// Says whether nothing of the request was sent.
    ///
    /// ```
    /// let wrong = "localhost".parse::<graphloom::Target>().unwrap_err();
    /// assert!(wrong.is_unsent());
    /// ```
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.is_connect(),
            Self::Broken(_) | Self::Cut => false,
            _ => true,
        }
    }
}

/// Returns the innermost reason of an error chain, the only one that says something new.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Makes ring the process's crypto provider; a second call changes nothing.
pub fn install_crypto() {
    // The error says that a provider is installed already, which is what is wanted.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}

/// Parses a URL that the operator wrote, and refuses one that carries a password.
pub fn parse_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).map_err(|_| Error::Url)?;
    Target::of(&url)?;
    if url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(Error::Url) }
}

/// Returns bytes as Base64, as `Authorization: Basic` has them.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Builds one header; control characters, line breaks and non-ASCII are refused.
pub fn header_value(name: &str, value: &str) -> Result<HeaderValue, Error> {
    let plain = Some(value).filter(|value| value.is_ascii());
    let value = plain.and_then(|value| HeaderValue::from_str(value).ok());
    value.ok_or_else(|| Error::Header { name: name.escape_debug().to_string() })
}

/// The outbound client; cheap to clone, all clones share two connection pools.
#[derive(Clone)]
pub struct Client {
    pools: Arc<Pools>,
    /// What this handle may call beyond public hosts on the ports 80 and 443.
    allow: Arc<BTreeSet<Target>>,
    /// Where it may call other ports, of public hosts alone.
    ports: Arc<BTreeSet<Target>>,
    /// Keeps all calls, or answers them in the place of the network.
    tape: Option<Tape>,
}

/// Two pools, because a resolver sees a name but no port: only the exact `host:port` is exempt. Each is made for its first
/// call, since that reads all certificates that the system trusts, and many a process makes none.
struct Pools {
    connect_timeout: Duration,
    idle_timeout: Duration,
    lookup: guard::Lookup,
    /// Its resolver refuses names that lead to private addresses.
    guarded: OnceLock<reqwest::Client>,
    /// Used only for allowed targets.
    open: OnceLock<reqwest::Client>,
}

impl Pools {
    fn guarded(&self) -> Result<&reqwest::Client, Error> {
        made(&self.guarded, || self.builder().dns_resolver(guard::Guard::new(Arc::clone(&self.lookup))))
    }

    fn open(&self) -> Result<&reqwest::Client, Error> {
        made(&self.open, || self.builder())
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .user_agent(concat!("graphloom/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(self.idle_timeout)
    }
}

/// Returns what is in the cell, made where nothing is.
fn made(
    cell: &OnceLock<reqwest::Client>,
    builder: impl FnOnce() -> reqwest::ClientBuilder,
) -> Result<&reqwest::Client, Error> {
    if let Some(client) = cell.get() {
        return Ok(client);
    }
    let client = builder().build().map_err(Error::Setup)?;
    Ok(cell.get_or_init(|| client))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("allow", &self.allow).finish_non_exhaustive()
    }
}

impl Client {
    /// Builds the client and installs the crypto provider.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_lookup(settings, guard::system())
    }

    fn with_lookup(settings: Settings, lookup: guard::Lookup) -> Self {
        install_crypto();
        let pools = Pools {
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.pool_idle_timeout,
            lookup,
            guarded: OnceLock::new(),
            open: OnceLock::new(),
        };
        let allow = Arc::new(settings.allow.into_iter().collect());
        Self { pools: Arc::new(pools), allow, ports: Arc::default(), tape: None }
    }

    /// Makes both pools now, and not for the first call.
    pub fn prepare(&self) -> Result<(), Error> {
        self.pools.guarded().and(self.pools.open()).map(drop)
    }

    /// Returns a handle whose calls are recorded, or played.
    #[must_use]
    pub fn taped(self, tape: Tape) -> Self {
        Self { tape: Some(tape), ..self }
    }

    /// Returns the tape, and a handle without it: for calls that are kept as a whole, not as what goes over the wire.
    #[must_use]
    pub fn without_tape(&self) -> (Option<Tape>, Self) {
        (self.tape.clone(), Self { tape: None, ..self.clone() })
    }

    /// Returns a handle that may also call `target`.
    ///
    /// For targets that the operator wrote, such as a model's `base_url`: a model on `localhost` needs no
    /// second entry. Never pass a target that a graph, a user or a model chose.
    #[must_use]
    pub fn allowing(&self, target: Target) -> Self {
        let mut allow = (*self.allow).clone();
        allow.insert(target);
        Self { allow: Arc::new(allow), ..self.clone() }
    }

    /// Returns a handle that may also call these ports of public hosts.
    ///
    /// For targets that a project lists: their addresses are checked as all others are.
    #[must_use]
    pub fn listing(&self, targets: impl IntoIterator<Item = Target>) -> Self {
        Self { ports: Arc::new(targets.into_iter().collect()), ..self.clone() }
    }

    /// Says whether the operator allows a target by its name and port.
    #[must_use]
    pub fn allows(&self, target: &Target) -> bool {
        self.allow.contains(target)
    }

    /// Refuses a URL that could never be called, by what it says alone.
    pub fn check(&self, url: &Url) -> Result<(), Error> {
        self.pool(url, &Target::of(url)?).map(drop)
    }

    /// Returns why a target is not public, unless the operator allows it.
    #[must_use]
    pub fn private(&self, target: &Target) -> Option<&'static str> {
        target.private().filter(|_| !self.allow.contains(target))
    }

    /// Sends `body` as JSON and returns as soon as the answer's head is there.
    ///
    /// Dropping the future or the body closes the call. Only the connect timeout runs here: how long an
    /// answer may be silent is the caller's matter.
    pub async fn post_json(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response, Error> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(Method::POST, url, headers, body).await
    }

    /// Sends a request and returns as soon as the answer's head is there; an empty body is none.
    ///
    /// Dropping the future or the body closes the call. Only the connect timeout runs here.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response, Error> {
        let target = Target::of(url)?;
        let pool = self.pool(url, &target)?;
        let asked = || Asked::new(&method, url, &body);
        let recording = match &self.tape {
            Some(tape) if tape.plays() => {
                let (answer, frames) = tape.play(&asked())?;
                return Ok(Response { from: From::Tape(answer, frames), recording: None });
            }
            tape => tape.as_ref().map(|tape| {
                // What is made of a secret is one: a name and a password in base64 are often sent back.
                for value in headers.values().filter(|value| value.is_sensitive()) {
                    if let Some(made) = value.to_str().ok().and_then(|value| value.rsplit(' ').next()) {
                        tape.hide(&Secret::new(made));
                    }
                }
                tape.record(asked())
            }),
        };
        let mut request = pool.request(method, url.clone()).headers(headers);
        if !body.is_empty() {
            request = request.body(body);
        }
        let sent = request.send().await.map_err(|error| match guard::refusal(&error) {
            Some(what) => Error::Refused { target, what },
            None => Error::Connect { target, source: error.without_url() },
        });
        match (&sent, &recording) {
            (Ok(response), Some(recording)) => {
                recording.head(response.status().as_u16(), texts(response.headers()));
            }
            (Err(error), Some(recording)) => recording.failed(&error.to_string()),
            _ => {}
        }
        Ok(Response { from: From::Wire(sent?), recording })
    }

    /// Chooses the pool for a call, or refuses the call by what the URL alone says.
    fn pool(&self, url: &Url, target: &Target) -> Result<&reqwest::Client, Error> {
        if self.allow.contains(target) {
            return self.pools.open();
        }
        let listed = matches!(target.port, 80 | 443) || self.ports.contains(target);
        let what = target.private().or((!listed).then_some("a port that is not listed"));
        let what = what.or((!url.username().is_empty()).then_some("a URL with a user name"));
        match what {
            Some(what) => Err(Error::Refused { target: target.clone(), what }),
            None => self.pools.guarded(),
        }
    }
}

#[cfg(test)]
mod tests;
