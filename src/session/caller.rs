//! The origin of an operation.

use std::{net::IpAddr, sync::Arc};

/// The caller of an operation. Every operation of the core takes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Identity of the caller. `None` in open mode.
    pub subject: Option<Arc<str>>,
    /// Address of the peer. `None` for a caller in the same process.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// A caller in open mode, known by its address alone.
    #[must_use]
    pub const fn of_address(address: IpAddr) -> Self {
        Self { subject: None, address: Some(address) }
    }
}
