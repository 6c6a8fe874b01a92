//! What an account is of.

use std::{net::IpAddr, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::session::{
    caller::PeerAddress,
    ports::{Origin, ShareOf},
};

/// An address, a subject or an API key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AccountKey {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address: one subscriber usually has a whole /64.
    V6([u8; 8]),
    /// All peers on the Unix socket.
    UnixSocket,
    /// An owner of sessions.
    Subject(Arc<str>),
    /// An API key: `key:NAME`.
    Key(Box<str>),
}

impl AccountKey {
    pub(super) fn of_address(address: PeerAddress) -> Self {
        let PeerAddress::Ip(address) = address else { return Self::UnixSocket };
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// Returns the account of the API key of a subject: `key:NAME` or `key:NAME/USER`.
    pub(super) fn of_key(subject: &str) -> Option<Self> {
        let name = subject.strip_prefix("key:")?.split('/').next()?;
        Some(Self::Key(subject["key:".len()..][..name.len()].into()))
    }

    /// Returns the part of the store that this account has a limit of.
    pub(super) fn share(&self, secret: &[u8; 32]) -> Option<ShareOf> {
        let origin = |network: &[u8]| {
            let hash = Sha256::new_with_prefix(secret).chain_update(network).finalize();
            let mut origin = [0; 16];
            origin.copy_from_slice(&hash[..16]);
            Some(ShareOf::Origin(Origin(origin)))
        };
        match self {
            Self::V4(network) => origin(network),
            Self::V6(network) => origin(network),
            Self::UnixSocket => origin(b"unix socket"),
            Self::Subject(subject) => Some(ShareOf::Subject(Arc::clone(subject))),
            Self::Key(_) => None,
        }
    }

    /// Names the kind in the settings.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::V4(_) | Self::V6(_) | Self::UnixSocket => "address",
            Self::Subject(_) => "subject",
            Self::Key(_) => "key",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_account_for_ipv6_alone() {
        let of = |text: &str| AccountKey::of_address(PeerAddress::Ip(text.parse().unwrap()));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        let unix = AccountKey::of_address(PeerAddress::UnixSocket);
        // The bytes of "unix" are an IPv4 address.
        assert_ne!(unix.share(&[0; 32]), of("117.110.105.120").share(&[0; 32]));
    }

    #[test]
    fn the_users_of_a_service_share_the_account_of_its_key() {
        let of = AccountKey::of_key;
        assert_eq!(of("key:web/ada"), of("key:web"));
        assert_ne!(of("key:web/ada"), of("key:web2/ada"));
        assert_eq!(of("jwt:https://a#key:web"), None);
    }
}
