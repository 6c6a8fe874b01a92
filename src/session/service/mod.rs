//! The operations that every transport offers, one file per group.

mod callers;
mod conversations;
mod sessions;
mod subscriptions;
mod turns;

use std::{fmt, sync::Arc};

pub use conversations::{ListRequest, SessionList};
pub use sessions::{Created, NewToken, PageRequest, Revocation};

use super::{core::Core, settings::Settings};

/// The core. Cheap to clone; shared by every connection.
#[derive(Clone)]
pub struct Gateway {
    pub(super) core: Arc<Core>,
}

impl Gateway {
    /// Returns the limits of the core.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// Returns the number of sessions that are active in this process.
    #[must_use]
    pub fn active_sessions(&self) -> usize {
        self.core.registry.len()
    }

    /// Returns true once the shutdown has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.core.draining.is_cancelled()
    }

    /// Returns the parts that do not work now. Streams stay open meanwhile.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        if self.core.store.is_reachable() { Vec::new() } else { vec!["store"] }
    }

    /// Waits until the shutdown begins.
    pub async fn draining(&self) {
        self.core.draining.cancelled().await;
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}
