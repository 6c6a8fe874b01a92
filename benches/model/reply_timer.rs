//! Checks and times the events of a client.

use crate::{Result, event::Event, stamp};

/// One client's replies.
pub(crate) struct ReplyTimer {
    /// The measured time, in nanoseconds.
    window: std::ops::Range<u64>,
    asked: u64,
    /// Of this reply.
    deltas: u16,
    /// The numbers.
    pub(crate) counts: ReplyCounts,
}

/// The meaning of an event for a reply.
pub(crate) enum EventMeaning {
    /// The stream is ready.
    Opened,
    /// The reply is complete.
    Ended,
    /// Nothing but its text, if any.
    Other,
}

/// The counts of replies.
#[derive(Default)]
pub(crate) struct ReplyCounts {
    /// Time from the message to the first text, in nanoseconds.
    pub(crate) first: Vec<u64>,
    /// From the upstream to the client, for each delta but the first.
    pub(crate) under_way: Vec<u64>,
    /// Deltas of the upstream …
    pub(crate) deltas: usize,
    /// … and events in which they came.
    pub(crate) events: usize,
}

impl ReplyCounts {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: Self) {
        self.first.extend(other.first);
        self.under_way.extend(other.under_way);
        self.deltas += other.deltas;
        self.events += other.events;
    }
}

impl ReplyTimer {
    /// Counts between these times.
    pub(crate) fn new(window: std::ops::Range<u64>) -> Self {
        Self { window, asked: 0, deltas: 0, counts: ReplyCounts::default() }
    }

    /// Records that a message is about to be sent.
    pub(crate) fn message_sent(&mut self) {
        self.asked = stamp::now();
        self.deltas = 0;
    }

    /// More of its reply: one delta of the upstream, or several that became one.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        let now = stamp::now();
        let counts = self.window.contains(&now);
        self.counts.events += usize::from(counts);
        if text.is_empty() || !text.len().is_multiple_of(stamp::LENGTH) {
            return Err(format!("a delta is cut: {text:?}").into());
        }
        for at in (0..text.len()).step_by(stamp::LENGTH) {
            let (number, written) = stamp::read(&text[at..]).ok_or("a delta of another kind")?;
            if number != self.deltas {
                return Err(format!("delta {number} instead of {}", self.deltas).into());
            }
            self.deltas += 1;
            self.counts.deltas += usize::from(counts);
            if number > 0 && counts {
                self.counts.under_way.push(now - written);
            } else if counts {
                self.counts.first.push(now - self.asked);
            }
        }
        Ok(())
    }

    /// An event of the gateway.
    pub(crate) fn event(&mut self, event: &Event<'_>) -> Result<EventMeaning> {
        match event {
            Event::Opened => Ok(EventMeaning::Opened),
            Event::Delta(text) => self.text(text).map(|()| EventMeaning::Other),
            Event::Reply { text, complete: true, .. } => {
                let deltas = u16::try_from(text.len() / stamp::LENGTH)?;
                self.ended(deltas).map(|()| EventMeaning::Ended)
            }
            Event::Reply { .. } => Err("the reply is not whole".into()),
            Event::Failure(why) => Err((*why).into()),
            Event::Accepted(..) | Event::User { .. } | Event::Other => Ok(EventMeaning::Other),
        }
    }

    /// Records the end of the reply.
    pub(crate) fn ended(&self, expected: u16) -> Result<()> {
        if self.deltas == expected {
            return Ok(());
        }
        Err(format!("{} deltas instead of {expected}", self.deltas).into())
    }
}
