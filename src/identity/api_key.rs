//! The secret of an API key.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A new key: `dk_` and 192 random bits in hexadecimal. Only its hash is stored.
///
/// A slow hash is not needed: the key cannot be guessed.
pub struct ApiKey(String);

impl ApiKey {
    /// Creates a key with a cryptographically secure generator, seeded by the operating system.
    #[must_use]
    pub fn generate() -> Self {
        let secret: [u8; 24] = rand::random();
        Self(format!("dk_{}", hex(&secret)))
    }

    /// Returns the secret, for its owner only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash, for the file.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// SHA-256 of a key. A lookup needs no constant-time comparison: the timing reveals bits of the
/// hash, from which the key cannot be derived.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Returns the hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(hash))
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(redacted)")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Credential, CredentialForm};

    #[test]
    fn a_key_has_the_form_of_one_and_its_hash_is_read_as_it_was_written() {
        let key = ApiKey::generate();
        let form = Credential::recognize(key.expose()).map(|credential| credential.form());
        assert_eq!(form, Some(CredentialForm::ApiKey));
        assert_eq!(KeyHash::parse(&key.hash().to_hex()), Some(key.hash()));
        assert_ne!(ApiKey::generate().hash(), key.hash());
        for wrong in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert_eq!(KeyHash::parse(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{key:?} {:?}", key.hash()), "ApiKey(redacted) KeyHash(redacted)");
    }
}
