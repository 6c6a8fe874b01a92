//! The queue of events that one subscriber has not read yet.
//!
//! Channels of libraries are not used: they count messages but not bytes, and reserve a block of
//! slots for each receiver. An empty queue here allocates nothing.

use std::{
    collections::VecDeque,
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use super::{
    encoded::EncodedForms,
    event::{Event, EventFilter, ReplyPart},
};
use crate::session::{
    model::{ErrorKind, TokenId},
    ports::NodeId,
    sync::{Mutex, MutexGuard},
};

/// Largest delta that results from merging queued deltas of one reply, in bytes.
const MAX_COALESCED: usize = 16 << 10;

#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct QueueCapacity {
    pub(in crate::session) events: usize,
    pub(in crate::session) bytes: usize,
}

/// The reader of a queue.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// A stream that was opened with a token.
    Stream(TokenId),
    /// Another process.
    Peer(NodeId),
}

#[derive(Debug)]
pub(in crate::session) struct SubscriberQueue {
    capacity: QueueCapacity,
    filter: EventFilter,
    reader: Reader,
    // A std mutex: it is held for a few instructions and never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    bytes: usize,
    closed: Option<ErrorKind>,
    reader: Option<Waker>,
}

impl SubscriberQueue {
    pub(in crate::session) fn new(
        capacity: QueueCapacity,
        filter: EventFilter,
        token: TokenId,
    ) -> Self {
        Self { capacity, filter, reader: Reader::Stream(token), state: Mutex::default() }
    }

    /// Creates the queue of another process.
    pub(in crate::session) fn of_peer(
        capacity: QueueCapacity,
        filter: EventFilter,
        node: NodeId,
    ) -> Self {
        Self { capacity, filter, reader: Reader::Peer(node), state: Mutex::default() }
    }

    /// Returns the token that the stream was opened with. `None` for another process.
    pub(in crate::session) const fn token(&self) -> Option<TokenId> {
        match self.reader {
            Reader::Stream(token) => Some(token),
            Reader::Peer(_) => None,
        }
    }

    /// Returns the process that reads the queue. `None` for a stream.
    pub(in crate::session) const fn peer(&self) -> Option<NodeId> {
        match self.reader {
            Reader::Stream(_) => None,
            Reader::Peer(node) => Some(node),
        }
    }

    pub(in crate::session) const fn filter(&self) -> EventFilter {
        self.filter
    }

    /// Adds an event that passes the filter. If the queue would exceed its capacity, it is
    /// emptied and closed as `SlowConsumer`: the reader can resume from the log, and the
    /// sender never waits.
    pub(in crate::session) fn push(&self, event: &Event) {
        if self.filter.accepts(event) {
            self.change(|state| state.add(event, self.capacity));
        }
    }

    /// Closes the queue. The reader receives the queued events, then the reason.
    pub(in crate::session) fn close(&self, why: ErrorKind) {
        self.change(|state| {
            state.closed.get_or_insert(why);
        });
    }

    /// Closes the queue and discards the queued events. The reader receives the reason.
    pub(in crate::session) fn close_now(&self, why: ErrorKind) {
        self.change(|state| {
            state.discard();
            state.closed = Some(why);
        });
    }

    /// Returns true if an event or the reason of the close can be read.
    pub(in crate::session) fn has_more(&self) -> bool {
        let state = self.state();
        !state.events.is_empty() || state.closed.is_some()
    }

    /// Polls the next event. Fails with the reason once the queue is closed and empty.
    pub(in crate::session) fn poll_next(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Event, ErrorKind>> {
        let mut state = self.state();
        if let Some(event) = state.take() {
            return Poll::Ready(Ok(event));
        }
        if let Some(why) = state.closed {
            return Poll::Ready(Err(why));
        }
        match &state.reader {
            Some(reader) if reader.will_wake(cx.waker()) => {}
            _ => state.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Changes the state, then wakes the reader. Not under the lock, which the reader takes
    /// first.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, event: &Event, capacity: QueueCapacity) {
        if self.closed.is_some() {
            return;
        }
        if !self.coalesce(event) {
            self.bytes += event.cost();
            self.events.push_back(event.clone());
        }
        if self.events.len() > capacity.events || self.bytes > capacity.bytes {
            self.discard();
            self.closed = Some(ErrorKind::SlowConsumer);
        }
    }

    /// Merges an event with the queued delta before it, if both belong to one part: a slow reader
    /// receives larger deltas, not more of them. A whole part replaces the delta.
    fn coalesce(&mut self, event: &Event) -> bool {
        let Some(Event::Delta(last)) = self.events.back_mut() else { return false };
        let continues = |reply, index, offset| {
            (last.reply, last.index, last.end) == (reply, index, offset) && !last.done
        };
        match event {
            Event::Delta(more) if continues(more.reply, more.index, more.offset) => {
                let (size, more_size) = (last.piece.text().len(), more.piece.text().len());
                if size + more_size > MAX_COALESCED || !last.piece.append(&more.piece) {
                    return false;
                }
                (last.end, last.done) = (more.end, more.done);
                last.encoded = EncodedForms::default();
                self.bytes += more_size;
                true
            }
            Event::ReplyPart(part) if continues(part.reply, part.index, part.offset) => {
                let (offset, encoded) = (last.offset, EncodedForms::default());
                let whole = Event::ReplyPart(ReplyPart { offset, encoded, ..part.clone() });
                if let Some(last) = self.events.back_mut() {
                    self.bytes = self.bytes - last.cost() + whole.cost();
                    *last = whole;
                }
                true
            }
            Event::Delta(_)
            | Event::ReplyPart(_)
            | Event::Message(_)
            | Event::ReplyStarted(_)
            | Event::GoAway(_) => false,
        }
    }

    fn take(&mut self) -> Option<Event> {
        /// Slots that an empty queue keeps for its next events.
        const KEPT: usize = 8;
        let event = self.events.pop_front()?;
        self.bytes -= event.cost();
        if self.events.is_empty() && self.events.capacity() > KEPT {
            self.events = VecDeque::new();
        }
        Some(event)
    }

    fn discard(&mut self) {
        self.events = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, time::Duration};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::{
        MessageId,
        live::event::{Delta, DeltaPiece},
        model::Part,
    };

    fn queue(events: usize, bytes: usize) -> SubscriberQueue {
        SubscriberQueue::new(QueueCapacity { events, bytes }, EventFilter::All, TokenId::generate())
    }

    fn delta(reply: MessageId, offset: usize, text: &str) -> Event {
        let (offset, end) = (offset as u32, (offset + text.len()) as u32);
        let piece = DeltaPiece::Text(Arc::new(text.into()));
        let encoded = EncodedForms::default();
        Event::Delta(Delta { reply, index: 0, offset, end, piece, done: false, encoded })
    }

    fn event() -> Event {
        Event::GoAway(Duration::ZERO)
    }

    fn next(queue: &SubscriberQueue) -> Option<Result<Event, ErrorKind>> {
        poll_fn(|cx| queue.poll_next(cx)).now_or_never()
    }

    #[test]
    fn a_full_queue_frees_its_memory_and_closes() {
        for queue in [queue(3, usize::MAX), queue(usize::MAX, 3 * event().cost())] {
            for _ in 0..3 {
                queue.push(&event());
            }
            assert!(matches!(next(&queue), Some(Ok(_))));
            queue.push(&event());
            queue.push(&event());
            assert!(matches!(next(&queue), Some(Err(ErrorKind::SlowConsumer))));
            assert_eq!(queue.state().events.capacity(), 0);
        }
    }

    #[test]
    fn queued_deltas_of_one_reply_are_merged() {
        let (first, second) = (MessageId::generate(), MessageId::generate());
        let large = "x".repeat(MAX_COALESCED);
        let queue = queue(8, usize::MAX);
        let shared = delta(first, 0, "a");
        queue.push(&shared);
        for (offset, text) in [(1, "b"), (2, "ä"), (4, &large)] {
            queue.push(&delta(first, offset, text));
        }
        queue.push(&delta(second, 0, "c"));
        let mut pieces = Vec::new();
        while let Some(Ok(Event::Delta(delta))) = next(&queue) {
            pieces.push((delta.offset, delta.end, delta.piece.text().to_owned()));
        }
        let end = 4 + MAX_COALESCED as u32;
        assert_eq!(pieces, [(0, 4, "abä".into()), (4, end, large), (0, 1, "c".into())]);
        assert!(
            matches!(shared, Event::Delta(delta) if delta.piece.text() == "a"),
            "it was shared"
        );
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn a_whole_part_replaces_the_queued_delta_of_it() {
        let (reply, queue) = (MessageId::generate(), queue(8, usize::MAX));
        queue.push(&delta(reply, 3, "ab"));
        let part = Arc::new(Part::text("xyzab"));
        let encoded = EncodedForms::default();
        let whole = ReplyPart { reply, index: 0, offset: 5, end: 6, part, encoded };
        queue.push(&Event::ReplyPart(whole));
        let merged = next(&queue);
        assert!(
            matches!(&merged, Some(Ok(Event::ReplyPart(ReplyPart { offset: 3, end: 6, .. })))),
            "{merged:?}"
        );
        assert!(next(&queue).is_none());
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn the_replies_filter_passes_nothing_else() {
        let queue = SubscriberQueue::new(
            QueueCapacity { events: 1, bytes: usize::MAX },
            EventFilter::Replies,
            TokenId::generate(),
        );
        for _ in 0..3 {
            queue.push(&delta(MessageId::generate(), 0, "x"));
        }
        queue.push(&event());
        assert!(matches!(next(&queue), Some(Ok(Event::GoAway(_)))));
        assert!(next(&queue).is_none());
    }

    #[test]
    fn a_closed_queue_is_read_to_its_end_unless_it_is_closed_now() {
        let closed = queue(8, usize::MAX);
        closed.push(&event());
        closed.close(ErrorKind::Draining);
        closed.push(&event());
        assert!(matches!(next(&closed), Some(Ok(_))));
        assert!(matches!(next(&closed), Some(Err(ErrorKind::Draining))));

        let shut = queue(8, usize::MAX);
        shut.push(&event());
        shut.close_now(ErrorKind::SessionExpired);
        assert!(matches!(next(&shut), Some(Err(ErrorKind::SessionExpired))));
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let queue = queue(8, usize::MAX);
        let (read, ()) = tokio::join!(poll_fn(|cx| queue.poll_next(cx)), async {
            queue.push(&event());
        });
        assert!(read.is_ok());
    }
}
