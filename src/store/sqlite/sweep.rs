//! Deletes expired sessions in short steps.

use std::time::{Duration, Instant};

use rusqlite::{Transaction, params};

use super::{
    failure::WriteResult,
    rows::{Id, StoredTime},
    sessions::delete,
    spent,
};
use crate::session::{SessionId, Swept, Timestamp};

/// Longest time that a sweep delays other writes. Not a number of rows: the cost of a row depends on
/// its length, and on whether it must be read from the disk first.
const SWEEP_TIME: Duration = Duration::from_millis(2);

/// Most sessions of one sweep.
const SWEEP_SESSIONS: usize = 128;

/// Messages that are deleted between two readings of the clock.
const SWEEP_MESSAGES: u32 = 4;

/// Deletes up to `limit` sessions that have expired, and expired tokens, for a limited time.
pub(super) fn sweep(tx: &Transaction<'_>, now: Timestamp, limit: usize) -> WriteResult<Swept> {
    let until = Instant::now() + SWEEP_TIME;
    let limit = limit.min(SWEEP_SESSIONS);
    let due: Vec<(SessionId, u32)> = tx
        .prepare_cached(
            "SELECT id, head_seq FROM sessions WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
        )?
        .query_map(params![StoredTime(now), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok((row.get::<_, Id<SessionId>>(0)?.0, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut swept = Swept { more: due.len() == limit, ..Swept::default() };
    for (id, head) in due {
        let late = !swept.sessions.is_empty() && Instant::now() >= until;
        if late || !delete_until(tx, id, head, until)? {
            swept.more = true;
            break;
        }
        swept.sessions.push(id);
    }
    swept.more |= delete_tokens(tx, now)?;
    spent::delete_old(tx, now)?;
    give_back(tx, until)?;
    Ok(swept)
}

/// Deletes an expired session as far as the time allows, from the end of its log: it has no reader
/// any more. Returns false if a part of it is left.
fn delete_until(
    tx: &Transaction<'_>,
    id: SessionId,
    mut head: u32,
    until: Instant,
) -> rusqlite::Result<bool> {
    while head > SWEEP_MESSAGES {
        head -= SWEEP_MESSAGES;
        shorten(tx, id, head)?;
        if Instant::now() >= until {
            return Ok(false);
        }
    }
    delete(tx, id)?;
    Ok(true)
}

/// Deletes tokens whose own deadline has passed. Returns true if there are more.
fn delete_tokens(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM tokens WHERE hash IN
         (SELECT hash FROM tokens WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    let limit = i64::try_from(SWEEP_SESSIONS).unwrap_or(i64::MAX);
    let deleted = tx.prepare_cached(sql)?.execute(params![StoredTime(now), limit])?;
    Ok(deleted == SWEEP_SESSIONS)
}

/// Returns free pages to the file system, as many as the time allows.
fn give_back(tx: &Transaction<'_>, until: Instant) -> rusqlite::Result<()> {
    let mut vacuum = tx.prepare_cached("PRAGMA incremental_vacuum")?;
    // Each step frees one page.
    let mut pages = vacuum.query([])?;
    while Instant::now() < until && pages.next()?.is_some() {}
    Ok(())
}

/// Deletes the messages after `head`.
fn shorten(tx: &Transaction<'_>, id: SessionId, head: u32) -> rusqlite::Result<()> {
    let sql = "DELETE FROM messages WHERE session = ?1 AND seq > ?2";
    tx.prepare_cached(sql)?.execute(params![Id(id), head])?;
    let sql = "UPDATE sessions SET head_seq = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![Id(id), head])?;
    Ok(())
}
