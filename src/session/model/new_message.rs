//! A user message before it is committed.

use std::sync::Arc;

use super::{
    Content, Error, ErrorKind, Metadata, Result, TurnOption, TurnOptions, content::ContentLimits,
};

/// Longest `client_message_id`, in bytes.
const MAX_CLIENT_MESSAGE_ID: usize = 128;

/// A user message as a client sent it. The core checks it before it is committed.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// The content.
    pub content: Content,
    /// The sender's id for it.
    pub client_message_id: Option<Arc<str>>,
    /// A message of the turn that this one follows. 0: none. Absent: the newest turn.
    pub parent_seq: Option<u32>,
    /// Stored with the message.
    pub metadata: Metadata,
    /// How the turn is to be answered.
    pub options: Option<Arc<TurnOptions>>,
}

/// A request for another reply to a question.
#[derive(Clone, Debug, Default)]
pub struct Regeneration {
    /// A message of the turn to repeat. 0: the newest turn.
    pub seq: u32,
    /// The sender's id for the new user message.
    pub client_message_id: Option<Arc<str>>,
    /// Replaces the metadata. Empty: the old metadata stays.
    pub metadata: Metadata,
    /// Replaces the options. Absent: the old options stay.
    pub options: Option<Arc<TurnOptions>>,
}

/// Limits of user messages.
#[derive(Clone, Debug)]
pub struct MessageLimits {
    /// Limits of the content.
    pub content: ContentLimits,
    /// The options that clients may set.
    pub options: Vec<TurnOption>,
}

impl NewMessage {
    /// Builds a message from its text and the sender's id for it. An empty id counts as none.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>, client_message_id: Option<&str>) -> Self {
        Self {
            content: Content::of_text(text),
            client_message_id: given_id(client_message_id),
            ..Self::default()
        }
    }

    /// Checks the message against the limits.
    ///
    /// # Errors
    /// As [`Content::check`], [`Metadata::check`] and [`TurnOptions::check`];
    /// [`ErrorKind::InvalidArgument`] for an id that is longer than 128 bytes or not visible
    /// ASCII.
    pub fn check(&self, limits: &MessageLimits) -> Result<()> {
        self.content.check(&limits.content)?;
        check_rest(
            self.client_message_id.as_deref(),
            &self.metadata,
            self.options.as_deref(),
            limits,
        )
    }
}

impl Regeneration {
    /// Checks the request against the limits.
    ///
    /// # Errors
    /// As [`NewMessage::check`].
    pub fn check(&self, limits: &MessageLimits) -> Result<()> {
        check_rest(
            self.client_message_id.as_deref(),
            &self.metadata,
            self.options.as_deref(),
            limits,
        )
    }
}

/// Returns the id that a client gave. An empty id counts as none.
#[must_use]
pub fn given_id(id: Option<&str>) -> Option<Arc<str>> {
    id.filter(|id| !id.is_empty()).map(Into::into)
}

fn check_rest(
    id: Option<&str>,
    metadata: &Metadata,
    options: Option<&TurnOptions>,
    limits: &MessageLimits,
) -> Result<()> {
    id.map_or(Ok(()), check_id)?;
    metadata.check()?;
    options.map_or(Ok(()), |options| options.check(&limits.options))
}

fn check_id(id: &str) -> Result<()> {
    if id.len() <= MAX_CLIENT_MESSAGE_ID && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let message = "client_message_id must be 1 to 128 visible ASCII characters";
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Data, File, Part, PartContent, ToolResult};

    fn limits() -> MessageLimits {
        MessageLimits {
            content: ContentLimits {
                max_text_size: 8,
                max_size: 200,
                max_parts: 3,
                max_inline_file_size: 40,
                media_types: vec!["image/*".into(), "application/pdf".into()],
            },
            options: Vec::new(),
        }
    }

    fn refusal(text: &str, id: Option<&str>) -> Option<ErrorKind> {
        NewMessage::new(text, id).check(&limits()).err().map(|error| error.kind())
    }

    fn refused_parts(parts: Vec<Part>) -> Option<ErrorKind> {
        let message = NewMessage { content: Content::of_parts(parts), ..NewMessage::default() };
        message.check(&limits()).err().map(|error| error.kind())
    }

    #[test]
    fn texts_have_one_byte_to_the_limit() {
        assert_eq!(refusal("", None), Some(ErrorKind::InvalidArgument));
        assert_eq!(refusal(" ", None), None);
        assert_eq!(refusal("12345678", None), None);
        assert_eq!(refusal("123456789", None), Some(ErrorKind::MessageTooLarge));
        assert_eq!(refusal("ääää", None), None);
        assert_eq!(refusal("ääääa", None), Some(ErrorKind::MessageTooLarge));
        assert_eq!(refusal("a\0b", None), Some(ErrorKind::InvalidArgument));
    }

    #[test]
    fn ids_are_short_and_visible() {
        let long = "x".repeat(MAX_CLIENT_MESSAGE_ID + 1);
        assert_eq!(refusal("a", Some(&long[1..])), None);
        assert_eq!(refusal("a", Some("")), None);
        for id in [long.as_str(), "a b", "ä", "a\n"] {
            assert_eq!(refusal("a", Some(id)), Some(ErrorKind::InvalidArgument), "{id:?}");
        }
    }

    #[test]
    fn the_text_parts_of_a_message_share_one_limit() {
        let data = Data { kind: "k".into(), json: "1".into(), id: None };
        let with_data = |sizes: &[usize]| {
            let texts = sizes.iter().map(|size| Part::text("x".repeat(*size)));
            texts.chain([PartContent::Data(data.clone()).into()]).collect()
        };
        assert_eq!(refused_parts(with_data(&[4, 4])), None);
        assert_eq!(refused_parts(with_data(&[4, 5])), Some(ErrorKind::MessageTooLarge));
        assert_eq!(refused_parts(with_data(&[1, 1, 1])), Some(ErrorKind::InvalidArgument));
    }

    #[test]
    fn files_have_an_accepted_type_and_a_url_that_is_never_fetched() {
        let refused = |media_type: &str, url: &str| {
            let file =
                File { media_type: media_type.into(), url: url.into(), name: None, size: None };
            refused_parts(vec![PartContent::File(file).into()])
        };
        let invalid = Some(ErrorKind::InvalidArgument);
        assert_eq!(refused("image/png", "data:image/png;base64,iVBORw0="), None);
        assert_eq!(refused("application/pdf", "https://example.org/a.pdf"), None);
        for (media_type, url) in [
            ("text/html", "https://example.org/"),
            ("image/", "https://example.org/"),
            ("", "https://example.org/"),
            ("image/png", "http://example.org/"),
            ("image/png", "file:///etc/passwd"),
            ("image/png", "https://ada:secret@example.org/"),
            ("image/png", "https://"),
            ("image/png", "data:image/png,abc"),
            ("image/png", "data:image/png;base64,"),
            ("image/png", "data:image/png;base64,%%"),
            ("image/png", "/files/1"),
            ("image/png", ""),
        ] {
            assert_eq!(refused(media_type, url), invalid, "{media_type} {url}");
        }
        let large = format!("data:image/png;base64,{}", "A".repeat(40));
        assert_eq!(refused("image/png", &large), Some(ErrorKind::MessageTooLarge));
    }

    #[test]
    fn a_user_message_has_only_parts_of_a_user() {
        let result = ToolResult {
            tool_call_id: "c".into(),
            output: "{".into(),
            is_error: false,
            files: Vec::new(),
        };
        let call = crate::session::ToolCall {
            id: "c".into(),
            name: "f".into(),
            arguments: "{}".into(),
            plain_text: false,
            responder_executed: false,
        };
        let signed = Part { provider_data: Some("{}".into()), ..Part::text("a") };
        for part in [
            PartContent::Reasoning("hm".into()).into(),
            PartContent::ToolCall(call).into(),
            PartContent::ToolResult(result.clone()).into(),
            signed,
        ] {
            assert_eq!(refused_parts(vec![part]), Some(ErrorKind::InvalidArgument));
        }
        let valid = ToolResult { output: "{}".into(), ..result };
        assert_eq!(refused_parts(vec![PartContent::ToolResult(valid).into()]), None);
    }
}
