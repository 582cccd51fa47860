//! A conversation: what is said in it, its past, and other ways that it could go.

use serde_json::Value as Json;

use super::{Fork, Request, Resume, Turn, Update};
use crate::engine::step::Reply;
use crate::engine::{
    self, AnswerError, Answered, Answerer, CheckpointView, Engine, Said, Start, StartError, ThreadView,
    Wishes,
};
use crate::event::Interrupt;
use crate::id::{CheckpointId, InterruptId, Owner, Part, RunId, ThreadKey};
use crate::store::StoreError;

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

impl Thread {
    pub(super) fn new(engine: Engine, key: ThreadKey) -> Self {
        Self { engine, key }
    }

    /// Returns the conversation's name.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// assert_eq!(app.thread("acme", "ada", "desk")?.session().as_str(), "desk");
    /// # Ok(())
    /// # }
    /// ```
    pub fn session(&self) -> &Part {
        &self.key.session
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
        let Request { message, input, on_busy, durability, breakpoints } = request.into();
        let session = self.key.session.clone();
        let start = Start {
            graph: graph.to_owned(),
            session,
            message,
            input,
            on_busy,
            durability,
            breakpoints,
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
        self.resume_with(Resume::new()).await
    }

    /// The same, and tells the run anew where to stop, or when its supersteps are stored.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: b}, b: {kind: say, text: Bye, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// use graphloom::{Request, Resume, RunStatus};
    ///
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// let hello = Request::from("Hello!").interrupt_before(["*"]);
    /// assert_eq!(thread.start("chat", hello).await?.finish().await?.reply(), None);
    /// // It goes on to the end from here.
    /// let finished = thread.resume_with(Resume::new().interrupt_before([""; 0])).await?.finish().await?;
    /// assert_eq!((finished.status, finished.reply()), (RunStatus::Completed, Some("Bye")));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resume_with(&self, resume: Resume) -> Result<Turn, AnswerError> {
        let resume = engine::Resume { terms: resume.terms, idempotency: None };
        Ok(self.turn(&self.engine.resume(&self.key, resume).await?))
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

    /// The same as it was at a checkpoint; nothing when the thread has no such one.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// let input = thread.history(None, 10).await?.pop().expect("it begins with its input");
    /// let then = thread.view_at(input.checkpoint).await?.expect("it is there");
    /// assert_eq!(then.messages.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn view_at(&self, checkpoint: CheckpointId) -> Result<Option<ThreadView>, StoreError> {
        self.engine.view(&self.key, Some(checkpoint)).await
    }

    /// Lists the checkpoints, newest first: those before one of them, or from the head on; so many at most.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// let newest = thread.history(None, 1).await?.remove(0);
    /// let older = thread.history(Some(newest.checkpoint), 10).await?;
    /// assert_eq!((newest.step, older[0].step), (1, 0));
    /// assert_eq!((older[0].source.as_str(), &older[0].next[..]), ("input", &["a".to_owned()][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn history(
        &self,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<CheckpointView>, StoreError> {
        Ok(self.engine.history(&self.key, before, limit).await?.unwrap_or_default())
    }

    /// Changes the state in the name of a node, and returns the run that goes on from there by [`resume`](Self::resume). The
    /// edges of the node say what runs next. What waits in the thread is ended, and its open questions are closed.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use graphloom::{Request, Update};
    ///
    /// let text = "
    /// format: 1
    /// state: {messages: messages, queue: {type: string, default: none}}
    /// start: triage
    /// nodes:
    ///   triage: {kind: set, set: {queue: \"'orders'\"}, next: tell}
    ///   tell: {kind: say, text: \"It is with {{ state.queue }}.\", next: end}
    /// ";
    /// let app = graphloom::App::builder().file("desk.yaml", text).build().await?;
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("desk", Request::from("Where is it?").interrupt_after(["triage"])).await?.finish().await?;
    /// thread.update(Update::as_node("triage").value("queue", "returns")).await?;
    /// assert_eq!(thread.resume().await?.finish().await?.reply(), Some("It is with returns."));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(&self, update: Update) -> Result<RunId, StartError> {
        Ok(self.engine.update(&self.key, &update.0).await?.run.run)
    }

    /// Makes another thread of the same user that goes on by [`resume`](Self::resume) from a checkpoint of this one: from its
    /// head, unless the fork names another. This one stays as it is.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// use graphloom::Fork;
    ///
    /// let thread = app.thread("acme", "ada", "desk")?;
    /// thread.start("chat", "Hello!").await?.finish().await?;
    /// let input = thread.history(None, 10).await?.pop().expect("it begins with its input");
    /// let again = thread.fork(Fork::new().session("again".parse()?).checkpoint(input.checkpoint)).await?;
    /// assert_eq!(again.resume().await?.finish().await?.reply(), Some("Hi"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn fork(&self, fork: Fork) -> Result<Self, StartError> {
        let forked = self.engine.fork(&self.key, &fork.0).await?;
        Ok(Self::new(self.engine.clone(), forked.run.key))
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
