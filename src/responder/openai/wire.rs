//! The events of a streamed chat completion.
//!
//! Servers differ, so reading is lenient: fields may be absent, null or repeated (the last one
//! counts), and unknown fields are allowed. [`WirePiece::ignored`] says whether a field that may
//! hold content was not understood.

mod content;
mod json;
mod piece;

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

pub(super) use self::piece::{Annotation, DocumentForm, WireEvent, WirePiece};
use self::{
    content::Content,
    json::{count, fields, is_blank, text, whole_number},
};
use super::{
    error_body::ErrorBody,
    sse::{EventKind, SseEvent},
};
use crate::{responder::upstream::sanitize, session::Usage};

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

// Fields that are rare, or of no use, are not parsed: an event comes for each token.
#[derive(Default)]
struct WireChunk<'a> {
    choices: Option<&'a RawValue>,
    usage: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    model: Option<&'a RawValue>,
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
            "model" => chunk.model = value,
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
                true => WireEvent::Piece(WirePiece { usage, ..WirePiece::default() }),
                false => WireEvent::Unknown,
            });
        };
        let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get())?;
        let index = |choice: &Choice<'_>| choice.index.unwrap_or(0);
        let is_adopted = |choice: &&Choice<'_>| index(choice) == adopted.unwrap_or(0);
        let first = choices.first().filter(|_| adopted.is_none());
        let Some(choice) = choices.iter().find(is_adopted).or(first) else {
            // An alternative to the reply, or none at all.
            return Ok(WireEvent::Piece(WirePiece { usage, ..WirePiece::default() }));
        };
        if let Some(error) = choice.error.filter(|error| !is_blank(error)) {
            let body = ErrorBody::read(format!("{{\"error\":{}}}", error.get()).as_bytes());
            return Ok(WireEvent::Error(body));
        }
        let usage = usage.or_else(|| choice.usage.and_then(tokens));
        let mut piece = WirePiece { usage, choice: Some(index(choice)), ..WirePiece::default() };
        // The name is the same in every event.
        if adopted.is_none() {
            let model = self.model.and_then(|json| text(json).ok());
            piece.model = model.as_deref().and_then(sanitize::model);
        }
        choice.read_content(&mut piece)?;
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
    fn read_content(&self, piece: &mut WirePiece) -> Result<(), serde_json::Error> {
        let fields = [(DocumentForm::Delta, self.delta), (DocumentForm::Message, self.message)];
        for (form, field) in fields {
            // A server that fills both repeats itself.
            if let Some(field) = field.filter(|_| !piece.has_content()) {
                piece.form = form;
                serde_json::from_str::<Content<'_>>(field.get())?.read(piece)?;
            }
        }
        if let Some(json) = self.text.filter(|_| !piece.has_content()) {
            (piece.text, piece.form) = (text(json)?, DocumentForm::Text);
        }
        Ok(())
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
    let count = |path: &str| count(usage.pointer(path)?);
    let (input_tokens, output_tokens) = (count("/prompt_tokens")?, count("/completion_tokens")?);
    Some(Usage {
        // The second is DeepSeek's.
        cached_input_tokens: count("/prompt_tokens_details/cached_tokens")
            .or_else(|| count("/prompt_cache_hit_tokens")),
        cache_write_tokens: count("/prompt_tokens_details/cache_write_tokens"),
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens"),
        ..Usage::exact(input_tokens, output_tokens)
    })
}

#[cfg(test)]
mod tests;
