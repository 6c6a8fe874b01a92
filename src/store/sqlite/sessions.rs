//! Writes of sessions and tokens: create, renew, revoke, delete, and the checkpoint of a reply.

use std::sync::Arc;

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
        let next: Option<StoredTime> = tx
            .prepare_cached("SELECT min(expires_at) FROM sessions")?
            .query_row([], |row| row.get(0))?;
        return Err(NewSession::no_room(next.map(|next| next.0)).into());
    }
    let session = &new.session;
    tx.prepare_cached(
        "INSERT INTO sessions (id, name, epoch, created_at, expires_at, ends_at, delete_at, title,
             metadata, subject, active_at, origin)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?4, ?11)",
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
        new.origin.map(|origin| origin.0),
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
    if count_tokens(tx, id, now)? >= max_tokens {
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
    Ok(count_tokens(tx, id, now)?)
}

fn count_tokens(tx: &Transaction<'_>, id: SessionId, now: Timestamp) -> rusqlite::Result<u32> {
    let sql = "SELECT count(*) FROM tokens
         WHERE session = ?1 AND coalesce(expires_at > ?2, TRUE)";
    tx.prepare_cached(sql)?.query_row(params![Id(id), StoredTime(now)], |row| row.get(0))
}

/// Moves the idle deadline of a token, its own one or that of its session, never back and never
/// beyond its end. Returns the session with the deadlines of the token.
pub(super) fn renew(
    tx: &Transaction<'_>,
    id: SessionId,
    token: TokenId,
    now: Timestamp,
    expires_at: Timestamp,
) -> WriteResult<Session> {
    let mut session = reader::session(tx, id, now)?;
    let token = reader::token(tx, id, token, now)?.ok_or(ErrorKind::SessionExpired)?;
    if token.deadlines.is_some() {
        let token = renew_token(tx, id, token, expires_at)?;
        return Ok(session.seen_with(&token));
    }
    let before = session.expires_at;
    session.renew(expires_at);
    if session.expires_at != before {
        let sql = "UPDATE sessions SET expires_at = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![Id(id), StoredTime(session.expires_at)])?;
    }
    Ok(session)
}

/// Moves the own idle deadline of a token.
pub(super) fn renew_token(
    tx: &Transaction<'_>,
    id: SessionId,
    mut token: TokenRecord,
    expires_at: Timestamp,
) -> rusqlite::Result<TokenRecord> {
    let before = token.deadlines;
    token.renew(expires_at);
    if let Some((expires_at, _)) = token.deadlines.filter(|_| token.deadlines != before) {
        let sql = "UPDATE tokens SET expires_at = ?3 WHERE session = ?1 AND id = ?2";
        let params = params![Id(id), Id(token.id), StoredTime(expires_at)];
        tx.prepare_cached(sql)?.execute(params)?;
    }
    Ok(token)
}

/// Sets or removes the title of a session.
pub(super) fn set_title(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    title: Option<Arc<str>>,
) -> WriteResult<Session> {
    let session = reader::session(tx, id, now)?;
    let sql = "UPDATE sessions SET title = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![Id(id), title.as_deref()])?;
    Ok(Session { title, ..session })
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
