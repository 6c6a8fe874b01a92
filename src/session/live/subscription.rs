//! One subscriber of a session: replays the log from a position, then follows the events.

use std::{fmt, future::poll_fn, sync::Arc, vec};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::Instant;

use super::{
    NewSubscriber, ReplySoFar,
    encoded::EncodedForms,
    event::{Accepted, Event, MessageEvent, Opened},
    registry::SessionHandle,
    subscriber_queue::SubscriberQueue,
};
use crate::session::{
    core::Core,
    eager_task::EagerTask,
    model::{
        Error, Message, NewMessage, Position, Regeneration, ReplyPosition, Result, Role, Scope,
        SessionId, TokenId,
    },
    ports::Page,
    quota::StreamAccounts,
    turn::{append, stop},
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
    /// The part of the reply in progress that was delivered.
    reply: Option<ReplyPosition>,
    /// Number of the last user message that was delivered. 0: none.
    last_user_seq: u32,
    token: TokenId,
    scope: Scope,
    credential_deadline: Option<Instant>,
    accounts: StreamAccounts,
}

/// The rights and the accounts of a subscription.
#[derive(Debug)]
pub(in crate::session) struct Rights {
    pub(in crate::session) token: TokenId,
    pub(in crate::session) scope: Scope,
    pub(in crate::session) credential_deadline: Option<Instant>,
    pub(in crate::session) accounts: StreamAccounts,
}

struct Replay {
    until: u32,
    page: vec::IntoIter<Arc<Message>>,
    /// The read of the next page. Kept here, so that dropping `next` does not repeat it.
    reading: Option<BoxFuture<'static, Result<Vec<Arc<Message>>>>>,
    reply: Option<ReplySoFar>,
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
        rights: Rights,
    ) -> (Self, Opened) {
        let Rights { token, scope, credential_deadline, accounts } = rights;
        let NewSubscriber { queue, opened, reply } = subscriber;
        let behind = opened.position.seq < opened.head_seq;
        let replay = (behind || reply.is_some()).then(|| {
            let (until, page) = (opened.head_seq, Vec::new().into_iter());
            Box::new(Replay { until, page, reading: None, reply })
        });
        let Position { seq: delivered, reply, .. } = opened.position;
        let subscription = Self {
            core,
            session,
            queue,
            replay,
            delivered,
            reply,
            last_user_seq: 0,
            token,
            scope,
            credential_deadline,
            accounts,
        };
        (subscription, opened)
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
                let (shows_parent, encoded) = (false, EncodedForms::default());
                let event = MessageEvent { message, shows_parent, encoded };
                return Ok(self.deliver(Event::Message(event)));
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
            if let Some(event) = replay.next_of_reply() {
                return Ok(self.deliver(event));
            }
            self.replay = None;
        }
        let event = poll_fn(|cx| self.queue.poll_next(cx)).await?;
        Ok(self.deliver(event))
    }

    /// Moves the position behind an event.
    fn deliver(&mut self, mut event: Event) -> Event {
        match &mut event {
            Event::Message(MessageEvent { message, shows_parent, .. }) => {
                self.delivered = message.seq;
                self.reply.take_if(|reply| message.id == reply.reply);
                match &message.role {
                    Role::User(user) => {
                        let before = std::mem::replace(&mut self.last_user_seq, message.seq);
                        *shows_parent = before == 0 || before != user.parent_seq;
                    }
                    Role::Assistant(_) => {}
                }
            }
            Event::ReplyStarted(started) => {
                self.reply = Some(ReplyPosition { reply: started.reply, offset: started.offset });
            }
            Event::Delta(_) | Event::ReplyPart(_) => {
                let at = event.reply_end();
                self.reply = at.map(|(reply, offset)| ReplyPosition { reply, offset });
            }
            Event::GoAway(_) => {}
        }
        event
    }

    /// Returns true if [`Self::next`] may be ready at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.replay.is_some() || self.queue.has_more()
    }

    /// Returns the time at which the credential expires that the subscription is bound to. `None`: it
    /// is bound to none, or to one that does not expire.
    #[must_use]
    pub const fn credential_deadline(&self) -> Option<Instant> {
        self.credential_deadline
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
        let epoch = self.session.session().epoch.clone();
        Position { epoch, seq: self.delivered, reply: self.reply }
    }

    /// Sends a user message, see [`Gateway::send`](crate::session::Gateway::send). The message
    /// is committed even if the returned task is dropped.
    pub fn send(&self, message: NewMessage) -> EagerTask<Result<Accepted>> {
        match self.scope.check_write() {
            Ok(()) => append::send(&self.core, &self.session, self.token, &self.accounts, message),
            Err(error) => EagerTask::Done(Err(error)),
        }
    }

    /// Asks a question again, see [`Gateway::regenerate`](crate::session::Gateway::regenerate).
    pub fn regenerate(&self, again: Regeneration) -> EagerTask<Result<Accepted>> {
        match self.scope.check_write() {
            Ok(()) => {
                append::regenerate(&self.core, &self.session, self.token, &self.accounts, again)
            }
            Err(error) => EagerTask::Done(Err(error)),
        }
    }

    /// Stops a turn, see [`Gateway::stop`](crate::session::Gateway::stop).
    pub fn stop(&self, seq: Option<u32>) -> EagerTask<Result<bool>> {
        match self.scope.check_write() {
            Ok(()) => stop::stop(&self.core, self.session(), Some(&self.session), seq),
            Err(error) => EagerTask::Done(Err(error)),
        }
    }

    pub(in crate::session) const fn handle(&self) -> &SessionHandle {
        &self.session
    }

    /// Returns the id of the session, for logs.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session.session().id
    }
}

impl Replay {
    /// Returns the next event of the reply in progress.
    fn next_of_reply(&mut self) -> Option<Event> {
        let reply = self.reply.as_mut()?;
        if let Some(started) = reply.started.take() {
            return Some(Event::ReplyStarted(Arc::new(started)));
        }
        reply.events.next()
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
