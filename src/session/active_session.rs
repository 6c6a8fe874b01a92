//! One session that somebody watches, writes to, or waits for a reply in.
//!
//! Everything that must happen in one order happens under one lock: a message is
//! given to every watcher, and its turn to the queue, in the order of the numbers;
//! a watcher that comes learns the head of the log and the reply in progress in the
//! same moment that it starts to listen, so that what it reads from the log and what
//! it is sent fit together without a gap and without a duplicate.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use super::{
    Error, ErrorKind, Event, Message, MessageId, ReplyStarted, Result, Role, Session, Timestamp,
    event::{EventFilter, Opened},
    position::Position,
    subscriber_queue::{Capacity, SubscriberQueue},
};

/// A session that is live in this process.
#[derive(Debug)]
pub(super) struct ActiveSession {
    session: Session,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    expires_at: Timestamp,
    /// Number of the last message that was published.
    head_seq: u32,
    /// Committed messages whose predecessors are still on their way here.
    out_of_order: BTreeMap<u32, Arc<Message>>,
    subscribers: Vec<Arc<SubscriberQueue>>,
    turns: VecDeque<Turn>,
    reply: Option<Reply>,
    /// A task runs the turns.
    running: bool,
    stop_next: bool,
    draining: bool,
    /// No turn begins any more: those that wait, or come late, are for the next process.
    interrupted: bool,
    ended: Option<ErrorKind>,
}

/// A user message that waits for its reply.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) message: Arc<Message>,
    pub(super) attempt: u32,
    /// What an earlier attempt had produced when it died.
    pub(super) partial: Arc<str>,
}

#[derive(Debug)]
struct Reply {
    started: ReplyStarted,
    /// The watchers know that it has begun.
    announced: bool,
    /// Its text is whole and is being committed.
    ended: bool,
    cut: Arc<CancelSignal>,
}

/// Why a reply ends before its responder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelReason {
    /// A client's order.
    Stop,
    /// The gateway shuts down.
    Interrupt,
    /// The session is over.
    Ended,
}

/// Carries a [`CancelReason`] to the one who runs the reply; the first one counts.
#[derive(Debug, Default)]
pub(super) struct CancelSignal {
    state: Mutex<Switch>,
}

#[derive(Debug, Default)]
struct Switch {
    why: Option<CancelReason>,
    waits: Option<Waker>,
}

impl CancelSignal {
    fn cancel(&self, why: CancelReason) {
        let mut switch = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        switch.why.get_or_insert(why);
        let waits = switch.waits.take();
        drop(switch);
        if let Some(waits) = waits {
            waits.wake();
        }
    }

    /// Waits until the reply is cut. Only the last who waits is woken.
    pub(super) async fn cancelled(&self) -> CancelReason {
        poll_fn(|cx| {
            let mut switch = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(why) = switch.why {
                return Poll::Ready(why);
            }
            match &mut switch.waits {
                Some(waits) => waits.clone_from(cx.waker()),
                waits => *waits = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Why the reply was cut, if it was.
    fn reason(&self) -> Option<CancelReason> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).why
    }
}

/// What a new watcher is given.
pub(super) struct NewSubscriber {
    pub(super) queue: Arc<SubscriberQueue>,
    pub(super) opened: Opened,
    pub(super) reply: Option<ReplyStarted>,
}

/// What publishing a message asks of its caller.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// Start a task that runs the turns.
    RunTurns,
    /// Nothing.
    Done,
}

/// What the task that runs the turns does next.
#[derive(Debug)]
pub(super) enum Work {
    /// Publish what is missing: messages are known here whose predecessors are not.
    CatchUp,
    /// Run this turn, under this id of its reply.
    Turn(Turn, MessageId, Arc<CancelSignal>),
    /// End. The turns no longer run.
    Nothing,
}

/// What became of a piece of a reply.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extended {
    /// The reply is longer by it.
    Whole,
    /// The reply has no room for all of it.
    TooLong,
    /// There is no reply in progress.
    NoReply,
}

impl ActiveSession {
    /// `session` and `head_seq` as the store has them, while nobody else appends.
    pub(super) fn new(session: Session, head_seq: u32) -> Self {
        let state = State {
            expires_at: session.expires_at,
            head_seq,
            out_of_order: BTreeMap::new(),
            subscribers: Vec::new(),
            turns: VecDeque::new(),
            reply: None,
            running: false,
            stop_next: false,
            draining: false,
            interrupted: false,
            ended: None,
        };
        Self { session, state: Mutex::new(state) }
    }

    /// The session as it was when it became live; its deadline may have moved since.
    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.state().expires_at
    }

    /// The idle deadline moved.
    pub(super) fn renewed(&self, expires_at: Timestamp) {
        let mut state = self.state();
        state.expires_at = state.expires_at.max(expires_at);
    }

    /// Starts to watch, from `asked` or from now on.
    pub(super) fn subscribe(
        &self,
        asked: Option<&Position>,
        filter: EventFilter,
        capacity: Capacity,
        max_subscribers: usize,
    ) -> Result<NewSubscriber> {
        let mut state = self.state();
        state.check_open()?;
        if state.subscribers.len() >= max_subscribers {
            return Err(ErrorKind::TooManyStreams.into());
        }
        let known = |at: &&Position| at.epoch == self.session.epoch && at.seq <= state.head_seq;
        let honored = asked.filter(known);
        let opened = Opened {
            session: Session { expires_at: state.expires_at, ..self.session.clone() },
            position: Position {
                epoch: self.session.epoch.clone(),
                seq: honored.map_or(state.head_seq, |at| at.seq),
            },
            recovered: honored.is_some(),
            head_seq: state.head_seq,
            unanswered: state.unanswered(),
        };
        let queue = Arc::new(SubscriberQueue::new(capacity, filter));
        state.subscribers.push(Arc::clone(&queue));
        let reply = state.reply.as_ref();
        let reply = reply.filter(|reply| reply.announced && filter == EventFilter::All);
        let reply = reply.map(|reply| reply.started.clone());
        Ok(NewSubscriber { queue, opened, reply })
    }

    /// Stops watching.
    pub(super) fn unsubscribe(&self, queue: &Arc<SubscriberQueue>) {
        let mut state = self.state();
        state.subscribers.retain(|subscriber| !Arc::ptr_eq(subscriber, queue));
        if state.subscribers.is_empty() {
            state.subscribers = Vec::new();
        }
    }

    /// Why nobody may read the session any more, if it is over.
    pub(super) fn check_readable(&self) -> Result<()> {
        self.state().ended.map_or(Ok(()), |why| Err(why.into()))
    }

    /// Refuses what a session that has ended cannot do.
    pub(super) fn check_open(&self) -> Result<()> {
        self.state().check_open()
    }

    /// Tells everyone of a committed message, as soon as everyone knows its predecessors.
    pub(super) fn publish(&self, message: Arc<Message>) -> Published {
        let mut state = self.state();
        if message.seq > state.head_seq {
            state.out_of_order.insert(message.seq, message);
        }
        while let Some(message) = state.next_in_order() {
            state.commit(&message);
        }
        state.start_running()
    }

    /// Number of the last message that was published.
    pub(super) fn head_seq(&self) -> u32 {
        self.state().head_seq
    }

    /// Whether a position in this log lies after everything that was published.
    pub(super) fn is_behind(&self, at: &Position) -> bool {
        at.epoch == self.session.epoch && at.seq > self.head_seq()
    }

    /// Messages are known here whose predecessors are not.
    pub(super) fn has_gap(&self) -> bool {
        self.state().has_gap()
    }

    /// Takes up turns that an earlier process left unanswered.
    pub(super) fn resume(&self, turn: Turn) -> Published {
        let mut state = self.state();
        state.turns.push_back(turn);
        state.start_running()
    }

    /// Whether this message has been published, and no turn of it waits or runs.
    pub(super) fn needs_turn_for(&self, message: &Message) -> bool {
        let state = self.state();
        let runs = |reply: &Reply| reply.started.in_reply_to == message.id;
        state.ended.is_none()
            && message.seq <= state.head_seq
            && !state.turns.iter().any(|turn| turn.message.id == message.id)
            && !state.reply.as_ref().is_some_and(runs)
    }

    /// What to do next for one who runs the turns. The watchers learn of a reply that begins
    /// by [`Self::announce_reply`].
    pub(super) fn next_work(&self) -> Work {
        let mut state = self.state();
        if state.has_gap() {
            return Work::CatchUp;
        }
        let turn = state.turns.pop_front().filter(|_| state.ended.is_none());
        match turn {
            Some(turn) => state.begin_reply(turn),
            None => state.stop_running(),
        }
    }

    /// Tells that the reply has begun, once, and again if its context turns out to be
    /// trimmed.
    pub(super) fn announce_reply(&self, context_trimmed: bool) {
        let mut state = self.state();
        let watched = state.wants_deltas();
        let Some(reply) = &mut state.reply else { return };
        if reply.announced && reply.started.context_trimmed >= context_trimmed {
            return;
        }
        reply.announced = true;
        reply.started.context_trimmed |= context_trimmed;
        if watched {
            let started = Arc::new(reply.started.clone());
            state.broadcast(&Event::ReplyStarted(started));
        }
    }

    /// Adds to the reply in progress as much as fits into `max_size` bytes.
    pub(super) fn extend_reply(&self, mut text: String, max_size: usize) -> Extended {
        let mut state = self.state();
        let Some(Reply { started, .. }) = &mut state.reply else {
            return Extended::NoReply;
        };
        let room = max_size.saturating_sub(started.text.len());
        let extended = if text.len() <= room { Extended::Whole } else { Extended::TooLong };
        text.truncate(text.floor_char_boundary(room));
        if text.is_empty() {
            return extended;
        }
        let index = started.next_index;
        started.next_index += 1;
        started.text.push_str(&text);
        let reply = started.reply;
        if state.wants_deltas() {
            state.broadcast(&Event::Delta { reply, index, text: Arc::new(text) });
        }
        extended
    }

    /// The reply grows no more: from here on a stop comes too late. One that came before
    /// is returned.
    pub(super) fn end_reply(&self) -> Option<CancelReason> {
        let mut state = self.state();
        let reply = state.reply.as_mut()?;
        reply.ended = true;
        reply.cut.reason()
    }

    /// The text of the reply in progress.
    pub(super) fn reply_text(&self) -> Arc<str> {
        let state = self.state();
        state.reply.as_ref().map_or_else(|| "".into(), |reply| reply.started.text.as_str().into())
    }

    /// Stops the reply in progress, or the next one. False if there is none, or if it has
    /// ended and is being committed.
    pub(super) fn stop(&self) -> bool {
        let mut state = self.state();
        if let Some(reply) = &state.reply {
            if !reply.ended {
                reply.cut.cancel(CancelReason::Stop);
            }
            return !reply.ended;
        }
        state.stop_next = !state.turns.is_empty();
        state.stop_next
    }

    /// Ends the session here: nobody reads another byte of it. The first reason counts.
    pub(super) fn end(&self, why: ErrorKind) {
        self.state().end(why);
    }

    /// Ends it as revoked. False if it had ended already: its end is counted once, whoever
    /// notices.
    pub(super) fn revoke(&self) -> bool {
        let mut state = self.state();
        let is_news = state.ended.is_none();
        state.end(ErrorKind::SessionRevoked);
        is_news
    }

    /// The gateway shuts down: tells each watcher when to come back, and lets go of
    /// those for whom nothing is under way.
    pub(super) fn drain(&self, reconnect_delay: impl Fn() -> Event) {
        let mut state = self.state();
        for subscriber in &state.subscribers {
            subscriber.push(&reconnect_delay());
        }
        state.draining = true;
        state.close_if_idle();
    }

    /// The gateway has no time left: ends the reply, leaves the turns behind it, and those
    /// that are still being committed.
    pub(super) fn interrupt(&self) {
        let mut state = self.state();
        state.interrupted = true;
        state.turns.clear();
        if let Some(reply) = &state.reply {
            reply.cut.cancel(CancelReason::Interrupt);
        }
        state.close_if_idle();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would have left a queue too long or too
        // short, never memory in disorder: the others need not die of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_open(&self) -> Result<()> {
        let draining = self.draining.then_some(ErrorKind::Draining);
        self.ended.or(draining).map_or(Ok(()), |why| Err(Error::from(why)))
    }

    fn next_in_order(&mut self) -> Option<Arc<Message>> {
        let first = self.out_of_order.first_entry()?;
        (*first.key() == self.head_seq + 1).then(|| first.remove())
    }

    fn commit(&mut self, message: &Arc<Message>) {
        self.head_seq = message.seq;
        self.broadcast(&Event::Message(Arc::clone(message)));
        match &message.role {
            Role::User { .. } if self.interrupted => {}
            Role::User { .. } => {
                let (message, partial) = (Arc::clone(message), Arc::default());
                self.turns.push_back(Turn { message, attempt: 1, partial });
            }
            Role::Assistant { in_reply_to, .. } => {
                // By the turn: where a reply was committed twice, the first one's id counts.
                self.reply.take_if(|reply| reply.started.in_reply_to == *in_reply_to);
                self.close_if_idle();
            }
        }
    }

    /// Messages wait for their predecessors; in a session that has ended nobody does.
    fn has_gap(&self) -> bool {
        self.ended.is_none() && !self.out_of_order.is_empty()
    }

    fn begin_reply(&mut self, turn: Turn) -> Work {
        let started = ReplyStarted {
            reply: MessageId::generate(),
            in_reply_to: turn.message.id,
            attempt: turn.attempt,
            context_trimmed: false,
            text: String::new(),
            next_index: 0,
        };
        let cut = Arc::new(CancelSignal::default());
        if std::mem::take(&mut self.stop_next) {
            cut.cancel(CancelReason::Stop);
        }
        let id = started.reply;
        self.reply = Some(Reply { started, announced: false, ended: false, cut: Arc::clone(&cut) });
        Work::Turn(turn, id, cut)
    }

    fn stop_running(&mut self) -> Work {
        self.running = false;
        // One whose message was published before it began has not been cleared by it.
        self.reply = None;
        self.close_if_idle();
        Work::Nothing
    }

    /// User messages that wait for their reply, those included that nobody knows yet.
    fn unanswered(&self) -> Vec<MessageId> {
        let replying = self.reply.as_ref().map(|reply| reply.started.in_reply_to);
        let waiting = self.turns.iter().map(|turn| turn.message.id);
        let out_of_order = self.out_of_order.values().map(|message| message.id);
        replying.into_iter().chain(waiting).chain(out_of_order).collect()
    }

    fn start_running(&mut self) -> Published {
        if self.running || (self.turns.is_empty() && !self.has_gap()) {
            return Published::Done;
        }
        self.running = true;
        Published::RunTurns
    }

    fn broadcast(&self, event: &Event) {
        for subscriber in &self.subscribers {
            subscriber.push(event);
        }
    }

    /// Somebody wants to know how the reply comes on.
    fn wants_deltas(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.filter() == EventFilter::All)
    }

    fn end(&mut self, why: ErrorKind) {
        let why = *self.ended.get_or_insert(why);
        self.turns.clear();
        if let Some(reply) = &self.reply {
            reply.cut.cancel(CancelReason::Ended);
        }
        for subscriber in std::mem::take(&mut self.subscribers) {
            subscriber.shut(why);
        }
    }

    fn close_if_idle(&mut self) {
        let quiet = self.reply.is_none() && self.turns.is_empty();
        if self.draining && quiet {
            for subscriber in std::mem::take(&mut self.subscribers) {
                subscriber.close(ErrorKind::Draining);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::{Epoch, Name, SessionId, Status};

    fn live() -> ActiveSession {
        let expires_at = Timestamp::default().plus(Duration::from_secs(60));
        let session = Session {
            id: SessionId::generate(),
            name: Name::trusted("Ada"),
            epoch: Epoch::generate(),
            created_at: Timestamp::default(),
            expires_at,
            ends_at: expires_at,
        };
        ActiveSession::new(session, 0)
    }

    fn message(seq: u32, role: Role) -> Arc<Message> {
        let (id, created_at) = (MessageId::generate(), Timestamp::default());
        Arc::new(Message { seq, id, text: "x".into(), created_at, role })
    }

    fn user(seq: u32) -> Arc<Message> {
        message(seq, Role::User { client_message_id: None })
    }

    fn reply(seq: u32, to: &Message) -> Arc<Message> {
        let (finish_reason, usage) = (None, None);
        let status = Status::Complete;
        message(seq, Role::Assistant { in_reply_to: to.id, status, finish_reason, usage })
    }

    fn subscribe(handle: &ActiveSession) -> Arc<SubscriberQueue> {
        let capacity = Capacity { events: 8, bytes: 1000 };
        handle.subscribe(None, EventFilter::All, capacity, 1).unwrap().queue
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
        assert_eq!(handle.extend_reply("more".into(), 10), Extended::Whole);
        assert_eq!(handle.publish(reply(4, &two)), Published::Done);
        assert_eq!(handle.extend_reply("more".into(), 10), Extended::NoReply);
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
        handle.drain(|| Event::GoAway(Duration::ZERO));
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
