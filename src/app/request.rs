//! What is asked of a thread: to run a graph, to go on, to be changed, to be forked.

use serde_json::{Map, Value as Json};

use crate::engine::{self, Breakpoints, Terms};
use crate::id::{CheckpointId, Part};
use crate::plan::Durability;
use crate::store::OnBusy;

/// What a run begins with: a message of the user, inputs, or both.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use graphloom::Request;
///
/// let text = "
/// format: 1
/// input: {n: integer}
/// state: {double: integer?}
/// output: {double: state.double}
/// start: work
/// nodes:
///   work: {kind: set, set: {double: input.n * 2}, next: end}
/// ";
/// let app = graphloom::App::builder().file("double.yaml", text).build().await?;
/// let thread = app.thread("acme", "ada", "sums")?;
/// let finished = thread.start("double", Request::new().input("n", 21)).await?.finish().await?;
/// assert_eq!(finished.output.expect("it has an output")["double"], 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub(super) message: Option<Json>,
    pub(super) input: Map<String, Json>,
    pub(super) on_busy: OnBusy,
    pub(super) durability: Option<Durability>,
    pub(super) breakpoints: Breakpoints,
}

impl Request {
    /// Makes one without a message and without inputs.
    ///
    /// ```
    /// let nothing = graphloom::Request::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says something: a text, or a list of parts. A text alone is a request, too: `thread.start("chat", "Hello!")`.
    ///
    /// ```
    /// let hello = graphloom::Request::new().message("Hello!");
    /// ```
    #[must_use]
    pub fn message(self, message: impl Into<Json>) -> Self {
        Self { message: Some(message.into()), ..self }
    }

    /// Gives an input of the graph a value.
    ///
    /// ```
    /// let hello = graphloom::Request::from("Where is it?").input("order", "A-17");
    /// ```
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.input.insert(name.into(), value.into());
        self
    }

    /// Says what to do while the thread has a run that is not over: wait for its turn (as it is unless said), be refused, or
    /// end what came before.
    ///
    /// ```
    /// use graphloom::OnBusy;
    ///
    /// let instead = graphloom::Request::from("No, wait!").on_busy(OnBusy::Interrupt);
    /// ```
    #[must_use]
    pub fn on_busy(self, on_busy: OnBusy) -> Self {
        Self { on_busy, ..self }
    }

    /// Says when the supersteps of the run are stored; unless said, as the graph says.
    ///
    /// ```
    /// use graphloom::{Durability, Request};
    ///
    /// let fast = Request::from("Hello!").durability(Durability::Exit);
    /// ```
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self { durability: Some(durability), ..self }
    }

    /// Stops the run before each of these nodes begins, to be looked at, changed, or [resumed](super::Thread::resume): a node
    /// by its name, one of a called graph as `caller/node`, or `*` for every node.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// use graphloom::{Request, RunStatus};
    ///
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// let hello = Request::from("Hello!").interrupt_before(["a"]);
    /// assert_eq!(thread.start("chat", hello).await?.finish().await?.status, RunStatus::Interrupted);
    /// assert_eq!(thread.resume().await?.finish().await?.reply(), Some("Hi"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn interrupt_before(mut self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.breakpoints.before = nodes.into_iter().map(Into::into).collect();
        self
    }

    /// The same after each of these nodes ended.
    ///
    /// ```
    /// let watched = graphloom::Request::from("Hello!").interrupt_after(["triage", "lookup/fetch"]);
    /// ```
    #[must_use]
    pub fn interrupt_after(mut self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.breakpoints.after = nodes.into_iter().map(Into::into).collect();
        self
    }
}

impl From<&str> for Request {
    fn from(message: &str) -> Self {
        Self::new().message(message)
    }
}

impl From<String> for Request {
    fn from(message: String) -> Self {
        Self::new().message(message)
    }
}

/// What a run is told anew when it goes on; what is not said stays as it was told before.
///
/// ```
/// // To the end, whatever breakpoints there were.
/// let on = graphloom::Resume::new().interrupt_before([""; 0]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Resume {
    pub(super) terms: Terms,
}

impl Resume {
    /// Makes one that tells nothing anew.
    ///
    /// ```
    /// let on = graphloom::Resume::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says when its supersteps are stored from here on.
    ///
    /// ```
    /// use graphloom::{Durability, Resume};
    ///
    /// let on = Resume::new().durability(Durability::Sync);
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.terms.durability = Some(durability);
        self
    }

    /// Says before which nodes it stops from here on, in the place of all breakpoints that it had; see
    /// [`Request::interrupt_before`].
    ///
    /// ```
    /// let on = graphloom::Resume::new().interrupt_before(["pay"]);
    /// ```
    #[must_use]
    pub fn interrupt_before(mut self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.terms.breakpoints.get_or_insert_default().before = nodes.into_iter().map(Into::into).collect();
        self
    }

    /// The same after nodes ended.
    ///
    /// ```
    /// let on = graphloom::Resume::new().interrupt_before(["pay"]).interrupt_after(["triage"]);
    /// ```
    #[must_use]
    pub fn interrupt_after(mut self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.terms.breakpoints.get_or_insert_default().after = nodes.into_iter().map(Into::into).collect();
        self
    }
}

/// A change of a thread's state in the name of a node, for [`Thread::update`](super::Thread::update). This program stands for
/// agents, too.
///
/// ```
/// use graphloom::Update;
///
/// let settled = Update::as_node("triage").value("queue", "orders").value("urgent", true);
/// ```
#[derive(Debug, Clone)]
pub struct Update(pub(super) engine::Update);

impl Update {
    /// Makes one that writes nothing, in the name of a node, of `start` or of `end`: what runs next follows from it.
    ///
    /// ```
    /// // Nothing goes on from here.
    /// let over = graphloom::Update::as_node("end");
    /// ```
    #[must_use]
    pub fn as_node(node: impl Into<String>) -> Self {
        Self(engine::Update { as_node: node.into(), agent: true, ..engine::Update::default() })
    }

    /// Writes to a channel; the value joins it as one that the node writes.
    ///
    /// ```
    /// let settled = graphloom::Update::as_node("triage").value("queue", "orders");
    /// ```
    #[must_use]
    pub fn value(mut self, channel: impl Into<String>, value: impl Into<Json>) -> Self {
        self.0.values.insert(channel.into(), value.into());
        self
    }

    /// Changes a graph that was called and waits, by the nodes that called it: `name`, or `name[ITEM]` for an item of a list.
    ///
    /// ```
    /// let inner = graphloom::Update::as_node("ask").path(["each[1]"]).value("said", "yes");
    /// ```
    #[must_use]
    pub fn path(mut self, callers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.path = callers.into_iter().map(Into::into).collect();
        self
    }

    /// Lets channels that are private be written, too.
    ///
    /// ```
    /// let told = graphloom::Update::as_node("triage").private().value("score", 3);
    /// ```
    #[must_use]
    pub fn private(mut self) -> Self {
        self.0.private = true;
        self
    }
}

/// The wish for a thread that goes on from a checkpoint of another one, for [`Thread::fork`](super::Thread::fork).
///
/// ```
/// use graphloom::Fork;
///
/// let fork = Fork::new().session("what-if".parse()?);
/// # Ok::<(), graphloom::PartError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Fork(pub(super) engine::Fork);

impl Default for Fork {
    fn default() -> Self {
        Self(engine::Fork { agent: true, ..engine::Fork::default() })
    }
}

impl Fork {
    /// Makes one at the head, whose session gets a name of its own.
    ///
    /// ```
    /// let fork = graphloom::Fork::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the session; one that is there already is [`StartError::Exists`](crate::StartError::Exists).
    ///
    /// ```
    /// let fork = graphloom::Fork::new().session("what-if".parse()?);
    /// # Ok::<(), graphloom::PartError>(())
    /// ```
    #[must_use]
    pub fn session(mut self, session: Part) -> Self {
        self.0.session = Some(session);
        self
    }

    /// Goes on from this checkpoint of the [history](super::Thread::history).
    ///
    /// ```
    /// fn again(point: &graphloom::CheckpointView) -> graphloom::Fork {
    ///     graphloom::Fork::new().checkpoint(point.checkpoint)
    /// }
    /// ```
    #[must_use]
    pub fn checkpoint(mut self, checkpoint: CheckpointId) -> Self {
        self.0.checkpoint = Some(checkpoint);
        self
    }
}
