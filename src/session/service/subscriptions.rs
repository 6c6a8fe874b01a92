//! Subscribes to the events of a session.

use std::sync::Arc;

use super::Gateway;
use crate::session::{
    caller::Caller,
    live::{
        event::{EventFilter, Opened},
        subscriber_queue::QueueCapacity,
        subscription::{Rights, Subscription},
    },
    model::{ErrorKind, Position, Result, Session, Token},
    peers::replies,
    ports::FoundSession,
    turn::{follow, runner::TurnRunner},
};

impl Gateway {
    /// Subscribes to a session, from a position or from the head of its log.
    ///
    /// # Errors
    /// `SessionExpired`, `TooManyStreams`, `Draining`, or an error of the store.
    pub async fn attach(
        &self,
        caller: &Caller,
        token: &Token,
        position: Option<&Position>,
    ) -> Result<(Subscription, Opened)> {
        self.subscribe(caller, token, position, EventFilter::All).await
    }

    /// Like [`Self::attach`] from the head of the log, but receives only committed replies.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn attach_replies_only(
        &self,
        caller: &Caller,
        token: &Token,
    ) -> Result<(Subscription, Opened)> {
        self.subscribe(caller, token, None, EventFilter::Replies).await
    }

    async fn subscribe(
        &self,
        caller: &Caller,
        token: &Token,
        position: Option<&Position>,
        filter: EventFilter,
    ) -> Result<(Subscription, Opened)> {
        let core = &self.core;
        core.check_serving()?;
        let hash = token.hash();
        let mut found = core.authenticate(caller, &hash).await?;
        if core.is_unused(&found.session) {
            found.session = core.renew(found.clone()).await?;
        }
        let FoundSession { session: found, token } = found;
        let accounts = core.quota.accounts(caller, found.subject.as_ref()).into_stream()?;
        accounts.read_shares(&*core.store, core.clock.now()).await?;
        let session = core.load_session(found.id).await?;
        if let Some(position) = position {
            // A client may know of a message that is durable and not published yet.
            while session.is_behind(position) && TurnRunner::catch_up(core, &session).await? {}
        }
        if core.peers.is_shared() && !session.unqueued_turns().is_empty() {
            follow::follow(core, &session).await?;
        }
        if let Some(at) = position.and_then(|position| position.reply.as_ref()) {
            replies::wait_for(core, &session, &token, at).await;
        }
        let settings = &core.settings;
        let capacity =
            QueueCapacity { events: settings.max_backlog_events, bytes: settings.max_backlog_size };
        let subscriber =
            session.subscribe(position, filter, &token, capacity, settings.max_session_streams)?;
        if token.deadlines.is_some() {
            core.registry.review(&session);
        }
        let is_bound = settings.access.bind_subject && found.subject.is_some();
        let bound_until = caller.identity.as_ref().filter(|_| is_bound);
        let bound_until = bound_until.and_then(|identity| identity.deadline());
        let rights = Rights {
            token: token.id,
            scope: token.scope,
            credential_deadline: bound_until,
            accounts,
        };
        let (subscription, mut opened) =
            Subscription::new(Arc::clone(core), session, subscriber, rights);
        opened.session = Session { expires_at: opened.session.expires_at, ..found };
        opened.session = opened.session.seen_with(&token);
        core.ask_owner(subscription.handle());
        // A shutdown or a revocation that began meanwhile may have missed this subscriber.
        core.check_serving()?;
        if core.revoked_tokens.contains(token.id) {
            return Err(ErrorKind::SessionRevoked.into());
        }
        if core.peers.is_shared() {
            // Another process may have revoked the token before this one had entered the session.
            core.store.find(&hash, core.clock.now()).await?;
        }
        Ok((subscription, opened))
    }
}
