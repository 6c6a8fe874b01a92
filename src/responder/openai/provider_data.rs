//! Data that a server wants back when the conversation continues: signatures of thoughts, details
//! of reasoning. It is kept under the key `openai`.
//!
//! It returns to the upstream that wrote it, and to no other: servers refuse fields that they do
//! not know.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The data of a tool call.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CallData {
    /// Gemini's signature of the thoughts that led to the call.
    pub(super) extra_content: Value,
}

/// The data of a reply.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ReplyData {
    /// OpenRouter's details of the reasoning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reasoning_details: Vec<Value>,
    /// The reasoning has to return as `reasoning_content`, together with the calls: DeepSeek
    /// refuses the results otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) reasoning_content: bool,
}

/// Provider data as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    openai: FromUpstream<T>,
}

#[derive(Serialize, Deserialize)]
struct FromUpstream<T> {
    /// The name of the upstream.
    upstream: Arc<str>,
    #[serde(flatten)]
    data: T,
}

/// The reader of provider data: one upstream, or `None` for an estimate of the size.
pub(super) type Reader<'a> = Option<&'a str>;

/// Writes data of an upstream.
pub(super) fn written<T: Serialize>(upstream: &Arc<str>, data: &T) -> Arc<str> {
    let upstream = Arc::clone(upstream);
    let stored = Stored { openai: FromUpstream { upstream, data } };
    // The types have a JSON form.
    serde_json::to_string(&stored).unwrap_or_default().into()
}

/// Reads the data that an upstream wrote. Data of others is ignored.
pub(super) fn read<T: DeserializeOwned>(
    stored: Option<&Arc<str>>,
    reader: Reader<'_>,
) -> Option<T> {
    let Stored { openai } = serde_json::from_str::<Stored<T>>(stored?).ok()?;
    reader.is_none_or(|reader| *openai.upstream == *reader).then_some(openai.data)
}

/// Adds details of reasoning. A server streams the text of a detail in pieces.
pub(super) fn add_details(details: &mut Vec<Value>, more: Vec<Value>) {
    for detail in more {
        let Value::Object(detail) = detail else { continue };
        match details.last_mut() {
            Some(Value::Object(last)) if continues(last, &detail) => extend(last, detail),
            _ => details.push(Value::Object(detail)),
        }
    }
}

/// Returns true if two details are pieces of one.
fn continues(last: &Map<String, Value>, next: &Map<String, Value>) -> bool {
    let is_growing = GROWING.iter().any(|name| next.get(*name).is_some_and(Value::is_string));
    let is_signature = next.get("signature").is_some_and(Value::is_string);
    (is_growing || is_signature)
        && ["type", "index"].iter().all(|name| last.get(*name) == next.get(*name))
}

/// The texts of a detail.
const GROWING: [&str; 2] = ["text", "summary"];

fn extend(last: &mut Map<String, Value>, next: Map<String, Value>) {
    for (name, value) in next {
        match (last.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more))
                if GROWING.contains(&name.as_str()) =>
            {
                text.push_str(&more);
            }
            (_, value) => drop(last.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_returns_to_the_upstream_that_wrote_it_and_to_no_other() {
        let data = CallData { extra_content: json!({"google": {"thought_signature": "x"}}) };
        let stored = written(&"one".into(), &data);
        let expected = json!({"openai": {"upstream": "one", "extra_content": data.extra_content}});
        assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), expected);
        assert_eq!(read(Some(&stored), Some("one")).as_ref(), Some(&data));
        assert_eq!(read(Some(&stored), None), Some(data));
        assert_eq!(read::<CallData>(Some(&stored), Some("two")), None);
        for other in [r#"{"anthropic":{"signature":"x"}}"#, "[]", "", r#"{"openai":{}}"#] {
            assert_eq!(read::<CallData>(Some(&other.into()), None), None, "{other}");
            assert_eq!(read::<ReplyData>(Some(&other.into()), None), None, "{other}");
        }
    }

    #[test]
    fn pieces_of_a_detail_become_one_and_others_stay_apart() {
        let mut details = Vec::new();
        for more in [
            json!([{"type": "reasoning.text", "index": 0, "text": "Hm", "signature": null}]),
            json!([{"type": "reasoning.text", "index": 0, "text": ", well", "format": "x"}]),
            json!([{"type": "reasoning.text", "index": 0, "signature": "s"}]),
            json!([{"type": "reasoning.encrypted", "index": 0, "data": "a"}]),
            json!([{"type": "reasoning.encrypted", "index": 0, "data": "b"}, "odd"]),
            json!([{"type": "reasoning.text", "index": 1, "text": "Oh"}]),
        ] {
            add_details(&mut details, serde_json::from_value(more).unwrap());
        }
        let expected = json!([
            {"type": "reasoning.text", "index": 0, "text": "Hm, well", "signature": "s", "format": "x"},
            {"type": "reasoning.encrypted", "index": 0, "data": "a"},
            {"type": "reasoning.encrypted", "index": 0, "data": "b"},
            {"type": "reasoning.text", "index": 1, "text": "Oh"},
        ]);
        assert_eq!(Value::Array(details), expected);
    }
}
