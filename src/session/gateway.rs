//! The operations that both protocol families offer.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rand::RngExt as _;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Accepted, Attachment, Clock, Draft, Entry, Epoch, ErrorKind, MessageId, Name, NewSession,
    Opened, Page, Position, Responder, Result, Session, SessionId, Settings, Snapshot, Store,
    Terms, Timestamp, Token, TokenHash,
    event::Interest,
    live::{Live, Published},
    mailbox::Capacity,
    metrics::Metrics,
    registry::{LiveRef, Registry},
};

/// The session and the number of its last message.
pub(super) const HEAD: Page = Page { after: None, until: u32::MAX, limit: 0, max_size: 0 };

/// The core: cheap to clone, shared by every connection.
#[derive(Clone)]
pub struct Gateway {
    pub(super) core: Arc<Core>,
}

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) store: Arc<dyn Store>,
    pub(super) responder: Arc<dyn Responder>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) registry: Arc<Registry>,
    pub(super) draining: CancellationToken,
    /// Nothing is written any more.
    pub(super) ended: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A new session and its secret.
#[derive(Debug)]
pub struct Created {
    /// The secret, shown once.
    pub token: Token,
    /// The session.
    pub session: Session,
}

impl Gateway {
    /// Starts a session for a visitor.
    ///
    /// # Errors
    /// `InvalidName`, `Overloaded`, `StoreFull`, `Draining`.
    pub async fn create_token(&self, name: &str) -> Result<Created> {
        let name = Name::parse(name)?;
        self.check_serving()?;
        let now = self.clock().now();
        let session = Session {
            id: SessionId::generate(),
            name,
            epoch: Epoch::generate(),
            created_at: Timestamp::of_wall_clock(),
            expires_at: now.plus(self.settings().session_ttl.min(self.settings().session_max_age)),
            ends_at: now.plus(self.settings().session_max_age),
        };
        let token = Token::generate();
        let new = NewSession { session: session.clone(), token: token.hash() };
        self.store().create(new).await?;
        self.core.metrics.sessions_started.increment(1);
        tracing::info!(session = %session.id, "session started");
        Ok(Created { token, session })
    }

    /// Renews a session's idle deadline and reads it in one look: messages `after` a
    /// number, or the newest ones, `limit` of them at most.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn refresh_token(
        &self,
        token: &Token,
        after: Option<u32>,
        limit: Option<u32>,
    ) -> Result<Snapshot> {
        let session = self.authenticate(token).await?;
        let now = self.clock().now();
        let expires_at = now.plus(self.settings().session_ttl);
        match self.store().renew(session.id, now, expires_at).await {
            Ok(renewed) => {
                if let Some(live) = self.core.registry.peek(session.id) {
                    live.renewed(renewed.expires_at);
                }
            }
            // No room even to note the deadline, or no more writes before the end: what is
            // there can still be read.
            Err(error)
                if error.kind() == ErrorKind::StoreFull || self.core.ended.is_cancelled() =>
            {
                tracing::warn!(session = %session.id, %error, "a session was read and not renewed");
            }
            Err(error) => return Err(error),
        }
        let max = self.settings().max_page_messages;
        let page = Page {
            after,
            until: u32::MAX,
            limit: limit.unwrap_or(max).min(max),
            max_size: self.settings().max_page_size,
        };
        self.store().read(session.id, now, page).await
    }

    /// Ends a session. Streams attached to it end at once.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn revoke_token(&self, token: &Token) -> Result<()> {
        let id = self.authenticate(token).await?.id;
        let gateway = self.clone();
        start(async move { gateway.revoke(id).await }).end().await
    }

    pub(super) fn note_revoked(&self, id: SessionId) {
        self.core.metrics.session_ended(ErrorKind::SessionRevoked);
        tracing::info!(session = %id, reason = "revoked", "session ended");
    }

    async fn revoke(&self, id: SessionId) -> Result<()> {
        self.store().revoke(id, self.clock().now()).await?;
        let live = self.core.registry.settled(id).await;
        if live.is_none_or(|live| live.revoke()) {
            self.note_revoked(id);
        }
        Ok(())
    }

    /// The session that a token opens.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn authenticate(&self, token: &Token) -> Result<Session> {
        self.store().find(&token.hash(), self.clock().now()).await
    }

    /// Starts to watch a session, from a position or from now on.
    ///
    /// # Errors
    /// `SessionExpired`, `TooManyStreams`, `Draining`, or what the store failed with.
    pub async fn attach(
        &self,
        token: &Token,
        position: Option<&Position>,
    ) -> Result<(Attachment, Opened)> {
        self.watch(token, position, Interest::Everything).await
    }

    /// As [`Self::attach`] from now on, but to be told of committed replies alone.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn attach_for_replies(&self, token: &Token) -> Result<(Attachment, Opened)> {
        self.watch(token, None, Interest::Replies).await
    }

    async fn watch(
        &self,
        token: &Token,
        position: Option<&Position>,
        interest: Interest,
    ) -> Result<(Attachment, Opened)> {
        self.check_serving()?;
        let live = self.enter(&token.hash()).await?;
        if let Some(position) = position {
            // A client may know of a message that is durable and not published yet.
            while live.is_behind(position) && self.catch_up(&live).await? {}
        }
        let settings = self.settings();
        let capacity =
            Capacity { events: settings.max_backlog_events, bytes: settings.max_backlog_size };
        let watch = live.watch(position, interest, capacity, settings.max_session_streams)?;
        let attached = Attachment::new(self.clone(), live, watch);
        // A drain that began meanwhile may not have seen this watcher.
        self.check_serving()?;
        Ok(attached)
    }

    /// Says something: returns when it is durable, once, however often it is retried
    /// under one `client_message_id`. The reply comes to those who watch.
    ///
    /// # Errors
    /// `SessionExpired`, `MessageIdReused`, `QueueFull`, `SessionFull`, `StoreFull`,
    /// `Draining`.
    pub async fn send(&self, token: &Token, draft: Draft) -> Result<Accepted> {
        self.check_serving()?;
        let live = self.enter(&token.hash()).await?;
        self.send_live(&live, draft).end().await
    }

    /// Stops the reply in progress, or the next one. False if there is none.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn stop(&self, token: &Token) -> Result<bool> {
        let session = self.authenticate(token).await?;
        let live = self.core.registry.peek(session.id);
        Ok(live.is_some_and(|live| live.stop()))
    }

    /// The core's limits.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.core.store
    }

    pub(super) fn responder(&self) -> &dyn Responder {
        &*self.core.responder
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.core.clock
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.core.tasks
    }

    pub(super) fn terms(&self) -> Terms {
        let settings = self.settings();
        let now = self.clock().now();
        Terms {
            now,
            expires_at: now.plus(settings.session_ttl),
            max_queued_turns: settings.max_queued_turns,
            max_session_messages: settings.max_session_messages,
        }
    }

    /// [`Self::send`] for those who are attached already.
    pub(super) fn send_live(&self, live: &LiveRef, draft: Draft) -> Started<Result<Accepted>> {
        // Counted before it is checked: a drain waits for it, or it is refused.
        let working = self.tasks().token();
        if let Err(error) = live.check_open().and_then(|()| self.check_serving()) {
            return Started::Done(Err(error));
        }
        let (gateway, live) = (self.clone(), live.clone());
        start(async move {
            let _working = working;
            gateway.commit(&live, draft).await
        })
    }

    async fn commit(&self, live: &LiveRef, draft: Draft) -> Result<Accepted> {
        let Draft { text, client_message_id } = draft;
        let entry = Entry::User { id: MessageId::generate(), text, client_message_id };
        let appended = self.store().append(live.session().id, entry, self.terms()).await;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                // It may be in the log all the same.
                if error.kind() == ErrorKind::Internal {
                    self.try_to_catch_up(live).await;
                }
                return Err(error);
            }
        };
        self.core.metrics.message(appended.duplicate);
        live.renewed(appended.expires_at);
        let published = live.publish(Arc::clone(&appended.message));
        self.run_turns(live, published);
        // One who begins to run turns catches up first; one who does already may be at a
        // long reply.
        if published == Published::Done && live.lacks_messages() {
            self.try_to_catch_up(live).await;
        }
        Ok(Accepted {
            message: appended.message,
            duplicate: appended.duplicate,
            reply_seq: appended.reply_seq,
        })
    }

    /// Once: whoever runs the turns tries again.
    async fn try_to_catch_up(&self, live: &LiveRef) {
        if let Err(error) = self.catch_up(live).await {
            tracing::error!(session = %live.session().id, %error, cause = ?error, "the log could not be caught up with");
        }
    }

    /// Publishes what is in the log and was not published: an append whose answer was
    /// lost leaves a gap, behind which everything would wait. False if there was nothing.
    pub(super) async fn catch_up(&self, live: &LiveRef) -> Result<bool> {
        let page = Page {
            after: Some(live.head_seq()),
            until: u32::MAX,
            limit: self.settings().max_page_messages,
            max_size: self.settings().max_page_size,
        };
        let snapshot = self.store().read(live.session().id, self.clock().now(), page).await?;
        let found = !snapshot.messages.is_empty();
        for message in snapshot.messages {
            self.run_turns(live, live.publish(message));
        }
        Ok(found)
    }

    /// How many sessions somebody watches, or run a turn.
    #[must_use]
    pub fn live_sessions(&self) -> usize {
        self.core.registry.len()
    }

    /// Whether the gateway shuts down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.core.draining.is_cancelled()
    }

    /// Waits until the gateway begins to shut down.
    pub async fn draining(&self) {
        self.core.draining.cancelled().await;
    }

    fn check_serving(&self) -> Result<()> {
        if self.core.draining.is_cancelled() {
            return Err(super::Error::from(ErrorKind::Draining).retry_after(come_back()));
        }
        Ok(())
    }

    async fn enter(&self, token: &TokenHash) -> Result<LiveRef> {
        let session = self.store().find(token, self.clock().now()).await?;
        self.enter_found(session.id).await
    }

    pub(super) async fn enter_found(&self, id: SessionId) -> Result<LiveRef> {
        let load = async {
            let snapshot = self.store().read(id, self.clock().now(), HEAD).await?;
            Ok(Live::new(snapshot.session, snapshot.head_seq))
        };
        self.core.registry.enter(id, load).await
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// When a client should come back to a gateway that shuts down: not all at once.
pub(super) fn come_back() -> Duration {
    Duration::from_millis(rand::rng().random_range(500..5000))
}

/// Work that runs to its end even if whoever started it goes away: a message that is
/// durable must be published.
#[derive(Debug)]
#[must_use]
pub enum Started<T> {
    /// It had nothing to wait for.
    Done(T),
    /// A task does the rest.
    Running(JoinHandle<T>),
}

impl<T> Started<Result<T>> {
    /// Waits for its end.
    ///
    /// # Errors
    /// What it failed with; `Internal` if it panicked.
    pub async fn end(self) -> Result<T> {
        match self {
            Self::Done(done) => done,
            Self::Running(task) => task.await.map_err(super::Error::internal)?,
        }
    }
}

/// Starts work. What need not wait costs no task.
pub(super) fn start<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Started<T> {
    let mut work = Box::pin(work);
    // The task polls it again: until then nobody needs waking.
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Started::Done(done),
        Poll::Pending => Started::Running(tokio::spawn(work)),
    }
}
