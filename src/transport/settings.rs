//! Deadlines, limits and switches of the transports.

use std::time::Duration;

use http::{HeaderMap, Uri};

use super::{Hosts, Origins};

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which pages may use the gateway from a browser.
    pub origins: Origins,
    /// Names of the gateway: a page of another name is not of the same origin.
    pub hosts: Hosts,
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
            hosts: Hosts::default(),
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

impl Settings {
    /// Returns true if a request may come from the origin that its headers name.
    #[must_use]
    pub fn allows_origin(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        self.origins.allow(&self.hosts, headers, uri)
    }
}
