//! Plays a plan as the body of an answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::Stream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::log::Live;
use crate::plan::Step;
use crate::socket::Link;

/// The body; it ends when the client hangs up.
pub(crate) struct Playback {
    steps: std::iter::Peekable<std::vec::IntoIter<Step>>,
    live: Live,
    link: Link,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    start: Instant,
    /// The wait under way; reused, since a timer costs an allocation.
    sleep: Option<Pin<Box<Sleep>>>,
    flushed: bool,
    aborted: bool,
}

impl Playback {
    pub(crate) fn new(steps: Vec<Step>, live: Live, link: Link) -> Self {
        Self {
            steps: steps.into_iter().peekable(),
            live,
            closed: Box::pin(link.closed()),
            link,
            start: Instant::now(),
            sleep: None,
            flushed: false,
            aborted: false,
        }
    }

    /// Looks at what is to be waited for.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.steps.peek() {
            Some(Step::Until(at)) => {
                let at = self.start + *at;
                let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                sleep.as_mut().poll(cx)
            }
            // The server writes out what it has when the body has nothing more for now.
            Some(Step::Flush) if !self.flushed => {
                self.flushed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Flush) => {
                self.flushed = false;
                Poll::Ready(())
            }
            Some(Step::Hang) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

impl Stream for Playback {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.aborted {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
            }
            if this.poll_wait(cx).is_pending() {
                ready!(this.closed.as_mut().poll(cx));
                this.live.hang_up();
                this.aborted = true;
                continue;
            }
            match this.steps.next() {
                Some(Step::Frame(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Some(Step::Token(bytes)) => {
                    this.live.call().token();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Step::Abort) => {
                    this.live.finish(200);
                    this.link.cut();
                    this.aborted = true;
                }
                Some(_) => {}
                None => {
                    this.live.finish(200);
                    return Poll::Ready(None);
                }
            }
        }
    }
}
