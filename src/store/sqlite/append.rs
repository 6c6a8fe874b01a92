//! Appends messages to the log of a session.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{
    failure::{WriteError, WriteResult},
    reader, room,
    rows::{self, Head, Id, StoredTime},
    sessions, spent,
};
use crate::session::{
    AppendLimits, Appended, Error, ErrorKind, Lease, LogView, Message, MessageId, NewReply,
    NewTurn, Placed, ReplyFields, Role, SessionId, Status, Timestamp, Usage, place,
};

/// Appends a user message under the next number. A message that was appended before is not
/// repeated: its first result is returned.
pub(super) fn append(
    tx: &Transaction<'_>,
    id: SessionId,
    turn: &NewTurn,
    limits: &AppendLimits,
    max_file_size: u64,
) -> WriteResult<Appended> {
    let mut session = reader::session(tx, id, limits.now)?;
    let head = reader::head(tx, id)?;
    let log = Log { tx, id, head: &head };
    let placed = match place(&log, turn.clone())? {
        Placed::New(placed) => placed,
        Placed::Before { message, reply_seq } => {
            let expires_at = session.expires_at;
            return Ok(appended(message, true, reply_seq, expires_at));
        }
    };
    limits.check_room()?;
    room::check(tx, max_file_size, placed.size())?;
    check(tx, id, head.seq, limits)?;
    spent::check(tx, &session, &head, limits.budgets, limits.now)?;
    let message = Arc::new(placed.into_message(head.seq + 1, Timestamp::of_wall_clock()));
    tx.prepare_cached("INSERT INTO turns (session, seq, message) VALUES (?1, ?2, ?3)")?
        .execute(params![Id(id), message.seq, Id(message.id)])?;
    insert(tx, id, &message)?;
    limits.renew(&mut session);
    let sql = "UPDATE sessions SET head_seq = ?2, newest_turn = ?2, expires_at = ?3,
         delete_at = ?4, active_at = ?5, size = size + ?6 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![
        Id(id),
        message.seq,
        StoredTime(session.expires_at),
        session.delete_at.map(StoredTime),
        StoredTime(message.created_at),
        stored_size(&message),
    ])?;
    let mut appended = appended(message, false, None, session.expires_at);
    if session.subject.is_some()
        && let Some(token) = reader::token(tx, id, limits.token, limits.now)?
    {
        let token = sessions::renew_token(tx, id, token, limits.expires_at)?;
        appended.token_expires_at = token.deadlines.map(|(expires_at, _)| expires_at);
    }
    Ok(appended)
}

/// Returns the result of an append. The only process of a store answers every turn.
fn appended(
    message: Arc<Message>,
    duplicate: bool,
    reply_seq: Option<u32>,
    expires_at: Timestamp,
) -> Appended {
    let (lease, token_expires_at) = (Some(Lease::UNSHARED), None);
    Appended { message, duplicate, reply_seq, expires_at, token_expires_at, lease }
}

/// Appends the reply to a user message under the next number, unless it has one.
pub(super) fn answer(
    tx: &Transaction<'_>,
    id: SessionId,
    reply: &NewReply,
    now: Timestamp,
) -> WriteResult<Appended> {
    let session = reader::session(tx, id, now)?;
    let expires_at = session.expires_at;
    let turn = "DELETE FROM turns WHERE session = ?1 AND message = ?2";
    let in_reply_to = reply.fields.in_reply_to;
    if tx.prepare_cached(turn)?.execute(params![Id(id), Id(in_reply_to)])? == 0 {
        let first = reply_to(tx, id, in_reply_to, reply.fields.turn_seq)?;
        let message = first.ok_or_else(|| Error::internal("a reply to no message of this log"))?;
        return Ok(appended(message, true, None, expires_at));
    }
    let head = reader::head(tx, id)?;
    let created_at = Timestamp::of_wall_clock();
    let message = Arc::new(reply.clone().into_message(head.seq + 1, created_at));
    insert(tx, id, &message)?;
    let usage = head.usage.plus(message.cost());
    update_head(tx, id, &message, usage)?;
    spent::count(tx, &session, message.cost().spent(), now)?;
    Ok(appended(message, false, None, expires_at))
}

fn update_head(
    tx: &Transaction<'_>,
    id: SessionId,
    last: &Message,
    usage: Usage,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE sessions SET head_seq = ?2, input_tokens = ?3, output_tokens = ?4,
         usage_estimated = ?5, cached_input_tokens = ?6, cache_write_tokens = ?7,
         reasoning_tokens = ?8, active_at = ?9, size = size + ?10 WHERE id = ?1",
    )?
    .execute(params![
        Id(id),
        last.seq,
        usage.input_tokens,
        usage.output_tokens,
        usage.estimated,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        StoredTime(last.created_at),
        stored_size(last),
    ])?;
    Ok(())
}

/// Returns the bytes that a message counts.
pub(super) fn stored_size(message: &Message) -> i64 {
    i64::try_from(message.size()).unwrap_or(i64::MAX)
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

/// The log of a session, within the transaction of an append.
struct Log<'a> {
    tx: &'a Transaction<'a>,
    id: SessionId,
    head: &'a Head,
}

impl LogView for Log<'_> {
    type Failure = WriteError;

    fn message(&self, seq: u32) -> WriteResult<Option<Arc<Message>>> {
        if seq == 0 || seq > self.head.seq {
            return Ok(None);
        }
        let sql = format!("SELECT {} FROM messages WHERE session = ?1 AND seq = ?2", rows::MESSAGE);
        let mut statement = self.tx.prepare_cached(&sql)?;
        Ok(statement.query_row(params![Id(self.id), seq], rows::message).optional()?)
    }

    fn by_client_message_id(&self, key: &str) -> WriteResult<Option<Arc<Message>>> {
        let sql = format!(
            "SELECT {} FROM messages WHERE session = ?1 AND client_message_id = ?2",
            rows::MESSAGE
        );
        let mut statement = self.tx.prepare_cached(&sql)?;
        Ok(statement.query_row(params![Id(self.id), key], rows::message).optional()?)
    }

    fn reply_to(&self, question: &Message) -> WriteResult<Option<Arc<Message>>> {
        Ok(reply_to(self.tx, self.id, question.id, question.seq)?)
    }

    fn newest_turn(&self) -> WriteResult<u32> {
        Ok(self.head.newest_turn)
    }
}

/// Returns the reply to a user message. It stands after the message's number.
fn reply_to(
    tx: &Transaction<'_>,
    id: SessionId,
    user: MessageId,
    after: u32,
) -> rusqlite::Result<Option<Arc<Message>>> {
    let sql = format!(
        "SELECT {} FROM messages WHERE session = ?1 AND seq > ?3 AND in_reply_to = ?2 LIMIT 1",
        rows::MESSAGE
    );
    tx.prepare_cached(&sql)?.query_row(params![Id(id), Id(user), after], rows::message).optional()
}

/// Inserts a message under its own number.
pub(super) fn insert(
    tx: &Transaction<'_>,
    id: SessionId,
    message: &Message,
) -> rusqlite::Result<()> {
    match &message.role {
        Role::User(user) => {
            tx.prepare_cached(
                "INSERT INTO messages (session, seq, id, text, parts, created_at, metadata,
                     parent_seq, client_message_id, regenerates_seq, options)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                Id(id),
                message.seq,
                Id(message.id),
                message.text().as_ref(),
                rows::parts_column(&message.content)?,
                StoredTime(message.created_at),
                message.metadata.to_json(),
                user.parent_seq,
                user.client_message_id.as_deref(),
                user.regenerates_seq,
                rows::options_column(user.options.as_deref())?,
            ])?;
            Ok(())
        }
        Role::Assistant(reply) => insert_reply(tx, id, message, reply),
    }
}

fn insert_reply(
    tx: &Transaction<'_>,
    id: SessionId,
    message: &Message,
    reply: &ReplyFields,
) -> rusqlite::Result<()> {
    let failure = reply.status.failure();
    let usage = reply.usage;
    tx.prepare_cached(
        "INSERT INTO messages (session, seq, id, text, parts, created_at, metadata, turn_seq,
             in_reply_to, status, finish_reason, failure_code, failure_message, input_tokens,
             output_tokens, usage_estimated, cached_input_tokens, cache_write_tokens,
             reasoning_tokens, model, first_content_ms, duration_ms, provider_data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22, ?23)",
    )?
    .execute(params![
        Id(id),
        message.seq,
        Id(message.id),
        message.text().as_ref(),
        rows::parts_column(&message.content)?,
        StoredTime(message.created_at),
        message.metadata.to_json(),
        reply.turn_seq,
        Id(reply.in_reply_to),
        Status::as_str(&reply.status),
        reply.finish_reason.as_deref(),
        failure.map(|failure| failure.code.as_ref()),
        failure.map(|failure| failure.message.as_ref()),
        usage.map(|usage| usage.input_tokens),
        usage.map(|usage| usage.output_tokens),
        usage.map(|usage| usage.estimated),
        usage.and_then(|usage| usage.cached_input_tokens),
        usage.and_then(|usage| usage.cache_write_tokens),
        usage.and_then(|usage| usage.reasoning_tokens),
        reply.model.as_deref(),
        reply.first_content_ms,
        reply.duration_ms,
        reply.provider_data.as_deref(),
    ])?;
    Ok(())
}
