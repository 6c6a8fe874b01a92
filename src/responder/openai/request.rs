//! The request body of `POST …/chat/completions`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::context::ChatMessage;

/// Fields of a request that the operator sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    pub(super) model: Option<String>,
    pub(super) temperature: Option<f32>,
    pub(super) max_tokens: Option<u32>,
    /// Fields that are sent unchanged. `null` removes a field that the gateway would send.
    pub(super) extra: BTreeMap<String, Value>,
}

/// The field that limits the tokens of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitField {
    /// `max_tokens`: understood by nearly every server.
    MaxTokens,
    /// `max_completion_tokens`: required by OpenAI's reasoning models.
    MaxCompletionTokens,
}

impl LimitField {
    const fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// Fields that the operator cannot set: they make the response one stream of one reply.
pub(super) const RESERVED: [&str; 3] = ["messages", "stream", "n"];

/// Returns the body of a request.
pub(super) fn body(
    parameters: &Parameters,
    limit: LimitField,
    lines: &[ChatMessage<'_>],
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Request<'a> {
        messages: &'a [ChatMessage<'a>],
        stream: bool,
        #[serde(flatten)]
        others: Map<String, Value>,
    }
    let mut others = Map::new();
    if let Some(model) = &parameters.model {
        others.insert("model".into(), Value::from(model.as_str()));
    }
    others.insert("stream_options".into(), serde_json::json!({"include_usage": true}));
    if let Some(temperature) = parameters.temperature {
        // Through text: 0.7 as a 32-bit number would become 0.699999988079071.
        others.insert("temperature".into(), serde_json::from_str(&temperature.to_string())?);
    }
    if let Some(max_tokens) = parameters.max_tokens {
        others.insert(limit.name().into(), Value::from(max_tokens));
    }
    for (name, value) in &parameters.extra {
        if value.is_null() {
            others.remove(name);
        } else {
            others.insert(name.clone(), value.clone());
        }
    }
    serde_json::to_vec(&Request { messages: lines, stream: true, others }).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_what_was_configured_and_nothing_twice() {
        let extra = [
            ("top_p".to_owned(), Value::from(0.5)),
            ("max_tokens".to_owned(), Value::Null),
            ("max_completion_tokens".to_owned(), Value::from(9)),
        ];
        let parameters = Parameters {
            model: Some("m".into()),
            temperature: Some(0.7),
            max_tokens: Some(5),
            extra: extra.into(),
        };
        let lines = [ChatMessage { role: "user", content: "Hi \"you\"".into() }];
        let body = body(&parameters, LimitField::MaxTokens, &lines)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            body,
            r#"{"messages":[{"role":"user","content":"Hi \"you\""}],"stream":true,"max_completion_tokens":9,"model":"m","stream_options":{"include_usage":true},"temperature":0.7,"top_p":0.5}"#
        );
    }

    #[test]
    fn the_limit_of_tokens_has_the_name_that_the_model_requires() {
        let parameters = Parameters { max_tokens: Some(5), ..Parameters::default() };
        let body = body(&parameters, LimitField::MaxCompletionTokens, &[]).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["max_completion_tokens"], 5);
        assert!(body.get("max_tokens").is_none());
    }
}
