//! The file in an operator's hands, whether a gateway runs on it or not.
//!
//! What only looks reads with a connection of its own, as a gateway's readers do: nobody
//! waits for it. What changes something takes the file's write lock for a moment, and the
//! gateway's writer waits; the gateway notices such changes by itself
//! (`Store::written_elsewhere`). The gateway's own lock is not taken: it keeps a second
//! gateway away, not the operator.

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
    schema::{self, OpenError},
    sessions,
};
use crate::session::{Message, Page, Session, SessionId, Timestamp, TokenHash};

/// A gateway's file, open for its operator.
#[derive(Debug)]
pub struct SqliteFile {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

/// A session as it is kept, without its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// The session.
    pub session: Session,
    /// The hash of the token that opens it.
    pub token: TokenHash,
    /// Messages in its log.
    pub messages: u32,
    /// When the last of them was committed; when the session was created if there is none.
    pub last_activity: Timestamp,
}

/// A user message that waits for its reply, and how far that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnansweredTurn {
    /// Number of the user message.
    pub seq: u32,
    /// The last attempt that began.
    pub attempt: u32,
    /// What it had produced when that was last noted.
    pub text: String,
}

/// Which sessions are looked for.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// A part of the user's name; ASCII letters in either case.
    pub name: Option<String>,
    /// Those that have expired and are not deleted yet, instead of those that live.
    pub expired: bool,
    /// The present.
    pub now: Timestamp,
}

/// Columns of [`stored`] after those of [`rows::session`].
const KEPT: &str = "token, head_seq, coalesce((SELECT messages.created_at FROM messages
     WHERE messages.session = sessions.id AND messages.seq = sessions.head_seq), created_at)";

/// Those that a [`SessionFilter`] chooses.
const CHOSEN: &str = "WHERE (expires_at <= :now) = :expired
     AND (:name IS NULL OR instr(lower(name), lower(:name)) > 0)";

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredSession> {
    Ok(StoredSession {
        session: rows::session(row)?,
        token: TokenHash::from_bytes(row.get(6)?),
        messages: row.get(7)?,
        last_activity: row.get::<_, StoredTime>(8)?.0,
    })
}

impl SqliteFile {
    /// Opens the file to look into it.
    ///
    /// # Errors
    /// One sentence for the operator: it is not there, damaged, of another version, or of
    /// something else.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::exists(path)?;
        let connection = schema::open_reader(path)?;
        schema::check_version(path, &connection)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Opens the file to change it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_changes(path: &Path) -> Result<Self, OpenError> {
        Self::exists(path)?;
        let connection = schema::open_beside(path)?;
        schema::check_version(path, &connection)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Opens the file to change it, making it and its folder when absent.
    ///
    /// # Errors
    /// As [`Self::open`], and if it cannot be made.
    pub fn open_or_make(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            // As a gateway would, and under its lock.
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

    /// Sessions in the order of their ids, which is that of their creation, `limit` of them
    /// at most, after the one that the last answer ended with.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn sessions(
        &self,
        filter: &SessionFilter,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<StoredSession>, OpenError> {
        // No bytes come before any.
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
                    ":name": filter.name, ":limit": limit,
                },
                stored,
            )?;
            found.collect::<rusqlite::Result<_>>()
        };
        list().map_err(|error| self.open_error(&error))
    }

    /// Numbers of sessions and of their messages.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn totals(&self, filter: &SessionFilter) -> Result<(u64, u64), OpenError> {
        let sql = format!("SELECT count(*), coalesce(sum(head_seq), 0) FROM sessions {CHOSEN}");
        let count = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let totals = self.connection.query_row(
            &sql,
            named_params! {
                ":now": StoredTime(filter.now), ":expired": filter.expired, ":name": filter.name
            },
            |row| Ok((count(row, 0)?, count(row, 1)?)),
        );
        totals.map_err(|error| self.open_error(&error))
    }

    /// Sessions in the whole file, expired ones included.
    pub(super) fn count(&self) -> rusqlite::Result<u64> {
        let sql = "SELECT sessions FROM totals";
        self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    }

    /// A session, expired or not.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn session(&self, id: SessionId) -> Result<Option<StoredSession>, OpenError> {
        find(&self.connection, id).map_err(|error| self.open_error(&error))
    }

    /// Messages of a session after a number, in order: a page of 64, or of 4 MiB.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn messages(&self, id: SessionId, after: u32) -> Result<Vec<Arc<Message>>, OpenError> {
        page(&self.connection, id, after).map_err(|error| self.open_error(&error))
    }

    /// The user messages of a session that wait for their reply.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn waiting(&self, id: SessionId) -> Result<Vec<UnansweredTurn>, OpenError> {
        let list = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT seq, attempt, text FROM turns WHERE session = ?1 ORDER BY seq",
            )?;
            let turns = statement.query_map([Id(id)], |row| {
                Ok(UnansweredTurn { seq: row.get(0)?, attempt: row.get(1)?, text: row.get(2)? })
            })?;
            turns.collect::<rusqlite::Result<_>>()
        };
        list().map_err(|error| self.open_error(&error))
    }

    /// Everything that is read in `look` is of one moment. What a gateway writes meanwhile
    /// stays in its log of changes, which grows until this returns.
    ///
    /// # Errors
    /// What `look` fails with.
    pub fn at_one_moment<T, E: From<OpenError>>(
        &self,
        look: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let _moment = self.moment().map_err(|error| self.open_error(&error))?;
        look()
    }

    pub(super) fn moment(&self) -> rusqlite::Result<Transaction<'_>> {
        let transaction = self.connection.unchecked_transaction()?;
        // The moment is that of the first look.
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(transaction)
    }

    /// Ends a session, durably: its log is gone, its token opens nothing. False if there is
    /// none.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub fn revoke(&mut self, id: SessionId) -> Result<bool, OpenError> {
        let path = &self.path;
        let mut revoke = || {
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
        revoke().map_err(|error| OpenError::new(path, schema::explain(&error)))
    }

    pub(super) fn open_error(&self, error: &rusqlite::Error) -> OpenError {
        OpenError::new(&self.path, schema::explain(error))
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
