//! Positions in a log.

use std::{fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

use super::{Error, ErrorKind, MessageId};

/// Longest epoch that a client may present, in bytes.
const MAX_EPOCH: usize = 64;

/// Identifies an incarnation of a log. Positions of different epochs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Creates an epoch of 16 hexadecimal digits.
    #[must_use]
    pub fn generate() -> Self {
        let (high, _) = Uuid::new_v4().as_u64_pair();
        Self(format!("{high:016x}").into())
    }

    /// Reads an epoch of a client or a store.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it is longer than 64 bytes or not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() <= MAX_EPOCH && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        Err(Error::new(ErrorKind::InvalidArgument, "The epoch is malformed"))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A position: the client has everything up to here. Its text form is `EPOCH:SEQ`, as in an SSE
/// `id:` line, and `EPOCH:SEQ:REPLY:OFFSET` inside a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// Number of the last message. 0: none.
    pub seq: u32,
    /// The part of the reply in progress that the client has.
    pub reply: Option<ReplyPosition>,
}

/// How much of a reply a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyPosition {
    /// The reply.
    pub reply: MessageId,
    /// The end of the last delta or part that the client has. 0: none.
    pub offset: u32,
}

impl Position {
    /// Creates a position between two messages.
    #[must_use]
    pub const fn new(epoch: Epoch, seq: u32) -> Self {
        Self { epoch, seq, reply: None }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.as_str(), self.seq)?;
        match self.reply {
            None => Ok(()),
            Some(ReplyPosition { reply, offset }) => write!(f, ":{reply}:{offset}"),
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || {
            let forms = "A position has the form EPOCH:SEQ or EPOCH:SEQ:REPLY:OFFSET";
            Error::new(ErrorKind::InvalidArgument, forms)
        };
        // An epoch of a client may contain colons.
        let (mut head, mut reply) = (text, None);
        if let Some((rest, offset)) = text.rsplit_once(':')
            && let Some((rest, id)) = rest.rsplit_once(':')
            && let Ok(id) = id.parse()
        {
            let offset = offset.parse().map_err(|_| malformed())?;
            (head, reply) = (rest, Some(ReplyPosition { reply: id, offset }));
        }
        let (epoch, seq) = head.rsplit_once(':').ok_or_else(malformed)?;
        let seq = seq.parse().map_err(|_| malformed())?;
        Ok(Self { epoch: Epoch::parse(epoch)?, seq, reply })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_its_own_text_again() {
        let outside = Position::new(Epoch::generate(), 42);
        let reply = ReplyPosition { reply: MessageId::generate(), offset: 7 };
        for position in [outside.clone(), Position { reply: Some(reply), ..outside }] {
            assert_eq!(position.to_string().parse::<Position>().ok(), Some(position));
        }
    }

    #[test]
    fn malformed_positions_are_refused() {
        let long = format!("{}:1", "e".repeat(MAX_EPOCH + 1));
        let reply = MessageId::generate();
        let inside =
            [format!("e:1:{reply}:x"), format!("e:1:{reply}:-1"), format!("e:x:{reply}:1")];
        let outside = ["", "abc", "abc:", "abc:x", "abc:-1", "abc:4294967296", "a b:1", &long];
        for text in inside.iter().map(String::as_str).chain(outside) {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }
}
