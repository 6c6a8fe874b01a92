//! The content of a choice: a `delta`, or a `message` of a response that is not streamed.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

use super::{
    json::{fields, is_blank, text, whole_number},
    piece::{Annotation, WirePiece},
};
use crate::responder::openai::tool_calls::CallPiece;

/// A `delta` or a `message`.
#[derive(Default)]
pub(super) struct Content<'a> {
    content: Option<&'a RawValue>,
    /// A refusal, in place of the content.
    refusal: Option<&'a RawValue>,
    /// Reasoning. Some servers repeat it under a second name.
    reasoning_content: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    reasoning_details: Option<&'a RawValue>,
    tool_calls: Option<&'a RawValue>,
    /// The older form of a single call.
    function_call: Option<&'a RawValue>,
    images: Option<&'a RawValue>,
    annotations: Option<&'a RawValue>,
    ignored: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Self::default();
        fields(deserializer, |name, value| {
            let value = value.filter(|value| !is_blank(value));
            match name {
                "content" => read.content = value,
                "refusal" => read.refusal = value,
                "reasoning_content" => read.reasoning_content = value,
                "reasoning" => read.reasoning = value,
                "reasoning_details" => read.reasoning_details = value,
                "tool_calls" => read.tool_calls = value,
                "function_call" => read.function_call = value,
                "images" => read.images = value,
                "annotations" => read.annotations = value,
                "audio" | "text" => read.ignored |= value.is_some(),
                _ => {}
            }
        })?;
        Ok(read)
    }
}

impl Content<'_> {
    /// Adds the content to a piece.
    pub(super) fn read(&self, piece: &mut WirePiece) -> Result<(), serde_json::Error> {
        piece.ignored |= self.ignored;
        if let Some(json) = self.content {
            piece.text = content(json, piece)?;
        }
        if let Some(refusal) = self.refusal.filter(|_| piece.text.is_empty()) {
            piece.text = text(refusal)?;
            piece.refuses = !piece.text.is_empty();
        }
        if let Some(json) = self.reasoning_content.or(self.reasoning)
            && piece.reasoning.is_empty()
        {
            // Some servers write an object; its text is not needed.
            piece.reasoning = text(json).unwrap_or_default();
            piece.is_reasoning_content = self.reasoning_content.is_some();
        }
        if let Some(json) = self.reasoning_details {
            piece.reasoning_details = serde_json::from_str(json.get()).unwrap_or_default();
        }
        if let Some(json) = self.tool_calls {
            let calls: Vec<Value> = serde_json::from_str(json.get())?;
            piece.calls = calls.iter().map(tool_call).collect();
        } else if let Some(json) = self.function_call {
            let function: Value = serde_json::from_str(json.get())?;
            piece.calls = vec![tool_call(&serde_json::json!({"index": 0, "function": function}))];
        }
        if let Some(json) = self.images {
            let images: Vec<Value> = serde_json::from_str(json.get()).unwrap_or_default();
            let urls = images.iter().filter_map(|image| {
                let url = image.pointer("/image_url/url").or_else(|| image.get("url"));
                url?.as_str().map(Into::into)
            });
            piece.images = urls.collect();
        }
        if let Some(json) = self.annotations {
            let annotations: Vec<Value> = serde_json::from_str(json.get()).unwrap_or_default();
            piece.annotations = annotations.iter().filter_map(annotation).collect();
        }
        Ok(())
    }
}

/// Reads a piece of a tool call. Servers differ: an index may be absent, arguments may be an object.
fn tool_call(call: &Value) -> CallPiece {
    let string = |value: Option<&Value>| value.and_then(Value::as_str).map(String::from);
    let custom = call.get("custom");
    let function = call.get("function").or(custom);
    let field = |name: &str| function.and_then(|function| function.get(name));
    let arguments = match field("arguments").or_else(|| field("input")) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(object) => object.to_string(),
    };
    let index = call.get("index").map(Value::to_string);
    let index = index.and_then(|index| RawValue::from_string(index).ok());
    CallPiece {
        index: index.and_then(|index| whole_number(&index)),
        id: string(call.get("id")),
        name: string(field("name")),
        arguments,
        plain_text: custom.is_some(),
        extra: call.get("extra_content").filter(|extra| !extra.is_null()).cloned(),
    }
}

/// Reads a source of the text.
fn annotation(annotation: &Value) -> Option<Annotation> {
    let citation = annotation.get("url_citation").unwrap_or(annotation);
    let number = |name: &str| u32::try_from(citation.get(name)?.as_u64()?).ok();
    Some(Annotation {
        url: citation.get("url")?.as_str()?.into(),
        title: citation.get("title").and_then(Value::as_str).map(Into::into),
        range: number("start_index").zip(number("end_index")).filter(|(start, end)| start < end),
    })
}

#[derive(Deserialize)]
struct ContentPart<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
}

/// Reads a content: a text, or a list of parts, in which reasoning has a type of its own.
fn content(json: &RawValue, piece: &mut WirePiece) -> Result<String, serde_json::Error> {
    if !json.get().starts_with('[') {
        return text(json);
    }
    let mut whole = String::new();
    for part in serde_json::from_str::<Vec<&RawValue>>(json.get())? {
        if part.get().starts_with('"') {
            whole.push_str(&text(part)?);
            continue;
        }
        let ContentPart { kind, text: words, thinking } = serde_json::from_str(part.get())?;
        match (kind.map(RawValue::get), words) {
            (None | Some("\"text\""), Some(words)) => whole.push_str(&text(words)?),
            (None | Some("\"text\""), None) => {}
            (Some("\"thinking\"" | "\"reasoning\""), words) => {
                if let Some(json) = thinking.or(words) {
                    piece.reasoning.push_str(&thoughts(json));
                }
            }
            (Some(_), _) => piece.ignored = true,
        }
    }
    Ok(whole)
}

/// Reads reasoning: a text, or a list of parts with texts.
fn thoughts(json: &RawValue) -> String {
    match serde_json::from_str(json.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()
        }
        _ => String::new(),
    }
}
