//! Items that a stream delivers to its client.

use crate::session::{Accepted, Error, Event, Opened, Result};

/// An item for the client.
#[derive(Debug)]
pub(in crate::transport) enum Outbound {
    Opened(Box<Opened>),
    Accepted(Accepted),
    Event(Event),
    /// A request was refused. The stream continues.
    Refused {
        error: Error,
        client_message_id: Option<String>,
    },
    Pong,
    /// A keep-alive is due.
    Heartbeat,
    End(Result<()>),
}
