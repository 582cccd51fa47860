//! What keeps a program from being built.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::diagnostic::{Bag, render_json, render_text};
use crate::egress;
use crate::store::StoreError;

/// Why a program cannot be built.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use graphloom::{App, BuildError};
///
/// let text = "
/// format: 1
/// state: {messages: messages}
/// start: greet
/// nodes:
///   greet: {kind: say, text: Hello!, next: anwser}
/// ";
/// match App::builder().file("chat.yaml", text).build().await {
///     Err(BuildError::Findings(findings)) => {
///         assert!(findings.to_string().starts_with("error[G201]: unknown node `anwser`"));
///     }
///     _ => panic!("there is no such node"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The graphs have errors.
    #[error("the graphs have errors\n\n{0}")]
    Findings(Findings),
    /// There is nothing to run.
    #[error("there is no graph in `{}`", .0.display())]
    Empty(PathBuf),
    /// The HTTP client cannot be made.
    #[error("no requests can be sent: {0}")]
    Client(egress::Error),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(StoreError),
}

// They say in their own words what is beneath, so they do not hand it on as their source, too.
impl From<egress::Error> for BuildError {
    fn from(error: egress::Error) -> Self {
        Self::Client(error)
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What was found in a project, sorted by file and place. It prints as `graphloom check` does.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let findings = app.findings();
/// assert!(findings.is_empty());
/// assert_eq!(findings.to_json()["summary"]["errors"], 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Findings(pub(super) Box<Bag>);

impl Findings {
    /// Says whether there is none.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// assert!(app.findings().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what `graphloom check --format json` prints.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// assert_eq!(app.findings().to_json()["findings"].as_array().map(Vec::len), Some(0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_json(&self) -> Json {
        render_json(&self.0)
    }

    /// Returns a bag for further findings in the same files.
    pub(crate) fn sources(&self) -> Bag {
        self.0.emptied()
    }

    /// Writes them for people, with colours where they are shown.
    pub(crate) fn render(&self, color: bool) -> String {
        render_text(&self.0, color)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
