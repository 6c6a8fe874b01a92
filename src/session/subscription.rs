//! One watcher of a session: replay from its position, then what happens.

use std::{fmt, future::poll_fn, sync::Arc, vec};

use futures_util::future::{BoxFuture, FutureExt as _};

use super::{
    Error, Event, Message, Page, ReplyStarted, Result, Timestamp,
    active_session::NewSubscriber,
    event::{Accepted, Opened},
    gateway::{EagerTask, Gateway},
    new_message::NewMessage,
    position::Position,
    registry::SessionHandle,
    subscriber_queue::SubscriberQueue,
};

/// A stream's hold on a session. Dropping it detaches; a reply goes on without it.
#[derive(Debug)]
pub struct Subscription {
    gateway: Gateway,
    handle: SessionHandle,
    queue: Arc<SubscriberQueue>,
    /// `Some` until the replay is over; boxed, since most attachments are past it.
    replay: Option<Box<Replay>>,
    delivered: u32,
    /// Of the next delta: pieces may have become one on their way here.
    next_index: u32,
}

struct Replay {
    until: u32,
    page: vec::IntoIter<Arc<Message>>,
    /// The next page. It is kept here, so that one who asks again does not read again.
    reading: Option<BoxFuture<'static, Result<Vec<Arc<Message>>>>>,
    reply: Option<ReplyStarted>,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(
        gateway: Gateway,
        handle: SessionHandle,
        watch: NewSubscriber,
    ) -> (Self, Opened) {
        let NewSubscriber { queue, opened, reply } = watch;
        let behind = opened.position.seq < opened.head_seq;
        let replay = (behind || reply.is_some()).then(|| {
            let (until, page) = (opened.head_seq, Vec::new().into_iter());
            Box::new(Replay { until, page, reading: None, reply })
        });
        let delivered = opened.position.seq;
        (Self { gateway, handle, queue, replay, delivered, next_index: 0 }, opened)
    }

    /// The next event, in order: the messages after the position, the reply in
    /// progress, then what happens. Cancel safe: nothing is lost if the future is
    /// dropped before it is ready.
    ///
    /// # Errors
    /// Why the stream ends: `SlowConsumer`, `SessionExpired`, `SessionRevoked`,
    /// `Draining`, or what the store failed with.
    pub async fn next(&mut self) -> Result<Event> {
        while let Some(replay) = &mut self.replay {
            self.handle.check_readable()?;
            if let Some(message) = replay.page.next() {
                self.delivered = message.seq;
                return Ok(Event::Message(message));
            }
            if self.delivered < replay.until {
                let (after, until) = (self.delivered, replay.until);
                let reading = replay.reading.get_or_insert_with(|| {
                    let (gateway, handle) = (self.gateway.clone(), self.handle.clone());
                    async move { gateway.page(&handle, after, until).await }.boxed()
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

    /// Whether [`Self::next`] may have something at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.replay.is_some() || self.queue.has_more()
    }

    /// Number of the last message that [`Self::next`] returned, or of the position.
    #[must_use]
    pub const fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Where it is: one who attaches anew from here misses nothing.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.handle.session().epoch.clone(), seq: self.delivered }
    }

    /// Says something in this session. See [`Gateway::send`]. It is said even if nobody
    /// waits for it.
    pub fn send(&self, draft: NewMessage) -> EagerTask<Result<Accepted>> {
        self.gateway.send_live(&self.handle, draft)
    }

    /// Stops the reply in progress, or the next one. False if there is none.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.handle.stop()
    }

    /// Whose conversation, for logs.
    #[must_use]
    pub fn session(&self) -> super::SessionId {
        self.handle.session().id
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.handle.unsubscribe(&self.queue);
    }
}

impl Gateway {
    async fn page(
        &self,
        handle: &SessionHandle,
        after: u32,
        until: u32,
    ) -> Result<Vec<Arc<Message>>> {
        /// Messages that a replay holds at a time.
        const REPLAY_PAGE: u32 = 64;
        let settings = self.settings();
        let page = Page {
            after: Some(after),
            until,
            limit: REPLAY_PAGE,
            max_size: settings.max_backlog_size,
        };
        let snapshot = self.store().read(handle.session().id, self.now(), page).await?;
        if snapshot.messages.is_empty() {
            return Err(Error::internal(format!("a log without message {}", after + 1)));
        }
        Ok(snapshot.messages)
    }

    fn now(&self) -> Timestamp {
        self.clock().now()
    }
}
