//! Appends a message to the log of a session.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{
    failure::WriteResult,
    reader,
    rows::{self, Id, StoredTime},
};
use crate::session::{
    AppendLimits, Appended, Error, ErrorKind, Message, MessageId, NewEntry, Role, SessionId,
    Status, Timestamp,
};

/// Appends an entry under the next number. An entry that was appended before is not repeated: its
/// first result is returned.
pub(super) fn append(
    tx: &Transaction<'_>,
    id: SessionId,
    entry: &NewEntry,
    limits: &AppendLimits,
) -> WriteResult<Appended> {
    let session = reader::session(tx, id, limits.now)?;
    if let Some((message, reply_seq)) = appended_before(tx, id, entry)? {
        return Ok(Appended {
            message,
            duplicate: true,
            reply_seq,
            expires_at: session.expires_at,
        });
    }
    let (head, usage) = reader::head(tx, id)?;
    let message = Arc::new(entry.clone().into_message(head + 1, Timestamp::of_wall_clock()));
    let expires_at = match &message.role {
        Role::User { .. } => {
            check(tx, id, head, limits)?;
            tx.prepare_cached("INSERT INTO turns (session, seq, message) VALUES (?1, ?2, ?3)")?
                .execute(params![Id(id), message.seq, Id(message.id)])?;
            session.expires_at.max(limits.expires_at).min(session.ends_at)
        }
        Role::Assistant { in_reply_to, .. } => {
            let sql = "DELETE FROM turns WHERE session = ?1 AND message = ?2";
            if tx.prepare_cached(sql)?.execute(params![Id(id), Id(*in_reply_to)])? == 0 {
                return Err(Error::internal("a reply to no message of this log").into());
            }
            session.expires_at
        }
    };
    insert(tx, id, &message)?;
    let usage = usage.plus(message.cost());
    tx.prepare_cached(
        "UPDATE sessions SET head_seq = ?2, expires_at = ?3, input_tokens = ?4,
         output_tokens = ?5, usage_estimated = ?6 WHERE id = ?1",
    )?
    .execute(params![
        Id(id),
        message.seq,
        StoredTime(expires_at),
        usage.input_tokens,
        usage.output_tokens,
        usage.estimated,
    ])?;
    Ok(Appended { message, duplicate: false, reply_seq: None, expires_at })
}

/// Refuses a user message by the limits of its session.
fn check(tx: &Transaction<'_>, id: SessionId, head: u32, limits: &AppendLimits) -> WriteResult<()> {
    let waiting: u32 = tx
        .prepare_cached("SELECT count(*) FROM turns WHERE session = ?1")?
        .query_row([Id(id)], |row| row.get(0))?;
    if waiting >= limits.max_queued_turns {
        return Err(ErrorKind::QueueFull.into());
    }
    if head.saturating_add(waiting).saturating_add(2) > limits.max_session_messages {
        return Err(ErrorKind::SessionFull.into());
    }
    Ok(())
}

/// Returns the message that this entry has become before, and the number of the reply to it.
fn appended_before(
    tx: &Transaction<'_>,
    id: SessionId,
    entry: &NewEntry,
) -> WriteResult<Option<(Arc<Message>, Option<u32>)>> {
    match entry {
        NewEntry::User { client_message_id: None, .. } => Ok(None),
        NewEntry::User { client_message_id: Some(key), text, .. } => {
            let sql = format!(
                "SELECT {} FROM messages WHERE session = ?1 AND client_message_id = ?2",
                rows::MESSAGE
            );
            let found = tx
                .prepare_cached(&sql)?
                .query_row(params![Id(id), key.as_ref()], rows::message)
                .optional()?;
            let Some(message) = found else { return Ok(None) };
            if message.text != *text {
                return Err(ErrorKind::MessageIdReused.into());
            }
            let reply = reply_to(tx, id, message.id)?.map(|reply| reply.seq);
            Ok(Some((message, reply)))
        }
        NewEntry::Reply { in_reply_to, .. } => {
            let waits = "SELECT 1 FROM turns WHERE session = ?1 AND message = ?2";
            if tx.prepare_cached(waits)?.exists(params![Id(id), Id(*in_reply_to)])? {
                return Ok(None);
            }
            Ok(reply_to(tx, id, *in_reply_to)?.map(|reply| (reply, None)))
        }
    }
}

/// Returns the reply to a user message.
fn reply_to(
    tx: &Transaction<'_>,
    id: SessionId,
    user: MessageId,
) -> rusqlite::Result<Option<Arc<Message>>> {
    let sql =
        format!("SELECT {} FROM messages WHERE session = ?1 AND in_reply_to = ?2", rows::MESSAGE);
    tx.prepare_cached(&sql)?.query_row(params![Id(id), Id(user)], rows::message).optional()
}

/// Inserts a message under its own number.
pub(super) fn insert(
    tx: &Transaction<'_>,
    id: SessionId,
    message: &Message,
) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO messages (session, {}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        rows::MESSAGE
    );
    let (status, finish_reason, usage) = match &message.role {
        Role::User { .. } => (None, None, None),
        Role::Assistant { status, finish_reason, usage, .. } => {
            (Some(status), finish_reason.as_deref(), *usage)
        }
    };
    let failure = status.and_then(Status::failure);
    tx.prepare_cached(&sql)?.execute(params![
        Id(id),
        message.seq,
        Id(message.id),
        message.text.as_ref(),
        StoredTime(message.created_at),
        message.client_message_id().map(AsRef::<str>::as_ref),
        message.in_reply_to().map(Id),
        status.map(Status::as_str),
        finish_reason,
        failure.map(|failure| failure.code.as_ref()),
        failure.map(|failure| failure.message.as_ref()),
        usage.map(|usage| usage.input_tokens),
        usage.map(|usage| usage.output_tokens),
        usage.map(|usage| usage.estimated),
    ])?;
    Ok(())
}
