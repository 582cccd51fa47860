//! What a run tells, event by event or in one piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{Stream, stream};

use crate::engine::{Aborted, Engine, Finished, Told};
use crate::event::Event;
use crate::id::{Owner, RunId, Seq};
use crate::store::Run;

/// A run that was started, or goes on: a stream of what it tells, from its begin to `run.finished`.
///
/// The run does not need its reader: dropping the stream stops nothing. [`App::cancel`](super::App::cancel) does.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use futures_util::TryStreamExt;
///
/// let turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// let told: Vec<&str> = turn.map_ok(|event| event.body.name()).try_collect().await?;
/// assert_eq!((told[0], told[told.len() - 1]), ("run.started", "run.finished"));
/// # Ok(())
/// # }
/// ```
#[must_use = "the run goes on, but nobody reads it"]
pub struct Turn {
    run: RunId,
    events: BoxStream<'static, Result<Event, Aborted>>,
    told: Told,
    finished: Option<Finished>,
}

impl Turn {
    pub(super) fn new(engine: &Engine, owner: &Owner, run: &Run, after: Seq) -> Self {
        let follower = engine.follower(owner, run, after, true);
        let events = stream::unfold(follower, async |mut follower| {
            let told = follower.next().await?;
            Some((told.map(|frame| frame.event.clone()), follower))
        });
        Self { run: run.run, events: events.fuse().boxed(), told: Told::default(), finished: None }
    }

    /// Returns the run.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
    /// let run = turn.run();
    /// assert_eq!(turn.finish().await?.run, run);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Returns the next event; nothing after `run.finished`. An error: the run goes on in another process, or when this one
    /// is started again.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
    /// while let Some(event) = turn.next().await {
    ///     println!("{}", event?.body.name());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Event, Aborted>> {
        StreamExt::next(self).await
    }

    /// Reads what is left, to the end of the run or to where it waits for a person, and says what came of all of it.
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
    pub async fn finish(mut self) -> Result<Finished, Aborted> {
        while let Some(event) = self.next().await {
            event?;
        }
        self.finished.ok_or(Aborted)
    }
}

impl Stream for Turn {
    type Item = Result<Event, Aborted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = std::task::ready!(self.events.poll_next_unpin(cx));
        if let Some(Ok(event)) = &event {
            let run = self.run;
            self.finished = self.told.take(run, event);
        }
        Poll::Ready(event)
    }
}
