//! The input forms of the canonical proto-JSON mapping that the generated code refuses.
//!
//! The ProtoJSON format (protobuf.dev, "ProtoJSON Format") lets a parser accept null for an absent
//! field, also beside a set member of a oneof, and integers written as `1.0` or `1e0`. This is the
//! slow path: it is taken only for frames that the generated code has refused.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads a message in any of the accepted forms.
///
/// # Errors
/// The text is no JSON, a name is repeated, or the message has no such field.
pub(in crate::transport) fn from_str<T: DeserializeOwned>(
    text: &str,
) -> Result<T, serde_json::Error> {
    // The first error is the clearer one.
    serde_json::from_str(text).or_else(|error| normalized(text).map_err(|_| error))
}

fn normalized<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let Normalized(value) = serde_json::from_str(text)?;
    serde_json::from_value(value)
}

/// A JSON value without nulls in its objects, in which whole numbers are integers.
struct Normalized(Value);

impl<'de> Deserialize<'de> for Normalized {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Normalized;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Normalized, E> {
                Ok(Normalized(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Normalized, E> {
                Ok(Normalized(Value::Bool(value)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Normalized, E> {
                Ok(Normalized(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Normalized, E> {
                Ok(Normalized(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Normalized, E> {
                // The contract has no integers beyond 32 bits.
                let range = f64::from(i32::MIN)..=f64::from(u32::MAX);
                if value.fract() == 0.0 && range.contains(&value) {
                    return Ok(Normalized((value as i64).into()));
                }
                Ok(Normalized(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Normalized, E> {
                Ok(Normalized(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Normalized, A::Error> {
                let mut list = Vec::new();
                while let Some(Normalized(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(Normalized(Value::Array(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Normalized, A::Error> {
                let mut seen = BTreeMap::new();
                while let Some((name, Normalized(value))) = entries.next_entry::<String, _>()? {
                    if seen.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name is repeated"));
                    }
                }
                let set = seen.into_iter().filter(|(_, value)| !value.is_null());
                Ok(Normalized(Value::Object(set.collect::<Map<_, _>>())))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn the_forms_of_the_canonical_mapping_are_read() {
        let read = |text: &str| from_str::<proto::ChatRequest>(text).unwrap().request;
        let ping = read(r#"{"ping":{}}"#);
        assert!(ping.is_some());
        for text in [r#"{"ping":{},"open":null}"#, r#"{"open":null,"ping":{},"send":null}"#] {
            assert_eq!(read(text), ping, "{text}");
        }
        let open = read(r#"{"open":{"token":"t","position":{"epoch":"e","seq":1}}}"#);
        for seq in ["1.0", "1e0", "10e-1", "\"1\""] {
            let text =
                format!(r#"{{"open":{{"token":"t","position":{{"epoch":"e","seq":{seq}}}}}}}"#);
            assert_eq!(read(&text), open, "{text}");
        }
        let send = read(r#"{"send":{"text":"a","clientMessageId":"m"}}"#);
        assert_eq!(read(r#"{"send":{"text":"a","client_message_id":"m"}}"#), send);
        assert_eq!(
            read(r#"{"send":{"text":"a"}}"#),
            read(r#"{"send":{"text":"a","clientMessageId":null}}"#)
        );
    }

    #[test]
    fn other_forms_stay_refused() {
        for text in [
            r#"{"ping":{},"ping":{}}"#,
            r#"{"ping":{},"stop":{}}"#,
            r#"{"send":{"text":"a","text":"b"}}"#,
            r#"{"send":{"text":"a","clientMessageId":"m","client_message_id":"m"}}"#,
            r#"{"open":{"position":{"epoch":"e","seq":1.5}}}"#,
            r#"{"open":{"position":{"epoch":"e","seq":-1.0}}}"#,
            r#"{"open":{"position":{"epoch":"e","seq":4294967296.0}}}"#,
            r#"{"open":{"position":{"epoch":"e","seq":1e99}}}"#,
            r#"{"shout":{}}"#,
            "[]",
            "null",
        ] {
            assert!(from_str::<proto::ChatRequest>(text).is_err(), "{text}");
        }
    }
}
