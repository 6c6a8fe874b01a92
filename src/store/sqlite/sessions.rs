//! Writes of sessions and tokens: create, renew, revoke, delete, and the checkpoint of a reply.

use rusqlite::{Transaction, params};

use super::{
    failure::WriteResult,
    reader,
    rows::{self, Id, StoredTime},
};
use crate::session::{
    Checkpoint, Error, ErrorKind, NewSession, Session, SessionId, Timestamp, TokenId, TokenRecord,
};

/// Inserts a session, unless the store holds `max_sessions` already.
pub(super) fn create(tx: &Transaction<'_>, new: &NewSession, max_sessions: u64) -> WriteResult<()> {
    let stored: i64 =
        tx.prepare_cached("SELECT sessions FROM totals")?.query_row([], |row| row.get(0))?;
    if stored.unsigned_abs() >= max_sessions {
        let full = "The gateway has no room for more sessions";
        return Err(Error::new(ErrorKind::Overloaded, full).into());
    }
    let session = &new.session;
    tx.prepare_cached(
        "INSERT INTO sessions (id, name, epoch, created_at, expires_at, ends_at, delete_at, title,
             metadata, subject)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        Id(session.id),
        session.name.as_str(),
        session.epoch.as_str(),
        StoredTime(session.created_at),
        StoredTime(session.expires_at),
        StoredTime(session.ends_at),
        session.delete_at.map(StoredTime),
        session.title.as_deref(),
        session.metadata.to_json(),
        session.subject.as_deref(),
    ])?;
    insert_token(tx, session.id, &new.token)?;
    Ok(())
}

/// Inserts a token.
pub(super) fn insert_token(
    tx: &Transaction<'_>,
    id: SessionId,
    token: &TokenRecord,
) -> rusqlite::Result<()> {
    let (expires_at, ends_at) = token.deadlines.unzip();
    tx.prepare_cached(
        "INSERT INTO tokens (hash, id, session, scope, label, expires_at, ends_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        token.hash.as_bytes(),
        Id(token.id),
        Id(id),
        token.scope.as_str(),
        token.label.as_deref(),
        expires_at.map(StoredTime),
        ends_at.map(StoredTime),
    ])?;
    Ok(())
}

/// Adds a token to a session, unless it has `max_tokens` already.
pub(super) fn issue(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    token: &TokenRecord,
    max_tokens: u32,
) -> WriteResult<()> {
    reader::session(tx, id, now)?;
    if count_tokens(tx, id)? >= max_tokens {
        return Err(Error::new(ErrorKind::Overloaded, "The session has too many tokens").into());
    }
    Ok(insert_token(tx, id, token)?)
}

/// Deletes a token of a session. Returns the number of tokens that are left.
pub(super) fn revoke_token(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    token: TokenId,
) -> WriteResult<u32> {
    reader::session(tx, id, now)?;
    let sql = "DELETE FROM tokens WHERE session = ?1 AND id = ?2";
    if tx.prepare_cached(sql)?.execute(params![Id(id), Id(token)])? == 0 {
        return Err(ErrorKind::SessionExpired.into());
    }
    Ok(count_tokens(tx, id)?)
}

fn count_tokens(tx: &Transaction<'_>, id: SessionId) -> rusqlite::Result<u32> {
    let sql = "SELECT count(*) FROM tokens WHERE session = ?1";
    tx.prepare_cached(sql)?.query_row([Id(id)], |row| row.get(0))
}

/// Moves the idle deadline of a session, never back and never beyond its end.
pub(super) fn renew(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    expires_at: Timestamp,
) -> WriteResult<Session> {
    let session = reader::session(tx, id, now)?;
    let expires_at = session.expires_at.max(expires_at).min(session.ends_at);
    if expires_at != session.expires_at {
        let sql = "UPDATE sessions SET expires_at = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![Id(id), StoredTime(expires_at)])?;
    }
    Ok(Session { expires_at, ..session })
}

/// Deletes a session that has not expired.
pub(super) fn revoke(tx: &Transaction<'_>, id: SessionId, now: Timestamp) -> WriteResult<()> {
    reader::session(tx, id, now)?;
    Ok(delete(tx, id)?)
}

/// Deletes a session with its tokens and its log.
pub(super) fn delete(tx: &Transaction<'_>, id: SessionId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM turns WHERE session = ?1",
        "DELETE FROM messages WHERE session = ?1",
        "DELETE FROM tokens WHERE session = ?1",
        "DELETE FROM sessions WHERE id = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([Id(id)])?;
    }
    Ok(())
}

/// Stores the content of a reply in progress.
pub(super) fn checkpoint(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    at: &Checkpoint,
) -> WriteResult<()> {
    reader::session(tx, id, now)?;
    let (text, parts) = (at.content.text().as_ref(), rows::parts_column(&at.content)?);
    let sql =
        "UPDATE turns SET attempt = ?3, text = ?4, parts = ?5 WHERE session = ?1 AND seq = ?2";
    tx.prepare_cached(sql)?.execute(params![Id(id), at.seq, at.attempt, text, parts])?;
    Ok(())
}
