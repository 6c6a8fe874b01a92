//! The frames of WebSocket and server-sent events.

mod convert;
mod direct;
mod tolerant_json;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use convert::response;
pub(super) use convert::{
    accepted, client_request, listed_session, new_message, new_metadata, owned_session, position,
    regeneration, session, snapshot, token_info, wire_position,
};
use direct::{JsonWriter, ProtoWriter};
pub(super) use tolerant_json::from_str as json_from_str;

use super::stream::{ClientRequest, Outbound};
use crate::{
    proto,
    session::{EncodedForms, Error, ErrorKind, NewMessage, Result, Settings},
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
        /// Room for the fields of a frame beside the content: options, metadata, ids.
        const ENVELOPE: usize = 64 << 10;
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
                let message = Ok(NewMessage::new(text, None));
                Ok(ClientRequest::Send { message, client_message_id: None })
            }
            Self::Json => {
                let Message::Text(text) = frame else { return Err(wrong_type()) };
                let request = json_from_str(text).map_err(|error| bad_frame(&error))?;
                client_request(request)
            }
            Self::Proto => {
                let Message::Binary(bytes) = frame else { return Err(wrong_type()) };
                let request = proto::ChatRequest::decode(bytes.clone());
                client_request(request.map_err(|error| bad_frame(&error))?)
            }
        }
    }

    /// Writes the frame of an item. `None` for the end of a stream without an error.
    ///
    /// # Errors
    /// `Internal`, if the value has no form in the codec.
    pub(super) fn encode(
        self,
        outbound: &Outbound,
        limits: &Settings,
        heartbeat: Duration,
    ) -> Result<Option<Message>> {
        match self {
            Self::Plain => Err(Error::internal("plain frames hold texts only")),
            // A shared frame is bytes, which have to be checked again to be a text.
            Self::Json if forms(outbound).is_some_and(EncodedForms::is_shared) => {
                let bytes = Form::Json.encoded(outbound, limits, heartbeat)?;
                bytes
                    .map(|it| Utf8Bytes::try_from(it).map(Message::Text))
                    .transpose()
                    .map_err(Error::internal)
            }
            Self::Json => Ok(json(outbound, limits, heartbeat)?.map(Message::text)),
            Self::Proto => {
                Ok(Form::Proto.encoded(outbound, limits, heartbeat)?.map(Message::Binary))
            }
        }
    }
}

/// The encoded form of an item. Its number is its index in
/// [`EncodedForms`](crate::session::EncodedForms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Canonical proto-JSON on one line: WebSocket and server-sent events.
    Json,
    /// Protobuf: WebSocket and gRPC.
    Proto,
}

impl Form {
    /// Returns the frame of an item. The subscribers of an event share it.
    ///
    /// # Errors
    /// `Internal`, if the value has no JSON form.
    pub(super) fn encoded(
        self,
        outbound: &Outbound,
        limits: &Settings,
        heartbeat: Duration,
    ) -> Result<Option<Bytes>> {
        let encode = || match self {
            Self::Json => Ok(json(outbound, limits, heartbeat)?.map(Into::into)),
            Self::Proto => Ok(protobuf(outbound, limits, heartbeat)),
        };
        match forms(outbound) {
            None => encode(),
            Some(forms) => {
                let bytes = forms.get_or_encode(self as usize, || {
                    encode()?.ok_or_else(|| Error::internal("an event without a frame"))
                });
                bytes.map(Some)
            }
        }
    }
}

fn json(outbound: &Outbound, limits: &Settings, heartbeat: Duration) -> Result<Option<String>> {
    if let Some(text) = direct::frame::<JsonWriter>(outbound) {
        return Ok(Some(text));
    }
    let frame = response(outbound, limits, heartbeat);
    frame.map(|frame| serde_json::to_string(&frame)).transpose().map_err(Error::internal)
}

fn protobuf(outbound: &Outbound, limits: &Settings, heartbeat: Duration) -> Option<Bytes> {
    direct::frame::<ProtoWriter>(outbound)
        .or_else(|| response(outbound, limits, heartbeat).map(|frame| frame.encode_to_vec().into()))
}

/// Returns the forms that an item may share with other streams.
const fn forms(outbound: &Outbound) -> Option<&EncodedForms> {
    match outbound {
        Outbound::Event(event) => event.encoded(),
        Outbound::Opened(_)
        | Outbound::Accepted(_)
        | Outbound::Refused { .. }
        | Outbound::Pong
        | Outbound::Heartbeat
        | Outbound::End(_) => None,
    }
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
                ..proto::Send::default()
            })),
        };
        let binary = Message::binary(request.encode_to_vec());
        for (codec, frame) in [(Codec::Json, json), (Codec::Proto, binary)] {
            let decoded = codec.decode(&frame, 64);
            assert!(
                matches!(&decoded, Ok(ClientRequest::Send { message: Ok(it), client_message_id: Some(id) }) if **it.content.text() == *"Grüße" && id == "m1"),
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
                matches!(&read, Ok(ClientRequest::Send { message: Ok(it), .. }) if **it.content.text() == *expected),
                "{frame:?}: {read:?}"
            );
        }
    }

    #[test]
    fn what_a_codec_writes_it_can_read() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let piece = Some(proto::delta::Piece::Text("\u{1}\"é".into()));
        let delta = proto::Delta { reply_id: "r".into(), piece, ..proto::Delta::default() };
        let response =
            proto::ChatResponse { event: Some(proto::chat_response::Event::Delta(delta)) };
        let text = serde_json::to_string(&response)?;
        assert!(text.contains(r#""index":0"#), "defaults are written out: {text}");
        assert_eq!(serde_json::from_str::<proto::ChatResponse>(&text)?, response);
        assert_eq!(proto::ChatResponse::decode(&response.encode_to_vec()[..])?, response);
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
