//! The messages of a session as text for people.

use std::io::{self, Write};

use super::print::{Printable, count, time};
use crate::session::{
    File, Message, PartContent, ReplyFields, Role, Status, ToolResult, UserFields,
};

/// Prints messages in the order of their log.
pub(super) struct Transcript {
    /// The user message that was printed last. 0: the log has none before. `None`: not known.
    newest_turn: Option<u32>,
}

impl Transcript {
    /// Begins after a number of the log.
    pub(super) fn after(seq: u32) -> Self {
        Self { newest_turn: (seq == 0).then_some(0) }
    }

    /// Prints a message.
    ///
    /// # Errors
    /// The error of the writer.
    pub(super) fn print(
        &mut self,
        out: &mut impl Write,
        message: &Message,
        waits: bool,
    ) -> io::Result<()> {
        write!(out, "\n#{}  {}  ", message.seq, time(message.created_at))?;
        match &message.role {
            Role::User(fields) => {
                question(out, fields, self.newest_turn)?;
                if waits {
                    write!(out, "  (waits for its reply)")?;
                }
                self.newest_turn = Some(message.seq);
            }
            Role::Assistant(fields) => reply(out, fields)?,
        }
        writeln!(out)?;
        match message.content.parts() {
            [] => lines(out, message.text()),
            parts => parts.iter().try_for_each(|part| print_part(out, &part.content)),
        }
    }
}

/// The parent is printed where it is not the user message before.
fn question(out: &mut impl Write, fields: &UserFields, newest_turn: Option<u32>) -> io::Result<()> {
    write!(out, "user")?;
    if let Some(id) = &fields.client_message_id {
        write!(out, "  {}", Printable(id))?;
    }
    if newest_turn != Some(fields.parent_seq) {
        match fields.parent_seq {
            0 => write!(out, "  (at the root)")?,
            seq => write!(out, "  (after #{seq})")?,
        }
    }
    match fields.regenerates_seq {
        Some(seq) => write!(out, "  (#{seq} again)"),
        None => Ok(()),
    }
}

fn reply(out: &mut impl Write, fields: &ReplyFields) -> io::Result<()> {
    write!(out, "assistant  {}", fields.status.as_str())?;
    if let Status::Failed(failure) = &fields.status {
        write!(out, ": {} ({})", Printable(&failure.message), Printable(&failure.code))?;
    }
    if let Some(model) = &fields.model {
        write!(out, "  {}", Printable(model))?;
    }
    if let Some(usage) = fields.usage {
        let about = if usage.estimated { "about " } else { "" };
        let tokens = count(usage.output_tokens.into(), "token");
        write!(out, "  {about}{} + {tokens}", usage.input_tokens)?;
    }
    Ok(())
}

fn lines(out: &mut impl Write, text: &str) -> io::Result<()> {
    text.split('\n').try_for_each(|line| writeln!(out, "    {}", Printable(line)))
}

fn print_part(out: &mut impl Write, content: &PartContent) -> io::Result<()> {
    let line = match content {
        PartContent::Text(text) => return lines(out, text),
        PartContent::Reasoning(text) => format!("reasoning {text}"),
        PartContent::ToolCall(call) => format!("tool call {} {}", call.name, call.arguments),
        PartContent::ToolResult(result) => described_result(result),
        PartContent::File(file) => format!("file {}", described_file(file)),
        PartContent::Source(source) => {
            let known = [&source.title, &source.name, &source.url].into_iter().flatten();
            let known: Vec<_> = known.map(|text| &**text).collect();
            format!("source {}", known.join(", "))
        }
        PartContent::Data(data) => format!("data {} {}", data.kind, data.json),
        PartContent::ApprovalRequest(request) => {
            let reason = request.reason.as_deref().unwrap_or_default();
            format!("approval request {} {reason}", request.id)
        }
        PartContent::ApprovalResponse(response) => {
            let decision = if response.approved { "approved" } else { "denied" };
            let reason = response.reason.as_deref().unwrap_or_default();
            format!("{decision} {} {reason}", response.approval_id)
        }
    };
    writeln!(out, "    [{}]", Printable(line.trim_end()))
}

fn described_result(result: &ToolResult) -> String {
    let name = if result.is_error { "tool error" } else { "tool result" };
    let files = result.files.iter().map(|file| format!(", file {}", described_file(file)));
    format!("{name} {}{}", result.output, files.collect::<String>())
}

/// Describes a file without the content of a `data:` URL.
fn described_file(file: &File) -> String {
    let mut line = file.media_type.to_string();
    if let Some(name) = &file.name {
        line += ", ";
        line += name;
    }
    match file.url.split_once(";base64,") {
        Some((_, data)) if file.url.starts_with("data:") => {
            let digits = data.trim_end_matches('=').len();
            line += ", ";
            line += &count(digits as u64 * 3 / 4, "byte");
        }
        _ if file.url.is_empty() => line += ", not kept",
        _ => {
            line += ", ";
            line += &file.url;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        ApprovalRequest, ApprovalResponse, Content, Data, MessageId, Metadata, Part, Source,
        Timestamp, ToolCall, Usage,
    };

    fn printed(messages: &[Message]) -> Vec<String> {
        let (mut out, mut transcript) = (Vec::new(), Transcript::after(0));
        for message in messages {
            transcript.print(&mut out, message, false).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.replace("  1970-01-01T00:00:00.000Z", "")).collect()
    }

    fn message(seq: u32, content: Content, role: Role) -> Message {
        let (created_at, metadata) = (Timestamp::default(), Metadata::default());
        Message { seq, id: MessageId::generate(), content, created_at, metadata, role }
    }

    #[test]
    fn a_parent_is_printed_where_it_is_not_the_message_before() {
        let user = |seq, parent_seq, regenerates_seq| {
            let fields = UserFields { parent_seq, regenerates_seq, ..UserFields::default() };
            message(seq, Content::of_text("x"), Role::User(fields))
        };
        let log = [user(1, 0, None), user(2, 1, None), user(3, 1, None), user(4, 0, Some(1))];
        let lines = printed(&log);
        let heads: Vec<_> = lines.iter().step_by(2).collect();
        assert_eq!(
            heads,
            ["#1  user", "#2  user", "#3  user  (after #1)", "#4  user  (at the root)  (#1 again)"]
        );
        let mut out = Vec::new();
        Transcript::after(1).print(&mut out, &log[1], true).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("user  (after #1)  (waits for its reply)\n    x\n"), "{text}");
    }

    #[test]
    fn every_part_but_a_text_is_one_line() {
        let file = |url: &str, name: Option<&str>| File {
            media_type: "image/png".into(),
            url: url.into(),
            name: name.map(Into::into),
            size: None,
        };
        let call = ToolCall {
            id: "c".into(),
            name: "weather".into(),
            arguments: "{\"c\":\n\"Oslo\"}".into(),
            plain_text: false,
            responder_executed: false,
        };
        let result = ToolResult {
            tool_call_id: "c".into(),
            output: "4".into(),
            is_error: true,
            files: vec![file("", None)],
        };
        let source = Source {
            id: "s".into(),
            url: Some("https://a.example".into()),
            title: Some("A".into()),
            media_type: None,
            name: None,
        };
        let request = ApprovalRequest {
            id: "a".into(),
            tool_call_id: None,
            reason: Some("why".into()),
            json: None,
        };
        let response =
            ApprovalResponse { approval_id: "a".into(), approved: false, reason: None, json: None };
        let data = Data { kind: "k".into(), json: "[1]".into(), id: None };
        let parts = [
            PartContent::Reasoning("Short.".into()),
            PartContent::ToolCall(call),
            PartContent::ToolResult(result),
            PartContent::File(file("data:image/png;base64,iVBORw0KGgo=", None)),
            PartContent::File(file("https://a.example/b.png", Some("b.png"))),
            PartContent::Source(source),
            PartContent::Data(data),
            PartContent::ApprovalRequest(request),
            PartContent::ApprovalResponse(response),
            PartContent::Text("4 °C.\nCold.".into()),
        ];
        let fields = ReplyFields {
            model: Some("m".into()),
            usage: Some(Usage::estimate(1, 2)),
            ..ReplyFields::new(MessageId::generate(), 1, Status::Complete)
        };
        let content = Content::of_parts(parts.map(Part::from).into());
        assert_eq!(
            printed(&[message(2, content, Role::Assistant(fields))]),
            [
                "#2  assistant  complete  m  about 1 + 2 tokens",
                "    [reasoning Short.]",
                "    [tool call weather {\"c\":\\u{a}\"Oslo\"}]",
                "    [tool error 4, file image/png, not kept]",
                "    [file image/png, 8 bytes]",
                "    [file image/png, b.png, https://a.example/b.png]",
                "    [source A, https://a.example]",
                "    [data k [1]]",
                "    [approval request a why]",
                "    [denied a]",
                "    4 °C.",
                "    Cold.",
            ]
        );
    }
}
