//! What is measured.

use std::fmt;

use clap::ValueEnum;

/// A server and the protocol in which it is spoken to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Subject {
    /// The tutorial's service: a WebSocket, a text in, a text out.
    FastApi,
    /// The gateway, in the same way.
    Plain,
    /// The gateway, `duologue.v1.json`: five events a turn.
    Json,
    /// The gateway, `duologue.v1.proto`: the same events in protobuf.
    Proto,
    /// The gateway, one `Chat` stream on an HTTP/2 connection of its own.
    Grpc,
}

impl Subject {
    /// The peer first.
    pub(crate) const ALL: [Self; 5] = [
        Self::FastApi,
        Self::Plain,
        Self::Json,
        Self::Proto,
        Self::Grpc,
    ];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FastApi => "FastAPI, WebSocket",
            Self::Plain => "Duologue, WebSocket, plain",
            Self::Json => "Duologue, WebSocket, `duologue.v1.json`",
            Self::Proto => "Duologue, WebSocket, `duologue.v1.proto`",
            Self::Grpc => "Duologue, gRPC `Chat`",
        })
    }
}
