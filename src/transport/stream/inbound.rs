//! Items that a client sends on a stream.

use std::task::{Context, Poll};

use crate::session::{Error, NewMessage, Position, Regeneration, Result};

/// A request of a client.
#[derive(Debug)]
pub(in crate::transport) enum ClientRequest {
    Open {
        token: Option<String>,
        position: Option<Position>,
        credential: Option<String>,
    },
    /// An invalid message is refused under its id, as any other refusal of a message.
    Send {
        message: Result<NewMessage>,
        client_message_id: Option<String>,
    },
    Regenerate {
        again: Regeneration,
        client_message_id: Option<String>,
    },
    Stop {
        seq: Option<u32>,
    },
    Ping,
}

/// An item from the client's side of a stream.
#[derive(Debug)]
pub(in crate::transport) enum Inbound {
    Request(ClientRequest),
    /// A frame could not be decoded. The stream continues.
    Refused(Error),
    /// The client sends nothing more and waits for the rest.
    HalfClosed,
    /// The client disconnected, or the stream must end with this error.
    Gone(Option<Error>),
}

/// The source of inbound items. Cancel safe: an item that was not returned is not lost.
pub(in crate::transport) trait InboundSource {
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Inbound>;
}

/// The client side of a stream that only delivers.
#[derive(Debug)]
pub(in crate::transport) struct ListenOnly;

impl InboundSource for ListenOnly {
    fn poll_inbound(&mut self, _: &mut Context<'_>) -> Poll<Inbound> {
        Poll::Pending
    }
}
