//! JSON as servers write it: lenient readers of objects, texts and numbers.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// Reads the fields of a JSON object, in order. A repeated name is reported again; null is
/// reported as `None`.
pub(super) fn fields<'de, D: Deserializer<'de>>(
    deserializer: D,
    field: impl FnMut(&str, Option<&'de RawValue>),
) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

    struct Fields<F>(F);

    impl<'de, F: FnMut(&str, Option<&'de RawValue>)> Visitor<'de> for Fields<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(FieldName(name)) = map.next_key()? {
                let value: &RawValue = map.next_value()?;
                (self.0)(&name, Some(value).filter(|value| value.get() != "null"));
            }
            Ok(())
        }
    }

    deserializer.deserialize_map(Fields(field))
}

/// Returns true for values that say nothing: `""`, `[]`, `{}` and false.
pub(super) fn is_blank(json: &RawValue) -> bool {
    matches!(json.get(), "\"\"" | "[]" | "{}" | "false")
}

/// A JSON string. Half of a surrogate pair, as servers in UTF-16 languages leave it where
/// they cut a text, becomes a replacement character: it is no reason to lose the rest.
pub(super) fn text(json: &RawValue) -> Result<String, serde_json::Error> {
    let text = serde_json::from_str(json.get());
    text.or_else(|_| serde_json::from_str(json.get()).map(|LossyText(text)| text))
}

/// A JSON string that may hold lone surrogates.
struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wtf8;

        impl Visitor<'_> for Wtf8 {
            type Value = LossyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<LossyText, E> {
                // Three bytes stand for a lone surrogate, none of which is UTF-8.
                let text = String::from_utf8_lossy(bytes);
                Ok(LossyText(text.replace("\u{fffd}\u{fffd}\u{fffd}", "\u{fffd}")))
            }
        }

        deserializer.deserialize_bytes(Wtf8)
    }
}

/// Reads an index that a server may write as `1`, `1.0` or `"1"`.
pub(super) fn whole_number(json: &RawValue) -> Option<u32> {
    whole(json.get().trim_matches('"').parse().ok()?)
}

/// Reads a count, which may be written as `1.0`.
pub(super) fn count(number: &Value) -> Option<u32> {
    whole(number.as_f64()?)
}

fn whole(number: f64) -> Option<u32> {
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    is_whole.then_some(number as u32)
}
