//! The encoded forms of an event.
//!
//! An event that goes to several subscribers is encoded once per codec, by the first stream that
//! sends it. The core knows no codec: a transport names a form by its index.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// Number of forms.
const FORMS: usize = 2;

/// The encoded forms of one event. Clones share them. Empty for an event with a single subscriber,
/// which would gain nothing, and for one that differs between subscribers.
#[derive(Clone, Debug, Default)]
pub struct EncodedForms(Option<Arc<[OnceLock<Bytes>; FORMS]>>);

impl EncodedForms {
    /// Creates forms that several subscribers share.
    pub(in crate::session) fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// Returns true if several subscribers share the forms.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the form of an index, and encodes it if no subscriber has done so.
    ///
    /// # Errors
    /// The error of `encode`.
    pub fn get_or_encode<E>(
        &self,
        form: usize,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let Some(cell) = self.0.as_ref().and_then(|forms| forms.get(form)) else {
            return encode();
        };
        if let Some(bytes) = cell.get() {
            return Ok(bytes.clone());
        }
        // Two streams may encode at the same time: both results are equal.
        let bytes = encode()?;
        Ok(cell.get_or_init(|| bytes).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_forms_are_encoded_once_each_and_others_every_time() {
        for (forms, expected) in [(EncodedForms::shared(), 2), (EncodedForms::default(), 4)] {
            let mut encoded = 0;
            for form in [0, 1, 0, 1] {
                let bytes = forms.clone().get_or_encode(form, || {
                    encoded += 1;
                    Ok::<_, ()>(Bytes::from(vec![form as u8]))
                });
                assert_eq!(bytes, Ok(Bytes::from(vec![form as u8])));
            }
            assert_eq!(encoded, expected);
        }
    }

    #[test]
    fn a_failed_encoding_is_not_kept() {
        let forms = EncodedForms::shared();
        assert_eq!(forms.get_or_encode(0, || Err("no")), Err("no"));
        assert_eq!(forms.get_or_encode(0, || Ok::<_, ()>(Bytes::new())), Ok(Bytes::new()));
    }
}
