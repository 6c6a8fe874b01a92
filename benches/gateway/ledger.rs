//! Checks the answers of a server.

use std::collections::VecDeque;

use crate::{REPLY, Result, event::Event};

/// The messages of one connection with a session of its own.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Messages sent. The next one has the id `m{sent}`.
    sent: u64,
    /// Messages accepted.
    accepted: u64,
    /// Messages committed.
    committed: u64,
    /// Messages answered.
    answered: u64,
    /// Number of the last committed message.
    seq: u32,
    /// Ids of the messages that wait for their reply.
    waiting: VecDeque<String>,
    /// The deltas of the reply in progress.
    streamed: String,
}

impl Ledger {
    /// Returns the id of the next message.
    pub(crate) fn send(&mut self) -> String {
        let name = format!("m{}", self.sent);
        self.sent += 1;
        name
    }

    /// Checks a reply of which only the text is known.
    pub(crate) fn text(&mut self, text: &[u8]) -> Result<()> {
        if text != REPLY.as_bytes() {
            return Err(format!("wrong reply: {}", String::from_utf8_lossy(text)).into());
        }
        self.answer()
    }

    /// Checks an event; true if it ends a turn.
    pub(crate) fn event(&mut self, event: &Event<'_>) -> Result<bool> {
        match *event {
            Event::Opened | Event::Other => {}
            Event::Accepted(name, duplicate) => {
                expect(!duplicate, "a message was there already")?;
                expect(is_name(name, self.accepted), "accepted out of order")?;
                self.accepted += 1;
            }
            Event::User { seq, id, client_message_id } => {
                self.commit(seq)?;
                let in_order = is_name(client_message_id, self.committed);
                expect(in_order, "committed out of order")?;
                self.committed += 1;
                self.waiting.push_back(id.to_owned());
            }
            Event::Delta(text) => self.streamed.push_str(text),
            Event::Reply { seq, text, in_reply_to, complete } => {
                self.commit(seq)?;
                expect(complete, "a reply is not complete")?;
                expect(text == REPLY, "wrong reply")?;
                expect(self.streamed == REPLY, "the deltas are not the reply")?;
                self.streamed.clear();
                let question = self.waiting.pop_front();
                let answers = question.is_some_and(|id| id == in_reply_to);
                expect(answers, "a reply to another message")?;
                self.answer()?;
                return Ok(true);
            }
            Event::Failure(message) => return Err(format!("the gateway said: {message}").into()),
        }
        Ok(false)
    }

    /// Checks that the numbers have no gap.
    fn commit(&mut self, seq: u32) -> Result<()> {
        expect(seq == self.seq + 1, "a gap or a repetition in the log")?;
        self.seq = seq;
        Ok(())
    }

    /// Checks that the reply belongs to a message.
    fn answer(&mut self) -> Result<()> {
        self.answered += 1;
        expect(self.answered <= self.sent, "a reply to nothing")
    }
}

/// Returns true if an id is `m{number}`, without an allocation.
fn is_name(name: &str, number: u64) -> bool {
    name.strip_prefix('m').is_some_and(|digits| digits.parse() == Ok(number))
}

/// Fails with `otherwise` unless it holds.
fn expect(holds: bool, otherwise: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
