//! The events of a streamed chat completion.
//!
//! Servers differ, so reading is lenient: fields may be absent, null or repeated (the last one
//! counts), and unknown fields are allowed. [`Piece::ignored`] tells whether a field that may
//! hold content was not understood.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    error_body::ErrorBody,
    sse::{Event, Kind},
};
use crate::{responder::upstream::sanitize, session::Usage};

/// The content of one event.
#[derive(Debug, PartialEq)]
pub(super) enum WireEvent {
    /// A piece of the reply, or of its metadata.
    Piece(Piece),
    /// The upstream reports an error.
    Error(ErrorBody),
    /// `[DONE]`.
    Done,
    /// A keep-alive.
    KeepAlive,
    /// Something that is not an event of a chat completion.
    Unknown,
}

/// A piece of a reply.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    /// More text. May be empty.
    pub(super) text: String,
    /// The field that held the text.
    pub(super) form: Form,
    /// Index of the choice among the alternatives that the upstream produces.
    pub(super) choice: Option<u32>,
    /// The model produces reasoning, which is not part of the reply.
    pub(super) reasons: bool,
    /// Why the reply ended, in the upstream's own words.
    pub(super) finish_reason: Option<Arc<str>>,
    /// Tokens used so far.
    pub(super) usage: Option<Usage>,
    /// The event held content that is not understood: tool calls, audio, another form.
    pub(super) ignored: bool,
}

/// The field of a choice that holds its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// `delta.content`, or `delta.refusal`.
    #[default]
    Delta,
    /// `message.content`, as in a response that is not streamed.
    Message,
    /// `text`, as in the older completions API.
    Text,
}

impl Piece {
    /// Returns true if the reply, or the way to it, has advanced.
    pub(super) fn advances(&self) -> bool {
        !self.text.is_empty()
            || self.reasons
            || self.finish_reason.is_some()
            || self.usage.is_some()
    }
}

/// Reads an event. `adopted` is the index of the choice that the reply is made of, once known.
pub(super) fn read(
    event: &Event<'_>,
    adopted: Option<u32>,
) -> Result<WireEvent, serde_json::Error> {
    let data = event.data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(WireEvent::Done);
    }
    if event.kind == Kind::Error {
        return Ok(WireEvent::Error(ErrorBody::read(data)));
    }
    match data.first() {
        Some(b'{') => {}
        // Gemini reports errors as a list of one object.
        Some(b'[') => {
            let list: Value = serde_json::from_slice(data)?;
            let is_error = list.get(0).is_some_and(|first| first.get("error").is_some());
            return Ok(match is_error {
                true => WireEvent::Error(ErrorBody::read(data)),
                false => WireEvent::Unknown,
            });
        }
        None => return Ok(WireEvent::KeepAlive),
        Some(_) if event.kind == Kind::Other || data == b"null" || data == b"ping" => {
            return Ok(WireEvent::KeepAlive);
        }
        Some(_) => return Ok(WireEvent::Unknown),
    }
    match serde_json::from_slice::<Chunk<'_>>(data) {
        Ok(chunk) => chunk.read(data, adopted),
        // A named event of another kind may hold anything.
        Err(_) if event.kind == Kind::Other => Ok(WireEvent::KeepAlive),
        Err(error) => Err(error),
    }
}

/// Reads the fields of a JSON object, in order. A repeated name is reported again; null is
/// reported as `None`.
fn fields<'de, D: Deserializer<'de>>(
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
fn is_blank(json: &RawValue) -> bool {
    matches!(json.get(), "\"\"" | "[]" | "{}" | "false")
}

// Fields that are rare, or of no use, are not parsed: an event comes for each token.
#[derive(Default)]
struct Chunk<'a> {
    choices: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    is_error: bool,
    /// The field `choices` is present, even if it is null.
    is_completion: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Chunk<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut chunk = Self::default();
        fields(deserializer, |name, value| match name {
            "choices" => (chunk.choices, chunk.is_completion) = (value, true),
            "usage" => chunk.usage = value.or(chunk.usage),
            "x_groq" => chunk.usage = chunk.usage.or(value.and_then(Groq::usage)),
            "error" => chunk.error = value,
            "object" => chunk.is_error = value.is_some_and(|it| it.get() == "\"error\""),
            _ => {}
        })?;
        Ok(chunk)
    }
}

impl Chunk<'_> {
    fn read(self, data: &[u8], adopted: Option<u32>) -> Result<WireEvent, serde_json::Error> {
        if self.is_error || self.error.is_some() {
            let body = ErrorBody::read(data);
            // Some servers write an empty error for none.
            if self.is_error || body.says_something() {
                return Ok(WireEvent::Error(body));
            }
        }
        let usage = self.usage.and_then(tokens);
        let Some(choices) = self.choices else {
            return Ok(match self.is_completion || usage.is_some() {
                true => WireEvent::Piece(Piece { usage, ..Piece::default() }),
                false => WireEvent::Unknown,
            });
        };
        let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get())?;
        let index = |choice: &Choice<'_>| choice.index.unwrap_or(0);
        let is_adopted = |choice: &&Choice<'_>| index(choice) == adopted.unwrap_or(0);
        let first = choices.first().filter(|_| adopted.is_none());
        let Some(choice) = choices.iter().find(is_adopted).or(first) else {
            // An alternative to the reply, or none at all.
            return Ok(WireEvent::Piece(Piece { usage, ..Piece::default() }));
        };
        if let Some(error) = choice.error.filter(|error| !is_blank(error)) {
            let body = ErrorBody::read(format!("{{\"error\":{}}}", error.get()).as_bytes());
            return Ok(WireEvent::Error(body));
        }
        let usage = usage.or_else(|| choice.usage.and_then(tokens));
        let mut piece = Piece { usage, choice: Some(index(choice)), ..Piece::default() };
        choice.read_text(&mut piece)?;
        piece.finish_reason = choice.finish_reason.and_then(reason);
        Ok(WireEvent::Piece(piece))
    }
}

/// Groq's own extension of a chunk.
#[derive(Deserialize)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

impl<'a> Groq<'a> {
    fn usage(json: &'a RawValue) -> Option<&'a RawValue> {
        serde_json::from_str::<Self>(json.get()).ok()?.usage
    }
}

#[derive(Default)]
struct Choice<'a> {
    delta: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    finish_reason: Option<&'a RawValue>,
    index: Option<u32>,
    usage: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Choice<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut choice = Self::default();
        fields(deserializer, |name, value| match name {
            "delta" => choice.delta = value,
            "message" => choice.message = value,
            "text" => choice.text = value,
            "finish_reason" => choice.finish_reason = value,
            "index" => choice.index = value.and_then(whole_number),
            "usage" => choice.usage = value,
            "error" => choice.error = value,
            _ => {}
        })?;
        Ok(choice)
    }
}

impl Choice<'_> {
    fn read_text(&self, piece: &mut Piece) -> Result<(), serde_json::Error> {
        for (form, said) in [(Form::Delta, self.delta), (Form::Message, self.message)] {
            let Some(said) = said else { continue };
            let said: Content<'_> = serde_json::from_str(said.get())?;
            piece.reasons |= said.reasons;
            piece.ignored |= said.ignored;
            let (mut words, mut ignored) = (String::new(), false);
            if let Some(json) = said.content {
                (words, ignored) = content(json)?;
            }
            piece.ignored |= ignored;
            if words.is_empty() {
                words = said.refusal.map(text).transpose()?.unwrap_or_default();
            }
            if piece.text.is_empty() && !words.is_empty() {
                (piece.text, piece.form) = (words, form);
            }
        }
        if let Some(json) = self.text.filter(|_| piece.text.is_empty()) {
            (piece.text, piece.form) = (text(json)?, Form::Text);
        }
        Ok(())
    }
}

/// A `delta` or a `message`.
#[derive(Default)]
struct Content<'a> {
    content: Option<&'a RawValue>,
    /// Said in place of an answer.
    refusal: Option<&'a RawValue>,
    reasons: bool,
    ignored: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Self::default();
        fields(deserializer, |name, value| match name {
            "content" => read.content = value,
            "refusal" => read.refusal = value,
            "reasoning_content" | "reasoning" => {
                read.reasons |= value.is_some_and(|it| !is_blank(it));
            }
            "tool_calls" | "function_call" | "audio" | "images" | "text" => {
                read.ignored |= value.is_some_and(|it| !is_blank(it));
            }
            _ => {}
        })?;
        Ok(read)
    }
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Reads a content: a text, or a list of parts, in which reasoning has a type of its own.
/// Returns true beside the text if a part was ignored.
fn content(json: &RawValue) -> Result<(String, bool), serde_json::Error> {
    if !json.get().starts_with('[') {
        return Ok((text(json)?, false));
    }
    let (mut whole, mut ignored) = (String::new(), false);
    for part in serde_json::from_str::<Vec<&RawValue>>(json.get())? {
        if part.get().starts_with('"') {
            whole.push_str(&text(part)?);
            continue;
        }
        let Part { kind, text: words } = serde_json::from_str(part.get())?;
        match (kind.map(RawValue::get), words) {
            (None | Some("\"text\""), Some(words)) => whole.push_str(&text(words)?),
            (None | Some("\"text\"" | "\"thinking\"" | "\"reasoning\""), _) => {}
            (Some(_), _) => ignored = true,
        }
    }
    Ok((whole, ignored))
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

/// Reads an index or a count that a server may write as `1`, `1.0` or `"1"`.
fn whole_number(json: &RawValue) -> Option<u32> {
    let number: f64 = json.get().trim_matches('"').parse().ok()?;
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    is_whole.then_some(number as u32)
}

fn tokens(json: &RawValue) -> Option<Usage> {
    let usage: Value = serde_json::from_str(json.get()).ok()?;
    let count = |name| {
        let number = usage.get(name)?.as_f64()?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u32)
    };
    let (input_tokens, output_tokens) = (count("prompt_tokens")?, count("completion_tokens")?);
    Some(Usage { input_tokens, output_tokens, estimated: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(data: &str) -> WireEvent {
        let event = Event { data: data.as_bytes(), kind: Kind::Message };
        read(&event, None).unwrap_or_else(|error| panic!("{data}: {error}"))
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
            (r#"{"choices":[{"index":1,"delta":{"content":"the only one"}}]}"#, "the only one"),
            // A repeated name: the last value counts.
            (r#"{"choices":[{"delta":{"content":"x","role":"a","content":"a","role":"b"}}]}"#, "a"),
            (r#"{"choices":[{"message":{"role":"assistant","content":"a"}}]}"#, "a"),
            (r#"{"choices":[{"delta":{"content":""},"message":{"content":"a"}}]}"#, "a"),
            (r#"{"choices":[{"text":"a"}]}"#, "a"),
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
        for elsewhere in [
            r#"{"choices":[{"delta":{},"usage":{"prompt_tokens":3,"completion_tokens":4}}]}"#,
            r#"{"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":3,"completion_tokens":4}}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3.0,"completion_tokens":4.0}}"#,
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4},"usage":null}"#,
        ] {
            assert_eq!(piece(elsewhere).usage, Some(exact), "{elsewhere}");
        }
        assert_eq!(said(" [DONE] "), WireEvent::Done);
    }

    #[test]
    fn errors_of_all_forms_are_read() {
        for (data, message, kind, code) in [
            (r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#, "m", "t", "c"),
            (r#"{"error":{"message":"m","code":503}}"#, "m", "", "503"),
            (r#"{"error":"m"}"#, "m", "", ""),
            (r#"[{"error":{"message":"m","type":"t","code":"c"}}]"#, "m", "t", "c"),
            (r#"{"object":"error","message":"m","type":"t","code":40303}"#, "m", "t", "40303"),
        ] {
            let expected =
                ErrorBody { message: message.into(), kind: kind.into(), code: code.into() };
            assert_eq!(said(data), WireEvent::Error(expected.clone()), "{data}");
            let event = Event { data: data.as_bytes(), kind: Kind::Error };
            assert_eq!(read(&event, None).ok(), Some(WireEvent::Error(expected)), "{data}");
        }
        let in_choice =
            r#"{"choices":[{"delta":{"content":"a"},"error":{"message":"m","code":502}}]}"#;
        let expected = ErrorBody { message: "m".into(), kind: "".into(), code: "502".into() };
        assert_eq!(said(in_choice), WireEvent::Error(expected));
        assert_eq!(ErrorBody::read(b"Bad Gateway").message, "Bad Gateway");
        assert_eq!(ErrorBody::read(br#"{"detail":"Not Found"}"#).message, "Not Found");
        assert_eq!(ErrorBody::read(br#"{"detail":[{"msg":"x"}]}"#).message, r#"[{"msg":"x"}]"#);
    }

    #[test]
    fn what_is_no_json_of_this_form_is_refused() {
        let invalid: [&[u8]; 3] = [
            b"{\"choices\":[",
            b"{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}",
            b"{\"choices\":[{\"delta\":{\"content\":7}}]}",
        ];
        for data in invalid {
            assert!(read(&Event { data, kind: Kind::Message }, None).is_err());
        }
        for (data, kind) in [
            ("", Kind::Message),
            ("", Kind::Other),
            ("alive", Kind::Other),
            ("null", Kind::Message),
            ("ping", Kind::Message),
        ] {
            let event = Event { data: data.as_bytes(), kind };
            assert_eq!(read(&event, None).ok(), Some(WireEvent::KeepAlive), "{data}");
        }
        for data in ["hello", "7", "[]", r#"["a"]"#, r#"{"response":"a"}"#, "{}"] {
            assert_eq!(said(data), WireEvent::Unknown, "{data}");
        }
    }

    #[test]
    fn content_that_is_not_understood_is_reported() {
        for (data, ignored) in [
            (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"{"choices":[{"delta":{"tool_calls":[],"audio":null}}]}"#, false),
            (r#"{"choices":[{"delta":{"content":[{"type":"image_url"}]}}]}"#, true),
            (r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]}]}}]}"#, false),
            (r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#, false),
        ] {
            assert_eq!(piece(data).ignored, ignored, "{data}");
        }
    }

    #[test]
    fn one_choice_makes_the_reply_whatever_its_index() {
        let both = r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}"#;
        let second = r#"{"choices":[{"index":1,"delta":{"content":"b"}}]}"#;
        let text = |data: &str, adopted| {
            let event = Event { data: data.as_bytes(), kind: Kind::Message };
            match read(&event, adopted).unwrap() {
                WireEvent::Piece(piece) => (piece.text, piece.choice),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(text(both, None), ("a".into(), Some(0)));
        assert_eq!(text(both, Some(1)), ("b".into(), Some(1)));
        assert_eq!(text(second, None), ("b".into(), Some(1)));
        assert_eq!(text(second, Some(0)), (String::new(), None));
    }
}
