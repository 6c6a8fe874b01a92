//! The tokens that were checked a short time ago: a signature costs more than a lookup.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::jwk_set::JwkSet;
use crate::session::{Identity, Timestamp};

/// Most tokens. Beyond it all are forgotten.
const MAX_TOKENS: usize = 4096;

/// Identities by the SHA-256 of their token, under one set of keys.
#[derive(Default)]
pub(super) struct JwtCache {
    // A std mutex: it is held for a few instructions and never across an await.
    checked: Mutex<Checked>,
}

#[derive(Default)]
struct Checked {
    keys: Option<Arc<JwkSet>>,
    identities: HashMap<[u8; 32], Identity>,
}

impl JwtCache {
    /// Returns the identity of a token that was checked with these keys and has not expired.
    pub(super) fn get(&self, token: &str, keys: &Arc<JwkSet>, now: Timestamp) -> Option<Identity> {
        let hash = hash(token);
        let mut checked = self.checked();
        checked.follow(keys);
        let found = checked.identities.get(&hash);
        found.filter(|identity| identity.expires_at.is_some_and(|end| end > now)).cloned()
    }

    /// Keeps the identity of a token that was checked with these keys.
    pub(super) fn keep(&self, token: &str, keys: &Arc<JwkSet>, identity: &Identity) {
        let hash = hash(token);
        let mut checked = self.checked();
        checked.follow(keys);
        if checked.identities.len() >= MAX_TOKENS {
            checked.identities.clear();
        }
        checked.identities.insert(hash, identity.clone());
    }

    fn checked(&self) -> MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checked {
    /// Forgets the tokens of other keys: one of them may have been removed.
    fn follow(&mut self, keys: &Arc<JwkSet>) {
        if !self.keys.as_ref().is_some_and(|known| Arc::ptr_eq(known, keys)) {
            self.identities.clear();
            self.keys = Some(Arc::clone(keys));
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::IdentityKind;

    const KEYS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn a_token_is_known_until_it_expires_or_the_keys_change() {
        let keys = || Arc::new(JwkSet::parse(KEYS).unwrap());
        let now = Timestamp::from_millis(1_000_000);
        let end = now.plus(Duration::from_secs(60));
        let (subject, kind) = ("jwt:a#b".into(), IdentityKind::User);
        let identity = Identity { subject, kind, expires_at: Some(end) };
        let (cache, one) = (JwtCache::default(), keys());
        assert_eq!(cache.get("t", &one, now), None);
        cache.keep("t", &one, &identity);
        assert_eq!(cache.get("t", &one, now).as_ref(), Some(&identity));
        assert_eq!(cache.get("u", &one, now), None);
        assert_eq!(cache.get("t", &one, end), None);
        assert_eq!(cache.get("t", &keys(), now), None, "the same key, read again");
        assert_eq!(cache.get("t", &one, now), None);
        for number in 0..2 * MAX_TOKENS {
            cache.keep(&number.to_string(), &one, &identity);
        }
        assert!(cache.checked().identities.len() <= MAX_TOKENS);
    }
}
