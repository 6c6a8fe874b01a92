//! Parts of messages in the form of the contract, and back.

use std::sync::Arc;

use crate::{
    proto::{self, delta, part},
    session::{
        ApprovalRequest, ApprovalResponse, Citation, Data, DeltaPiece, File, Part, PartContent,
        Source, ToolCall, ToolCallPiece, ToolResult,
    },
};

/// A part without a content, or with one of a kind that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part has none of the known kinds of content")]
pub struct UnknownPart;

fn owned(text: &Arc<str>) -> String {
    text.as_ref().into()
}

fn owned_option(text: Option<&Arc<str>>) -> Option<String> {
    text.map(owned)
}

fn shared(text: Option<String>) -> Option<Arc<str>> {
    text.map(Into::into)
}

impl From<&Part> for proto::Part {
    fn from(part: &Part) -> Self {
        Self {
            content: Some((&part.content).into()),
            citations: part.citations.iter().map(Into::into).collect(),
            provider_data: owned_option(part.provider_data.as_ref()),
            duration_ms: part.duration_ms,
        }
    }
}

impl TryFrom<proto::Part> for Part {
    type Error = UnknownPart;

    fn try_from(part: proto::Part) -> Result<Self, UnknownPart> {
        let proto::Part { content, citations, provider_data, duration_ms } = part;
        Ok(Self {
            content: content.ok_or(UnknownPart)?.into(),
            citations: citations.into_iter().map(Into::into).collect(),
            provider_data: shared(provider_data),
            duration_ms,
        })
    }
}

impl From<&PartContent> for part::Content {
    fn from(content: &PartContent) -> Self {
        match content {
            PartContent::Text(text) => Self::Text(owned(text)),
            PartContent::Reasoning(text) => Self::Reasoning(owned(text)),
            PartContent::ToolCall(call) => Self::ToolCall(call.into()),
            PartContent::ToolResult(result) => Self::ToolResult(result.into()),
            PartContent::File(file) => Self::File(file.into()),
            PartContent::Source(source) => Self::Source(source.into()),
            PartContent::Data(data) => Self::Data(data.into()),
            PartContent::ApprovalRequest(request) => Self::ApprovalRequest(request.into()),
            PartContent::ApprovalResponse(response) => Self::ApprovalResponse(response.into()),
        }
    }
}

impl From<part::Content> for PartContent {
    fn from(content: part::Content) -> Self {
        match content {
            part::Content::Text(text) => Self::Text(text.into()),
            part::Content::Reasoning(text) => Self::Reasoning(text.into()),
            part::Content::ToolCall(call) => Self::ToolCall(call.into()),
            part::Content::ToolResult(result) => Self::ToolResult(result.into()),
            part::Content::File(file) => Self::File(file.into()),
            part::Content::Source(source) => Self::Source(source.into()),
            part::Content::Data(data) => Self::Data(data.into()),
            part::Content::ApprovalRequest(request) => Self::ApprovalRequest(request.into()),
            part::Content::ApprovalResponse(response) => Self::ApprovalResponse(response.into()),
        }
    }
}

impl From<&ToolCall> for proto::ToolCall {
    fn from(call: &ToolCall) -> Self {
        let ToolCall { id, name, arguments, plain_text, responder_executed } = call;
        Self {
            id: owned(id),
            name: owned(name),
            arguments: owned(arguments),
            plain_text: *plain_text,
            responder_executed: *responder_executed,
        }
    }
}

impl From<proto::ToolCall> for ToolCall {
    fn from(call: proto::ToolCall) -> Self {
        let proto::ToolCall { id, name, arguments, plain_text, responder_executed } = call;
        let (id, name, arguments) = (id.into(), name.into(), arguments.into());
        Self { id, name, arguments, plain_text, responder_executed }
    }
}

impl From<&ToolCallPiece> for proto::ToolCall {
    fn from(call: &ToolCallPiece) -> Self {
        let ToolCallPiece { id, name, arguments, plain_text, responder_executed } = call;
        Self {
            id: owned(id),
            name: owned(name),
            arguments: arguments.clone(),
            plain_text: *plain_text,
            responder_executed: *responder_executed,
        }
    }
}

impl From<proto::ToolCall> for ToolCallPiece {
    fn from(call: proto::ToolCall) -> Self {
        let proto::ToolCall { id, name, arguments, plain_text, responder_executed } = call;
        let (id, name) = (id.into(), name.into());
        Self { id, name, arguments, plain_text, responder_executed }
    }
}

impl From<&DeltaPiece> for delta::Piece {
    fn from(piece: &DeltaPiece) -> Self {
        match piece {
            DeltaPiece::Text(text) => Self::Text(text.as_str().into()),
            DeltaPiece::Reasoning(text) => Self::Reasoning(text.as_str().into()),
            DeltaPiece::ToolCall(call) => Self::ToolCall(call.as_ref().into()),
        }
    }
}

impl From<&ToolResult> for proto::ToolResult {
    fn from(result: &ToolResult) -> Self {
        Self {
            tool_call_id: owned(&result.tool_call_id),
            output: owned(&result.output),
            is_error: result.is_error,
            files: result.files.iter().map(Into::into).collect(),
        }
    }
}

impl From<proto::ToolResult> for ToolResult {
    fn from(result: proto::ToolResult) -> Self {
        Self {
            tool_call_id: result.tool_call_id.into(),
            output: result.output.into(),
            is_error: result.is_error,
            files: result.files.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<&File> for proto::File {
    fn from(file: &File) -> Self {
        Self {
            media_type: owned(&file.media_type),
            url: owned(&file.url),
            name: owned_option(file.name.as_ref()),
            size: file.size,
        }
    }
}

impl From<proto::File> for File {
    fn from(file: proto::File) -> Self {
        Self {
            media_type: file.media_type.into(),
            url: file.url.into(),
            name: shared(file.name),
            size: file.size,
        }
    }
}

impl From<&Source> for proto::Source {
    fn from(source: &Source) -> Self {
        Self {
            id: owned(&source.id),
            url: owned_option(source.url.as_ref()),
            title: owned_option(source.title.as_ref()),
            media_type: owned_option(source.media_type.as_ref()),
            name: owned_option(source.name.as_ref()),
        }
    }
}

impl From<proto::Source> for Source {
    fn from(source: proto::Source) -> Self {
        Self {
            id: source.id.into(),
            url: shared(source.url),
            title: shared(source.title),
            media_type: shared(source.media_type),
            name: shared(source.name),
        }
    }
}

impl From<&Citation> for proto::Citation {
    fn from(citation: &Citation) -> Self {
        Self {
            source_id: owned(&citation.source_id),
            start: citation.start,
            end: citation.end,
            quote: owned_option(citation.quote.as_ref()),
        }
    }
}

impl From<proto::Citation> for Citation {
    fn from(citation: proto::Citation) -> Self {
        Self {
            source_id: citation.source_id.into(),
            start: citation.start,
            end: citation.end,
            quote: shared(citation.quote),
        }
    }
}

impl From<&Data> for proto::Data {
    fn from(data: &Data) -> Self {
        let (r#type, json) = (owned(&data.kind), owned(&data.json));
        Self { r#type, json, id: owned_option(data.id.as_ref()) }
    }
}

impl From<proto::Data> for Data {
    fn from(data: proto::Data) -> Self {
        Self { kind: data.r#type.into(), json: data.json.into(), id: shared(data.id) }
    }
}

impl From<&ApprovalRequest> for proto::ApprovalRequest {
    fn from(request: &ApprovalRequest) -> Self {
        Self {
            id: owned(&request.id),
            tool_call_id: owned_option(request.tool_call_id.as_ref()),
            reason: owned_option(request.reason.as_ref()),
            json: owned_option(request.json.as_ref()),
        }
    }
}

impl From<proto::ApprovalRequest> for ApprovalRequest {
    fn from(request: proto::ApprovalRequest) -> Self {
        Self {
            id: request.id.into(),
            tool_call_id: shared(request.tool_call_id),
            reason: shared(request.reason),
            json: shared(request.json),
        }
    }
}

impl From<&ApprovalResponse> for proto::ApprovalResponse {
    fn from(response: &ApprovalResponse) -> Self {
        Self {
            approval_id: owned(&response.approval_id),
            approved: response.approved,
            reason: owned_option(response.reason.as_ref()),
            json: owned_option(response.json.as_ref()),
        }
    }
}

impl From<proto::ApprovalResponse> for ApprovalResponse {
    fn from(response: proto::ApprovalResponse) -> Self {
        Self {
            approval_id: response.approval_id.into(),
            approved: response.approved,
            reason: shared(response.reason),
            json: shared(response.json),
        }
    }
}
