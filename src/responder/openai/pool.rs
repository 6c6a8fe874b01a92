//! The upstreams that all replies share.

use std::time::Duration;

use super::upstream::Upstream;

#[derive(Debug)]
pub(super) struct Pool {
    /// In order of preference.
    pub(super) upstreams: Vec<Upstream>,
    pub(super) total_timeout: Duration,
}
