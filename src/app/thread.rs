//! A conversation, and what is said in it.

use serde_json::{Map, Value as Json};

use super::Turn;
use crate::engine::step::Reply;
use crate::engine::{
    AnswerError, Answered, Answerer, Breakpoints, Engine, Resume, Said, Start, StartError, ThreadView, Wishes,
};
use crate::event::Interrupt;
use crate::id::{InterruptId, Owner, ThreadKey};
use crate::store::{OnBusy, StoreError};

/// A conversation of a user with a graph. It belongs to the graph that it begins with.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let thread = app.thread("acme", "ada", "desk")?;
/// thread.start("chat", "Hello!").await?.finish().await?;
/// thread.start("chat", "Are you there?").await?.finish().await?;
/// let view = thread.view().await?.expect("it was talked in");
/// assert_eq!(view.messages.len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Thread {
    engine: Engine,
    key: ThreadKey,
}

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
    message: Option<Json>,
    input: Map<String, Json>,
    on_busy: OnBusy,
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
    /// use graphloom::store::OnBusy;
    ///
    /// let instead = graphloom::Request::from("No, wait!").on_busy(OnBusy::Interrupt);
    /// ```
    #[must_use]
    pub fn on_busy(self, on_busy: OnBusy) -> Self {
        Self { on_busy, ..self }
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

impl Thread {
    pub(super) fn new(engine: Engine, key: ThreadKey) -> Self {
        Self { engine, key }
    }

    /// Returns whose it is.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// assert_eq!(app.thread("acme", "ada", "desk")?.owner().user.as_str(), "ada");
    /// # Ok(())
    /// # }
    /// ```
    pub fn owner(&self) -> &Owner {
        &self.key.owner
    }

    /// Runs a graph on the thread. When this returns, the run survives a crash, and goes on whether it is read or not. Where
    /// the thread waits for an answer of its user, a message is the answer.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
    /// assert_eq!(turn.finish().await?.reply(), Some("Hi"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(&self, graph: &str, request: impl Into<Request>) -> Result<Turn, StartError> {
        let Request { message, input, on_busy } = request.into();
        let session = self.key.session.clone();
        let start = Start {
            graph: graph.to_owned(),
            session,
            message,
            input,
            on_busy,
            durability: None,
            breakpoints: Breakpoints::default(),
            delay: None,
            wishes: Wishes::default(),
            idempotency: None,
        };
        let started = self.engine.start(&self.key.owner, start).await?;
        Ok(Turn::new(&self.engine, &self.key.owner, &started.run, started.after))
    }

    /// Lists the open questions, oldest first.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: ask, question: Sure?, options: [y, n], next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Delete it").await?.finish().await?;
    /// assert_eq!(thread.questions().await?[0].options, ["y", "n"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn questions(&self) -> Result<Vec<Interrupt>, StoreError> {
        let open = self.engine.interrupts(&self.key).await?;
        Ok(open.into_iter().map(|asked| asked.interrupt).collect())
    }

    /// Answers an open question, whoever was asked: this program stands for both. The run goes on when it waits for
    /// nothing else.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes:\n  a: {kind: ask, question: Sure?, next: b}\n  b: {kind: say, text: Done, next: end}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// let waits = thread.start("chat", "Delete it").await?.finish().await?;
    /// let turn = thread.answer(&waits.interrupts[0].interrupt_id, "yes").await?;
    /// assert_eq!(turn.finish().await?.reply(), Some("Done"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn answer(&self, question: &str, value: impl Into<Json>) -> Result<Turn, AnswerError> {
        self.say(question, Reply::Answer(value.into())).await
    }

    /// Closes an open question without an answer: the node that asks fails with the kind `dismissed`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: ask, question: Sure?, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// let waits = thread.start("chat", "Delete it").await?.finish().await?;
    /// let finished = thread.dismiss(&waits.interrupts[0].interrupt_id).await?.finish().await?;
    /// assert_eq!(finished.error.expect("nobody catches it").code, "dismissed");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dismiss(&self, question: &str) -> Result<Turn, AnswerError> {
        self.say(question, Reply::Dismissed).await
    }

    async fn say(&self, question: &str, reply: Reply) -> Result<Turn, AnswerError> {
        let who = Answerer { owner: self.key.owner.clone(), agent: true };
        let replies = vec![(InterruptId(question.into()), reply)];
        let said = Said { thread: Some(self.key.clone()), ..replies.into() };
        Ok(self.turn(&self.engine.answer(&who, said).await?))
    }

    /// Goes on with the newest run where it failed, or stopped at a breakpoint. What its finished nodes did is kept.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// assert!(thread.resume().await.is_err(), "it came to its end");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resume(&self) -> Result<Turn, AnswerError> {
        Ok(self.turn(&self.engine.resume(&self.key, Resume::default()).await?))
    }

    fn turn(&self, answered: &Answered) -> Turn {
        Turn::new(&self.engine, &self.key.owner, &answered.run, answered.after)
    }

    /// Reads the conversation and the public state; nothing where nothing was said yet.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// assert!(thread.view().await?.is_none());
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// let view = thread.view().await?.expect("it was talked in");
    /// assert_eq!(view.messages[1]["content"], "Hi");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn view(&self) -> Result<Option<ThreadView>, StoreError> {
        self.engine.view(&self.key, None).await
    }

    /// Deletes the thread with all that hangs on it; false when there was none.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// assert!(thread.delete().await?);
    /// assert!(thread.view().await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self) -> Result<bool, StoreError> {
        self.engine.delete_thread(&self.key).await
    }
}
