//! Settings: a file, the environment and the command line, in that order of growing weight.
//!
//! Invariant: nothing else reads the environment, and a setting that nobody knows is an error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Deserialize;

use crate::egress::{self, Secret, Target, Url};

/// The folder of the project unless told otherwise.
pub const DEFAULT_GRAPHS: &str = "graphs";
/// The database unless told otherwise: a file in the working folder.
pub const DEFAULT_DATABASE: &str = "sqlite://graphloom.db?mode=rwc";
/// The settings file that is read when it is there.
pub const DEFAULT_FILE: &str = "graphloom.toml";

/// The flags that every command takes; each also as a variable and in `graphloom.toml`.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The settings file [default: graphloom.toml, when it is there]
    #[arg(long, global = true, env = "GRAPHLOOM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The folder with project.yaml, graphs and prompts [default: graphs]
    #[arg(long, global = true, env = "GRAPHLOOM_GRAPHS", value_name = "DIR")]
    pub graphs: Option<PathBuf>,

    /// A folder with one file a secret, by its name; what is not there is looked for among the variables
    #[arg(long, global = true, env = "GRAPHLOOM_SECRETS_DIR", value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,

    /// Secrets with master keys, 32 bytes in base64: with one, what is stored is encrypted; the first one wraps new data keys
    #[arg(
        long,
        global = true,
        env = "GRAPHLOOM_ENCRYPTION_KEYS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub encryption_keys: Vec<String>,

    /// Hosts that are not public, each with its port, to which nodes and tools may send requests: `localhost:8000`
    #[arg(
        long,
        global = true,
        env = "GRAPHLOOM_ALLOW_PRIVATE",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub allow_private: Vec<Target>,

    /// What another program registers for graphs, as its command `registry` prints it
    #[arg(long, global = true, env = "GRAPHLOOM_REGISTRY", value_name = "FILE")]
    pub registry: Option<PathBuf>,

    /// What is logged, for instance `info` or `graphloom=debug` [default: warn; serve: info]
    #[arg(long, global = true, env = "GRAPHLOOM_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How it is logged
    #[arg(long, global = true, env = "GRAPHLOOM_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flag that says where threads are kept.
#[derive(Debug, Clone, Default, Args)]
pub struct DatabaseFlag {
    /// Where threads are kept: `postgres://…`, `sqlite://FILE?mode=rwc`, or `memory:` for nowhere; also
    /// DATABASE_URL [default: sqlite://graphloom.db?mode=rwc; chat: memory:]
    #[arg(long, env = "GRAPHLOOM_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

/// The flags of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeFlags {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, env = "GRAPHLOOM_BIND", value_name = "ADDR")]
    pub bind: Option<SocketAddr>,

    /// The name under which a restarted process finds its own runs again [default: host name and address]
    #[arg(long, env = "GRAPHLOOM_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,

    /// Serves what changes in the project folder without a restart; SIGHUP asks for it once
    #[arg(long, env = "GRAPHLOOM_WATCH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub watch: Option<bool>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "the flag's own text is shown")]
    pub database: DatabaseFlag,
}

/// The settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The folder of the project.
    pub graphs: Option<PathBuf>,
    /// Where to listen.
    pub bind: Option<SocketAddr>,
    /// Where threads are kept.
    pub database_url: Option<String>,
    /// The name of this process among its replicas.
    pub instance: Option<String>,
    /// What changes in the project folder is served without a restart.
    pub watch: Option<bool>,
    /// What is logged.
    pub log: Option<String>,
    /// How it is logged.
    pub log_format: Option<LogFormat>,
    /// A folder with one file a secret.
    pub secrets_dir: Option<PathBuf>,
    /// Hosts that are not public, each with its port, to which nodes and tools may send requests.
    pub allow_private: Vec<Target>,
    /// What another program registers for graphs.
    pub registry: Option<PathBuf>,
    /// Who may ask, and as whom.
    pub auth: AuthFile,
    /// How what is stored is encrypted.
    pub encryption: EncryptionFile,
    /// Limits of the service.
    pub limits: LimitsFile,
    /// How it stops.
    pub drain: DrainFile,
    /// Who is told of the ends of runs.
    pub webhooks: WebhooksFile,
    /// Pages of these origins may call the service from a browser.
    pub cors_origins: Vec<String>,
}

/// `[encryption]` of the settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncryptionFile {
    /// Secrets with master keys; the first one wraps new data keys.
    pub keys: Vec<String>,
}

/// `[auth]` of the settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthFile {
    /// How callers are identified.
    pub mode: AuthMode,
    /// The keys of mode `api_keys`.
    pub keys: Vec<KeyFile>,
    /// The addresses or networks from which mode `proxy` believes its headers.
    pub peers: Vec<String>,
}

/// How callers are identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Not at all; only on loopback.
    #[default]
    None,
    /// By a key in `Authorization: Bearer` or `X-API-Key`.
    ApiKeys,
    /// By `X-Tenant-Id` and `X-User-Id` of a trusted proxy.
    Proxy,
}

/// One API key, of which only the hash is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The visible part.
    pub id: String,
    /// The SHA-256 of the secret part, in hex.
    pub hash: String,
    /// The tenant that it speaks for.
    pub tenant: String,
    /// The user; when left out, the caller names the user in `X-User-Id`.
    pub user: Option<String>,
    /// What it may do besides: `agent` answers what is asked of agents of the tenant.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// From when on it is refused (RFC 3339).
    pub expires: Option<chrono::DateTime<chrono::Utc>>,
}

/// What the holder of a key may do besides talking for himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Answers what is asked of agents of the tenant.
    Agent,
}

/// As many as runs.
const MODEL_CALLS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(2000).unwrap();

/// `[limits]` of the settings file.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsFile {
    /// The most bytes of a request body.
    pub body_bytes: usize,
    /// The most runs that wait on one thread.
    pub thread_queue: u32,
    /// The most runs that this process works on at once.
    pub runs: usize,
    /// A run is given up when its process died so often without a superstep between; at least 3.
    pub crashes: u32,
    /// The most runs of one tenant at once, over all processes; what comes on top waits. Absent: any number.
    pub tenant_runs: Option<std::num::NonZeroU32>,
    /// The most runs of one tenant that wait for their turn; over it requests are refused.
    pub tenant_queue: u32,
    /// The most calls of models that are made at once; what comes on top waits.
    pub model_calls: std::num::NonZeroUsize,
    /// The same for each address of a provider. Absent: any number.
    pub provider_calls: Option<std::num::NonZeroUsize>,
    /// The most streams that are open at once.
    pub streams: usize,
    /// The most bytes of memory that this process may use. Absent: what its container allows, or the machine has.
    pub memory_bytes: Option<std::num::NonZeroU64>,
    /// How long a run with `on_disconnect: cancel` goes on without a reader.
    pub unread_seconds: u64,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            body_bytes: 1024 * 1024,
            thread_queue: 10,
            runs: 2000,
            crashes: 3,
            tenant_runs: None,
            tenant_queue: 1000,
            model_calls: MODEL_CALLS,
            provider_calls: None,
            streams: 5000,
            memory_bytes: None,
            unread_seconds: 10,
        }
    }
}

/// `[webhooks]` of the settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksFile {
    /// The names of the secrets that sign what is sent; each signs, so that one can be changed without a gap.
    pub secrets: Vec<String>,
}

/// `[drain]` of the settings file, all counted from the word to stop.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainFile {
    /// So long the service says that it is not ready and takes what comes, after SIGTERM.
    pub notice_seconds: u64,
    /// So long runs work on; each is given back at its next barrier.
    pub runs_seconds: u64,
    /// Then the process ends, whatever hangs.
    pub exit_seconds: u64,
}

impl Default for DrainFile {
    fn default() -> Self {
        Self { notice_seconds: 5, runs_seconds: 20, exit_seconds: 25 }
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings file `{path}`: {why}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        why: String,
    },
    /// The file does not hold settings.
    #[error("the settings file `{path}` is wrong\n{why}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        why: String,
    },
    /// A variable cannot work.
    #[error("the variable {name} cannot work: {why}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A master key is nowhere.
    #[error(
        "there is no secret `{0}`, which the settings name as a master key: it is neither a file of the secrets folder nor a variable"
    )]
    NoMasterKey(String),
}

impl File {
    /// Reads the settings file: the one named, or `graphloom.toml` when it is there.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let path = match &flags.config {
            Some(path) => path.as_path(),
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Self::default()),
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Read { path: shown.clone(), why: e.to_string() })?;
        toml::from_str(&text).map_err(|e| ConfigError::Parse { path: shown, why: e.to_string() })
    }

    /// Returns the folder of the project.
    pub fn graphs(&self, flags: &Flags) -> PathBuf {
        flags.graphs.clone().or_else(|| self.graphs.clone()).unwrap_or_else(|| DEFAULT_GRAPHS.into())
    }

    /// Returns where to listen.
    pub fn bind(&self, flags: &ServeFlags) -> SocketAddr {
        flags.bind.or(self.bind).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)))
    }

    /// Returns where threads are kept. The order: flag or GRAPHLOOM_DATABASE_URL, DATABASE_URL, file, default.
    pub fn database_url(&self, flag: &DatabaseFlag) -> String {
        self.named_database(flag).unwrap_or_else(|| DEFAULT_DATABASE.into())
    }

    /// Returns where threads are kept, when somebody said so.
    pub fn named_database(&self, flag: &DatabaseFlag) -> Option<String> {
        flag.database_url.clone().or_else(|| variable("DATABASE_URL")).or_else(|| self.database_url.clone())
    }

    /// Returns the name of this process among its replicas: the same after a restart.
    pub fn instance(&self, flags: &ServeFlags) -> String {
        flags.instance.clone().or_else(|| self.instance.clone()).unwrap_or_else(|| {
            let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
            format!("{}@{}", host.trim(), self.bind(flags))
        })
    }

    /// Says whether what changes in the project folder is served without a restart.
    pub fn watch(&self, flags: &ServeFlags) -> bool {
        flags.watch.or(self.watch).unwrap_or_default()
    }

    /// Returns the hosts that are not public and may be called all the same.
    pub fn allow_private(&self, flags: &Flags) -> Vec<Target> {
        if flags.allow_private.is_empty() { self.allow_private.clone() } else { flags.allow_private.clone() }
    }

    /// Returns the master keys by name, the one that wraps first; none: what is stored is not encrypted.
    pub fn master_keys(&self, flags: &Flags) -> Result<Vec<(String, Secret)>, ConfigError> {
        // An empty variable names nothing.
        let flagged: Vec<&String> = flags.encryption_keys.iter().filter(|name| !name.is_empty()).collect();
        let names = if flagged.is_empty() { self.encryption.keys.iter().collect() } else { flagged };
        let environment = self.environment(flags);
        let found = names.into_iter().map(|name| match environment.secret(name) {
            Some(key) => Ok((name.clone(), key)),
            None => Err(ConfigError::NoMasterKey(name.clone())),
        });
        found.collect()
    }

    /// Returns the file that tells what another program registers.
    pub fn registry(&self, flags: &Flags) -> Option<PathBuf> {
        flags.registry.clone().or_else(|| self.registry.clone())
    }

    /// Returns how secrets and settings of the environment are found.
    pub fn environment(&self, flags: &Flags) -> Environment {
        Environment { secrets_dir: flags.secrets_dir.clone().or_else(|| self.secrets_dir.clone()) }
    }
}

/// Finds something by its name.
pub type Finder<T> = Box<dyn Fn(&str) -> Option<T> + Send + Sync>;

/// Looks up secrets and the non-secret variables that a project declares.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    secrets_dir: Option<PathBuf>,
}

impl Environment {
    /// Returns a secret: the file of that name in the secrets folder, else the variable.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        let file = self.secrets_dir.as_ref().filter(|_| is_name(name)).map(|dir| dir.join(name));
        let text = file.and_then(|path| std::fs::read_to_string(path).ok()).or_else(|| variable(name))?;
        let text = text.trim_end_matches(['\n', '\r']);
        (!text.is_empty()).then(|| Secret::new(text.to_owned()))
    }
}

impl Environment {
    /// Returns who finds secrets.
    pub fn secrets(&self) -> Finder<Secret> {
        let environment = self.clone();
        Box::new(move |name| environment.secret(name))
    }

    /// Returns who finds settings: they are variables.
    pub fn settings(&self) -> Finder<String> {
        Box::new(variable)
    }
}

/// What `--help` says of traces.
pub const TRACES: &str = "Traces go to an OpenTelemetry collector when OTEL_EXPORTER_OTLP_ENDPOINT or \
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names it (http/protobuf); the other OTEL_… variables hold as everywhere.";

/// Where traces go, as the standard variables of OpenTelemetry say. Those that are not here, such as the sampler, the
/// headers and the limits of the queue, are read by the SDK, which knows their forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// The address that spans are posted to.
    pub endpoint: Url,
    /// How long the collector may take to answer.
    pub timeout: Duration,
    /// The service has a name of its own.
    pub named: bool,
    /// Whoever is called learns the trace.
    pub propagates: bool,
}

impl Traces {
    /// Reads the variables; nothing when no collector is named.
    pub fn of_environment() -> Result<Option<Self>, ConfigError> {
        Self::of(variable)
    }

    fn of(find: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let wrong = |name: &'static str, why: String| Err(ConfigError::Variable { name, why });
        let is = |name: &str, word: &str| find(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let of_traces = find("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let (name, text) = match (of_traces, find("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(text), _) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", text),
            (None, Some(text)) => ("OTEL_EXPORTER_OTLP_ENDPOINT", text),
            (None, None) => return Ok(None),
        };
        if let Some(other) = find("OTEL_TRACES_EXPORTER").filter(|other| other != "otlp") {
            return wrong("OTEL_TRACES_EXPORTER", format!("`{other}` is neither `otlp` nor `none`"));
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match find(name).as_deref() {
                Some("http/protobuf") => break,
                Some(other) => {
                    return wrong(name, format!("`{other}` is not spoken here, `http/protobuf` is"));
                }
                None => {}
            }
        }
        let Ok(mut endpoint) = egress::parse_url(&text) else {
            return wrong(name, egress::Error::Url.to_string());
        };
        if name == "OTEL_EXPORTER_OTLP_ENDPOINT"
            && let Ok(mut path) = endpoint.path_segments_mut()
        {
            path.pop_if_empty().extend(["v1", "traces"]);
        }
        let mut timeout = Duration::from_secs(10);
        for name in ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
            let Some(text) = find(name) else { continue };
            let Ok(millis) = text.parse() else {
                return wrong(name, format!("`{text}` is no number of milliseconds"));
            };
            timeout = Duration::from_millis(millis);
            break;
        }
        let attributes = find("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let named = find("OTEL_SERVICE_NAME").is_some()
            || attributes.split(',').any(|pair| pair.trim_start().starts_with("service.name="));
        Ok(Some(Self { endpoint, timeout, named, propagates: !is("OTEL_PROPAGATORS", "none") }))
    }
}

/// A name that cannot leave its folder.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Says whether a terminal is to be written to in colours.
pub fn colours() -> bool {
    variable("NO_COLOR").is_none() && variable("TERM").as_deref() != Some("dumb")
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_is_an_error_that_names_its_line() {
        let error = toml::from_str::<File>("bind = \"127.0.0.1:1\"\n[auth]\nmod = \"none\"\n").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
        assert!(error.to_string().contains("mod"), "{error}");
    }

    #[test]
    fn an_empty_variable_names_no_master_key() {
        let flags = Flags { encryption_keys: vec![String::new()], ..Flags::default() };
        assert!(File::default().master_keys(&flags).unwrap().is_empty());
        let file: File = toml::from_str("[encryption]\nkeys = [\"NO_SUCH_KEY\"]\n").unwrap();
        let error = file.master_keys(&flags).unwrap_err().to_string();
        assert!(error.contains("`NO_SUCH_KEY`"), "{error}");
    }

    #[test]
    fn a_private_host_is_named_with_its_port() {
        let file: File = toml::from_str("allow_private = [\"LOCALHOST:8000\", \"[::1]:9000\"]\n").unwrap();
        let named: Vec<String> =
            file.allow_private(&Flags::default()).iter().map(Target::to_string).collect();
        assert_eq!(named, ["localhost:8000", "[::1]:9000"]);
        let error = toml::from_str::<File>("allow_private = [\"localhost\"]\n").unwrap_err();
        assert!(error.to_string().contains("host:port"), "{error}");
    }

    #[test]
    fn traces_go_where_the_standard_variables_say() {
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let read = |set: &[(&str, &str)]| {
            Traces::of(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        let to = |set: &[(&str, &str)]| read(set).unwrap().map(|traces| traces.endpoint.to_string());
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(to(&[]), None);
        assert_eq!(to(&[(BASE, "http://collector:4318")]), at("http://collector:4318/v1/traces"));
        assert_eq!(to(&[(BASE, "https://c.example.com/otlp/")]), at("https://c.example.com/otlp/v1/traces"));
        assert_eq!(to(&[(BASE, "http://a"), (OWN, "http://b/x")]), at("http://b/x"));
        assert_eq!(to(&[(BASE, "http://a"), ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(to(&[(BASE, "http://a"), ("OTEL_TRACES_EXPORTER", "none")]), None);
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let http = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf");
        assert_eq!(to(&[(BASE, "http://a"), grpc, http]), at("http://a/v1/traces"));
        for (set, word) in [
            ([(BASE, "http://a"), grpc], "grpc"),
            ([(BASE, "http://a"), ("OTEL_TRACES_EXPORTER", "zipkin")], "zipkin"),
            ([(BASE, "collector:4318"), ("", "")], BASE),
            ([(OWN, "http://user:secret@a"), ("", "")], OWN),
            ([(OWN, "http://a"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "2s")], "2s"),
        ] {
            let error = read(&set).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{error}");
        }
        let late = ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500");
        assert_eq!(read(&[(BASE, "http://a"), late]).unwrap().unwrap().timeout, Duration::from_millis(2500));
        let named = |set: (&str, &str)| read(&[(BASE, "http://a"), set]).unwrap().unwrap().named;
        assert!(named(("OTEL_SERVICE_NAME", "desk")));
        assert!(named(("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=desk")));
        assert!(!named(("OTEL_RESOURCE_ATTRIBUTES", "a=b")));
        assert!(!read(&[(BASE, "http://a"), ("OTEL_PROPAGATORS", "none")]).unwrap().unwrap().propagates);
    }

    #[test]
    fn a_secret_is_read_from_its_file_and_its_name_cannot_leave_the_folder() {
        let dir = std::env::temp_dir().join(format!("graphloom-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(dir.join("in")).unwrap();
        std::fs::write(dir.join("in/KEY"), "s3cret\n").unwrap();
        std::fs::write(dir.join("OUT"), "no").unwrap();
        let environment = Environment { secrets_dir: Some(dir.join("in")) };
        assert_eq!(environment.secret("KEY").unwrap().expose(), "s3cret");
        assert!(environment.secret("../OUT").is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
