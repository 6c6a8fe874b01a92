//! The frames of WebSocket and server-sent events.

mod convert;
mod tolerant_json;

use prost::Message as _;
use tokio_tungstenite::tungstenite::Message;

pub(super) use convert::{
    accepted, client_request, position, response, session, snapshot, wire_position,
};

use super::stream::ClientRequest;
use crate::{
    proto,
    session::{Error, ErrorKind, Result},
};

/// The form of frames. The subprotocol selects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Plain mode: a text frame is a message, or the reply to one.
    Plain,
    /// Canonical proto-JSON, in text frames.
    Json,
    /// Protobuf, in binary frames.
    Proto,
}

impl Codec {
    /// Returns the codec of a WebSocket subprotocol.
    pub(super) fn of_subprotocol(name: &str) -> Option<Self> {
        [Self::Json, Self::Proto].into_iter().find(|codec| codec.subprotocol() == Some(name))
    }

    /// Returns the subprotocol that selects the codec.
    pub(super) const fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Json => Some("duologue.v1.json"),
            Self::Proto => Some("duologue.v1.proto"),
        }
    }

    /// Returns the name in logs and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Json => "json",
            Self::Proto => "proto",
        }
    }

    /// Returns the largest frame that can hold a message of `text` bytes. JSON may escape a byte as
    /// `\u00XX`.
    pub(super) const fn max_frame(self, text: usize) -> usize {
        /// Room for the parts of a frame beside the text.
        const ENVELOPE: usize = 4096;
        match self {
            // Room for a line break at the end, which is removed.
            Self::Plain => text.saturating_add(2),
            Self::Json => text.saturating_mul(6).saturating_add(ENVELOPE),
            Self::Proto => text.saturating_add(ENVELOPE),
        }
    }

    /// Reads a data frame. A plain frame holds a text of at most `max_text` bytes.
    ///
    /// # Errors
    /// `WrongFrameType` and `FrameTooLarge`, after which the stream must end;
    /// `BadFrame`, after which it may continue.
    pub(super) fn decode(self, frame: &Message, max_text: usize) -> Result<ClientRequest> {
        match self {
            Self::Plain => {
                let Message::Text(text) = frame else { return Err(wrong_type()) };
                let text = without_line_break(text.as_str());
                // The size of the frame does not decide: it leaves room for a line break.
                if text.len() > max_text {
                    return Err(ErrorKind::FrameTooLarge.into());
                }
                Ok(ClientRequest::Send { text: text.into(), client_message_id: None })
            }
            Self::Json => {
                let Message::Text(text) = frame else { return Err(wrong_type()) };
                let request = serde_json::from_str::<proto::ChatRequest>(text);
                // The first error is the clearer one.
                let request = request
                    .or_else(|error| tolerant_json::from_str(text).map_err(|_| error))
                    .map_err(|error| bad_frame(&error))?;
                client_request(request)
            }
            Self::Proto => {
                let Message::Binary(bytes) = frame else { return Err(wrong_type()) };
                let request = proto::ChatRequest::decode(bytes.clone());
                client_request(request.map_err(|error| bad_frame(&error))?)
            }
        }
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// `Internal`, if the value has no form in the codec.
    pub(super) fn encode(self, response: &proto::ChatResponse) -> Result<Message> {
        Ok(match self {
            Self::Plain => return Err(Error::internal("plain frames hold texts only")),
            Self::Json => Message::text(json(response)?),
            Self::Proto => Message::binary(response.encode_to_vec()),
        })
    }
}

/// Encodes a frame as canonical proto-JSON on one line.
///
/// # Errors
/// `Internal`, if the value has no JSON form.
pub(super) fn json(response: &proto::ChatResponse) -> Result<String> {
    serde_json::to_string(response).map_err(Error::internal)
}

/// Removes one line break at the end. Tools that send a line, such as websocat, send its end too.
fn without_line_break(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').unwrap_or(line)
}

fn wrong_type() -> Error {
    ErrorKind::WrongFrameType.into()
}

/// Says where the frame is wrong. Only the client that sent the frame reads it.
fn bad_frame(error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::BadFrame, format!("The frame could not be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_structured_codecs_read_the_same_request() {
        let json = Message::text(r#"{"send":{"text":"Grüße","clientMessageId":"m1"}}"#);
        let request = proto::ChatRequest {
            request: Some(proto::chat_request::Request::Send(proto::Send {
                text: "Grüße".into(),
                client_message_id: Some("m1".into()),
            })),
        };
        let binary = Message::binary(request.encode_to_vec());
        for (codec, frame) in [(Codec::Json, json), (Codec::Proto, binary)] {
            let decoded = codec.decode(&frame, 64);
            assert!(
                matches!(&decoded, Ok(ClientRequest::Send { text, client_message_id: Some(id) }) if text == "Grüße" && id == "m1"),
                "{codec:?}: {decoded:?}"
            );
        }
    }

    #[test]
    fn plain_mode_removes_one_line_break_at_the_end() {
        for (frame, expected) in [
            ("Hi\n", "Hi"),
            ("Hi\r\n", "Hi"),
            ("Hi\r", "Hi"),
            ("Hi\n\n", "Hi\n"),
            ("one\ntwo", "one\ntwo"),
            ("\n", ""),
        ] {
            let read = Codec::Plain.decode(&Message::text(frame), 64);
            assert!(
                matches!(&read, Ok(ClientRequest::Send { text, .. }) if text == expected),
                "{frame:?}: {read:?}"
            );
        }
    }

    #[test]
    fn what_a_codec_writes_it_can_read() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let delta = proto::Delta { reply_id: "r".into(), index: 0, text: "\u{1}\"é".into() };
        let response =
            proto::ChatResponse { event: Some(proto::chat_response::Event::Delta(delta)) };
        let text = json(&response)?;
        assert!(text.contains(r#""index":0"#), "defaults are written out: {text}");
        assert_eq!(serde_json::from_str::<proto::ChatResponse>(&text)?, response);
        let Message::Binary(bytes) = Codec::Proto.encode(&response)? else {
            return Err("not binary".into());
        };
        assert_eq!(proto::ChatResponse::decode(bytes)?, response);
        Ok(())
    }

    #[test]
    fn invalid_frames_are_distinguished_by_kind() {
        let kind =
            |codec: Codec, frame: Message| codec.decode(&frame, 64).err().map(|error| error.kind());
        for text in [
            "",
            "{",
            "[]",
            "1",
            "{}",
            r#"{"send":{"text":1}}"#,
            r#"{"shout":{}}"#,
            r#"{"send":{},"stop":{}}"#,
        ] {
            assert_eq!(kind(Codec::Json, Message::text(text)), Some(ErrorKind::BadFrame), "{text}");
        }
        for bytes in [&b"\xff"[..], b"\x0a\x05", b""] {
            let frame = Message::binary(bytes.to_vec());
            assert_eq!(kind(Codec::Proto, frame), Some(ErrorKind::BadFrame), "{bytes:?}");
        }
        for (codec, frame) in [
            (Codec::Plain, Message::binary(vec![1])),
            (Codec::Json, Message::binary(vec![1])),
            (Codec::Proto, Message::text("{}")),
        ] {
            assert_eq!(kind(codec, frame), Some(ErrorKind::WrongFrameType), "{codec:?}");
        }
    }
}
