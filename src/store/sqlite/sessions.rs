//! Writes of sessions: create, renew, revoke, delete, and the checkpoint of a reply.

use rusqlite::{Transaction, params};

use super::{
    failure::WriteResult,
    reader,
    rows::{Id, StoredTime},
};
use crate::session::{Checkpoint, Error, ErrorKind, NewSession, Session, SessionId, Timestamp};

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
        "INSERT INTO sessions (id, token, name, epoch, created_at, expires_at, ends_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        Id(session.id),
        new.token.as_bytes(),
        session.name.as_str(),
        session.epoch.as_str(),
        StoredTime(session.created_at),
        StoredTime(session.expires_at),
        StoredTime(session.ends_at),
    ])?;
    Ok(())
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

/// Deletes a session with its log.
pub(super) fn delete(tx: &Transaction<'_>, id: SessionId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM turns WHERE session = ?1",
        "DELETE FROM messages WHERE session = ?1",
        "DELETE FROM sessions WHERE id = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([Id(id)])?;
    }
    Ok(())
}

/// Keeps the text of a reply in progress.
pub(super) fn checkpoint(
    tx: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
    at: &Checkpoint,
) -> WriteResult<()> {
    reader::session(tx, id, now)?;
    tx.prepare_cached("UPDATE turns SET attempt = ?3, text = ?4 WHERE session = ?1 AND seq = ?2")?
        .execute(params![Id(id), at.seq, at.attempt, at.text.as_ref()])?;
    Ok(())
}
