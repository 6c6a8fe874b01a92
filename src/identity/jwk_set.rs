//! The public keys of an issuer (RFC 7517).

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{Jwk, JwkSet as Document, PublicKeyUse},
};

/// Most keys that are kept.
const MAX_KEYS: usize = 64;

/// A set of keys that can check signatures.
pub(super) struct JwkSet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl JwkSet {
    /// Reads a document. Skips keys of other uses and of unknown types.
    ///
    /// # Errors
    /// The document is no key set, or has no key that can check a signature.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(json).map_err(|error| format!("not a key set: {error}"))?;
        let keys: Vec<_> = document.keys.iter().filter_map(Key::of).take(MAX_KEYS).collect();
        if keys.is_empty() {
            return Err("it has no key that can check a signature".into());
        }
        Ok(Self { keys })
    }

    /// Returns the keys that may have made a signature.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let may_be = move |key: &&Key| {
            let is_named = id.is_none_or(|id| key.id.as_deref().is_none_or(|own| own == id));
            let is_for = key.algorithm.is_none_or(|own| own == algorithm);
            is_named && is_for && key.key.family() == algorithm.family()
        };
        self.keys.iter().filter(may_be).map(|key| &key.key)
    }
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        let is_for_signatures =
            matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let algorithm = match jwk.common.key_algorithm {
            // A key for another purpose, such as encryption, has no algorithm of a signature.
            Some(named) => Some(Algorithm::try_from(named).ok()?),
            None => None,
        };
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| is_for_signatures)?;
        Some(Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}
