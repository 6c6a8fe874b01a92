//! A session that is active in this process: it has a subscriber, a call in progress, or a
//! turn that waits or runs.

mod remote;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{
    event::{Event, EventFilter},
    reply_draft::{Extended, ReplyLimits},
    state::{NewSubscriber, Published, State, Work},
    subscriber_queue::{QueueCapacity, SubscriberQueue},
    turn_queue::{Turn, TurnQueue},
};
use crate::session::{
    model::{
        Citation, Content, ErrorKind, Message, MessageId, Part, Position, Result, Session,
        Timestamp, TokenId, TokenRecord,
    },
    ports::{Appended, Entered, Known, Lease, Piece},
    turn::cancel::CancelReason,
};

/// One session and its state, under one lock.
#[derive(Debug)]
pub(in crate::session) struct ActiveSession {
    session: Session,
    // A std mutex: it is held for a few instructions and never across an await.
    state: Mutex<State>,
}

impl ActiveSession {
    /// Creates it from the state of the session in the store. Every later change must be reported
    /// to this process.
    pub(in crate::session) fn new(entered: Entered) -> Self {
        let Entered { session, head_seq, head, waiting, owner, lease, earlier, .. } = entered;
        let turns = TurnQueue::new(lease, waiting);
        let mut state = State::new(session.expires_at, head_seq, turns);
        state.head = head;
        state.earlier = earlier.map(Box::new);
        if let Some(owner) = owner {
            state.set_owner(owner);
        }
        Self { session, state: Mutex::new(state) }
    }

    /// Returns the session as it was loaded. Its deadline may have moved since.
    pub(in crate::session) const fn session(&self) -> &Session {
        &self.session
    }

    pub(in crate::session) fn expires_at(&self) -> Timestamp {
        self.state().expires_at
    }

    /// Returns the first deadline of the session and of the tokens of its streams.
    pub(in crate::session) fn next_deadline(&self) -> Timestamp {
        self.state().next_deadline()
    }

    /// Returns the time since when the session has no subscriber. `None` if it has one.
    pub(in crate::session) fn unwatched_since(&self) -> Option<Instant> {
        self.state().unwatched_since()
    }

    /// Returns the tokens of streams whose own deadline has passed.
    pub(in crate::session) fn due_tokens(&self, now: Timestamp) -> Vec<TokenId> {
        self.state().token_deadlines.due(now)
    }

    /// Moves the idle deadline forward.
    pub(in crate::session) fn renewed(&self, expires_at: Timestamp) {
        let mut state = self.state();
        state.expires_at = state.expires_at.max(expires_at);
    }

    /// Moves the token's own idle deadline forward.
    pub(in crate::session) fn token_renewed(&self, token: TokenId, expires_at: Timestamp) {
        self.state().token_deadlines.renew(token, expires_at);
    }

    /// Adds a subscriber, from a position or from the head of the log.
    ///
    /// # Errors
    /// `SessionExpired`, `SessionRevoked`, `Draining`, `TooManyStreams`.
    pub(in crate::session) fn subscribe(
        &self,
        requested: Option<&Position>,
        filter: EventFilter,
        token: &TokenRecord,
        capacity: QueueCapacity,
        max_subscribers: usize,
    ) -> Result<NewSubscriber> {
        self.state().subscribe(&self.session, requested, filter, token, capacity, max_subscribers)
    }

    pub(in crate::session) fn unsubscribe(&self, queue: &Arc<SubscriberQueue>) {
        self.state().unsubscribe(queue);
    }

    /// Fails with the reason once the session has ended.
    pub(in crate::session) fn check_readable(&self) -> Result<()> {
        self.state().ended.map_or(Ok(()), |reason| Err(reason.into()))
    }

    /// Fails once the session has ended or the gateway drains.
    pub(in crate::session) fn check_open(&self) -> Result<()> {
        self.state().check_open()
    }

    /// Publishes a committed message as soon as all messages before it are published.
    pub(in crate::session) fn publish(&self, message: Arc<Message>) -> Published {
        self.state().publish(message)
    }

    /// As [`Self::publish`], for a user message that this process has appended: begins the lease
    /// that came with it, and moves the idle deadline.
    pub(in crate::session) fn publish_appended(
        &self,
        appended: &Appended,
        token: TokenId,
    ) -> Published {
        self.state().publish_appended(appended, token)
    }

    /// As [`Self::publish`], for a reply that this process has appended under a lease. The lease may
    /// have ended with it.
    pub(in crate::session) fn publish_answer(&self, lease: Lease, appended: Appended) -> Published {
        self.state().publish_answer(lease, appended)
    }

    /// Takes note of a message that another process has appended: the log is read unless the
    /// message is published before.
    pub(in crate::session) fn announce(&self, seq: u32) -> Published {
        self.state().announce(seq)
    }

    /// Returns the number of the newest announced message.
    pub(in crate::session) fn announced_seq(&self) -> u32 {
        self.state().announced_seq()
    }

    /// Forgets an announcement: the log was read to its end after it, and does not hold the message.
    pub(in crate::session) fn forget_announced(&self, seq: u32) {
        self.state().forget_announced(seq);
    }

    /// Follows the state of the session in the store: its deadline, its lease and its head.
    pub(in crate::session) fn follow(&self, entered: &Entered) -> Published {
        self.state().follow(entered)
    }

    /// Gives up the turns of a lease that another process has taken over, and cancels the reply in
    /// progress.
    pub(in crate::session) fn lose_lease(&self, lease: Lease) {
        self.state().lose_lease(lease);
    }

    /// Returns true if this process answers the turns of the session.
    pub(in crate::session) fn has_lease(&self) -> bool {
        self.state().has_lease()
    }

    /// Returns the turns that wait for this process and are not in its queue.
    pub(in crate::session) fn unqueued_turns(&self) -> Vec<MessageId> {
        self.state().unqueued_turns()
    }

    /// Ends the streams whose token is not one of these.
    pub(in crate::session) fn retain_tokens(&self, tokens: &[TokenId]) {
        self.state().retain_tokens(tokens);
    }

    /// Returns the sequence number of the last published message.
    pub(in crate::session) fn head_seq(&self) -> u32 {
        self.state().head_seq
    }

    /// Returns the newest message that has arrived, for
    /// [`Peers::enter`](crate::session::ports::Peers::enter).
    pub(in crate::session) fn known(&self) -> Known {
        let (seq, message) = self.state().newest();
        Known { epoch: self.session.epoch.clone(), seq, message }
    }

    /// Returns true if a position of this log lies after every published message.
    pub(in crate::session) fn is_behind(&self, at: &Position) -> bool {
        at.epoch == self.session.epoch && at.seq > self.head_seq()
    }

    /// Returns true if the log holds messages that are not published.
    pub(in crate::session) fn has_gap(&self) -> bool {
        self.state().has_gap()
    }

    /// Queues a turn that another process has left unanswered.
    pub(in crate::session) fn resume(&self, turn: Turn) -> Published {
        self.state().resume(turn)
    }

    /// Returns true if the message is published and no turn for it is queued or running.
    pub(in crate::session) fn needs_turn_for(&self, message: &Message) -> bool {
        self.state().needs_turn_for(message)
    }

    /// Returns the next step of the turn runner. A reply that begins is not announced before
    /// [`Self::announce_reply`].
    pub(in crate::session) fn next_work(&self) -> Work {
        self.state().next_work()
    }

    /// Announces the reply once, and again if its context turns out to be trimmed.
    pub(in crate::session) fn announce_reply(&self, context_trimmed: bool) {
        self.state().announce_reply(context_trimmed);
    }

    /// Appends a piece to the reply in progress, up to its limits.
    pub(in crate::session) fn extend_reply(&self, piece: Piece, limits: ReplyLimits) -> Extended {
        self.state().extend_reply(piece, limits)
    }

    /// Adds a whole part to the reply in progress.
    pub(in crate::session) fn push_part(&self, part: Part, limits: ReplyLimits) -> Extended {
        self.state().push_part(part, limits)
    }

    /// Ends the open part of the reply in progress.
    pub(in crate::session) fn end_part(
        &self,
        citations: Vec<Citation>,
        provider_data: Option<Arc<str>>,
        limits: ReplyLimits,
    ) -> Extended {
        self.state().end_part(citations, provider_data, limits)
    }

    /// Makes the content of the reply final: a later stop has no effect. Returns the reason of an
    /// earlier cancellation.
    pub(in crate::session) fn end_reply(&self) -> Option<CancelReason> {
        self.state().end_reply()
    }

    /// Ends the open part of the reply, and returns the content to commit. A tool call without its
    /// end is dropped unless the reply is complete.
    pub(in crate::session) fn finish_content(&self, complete: bool) -> Content {
        self.state().finish_content(complete)
    }

    /// Returns the content of the reply in progress.
    pub(in crate::session) fn reply_content(&self) -> Content {
        self.state().reply_content()
    }

    /// Stops the turn of a user message's number: the running reply, or a turn that waits. Without
    /// a number: the reply in progress, or the next one. Returns false if there is none, or if it
    /// is being committed.
    pub(in crate::session) fn stop(&self, seq: Option<u32>) -> bool {
        self.state().stop(seq)
    }

    /// Ends the session in this process: subscribers receive nothing more of its log. The
    /// first reason wins.
    pub(in crate::session) fn end(&self, reason: ErrorKind) {
        self.state().end(reason);
    }

    /// Ends the session as revoked. Returns false if it had ended already, so that the end is
    /// counted once.
    pub(in crate::session) fn revoke(&self) -> bool {
        let mut state = self.state();
        let was_open = state.ended.is_none();
        state.end(ErrorKind::SessionRevoked);
        was_open
    }

    /// Ends the streams that were opened with a token.
    pub(in crate::session) fn end_token(&self, token: TokenId, reason: ErrorKind) {
        self.state().end_token(token, reason);
    }

    /// Sends each subscriber its own `go_away`, and closes the streams once no reply is queued
    /// or running.
    ///
    /// `hands_over`: turns that wait when no reply runs are handed over to another process.
    pub(in crate::session) fn drain(&self, hands_over: bool, go_away: impl Fn() -> Event) {
        self.state().drain(hands_over, go_away);
    }

    /// Runs the waiting turns in this process: no other one takes them over.
    pub(in crate::session) fn keep_turns(&self) {
        self.state().keep_turns();
    }

    /// Cancels the running reply and drops the queued turns: the next process runs them.
    pub(in crate::session) fn interrupt(&self) {
        self.state().interrupt();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves a queue too long or too short, never memory in
        // disorder, and must not take down other subscribers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::model::{
        Epoch, MessageId, Metadata, Name, ReplyFields, Role, SessionId, Status, UserFields,
    };

    fn live() -> ActiveSession {
        let expires_at = Timestamp::default().plus(Duration::from_secs(60));
        let session = Session {
            id: SessionId::generate(),
            name: Name::trusted("Ada"),
            epoch: Epoch::generate(),
            created_at: Timestamp::default(),
            expires_at,
            ends_at: expires_at,
            delete_at: Some(expires_at),
            title: None,
            metadata: Metadata::default(),
            subject: None,
        };
        ActiveSession::new(Entered {
            session,
            head_seq: 0,
            head: None,
            waiting: Vec::new(),
            owner: None,
            lease: Some(Lease::UNSHARED),
            newest_lease: None,
            earlier: None,
            lost: 0,
        })
    }

    fn message(seq: u32, role: Role) -> Arc<Message> {
        let (id, created_at) = (MessageId::generate(), Timestamp::default());
        let (content, metadata) = (Content::of_text("x"), Metadata::default());
        Arc::new(Message { seq, id, content, created_at, metadata, role })
    }

    fn user(seq: u32) -> Arc<Message> {
        message(seq, Role::User(UserFields::default()))
    }

    fn reply(seq: u32, to: &Message) -> Arc<Message> {
        message(seq, Role::Assistant(ReplyFields::new(to.id, to.seq, Status::Complete)))
    }

    fn extend(handle: &ActiveSession) -> Extended {
        let limits = ReplyLimits { max_size: 10, max_text_size: 10 };
        handle.extend_reply(Piece::Text("more".into()), limits)
    }

    fn subscribe(handle: &ActiveSession) -> Arc<SubscriberQueue> {
        let capacity = QueueCapacity { events: 8, bytes: 1000 };
        let token = TokenRecord::sample();
        handle.subscribe(None, EventFilter::All, &token, capacity, 1).unwrap().queue
    }

    /// Why the mailbox was closed, when everything in it has been read.
    fn closed(queue: &SubscriberQueue) -> Option<ErrorKind> {
        let next = || poll_fn(|cx| queue.poll_next(cx)).now_or_never();
        std::iter::from_fn(next).find_map(Result::err)
    }

    fn begins(handle: &ActiveSession, message: &Message) -> bool {
        matches!(handle.next_work(), Work::Turn(turn, ..) if turn.message.id == message.id)
    }

    #[test]
    fn a_late_reply_does_not_end_the_one_in_progress() {
        let (handle, one, two) = (live(), user(1), user(2));
        assert_eq!(handle.publish(Arc::clone(&one)), Published::RunTurns);
        assert_eq!(handle.publish(Arc::clone(&two)), Published::Done);
        assert!(begins(&handle, &one) && begins(&handle, &two));
        assert_eq!(handle.publish(reply(3, &one)), Published::Done);
        assert_eq!(extend(&handle), Extended::Whole);
        assert_eq!(handle.publish(reply(4, &two)), Published::Done);
        assert_eq!(extend(&handle), Extended::NoReply);
    }

    #[test]
    fn what_is_missing_comes_before_the_next_turn() {
        let (handle, one, two) = (live(), user(1), user(2));
        assert_eq!(handle.publish(Arc::clone(&two)), Published::RunTurns);
        assert!(matches!(handle.next_work(), Work::CatchUp));
        assert_eq!(handle.publish(Arc::clone(&one)), Published::Done);
        assert!(begins(&handle, &one) && begins(&handle, &two));
        assert!(matches!(handle.next_work(), Work::Nothing));
    }

    #[test]
    fn after_an_interruption_no_turn_begins_and_nobody_waits_for_one() {
        let (handle, one, two) = (live(), user(1), user(2));
        let queue = subscribe(&handle);
        assert_eq!(handle.publish(one), Published::RunTurns);
        handle.drain(false, || Event::GoAway(Duration::ZERO));
        assert_eq!(closed(&queue), None, "a turn waits");
        handle.interrupt();
        assert_eq!(closed(&queue), Some(ErrorKind::Draining));
        assert!(matches!(handle.next_work(), Work::Nothing));
        assert_eq!(handle.publish(two), Published::Done);
        assert!(matches!(handle.next_work(), Work::Nothing));
    }

    #[test]
    fn a_session_ends_once_for_its_first_reason() {
        let handle = live();
        let queue = subscribe(&handle);
        handle.end(ErrorKind::SessionRevoked);
        handle.end(ErrorKind::SessionExpired);
        assert_eq!(closed(&queue), Some(ErrorKind::SessionRevoked));
        let why = handle.check_readable().err().map(|error| error.kind());
        assert_eq!(why, Some(ErrorKind::SessionRevoked));
    }
}
