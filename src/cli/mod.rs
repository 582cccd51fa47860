//! The commands; one file each.
//!
//! Invariant: what a command prints for programs goes to standard output, everything else to standard error.

mod audit;
mod chat;
mod check;
mod diff;
mod encryption;
mod erase;
mod explain;
mod export;
mod keys;
mod lsp;
mod mcp;
mod preview;
mod registry;
mod reload;
mod render;
mod runs;
mod schema;
mod serve;
mod settings;
mod test;
mod threads;
mod watch;
mod webhooks;

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::app::{self, App, BuildError, Builder, Project};
use crate::case::Stage;
use crate::compile::{Catalog, Providers, compile};
use crate::config::{DatabaseFlag, File, Flags, LogFormat, ServeFlags, Traces};
use crate::diagnostic::{Bag, render_text};
use crate::store::Store;
use crate::store::seal::Masters;
use crate::tool::custom::Registry;
use crate::trace::{self, Exporter};
use crate::{egress, spec};

/// How long the last spans may take to be sent, where there is as much time.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Turns YAML graphs into a durable, streaming chat service.
#[derive(Debug, Parser)]
#[command(name = "graphloom", version, arg_required_else_help = false, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    // Without a command it serves, with these.
    #[command(flatten)]
    serve: ServeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compiles the graphs and serves them (the command when none is named)
    #[command(after_help = crate::config::TRACES)]
    Serve(ServeFlags),
    /// Finds every mistake in the graphs without starting anything
    Check(check::CheckFlags),
    /// Says what differs between two versions, and what that means for threads
    ///
    /// Comments, the order of keys, and models make no difference. Exit codes: 0 equal, 1 different, 2 trouble.
    Diff(diff::DiffFlags),
    /// Explains a code, with a wrong and a right example; or lists what expressions can use
    Explain(explain::ExplainFlags),
    /// Writes down what the tools of MCP servers are, and holds it against the servers
    Mcp(mcp::McpFlags),
    /// Prints the drawing of a graph
    Render(render::RenderFlags),
    /// Prints what a model is sent: a prompt, rendered with the values of its `sample`
    Preview(preview::PreviewFlags),
    /// Talks to a graph in the terminal, without a server
    Chat(chat::ChatFlags),
    /// Runs the cases beside the graphs, with scripts in the place of the models
    Test(test::TestFlags),
    /// Prints the OpenAPI document
    Openapi(OpenapiFlags),
    /// Prints the JSON Schemas of graphs and projects, for editors
    Schema(schema::SchemaFlags),
    /// Brings the database to this version
    Migrate(DatabaseFlag),
    /// Looks after the runs of all tenants
    Runs(runs::RunsFlags),
    /// Looks after what is told of the ends of runs
    Webhooks(webhooks::WebhooksFlags),
    /// Looks into threads, changes their state, forks them, and goes on with them
    Threads(threads::ThreadsFlags),
    /// Deletes all that there is of a tenant, or of one of its users
    Erase(erase::EraseFlags),
    /// Lists who did what to threads, runs, users and graphs, and when
    Audit(audit::AuditFlags),
    /// Looks after the encryption of what is stored
    Encryption(encryption::EncryptionFlags),
    /// Prints what this program registers for graphs, for `--registry FILE` elsewhere
    Registry,
    /// Speaks with an editor over standard input and output (Language Server Protocol)
    Lsp(lsp::LspFlags),
    /// Makes an API key and the lines for graphloom.toml
    Key(keys::KeyFlags),
}

#[derive(Debug, clap::Args)]
struct OpenapiFlags {
    /// Adds the schemas of the graphs in the project folder
    #[arg(long)]
    with_graphs: bool,
}

/// What the commands work with.
struct Host {
    flags: Flags,
    file: File,
    /// What this program registers.
    own: Registry,
    /// The same, or what a file tells of another one.
    registry: Option<Registry>,
}

/// Reads the command line and does what it says. Exit codes: 0 done, 1 errors in the graphs or at run
/// time, 2 wrong usage or a project that cannot be read.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     graphloom::cli::main()
/// }
/// ```
pub fn main() -> ExitCode {
    main_with(Registry::new())
}

/// Makes a program of your own out of graphloom: all its commands (`serve`, `check`, `test`, `chat`, …), with your functions
/// in the graphs.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use graphloom::{Context, Failure, Registry};
///
/// async fn now((): (), _: Context) -> Result<String, Failure> {
///     Ok("noon".into())
/// }
///
/// fn main() -> ExitCode {
///     graphloom::cli::main_with(Registry::new().custom("clock::now", now))
/// }
/// ```
pub fn main_with(registry: Registry) -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Some(flag) = stray(&matches, cli.command.as_ref()) {
        let why = format!("`--{}` is a flag of `serve`, not of this command", flag.replace('_', "-"));
        Cli::command().error(ErrorKind::ArgumentConflict, why).exit()
    }
    match run(cli, registry) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(if error.is::<crate::config::ConfigError>() { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli, own: Registry) -> Result<ExitCode> {
    let file = File::load(&cli.flags)?;
    let command = cli.command.unwrap_or_default().or(cli.serve);
    let exporter = match &command {
        Command::Serve(serve) => exporter(&file, serve)?,
        _ => None,
    };
    log_to_stderr(&cli.flags, &file, matches!(command, Command::Serve(_)), exporter.as_ref())?;
    let registry = registry::known(&own, &cli.flags, &file)?;
    let host = &Host { flags: cli.flags, file, own, registry };
    let file = &host.file;
    match command {
        Command::Serve(serve) => {
            let left = runtime()?.block_on(serve::serve(host, &serve))?;
            if let Some(exporter) = exporter {
                exporter.close(left.min(LAST_SPANS));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(check) => check::check(host, &check),
        Command::Diff(diff) => Ok(runtime()?.block_on(diff::diff(&diff, host))),
        Command::Explain(topic) => explain::explain(&topic),
        Command::Mcp(mcp) => runtime()?.block_on(mcp::mcp(host, &mcp)),
        Command::Render(render) => render::render(host, &render),
        Command::Preview(preview) => preview::preview(host, &preview),
        Command::Chat(chat) => runtime()?.block_on(chat::chat(host, &chat)),
        Command::Test(test) => runtime()?.block_on(test::test(host, &test)),
        Command::Openapi(openapi) => {
            let text = if openapi.with_graphs {
                let document = crate::server::openapi::document(&load(host)?.1.catalog);
                serde_json::to_string_pretty(&document)? + "\n"
            } else {
                crate::server::openapi::golden()
            };
            print(&text)
        }
        Command::Schema(schema) => schema::schema(&schema),
        Command::Migrate(database) => runtime()?.block_on(async {
            let url = file.database_url(&database);
            host.open_store(&url).await?.migrate().await.context("cannot migrate the database")?;
            print("The database is at this version.\n")
        }),
        Command::Runs(flags) => runtime()?.block_on(runs::runs(&flags, host)),
        Command::Webhooks(flags) => runtime()?.block_on(webhooks::webhooks(&flags, host)),
        Command::Threads(threads) => runtime()?.block_on(threads::threads(host, &threads)),
        Command::Erase(flags) => runtime()?.block_on(erase::erase(&flags, host)),
        Command::Audit(flags) => runtime()?.block_on(audit::audit(&flags, host)),
        Command::Encryption(flags) => runtime()?.block_on(encryption::encryption(&flags, host)),
        Command::Registry => print(&host.own.to_json()),
        Command::Lsp(lsp) => lsp::lsp(host, &lsp),
        Command::Key(key) => keys::key(&key),
    }
}

impl Default for Command {
    fn default() -> Self {
        Self::Serve(ServeFlags::default())
    }
}

impl Command {
    /// Fills in what was said before the command.
    fn or(mut self, before: ServeFlags) -> Self {
        let database = match &mut self {
            Self::Serve(serve) => {
                serve.bind = serve.bind.or(before.bind);
                serve.instance = serve.instance.take().or(before.instance);
                serve.watch = serve.watch.or(before.watch);
                &mut serve.database
            }
            Self::Chat(chat) => &mut chat.database,
            Self::Diff(diff) => &mut diff.database,
            Self::Migrate(database) => database,
            Self::Runs(runs) => &mut runs.database,
            Self::Webhooks(webhooks) => &mut webhooks.database,
            Self::Threads(threads) => &mut threads.database,
            Self::Erase(erase) => &mut erase.database,
            Self::Audit(audit) => &mut audit.database,
            Self::Encryption(encryption) => &mut encryption.database,
            _ => return self,
        };
        database.database_url = database.database_url.take().or(before.database.database_url);
        self
    }
}

/// Returns a flag of `serve` that was given before a command that does not take it.
fn stray<'a>(matches: &ArgMatches, command: Option<&Command>) -> Option<&'a str> {
    let foreign: &[&str] = match command? {
        Command::Serve(_) => &[],
        Command::Audit(_)
        | Command::Chat(_)
        | Command::Diff(_)
        | Command::Encryption(_)
        | Command::Erase(_)
        | Command::Migrate(_)
        | Command::Runs(_)
        | Command::Threads(_)
        | Command::Webhooks(_) => &["bind", "instance", "watch"],
        _ => &["bind", "instance", "watch", "database_url"],
    };
    foreign.iter().copied().find(|flag| matches.value_source(flag) == Some(ValueSource::CommandLine))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Prints to standard output; a closed pipe is no error.
fn print(text: &str) -> Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Begins to send traces, where the environment says where to.
fn exporter(file: &File, serve: &ServeFlags) -> Result<Option<Exporter>> {
    let Some(traces) = Traces::of_environment()? else { return Ok(None) };
    let settings = trace::Settings {
        endpoint: traces.endpoint,
        timeout: traces.timeout,
        service: (!traces.named).then_some("graphloom"),
        instance: file.instance(serve),
        propagates: traces.propagates,
    };
    Exporter::start(&settings).map(Some).context("cannot send traces")
}

fn log_to_stderr(flags: &Flags, file: &File, serving: bool, exporter: Option<&Exporter>) -> Result<()> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};
    let default = if serving { "info,sea_orm_migration=warn,rmcp=off" } else { "warn,rmcp=off" };
    let filter = flags.log.as_deref().or(file.log.as_deref()).unwrap_or(default);
    let filter = EnvFilter::try_new(filter).with_context(|| format!("`--log {filter}` is not a filter"))?;
    // The spans of traces would stand before each line.
    let filter = filter.add_directive(format!("{}=off", trace::TARGET).parse()?);
    // A log collector that goes away must not take the service with it.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match flags.log_format.or(file.log_format).unwrap_or_default() {
        LogFormat::Text => lines.with_ansi(coloured(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    registry().with(lines.with_filter(filter)).with(exporter.map(Exporter::layer)).init();
    Ok(())
}

/// Counts things: `no graphs`, `1 graph`, `2 graphs`.
fn count(n: usize, one: &str) -> String {
    match n {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        _ => format!("{n} {one}s"),
    }
}

impl Host {
    /// Begins a program on the project folder.
    fn builder(&self) -> Result<Builder> {
        let environment = self.file.environment(&self.flags);
        let keys = self.file.master_keys(&self.flags)?;
        let builder =
            keys.into_iter().fold(App::builder(), |builder, (name, key)| builder.encrypt(name, key));
        let limits = &self.file.limits;
        let builder = builder
            .project(self.file.graphs(&self.flags))
            .secrets(environment.secrets())
            .env(environment.settings())
            .model_calls(limits.model_calls.get(), limits.provider_calls.map(NonZeroUsize::get));
        let builder = match &self.registry {
            Some(registry) => builder.registry(registry.clone()),
            None => builder,
        };
        Ok(self.file.allow_private(&self.flags).into_iter().fold(builder, Builder::allow_private))
    }

    /// Returns the master keys that the settings name.
    fn masters(&self) -> Result<Option<Masters>> {
        app::masters(&self.file.master_keys(&self.flags)?)
            .context("the settings under [encryption] cannot work")
    }

    /// Opens the store that a URL names.
    async fn open_store(&self, url: &str) -> Result<Arc<dyn Store>> {
        app::open_store(url, self.masters()?).await.context("cannot open the database")
    }

    /// Opens the store that a URL names, to look at it.
    async fn open_to_read(&self, url: &str) -> Result<Arc<dyn Store>> {
        self.open_store(&to_read(url)).await
    }

    /// Gives what builds models the settings of the environment.
    fn set_up(&self, providers: Providers) -> Providers {
        providers
            .with_settings(self.file.environment(&self.flags).settings())
            .with_private(self.file.allow_private(&self.flags))
            .with_registry(self.registry.clone())
    }

    /// Compiles the project folder to look at, also where secrets are missing.
    fn look(&self) -> Result<Catalog> {
        read(&self.file.graphs(&self.flags), &self.lenient()?)
    }

    /// Puts a stage in the place of all that the project calls.
    fn scripted(&self, stage: &Stage) -> Result<Providers, egress::Error> {
        Ok(Providers::stand_in(Arc::new(stage.clone()))?
            .with_caller(Arc::new(stage.clone()))
            .with_function(Arc::new(stage.clone()))
            .with_registry(self.registry.clone()))
    }

    /// Builds models to look at, not to call.
    fn lenient(&self) -> Result<Providers, egress::Error> {
        let environment = self.file.environment(&self.flags);
        Ok(self.set_up(Providers::lenient(environment.secrets())?))
    }
}

/// Says whether a stream is written to in colours.
fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && crate::config::colours()
}

/// Compiles the project folder; prints the findings and fails when there are errors.
fn load(host: &Host) -> Result<(Builder, Project)> {
    let mut builder = host.builder()?;
    let told = |findings: &app::Findings| {
        let text = findings.render(coloured(&std::io::stderr()));
        std::io::stderr().write_all(text.as_bytes())
    };
    match builder.compile() {
        Ok(project) => {
            told(&project.findings)?;
            Ok((builder, project))
        }
        Err(BuildError::Findings(findings)) => {
            told(&findings)?;
            bail!("the graphs in `{}` have errors", host.file.graphs(&host.flags).display())
        }
        Err(error) => Err(error.into()),
    }
}

/// Compiles a folder to look at, and says what is wrong. Tests are no part of what runs.
fn read(folder: &Path, providers: &Providers) -> Result<Catalog> {
    let mut bag = Bag::default();
    let loaded = spec::load(folder, &mut bag);
    bag.forget(&format!("{}/tests/", folder.display().to_string().trim_end_matches('/')));
    let catalog = loaded.and_then(|mut loaded| {
        loaded.tests.clear();
        compile(&loaded, providers, &mut bag)
    });
    catalog.ok_or_else(|| {
        bag.sort();
        bag.drop_lints();
        anyhow!("the graphs in `{}` have errors\n{}", folder.display(), render_text(&bag, false).trim_end())
    })
}

/// Returns the URL for somebody who only looks: a SQLite file is left to the process that has it, and not made.
fn to_read(url: &str) -> Cow<'_, str> {
    let file = url
        .strip_prefix("sqlite:")
        .filter(|rest| !rest.contains(":memory:") && !rest.contains("mode=memory"));
    match file.map(|rest| rest.split('?').next().unwrap_or(rest)) {
        Some(file) => format!("sqlite:{file}?mode=ro").into(),
        None => url.into(),
    }
}
