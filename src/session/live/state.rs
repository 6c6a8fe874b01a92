//! The state of one active session: pure, without locks or I/O.
//!
//! [`ActiveSession`](super::ActiveSession) holds it under one lock, so that everything that
//! must happen in one order does: a message goes to every subscriber, and its turn into the
//! queue, in the order of the numbers.

mod local_reply;
mod remote;
mod subscribers;

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::{
    encoded::EncodedForms,
    event::{Event, MessageEvent, Opened},
    remote_owner::RemoteOwner,
    reply_in_progress::{ReplyInProgress, ReplySoFar, ShownReply},
    subscriber_queue::SubscriberQueue,
    token_deadlines::TokenDeadlines,
    turn_queue::{Turn, TurnQueue},
};
use crate::session::{
    model::{Error, ErrorKind, Message, MessageId, Position, Result, Role, Timestamp, TokenId},
    ports::{Appended, Entered, Lease},
    turn::cancel::{CancelReason, CancelSignal},
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) expires_at: Timestamp,
    pub(super) token_deadlines: TokenDeadlines,
    /// The time at which the last subscriber left, or the session was loaded.
    unwatched_since: Instant,
    /// Sequence number of the last published message.
    pub(super) head_seq: u32,
    /// Its id, if it is known.
    pub(super) head: Option<MessageId>,
    /// The last position of the log under its earlier epoch.
    pub(super) earlier: Option<Box<Position>>,
    /// Committed messages that arrived before one of their predecessors.
    out_of_order: BTreeMap<u32, Arc<Message>>,
    /// Number of a message that another process has appended. It may not be published yet.
    announced_seq: u32,
    subscribers: Vec<Arc<SubscriberQueue>>,
    turns: TurnQueue,
    /// Boxed: most sessions that are watched have none.
    reply: Option<Box<ReplyInProgress>>,
    /// The process that answers the turns, if it is another one. Boxed for the same reason.
    remote: Option<Box<RemoteOwner>>,
    /// A turn runner exists.
    running: bool,
    draining: bool,
    /// Turns that wait when no reply runs are handed over to another process.
    hands_over: bool,
    /// No turn begins any more: waiting and later turns are left to the next process.
    interrupted: bool,
    pub(super) ended: Option<ErrorKind>,
}

/// The result of a subscription.
pub(in crate::session) struct NewSubscriber {
    pub(in crate::session) queue: Arc<SubscriberQueue>,
    pub(in crate::session) opened: Opened,
    /// The reply in progress, if the subscriber receives deltas.
    pub(in crate::session) reply: Option<ReplySoFar>,
}

/// The obligation that publishing a message leaves to its caller.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Published {
    /// Start a turn runner.
    RunTurns,
    /// None.
    Done,
}

/// The next step of a turn runner.
#[derive(Debug)]
pub(in crate::session) enum Work {
    /// Read and publish missing messages: some arrived before their predecessors.
    CatchUp,
    /// Run this turn. The id is that of its reply.
    Turn(Turn, MessageId, Arc<CancelSignal>),
    /// Hand the waiting turns over to another process.
    HandOver(Lease),
    /// Exit. The state no longer counts a runner.
    Nothing,
}

impl State {
    pub(super) fn new(expires_at: Timestamp, head_seq: u32, turns: TurnQueue) -> Self {
        Self {
            expires_at,
            token_deadlines: TokenDeadlines::default(),
            unwatched_since: Instant::now(),
            head_seq,
            head: None,
            earlier: None,
            announced_seq: head_seq,
            out_of_order: BTreeMap::new(),
            subscribers: Vec::new(),
            turns,
            reply: None,
            remote: None,
            running: false,
            draining: false,
            hands_over: false,
            interrupted: false,
            ended: None,
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        let draining = self.draining.then_some(ErrorKind::Draining);
        self.ended.or(draining).map_or(Ok(()), |reason| Err(Error::from(reason)))
    }

    /// Returns number and id of the newest message that has arrived.
    pub(super) fn newest(&self) -> (u32, Option<MessageId>) {
        match self.out_of_order.last_key_value() {
            Some((seq, message)) => (*seq, Some(message.id)),
            None => (self.head_seq, self.head),
        }
    }

    pub(super) fn publish(&mut self, message: Arc<Message>) -> Published {
        // Most messages arrive in order.
        if message.seq == self.head_seq + 1 {
            self.commit(&message);
        } else if message.seq > self.head_seq {
            self.out_of_order.insert(message.seq, message);
        }
        while let Some(message) = self.next_in_order() {
            self.commit(&message);
        }
        self.start_running()
    }

    fn next_in_order(&mut self) -> Option<Arc<Message>> {
        let first = self.out_of_order.first_entry()?;
        (*first.key() == self.head_seq + 1).then(|| first.remove())
    }

    fn commit(&mut self, message: &Arc<Message>) {
        self.head_seq = message.seq;
        self.head = Some(message.id);
        // Each subscription finds out by itself whether it has to show the parent.
        let (message_of_event, encoded) = (Arc::clone(message), EncodedForms::default());
        let event = MessageEvent { message: message_of_event, shows_parent: false, encoded };
        self.broadcast(Event::Message(event));
        match &message.role {
            Role::User(_) if self.interrupted => {}
            Role::User(_) => self.turns.push(message),
            Role::Assistant(fields) => {
                // Compared by turn, not by reply: if two attempts committed, the log holds
                // the id of the first.
                let reply = self.reply.take_if(|reply| reply.turn_seq == fields.turn_seq);
                if let Some(reply) = reply {
                    reply.answered();
                }
                self.turns.remove_answered(fields.turn_seq);
                self.remote_answered(fields.turn_seq);
                self.close_if_idle();
            }
        }
    }

    /// Publishes a message that this process has appended, and begins the lease that came with it.
    pub(super) fn publish_appended(&mut self, appended: &Appended, token: TokenId) -> Published {
        self.expires_at = self.expires_at.max(appended.expires_at);
        if let Some(expires_at) = appended.token_expires_at {
            self.token_deadlines.renew(token, expires_at);
        }
        // The head at the time of an earlier append is not known: `follow` begins its lease.
        if let Some(lease) = appended.lease
            && !appended.duplicate
        {
            self.turns.begin_lease(lease);
        }
        self.publish(Arc::clone(&appended.message))
    }

    /// Publishes a reply that this process has appended. The lease may have ended with it.
    pub(super) fn publish_answer(&mut self, lease: Lease, appended: Appended) -> Published {
        if appended.lease.is_none() {
            self.end_lease(lease);
        }
        self.publish(appended.message)
    }

    /// Takes note of a message that is in the log: it is read unless it is published before.
    pub(super) fn announce(&mut self, seq: u32) -> Published {
        self.announced_seq = self.announced_seq.max(seq);
        self.start_running()
    }

    /// Returns the number of the newest announced message.
    pub(super) const fn announced_seq(&self) -> u32 {
        self.announced_seq
    }

    /// Forgets an announcement: the log was read to its end after it, and does not hold the message.
    pub(super) fn forget_announced(&mut self, seq: u32) {
        if self.announced_seq == seq {
            self.announced_seq = self.head_seq;
        }
    }

    /// Follows the state of the session in the store.
    pub(super) fn follow(&mut self, entered: &Entered) -> Published {
        self.expires_at = self.expires_at.max(entered.session.expires_at);
        // Results may arrive out of order, but leases only rise.
        let own = self.turns.lease().filter(|own| Some(*own) < entered.newest_lease);
        if let Some(own) = own.filter(|own| own.is_shared()) {
            self.lose_lease(own);
        }
        if let Some(lease) = entered.lease {
            self.turns.begin_lease(lease);
        }
        if let Some(owner) = entered.owner {
            self.set_owner(owner);
        }
        self.announce(entered.head_seq)
    }

    fn end_lease(&mut self, lease: Lease) {
        self.turns.end_lease(lease);
        if !self.turns.has_lease() {
            self.close_peers();
        }
    }

    /// Gives up the turns of a lease that another process has taken over, and the reply in
    /// progress with them.
    pub(super) fn lose_lease(&mut self, lease: Lease) {
        self.end_lease(lease);
        if let Some(reply) = self.reply.take_if(|reply| reply.lease == lease) {
            reply.cancel.cancel(CancelReason::LeaseLost);
        }
    }

    pub(super) fn has_lease(&self) -> bool {
        self.turns.has_lease()
    }

    pub(super) fn unqueued_turns(&self) -> Vec<MessageId> {
        self.turns.unqueued()
    }

    /// Returns true if a message waits for a predecessor, or is announced and not published. Always
    /// false once the session has ended: nothing is published any more.
    pub(super) fn has_gap(&self) -> bool {
        let is_behind = !self.out_of_order.is_empty() || self.announced_seq > self.head_seq;
        self.ended.is_none() && is_behind
    }

    /// Queues a turn that another process has left unanswered.
    pub(super) fn resume(&mut self, turn: Turn) -> Published {
        self.turns.resume(turn);
        self.start_running()
    }

    pub(super) fn needs_turn_for(&self, message: &Message) -> bool {
        let is_running = self.reply.as_ref().is_some_and(|it| it.started.in_reply_to == message.id);
        self.ended.is_none()
            && message.seq <= self.head_seq
            && !self.turns.is_queued(message.id)
            && !is_running
    }

    pub(super) fn next_work(&mut self) -> Work {
        if self.has_gap() {
            return Work::CatchUp;
        }
        if self.hands_over
            && !self.turns.is_idle()
            && let Some(lease) = self.turns.lease()
        {
            self.reply = None;
            return Work::HandOver(lease);
        }
        let turn = self.turns.pop().filter(|_| self.ended.is_none());
        match turn {
            Some(turn) => self.begin_reply(turn),
            None => self.stop_running(),
        }
    }

    fn begin_reply(&mut self, turn: Turn) -> Work {
        if let Some(remote) = &mut self.remote {
            remote.drop_reply();
        }
        let reply = Box::new(ReplyInProgress::new(&turn));
        let (id, cancel) = (reply.started.reply, Arc::clone(&reply.cancel));
        self.reply = Some(reply);
        Work::Turn(turn, id, cancel)
    }

    fn start_running(&mut self) -> Published {
        if self.running || (self.turns.is_idle() && !self.has_gap()) {
            return Published::Done;
        }
        self.running = true;
        Published::RunTurns
    }

    fn stop_running(&mut self) -> Work {
        self.running = false;
        // `commit` has not cleared a reply whose message was published before it began.
        self.reply = None;
        self.close_if_idle();
        Work::Nothing
    }

    pub(super) fn stop(&mut self, seq: Option<u32>) -> bool {
        match &self.reply {
            Some(reply) if seq.is_none_or(|seq| seq == reply.turn_seq) => reply.stop(),
            Some(_) | None => self.turns.stop(seq),
        }
    }

    /// Ends the session. The first reason wins.
    pub(super) fn end(&mut self, reason: ErrorKind) {
        let reason = *self.ended.get_or_insert(reason);
        self.turns.clear();
        if let Some(reply) = &self.reply {
            reply.cancel.cancel(CancelReason::Ended);
        }
        for subscriber in std::mem::take(&mut self.subscribers) {
            subscriber.close_now(reason);
        }
    }

    pub(super) fn drain(&mut self, hands_over: bool, go_away: impl Fn() -> Event) {
        for subscriber in &self.subscribers {
            subscriber.push(&go_away());
        }
        self.draining = true;
        self.hands_over = hands_over;
        self.close_if_idle();
    }

    /// Runs the waiting turns in this process: no other one takes them over.
    pub(super) const fn keep_turns(&mut self) {
        self.hands_over = false;
    }

    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
        self.turns.clear();
        if let Some(reply) = &self.reply {
            reply.cancel.cancel(CancelReason::Interrupt);
        }
        self.close_if_idle();
    }

    /// Returns the user messages without a reply, including unpublished ones.
    fn unanswered(&self) -> Vec<MessageId> {
        let replying = self.reply.as_ref().map(|reply| reply.started.in_reply_to);
        let is_asked = |message: &&Arc<Message>| matches!(message.role, Role::User(_));
        let unpublished = self.out_of_order.values().filter(is_asked).map(|message| message.id);
        replying.into_iter().chain(self.turns.ids()).chain(unpublished).collect()
    }

    fn broadcast(&self, event: Event) {
        send_to(&self.subscribers, event);
    }

    /// Returns true if a subscriber receives the events of a reply.
    fn wants_deltas(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.filter().wants_progress())
    }

    /// Returns the reply in progress, of this process or of another one.
    fn shown_reply(&self) -> Option<ShownReply<'_>> {
        let remote = self.remote.as_ref().and_then(|remote| remote.shown());
        remote.or_else(|| self.reply.as_ref()?.shown())
    }

    /// Closes the streams of a draining session once no reply is running or queued.
    fn close_if_idle(&mut self) {
        let idle = self.reply.is_none() && self.turns.is_idle();
        if self.draining && idle {
            for subscriber in std::mem::take(&mut self.subscribers) {
                subscriber.close(ErrorKind::Draining);
            }
        }
    }
}

fn send_to(subscribers: &[Arc<SubscriberQueue>], mut event: Event) {
    if subscribers.len() > 1 {
        event.share();
    }
    for subscriber in subscribers {
        subscriber.push(&event);
    }
}

pub(in crate::session) use remote::{PeerSubscriber, Shown};

#[cfg(test)]
mod model_tests;
