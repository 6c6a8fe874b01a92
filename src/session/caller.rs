//! The origin of an operation.

use std::{fmt, net::IpAddr, sync::Arc};

use super::model::{Error, ErrorKind, Identity, Result, Session};

/// The caller of an operation. Every operation of the core takes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The identity that its credential proved. `None` without a credential.
    pub identity: Option<Arc<Identity>>,
    /// Address of the peer. `None` for a caller in the same process.
    pub address: Option<PeerAddress>,
}

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// A peer of a TCP connection, or the client that a trusted proxy named.
    Ip(IpAddr),
    /// A peer on the Unix socket. All of them are one, since they have no address.
    UnixSocket,
}

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::UnixSocket => f.write_str("unix"),
        }
    }
}

impl Caller {
    /// A caller without a credential, known by its address alone.
    #[must_use]
    pub const fn of_address(address: PeerAddress) -> Self {
        Self { identity: None, address: Some(address) }
    }

    /// Returns the identity.
    ///
    /// # Errors
    /// `Unauthenticated` without one.
    pub fn authenticated(&self) -> Result<&Arc<Identity>> {
        self.identity.as_ref().ok_or_else(|| ErrorKind::Unauthenticated.into())
    }

    /// Fails unless the caller may use the token of a session that is bound to its owner.
    ///
    /// # Errors
    /// `Unauthenticated` without a credential, `Forbidden` with that of another subject.
    pub(super) fn check_owner(&self, session: &Session) -> Result<()> {
        let Some(subject) = &session.subject else { return Ok(()) };
        if self.authenticated()?.owns(subject) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forbidden, "The session belongs to another subject"))
    }
}
