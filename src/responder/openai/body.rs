//! The body of a response: server-sent events, or one JSON document.
//!
//! The first byte decides. The content type does not: some servers label events as JSON, and some
//! ignore `"stream": true`.

use super::sse::{BYTE_ORDER_MARK, EventKind, Framer, MAX_EVENT, SseEvent};

/// Decodes a body from chunks of bytes.
#[derive(Debug, Default)]
pub(super) struct Body {
    form: BodyForm,
    framer: Framer,
    document: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BodyForm {
    /// Nothing but white space has arrived.
    #[default]
    Unknown,
    Events,
    Document,
    /// The document has been returned.
    Done,
}

impl Body {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.form == BodyForm::Unknown {
            let is_content =
                |byte: &&u8| !byte.is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(*byte);
            let first = bytes.iter().find(is_content);
            self.form = match first {
                None => BodyForm::Unknown,
                Some(b'{' | b'[') => BodyForm::Document,
                Some(_) => BodyForm::Events,
            };
        }
        match self.form {
            BodyForm::Unknown | BodyForm::Events => self.framer.push(bytes),
            BodyForm::Document | BodyForm::Done => self.document.extend_from_slice(bytes),
        }
    }

    /// Returns the next event and whether it is whole: the last event of a body that broke off
    /// may not be. A document is returned as one event, at the end of the body.
    ///
    /// # Errors
    /// The event or the document is larger than any valid one.
    pub(super) fn next(
        &mut self,
        is_over: bool,
    ) -> Result<Option<(SseEvent<'_>, bool)>, &'static str> {
        match self.form {
            BodyForm::Unknown | BodyForm::Events => {
                if !is_over {
                    let event = self.framer.next().map_err(|_| "an event is too long")?;
                    return Ok(event.map(|event| (event, true)));
                }
                self.framer.next_or_rest().map_err(|_| "an event is too long")
            }
            BodyForm::Document if self.document.len() > MAX_EVENT => {
                Err("the document is too long")
            }
            BodyForm::Document if is_over => {
                self.form = BodyForm::Done;
                let document = self.document.trim_ascii_start();
                let data = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
                Ok(Some((SseEvent { data, kind: EventKind::Message }, true)))
            }
            BodyForm::Document | BodyForm::Done => Ok(None),
        }
    }
}
