//! The events of a streamed chat completion.
//!
//! Servers differ, so reading is lenient: fields may be absent, null or repeated (the last one
//! counts), and unknown fields are allowed. [`TextPiece::ignored`] says whether a field that may
//! hold content was not understood.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    error_body::ErrorBody,
    sse::{EventKind, SseEvent},
};
use crate::{responder::upstream::sanitize, session::Usage};

/// The content of one event.
#[derive(Debug, PartialEq)]
pub(super) enum WireEvent {
    /// A piece of the reply, or of its metadata.
    Text(TextPiece),
    /// The upstream reports an error.
    Error(ErrorBody),
    /// `[DONE]`.
    Done,
    KeepAlive,
    /// Something that is not an event of a chat completion.
    Unknown,
}

/// A piece of a reply.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TextPiece {
    /// More text. May be empty.
    pub(super) text: String,
    /// The field that held the text.
    pub(super) form: DocumentForm,
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
pub(super) enum DocumentForm {
    /// `delta.content`, or `delta.refusal`.
    #[default]
    Delta,
    /// `message.content`, as in a response that is not streamed.
    Message,
    /// `text`, as in the older completions API.
    Text,
}

impl TextPiece {
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
    event: &SseEvent<'_>,
    adopted: Option<u32>,
) -> Result<WireEvent, serde_json::Error> {
    let data = event.data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(WireEvent::Done);
    }
    if event.kind == EventKind::Error {
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
        Some(_) if event.kind == EventKind::Other || data == b"null" || data == b"ping" => {
            return Ok(WireEvent::KeepAlive);
        }
        Some(_) => return Ok(WireEvent::Unknown),
    }
    match serde_json::from_slice::<WireChunk<'_>>(data) {
        Ok(chunk) => chunk.read(data, adopted),
        // A named event of another kind may hold anything.
        Err(_) if event.kind == EventKind::Other => Ok(WireEvent::KeepAlive),
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
struct WireChunk<'a> {
    choices: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    is_error: bool,
    /// The field `choices` is present, even if it is null.
    is_completion: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for WireChunk<'a> {
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

impl WireChunk<'_> {
    fn read(self, data: &[u8], adopted: Option<u32>) -> Result<WireEvent, serde_json::Error> {
        if self.is_error || self.error.is_some() {
            let body = ErrorBody::read(data);
            // Some servers write an empty error for none.
            if self.is_error || body.reports_an_error() {
                return Ok(WireEvent::Error(body));
            }
        }
        let usage = self.usage.and_then(tokens);
        let Some(choices) = self.choices else {
            return Ok(match self.is_completion || usage.is_some() {
                true => WireEvent::Text(TextPiece { usage, ..TextPiece::default() }),
                false => WireEvent::Unknown,
            });
        };
        let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get())?;
        let index = |choice: &Choice<'_>| choice.index.unwrap_or(0);
        let is_adopted = |choice: &&Choice<'_>| index(choice) == adopted.unwrap_or(0);
        let first = choices.first().filter(|_| adopted.is_none());
        let Some(choice) = choices.iter().find(is_adopted).or(first) else {
            // An alternative to the reply, or none at all.
            return Ok(WireEvent::Text(TextPiece { usage, ..TextPiece::default() }));
        };
        if let Some(error) = choice.error.filter(|error| !is_blank(error)) {
            let body = ErrorBody::read(format!("{{\"error\":{}}}", error.get()).as_bytes());
            return Ok(WireEvent::Error(body));
        }
        let usage = usage.or_else(|| choice.usage.and_then(tokens));
        let mut piece = TextPiece { usage, choice: Some(index(choice)), ..TextPiece::default() };
        choice.read_text(&mut piece)?;
        piece.finish_reason = choice.finish_reason.and_then(reason);
        Ok(WireEvent::Text(piece))
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
    fn read_text(&self, piece: &mut TextPiece) -> Result<(), serde_json::Error> {
        for (form, field) in
            [(DocumentForm::Delta, self.delta), (DocumentForm::Message, self.message)]
        {
            let Some(field) = field else { continue };
            let field: Content<'_> = serde_json::from_str(field.get())?;
            piece.reasons |= field.reasons;
            piece.ignored |= field.ignored;
            let (mut words, mut ignored) = (String::new(), false);
            if let Some(json) = field.content {
                (words, ignored) = content(json)?;
            }
            piece.ignored |= ignored;
            if words.is_empty() {
                words = field.refusal.map(text).transpose()?.unwrap_or_default();
            }
            if piece.text.is_empty() && !words.is_empty() {
                (piece.text, piece.form) = (words, form);
            }
        }
        if let Some(json) = self.text.filter(|_| piece.text.is_empty()) {
            (piece.text, piece.form) = (text(json)?, DocumentForm::Text);
        }
        Ok(())
    }
}

/// A `delta` or a `message`.
#[derive(Default)]
struct Content<'a> {
    content: Option<&'a RawValue>,
    /// A refusal, in place of the content.
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
struct ContentPart<'a> {
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
        let ContentPart { kind, text: words } = serde_json::from_str(part.get())?;
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
mod tests;
