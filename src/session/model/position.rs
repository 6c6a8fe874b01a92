//! Positions in a log.

use std::{fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

use super::{Error, ErrorKind};

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
/// `id:` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// Number of the last message. 0: none.
    pub seq: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.as_str(), self.seq)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed =
            || Error::new(ErrorKind::InvalidArgument, "A position has the form EPOCH:SEQ");
        let (epoch, seq) = text.rsplit_once(':').ok_or_else(malformed)?;
        Ok(Self { epoch: Epoch::parse(epoch)?, seq: seq.parse().map_err(|_| malformed())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_its_own_text_again() {
        let position = Position { epoch: Epoch::generate(), seq: 42 };
        assert_eq!(position.to_string().parse::<Position>().ok(), Some(position));
    }

    #[test]
    fn malformed_positions_are_refused() {
        let long = format!("{}:1", "e".repeat(MAX_EPOCH + 1));
        for text in ["", "abc", "abc:", "abc:x", "abc:-1", "abc:4294967296", "a b:1", &long] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }
}
