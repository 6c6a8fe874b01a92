//! The parts of a session's log that the rules of an append have asked for.
//!
//! Messages never change. The newest turn and the client's ids can change: the script that appends
//! checks them again.

use std::{collections::HashMap, sync::Arc};

use crate::session::{Error, LogView, Message};

/// Facts of a log.
#[derive(Debug, Default)]
pub(super) struct KnownLog {
    /// `None`: there is no message of this number.
    pub(super) messages: HashMap<u32, Option<Arc<Message>>>,
    /// The replies to turns.
    pub(super) replies: HashMap<u32, Option<Arc<Message>>>,
    /// The newest turn. `None`: any will do, and the script decides.
    pub(super) newest_turn: Option<u32>,
    /// The message of the turn's `client_message_id`.
    pub(super) before: Option<Arc<Message>>,
    /// The rules depend on the newest turn, so that it has to be read before the append.
    pub(super) needs_newest_turn: bool,
}

/// A failure of the rules.
#[derive(Debug)]
pub(super) enum Failure {
    /// A fact has to be read first.
    Unknown(Fact),
    Refused(Error),
}

/// A fact that was not read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fact {
    Message(u32),
    ReplyTo(u32),
    NewestTurn,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl LogView for KnownLog {
    type Failure = Failure;

    fn message(&self, seq: u32) -> Result<Option<Arc<Message>>, Failure> {
        if seq == 0 {
            return Ok(None);
        }
        self.messages.get(&seq).cloned().ok_or(Failure::Unknown(Fact::Message(seq)))
    }

    fn by_client_message_id(&self, _: &str) -> Result<Option<Arc<Message>>, Failure> {
        Ok(self.before.clone())
    }

    fn reply_to(&self, question: &Message) -> Result<Option<Arc<Message>>, Failure> {
        let fact = Failure::Unknown(Fact::ReplyTo(question.seq));
        self.replies.get(&question.seq).cloned().ok_or(fact)
    }

    fn newest_turn(&self) -> Result<u32, Failure> {
        match self.newest_turn {
            Some(seq) => Ok(seq),
            None if self.needs_newest_turn => Err(Failure::Unknown(Fact::NewestTurn)),
            // The script writes the number.
            None => Ok(0),
        }
    }
}
