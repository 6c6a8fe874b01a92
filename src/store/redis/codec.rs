//! Values as bytes.
//!
//! A number is an LEB128 varint. A text or a blob is its length and its bytes. An optional value is a
//! byte 0, or a byte 1 and the value. The scripts read and write fixed headers only; everything behind them is opaque
//! to them.

use std::sync::Arc;

use crate::session::{
    Content, Error, Failure, Message, MessageId, Metadata, ReplyFields, Result, Role, Scope,
    SessionId, Status, Timestamp, TokenHash, TokenId, TokenRecord, TurnOptions, Usage, UserFields,
    parts_from_json, parts_to_json,
};

/// Writes values.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.fixed(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn optional_text(&mut self, text: Option<&str>) {
        self.option(text, Self::text);
    }

    fn optional_number(&mut self, number: Option<u32>) {
        self.option(number, |writer, number| writer.number(number.into()));
    }
}

/// Reads values in the order in which they were written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

/// Returns the error for bytes that are not of the expected form.
fn malformed() -> Error {
    Error::internal("a value of the store is malformed")
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| malformed())
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(malformed())
    }

    pub(super) fn number32(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| malformed())
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number()?).map_err(|_| malformed())?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        text(self.bytes()?)
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(malformed()),
        }
    }

    pub(super) fn shared(&mut self) -> Result<Option<Arc<str>>> {
        self.option(|reader| Ok(reader.text()?.into()))
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str> {
    str::from_utf8(bytes).map_err(|_| malformed())
}

/// Reads the decimal digits in which the scripts write numbers.
pub(super) fn digits(bytes: &[u8]) -> Result<u64> {
    text(bytes)?.parse().map_err(|_| malformed())
}

pub(super) fn content(writer: &mut Writer, content: &Content) -> Result<()> {
    writer.text(content.text());
    let parts = content.parts();
    let json = (!parts.is_empty()).then(|| parts_to_json(parts)).transpose()?;
    writer.optional_text(json.as_deref());
    Ok(())
}

pub(super) fn read_content(reader: &mut Reader<'_>) -> Result<Content> {
    let text = reader.text()?;
    match reader.option(|reader| reader.text())? {
        None => Ok(Content::of_text(text)),
        Some(json) => Ok(Content::stored(text.into(), parts_from_json(json)?)),
    }
}

fn read_metadata(reader: &mut Reader<'_>) -> Result<Metadata> {
    let json = reader.option(|reader| reader.text())?;
    json.map_or_else(|| Ok(Metadata::default()), Metadata::from_json)
}

/// The kinds of log entries.
const USER: u8 = 1;
const REPLY: u8 = 2;

/// Returns the entry of a message behind its header, which the script writes: kind (1 byte), id (16),
/// milliseconds of the commit (6), number of the parent or of the turn (4), size (4).
pub(super) fn body(message: &Message) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    match &message.role {
        Role::User(user) => {
            writer.optional_text(user.client_message_id.as_deref());
            writer.optional_number(user.regenerates_seq);
            let options = user.options.as_deref().map(TurnOptions::to_json).transpose()?;
            writer.optional_text(options.as_deref());
        }
        Role::Assistant(reply) => reply_fields(&mut writer, reply),
    }
    writer.optional_text(message.metadata.to_json().as_deref());
    content(&mut writer, &message.content)?;
    Ok(writer.into_bytes())
}

fn reply_fields(writer: &mut Writer, reply: &ReplyFields) {
    writer.fixed(reply.in_reply_to.as_bytes());
    match &reply.status {
        Status::Complete => writer.byte(0),
        Status::Stopped => writer.byte(1),
        Status::Interrupted => writer.byte(2),
        Status::Failed(Failure { code, message }) => {
            writer.byte(3);
            writer.text(code);
            writer.text(message);
        }
    }
    writer.optional_text(reply.finish_reason.as_deref());
    writer.option(reply.usage, |writer, usage| {
        writer.number(usage.input_tokens.into());
        writer.number(usage.output_tokens.into());
        writer.byte(u8::from(usage.estimated));
        writer.optional_number(usage.cached_input_tokens);
        writer.optional_number(usage.cache_write_tokens);
        writer.optional_number(usage.reasoning_tokens);
    });
    writer.optional_text(reply.model.as_deref());
    writer.optional_number(reply.first_content_ms);
    writer.optional_number(reply.duration_ms);
    writer.optional_text(reply.provider_data.as_deref());
}

fn read_reply_fields(reader: &mut Reader<'_>, turn_seq: u32) -> Result<ReplyFields> {
    let in_reply_to = MessageId::from_bytes(reader.fixed()?);
    let status = match reader.byte()? {
        0 => Status::Complete,
        1 => Status::Stopped,
        2 => Status::Interrupted,
        3 => {
            Status::Failed(Failure { code: reader.text()?.into(), message: reader.text()?.into() })
        }
        _ => return Err(malformed()),
    };
    let finish_reason = reader.shared()?;
    let usage = reader.option(|reader| {
        Ok(Usage {
            input_tokens: reader.number32()?,
            output_tokens: reader.number32()?,
            estimated: reader.byte()? == 1,
            cached_input_tokens: reader.option(Reader::number32)?,
            cache_write_tokens: reader.option(Reader::number32)?,
            reasoning_tokens: reader.option(Reader::number32)?,
        })
    })?;
    Ok(ReplyFields {
        in_reply_to,
        turn_seq,
        status,
        finish_reason,
        usage,
        model: reader.shared()?,
        first_content_ms: reader.option(Reader::number32)?,
        duration_ms: reader.option(Reader::number32)?,
        provider_data: reader.shared()?,
    })
}

/// Returns the entry of a message in a log, as the scripts write it: kind (1 byte), id (16), time (6),
/// link (4), size (4), body.
pub(super) fn entry(message: &Message) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    let (kind, link) = match &message.role {
        Role::User(user) => (USER, user.parent_seq),
        Role::Assistant(_) => (REPLY, message.turn_seq()),
    };
    writer.byte(kind);
    writer.fixed(message.id.as_bytes());
    writer.fixed(&message.created_at.as_millis().to_be_bytes()[2..]);
    writer.fixed(&link.to_be_bytes());
    writer.fixed(&u32::try_from(message.size()).unwrap_or(u32::MAX).to_be_bytes());
    writer.fixed(&body(message)?);
    Ok(writer.into_bytes())
}

/// Returns the value of a checkpoint.
pub(super) fn checkpoint(attempt: u32, partial: &Content) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    writer.number(attempt.into());
    content(&mut writer, partial)?;
    Ok(writer.into_bytes())
}

/// Reads an entry of the log.
pub(super) fn message(seq: u32, entry: &[u8]) -> Result<Arc<Message>> {
    let mut reader = Reader::new(entry);
    let kind = reader.byte()?;
    let id = MessageId::from_bytes(reader.fixed()?);
    let [a, b, c, d, e, f] = reader.fixed()?;
    let created_at = Timestamp::from_millis(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
    let link = u32::from_be_bytes(reader.fixed()?);
    let _size: [u8; 4] = reader.fixed()?;
    let role = match kind {
        USER => {
            let client_message_id = reader.shared()?;
            let regenerates_seq = reader.option(Reader::number32)?;
            let options = reader.option(|reader| reader.text())?;
            let options = options.map(|json| TurnOptions::from_json(json).map(Arc::new));
            let options = options.transpose()?;
            Role::User(UserFields { client_message_id, parent_seq: link, regenerates_seq, options })
        }
        REPLY => Role::Assistant(read_reply_fields(&mut reader, link)?),
        _ => return Err(malformed()),
    };
    let metadata = read_metadata(&mut reader)?;
    let content = read_content(&mut reader)?;
    Ok(Arc::new(Message { seq, id, content, created_at, metadata, role }))
}

/// Returns the value of a token's key: session (16 bytes), id (16), idle deadline and end (8 each, 0
/// without own ones), scope (1), label. The scripts read the first four.
pub(super) fn token(session: SessionId, token: &TokenRecord) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(session.as_bytes());
    writer.fixed(token.id.as_bytes());
    let (expires_at, ends_at) = token.deadlines.unwrap_or_default();
    writer.fixed(&expires_at.as_millis().to_be_bytes());
    writer.fixed(&ends_at.as_millis().to_be_bytes());
    writer.byte(u8::from(token.scope == Scope::Write));
    writer.optional_text(token.label.as_deref());
    writer.into_bytes()
}

fn read_deadlines(reader: &mut Reader<'_>) -> Result<Option<(Timestamp, Timestamp)>> {
    let mut time = || Ok::<_, Error>(Timestamp::from_millis(u64::from_be_bytes(reader.fixed()?)));
    let (expires_at, ends_at) = (time()?, time()?);
    Ok((ends_at > Timestamp::default()).then_some((expires_at, ends_at)))
}

/// Reads the deadlines in the value of a token's key.
pub(super) fn token_deadlines(value: &[u8]) -> Result<Option<(Timestamp, Timestamp)>> {
    let mut reader = Reader::new(value);
    let _session_and_id = reader.take(32)?;
    read_deadlines(&mut reader)
}

/// Reads the value of a token's key.
pub(super) fn read_token(hash: TokenHash, value: &[u8]) -> Result<(SessionId, TokenRecord)> {
    let mut reader = Reader::new(value);
    let session = SessionId::from_bytes(reader.fixed()?);
    let id = TokenId::from_bytes(reader.fixed()?);
    let deadlines = read_deadlines(&mut reader)?;
    let scope = if reader.byte()? == 1 { Scope::Write } else { Scope::Read };
    let label = reader.shared()?;
    Ok((session, TokenRecord { id, hash, scope, label, deadlines }))
}
