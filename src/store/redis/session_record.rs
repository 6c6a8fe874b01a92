//! Sessions as the fields of hashes.

use std::sync::Arc;

use redis::Value;

use super::{
    codec::{digits, text},
    value::{bytes, items, unexpected},
};
use crate::session::{
    Epoch, ErrorKind, Lease, Metadata, Name, NewSession, NodeId, Origin, Position, Result, Session,
    SessionId, Timestamp, Usage,
};

/// A session with the fields that the store adds.
#[derive(Debug)]
pub(super) struct SessionRecord {
    pub(super) session: Session,
    pub(super) origin: Option<Origin>,
    /// Bytes of its messages.
    pub(super) size: u64,
    /// The hashes of its tokens, 32 bytes each.
    pub(super) tokens: Vec<u8>,
    pub(super) usage: Usage,
    /// The node that answers the waiting turns.
    pub(super) owner: Option<NodeId>,
    /// The lease of the last grant.
    pub(super) newest_lease: Option<Lease>,
    /// The last position of the log under its earlier epoch.
    pub(super) earlier: Option<Position>,
}

/// Returns the fields of a new session: those of the main hash, and those of the second hash.
pub(super) fn fields(new: &NewSession) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    fields_of(&new.session, new.origin)
}

/// As [`fields`].
pub(super) fn fields_of(session: &Session, origin: Option<Origin>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: &[u8]| {
        fields.push(name.as_bytes().to_vec());
        fields.push(value.to_vec());
    };
    add("n", session.name.as_str().as_bytes());
    add("e", session.epoch.as_str().as_bytes());
    add("c", &millis(session.created_at));
    add("x", &millis(session.expires_at));
    add("m", &millis(session.ends_at));
    if let Some(delete_at) = session.delete_at {
        add("d", &millis(delete_at));
    }
    if let Some(Origin(origin)) = origin {
        add("og", &origin);
    }
    let mut extra = Vec::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            extra.push(name.as_bytes().to_vec());
            extra.push(value.as_bytes().to_vec());
        }
    };
    add("ti", session.title.as_deref());
    add("md", session.metadata.to_json().as_deref());
    add("su", session.subject.as_deref());
    (fields, extra)
}

/// Returns a time as the scripts read it.
pub(super) fn millis(time: Timestamp) -> Vec<u8> {
    time.as_millis().to_string().into_bytes()
}

/// Reads the fields of a session.
///
/// # Errors
/// `SessionExpired` if there are none, `Internal` if they are malformed.
pub(super) fn read(id: SessionId, fields: Value, extra: Value) -> Result<SessionRecord> {
    let (mut name, mut epoch, mut created_at) = (None, None, None);
    let (mut expires_at, mut ends_at, mut delete_at) = (None, None, None);
    let (mut origin, mut size, mut owner, mut newest_lease) = (None, 0, None, None);
    let mut hashes = Vec::new();
    let (mut earlier_epoch, mut earlier_seq) = (None, None);
    let mut usage = Usage::default();
    for (field, value) in pairs(fields)? {
        let number = || digits(&value);
        let tokens = || digits(&value).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        match &field[..] {
            b"n" => name = Some(Name::trusted(text(&value)?)),
            b"e" => epoch = Some(Epoch::parse(text(&value)?)?),
            b"c" => created_at = Some(Timestamp::from_millis(number()?)),
            b"x" => expires_at = Some(Timestamp::from_millis(number()?)),
            b"m" => ends_at = Some(Timestamp::from_millis(number()?)),
            b"d" => delete_at = Some(Timestamp::from_millis(number()?)),
            b"og" => origin = value[..].try_into().ok().map(Origin),
            b"si" => size = number()?,
            b"k" => hashes = value,
            b"o" => owner = value[..].try_into().ok().map(NodeId::from_bytes),
            b"f" => newest_lease = number()?.try_into().ok().map(Lease::new),
            b"pe" => earlier_epoch = Some(Epoch::parse(text(&value)?)?),
            b"ph" => earlier_seq = Some(tokens()?),
            b"ui" => usage.input_tokens = tokens()?,
            b"uo" => usage.output_tokens = tokens()?,
            b"ue" => usage.estimated = number()? > 0,
            b"uc" => usage.cached_input_tokens = Some(tokens()?),
            b"uw" => usage.cache_write_tokens = Some(tokens()?),
            b"ur" => usage.reasoning_tokens = Some(tokens()?),
            // Fields that only the scripts read, and those of later versions.
            _ => {}
        }
    }
    let (mut title, mut metadata, mut subject): (_, _, Option<Arc<str>>) =
        (None, Metadata::default(), None);
    for (field, value) in pairs(extra)? {
        match &field[..] {
            b"ti" => title = Some(text(&value)?.into()),
            b"md" => metadata = Metadata::from_json(text(&value)?)?,
            b"su" => subject = Some(text(&value)?.into()),
            _ => {}
        }
    }
    let session = || {
        let (name, epoch, created_at) = (name?, epoch?, created_at?);
        let (expires_at, ends_at) = (expires_at?, ends_at?);
        Some(Session {
            id,
            name,
            epoch,
            created_at,
            expires_at,
            ends_at,
            delete_at,
            title,
            metadata,
            subject,
        })
    };
    let session = session().ok_or(ErrorKind::SessionExpired)?;
    let earlier = earlier_epoch.zip(earlier_seq).map(|(epoch, seq)| Position::new(epoch, seq));
    Ok(SessionRecord { session, origin, size, tokens: hashes, usage, owner, newest_lease, earlier })
}

/// Returns fields and values.
fn pairs(value: Value) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    match value {
        Value::Map(pairs) => {
            pairs.into_iter().map(|(field, value)| Ok((bytes(field)?, bytes(value)?))).collect()
        }
        Value::Array(_) | Value::Nil => {
            let mut items = items(value)?.into_iter();
            let mut pairs = Vec::new();
            while let (Some(field), Some(value)) = (items.next(), items.next()) {
                pairs.push((bytes(field)?, bytes(value)?));
            }
            Ok(pairs)
        }
        other => Err(unexpected(&other)),
    }
}
