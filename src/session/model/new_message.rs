//! A user message before it is committed.

use std::sync::Arc;

use super::{Error, ErrorKind, Result};

/// Longest `client_message_id`, in bytes.
const MAX_CLIENT_MESSAGE_ID: usize = 128;

/// A user message as a client sent it. The core checks it before it is committed.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub(in crate::session) text: Arc<str>,
    pub(in crate::session) client_message_id: Option<Arc<str>>,
}

impl NewMessage {
    /// Builds a message from its text and the sender's id for it. An empty id counts as none.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>, client_message_id: Option<&str>) -> Self {
        let client_message_id = client_message_id.filter(|id| !id.is_empty()).map(Into::into);
        Self { text: text.into(), client_message_id }
    }

    /// Checks the message against the limits. `max_size` is in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty text, a NUL, or an id that is longer
    /// than 128 bytes or not visible ASCII; [`ErrorKind::MessageTooLarge`] for more than
    /// `max_size` bytes.
    pub fn check(&self, max_size: usize) -> Result<()> {
        check_text(&self.text, max_size)?;
        self.client_message_id.as_deref().map_or(Ok(()), check_id)
    }
}

fn check_text(text: &str, max_size: usize) -> Result<()> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "The text is empty"));
    }
    if text.len() > max_size {
        let message = format!("The message is larger than {max_size} bytes");
        return Err(Error::new(ErrorKind::MessageTooLarge, message));
    }
    if text.as_bytes().contains(&0) {
        let message = "The text holds a NUL character";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
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

    fn refusal(text: &str, id: Option<&str>) -> Option<ErrorKind> {
        NewMessage::new(text, id).check(8).err().map(|error| error.kind())
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
}
