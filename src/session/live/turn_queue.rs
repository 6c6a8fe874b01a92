//! The turns of a session that wait for a reply, and the lease under which this process runs them.

use std::{collections::VecDeque, sync::Arc};

use crate::session::{
    model::{Content, Message, MessageId},
    ports::{Lease, WaitingTurn},
};

/// A user message that waits for its reply in this process.
#[derive(Clone, Debug)]
pub(in crate::session) struct Turn {
    pub(in crate::session) message: Arc<Message>,
    /// The lease under which it is answered.
    pub(in crate::session) lease: Lease,
    pub(in crate::session) attempt: u32,
    /// The content of an earlier attempt, at its last checkpoint.
    pub(in crate::session) partial: Content,
    /// A client stopped it before it began.
    pub(in crate::session) stopped: bool,
}

impl Turn {
    /// Creates the first attempt of a turn.
    pub(in crate::session) fn new(message: Arc<Message>, lease: Lease) -> Self {
        Self { message, lease, attempt: 1, partial: Content::default(), stopped: false }
    }
}

/// The waiting turns of a session.
///
/// Under a lease, user messages wait for this process. Without one they wait for another process
/// and are only listed.
#[derive(Debug, Default)]
pub(super) struct TurnQueue {
    own: VecDeque<Turn>,
    elsewhere: Vec<ElsewhereTurn>,
    lease: Option<Lease>,
    /// The newest lease that has ended. Results of the store may arrive out of order: this one and
    /// older ones do not come back.
    ended: Option<Lease>,
}

/// A user message that waits for another process, as far as this one knows.
#[derive(Debug)]
struct ElsewhereTurn {
    turn: WaitingTurn,
    /// `None` if it was published before this process knew the session.
    message: Option<Arc<Message>>,
}

impl TurnQueue {
    pub(super) fn new(lease: Option<Lease>, waiting: Vec<WaitingTurn>) -> Self {
        let elsewhere = waiting.into_iter().map(|turn| ElsewhereTurn { turn, message: None });
        Self { elsewhere: elsewhere.collect(), lease, ..Self::default() }
    }

    /// Returns true if this process runs the turns of the session.
    pub(super) const fn has_lease(&self) -> bool {
        self.lease.is_some()
    }

    /// Returns the turns under the lease of this process that are not in its queue: they were
    /// published before this process knew the session.
    pub(super) fn unqueued(&self) -> Vec<MessageId> {
        let turns = self.elsewhere.iter().filter(|_| self.lease.is_some());
        turns.map(|elsewhere| elsewhere.turn.id).collect()
    }

    /// Begins to run turns under a lease. Turns that were published before this process knew of its
    /// lease are queued.
    ///
    /// Some of them may have been answered by another process. No turn may begin before the log is
    /// published up to its head at the time of the grant, which removes those.
    pub(super) fn begin_lease(&mut self, lease: Lease) {
        if self.hold(lease) && !self.elsewhere.is_empty() {
            for elsewhere in std::mem::take(&mut self.elsewhere) {
                match elsewhere.message {
                    Some(message) => self.own.push_back(Turn::new(message, lease)),
                    None => self.elsewhere.push(elsewhere),
                }
            }
        }
    }

    /// Returns true if the lease is newer than every other that this process has known.
    fn hold(&mut self, lease: Lease) -> bool {
        let newest = self.lease.or(self.ended);
        let is_newer = newest.is_none_or(|newest| lease > newest);
        if is_newer {
            self.lease = Some(lease);
        }
        is_newer
    }

    /// Ends a lease: the store holds no waiting turn, or another process has taken it over. Turns
    /// that are queued under it wait elsewhere.
    pub(super) fn end_lease(&mut self, lease: Lease) {
        if !lease.is_shared() {
            return;
        }
        self.ended = self.ended.max(Some(lease));
        self.lease.take_if(|held| *held <= lease);
        let Self { own, elsewhere, .. } = self;
        own.retain(|turn| {
            let is_kept = turn.lease > lease;
            if !is_kept {
                elsewhere.push(ElsewhereTurn::of(&turn.message));
            }
            is_kept
        });
    }

    /// Returns true if a turn waits for another process.
    pub(super) const fn waits_elsewhere(&self) -> bool {
        self.lease.is_none() && !self.elsewhere.is_empty()
    }

    /// Returns true if the turn of a number waits for another process.
    pub(super) fn is_elsewhere(&self, turn_seq: u32) -> bool {
        self.elsewhere.iter().any(|elsewhere| elsewhere.turn.seq == turn_seq)
    }

    /// Returns the lease that this process holds.
    pub(super) const fn lease(&self) -> Option<Lease> {
        self.lease
    }

    /// Adds a published user message.
    pub(super) fn push(&mut self, message: &Arc<Message>) {
        match self.lease {
            Some(lease) => self.own.push_back(Turn::new(Arc::clone(message), lease)),
            None => self.elsewhere.push(ElsewhereTurn::of(message)),
        }
    }

    /// Adds a turn that another process has left.
    pub(super) fn resume(&mut self, turn: Turn) {
        self.hold(turn.lease);
        self.elsewhere.retain(|elsewhere| elsewhere.turn.seq != turn.message.seq);
        self.own.push_back(turn);
    }

    /// Removes a turn whose reply is published.
    pub(super) fn remove_answered(&mut self, turn_seq: u32) {
        if !self.elsewhere.is_empty() {
            self.elsewhere.retain(|elsewhere| elsewhere.turn.seq != turn_seq);
        }
        if !self.own.is_empty() {
            self.own.retain(|turn| turn.message.seq != turn_seq);
        }
    }

    /// Returns the next turn to run.
    pub(super) fn pop(&mut self) -> Option<Turn> {
        self.own.pop_front()
    }

    /// Removes all turns.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.elsewhere.clear();
    }

    /// Marks the queued turn of a number as stopped, or the first one. Returns false if it is not
    /// queued here.
    pub(super) fn stop(&mut self, seq: Option<u32>) -> bool {
        let mut turns = self.own.iter_mut();
        let turn = turns.find(|turn| seq.is_none_or(|seq| seq == turn.message.seq));
        turn.is_some_and(|turn| {
            turn.stopped = true;
            true
        })
    }

    /// Returns true if this process has no turn to run.
    pub(super) fn is_idle(&self) -> bool {
        self.own.is_empty()
    }

    /// Returns true if a turn is queued in this process.
    pub(super) fn is_queued(&self, message: MessageId) -> bool {
        self.own.iter().any(|turn| turn.message.id == message)
    }

    /// Returns the ids of the waiting messages, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = MessageId> {
        let own = self.own.iter().map(|turn| turn.message.id);
        self.elsewhere.iter().map(|elsewhere| elsewhere.turn.id).chain(own)
    }
}

impl ElsewhereTurn {
    fn of(message: &Arc<Message>) -> Self {
        let turn = WaitingTurn { seq: message.seq, id: message.id };
        Self { turn, message: Some(Arc::clone(message)) }
    }
}
