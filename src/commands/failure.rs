//! The failure of a command.

use std::io;

use crate::{session, store::OpenError};

/// The failure of a command.
#[derive(Debug)]
pub(super) enum CommandFailure {
    /// The output cannot be written.
    Output(io::Error),
    /// One line for the operator.
    Told(String),
}

impl From<io::Error> for CommandFailure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<OpenError> for CommandFailure {
    fn from(error: OpenError) -> Self {
        Self::Told(error.to_string())
    }
}

/// Returns the failure for an id that no session has.
pub(super) fn no_session(id: session::SessionId) -> CommandFailure {
    CommandFailure::Told(format!("there is no session {id}"))
}
