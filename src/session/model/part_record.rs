//! The JSON form of a part in stores and exports: one field per kind, of which one is set.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::content::{
    ApprovalRequest, ApprovalResponse, Citation, Data, File, Part, PartContent, Source, ToolCall,
    ToolResult,
};

/// A part as JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PartRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call: Option<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_result: Option<ToolResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_request: Option<ApprovalRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_response: Option<ApprovalResponse>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    citations: Vec<Citation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_data: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u32>,
}

impl From<Part> for PartRecord {
    fn from(part: Part) -> Self {
        let Part { content, citations, provider_data, duration_ms } = part;
        let mut record = Self { citations, provider_data, duration_ms, ..Self::default() };
        match content {
            PartContent::Text(text) => record.text = Some(text),
            PartContent::Reasoning(text) => record.reasoning = Some(text),
            PartContent::ToolCall(call) => record.tool_call = Some(call),
            PartContent::ToolResult(result) => record.tool_result = Some(result),
            PartContent::File(file) => record.file = Some(file),
            PartContent::Source(source) => record.source = Some(source),
            PartContent::Data(data) => record.data = Some(data),
            PartContent::ApprovalRequest(request) => record.approval_request = Some(request),
            PartContent::ApprovalResponse(response) => record.approval_response = Some(response),
        }
        record
    }
}

impl TryFrom<PartRecord> for Part {
    type Error = &'static str;

    fn try_from(record: PartRecord) -> Result<Self, Self::Error> {
        let contents = [
            record.text.map(PartContent::Text),
            record.reasoning.map(PartContent::Reasoning),
            record.tool_call.map(PartContent::ToolCall),
            record.tool_result.map(PartContent::ToolResult),
            record.file.map(PartContent::File),
            record.source.map(PartContent::Source),
            record.data.map(PartContent::Data),
            record.approval_request.map(PartContent::ApprovalRequest),
            record.approval_response.map(PartContent::ApprovalResponse),
        ];
        let mut contents = contents.into_iter().flatten();
        match (contents.next(), contents.next()) {
            (Some(content), None) => Ok(Self {
                content,
                citations: record.citations,
                provider_data: record.provider_data,
                duration_ms: record.duration_ms,
            }),
            _ => Err("a part has exactly one content"),
        }
    }
}
