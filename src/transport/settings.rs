//! Settings of the transports.

use std::time::Duration;

use http::{HeaderMap, Uri};

use super::{Hosts, Origins};

/// Deadlines, limits and switches of the transports.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origins of the web pages that may use the gateway.
    pub origins: Origins,
    /// Host names of the gateway, for the check of the same origin.
    pub hosts: Hosts,
    /// Serve `/docs`, `/openapi.json` and `/asyncapi.yaml`.
    pub docs: bool,
    /// Serve gRPC server reflection.
    pub reflection: bool,
    /// Interval of keep-alives on a silent stream.
    pub heartbeat: Duration,
    /// Longest time until a stream without a token sends `open`.
    pub open_timeout: Duration,
    /// Time after which a stream with a token is attached without `open`.
    pub open_grace: Duration,
    /// Longest time that a peer may take to read a frame.
    pub send_timeout: Duration,
    /// Longest time of a single call, its body included.
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
