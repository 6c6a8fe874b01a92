//! One watcher's backlog: what it has been sent and has not taken yet.
//!
//! Not a channel of a library: those count messages but not bytes, and reserve a
//! block of slots for every receiver, idle or not. An empty mailbox holds no memory
//! but itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{ErrorKind, Event, event::EventFilter};

/// Bytes up to which the pieces of a reply that wait in a mailbox become one.
const MAX_COALESCED: usize = 16 << 10;

/// How much a mailbox may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct SubscriberQueue {
    capacity: Capacity,
    filter: EventFilter,
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
    pub(super) fn new(capacity: Capacity, filter: EventFilter) -> Self {
        Self { capacity, filter, state: Mutex::default() }
    }

    pub(super) const fn filter(&self) -> EventFilter {
        self.filter
    }

    /// Adds an event that is of interest. A mailbox that is full is emptied and closed
    /// instead: its reader has the log to come back to, and the others must not wait for
    /// it.
    pub(super) fn push(&self, event: &Event) {
        if self.filter.accepts(event) {
            self.change(|state| state.add(event, self.capacity));
        }
    }

    /// Ends the mailbox: the reader takes what is in it, then learns why.
    pub(super) fn close(&self, why: ErrorKind) {
        self.change(|state| {
            state.closed.get_or_insert(why);
        });
    }

    /// Ends the mailbox and takes back what the reader has not read.
    pub(super) fn shut(&self, why: ErrorKind) {
        self.change(|state| {
            state.discard();
            state.closed = Some(why);
        });
    }

    /// Whether there is an event, or the end.
    pub(super) fn has_more(&self) -> bool {
        let state = self.state();
        !state.events.is_empty() || state.closed.is_some()
    }

    /// The next event, or why there will be none.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Event, ErrorKind>> {
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

    /// Changes something, then wakes the reader: not under the lock, which it takes first.
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
    fn add(&mut self, event: &Event, capacity: Capacity) {
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

    /// Adds a piece of a reply to the one before it, if that still waits: who lags is
    /// told more at a time, not more often.
    fn coalesce(&mut self, event: &Event) -> bool {
        let Event::Delta { reply, text: more, .. } = event else { return false };
        match self.events.back_mut() {
            Some(Event::Delta { reply: last, text, .. })
                if last == reply && text.len() + more.len() <= MAX_COALESCED =>
            {
                Arc::make_mut(text).push_str(more);
                self.bytes += more.len();
                true
            }
            _ => false,
        }
    }

    fn take(&mut self) -> Option<Event> {
        /// Slots that an empty mailbox may keep for its next events.
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
    use std::{future::poll_fn, time::Duration};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::MessageId;

    fn queue(events: usize, bytes: usize) -> SubscriberQueue {
        SubscriberQueue::new(Capacity { events, bytes }, EventFilter::All)
    }

    fn delta(reply: MessageId, text: &str) -> Event {
        Event::Delta { reply, index: 0, text: Arc::new(text.into()) }
    }

    fn event() -> Event {
        Event::GoAway(Duration::ZERO)
    }

    fn next(queue: &SubscriberQueue) -> Option<Result<Event, ErrorKind>> {
        poll_fn(|cx| queue.poll_next(cx)).now_or_never()
    }

    #[test]
    fn a_full_mailbox_gives_its_memory_back_and_says_so() {
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
    fn pieces_of_one_reply_that_wait_become_one() {
        let (first, second) = (MessageId::generate(), MessageId::generate());
        let large = "x".repeat(MAX_COALESCED);
        let queue = queue(8, usize::MAX);
        let shared = delta(first, "a");
        queue.push(&shared);
        for text in ["b", "ä", &large] {
            queue.push(&delta(first, text));
        }
        queue.push(&delta(second, "c"));
        let mut texts = Vec::new();
        while let Some(Ok(Event::Delta { text, .. })) = next(&queue) {
            texts.push(text);
        }
        assert_eq!(
            texts.iter().map(|text| text.as_str()).collect::<Vec<_>>(),
            ["abä", &large, "c"]
        );
        assert!(matches!(shared, Event::Delta { text, .. } if *text == "a"), "it was shared");
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn who_waits_for_replies_is_told_nothing_else() {
        let queue =
            SubscriberQueue::new(Capacity { events: 1, bytes: usize::MAX }, EventFilter::Replies);
        for _ in 0..3 {
            queue.push(&delta(MessageId::generate(), "x"));
        }
        queue.push(&event());
        assert!(matches!(next(&queue), Some(Ok(Event::GoAway(_)))));
        assert!(next(&queue).is_none());
    }

    #[test]
    fn a_closed_mailbox_is_read_to_its_end_and_a_shut_one_is_not() {
        let closed = queue(8, usize::MAX);
        closed.push(&event());
        closed.close(ErrorKind::Draining);
        closed.push(&event());
        assert!(matches!(next(&closed), Some(Ok(_))));
        assert!(matches!(next(&closed), Some(Err(ErrorKind::Draining))));

        let shut = queue(8, usize::MAX);
        shut.push(&event());
        shut.shut(ErrorKind::SessionExpired);
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
