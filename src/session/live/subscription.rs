//! One subscriber of a session: replays the log from a position, then follows the events.

use std::{fmt, future::poll_fn, sync::Arc, vec};

use futures_util::future::{BoxFuture, FutureExt as _};

use super::{
    NewSubscriber,
    event::{Accepted, Event, Opened, ReplyStarted},
    registry::SessionHandle,
    subscriber_queue::SubscriberQueue,
};
use crate::session::{
    core::Core,
    eager_task::EagerTask,
    model::{Error, Message, NewMessage, Position, Result, SessionId},
    ports::Page,
    turn::append,
};

/// The subscription of one stream. Dropping it detaches the stream; a reply continues.
#[derive(Debug)]
pub struct Subscription {
    core: Arc<Core>,
    session: SessionHandle,
    queue: Arc<SubscriberQueue>,
    /// `Some` until the replay is over. Boxed, since most subscriptions are past it.
    replay: Option<Box<Replay>>,
    delivered: u32,
    /// Index of the next delta. Counted here, since queued deltas may have been merged.
    next_index: u32,
}

struct Replay {
    until: u32,
    page: vec::IntoIter<Arc<Message>>,
    /// The read of the next page. Kept here, so that dropping `next` does not repeat it.
    reading: Option<BoxFuture<'static, Result<Vec<Arc<Message>>>>>,
    reply: Option<ReplyStarted>,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(in crate::session) fn new(
        core: Arc<Core>,
        session: SessionHandle,
        subscriber: NewSubscriber,
    ) -> (Self, Opened) {
        let NewSubscriber { queue, opened, reply } = subscriber;
        let behind = opened.position.seq < opened.head_seq;
        let replay = (behind || reply.is_some()).then(|| {
            let (until, page) = (opened.head_seq, Vec::new().into_iter());
            Box::new(Replay { until, page, reading: None, reply })
        });
        let delivered = opened.position.seq;
        (Self { core, session, queue, replay, delivered, next_index: 0 }, opened)
    }

    /// Returns the next event: the messages after the position, the reply in progress, then
    /// live events. Cancel safe: no event is lost if the future is dropped.
    ///
    /// # Errors
    /// The reason why the stream ends: `SlowConsumer`, `SessionExpired`, `SessionRevoked`,
    /// `Draining`, or an error of the store.
    pub async fn next(&mut self) -> Result<Event> {
        while let Some(replay) = &mut self.replay {
            self.session.check_readable()?;
            if let Some(message) = replay.page.next() {
                self.delivered = message.seq;
                return Ok(Event::Message(message));
            }
            if self.delivered < replay.until {
                let (after, until) = (self.delivered, replay.until);
                let reading = replay.reading.get_or_insert_with(|| {
                    let (core, session) = (Arc::clone(&self.core), self.session.clone());
                    async move { page(&core, &session, after, until).await }.boxed()
                });
                let page = reading.await;
                replay.reading = None;
                replay.page = page?.into_iter();
                continue;
            }
            let reply = self.replay.take().and_then(|replay| replay.reply);
            if let Some(reply) = reply {
                self.next_index = reply.next_index;
                return Ok(Event::ReplyStarted(Arc::new(reply)));
            }
        }
        let mut event = poll_fn(|cx| self.queue.poll_next(cx)).await?;
        match &mut event {
            Event::Message(message) => self.delivered = message.seq,
            Event::ReplyStarted(started) => self.next_index = started.next_index,
            Event::Delta { index, .. } => {
                *index = self.next_index;
                self.next_index += 1;
            }
            Event::GoAway(_) => {}
        }
        Ok(event)
    }

    /// Returns true if [`Self::next`] may be ready at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.replay.is_some() || self.queue.has_more()
    }

    /// Returns the sequence number of the last message that [`Self::next`] returned, or of the
    /// position.
    #[must_use]
    pub const fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Returns the current position: a subscription from here misses nothing.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.session.session().epoch.clone(), seq: self.delivered }
    }

    /// Sends a user message, see [`Gateway::send`](crate::session::Gateway::send). The message
    /// is committed even if the returned task is dropped.
    pub fn send(&self, message: NewMessage) -> EagerTask<Result<Accepted>> {
        append::send(&self.core, &self.session, message)
    }

    /// Stops the reply in progress, or the next one. Returns false if there is none.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.session.stop()
    }

    /// Returns the id of the session, for logs.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session.session().id
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.session.unsubscribe(&self.queue);
    }
}

/// Reads the next page of a replay.
async fn page(
    core: &Core,
    session: &SessionHandle,
    after: u32,
    until: u32,
) -> Result<Vec<Arc<Message>>> {
    /// Most messages of one read of a replay.
    const REPLAY_PAGE: u32 = 64;
    /// Most bytes of text of one read, unless a single message has more: a peer may open many
    /// streams and read none.
    const REPLAY_PAGE_SIZE: usize = 256 << 10;
    let max_size = REPLAY_PAGE_SIZE;
    let page = Page { after: Some(after), until, limit: REPLAY_PAGE, max_size };
    let snapshot = core.store.read(session.session().id, core.clock.now(), page).await?;
    if snapshot.messages.is_empty() {
        return Err(Error::internal(format!("message {} is missing in the log", after + 1)));
    }
    Ok(snapshot.messages)
}
