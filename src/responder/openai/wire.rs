//! The messages of `POST …/chat/completions`, as far as they concern us.
//!
//! Read leniently, since servers differ: fields may be absent or null, an error's code a
//! string or a number, and what is unknown is passed over. Only JSON that is no JSON is
//! an error.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::{
    context::ChatMessage,
    sse::{Event, Kind},
};
use crate::{responder::upstream::sanitize, session::Usage};

/// What the operator adds to a request, and what is asked of the model.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    pub(super) model: Option<String>,
    pub(super) temperature: Option<f32>,
    pub(super) max_tokens: Option<u32>,
    /// Fields that are sent as they are; `null` takes one of ours away.
    pub(super) extra: BTreeMap<String, Value>,
}

/// Fields that are not for the operator to set: without them there is no stream of one
/// answer to this conversation.
pub(super) const RESERVED: [&str; 3] = ["messages", "stream", "n"];

/// The body of a request.
pub(super) fn request(
    parameters: &Parameters,
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
        others.insert("max_tokens".into(), Value::from(max_tokens));
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

/// What one event says.
#[derive(Debug, PartialEq)]
pub(super) enum WireEvent {
    /// A piece of the answer, or of what surrounds it.
    Piece(Piece),
    /// The upstream reports an error.
    Error(ErrorBody),
    /// `[DONE]`.
    Done,
    /// Nothing that is part of an answer.
    Nothing,
}

/// A piece of the answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    /// More text; may be empty.
    pub(super) text: String,
    /// The model thinks; what it thinks is no part of the answer.
    pub(super) reasons: bool,
    /// Why it ended, in the upstream's own words.
    pub(super) finish_reason: Option<Arc<str>>,
    /// What it cost so far.
    pub(super) usage: Option<Usage>,
}

impl Piece {
    /// The answer, or the way to it, is further than before.
    pub(super) fn advances(&self) -> bool {
        !self.text.is_empty()
            || self.reasons
            || self.finish_reason.is_some()
            || self.usage.is_some()
    }
}

/// Reads an event.
pub(super) fn read(event: &Event<'_>) -> Result<WireEvent, serde_json::Error> {
    if event.data.trim_ascii() == b"[DONE]" {
        return Ok(WireEvent::Done);
    }
    if event.kind == Kind::Error {
        return Ok(WireEvent::Error(ErrorBody::read(event.data)));
    }
    let chunk: Chunk<'_> = match serde_json::from_slice(event.data) {
        Ok(chunk) => chunk,
        // Signs of life, which have a name and say anything, or have nothing to say.
        Err(_) if event.kind == Kind::Other || event.data.is_empty() => {
            return Ok(WireEvent::Nothing);
        }
        Err(error) => return Err(error),
    };
    let is_error = chunk.object.is_some_and(|object| object.get() == "\"error\"");
    if is_error || chunk.error.is_some() {
        let body = ErrorBody::read(event.data);
        // Some servers write something for none.
        if is_error || body.says_something() {
            return Ok(WireEvent::Error(body));
        }
    }
    let mut piece = Piece { usage: chunk.usage.and_then(tokens), ..Piece::default() };
    // Others are other answers to the same question.
    if let Some(choice) = chunk.choices.unwrap_or_default().into_iter().find(Choice::is_first) {
        let delta = choice.delta.unwrap_or_default();
        let content = delta.content.map(content).transpose()?.filter(|text| !text.is_empty());
        piece.text = match content {
            Some(text) => text,
            None => delta.refusal.map(text).transpose()?.unwrap_or_default(),
        };
        let thinks = |text: Option<&RawValue>| text.is_some_and(|text| text.get() != "\"\"");
        piece.reasons = thinks(delta.reasoning_content) || thinks(delta.reasoning);
        piece.finish_reason = choice.finish_reason.and_then(reason);
    }
    Ok(WireEvent::Piece(piece))
}

// What is seldom there, or of no use, is not taken apart: one of these comes per token.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    index: Option<&'a RawValue>,
}

impl Choice<'_> {
    fn is_first(&self) -> bool {
        // A number, however it is written, or a text.
        let number = |index: &RawValue| index.get().trim_matches('"').parse::<f64>().ok();
        self.index.and_then(number).is_none_or(|index| index == 0.0)
    }
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    /// Said in the place of an answer.
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// A text, or what some servers write: a list, in which thinking has its own type.
fn content(json: &RawValue) -> Result<String, serde_json::Error> {
    if !json.get().starts_with('[') {
        return text(json);
    }
    let parts: Vec<&RawValue> = serde_json::from_str(json.get())?;
    parts.into_iter().map(part).collect()
}

fn part(json: &RawValue) -> Result<String, serde_json::Error> {
    if json.get().starts_with('"') {
        return text(json);
    }
    let part: Part<'_> = serde_json::from_str(json.get())?;
    let is_text = part.kind.is_none_or(|kind| kind.get() == "\"text\"");
    part.text.filter(|_| is_text).map_or(Ok(String::new()), text)
}

/// A JSON string. Half of a surrogate pair, as servers in UTF-16 languages leave it where
/// they cut a text, becomes a replacement character: it is no reason to lose the rest.
fn text(json: &RawValue) -> Result<String, serde_json::Error> {
    let text = serde_json::from_str(json.get());
    text.or_else(|_| serde_json::from_str(json.get()).map(|Lossy(text)| text))
}

/// A JSON string that may hold lone surrogates.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wtf8;

        impl Visitor<'_> for Wtf8 {
            type Value = Lossy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
                // Three bytes stand for a lone surrogate, none of which is UTF-8.
                let text = String::from_utf8_lossy(bytes);
                Ok(Lossy(text.replace("\u{fffd}\u{fffd}\u{fffd}", "\u{fffd}")))
            }
        }

        deserializer.deserialize_bytes(Wtf8)
    }
}

/// Some servers write a reason that is no text, or something for none.
fn reason(json: &RawValue) -> Option<Arc<str>> {
    let word = match json.get() {
        "\"null\"" | "\"None\"" => None,
        quoted if quoted.starts_with('"') => text(json).ok(),
        number => number.parse::<f64>().is_ok_and(|it| it != 0.0).then(|| number.into()),
    };
    word.as_deref().and_then(sanitize::finish_reason)
}

fn tokens(json: &RawValue) -> Option<Usage> {
    let usage: Value = serde_json::from_str(json.get()).ok()?;
    let count = |name| usage.get(name)?.as_u64()?.try_into().ok();
    let (input_tokens, output_tokens) = (count("prompt_tokens")?, count("completion_tokens")?);
    Some(Usage { input_tokens, output_tokens, estimated: false })
}

/// What an upstream says about an error, in whichever form.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorBody {
    pub(super) message: String,
    pub(super) kind: String,
    pub(super) code: String,
}

impl ErrorBody {
    /// There is an error in it at all.
    pub(super) fn says_something(&self) -> bool {
        !(self.message.is_empty() && self.kind.is_empty() && self.code.is_empty())
    }

    /// Reads `{"error":{message,type,code}}`, `{"error":"…"}`, the same without `error`
    /// around it, `{"detail":…}`, or a text that is no JSON.
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            let message = String::from_utf8_lossy(body).into_owned();
            return Self { message, ..Self::default() };
        };
        // Gemini puts it into a list of one.
        let value = value.get(0).unwrap_or(&value);
        let inner = match value.get("error") {
            None | Some(Value::Null) => value,
            Some(error) => error,
        };
        let text = |names: &[&str]| {
            let found = names.iter().find_map(|name| inner.get(name).filter(|v| !v.is_null()));
            found.map(|found| found.as_str().map_or_else(|| found.to_string(), Into::into))
        };
        let message = inner.as_str().map(Into::into).or_else(|| text(&["message", "detail"]));
        Self {
            message: message.unwrap_or_default(),
            kind: text(&["type"]).unwrap_or_default(),
            code: text(&["code"]).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(data: &str) -> WireEvent {
        let event = Event { data: data.as_bytes(), kind: Kind::Message };
        read(&event).unwrap_or_else(|error| panic!("{data}: {error}"))
    }

    fn piece(data: &str) -> Piece {
        match said(data) {
            WireEvent::Piece(piece) => piece,
            other => panic!("{data}: {other:?}"),
        }
    }

    #[test]
    fn pieces_of_all_servers_are_read() {
        for (data, text) in [
            (r#"{"choices":[{"delta":{"content":"a"}}]}"#, "a"),
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
                "",
            ),
            (r#"{"choices":[{"delta":{}}]}"#, ""),
            (r#"{"choices":[{}]}"#, ""),
            (r#"{"choices":[],"prompt_filter_results":[]}"#, ""),
            (r#"{"choices":null,"error":null}"#, ""),
            (r#"{"choices":[],"usage":null}"#, ""),
            (r#"{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":-1}}"#, ""),
            (r#"{"choices":[{"delta":{"refusal":"No."}}]}"#, "No."),
            (r#"{"choices":[{"delta":{"content":"","refusal":"No."}}]}"#, "No."),
            (r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#, ""),
            (
                r#"{"choices":[{"index":1,"delta":{"content":"other"}},{"index":0,"delta":{"content":"a"}}]}"#,
                "a",
            ),
            (r#"{"choices":[{"delta":{"content":"a"}}],"error":""}"#, "a"),
            (r#"{"choices":[{"delta":{"content":"a"}}],"error":{"message":null}}"#, "a"),
            (r#"{"choices":[{"delta":{"content":"a"},"index":"0"}],"error":[]}"#, "a"),
            (r#"{"choices":[{"delta":{"content":"a"},"index":0.0}]}"#, "a"),
            (
                r#"{"choices":[{"delta":{"content":["a",{"type":"text","text":"\ud83d"}]}}]}"#,
                "a\u{fffd}",
            ),
            (r#"{"choices":[{"delta":{"content":"half \ud83d"}}]}"#, "half \u{fffd}"),
            (r#"{"choices":[{"delta":{"content":[{"text":"c"}]}}]}"#, "c"),
            (
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"b"}]}}]}"#,
                "b",
            ),
        ] {
            assert_eq!(piece(data).text, text, "{data}");
            assert_eq!(piece(data).advances(), !text.is_empty(), "{data}");
        }
    }

    #[test]
    fn reasoning_is_no_text() {
        for name in ["reasoning_content", "reasoning"] {
            let piece =
                piece(&format!(r#"{{"choices":[{{"delta":{{"{name}":"hm","content":""}}}}]}}"#));
            assert!(piece.reasons && piece.text.is_empty());
        }
        assert!(
            !piece(r#"{"choices":[{"delta":{"reasoning":null,"reasoning_content":""}}]}"#).reasons
        );
    }

    #[test]
    fn endings_and_usage_are_read() {
        let end = piece(r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"eos_token"}]}"#);
        assert_eq!((end.text.as_str(), end.finish_reason.as_deref()), ("x", Some("eos_token")));
        assert_eq!(piece(r#"{"choices":[{"delta":{},"finish_reason":""}]}"#).finish_reason, None);
        for none in ["null", "\"null\"", "\"None\"", "false", "0", "0.0", "{}", "\" \"", "\"\""] {
            let piece = piece(&format!(r#"{{"choices":[{{"finish_reason":{none}}}]}}"#));
            assert_eq!(piece.finish_reason, None, "{none}");
        }
        for odd in ["1e400", "-1", "{\"prompt_tokens\":1e400,\"completion_tokens\":2}"] {
            assert_eq!(piece(&format!(r#"{{"choices":[],"usage":{odd}}}"#)).usage, None, "{odd}");
        }
        let number = piece(r#"{"choices":[{"delta":{},"finish_reason":2}]}"#);
        assert_eq!(number.finish_reason.as_deref(), Some("2"));
        let usage = piece(
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
        );
        let exact = Usage { input_tokens: 3, output_tokens: 4, estimated: false };
        assert_eq!(usage.usage, Some(exact));
        assert_eq!(said(" [DONE] "), WireEvent::Done);
    }

    #[test]
    fn errors_of_all_forms_are_read() {
        for (data, message, kind, code) in [
            (r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#, "m", "t", "c"),
            (r#"{"error":{"message":"m","code":503}}"#, "m", "", "503"),
            (r#"{"error":"m"}"#, "m", "", ""),
            (r#"{"object":"error","message":"m","type":"t","code":40303}"#, "m", "t", "40303"),
        ] {
            let expected =
                ErrorBody { message: message.into(), kind: kind.into(), code: code.into() };
            assert_eq!(said(data), WireEvent::Error(expected.clone()), "{data}");
            let event = Event { data: data.as_bytes(), kind: Kind::Error };
            assert_eq!(read(&event).ok(), Some(WireEvent::Error(expected)), "{data}");
        }
        assert_eq!(ErrorBody::read(b"Bad Gateway").message, "Bad Gateway");
        assert_eq!(ErrorBody::read(br#"{"detail":"Not Found"}"#).message, "Not Found");
        assert_eq!(ErrorBody::read(br#"{"detail":[{"msg":"x"}]}"#).message, r#"[{"msg":"x"}]"#);
    }

    #[test]
    fn what_is_no_json_of_this_form_is_refused() {
        let invalid: [&[u8]; 4] = [
            b"{\"choices\":[",
            b"hello",
            b"{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}",
            b"{\"choices\":[{\"delta\":{\"content\":7}}]}",
        ];
        for data in invalid {
            assert!(read(&Event { data, kind: Kind::Message }).is_err());
        }
        for (data, kind) in [("", Kind::Message), ("", Kind::Other), ("alive", Kind::Other)] {
            let event = Event { data: data.as_bytes(), kind };
            assert_eq!(read(&event).ok(), Some(WireEvent::Nothing), "{data}");
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
        let lines = [ChatMessage { role: "user", content: "Hi \"you\"".into() }];
        let body = request(&parameters, &lines).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            body,
            r#"{"messages":[{"role":"user","content":"Hi \"you\""}],"stream":true,"max_completion_tokens":9,"model":"m","stream_options":{"include_usage":true},"temperature":0.7,"top_p":0.5}"#
        );
    }
}
