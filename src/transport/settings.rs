//! Deadlines, limits and switches of the transports.

use std::time::Duration;

use super::Origins;

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which pages may use the gateway from a browser.
    pub origins: Origins,
    /// Serve `/docs`, `/openapi.json` and `/asyncapi.yaml`.
    pub docs: bool,
    /// Serve gRPC server reflection.
    pub reflection: bool,
    /// How often a silent stream is given a sign of life.
    pub heartbeat: Duration,
    /// How long a stream without a token may take to open.
    pub open_timeout: Duration,
    /// How long a stream that has a token may take before it is attached unasked.
    pub open_grace: Duration,
    /// How long a peer may take to accept what it is sent.
    pub send_timeout: Duration,
    /// How long a single call may take, its body included.
    pub call_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            origins: Origins::default(),
            docs: true,
            reflection: true,
            heartbeat: Duration::from_secs(25),
            open_timeout: Duration::from_secs(5),
            open_grace: Duration::from_secs(1),
            send_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
        }
    }
}
