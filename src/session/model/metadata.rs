//! Key-value pairs that clients and bots attach to sessions and messages.

use std::{collections::BTreeMap, sync::Arc};

use super::{Error, ErrorKind, Result};

/// Most pairs.
const MAX_PAIRS: usize = 16;

/// Longest key, in characters.
const MAX_KEY: usize = 64;

/// Longest value, in characters.
const MAX_VALUE: usize = 512;

/// At most 16 pairs. Cheap to clone; empty metadata allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Option<Arc<BTreeMap<String, String>>>);

impl Metadata {
    /// Builds metadata, without a check.
    #[must_use]
    pub fn new(pairs: BTreeMap<String, String>) -> Self {
        Self((!pairs.is_empty()).then(|| Arc::new(pairs)))
    }

    /// Checks the number and the length of the pairs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for more than 16 pairs, a key that has not 1 to 64 characters
    /// or a value of more than 512 characters, or a NUL.
    pub fn check(&self) -> Result<()> {
        let is_key = |key: &str| (1..=MAX_KEY).contains(&key.chars().count());
        let is_value = |value: &str| value.chars().count() <= MAX_VALUE;
        let fits = self.len() <= MAX_PAIRS
            && self.iter().all(|(key, value)| {
                is_key(key) && is_value(value) && !key.contains('\0') && !value.contains('\0')
            });
        if fits {
            return Ok(());
        }
        let message = "metadata has at most 16 pairs, keys of 1 to 64 and values of at most 512 \
                       characters";
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Returns the number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |pairs| pairs.len())
    }

    /// Returns true if there is no pair.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the pairs, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|pairs| pairs.iter()).map(|(key, value)| (&**key, &**value))
    }

    /// Returns the bytes of all keys and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Writes the pairs as a JSON object, for stores. `None` if there is none.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        // A map of strings has a JSON form.
        self.0.as_ref().and_then(|pairs| serde_json::to_string(&**pairs).ok())
    }

    /// Reads the form of [`Self::to_json`].
    ///
    /// # Errors
    /// `Internal`: it is no JSON object of strings.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map(Self::new).map_err(Error::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> bool {
        let pairs = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Metadata::new(pairs.collect()).check().is_ok()
    }

    #[test]
    fn metadata_has_few_and_short_pairs() {
        let long = "ä".repeat(513);
        assert!(check(&[]) && check(&[("k", "")]) && check(&[(&long[..128], &long[..1024])]));
        assert!(!check(&[("", "v")]) && !check(&[(&long[..130], "v")]));
        assert!(!check(&[("k", &long)]) && !check(&[("k", "\0")]));
        let keys: Vec<_> = (0..17).map(|key| key.to_string()).collect();
        let pairs: Vec<_> = keys.iter().map(|key| (key.as_str(), "v")).collect();
        assert!(check(&pairs[..16]) && !check(&pairs));
    }

    #[test]
    fn metadata_is_its_own_json_again() {
        let pairs = [("lang".to_owned(), "de".to_owned())];
        let metadata = Metadata::new(pairs.into());
        let json = metadata.to_json().unwrap();
        assert_eq!(json, r#"{"lang":"de"}"#);
        assert_eq!(Metadata::from_json(&json).unwrap(), metadata);
        assert_eq!(Metadata::default().to_json(), None);
    }
}
