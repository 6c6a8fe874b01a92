//! Plain mode: a text frame is a message, and the whole reply is one text frame, in the order of
//! the messages. Nothing else is sent.

use std::collections::VecDeque;

use crate::{
    session::{Event, Message, MessageId, ReplyFields, Role},
    transport::stream::Outbound,
};

/// Most answers that a connection may wait for. Beyond it the connection is not read, which slows
/// the client down.
const MAX_AWAITED: usize = 64;

/// The messages of this connection without an answer, in order.
#[derive(Debug, Default)]
pub(super) struct AnswerQueue {
    answers: VecDeque<PendingAnswer>,
}

#[derive(Debug)]
enum PendingAnswer {
    To(MessageId),
    Ready(String),
}

impl AnswerQueue {
    /// Returns true if the connection should not be read now.
    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= MAX_AWAITED
    }

    /// Returns the texts to send after this item.
    pub(super) fn answers(&mut self, outbound: &Outbound) -> impl Iterator<Item = String> {
        match outbound {
            Outbound::Accepted(accepted) => {
                self.answers.push_back(PendingAnswer::To(accepted.message.id))
            }
            Outbound::Refused { error, .. } => {
                self.answers.push_back(PendingAnswer::Ready(format!("Error: {error}")));
            }
            Outbound::Event(Event::Message(event)) => self.answered(&event.message),
            Outbound::Event(
                Event::ReplyStarted(_) | Event::Delta(_) | Event::ReplyPart(_) | Event::GoAway(_),
            )
            | Outbound::Opened(_)
            | Outbound::Pong
            | Outbound::Heartbeat
            | Outbound::End(_) => {}
        }
        std::iter::from_fn(|| {
            match self.answers.pop_front_if(|answer| matches!(answer, PendingAnswer::Ready(_)))? {
                PendingAnswer::Ready(text) => Some(text),
                PendingAnswer::To(_) => None,
            }
        })
    }

    fn answered(&mut self, message: &Message) {
        let Role::Assistant(ReplyFields { in_reply_to, status, .. }) = &message.role else {
            return;
        };
        let waits = |answer: &&mut PendingAnswer| matches!(answer, PendingAnswer::To(id) if id == in_reply_to);
        if let Some(answer) = self.answers.iter_mut().find(waits) {
            *answer = PendingAnswer::Ready(match status.failure() {
                Some(failure) if message.text().is_empty() => format!("Error: {}", failure.message),
                _ => message.text().as_ref().into(),
            });
        }
    }
}
