//! graphloom inside a program of your own: a project, a store and an engine on it.
//!
//! Invariant: there is no second path: what is here is the engine that the service runs, and the service is made with it.

mod builder;
mod error;
mod request;
mod thread;
mod turn;

use std::time::Duration;

use futures_util::stream;

use crate::engine::Engine;
use crate::id::{Owner, PartError, RunId, ThreadKey};
use crate::server::{ServeError, Server, Settings, Word};
use crate::store::{RunState, StoreError};

pub use builder::Builder;
pub(crate) use builder::{Project, Seen, masters, open_store, seen};
pub use error::{BuildError, Findings};
pub use request::{Fork, Request, Resume, Update};
pub use thread::Thread;
pub use turn::Turn;

/// A project that runs in this program. Clones are the same one.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use graphloom::{App, Body};
///
/// let app = App::builder()
///     .file(
///         "chat.yaml",
///         r#"
///           format: 1
///           state: {messages: messages}
///           start: greet
///           nodes:
///             greet: {kind: say, text: "Hello, {{ run.user_text }}!", next: end}
///         "#,
///     )
///     .build()
///     .await?;
/// let thread = app.thread("acme", "ada", "desk")?;
/// let mut turn = thread.start("chat", "Ada").await?;
/// let mut said = String::new();
/// while let Some(event) = turn.next().await {
///     if let Body::MessageDelta { delta, .. } = event?.body {
///         said += &delta;
///     }
/// }
/// assert_eq!(said, "Hello, Ada!");
/// app.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct App {
    engine: Engine,
    findings: std::sync::Arc<Findings>,
}

/// How long runs may work on at [`App::close`], each to its next barrier.
const WORK: Duration = Duration::from_secs(20);
/// When [`App::close`] gives up.
const GRACE: Duration = Duration::from_secs(25);

impl App {
    /// Begins to say what the program is made of.
    ///
    /// ```no_run
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = graphloom::App::builder()
    ///     .project("graphs")
    ///     .secrets(|name| std::env::var(name).ok())
    ///     .store("postgres://graphloom@localhost/graphloom")
    ///     .instance("orders-1")
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns a conversation: nothing is stored before something is said in it. The three names are identities that this
    /// program vouches for; what belongs to others cannot be reached by them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada@example.com", "desk")?;
    /// assert!(app.thread("acme", "a:b", "desk").is_err(), "a colon parts the names of threads");
    /// # Ok(())
    /// # }
    /// ```
    pub fn thread(&self, tenant: &str, user: &str, session: &str) -> Result<Thread, PartError> {
        let owner = Owner { tenant: tenant.parse()?, user: user.parse()? };
        Ok(Thread::new(self.engine.clone(), ThreadKey { owner, session: session.parse()? }))
    }

    /// Asks for the end of a run, and returns where it stands now; nothing when this owner has no such run. Its calls under
    /// way are dropped.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: ask, question: Sure?, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// use graphloom::{RunState, RunStatus};
    ///
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// let waits = thread.start("chat", "Delete it").await?.finish().await?;
    /// assert_eq!(waits.status, RunStatus::Interrupted);
    /// assert_eq!(app.cancel(thread.owner(), waits.run).await?, Some(RunState::Cancelled));
    /// assert!(thread.questions().await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&self, owner: &Owner, run: RunId) -> Result<Option<RunState>, StoreError> {
        Ok(self.engine.cancel(owner, run).await?.map(|run| run.state))
    }

    /// Returns the warnings of the project.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages, n: integer?}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// assert!(app.findings().to_string().contains("warning[S405]"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Returns the engine, for what is not here: lists of threads, what is asked of agents, reloads. It is no part of the
    /// interface.
    #[doc(hidden)]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves the graphs over HTTP as the `graphloom` command does, until `stop` says how to stop; then drains and
    /// closes.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// use graphloom::{Auth, Settings, Word};
    ///
    /// let settings = Settings::new("127.0.0.1:0".parse()?, Auth::None);
    /// # let stop = async { Word::Interrupt };
    /// # #[cfg(any())]
    /// let stop = async {
    ///     tokio::signal::ctrl_c().await.ok();
    ///     Word::Interrupt
    /// };
    /// app.serve(settings, stop).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve(
        &self,
        settings: Settings,
        stop: impl Future<Output = Word> + Send,
    ) -> Result<(), ServeError> {
        let server = Server::bind(settings).await?;
        server.run(self.engine.clone(), Box::pin(stream::once(stop))).await;
        Ok(())
    }

    /// Takes no more work, and gives the runs under way back to the store, each at its next barrier: whoever opens it
    /// next goes on with them. Returns when that is done, after 30 seconds at the latest. A SQLite file is given back when the
    /// last of this, its threads and its turns is dropped.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// app.close().await;
    /// assert!(app.thread("acme", "ada", "desk")?.start("chat", "Hi").await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) {
        self.engine.close(WORK, GRACE).await;
    }
}
