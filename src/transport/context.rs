//! The parts that all transports share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::settings::Settings;
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
