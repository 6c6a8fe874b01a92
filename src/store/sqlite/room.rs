//! The limit of the file.

use rusqlite::Transaction;

use super::failure::WriteResult;
use crate::session::ErrorKind;

/// Refuses data of this size if the file would grow beyond its limit. Free pages are used first. A
/// limit of 0 is none.
///
/// SQLite's own `max_page_count` is not used: it fails the whole transaction, and with it the writes
/// of others.
pub(super) fn check(tx: &Transaction<'_>, max_file_size: u64, size: usize) -> WriteResult<()> {
    if max_file_size == 0 {
        return Ok(());
    }
    let number = |sql: &str| -> rusqlite::Result<u64> {
        tx.prepare_cached(sql)?.query_row([], |row| row.get(0).map(i64::unsigned_abs))
    };
    let used = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
    let used = used * number("PRAGMA page_size")?;
    if used.saturating_add(size as u64) > max_file_size {
        return Err(ErrorKind::StoreFull.into());
    }
    Ok(())
}
