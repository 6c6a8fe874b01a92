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
    Accepted, AppendLimits, Clock, Entry, Epoch, ErrorKind, MessageId, Name, NewMessage,
    NewSession, Opened, Page, Position, Responder, Result, Session, SessionId, Settings, Snapshot,
    Store, Subscription, Timestamp, Token, TokenHash,
    active_session::{ActiveSession, Published},
    event::EventFilter,
    metrics::Metrics,
    registry::{Registry, SessionHandle},
    subscriber_queue::Capacity,
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
                if let Some(handle) = self.core.registry.get(session.id) {
                    handle.renewed(renewed.expires_at);
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
        spawn_eager(async move { gateway.revoke(id).await }).end().await
    }

    pub(super) fn record_revoked(&self, id: SessionId) {
        self.core.metrics.session_ended(ErrorKind::SessionRevoked);
        tracing::info!(session = %id, reason = "revoked", "session ended");
    }

    async fn revoke(&self, id: SessionId) -> Result<()> {
        self.store().revoke(id, self.clock().now()).await?;
        let handle = self.core.registry.get_once_loaded(id).await;
        if handle.is_none_or(|handle| handle.revoke()) {
            self.record_revoked(id);
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
    ) -> Result<(Subscription, Opened)> {
        self.subscribe(token, position, EventFilter::All).await
    }

    /// As [`Self::attach`] from now on, but to be told of committed replies alone.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn attach_replies_only(&self, token: &Token) -> Result<(Subscription, Opened)> {
        self.subscribe(token, None, EventFilter::Replies).await
    }

    async fn subscribe(
        &self,
        token: &Token,
        position: Option<&Position>,
        filter: EventFilter,
    ) -> Result<(Subscription, Opened)> {
        self.check_serving()?;
        let handle = self.open_session(&token.hash()).await?;
        if let Some(position) = position {
            // A client may know of a message that is durable and not published yet.
            while handle.is_behind(position) && self.catch_up(&handle).await? {}
        }
        let settings = self.settings();
        let capacity =
            Capacity { events: settings.max_backlog_events, bytes: settings.max_backlog_size };
        let watch = handle.subscribe(position, filter, capacity, settings.max_session_streams)?;
        let attached = Subscription::new(self.clone(), handle, watch);
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
    pub async fn send(&self, token: &Token, draft: NewMessage) -> Result<Accepted> {
        self.check_serving()?;
        let handle = self.open_session(&token.hash()).await?;
        self.send_live(&handle, draft).end().await
    }

    /// Stops the reply in progress, or the next one. False if there is none.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub async fn stop(&self, token: &Token) -> Result<bool> {
        let session = self.authenticate(token).await?;
        let handle = self.core.registry.get(session.id);
        Ok(handle.is_some_and(|handle| handle.stop()))
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

    pub(super) fn append_limits(&self) -> AppendLimits {
        let settings = self.settings();
        let now = self.clock().now();
        AppendLimits {
            now,
            expires_at: now.plus(settings.session_ttl),
            max_queued_turns: settings.max_queued_turns,
            max_session_messages: settings.max_session_messages,
        }
    }

    /// [`Self::send`] for those who are attached already.
    pub(super) fn send_live(
        &self,
        handle: &SessionHandle,
        draft: NewMessage,
    ) -> EagerTask<Result<Accepted>> {
        // Counted before it is checked: a drain waits for it, or it is refused.
        let working = self.tasks().token();
        if let Err(error) = handle.check_open().and_then(|()| self.check_serving()) {
            return EagerTask::Done(Err(error));
        }
        let (gateway, handle) = (self.clone(), handle.clone());
        spawn_eager(async move {
            let _working = working;
            gateway.commit(&handle, draft).await
        })
    }

    async fn commit(&self, handle: &SessionHandle, draft: NewMessage) -> Result<Accepted> {
        let NewMessage { text, client_message_id } = draft;
        let entry = Entry::User { id: MessageId::generate(), text, client_message_id };
        let appended = self.store().append(handle.session().id, entry, self.append_limits()).await;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                // It may be in the log all the same.
                if error.kind() == ErrorKind::Internal {
                    self.try_to_catch_up(handle).await;
                }
                return Err(error);
            }
        };
        self.core.metrics.message(appended.duplicate);
        handle.renewed(appended.expires_at);
        let published = handle.publish(Arc::clone(&appended.message));
        self.run_turns(handle, published);
        // One who begins to run turns catches up first; one who does already may be at a
        // long reply.
        if published == Published::Done && handle.has_gap() {
            self.try_to_catch_up(handle).await;
        }
        Ok(Accepted {
            message: appended.message,
            duplicate: appended.duplicate,
            reply_seq: appended.reply_seq,
        })
    }

    /// Once: whoever runs the turns tries again.
    async fn try_to_catch_up(&self, handle: &SessionHandle) {
        if let Err(error) = self.catch_up(handle).await {
            tracing::error!(session = %handle.session().id, %error, cause = ?error, "the log could not be caught up with");
        }
    }

    /// Publishes what is in the log and was not published: an append whose answer was
    /// lost leaves a gap, behind which everything would wait. False if there was nothing.
    pub(super) async fn catch_up(&self, handle: &SessionHandle) -> Result<bool> {
        let page = Page {
            after: Some(handle.head_seq()),
            until: u32::MAX,
            limit: self.settings().max_page_messages,
            max_size: self.settings().max_page_size,
        };
        let snapshot = self.store().read(handle.session().id, self.clock().now(), page).await?;
        let found = !snapshot.messages.is_empty();
        for message in snapshot.messages {
            self.run_turns(handle, handle.publish(message));
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
            return Err(super::Error::from(ErrorKind::Draining).retry_after(reconnect_delay()));
        }
        Ok(())
    }

    async fn open_session(&self, token: &TokenHash) -> Result<SessionHandle> {
        let session = self.store().find(token, self.clock().now()).await?;
        self.load_session(session.id).await
    }

    pub(super) async fn load_session(&self, id: SessionId) -> Result<SessionHandle> {
        let load = async {
            let snapshot = self.store().read(id, self.clock().now(), HEAD).await?;
            Ok(ActiveSession::new(snapshot.session, snapshot.head_seq))
        };
        self.core.registry.get_or_load(id, load).await
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// When a client should come back to a gateway that shuts down: not all at once.
pub(super) fn reconnect_delay() -> Duration {
    Duration::from_millis(rand::rng().random_range(500..5000))
}

/// Work that runs to its end even if whoever started it goes away: a message that is
/// durable must be published.
#[derive(Debug)]
#[must_use]
pub enum EagerTask<T> {
    /// It had nothing to wait for.
    Done(T),
    /// A task does the rest.
    Running(JoinHandle<T>),
}

impl<T> EagerTask<Result<T>> {
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
pub(super) fn spawn_eager<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> EagerTask<T> {
    let mut work = Box::pin(work);
    // The task polls it again: until then nobody needs waking.
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => EagerTask::Done(done),
        Poll::Pending => EagerTask::Running(tokio::spawn(work)),
    }
}
