//! Addresses of callers, as the log shows them.

use std::{fmt::Write as _, net::IpAddr};

use sha2::{Digest as _, Sha256};

use super::{caller::PeerAddress, settings::AddressLog};

/// Writes addresses for the log.
pub(super) struct AddressLabels {
    form: AddressLog,
    /// Random, and new at each start: without it, the few addresses of IPv4 could be tried one by
    /// one.
    key: [u8; 32],
}

impl AddressLabels {
    pub(super) fn new(form: AddressLog) -> Self {
        Self { form, key: rand::random() }
    }

    /// Returns the address as the log shows it.
    pub(super) fn of(&self, address: Option<PeerAddress>) -> Option<String> {
        match self.form {
            AddressLog::Full => address.map(|address| address.to_string()),
            AddressLog::Hash => address.map(|address| match address {
                PeerAddress::Ip(ip) => self.hash(ip),
                PeerAddress::UnixSocket => address.to_string(),
            }),
            AddressLog::None => None,
        }
    }

    /// Returns the first 64 bits of a keyed hash, in hexadecimal.
    fn hash(&self, address: IpAddr) -> String {
        let mut hash = Sha256::new_with_prefix(self.key);
        match address.to_canonical() {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
        hash.finalize()[..8].iter().fold(String::new(), |mut text, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_addresses_apart_and_hides_them() {
        let address = |text: &str| text.parse().ok().map(PeerAddress::Ip);
        let labels = AddressLabels::new(AddressLog::Hash);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let label = labels.of(one);
        assert_eq!(label.as_ref().map(String::len), Some(16));
        assert_eq!(label, labels.of(address("::ffff:192.0.2.1")));
        assert_ne!(label, labels.of(other));
        assert_ne!(label, AddressLabels::new(AddressLog::Hash).of(one), "another key");
        let full = AddressLabels::new(AddressLog::Full);
        assert_eq!(full.of(one).as_deref(), Some("192.0.2.1"));
        assert_eq!(AddressLabels::new(AddressLog::None).of(one), None);
    }
}
