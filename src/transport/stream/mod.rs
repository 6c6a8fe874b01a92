//! The state of one stream: open, send, stop, deliver, end.
//!
//! A [`ClientStream`] takes decoded requests and returns typed items. WebSocket, gRPC and SSE
//! differ only in how they read the former and write the latter. The rules are in `stream_state`,
//! which does no I/O.

mod client_stream;
mod inbound;
mod outbound;
mod record;
mod stream_state;

pub(super) use client_stream::ClientStream;
pub(super) use inbound::{ClientRequest, Inbound, InboundSource, ListenOnly};
pub(super) use outbound::Outbound;
pub(super) use record::{Close, Protocol, StreamRecord};
