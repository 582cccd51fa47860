//! From what a program says of itself to a program that runs.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{App, BuildError, Findings};
use crate::compile::{Catalog, Providers, compile};
use crate::diagnostic::Bag;
use crate::egress::{Secret, Target};
use crate::engine::{Engine, Settings};
use crate::failure::Failure;
use crate::model::slots::Slots;
use crate::spec::{self, Files, Folder};
use crate::store::memory::MemoryStore;
use crate::store::seal::{self, Masters};
use crate::store::sql::SqlStore;
use crate::store::{Store, StoreError};
use crate::tool::custom::{Context, Function, Registry};

/// Finds something by its name.
type Finder<T> = Box<dyn Fn(&str) -> Option<T> + Send + Sync>;

/// Says what a program is made of. What is not said: no secrets, a store in memory, nothing registered.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use graphloom::{App, Context, Failure};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Order {
///     order: String,
/// }
///
/// async fn find(args: Order, _: Context) -> Result<String, Failure> {
///     Ok(format!("{} is on its way", args.order))
/// }
///
/// let app = App::builder()
///     .file(
///         "desk.yaml",
///         "
///           format: 1
///           state: {messages: messages, where: string?}
///           start: find
///           nodes:
///             find: {kind: custom, use: 'orders::find', with: {order: run.user_text}, into: where, next: tell}
///             tell: {kind: say, text: \"{{ state.where | default('?') }}\", next: end}
///         ",
///     )
///     .custom("orders::find", find)
///     .build()
///     .await?;
/// let turn = app.thread("acme", "ada", "desk")?.start("desk", "A-17").await?;
/// assert_eq!(turn.finish().await?.reply(), Some("A-17 is on its way"));
/// # Ok(())
/// # }
/// ```
#[must_use]
#[derive(Default)]
pub struct Builder {
    folder: Option<PathBuf>,
    files: Files,
    secrets: Option<Finder<Secret>>,
    env: Option<Finder<String>>,
    private: Vec<Target>,
    store: Option<String>,
    masters: Vec<(String, Secret)>,
    registry: Option<Registry>,
    slots: Option<Slots>,
    engine: Option<Settings>,
}

/// Stands for the files of a project, and for what is wrong with the folder itself.
pub(crate) type Seen = [u8; 32];

/// A project that can be run.
pub(crate) struct Project {
    pub(crate) catalog: Catalog,
    pub(crate) providers: Providers,
    /// Its warnings.
    pub(crate) findings: Findings,
    /// Stands for what it was compiled from.
    pub(crate) seen: Seen,
}

impl Builder {
    /// Takes the project of a folder: `project.yaml`, graphs, prompts.
    ///
    /// ```no_run
    /// let builder = graphloom::App::builder().project("graphs");
    /// ```
    pub fn project(self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..self }
    }

    /// Adds a file of the project, by its path within the folder; it takes the place of one on the disk. Without a folder the
    /// project is made of such files alone.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = graphloom::App::builder()
    ///     .file("project.yaml", "format: 1\nmodels: {demo: {provider: demo}}\ndefault_model: demo")
    ///     .file("prompts/greet.md", "Greet the user.")
    ///     .file(
    ///         "chat.yaml",
    ///         "
    ///           format: 1
    ///           state: {messages: messages}
    ///           start: greet
    ///           nodes:
    ///             greet: {kind: llm, prompt: greet, reply: true, next: end}
    ///         ",
    ///     )
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn file(mut self, path: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.insert(path.into(), text.into().into_bytes());
        self
    }

    /// Says where the secrets of the project come from. One that is missing is an error of [`build`](Self::build).
    ///
    /// ```
    /// let builder = graphloom::App::builder().secrets(|name| std::env::var(name).ok());
    /// ```
    pub fn secrets<S: Into<Secret>>(self, find: impl Fn(&str) -> Option<S> + Send + Sync + 'static) -> Self {
        Self { secrets: Some(Box::new(move |name| find(name).map(Into::into))), ..self }
    }

    /// Says where the settings come from that a project declares under `env`.
    ///
    /// ```
    /// let builder = graphloom::App::builder()
    ///     .env(|name| (name == "SHOP_URL").then(|| "https://shop.example.com".to_owned()));
    /// ```
    pub fn env(self, find: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { env: Some(Box::new(find)), ..self }
    }

    /// Lets nodes and tools send requests to a host that is not public, named with its port.
    ///
    /// ```
    /// let builder = graphloom::App::builder().allow_private("localhost:8000".parse()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_private(mut self, target: Target) -> Self {
        self.private.push(target);
        self
    }

    /// Says where threads are kept: `postgres://…`, `sqlite://FILE?mode=rwc`, or `memory:`, which is where they are unless
    /// something else is said. The database is brought to this version.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// let app = graphloom::App::builder().file("chat.yaml", text).store("sqlite::memory:").build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn store(self, url: impl Into<String>) -> Self {
        Self { store: Some(url.into()), ..self }
    }

    /// Encrypts what is stored, under a master key of 32 bytes in base64 that has a name of its own. Said again, it names an
    /// older one, which what was stored before may still need. A store in memory keeps nothing that could be read later, so
    /// there it makes no difference.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// let key = "oIOAbGZDzjFrcyCjuQ9TKqbAZG5pBZgK6FTrNjT8lPU=";
    /// let app = graphloom::App::builder()
    ///     .file("chat.yaml", text)
    ///     .store("sqlite::memory:")
    ///     .encrypt("MASTER_2026", key)
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn encrypt(mut self, name: impl Into<String>, key: impl Into<Secret>) -> Self {
        self.masters.push((name.into(), key.into()));
        self
    }

    /// Names the process among its replicas: one that is started again under the same name finds its own runs at once. Two
    /// that work at the same time must not have one name. Without a name its runs are found when their lease is over,
    /// after 15 seconds.
    ///
    /// ```
    /// let builder = graphloom::App::builder().instance("orders-1");
    /// ```
    pub fn instance(self, name: impl Into<String>) -> Self {
        self.engine(Settings::new(name.into()))
    }

    /// Bounds how many calls of models are made at once, in all and to each address of a provider; what comes on top waits.
    /// Without it any number is made.
    ///
    /// ```
    /// let builder = graphloom::App::builder().model_calls(200, Some(50));
    /// ```
    pub fn model_calls(self, all: usize, each: Option<usize>) -> Self {
        Self { slots: Some(Slots::new(all, each)), ..self }
    }

    pub(crate) fn engine(self, settings: Settings) -> Self {
        Self { engine: Some(settings), ..self }
    }

    /// Registers a function for tools (`custom: NAME`) and nodes (`kind: custom, use: NAME`); see [`Registry::custom`].
    ///
    /// ```
    /// use graphloom::{Context, Failure};
    ///
    /// async fn now((): (), _: Context) -> Result<String, Failure> {
    ///     Ok("noon".into())
    /// }
    /// let builder = graphloom::App::builder().custom("clock::now", now);
    /// ```
    pub fn custom<A, T, E, F, Fut>(mut self, name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned + JsonSchema + 'static,
        T: Serialize + JsonSchema + 'static,
        E: Into<Failure>,
        F: Fn(A, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.registry = Some(self.registry.unwrap_or_default().custom(name, function));
        self
    }

    /// Registers a value that is a [`Function`], under the name that its type has; see [`Registry::function`].
    ///
    /// ```
    /// use graphloom::{Context, Failure, Function};
    ///
    /// struct Now;
    ///
    /// impl Function for Now {
    ///     const NAME: &'static str = "clock::now";
    ///     type Args = ();
    ///     type Output = String;
    ///
    ///     async fn call(&self, (): (), _: Context) -> Result<String, Failure> {
    ///         Ok("noon".into())
    ///     }
    /// }
    /// let builder = graphloom::App::builder().function(Now);
    /// ```
    pub fn function(mut self, function: impl Function) -> Self {
        self.registry = Some(self.registry.unwrap_or_default().function(function));
        self
    }

    /// Takes all that a registry holds, in the place of what was registered before.
    ///
    /// ```
    /// let builder = graphloom::App::builder().registry(graphloom::Registry::new());
    /// ```
    pub fn registry(self, registry: Registry) -> Self {
        Self { registry: Some(registry), ..self }
    }

    /// Compiles the project, opens the store and begins to take runs.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() {
    /// let nothing = graphloom::App::builder().build().await;
    /// assert!(matches!(nothing, Err(graphloom::BuildError::Empty(_))));
    /// # }
    /// ```
    pub async fn build(mut self) -> Result<App, BuildError> {
        let project = self.compile()?;
        self.open(project).await
    }

    /// Compiles the project. What it needs for that is taken out.
    pub(crate) fn compile(&mut self) -> Result<Project, BuildError> {
        let secrets = self.secrets.take().unwrap_or_else(|| Box::new(|_| None));
        let providers = Providers::new(secrets)?
            .with_settings(self.env.take().unwrap_or_else(|| Box::new(|_| None)))
            .with_private(std::mem::take(&mut self.private))
            .with_registry(self.registry.take());
        let providers = match self.slots.take() {
            Some(slots) => providers.with_slots(slots),
            None => providers,
        };
        let files = std::mem::take(&mut self.files);
        let mut bag = Bag::default();
        let folder = match &self.folder {
            Some(folder) => spec::load_over(folder, files, &mut bag),
            None => Some(spec::load_files("", files, &mut bag)),
        };
        let seen = seen(folder.as_ref(), &bag);
        let catalog = folder.and_then(|folder| compile(&folder, &providers, &mut bag));
        bag.sort();
        bag.drop_lints();
        let findings = Findings(Box::new(bag));
        match catalog {
            Some(catalog) if catalog.graphs.is_empty() => {
                Err(BuildError::Empty(self.folder.clone().unwrap_or_default()))
            }
            Some(catalog) => Ok(Project { catalog, providers, findings, seen }),
            None => Err(BuildError::Findings(findings)),
        }
    }

    /// Opens the store, and an engine on it.
    pub(crate) async fn open(self, project: Project) -> Result<App, BuildError> {
        project.providers.prepare()?;
        let store = open_store(self.store.as_deref().unwrap_or(MEMORY), masters(&self.masters)?).await?;
        store.migrate().await?;
        let settings = self.engine.unwrap_or_else(|| Settings::new(Uuid::now_v7().to_string()));
        let engine = Engine::open(store, project.catalog, project.providers, settings).await?;
        Ok(App { engine, findings: Arc::new(project.findings) })
    }
}

/// Names the store that is nowhere.
const MEMORY: &str = "memory:";

/// Opens the store that a URL names; with master keys, what is stored there is encrypted. The memory is no place to be read
/// later, so there is nothing to do for it.
pub(crate) async fn open_store(url: &str, masters: Option<Masters>) -> Result<Arc<dyn Store>, StoreError> {
    if url == MEMORY {
        return Ok(Arc::new(MemoryStore::new()));
    }
    seal::over(SqlStore::connect(url).await?, masters).await
}

/// Makes master keys of what the settings say; nothing when they say none.
pub(crate) fn masters(keys: &[(String, Secret)]) -> Result<Option<Masters>, StoreError> {
    if keys.is_empty() {
        return Ok(None);
    }
    Masters::new(keys.iter().map(|(name, key)| (name.as_str(), key.expose()))).map(Some)
}

/// Returns what stands for a project as it was read. A file that is not read is known by its finding.
pub(crate) fn seen(project: Option<&Folder>, read: &Bag) -> Seen {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    for (path, content) in project.iter().flat_map(|project| &project.files) {
        part(path.as_bytes());
        part(content);
    }
    for finding in read.findings() {
        part(finding.message.as_bytes());
    }
    digest.finalize().into()
}
