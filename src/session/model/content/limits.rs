//! The limits of a content, and the checks of its parts.

use std::{borrow::Cow, sync::Arc};

use super::{Content, Data, File, Part, PartContent};
use crate::session::model::{Error, ErrorKind, Result, json};

/// Limits of the content of a user message.
#[derive(Clone, Debug)]
pub struct ContentLimits {
    /// Bytes of all text parts together.
    pub max_text_size: usize,
    /// Bytes of all parts together.
    pub max_size: usize,
    /// Number of parts.
    pub max_parts: usize,
    /// Bytes of one `data:` URL. 0: none is accepted.
    pub max_inline_file_size: usize,
    /// Media types of files: `image/png`, `image/*`. Empty: no files.
    pub media_types: Vec<Arc<str>>,
}

impl Content {
    /// Checks the content of a user message.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty content, a NUL in a text, and a part that a
    /// user message cannot have; [`ErrorKind::MessageTooLarge`] beyond a limit of bytes.
    pub fn check(&self, limits: &ContentLimits) -> Result<()> {
        if self.is_empty() {
            return Err(invalid("The text is empty"));
        }
        let parts = self.parts();
        if parts.is_empty() {
            return check_text(&self.text, &mut { limits.max_text_size }, limits);
        }
        if parts.len() > limits.max_parts {
            return Err(invalid(format!("The message has more than {} parts", limits.max_parts)));
        }
        if self.size() > limits.max_size {
            return Err(too_large(limits.max_size));
        }
        let mut room = limits.max_text_size;
        parts.iter().enumerate().try_for_each(|(index, part)| {
            part.check(&mut room, limits).map_err(|error| match error.kind() {
                ErrorKind::InvalidArgument => invalid(format!("Part {index}: {error}")),
                _ => error,
            })
        })
    }
}

fn check_text(text: &str, room: &mut usize, limits: &ContentLimits) -> Result<()> {
    *room = room.checked_sub(text.len()).ok_or_else(|| too_large(limits.max_text_size))?;
    if text.as_bytes().contains(&0) {
        return Err(invalid("The text holds a NUL character"));
    }
    Ok(())
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn too_large(max_size: usize) -> Error {
    let message = format!("The message is larger than {max_size} bytes");
    Error::new(ErrorKind::MessageTooLarge, message)
}

impl Part {
    fn check(&self, room: &mut usize, limits: &ContentLimits) -> Result<()> {
        if self.provider_data.is_some() || !self.citations.is_empty() || self.duration_ms.is_some()
        {
            return Err(invalid("provider_data, citations and duration_ms are for replies"));
        }
        match &self.content {
            PartContent::Text(text) if text.is_empty() => Err(invalid("The text is empty")),
            PartContent::Text(text) => check_text(text, room, limits),
            PartContent::File(file) => file.check(limits),
            PartContent::ToolResult(result) => {
                json::check_id("tool_call_id", &result.tool_call_id)?;
                json::check("output", &result.output)?;
                result.files.iter().try_for_each(|file| file.check(limits))
            }
            PartContent::ApprovalResponse(response) => {
                json::check_id("approval_id", &response.approval_id)?;
                response.json.as_deref().map_or(Ok(()), |json| json::check("json", json))
            }
            PartContent::Data(data) => data.check(),
            PartContent::Reasoning(_)
            | PartContent::ToolCall(_)
            | PartContent::Source(_)
            | PartContent::ApprovalRequest(_) => {
                Err(invalid("a user message has no part of this kind"))
            }
        }
    }
}

impl Part {
    /// Checks a part that a responder produced. A file that cannot be kept loses its URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`]: a text that has to be JSON is not.
    pub(in crate::session) fn checked_of_reply(
        mut self,
        max_inline_file_size: usize,
    ) -> Result<Self> {
        match &mut self.content {
            PartContent::ToolResult(result) => {
                json::check("output", &result.output)?;
                result.files.iter_mut().for_each(|file| file.keep_within(max_inline_file_size));
            }
            PartContent::File(file) => file.keep_within(max_inline_file_size),
            PartContent::Data(data) => data.check()?,
            PartContent::ApprovalRequest(request) => {
                request.json.as_deref().map_or(Ok(()), |json| json::check("json", json))?;
            }
            PartContent::ApprovalResponse(response) => {
                response.json.as_deref().map_or(Ok(()), |json| json::check("json", json))?;
            }
            PartContent::Text(_)
            | PartContent::Reasoning(_)
            | PartContent::ToolCall(_)
            | PartContent::Source(_) => {}
        }
        self.duration_ms = None;
        Ok(self)
    }
}

impl Data {
    /// Checks the kind and the JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`].
    pub fn check(&self) -> Result<()> {
        let is_valid =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
        if !(1..=64).contains(&self.kind.len()) || !self.kind.bytes().all(is_valid) {
            return Err(invalid("type must be 1 to 64 of a-z, 0-9, `_`, `-` and `.`"));
        }
        self.id.as_deref().map_or(Ok(()), |id| json::check_id("id", id))?;
        json::check("json", &self.json)
    }
}

impl File {
    /// Removes a URL that is neither `https:` nor a `data:` URL of at most so many bytes.
    fn keep_within(&mut self, max_inline_file_size: usize) {
        let keeps = match self.url.split_once(':') {
            Some(("data", rest)) => self.url.len() <= max_inline_file_size && is_data_url(rest),
            Some(("https", rest)) => is_host_and_path(rest),
            _ => false,
        };
        if !keeps {
            self.url = "".into();
        }
    }

    /// Checks the type and the URL of a user's file. The gateway never fetches a URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], [`ErrorKind::MessageTooLarge`].
    pub fn check(&self, limits: &ContentLimits) -> Result<()> {
        let (kind, _) = self.media_type.split_once('/').unwrap_or_default();
        let accepts = |accepted: &Arc<str>| match accepted.strip_suffix("/*") {
            Some(any) => any == kind && self.media_type.len() > kind.len() + 1,
            None => *accepted == self.media_type,
        };
        if kind.is_empty() || !limits.media_types.iter().any(accepts) {
            return Err(invalid(format!("files of type `{}` are not accepted", self.media_type)));
        }
        if self.name.as_deref().is_some_and(|name| name.len() > 255 || name.contains('\0')) {
            return Err(invalid("the file name is longer than 255 bytes or holds a NUL"));
        }
        match self.url.split_once(':') {
            Some(("data", _)) if self.url.len() > limits.max_inline_file_size => {
                let max = limits.max_inline_file_size;
                let message = format!("A data: URL is longer than {max} bytes");
                Err(Error::new(ErrorKind::MessageTooLarge, message))
            }
            Some(("data", rest)) if is_data_url(rest) => Ok(()),
            Some(("https", rest)) if is_host_and_path(rest) => Ok(()),
            _ => Err(invalid("url must be https: without a user, or data: in base64")),
        }
    }
}

/// RFC 2397, in base64.
fn is_data_url(rest: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    rest.split_once(";base64,").is_some_and(|(head, data)| {
        !data.is_empty() && data.bytes().all(is_digit) && head.bytes().all(|b| b.is_ascii_graphic())
    })
}

fn is_host_and_path(rest: &str) -> bool {
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && rest.len() <= 8192
        && rest.bytes().all(|byte| byte.is_ascii_graphic())
}
