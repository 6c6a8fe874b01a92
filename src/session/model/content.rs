//! The content of messages: typed parts.

mod limits;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use limits::ContentLimits;

use super::{Error, Result, json};

/// The content of a message.
///
/// Most messages are one text. Such a message has a text and no parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    text: Arc<str>,
    // Not an empty slice: all of them would count their references in one place.
    parts: Option<Arc<[Part]>>,
}

impl Content {
    /// Creates the content of one text.
    #[must_use]
    pub fn of_text(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), parts: None }
    }

    /// Creates a content of parts. A single text without citations and provider data is kept as
    /// a text.
    #[must_use]
    pub fn of_parts(parts: Vec<Part>) -> Self {
        match &parts[..] {
            [] => Self::default(),
            [only] if only.is_plain_text() => {
                Self::of_text(Arc::clone(only.content.text().unwrap_or(&Arc::default())))
            }
            _ => Self { text: joined_text(&parts), parts: Some(parts.into()) },
        }
    }

    /// Creates a content from its stored form.
    #[must_use]
    pub fn stored(text: Arc<str>, parts: Vec<Part>) -> Self {
        Self { text, parts: (!parts.is_empty()).then(|| parts.into()) }
    }

    /// Returns the whole content if it is one text. Otherwise returns the texts of the parts, for
    /// clients that show only text: neighbors are joined, others are separated by a blank line.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the parts in order. Empty if the text is the whole content.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        self.parts.as_deref().unwrap_or_default()
    }

    /// Returns true if there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.parts.is_none()
    }

    /// Returns the bytes of all parts, or of the text.
    #[must_use]
    pub fn size(&self) -> usize {
        match self.parts() {
            [] => self.text.len(),
            parts => parts.iter().map(Part::size).sum(),
        }
    }

    /// Returns the estimated bytes of the content as JSON (RFC 8259, section 7). A control
    /// character takes six.
    #[must_use]
    pub fn json_size(&self) -> usize {
        let parts: usize = self.parts().iter().map(Part::json_size).sum();
        json::escaped_len(&self.text) + parts
    }
}

/// A part of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "super::part_record::PartRecord", into = "super::part_record::PartRecord")]
pub struct Part {
    /// The content.
    pub content: PartContent,
    /// The sources of a text.
    pub citations: Vec<Citation>,
    /// Data that the provider needs with this part when the conversation continues, a JSON object
    /// with one key per provider. Responders write and read it.
    pub provider_data: Option<Arc<str>>,
    /// Time from the first piece of a reply's part to its end, in milliseconds.
    pub duration_ms: Option<u32>,
}

/// The content of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartContent {
    /// Text, usually Markdown.
    Text(Arc<str>),
    /// The reasoning of the model, or a summary of it. Empty if the provider hides it.
    Reasoning(Arc<str>),
    /// A call of a tool.
    ToolCall(ToolCall),
    /// The result of a tool.
    ToolResult(ToolResult),
    /// An image, a document or audio.
    File(File),
    /// A page or document that the model read.
    Source(Source),
    /// A value with a meaning of the application's own.
    Data(Data),
    /// A decision that a person has to make before a tool runs.
    ApprovalRequest(ApprovalRequest),
    /// The decision.
    ApprovalResponse(ApprovalResponse),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Unique in the reply.
    pub id: Arc<str>,
    /// The name of the tool.
    pub name: Arc<str>,
    /// The arguments as the model wrote them: usually JSON, not always valid.
    pub arguments: Arc<str>,
    /// The arguments are text and not JSON.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain_text: bool,
    /// The responder runs the tool, and the result follows in the same reply. Otherwise the reply
    /// ends, and the next user message brings the result.
    #[serde(default, skip_serializing_if = "is_false")]
    pub responder_executed: bool,
}

/// The result of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolResult {
    /// The id of the call.
    pub tool_call_id: Arc<str>,
    /// JSON. Plain text is a JSON string.
    pub output: Arc<str>,
    /// The tool failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_error: bool,
    /// Images and documents of the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
}

/// An image, a document or audio.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// For example `image/png`.
    pub media_type: Arc<str>,
    /// `https:` or `data:`. Empty if the file was too large to be kept.
    pub url: Arc<str>,
    /// The file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// In bytes, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// A page or document that the model read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Unique in the reply.
    pub id: Arc<str>,
    /// Absent for a document without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Arc<str>>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Arc<str>>,
    /// Of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<Arc<str>>,
    /// The file name of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
}

/// A source of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Citation {
    /// The id of a source part of the same message.
    pub source_id: Arc<str>,
    /// First byte of the text (UTF-8). Absent: the whole part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
    /// Byte after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u32>,
    /// The passage of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Arc<str>>,
}

/// A value with a meaning of the application's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The meaning: 1 to 64 of a-z, 0-9, `_`, `-` and `.`.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// JSON.
    pub json: Arc<str>,
    /// A later data part of this kind and id replaces this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Arc<str>>,
}

/// A decision that a person has to make before a tool runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// Unique in the reply.
    pub id: Arc<str>,
    /// The call that it is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<Arc<str>>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// JSON for the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Arc<str>>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalResponse {
    /// The id of the request, in the reply of the parent turn.
    pub approval_id: Arc<str>,
    /// The tool may run.
    pub approved: bool,
    /// In the person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// JSON for the bot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Arc<str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl From<PartContent> for Part {
    fn from(content: PartContent) -> Self {
        Self { content, citations: Vec::new(), provider_data: None, duration_ms: None }
    }
}

impl Part {
    /// Creates a text part.
    #[must_use]
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        PartContent::Text(text.into()).into()
    }

    /// Returns true for a text that needs no field of the part besides it.
    fn is_plain_text(&self) -> bool {
        self.content.text().is_some() && self.citations.is_empty() && self.provider_data.is_none()
    }

    /// Returns the bytes of all fields.
    #[must_use]
    pub fn size(&self) -> usize {
        let mut size = 0;
        self.each_text(&mut |text| size += text.len());
        size
    }

    fn json_size(&self) -> usize {
        /// Names of the fields, braces and numbers.
        const ENVELOPE: usize = 128;
        let mut size = ENVELOPE;
        self.each_text(&mut |text| size += json::escaped_len(text) + 16);
        size
    }

    fn each_text(&self, visit: &mut dyn FnMut(&str)) {
        let mut each = |texts: &[Option<&Arc<str>>]| {
            texts.iter().flatten().for_each(|text| visit(text));
        };
        match &self.content {
            PartContent::Text(text) | PartContent::Reasoning(text) => each(&[Some(text)]),
            PartContent::ToolCall(call) => {
                each(&[Some(&call.id), Some(&call.name), Some(&call.arguments)]);
            }
            PartContent::ToolResult(result) => {
                each(&[Some(&result.tool_call_id), Some(&result.output)]);
                for file in &result.files {
                    each(&[Some(&file.media_type), Some(&file.url), file.name.as_ref()]);
                }
            }
            PartContent::File(file) => {
                each(&[Some(&file.media_type), Some(&file.url), file.name.as_ref()]);
            }
            PartContent::Source(source) => {
                let Source { id, url, title, media_type, name } = source;
                each(&[Some(id), url.as_ref(), title.as_ref(), media_type.as_ref(), name.as_ref()]);
            }
            PartContent::Data(data) => {
                each(&[Some(&data.kind), Some(&data.json), data.id.as_ref()])
            }
            PartContent::ApprovalRequest(request) => {
                let ApprovalRequest { id, tool_call_id, reason, json } = request;
                each(&[Some(id), tool_call_id.as_ref(), reason.as_ref(), json.as_ref()]);
            }
            PartContent::ApprovalResponse(response) => {
                let ApprovalResponse { approval_id, approved: _, reason, json } = response;
                each(&[Some(approval_id), reason.as_ref(), json.as_ref()]);
            }
        }
        for Citation { source_id, quote, .. } in &self.citations {
            each(&[Some(source_id), quote.as_ref()]);
        }
        each(&[self.provider_data.as_ref()]);
    }
}

impl PartContent {
    /// Returns the text of a text part.
    #[must_use]
    pub const fn text(&self) -> Option<&Arc<str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the text of a reasoning part.
    #[must_use]
    pub const fn reasoning(&self) -> Option<&Arc<str>> {
        if let Self::Reasoning(text) = self { Some(text) } else { None }
    }

    /// Returns the call of a tool.
    #[must_use]
    pub const fn tool_call(&self) -> Option<&ToolCall> {
        if let Self::ToolCall(call) = self { Some(call) } else { None }
    }

    /// Returns the result of a tool.
    #[must_use]
    pub const fn tool_result(&self) -> Option<&ToolResult> {
        if let Self::ToolResult(result) = self { Some(result) } else { None }
    }

    /// Returns the text that grows in deltas: a text, reasoning, or the arguments of a call.
    /// `None` for a part that comes whole.
    #[must_use]
    pub const fn growing_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) | Self::Reasoning(text) => Some(text),
            Self::ToolCall(call) => Some(&call.arguments),
            Self::ToolResult(_)
            | Self::File(_)
            | Self::Source(_)
            | Self::Data(_)
            | Self::ApprovalRequest(_)
            | Self::ApprovalResponse(_) => None,
        }
    }

    /// Returns true if a delta with `done` ends the part: it carries nothing but its text.
    pub(in crate::session) fn ends_by_done(&self) -> bool {
        match self {
            Self::Text(text) | Self::Reasoning(text) => !text.is_empty(),
            Self::ToolCall(_)
            | Self::ToolResult(_)
            | Self::File(_)
            | Self::Source(_)
            | Self::Data(_)
            | Self::ApprovalRequest(_)
            | Self::ApprovalResponse(_) => false,
        }
    }
}

fn joined_text(parts: &[Part]) -> Arc<str> {
    let mut joined = String::new();
    let mut has_gap = false;
    for part in parts {
        match part.content.text() {
            Some(text) if text.is_empty() => {}
            Some(text) => {
                if has_gap && !joined.is_empty() {
                    joined.push_str("\n\n");
                }
                joined.push_str(text);
                has_gap = false;
            }
            None => has_gap = true,
        }
    }
    joined.into()
}

/// Reads parts from their stored form, the JSON of a list of parts.
///
/// # Errors
/// `Internal`: the form is not that of this version.
pub fn parts_from_json(json: &str) -> Result<Vec<Part>> {
    serde_json::from_str(json).map_err(Error::internal)
}

/// Writes parts in their stored form.
///
/// # Errors
/// `Internal`, never for the types of this module.
pub fn parts_to_json(parts: &[Part]) -> Result<String> {
    serde_json::to_string(parts).map_err(Error::internal)
}
