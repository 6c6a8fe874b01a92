//! Notes and messages between nodes, as bytes.
//!
//! The scripts write notes: a letter, the session, and the fields. A node writes messages: a letter,
//! its id, and any number of sessions and messages.

use std::sync::Arc;

use super::codec::{self, Reader, Writer};
use crate::session::{
    Delta, DeltaPiece, EncodedForms, Error, Lease, MessageId, NodeId, Note, PeerMessage, Received,
    RemoteReply, ReplyPart, ReplyPosition, ReplyStarted, Result, SessionId, TokenId, ToolCallPiece,
    parts_from_json, parts_to_json,
};

/// The letter of messages.
const MESSAGES: u8 = b'M';

/// The letter of a probe, which a node sends to itself.
pub(super) const PROBE: u8 = b'P';

fn malformed() -> Error {
    Error::internal("a message of another node is malformed")
}

/// Reads what a node has received. `me` is the node.
pub(super) fn received(me: NodeId, payload: &[u8]) -> Result<Vec<Received>> {
    let mut reader = Reader::new(payload);
    match reader.byte()? {
        PROBE => Ok(Vec::new()),
        MESSAGES => messages(&mut reader),
        letter => {
            let session = SessionId::from_bytes(reader.fixed()?);
            Ok(vec![Received::Note(session, note(me, letter, &mut reader)?)])
        }
    }
}

fn note(me: NodeId, letter: u8, reader: &mut Reader<'_>) -> Result<Note> {
    Ok(match letter {
        b'A' => {
            let seq = u32::from_be_bytes(reader.fixed()?);
            let owner: [u8; 8] = reader.fixed()?;
            let owner = (owner != [0; 8]).then(|| NodeId::from_bytes(owner));
            let entry = reader.rest();
            let message = (!entry.is_empty()).then(|| codec::message(seq, entry)).transpose()?;
            Note::Appended { seq, message, owner: owner.filter(|owner| *owner != me) }
        }
        b'R' => Note::TokenRevoked(TokenId::from_bytes(reader.fixed()?)),
        b'E' => Note::Ended,
        b'S' => Note::Stop { seq: u32::from_be_bytes(reader.fixed()?) },
        b'O' => Note::OwnerChanged(NodeId::from_bytes(reader.fixed()?)),
        b'H' => Note::HandedOver,
        _ => return Err(malformed()),
    })
}

/// Writes messages to another node.
pub(super) fn write(from: NodeId, messages: Vec<(SessionId, PeerMessage)>) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    writer.byte(MESSAGES);
    writer.fixed(&from.to_bytes());
    for (session, message) in messages {
        writer.fixed(session.as_bytes());
        write_message(&mut writer, &message)?;
    }
    Ok(writer.into_bytes())
}

fn messages(reader: &mut Reader<'_>) -> Result<Vec<Received>> {
    let from = NodeId::from_bytes(reader.fixed()?);
    let mut messages = Vec::new();
    while !reader.is_empty() {
        let session = SessionId::from_bytes(reader.fixed()?);
        messages.push(Received::Message(from, session, read_message(reader)?));
    }
    Ok(messages)
}

fn write_message(writer: &mut Writer, message: &PeerMessage) -> Result<()> {
    match message {
        PeerMessage::Watch { wants_content, from } => {
            writer.byte(0);
            writer.byte(u8::from(*wants_content));
            writer.option(*from, |writer, at| {
                writer.fixed(at.reply.as_bytes());
                writer.number(at.offset.into());
            });
        }
        PeerMessage::Watched => writer.byte(1),
        PeerMessage::Unwatch => writer.byte(2),
        PeerMessage::ReplyStarted(RemoteReply { started, turn_seq, lease, head_seq }) => {
            writer.byte(3);
            writer.fixed(started.reply.as_bytes());
            writer.fixed(started.in_reply_to.as_bytes());
            writer.number(started.attempt.into());
            writer.number(started.offset.into());
            writer.byte(u8::from(started.context_trimmed));
            writer.number((*turn_seq).into());
            writer.number(lease.fence().get());
            writer.number((*head_seq).into());
        }
        PeerMessage::Delta(delta) => {
            writer.byte(4);
            writer.fixed(delta.reply.as_bytes());
            writer.number(delta.index.into());
            writer.number(delta.offset.into());
            writer.number(delta.end.into());
            writer.byte(u8::from(delta.done));
            write_piece(writer, &delta.piece);
        }
        PeerMessage::Part(part) => {
            writer.byte(5);
            writer.fixed(part.reply.as_bytes());
            writer.number(part.index.into());
            writer.number(part.offset.into());
            writer.number(part.end.into());
            writer.text(&parts_to_json(std::slice::from_ref(&*part.part))?);
        }
    }
    Ok(())
}

fn write_piece(writer: &mut Writer, piece: &DeltaPiece) {
    match piece {
        DeltaPiece::Text(text) => {
            writer.byte(0);
            writer.text(text);
        }
        DeltaPiece::Reasoning(text) => {
            writer.byte(1);
            writer.text(text);
        }
        DeltaPiece::ToolCall(call) => {
            writer.byte(2);
            writer.text(&call.id);
            writer.text(&call.name);
            writer.text(&call.arguments);
            writer.byte(u8::from(call.plain_text));
            writer.byte(u8::from(call.responder_executed));
        }
    }
}

fn read_message(reader: &mut Reader<'_>) -> Result<PeerMessage> {
    Ok(match reader.byte()? {
        0 => PeerMessage::Watch {
            wants_content: reader.byte()? == 1,
            from: reader.option(|reader| {
                let reply = MessageId::from_bytes(reader.fixed()?);
                Ok(ReplyPosition { reply, offset: reader.number32()? })
            })?,
        },
        1 => PeerMessage::Watched,
        2 => PeerMessage::Unwatch,
        3 => {
            let started = ReplyStarted {
                reply: MessageId::from_bytes(reader.fixed()?),
                in_reply_to: MessageId::from_bytes(reader.fixed()?),
                attempt: reader.number32()?,
                offset: reader.number32()?,
                context_trimmed: reader.byte()? == 1,
            };
            let turn_seq = reader.number32()?;
            let lease = Lease::new(reader.number()?.try_into().map_err(|_| malformed())?);
            let head_seq = reader.number32()?;
            PeerMessage::ReplyStarted(RemoteReply { started, turn_seq, lease, head_seq })
        }
        4 => PeerMessage::Delta(Delta {
            reply: MessageId::from_bytes(reader.fixed()?),
            index: reader.number32()?,
            offset: reader.number32()?,
            end: reader.number32()?,
            done: reader.byte()? == 1,
            piece: read_piece(reader)?,
            encoded: EncodedForms::default(),
        }),
        5 => {
            let reply = MessageId::from_bytes(reader.fixed()?);
            let (index, offset, end) = (reader.number32()?, reader.number32()?, reader.number32()?);
            let part = parts_from_json(reader.text()?)?.pop().ok_or_else(malformed)?;
            let (part, encoded) = (Arc::new(part), EncodedForms::default());
            PeerMessage::Part(ReplyPart { reply, index, offset, end, part, encoded })
        }
        _ => return Err(malformed()),
    })
}

fn read_piece(reader: &mut Reader<'_>) -> Result<DeltaPiece> {
    Ok(match reader.byte()? {
        0 => DeltaPiece::Text(Arc::new(reader.text()?.to_owned())),
        1 => DeltaPiece::Reasoning(Arc::new(reader.text()?.to_owned())),
        2 => DeltaPiece::ToolCall(Arc::new(ToolCallPiece {
            id: reader.text()?.into(),
            name: reader.text()?.into(),
            arguments: reader.text()?.to_owned(),
            plain_text: reader.byte()? == 1,
            responder_executed: reader.byte()? == 1,
        })),
        _ => return Err(malformed()),
    })
}
