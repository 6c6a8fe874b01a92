//! The model tokens of each day.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{failure::WriteResult, rows::Head};
use crate::session::{Budgets, Session, Spent, Timestamp};

/// The row of all sessions. No subject is empty.
const ALL: &str = "";

/// Counts the tokens of a reply.
pub(super) fn count(
    tx: &Transaction<'_>,
    session: &Session,
    tokens: u64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO spent (day, subject, tokens) VALUES (?1, ?2, ?3)
         ON CONFLICT (day, subject) DO UPDATE SET tokens = tokens + ?3",
    )?;
    for subject in [Some(ALL), session.subject.as_deref()].into_iter().flatten() {
        statement.execute(params![now.day().cast_signed(), subject, tokens.cast_signed()])?;
    }
    Ok(())
}

/// Refuses a turn if a budget is used up.
pub(super) fn check(
    tx: &Transaction<'_>,
    session: &Session,
    head: &Head,
    budgets: Budgets,
    now: Timestamp,
) -> WriteResult<()> {
    let mut spent = Spent { session: head.usage.spent(), ..Spent::default() };
    if budgets.has_daily() {
        spent.today = today(tx, ALL, now)?;
        spent.subject_today = match &session.subject {
            Some(subject) => today(tx, subject, now)?,
            None => 0,
        };
    }
    Ok(budgets.check(spent, now)?)
}

fn today(tx: &Transaction<'_>, subject: &str, now: Timestamp) -> rusqlite::Result<u64> {
    let sql = "SELECT tokens FROM spent WHERE day = ?1 AND subject = ?2";
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_row(params![now.day().cast_signed(), subject], |row| {
        row.get(0).map(i64::unsigned_abs)
    });
    Ok(found.optional()?.unwrap_or(0))
}

/// Deletes the counts of earlier days.
pub(super) fn delete_old(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "DELETE FROM spent WHERE day < ?1";
    tx.prepare_cached(sql)?.execute([now.day().cast_signed()])?;
    Ok(())
}
