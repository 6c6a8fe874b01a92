//! Converts the messages of a log to messages as the model reads them.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    chat_message::{
        ChatContent, ChatFile, ChatFunction, ChatMessage, ChatPart, ChatToolCall, ImageUrl,
        InputAudio,
    },
    provider_data::{self, CallData, Reader, ReplyData},
};
use crate::session::{File, Message, Part, PartContent, ToolCall, ToolResult};

/// Content of the result of a tool that was not run. Providers refuse a call without a result.
const NO_RESULT: &str = "no result";

/// Adds the message of a user message: its text and files, and the files of results.
pub(super) fn push_question<'a>(lines: &mut Vec<ChatMessage<'a>>, question: &'a Message) {
    let own = match question.content.parts() {
        [] => return lines.push(ChatMessage::text("user", question.text().as_ref())),
        parts => parts.iter().filter_map(user_part),
    };
    let of_results = results(question).flat_map(|result| &result.files).map(file_part);
    let mut parts: Vec<_> = of_results.chain(own).collect();
    let content = match &mut parts[..] {
        [] if results(question).next().is_some() => return,
        [] => return push_outputs(lines, question),
        [ChatPart::Text { text }] => ChatContent::Text(std::mem::take(text)),
        _ => ChatContent::Parts(parts),
    };
    lines.push(ChatMessage { role: "user", content: Some(content), ..ChatMessage::default() });
}

/// Adds results and data of a user message as a text: the prompt has no call that they answer.
pub(super) fn push_outputs<'a>(lines: &mut Vec<ChatMessage<'a>>, question: &'a Message) {
    let outputs = question.content.parts().iter().filter_map(|part| match &part.content {
        PartContent::ToolResult(result) => Some(tool_output(result)),
        PartContent::Data(data) => Some(data.json.as_ref().into()),
        PartContent::Text(_)
        | PartContent::Reasoning(_)
        | PartContent::ToolCall(_)
        | PartContent::File(_)
        | PartContent::Source(_)
        | PartContent::ApprovalRequest(_)
        | PartContent::ApprovalResponse(_) => None,
    });
    let outputs: Vec<_> = outputs.collect();
    lines.push(ChatMessage::text("user", outputs.join("\n\n")));
}

/// A piece of a reply that ends with results: its text, its calls, and the results among them.
#[derive(Default)]
struct Step<'a> {
    text: String,
    /// Another part follows the text.
    has_gap: bool,
    calls: Vec<&'a Part>,
    has_results: bool,
}

impl Step<'_> {
    fn push_text(&mut self, text: &str) {
        if std::mem::take(&mut self.has_gap) && !self.text.is_empty() && !text.is_empty() {
            self.text.push_str("\n\n");
        }
        self.text.push_str(text);
    }
}

/// Adds the messages of a reply: its text, its calls of the client's tools, and their results,
/// which the reply or the next user message holds. Tools that another responder ran are left out.
///
/// Providers refuse calls without results, so that each open call gets one.
pub(super) fn push_reply<'a>(
    lines: &mut Vec<ChatMessage<'a>>,
    reply: &'a Message,
    next: &'a Message,
    reader: Reader<'_>,
) {
    let stored = reply.reply().and_then(|fields| fields.provider_data.as_ref());
    let mut data: ReplyData = provider_data::read(stored, reader).unwrap_or_default();
    for Step { text, calls, .. } in steps(reply) {
        let has_text = !text.trim().is_empty();
        if !has_text && calls.is_empty() {
            continue;
        }
        let returns = data.reasoning_content && !calls.is_empty();
        lines.push(ChatMessage {
            role: "assistant",
            content: has_text.then(|| ChatContent::Text(text.into())),
            tool_calls: calls.iter().filter_map(|part| tool_call(part, reader)).collect(),
            tool_call_id: None,
            reasoning_details: std::mem::take(&mut data.reasoning_details),
            reasoning_content: returns.then(|| reasoning(reply)),
        });
        for call in calls.iter().filter_map(|part| part.content.tool_call()) {
            let mut results = results(reply).chain(results(next));
            let result = results.find(|result| result.tool_call_id == call.id);
            let output = result.map_or(NO_RESULT.into(), tool_output);
            let message = ChatMessage::text("tool", output);
            lines.push(ChatMessage { tool_call_id: Some(&call.id), ..message });
        }
    }
}

/// Returns the steps of a reply. A step ends where another part follows a result.
fn steps(reply: &Message) -> Vec<Step<'_>> {
    let mut step = Step::default();
    let parts = reply.content.parts();
    if parts.is_empty() {
        step.push_text(reply.text());
    }
    let mut steps = Vec::new();
    for part in parts {
        let is_result = matches!(part.content, PartContent::ToolResult(_));
        // Results of calls that are left out do not divide the text.
        if step.has_results && !is_result && !step.calls.is_empty() {
            steps.push(std::mem::take(&mut step));
        }
        match &part.content {
            PartContent::Text(text) => step.push_text(text),
            PartContent::ToolCall(call) => {
                step.has_gap = true;
                if is_usable(call) {
                    step.calls.push(part);
                }
            }
            PartContent::ToolResult(_) => (step.has_gap, step.has_results) = (true, true),
            PartContent::Reasoning(_)
            | PartContent::File(_)
            | PartContent::Source(_)
            | PartContent::Data(_)
            | PartContent::ApprovalRequest(_)
            | PartContent::ApprovalResponse(_) => step.has_gap = true,
        }
    }
    steps.push(step);
    steps
}

/// Returns true if a call can be sent: providers refuse arguments that are not JSON.
fn is_usable(call: &ToolCall) -> bool {
    !call.responder_executed && !call.plain_text && is_json(&call.arguments)
}

fn is_json(text: &str) -> bool {
    text.is_empty() || serde_json::from_str::<&RawValue>(text).is_ok()
}

fn tool_call<'a>(part: &'a Part, reader: Reader<'_>) -> Option<ChatToolCall<'a>> {
    let ToolCall { id, name, arguments, .. } = part.content.tool_call()?;
    let arguments = if arguments.is_empty() { "{}" } else { arguments };
    let data: Option<CallData> = provider_data::read(part.provider_data.as_ref(), reader);
    let function = ChatFunction { name, arguments };
    let extra_content = data.map(|data| data.extra_content);
    Some(ChatToolCall { id, kind: "function", function, extra_content })
}

/// Returns the reasoning of a reply.
fn reasoning(reply: &Message) -> String {
    let parts = reply.content.parts().iter();
    let texts = parts.filter_map(|part| part.content.reasoning());
    texts.map(AsRef::as_ref).collect()
}

/// Returns the results of tools in a message.
pub(super) fn results(message: &Message) -> impl Iterator<Item = &ToolResult> {
    message.content.parts().iter().filter_map(|part| part.content.tool_result())
}

/// Returns the output of a tool as text: a JSON string without its quotes.
fn tool_output(result: &ToolResult) -> Cow<'_, str> {
    match serde_json::from_str::<String>(&result.output) {
        Ok(text) => text.into(),
        Err(_) => result.output.as_ref().into(),
    }
}

/// Returns a part of a user message. `None` for one that the model does not read.
fn user_part(part: &Part) -> Option<ChatPart<'_>> {
    Some(match &part.content {
        PartContent::Text(text) => ChatPart::Text { text: text.as_ref().into() },
        PartContent::File(file) => file_part(file),
        PartContent::ApprovalResponse(response) => {
            let decision = if response.approved { "Approved." } else { "Not approved." };
            let reason = response.reason.as_deref().unwrap_or_default();
            ChatPart::Text { text: format!("{decision} {reason}").trim().to_owned().into() }
        }
        PartContent::ToolResult(_)
        | PartContent::Data(_)
        | PartContent::Reasoning(_)
        | PartContent::ToolCall(_)
        | PartContent::Source(_)
        | PartContent::ApprovalRequest(_) => return None,
    })
}

fn file_part(file: &File) -> ChatPart<'_> {
    let url = file.url.as_ref();
    let is_inline = url.starts_with("data:");
    let base64 = url.split_once(";base64,").map(|(_, data)| data);
    match (file.media_type.split_once('/'), base64) {
        (Some(("image", _)), _) if !url.is_empty() => {
            ChatPart::ImageUrl { image_url: ImageUrl { url } }
        }
        (Some(("audio", kind)), Some(data)) if matches!(kind, "wav" | "mpeg" | "mp3") => {
            let format = if kind == "wav" { "wav" } else { "mp3" };
            ChatPart::InputAudio { input_audio: InputAudio { data, format } }
        }
        _ if is_inline => {
            let filename = file.name.as_deref().unwrap_or("file");
            ChatPart::File { file: ChatFile { filename, file_data: url } }
        }
        _ => {
            let name = file.name.as_deref().unwrap_or(&file.media_type);
            let place = if url.is_empty() { String::new() } else { format!(": {url}") };
            ChatPart::Text { text: format!("[file {name}{place}]").into() }
        }
    }
}

/// Returns true if a reply says anything that a prompt can repeat.
pub(super) fn has_content(reply: &Message) -> bool {
    let is_usable = |part: &Part| part.content.tool_call().is_some_and(is_usable);
    !reply.text().trim().is_empty() || reply.content.parts().iter().any(is_usable)
}
