//! The transports: each authenticates, decodes, calls the core and encodes. No rule of the
//! conversation lives here, so that none can be missing in one of them.
//!
//! - `stream` is the state of one stream, whatever carries it; `ws`, `grpc` and `sse` carry it.
//!   `rest` has the single calls, `http` what the HTTP transports share.
//! - `codec` converts between the core's values and frames. `status` is the one table of
//!   failures. `auth` finds the token of a request, `origin` decides which web pages may use
//!   the gateway.

mod auth;
mod codec;
mod grpc;
mod http;
mod origin;
mod response_budget;
mod rest;
mod router;
mod settings;
mod sse;
mod status;
mod stream;
mod ws;

pub use grpc::service as grpc_service;
pub use http::{check_head, detail, secure};
pub use origin::{Hosts, OriginPattern, Origins};
pub use response_budget::{ConnectionBudget, ResponseBudget, ResponsePermit};
pub use router::router;
pub use settings::Settings;

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::session::Gateway;

/// Shared by all transports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TransportContext {
    /// The core.
    pub gateway: Gateway,
    /// Deadlines, limits and switches of the transports.
    pub settings: Arc<Settings>,
    /// Cancelled when the gateway begins to shut down.
    pub draining: CancellationToken,
}

/// A share in a connection: while one exists besides the connection's own, the
/// connection is not idle, and its place among the connections is taken. A shutdown waits
/// for all of them. Every request carries one in its extensions.
#[derive(Clone, Debug)]
pub struct InUse(Arc<OwnedSemaphorePermit>);

impl InUse {
    /// For a new connection, which holds a place.
    #[must_use]
    pub fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(place))
    }

    /// How many shares there are.
    #[must_use]
    pub fn shares(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}
