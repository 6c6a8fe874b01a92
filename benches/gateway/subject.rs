//! What is measured.

use std::fmt;

use clap::ValueEnum;

/// A server and the protocol in which it is spoken to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Subject {
    /// A server that does nothing else: the limit of the set-up.
    Echo,
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
    /// As [`Self::Plain`], with its sessions in a file on the disk.
    PlainSqlite,
    /// As [`Self::Grpc`], with its sessions in a file on the disk.
    GrpcSqlite,
}

impl Subject {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 8] = [
        Self::Echo,
        Self::FastApi,
        Self::Plain,
        Self::Json,
        Self::Proto,
        Self::Grpc,
        Self::PlainSqlite,
        Self::GrpcSqlite,
    ];

    /// The same with its sessions in memory, for those who have them on the disk.
    pub(crate) fn in_memory(self) -> Option<Self> {
        match self {
            Self::PlainSqlite => Some(Self::Plain),
            Self::GrpcSqlite => Some(Self::Grpc),
            Self::Echo | Self::FastApi | Self::Plain | Self::Json | Self::Proto | Self::Grpc => {
                None
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Echo => "a bare echo: the limit",
            Self::FastApi => "FastAPI, WebSocket",
            Self::Plain => "Duologue, WebSocket, plain",
            Self::Json => "Duologue, WebSocket, `duologue.v1.json`",
            Self::Proto => "Duologue, WebSocket, `duologue.v1.proto`",
            Self::Grpc => "Duologue, gRPC `Chat`",
            Self::PlainSqlite => "Duologue, WebSocket, plain, `sqlite`",
            Self::GrpcSqlite => "Duologue, gRPC `Chat`, `sqlite`",
        })
    }
}
