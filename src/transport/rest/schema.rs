//! Schemas of the bodies whose JSON form is that of the wire contract. They describe, and are not
//! read: the generated code of the contract reads the bodies.

use std::collections::HashMap;

use utoipa::ToSchema;

macro_rules! described {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field:meta])* $member:ident: $kind:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(ToSchema)]
            #[expect(dead_code, reason = "only its schema is used")]
            pub(in crate::transport) struct $name { $($(#[$field])* $member: $kind,)* }
        )*
    };
}

described! {
    /// A user message. Its text, or its parts.
    struct SendBody {
        #[schema(example = "Hello Bot", nullable = false, min_length = 1)]
        text: Option<String>,
        /// Identifies the message: sending it again under the same id is the same message.
        #[schema(nullable = false, max_length = 128)]
        client_message_id: Option<String>,
        #[schema(nullable = false)]
        parts: Option<Vec<Part>>,
        /// A message of the turn that this one follows, 0 for none. Absent: the newest turn.
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        parent_seq: Option<u32>,
        #[schema(nullable = false)]
        metadata: Option<HashMap<String, String>>,
        #[schema(nullable = false)]
        options: Option<TurnOptions>,
    }

    /// A request for another reply to a question.
    struct RegenerateBody {
        /// A message of the turn to repeat. 0: the newest turn.
        #[schema(value_type = i64, minimum = 0)]
        seq: u32,
        #[schema(nullable = false, max_length = 128)]
        client_message_id: Option<String>,
        #[schema(nullable = false)]
        metadata: Option<HashMap<String, String>>,
        #[schema(nullable = false)]
        options: Option<TurnOptions>,
    }

    /// A request to stop a turn.
    struct StopBody {
        /// The number of the user message. Absent: the reply in progress, or the next one.
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        seq: Option<u32>,
    }

    /// How a turn is to be answered. The operator decides which fields may be set.
    struct TurnOptions {
        #[schema(nullable = false)]
        model: Option<String>,
        #[schema(nullable = false)]
        instructions: Option<String>,
        #[schema(nullable = false)]
        tools: Option<Vec<Tool>>,
        /// `auto`, `none`, `required`, or the name of a tool.
        #[schema(nullable = false)]
        tool_choice: Option<String>,
        #[schema(nullable = false, value_type = Option<i64>, minimum = 1)]
        max_output_tokens: Option<u32>,
        #[schema(nullable = false)]
        temperature: Option<f32>,
        /// A JSON object, as text.
        #[schema(nullable = false)]
        extra: Option<String>,
    }

    /// A tool that the client runs.
    struct Tool {
        name: String,
        #[schema(nullable = false)]
        description: Option<String>,
        /// JSON Schema of the arguments, as text.
        #[schema(nullable = false)]
        parameters: Option<String>,
    }

    /// A part of a message: exactly one of the kinds.
    struct Part {
        #[schema(nullable = false)]
        text: Option<String>,
        #[schema(nullable = false)]
        reasoning: Option<String>,
        #[schema(nullable = false)]
        tool_call: Option<ToolCall>,
        #[schema(nullable = false)]
        tool_result: Option<ToolResult>,
        #[schema(nullable = false)]
        file: Option<File>,
        #[schema(nullable = false)]
        source: Option<Source>,
        #[schema(nullable = false)]
        data: Option<Data>,
        #[schema(nullable = false)]
        approval_request: Option<ApprovalRequest>,
        #[schema(nullable = false)]
        approval_response: Option<ApprovalResponse>,
        #[schema(nullable = false)]
        citations: Option<Vec<Citation>>,
        /// A JSON object, as text.
        #[schema(nullable = false)]
        provider_data: Option<String>,
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        duration_ms: Option<u32>,
    }

    /// A call of a tool.
    struct ToolCall {
        id: String,
        name: String,
        /// As the model wrote them: usually JSON.
        arguments: String,
        #[schema(nullable = false)]
        plain_text: Option<bool>,
        #[schema(nullable = false)]
        responder_executed: Option<bool>,
    }

    /// The result of a tool.
    struct ToolResult {
        tool_call_id: String,
        /// JSON, as text.
        output: String,
        #[schema(nullable = false)]
        is_error: Option<bool>,
        #[schema(nullable = false)]
        files: Option<Vec<File>>,
    }

    /// An image, a document or audio.
    struct File {
        #[schema(example = "image/png")]
        media_type: String,
        /// `https:` or `data:`. Empty: the file was too large to be kept.
        url: String,
        #[schema(nullable = false)]
        name: Option<String>,
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        size: Option<u32>,
    }

    /// A page or document that the model read.
    struct Source {
        id: String,
        #[schema(nullable = false)]
        url: Option<String>,
        #[schema(nullable = false)]
        title: Option<String>,
        #[schema(nullable = false)]
        media_type: Option<String>,
        #[schema(nullable = false)]
        name: Option<String>,
    }

    /// A source of a text.
    struct Citation {
        source_id: String,
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        start: Option<u32>,
        #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
        end: Option<u32>,
        #[schema(nullable = false)]
        quote: Option<String>,
    }

    /// A value with a meaning of the application's own.
    struct Data {
        r#type: String,
        /// JSON, as text.
        json: String,
        #[schema(nullable = false)]
        id: Option<String>,
    }

    /// A decision that a person has to make before a tool runs.
    struct ApprovalRequest {
        id: String,
        #[schema(nullable = false)]
        tool_call_id: Option<String>,
        #[schema(nullable = false)]
        reason: Option<String>,
        /// JSON, as text.
        #[schema(nullable = false)]
        json: Option<String>,
    }

    /// A decision.
    struct ApprovalResponse {
        approval_id: String,
        approved: bool,
        #[schema(nullable = false)]
        reason: Option<String>,
        /// JSON, as text.
        #[schema(nullable = false)]
        json: Option<String>,
    }
}
