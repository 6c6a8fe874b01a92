//! The subscribers of a session, and the deadlines of their tokens.

use std::sync::Arc;

use tokio::time::Instant;

use super::{NewSubscriber, State};
use crate::session::{
    live::{
        event::{EventFilter, Opened},
        subscriber_queue::{QueueCapacity, SubscriberQueue},
    },
    model::{ErrorKind, Position, Result, Session, Timestamp, TokenId, TokenRecord},
};

impl State {
    /// Registers a subscriber and reads the head of the log and the reply in progress in the
    /// same step. Messages up to the head can then be read from the store, later ones arrive
    /// in the queue: no gap, no duplicate.
    pub(in crate::session::live) fn subscribe(
        &mut self,
        session: &Session,
        requested: Option<&Position>,
        filter: EventFilter,
        token: &TokenRecord,
        capacity: QueueCapacity,
        max_subscribers: usize,
    ) -> Result<NewSubscriber> {
        self.check_open()?;
        let streams = self.subscribers.iter().filter(|it| it.token().is_some()).count();
        if streams >= max_subscribers {
            return Err(ErrorKind::TooManyStreams.into());
        }
        let honored = requested.filter(|at| {
            let is_earlier =
                |earlier: &Position| at.epoch == earlier.epoch && at.seq <= earlier.seq;
            at.epoch == session.epoch && at.seq <= self.head_seq
                || self.earlier.as_deref().is_some_and(is_earlier)
        });
        let reply = self.shown_reply().filter(|_| filter == EventFilter::All);
        let reply_position = honored.and_then(|at| at.reply);
        let reply_position = reply_position.filter(|at| reply.is_some_and(|it| it.honors(*at)));
        let reply = reply.map(|reply| reply.after(reply_position.map_or(0, |at| at.offset)));
        let opened = Opened {
            session: Session { expires_at: self.expires_at, ..session.clone() },
            position: Position {
                epoch: session.epoch.clone(),
                seq: honored.map_or(self.head_seq, |at| at.seq),
                reply: reply_position,
            },
            recovered: honored.is_some(),
            head_seq: self.head_seq,
            unanswered: self.unanswered(),
        };
        let queue = Arc::new(SubscriberQueue::new(capacity, filter, token.id));
        if let Some((expires_at, _)) = token.deadlines {
            self.token_deadlines.watch(token.id, expires_at);
        }
        self.subscribers.push(Arc::clone(&queue));
        Ok(NewSubscriber { queue, opened, reply })
    }

    pub(in crate::session::live) fn unsubscribe(&mut self, queue: &Arc<SubscriberQueue>) {
        self.subscribers.retain(|subscriber| !Arc::ptr_eq(subscriber, queue));
        if let Some(token) = queue.token()
            && !self.subscribers.iter().any(|subscriber| subscriber.token() == Some(token))
        {
            self.token_deadlines.forget(token);
        }
        if self.subscribers.is_empty() {
            // Frees the memory of a session that was widely watched and is idle now.
            self.subscribers = Vec::new();
            self.unwatched_since = Instant::now();
        }
    }

    /// Ends the streams that were opened with a token.
    pub(in crate::session::live) fn end_token(&mut self, token: TokenId, reason: ErrorKind) {
        self.token_deadlines.forget(token);
        self.retain_subscribers(reason, |of| of != token);
    }

    /// Ends the streams whose token is not one of these.
    pub(in crate::session::live) fn retain_tokens(&mut self, tokens: &[TokenId]) {
        self.retain_subscribers(ErrorKind::SessionRevoked, |of| tokens.contains(&of));
    }

    fn retain_subscribers(&mut self, reason: ErrorKind, is_valid: impl Fn(TokenId) -> bool) {
        self.subscribers.retain(|subscriber| {
            let keeps = subscriber.token().is_none_or(&is_valid);
            if !keeps {
                subscriber.close_now(reason);
            }
            keeps
        });
    }

    /// Returns the time since when the session has no subscriber. `None` if it has one.
    pub(in crate::session::live) fn unwatched_since(&self) -> Option<Instant> {
        self.subscribers.is_empty().then_some(self.unwatched_since)
    }

    /// Returns the first deadline of the session and of the tokens of its streams.
    pub(in crate::session::live) fn next_deadline(&self) -> Timestamp {
        self.token_deadlines.first().map_or(self.expires_at, |first| first.min(self.expires_at))
    }
}
