//! The request body of `POST …/chat/completions`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::chat_message::{ChatMessage, sum};
use crate::session::{Tool, TurnOptions, estimate_tokens};

/// The part of a request that belongs to the turn.
#[derive(Debug)]
pub(super) struct ChatRequest<'a> {
    pub(super) messages: Vec<ChatMessage<'a>>,
    pub(super) options: Option<&'a TurnOptions>,
}

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

/// Fields that options set, or that are older forms of those. `extra` does not set them, so that the
/// operator's limits and list of allowed options hold.
const OPTION_FIELDS: [&str; 10] = [
    "model",
    "stream_options",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "temperature",
];

/// Returns the body of a request. The fields of the operator take precedence over the options of
/// the turn, except for the model, the temperature and a smaller limit of tokens.
pub(super) fn body(
    parameters: &Parameters,
    limit: LimitField,
    request: &ChatRequest<'_>,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Request<'a> {
        messages: &'a [ChatMessage<'a>],
        stream: bool,
        #[serde(flatten)]
        others: Map<String, Value>,
    }
    let none = TurnOptions::default();
    let options = request.options.unwrap_or(&none);
    let mut others = extra_fields(options);
    if let Some(model) = options.model.as_deref().or(parameters.model.as_deref()) {
        others.insert("model".into(), Value::from(model));
    }
    if !options.tools.is_empty() {
        others.insert("tools".into(), options.tools.iter().map(tool).collect());
    }
    // Providers refuse a choice without tools.
    let has_tools = !options.tools.is_empty() || parameters.extra.contains_key("tools");
    if let Some(choice) = options.tool_choice.as_deref().filter(|_| has_tools) {
        others.insert("tool_choice".into(), tool_choice(choice));
    }
    others.insert("stream_options".into(), serde_json::json!({"include_usage": true}));
    if let Some(temperature) = options.temperature.or(parameters.temperature) {
        // Through text: 0.7 as a 32-bit number would become 0.699999988079071.
        others.insert("temperature".into(), serde_json::from_str(&temperature.to_string())?);
    }
    let limits = [options.max_output_tokens, parameters.max_tokens];
    if let Some(max_tokens) = limits.into_iter().flatten().min() {
        others.insert(limit.name().into(), Value::from(max_tokens));
    }
    for (name, value) in &parameters.extra {
        if value.is_null() {
            others.remove(name);
        } else {
            others.insert(name.clone(), value.clone());
        }
    }
    let request = Request { messages: &request.messages, stream: true, others };
    serde_json::to_vec(&request).map(Bytes::from)
}

/// Returns the `extra` fields of the turn's options, except fields that the gateway sets.
fn extra_fields(options: &TurnOptions) -> Map<String, Value> {
    let extra = options.extra.as_deref().map(serde_json::from_str);
    // The core has checked that it is an object.
    let mut fields: Map<String, Value> = extra.and_then(Result::ok).unwrap_or_default();
    for name in RESERVED.iter().chain(&OPTION_FIELDS) {
        fields.remove(*name);
    }
    fields
}

/// Estimates the tokens of the tools that a turn offers.
pub(super) fn tool_tokens(options: &TurnOptions) -> u32 {
    let texts = |tool: &Tool| {
        let texts = [Some(&tool.name), tool.description.as_ref(), tool.parameters.as_ref()];
        sum(texts.into_iter().flatten().map(|text| estimate_tokens(text)))
    };
    sum(options.tools.iter().map(texts))
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::from_iter([("name".to_owned(), Value::from(&*tool.name))]);
    if let Some(description) = tool.description.as_deref() {
        function.insert("description".into(), description.into());
    }
    // The core has checked that they are a JSON object.
    let parameters = tool.parameters.as_deref().and_then(|it| serde_json::from_str(it).ok());
    if let Some(parameters) = parameters {
        function.insert("parameters".into(), parameters);
    }
    serde_json::json!({"type": "function", "function": function})
}

fn tool_choice(choice: &str) -> Value {
    match choice {
        "auto" | "none" | "required" => choice.into(),
        name => serde_json::json!({"type": "function", "function": {"name": name}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: Option<&TurnOptions>) -> ChatRequest<'_> {
        ChatRequest { messages: vec![ChatMessage::text("user", "Hi \"you\"")], options }
    }

    #[test]
    fn the_options_of_a_turn_are_sent_within_the_limits_of_the_operator() {
        let options = TurnOptions {
            model: Some("large".into()),
            tools: vec![Tool {
                name: "weather".into(),
                description: Some("The weather".into()),
                parameters: Some("{\"type\":\"object\"}".into()),
            }],
            tool_choice: Some("weather".into()),
            max_output_tokens: Some(50),
            temperature: Some(0.5),
            extra: Some(
                r#"{"seed":7,"top_p":1,"stream":false,"messages":[],"n":3,
                    "max_completion_tokens":9999,"functions":[]}"#
                    .into(),
            ),
            ..TurnOptions::default()
        };
        let parameters = Parameters {
            model: Some("small".into()),
            temperature: Some(1.0),
            max_tokens: Some(20),
            extra: [("top_p".to_owned(), Value::from(0.5))].into(),
        };
        let body = body(&parameters, LimitField::MaxTokens, &request(Some(&options))).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "messages": [{"role": "user", "content": "Hi \"you\""}],
            "stream": true,
            "model": "large",
            "tools": [{"type": "function", "function": {
                "name": "weather",
                "description": "The weather",
                "parameters": {"type": "object"},
            }}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "max_tokens": 20,
            "temperature": 0.5,
            "seed": 7,
            "top_p": 0.5,
            "stream_options": {"include_usage": true},
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_choice_without_tools_is_left_out() {
        let options = TurnOptions { tool_choice: Some("auto".into()), ..TurnOptions::default() };
        for (operators, expected) in [(None, false), (Some(serde_json::json!([{}])), true)] {
            let extra = operators.map(|tools| ("tools".to_owned(), tools)).into_iter().collect();
            let parameters = Parameters { extra, ..Parameters::default() };
            let body = body(&parameters, LimitField::MaxTokens, &request(Some(&options))).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body.get("tool_choice").is_some(), expected);
        }
    }

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
        let request = request(None);
        let body = body(&parameters, LimitField::MaxTokens, &request)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            body,
            r#"{"messages":[{"role":"user","content":"Hi \"you\""}],"stream":true,"max_completion_tokens":9,"model":"m","stream_options":{"include_usage":true},"temperature":0.7,"top_p":0.5}"#
        );
    }

    #[test]
    fn the_limit_of_tokens_has_the_name_that_the_model_requires() {
        let parameters = Parameters { max_tokens: Some(5), ..Parameters::default() };
        let body = body(&parameters, LimitField::MaxCompletionTokens, &request(None)).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["max_completion_tokens"], 5);
        assert!(body.get("max_tokens").is_none());
    }
}
