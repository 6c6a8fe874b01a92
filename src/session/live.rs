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
    event::{Interest, Opened},
    mailbox::{Capacity, Mailbox},
    position::Position,
};

/// A session that is live in this process.
#[derive(Debug)]
pub(super) struct Live {
    session: Session,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    expires_at: Timestamp,
    /// Number of the last message that was published.
    head_seq: u32,
    /// Committed messages whose predecessors are still on their way here.
    early: BTreeMap<u32, Arc<Message>>,
    watchers: Vec<Arc<Mailbox>>,
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
    pub(super) kept: Arc<str>,
}

#[derive(Debug)]
struct Reply {
    started: ReplyStarted,
    /// The watchers know that it has begun.
    announced: bool,
    /// Its text is whole and is being committed.
    ended: bool,
    cut: Arc<CutSwitch>,
}

/// Why a reply ends before its responder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A client's order.
    Stop,
    /// The gateway shuts down.
    Interrupt,
    /// The session is over.
    Ended,
}

/// Carries a [`Cut`] to the one who runs the reply; the first one counts.
#[derive(Debug, Default)]
pub(super) struct CutSwitch {
    state: Mutex<Switch>,
}

#[derive(Debug, Default)]
struct Switch {
    why: Option<Cut>,
    waits: Option<Waker>,
}

impl CutSwitch {
    fn throw(&self, why: Cut) {
        let mut switch = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        switch.why.get_or_insert(why);
        let waits = switch.waits.take();
        drop(switch);
        if let Some(waits) = waits {
            waits.wake();
        }
    }

    /// Waits until the reply is cut. Only the last who waits is woken.
    pub(super) async fn thrown(&self) -> Cut {
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
    fn why(&self) -> Option<Cut> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).why
    }
}

/// What a new watcher is given.
pub(super) struct Watch {
    pub(super) mailbox: Arc<Mailbox>,
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
    Turn(Turn, MessageId, Arc<CutSwitch>),
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

impl Live {
    /// `session` and `head_seq` as the store has them, while nobody else appends.
    pub(super) fn new(session: Session, head_seq: u32) -> Self {
        let state = State {
            expires_at: session.expires_at,
            head_seq,
            early: BTreeMap::new(),
            watchers: Vec::new(),
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
    pub(super) fn watch(
        &self,
        asked: Option<&Position>,
        interest: Interest,
        capacity: Capacity,
        max_watchers: usize,
    ) -> Result<Watch> {
        let mut state = self.state();
        state.check_open()?;
        if state.watchers.len() >= max_watchers {
            return Err(ErrorKind::TooManyStreams.into());
        }
        let known = |at: &&Position| at.epoch == self.session.epoch && at.seq <= state.head_seq;
        let honoured = asked.filter(known);
        let opened = Opened {
            session: Session { expires_at: state.expires_at, ..self.session.clone() },
            position: Position {
                epoch: self.session.epoch.clone(),
                seq: honoured.map_or(state.head_seq, |at| at.seq),
            },
            recovered: honoured.is_some(),
            head_seq: state.head_seq,
            unanswered: state.unanswered(),
        };
        let mailbox = Arc::new(Mailbox::new(capacity, interest));
        state.watchers.push(Arc::clone(&mailbox));
        let reply = state.reply.as_ref();
        let reply = reply.filter(|reply| reply.announced && interest == Interest::Everything);
        let reply = reply.map(|reply| reply.started.clone());
        Ok(Watch { mailbox, opened, reply })
    }

    /// Stops watching.
    pub(super) fn unwatch(&self, mailbox: &Arc<Mailbox>) {
        let mut state = self.state();
        state.watchers.retain(|watcher| !Arc::ptr_eq(watcher, mailbox));
        if state.watchers.is_empty() {
            state.watchers = Vec::new();
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
            state.early.insert(message.seq, message);
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
    pub(super) fn lacks_messages(&self) -> bool {
        self.state().lacks_messages()
    }

    /// Takes up turns that an earlier process left unanswered.
    pub(super) fn resume(&self, turn: Turn) -> Published {
        let mut state = self.state();
        state.turns.push_back(turn);
        state.start_running()
    }

    /// Whether this message has been published, and no turn of it waits or runs.
    pub(super) fn is_without(&self, message: &Message) -> bool {
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
        if state.lacks_messages() {
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
        let watched = state.is_watched_closely();
        let Some(reply) = &mut state.reply else { return };
        if reply.announced && reply.started.context_trimmed >= context_trimmed {
            return;
        }
        reply.announced = true;
        reply.started.context_trimmed |= context_trimmed;
        if watched {
            let started = Arc::new(reply.started.clone());
            state.tell(&Event::ReplyStarted(started));
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
        if state.is_watched_closely() {
            state.tell(&Event::Delta { reply, index, text: Arc::new(text) });
        }
        extended
    }

    /// The reply grows no more: from here on a stop comes too late. One that came before
    /// is returned.
    pub(super) fn end_reply(&self) -> Option<Cut> {
        let mut state = self.state();
        let reply = state.reply.as_mut()?;
        reply.ended = true;
        reply.cut.why()
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
                reply.cut.throw(Cut::Stop);
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
    pub(super) fn drain(&self, come_back: impl Fn() -> Event) {
        let mut state = self.state();
        for watcher in &state.watchers {
            watcher.push(&come_back());
        }
        state.draining = true;
        state.let_go_if_quiet();
    }

    /// The gateway has no time left: ends the reply, leaves the turns behind it, and those
    /// that are still being committed.
    pub(super) fn interrupt(&self) {
        let mut state = self.state();
        state.interrupted = true;
        state.turns.clear();
        if let Some(reply) = &state.reply {
            reply.cut.throw(Cut::Interrupt);
        }
        state.let_go_if_quiet();
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
        let first = self.early.first_entry()?;
        (*first.key() == self.head_seq + 1).then(|| first.remove())
    }

    fn commit(&mut self, message: &Arc<Message>) {
        self.head_seq = message.seq;
        self.tell(&Event::Message(Arc::clone(message)));
        match &message.role {
            Role::User { .. } if self.interrupted => {}
            Role::User { .. } => {
                let (message, kept) = (Arc::clone(message), Arc::default());
                self.turns.push_back(Turn { message, attempt: 1, kept });
            }
            Role::Assistant { in_reply_to, .. } => {
                // By the turn: where a reply was committed twice, the first one's id counts.
                self.reply.take_if(|reply| reply.started.in_reply_to == *in_reply_to);
                self.let_go_if_quiet();
            }
        }
    }

    /// Messages wait for their predecessors; in a session that has ended nobody does.
    fn lacks_messages(&self) -> bool {
        self.ended.is_none() && !self.early.is_empty()
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
        let cut = Arc::new(CutSwitch::default());
        if std::mem::take(&mut self.stop_next) {
            cut.throw(Cut::Stop);
        }
        let id = started.reply;
        self.reply = Some(Reply { started, announced: false, ended: false, cut: Arc::clone(&cut) });
        Work::Turn(turn, id, cut)
    }

    fn stop_running(&mut self) -> Work {
        self.running = false;
        // One whose message was published before it began has not been cleared by it.
        self.reply = None;
        self.let_go_if_quiet();
        Work::Nothing
    }

    /// User messages that wait for their reply, those included that nobody knows yet.
    fn unanswered(&self) -> Vec<MessageId> {
        let replying = self.reply.as_ref().map(|reply| reply.started.in_reply_to);
        let waiting = self.turns.iter().map(|turn| turn.message.id);
        let early = self.early.values().map(|message| message.id);
        replying.into_iter().chain(waiting).chain(early).collect()
    }

    fn start_running(&mut self) -> Published {
        if self.running || (self.turns.is_empty() && !self.lacks_messages()) {
            return Published::Done;
        }
        self.running = true;
        Published::RunTurns
    }

    fn tell(&self, event: &Event) {
        for watcher in &self.watchers {
            watcher.push(event);
        }
    }

    /// Somebody wants to know how the reply comes on.
    fn is_watched_closely(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.interest() == Interest::Everything)
    }

    fn end(&mut self, why: ErrorKind) {
        let why = *self.ended.get_or_insert(why);
        self.turns.clear();
        if let Some(reply) = &self.reply {
            reply.cut.throw(Cut::Ended);
        }
        for watcher in std::mem::take(&mut self.watchers) {
            watcher.shut(why);
        }
    }

    fn let_go_if_quiet(&mut self) {
        let quiet = self.reply.is_none() && self.turns.is_empty();
        if self.draining && quiet {
            for watcher in std::mem::take(&mut self.watchers) {
                watcher.close(ErrorKind::Draining);
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

    fn live() -> Live {
        let expires_at = Timestamp::default().plus(Duration::from_secs(60));
        let session = Session {
            id: SessionId::generate(),
            name: Name::trusted("Ada"),
            epoch: Epoch::generate(),
            created_at: Timestamp::default(),
            expires_at,
            ends_at: expires_at,
        };
        Live::new(session, 0)
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

    fn watch(live: &Live) -> Arc<Mailbox> {
        let capacity = Capacity { events: 8, bytes: 1000 };
        live.watch(None, Interest::Everything, capacity, 1).unwrap().mailbox
    }

    /// Why the mailbox was closed, when everything in it has been read.
    fn closed(mailbox: &Mailbox) -> Option<ErrorKind> {
        let next = || poll_fn(|cx| mailbox.poll_next(cx)).now_or_never();
        std::iter::from_fn(next).find_map(Result::err)
    }

    fn begins(live: &Live, message: &Message) -> bool {
        matches!(live.next_work(), Work::Turn(turn, ..) if turn.message.id == message.id)
    }

    #[test]
    fn a_late_reply_does_not_end_the_one_in_progress() {
        let (live, one, two) = (live(), user(1), user(2));
        assert_eq!(live.publish(Arc::clone(&one)), Published::RunTurns);
        assert_eq!(live.publish(Arc::clone(&two)), Published::Done);
        assert!(begins(&live, &one) && begins(&live, &two));
        assert_eq!(live.publish(reply(3, &one)), Published::Done);
        assert_eq!(live.extend_reply("more".into(), 10), Extended::Whole);
        assert_eq!(live.publish(reply(4, &two)), Published::Done);
        assert_eq!(live.extend_reply("more".into(), 10), Extended::NoReply);
    }

    #[test]
    fn what_is_missing_comes_before_the_next_turn() {
        let (live, one, two) = (live(), user(1), user(2));
        assert_eq!(live.publish(Arc::clone(&two)), Published::RunTurns);
        assert!(matches!(live.next_work(), Work::CatchUp));
        assert_eq!(live.publish(Arc::clone(&one)), Published::Done);
        assert!(begins(&live, &one) && begins(&live, &two));
        assert!(matches!(live.next_work(), Work::Nothing));
    }

    #[test]
    fn after_an_interruption_no_turn_begins_and_nobody_waits_for_one() {
        let (live, one, two) = (live(), user(1), user(2));
        let mailbox = watch(&live);
        assert_eq!(live.publish(one), Published::RunTurns);
        live.drain(|| Event::GoAway(Duration::ZERO));
        assert_eq!(closed(&mailbox), None, "a turn waits");
        live.interrupt();
        assert_eq!(closed(&mailbox), Some(ErrorKind::Draining));
        assert!(matches!(live.next_work(), Work::Nothing));
        assert_eq!(live.publish(two), Published::Done);
        assert!(matches!(live.next_work(), Work::Nothing));
    }

    #[test]
    fn a_session_ends_once_for_its_first_reason() {
        let live = live();
        let mailbox = watch(&live);
        live.end(ErrorKind::SessionRevoked);
        live.end(ErrorKind::SessionExpired);
        assert_eq!(closed(&mailbox), Some(ErrorKind::SessionRevoked));
        let why = live.check_readable().err().map(|error| error.kind());
        assert_eq!(why, Some(ErrorKind::SessionRevoked));
    }
}
