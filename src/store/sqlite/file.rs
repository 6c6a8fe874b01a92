//! The file as operator commands use it, beside a running gateway or without one.
//!
//! A command that reads uses its own connection and does not delay the gateway. A command that
//! writes holds SQLite's write lock for a short time, and the gateway's writer waits for it. The
//! gateway detects such changes (`Store::written_elsewhere`). Commands do not take the `FileLock`,
//! which only excludes a second gateway.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{
    Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, named_params, params,
};

use super::{
    durability::Durability,
    lock, reader,
    rows::{self, Id, StoredTime},
    schema, sessions,
};
use crate::session::{Message, Page, SessionId, Timestamp, TokenRecord};
use crate::store::{
    OpenError,
    stored::{Import, SessionFilter, StoredLog, StoredSession, StoredSessions, UnansweredTurn},
};

/// The file of a gateway, opened by an operator command.
#[derive(Debug)]
pub struct SqliteFile {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

/// Columns of [`stored`] after those of [`rows::session`].
const KEPT: &str = "head_seq, active_at";

/// Condition of a [`SessionFilter`].
const CHOSEN: &str = "WHERE (expires_at <= :now) = :expired
     AND (:name IS NULL OR instr(lower(name), lower(:name)) > 0)
     AND (:subject IS NULL OR subject = :subject)";

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredSession> {
    Ok(StoredSession {
        session: rows::session(row)?,
        messages: row.get(rows::SESSION_WIDTH)?,
        last_activity: row.get::<_, StoredTime>(rows::SESSION_WIDTH + 1)?.0,
    })
}

impl SqliteFile {
    /// Opens the file for reading.
    ///
    /// # Errors
    /// One sentence for the operator: the file does not exist, is damaged, has another version, or
    /// is not a store.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::exists(path)?;
        let connection = schema::open_reader(path)?;
        schema::check_version(path, &connection)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Opens the file for changes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_changes(path: &Path) -> Result<Self, OpenError> {
        Self::exists(path)?;
        let connection = schema::open_beside(path)?;
        schema::check_version(path, &connection)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Opens the file for changes. Creates it and its folder if they do not exist.
    ///
    /// # Errors
    /// As [`Self::open`], and if the file cannot be created.
    pub fn open_or_make(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            // As a gateway does, under the lock of the gateway.
            drop(schema::open(path, Durability::Full)?);
        }
        Self::open_for_changes(path)
    }

    fn exists(path: &Path) -> Result<(), OpenError> {
        match fs::metadata(path) {
            Ok(file) => lock::check_names(&file).map_err(|problem| OpenError::new(path, problem)),
            Err(_) => Err(OpenError::new(path, "there is no such file")),
        }
    }

    /// Returns the number of sessions in the file, expired ones included.
    pub(super) fn count(&self) -> rusqlite::Result<u64> {
        let sql = "SELECT sessions FROM totals";
        self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    }

    pub(super) fn moment(&self) -> rusqlite::Result<Transaction<'_>> {
        let transaction = self.connection.unchecked_transaction()?;
        // The snapshot is taken by the first read.
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(transaction)
    }

    pub(super) fn open_error(&self, error: &rusqlite::Error) -> OpenError {
        OpenError::new(&self.path, schema::explain(error))
    }
}

impl StoredSessions for SqliteFile {
    fn sessions(
        &self,
        filter: &SessionFilter,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<StoredSession>, OpenError> {
        // The empty blob sorts before every id.
        let after = after.as_ref().map_or(&[][..], |id| id.as_bytes());
        let sql = format!(
            "SELECT {}, {KEPT} FROM sessions {CHOSEN} AND id > :after ORDER BY id LIMIT :limit",
            rows::SESSION
        );
        let list = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let found = statement.query_map(
                named_params! {
                    ":after": after, ":now": StoredTime(filter.now), ":expired": filter.expired,
                    ":name": filter.name, ":subject": filter.subject, ":limit": limit,
                },
                stored,
            )?;
            found.collect::<rusqlite::Result<_>>()
        };
        list().map_err(|error| self.open_error(&error))
    }

    fn totals(&self, filter: &SessionFilter) -> Result<(u64, u64), OpenError> {
        let sql = format!("SELECT count(*), coalesce(sum(head_seq), 0) FROM sessions {CHOSEN}");
        let count = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let totals = self.connection.query_row(
            &sql,
            named_params! {
                ":now": StoredTime(filter.now), ":expired": filter.expired,
                ":name": filter.name, ":subject": filter.subject,
            },
            |row| Ok((count(row, 0)?, count(row, 1)?)),
        );
        totals.map_err(|error| self.open_error(&error))
    }

    fn session(&self, id: SessionId) -> Result<Option<StoredSession>, OpenError> {
        find(&self.connection, id).map_err(|error| self.open_error(&error))
    }

    fn messages(&self, id: SessionId, after: u32) -> Result<Vec<Arc<Message>>, OpenError> {
        page(&self.connection, id, after).map_err(|error| self.open_error(&error))
    }

    fn waiting(&self, id: SessionId) -> Result<Vec<UnansweredTurn>, OpenError> {
        let list = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT seq, attempt, text, parts FROM turns WHERE session = ?1 ORDER BY seq",
            )?;
            let turns = statement.query_map([Id(id)], |row| {
                let (seq, attempt) = (row.get(0)?, row.get(1)?);
                Ok(UnansweredTurn { seq, attempt, partial: rows::content(row, 2)? })
            })?;
            turns.collect::<rusqlite::Result<_>>()
        };
        list().map_err(|error| self.open_error(&error))
    }

    fn tokens(&self, id: SessionId) -> Result<Vec<TokenRecord>, OpenError> {
        reader::tokens(&self.connection, id).map_err(|error| self.open_error(&error))
    }

    fn delete(&mut self, id: SessionId) -> Result<bool, OpenError> {
        let path = &self.path;
        let mut delete = || {
            let immediate = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(immediate)?;
            let sql = "SELECT 1 FROM sessions WHERE id = ?1";
            let there = transaction.prepare_cached(sql)?.exists(params![Id(id)])?;
            if there {
                sessions::delete(&transaction, id)?;
            }
            transaction.commit()?;
            Ok(there)
        };
        delete().map_err(|error| OpenError::new(path, schema::explain(&error)))
    }

    fn at_one_moment(&self, look: &mut dyn FnMut()) -> Result<(), OpenError> {
        // The WAL grows with the writes of a gateway until this returns.
        let _moment = self.moment().map_err(|error| self.open_error(&error))?;
        look();
        Ok(())
    }

    fn import(&mut self, logs: &[StoredLog], now: Timestamp) -> Result<Vec<Import>, OpenError> {
        // In one transaction.
        self.try_import(logs, now).map_err(|error| self.open_error(&error))
    }
}

pub(super) fn find(db: &Connection, id: SessionId) -> rusqlite::Result<Option<StoredSession>> {
    let sql = format!("SELECT {}, {KEPT} FROM sessions WHERE id = ?1", rows::SESSION);
    db.prepare_cached(&sql)?.query_row([Id(id)], stored).optional()
}

pub(super) fn page(
    db: &Connection,
    id: SessionId,
    after: u32,
) -> rusqlite::Result<Vec<Arc<Message>>> {
    let page = Page { after: Some(after), until: u32::MAX, limit: 64, max_size: 4 << 20 };
    Ok(reader::messages(db, id, page)?.0)
}
