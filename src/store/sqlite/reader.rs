//! Reads: each uses one of a few connections, and sees one snapshot of the file.

use std::{
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, named_params, params};
use tokio::sync::Semaphore;

use super::{
    failure::{FailureSignal, WriteError, WriteResult, failure, is_final},
    lock::FileLock,
    rows::{self, Id, StoredTime},
    schema,
};
use crate::session::{
    Content, Error, ErrorKind, FoundSession, Head, Lease, ListCursor, ListedSession, Message,
    Origin, Page, Result, Session, SessionId, Share, ShareOf, Snapshot, Timestamp, TokenHash,
    TokenId, TokenRecord, Unfinished,
};
use crate::store::OpenError;

/// Number of connections for reading.
const READERS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    trust: FailureSignal,
    /// Declared after the connections, so that it is closed after them.
    _lock: Arc<FileLock>,
}

/// A connection that returns to the pool however the read ends, also after a panic.
struct PooledConnection {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }
}

impl Readers {
    pub(super) fn open(
        path: &Path,
        trust: FailureSignal,
        lock: Arc<FileLock>,
    ) -> Result<Self, OpenError> {
        let idle = (0..READERS).map(|_| schema::open_reader(path)).collect::<Result<_, _>>()?;
        Ok(Self {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(READERS)),
            trust,
            _lock: lock,
        })
    }

    /// Reads in one transaction, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> WriteResult<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?;
        let idle = Arc::clone(&self.idle);
        let reading = tokio::task::spawn_blocking(move || {
            // Dropped after the connection.
            let _permit = permit;
            let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut lent = PooledConnection { connection, idle };
            let missing = || Error::internal("a reader is missing");
            let connection = lent.connection.as_mut().ok_or_else(missing)?;
            let transaction = connection.transaction()?;
            read(&transaction)
        });
        reading.await.map_err(Error::internal)?.map_err(|refused| match refused {
            WriteError::ByRule(error) => error,
            WriteError::Failed(error) => {
                if is_final(&error) {
                    self.trust.lose(&error.to_string());
                }
                failure(&error)
            }
        })
    }
}

/// Returns the session that a token opens. The deadlines are those of the token.
pub(super) fn find(
    db: &Connection,
    token: &TokenHash,
    now: Timestamp,
) -> WriteResult<FoundSession> {
    let sql = format!(
        "SELECT {}, {} FROM tokens JOIN sessions ON sessions.id = tokens.session
         WHERE tokens.hash = ?1
           AND sessions.expires_at > ?2 AND coalesce(tokens.expires_at > ?2, TRUE)",
        rows::SESSION,
        rows::TOKEN
    );
    let found = |row: &Row<'_>| {
        let (session, token) = (rows::session(row)?, rows::token(row, rows::SESSION_WIDTH)?);
        Ok(FoundSession { session: session.seen_with(&token), token })
    };
    let params = params![token.as_bytes(), StoredTime(now)];
    let found = db.prepare_cached(&sql)?.query_row(params, found).optional()?;
    found.ok_or_else(|| ErrorKind::SessionExpired.into())
}

/// Returns the tokens of a session, oldest first.
pub(super) fn tokens(db: &Connection, id: SessionId) -> rusqlite::Result<Vec<TokenRecord>> {
    let sql = format!("SELECT {} FROM tokens WHERE session = ?1 ORDER BY id", rows::TOKEN);
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map([Id(id)], |row| rows::token(row, 0))?.collect()
}

/// Returns a token of a session, unless it has expired.
pub(super) fn token(
    db: &Connection,
    id: SessionId,
    token: TokenId,
    now: Timestamp,
) -> rusqlite::Result<Option<TokenRecord>> {
    let sql = format!("SELECT {} FROM tokens WHERE session = ?1 AND id = ?2", rows::TOKEN);
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_row(params![Id(id), Id(token)], |row| rows::token(row, 0));
    Ok(found.optional()?.filter(|token| !token.has_expired(now)))
}

/// Returns up to `limit` sessions of a subject, newest activity first.
pub(super) fn list(
    db: &Connection,
    subject: &str,
    now: Timestamp,
    after: Option<ListCursor>,
    limit: u32,
) -> rusqlite::Result<Vec<ListedSession>> {
    let sql = format!(
        "SELECT {}, active_at, head_seq, CASE WHEN title IS NULL THEN
             (SELECT substr(text, 1, ?6) FROM messages WHERE session = sessions.id AND seq = 1) END
         FROM sessions
         WHERE subject = ?1 AND (active_at, id) < (?2, ?3) AND expires_at > ?4
         ORDER BY active_at DESC, id DESC LIMIT ?5",
        rows::SESSION
    );
    let first = ListCursor {
        active_at: Timestamp::NEVER.plus(Duration::from_millis(1)),
        session: SessionId::from_bytes([0; 16]),
    };
    let ListCursor { active_at, session } = after.unwrap_or(first);
    let beginning = i64::try_from(ListedSession::MAX_BEGINNING).unwrap_or(i64::MAX);
    let params =
        params![subject, StoredTime(active_at), Id(session), StoredTime(now), limit, beginning];
    let mut statement = db.prepare_cached(&sql)?;
    let listed = statement.query_map(params, |row| {
        Ok(ListedSession {
            session: rows::session(row)?,
            active_at: row.get::<_, StoredTime>(rows::SESSION_WIDTH)?.0,
            head_seq: row.get(rows::SESSION_WIDTH + 1)?,
            beginning: row.get(rows::SESSION_WIDTH + 2)?,
        })
    })?;
    listed.collect()
}

/// Returns the part of the store that an owner or an address uses.
pub(super) fn share(db: &Connection, of: &ShareOf, now: Timestamp) -> rusqlite::Result<Share> {
    let (column, value): (_, &dyn ToSql) = match of {
        ShareOf::Subject(subject) => ("subject", subject),
        ShareOf::Origin(Origin(hash)) => ("origin", hash),
    };
    let sql = format!(
        "SELECT count(*), coalesce(sum(size), 0) FROM sessions
         WHERE {column} = ?1 AND expires_at > ?2"
    );
    db.prepare_cached(&sql)?.query_row(params![value, StoredTime(now)], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(Share { sessions: number(0)?, size: number(1)? })
    })
}

/// Returns a session that has not expired.
pub(super) fn session(db: &Connection, id: SessionId, now: Timestamp) -> WriteResult<Session> {
    let sql = format!("SELECT {} FROM sessions WHERE id = ?1 AND expires_at > ?2", rows::SESSION);
    one(db, &sql, params![Id(id), StoredTime(now)])
}

fn one(db: &Connection, sql: &str, params: impl rusqlite::Params) -> WriteResult<Session> {
    let found = db.prepare_cached(sql)?.query_row(params, rows::session).optional()?;
    found.ok_or_else(|| ErrorKind::SessionExpired.into())
}

pub(super) fn read(
    db: &Connection,
    id: SessionId,
    now: Timestamp,
    page: Page,
) -> WriteResult<Snapshot> {
    let session = session(db, id, now)?;
    let rows::Head { seq: head_seq, usage, .. } = head(db, id)?;
    let (messages, has_more) = messages(db, id, page)?;
    Ok(Snapshot { session, messages, head_seq, usage, has_more })
}

/// Returns true if a sweep would find an expired session or token, or a free page.
pub(super) fn has_work_for_sweep(db: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sessions WHERE expires_at <= ?1)
         OR EXISTS (SELECT 1 FROM tokens WHERE expires_at <= ?1)
         OR (SELECT freelist_count FROM pragma_freelist_count) > 0";
    db.prepare_cached(sql)?.query_row([StoredTime(now)], |row| row.get(0))
}

/// Returns the heads of those of the given sessions that exist.
pub(super) fn heads(
    db: &Connection,
    sessions: &[SessionId],
    now: Timestamp,
) -> rusqlite::Result<Vec<Head>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {}, head_seq FROM sessions WHERE id = ?1 AND expires_at > ?2",
        rows::SESSION
    ))?;
    let head = |id: &SessionId| {
        let found = statement.query_row(params![Id(*id), StoredTime(now)], |row| {
            let Session { id, epoch, .. } = rows::session(row)?;
            Ok(Head { session: id, epoch, seq: row.get(rows::SESSION_WIDTH)? })
        });
        found.optional().transpose()
    };
    sessions.iter().filter_map(head).collect()
}

/// Returns the head of a session's log.
pub(super) fn head(db: &Connection, id: SessionId) -> rusqlite::Result<rows::Head> {
    let sql = format!("SELECT {} FROM sessions WHERE id = ?1", rows::HEAD);
    db.prepare_cached(&sql)?.query_row([Id(id)], rows::head)
}

pub(super) fn messages(
    db: &Connection,
    id: SessionId,
    page: Page,
) -> rusqlite::Result<(Vec<Arc<Message>>, bool)> {
    let order = if page.after.is_some() { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT {} FROM messages WHERE session = :session AND seq > :after AND seq <= :until
         ORDER BY seq {order} LIMIT :limit",
        rows::MESSAGE
    );
    let mut statement = db.prepare_cached(&sql)?;
    // Reads one more row to see whether there are more messages.
    let limit = i64::from(page.limit) + 1;
    let after = page.after.unwrap_or(0);
    let found = statement.query_map(
        named_params! {":session": Id(id), ":after": after, ":until": page.until, ":limit": limit},
        rows::message,
    )?;
    let (mut messages, mut size) = (Vec::new(), 0);
    for message in found {
        let message = message?;
        size += message.size();
        let fits = messages.is_empty() || size <= page.max_size;
        if messages.len() >= page.limit as usize || !fits {
            return Ok((in_order(messages, page), true));
        }
        messages.push(message);
    }
    Ok((in_order(messages, page), false))
}

fn in_order(mut messages: Vec<Arc<Message>>, page: Page) -> Vec<Arc<Message>> {
    if page.after.is_none() {
        messages.reverse();
    }
    messages
}

pub(super) fn unfinished(
    db: &Connection,
    now: Timestamp,
    range: RangeInclusive<(SessionId, u32)>,
    limit: usize,
) -> WriteResult<Vec<Unfinished>> {
    let ((first, first_seq), (last, last_seq)) = range.into_inner();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let list = || {
        let mut statement = db.prepare_cached(
            "SELECT turns.session, turns.seq, turns.attempt, turns.text, turns.parts FROM turns
             JOIN sessions ON sessions.id = turns.session
             WHERE (turns.session, turns.seq) BETWEEN (?1, ?2) AND (?3, ?4)
               AND sessions.expires_at > ?5
             ORDER BY turns.session, turns.seq LIMIT ?6",
        )?;
        let params = params![Id(first), first_seq, Id(last), last_seq, StoredTime(now), limit];
        let turns = statement.query_map(params, |row| {
            let (id, seq) = (row.get::<_, Id<SessionId>>(0)?.0, row.get::<_, u32>(1)?);
            Ok((id, seq, row.get(2)?, rows::content(row, 3)?))
        })?;
        turns.collect::<rusqlite::Result<Vec<_>>>()
    };
    let turn = |(id, seq, attempt, partial): (SessionId, u32, u32, Content)| {
        let page = Page { after: Some(seq - 1), until: seq, limit: 1, max_size: usize::MAX };
        let mut look = read(db, id, now, page)?;
        let message =
            look.messages.pop().ok_or_else(|| Error::internal("a turn without its message"))?;
        let (lease, session) = (Lease::UNSHARED, look.session);
        Ok(Unfinished { lease, session, message, attempt, partial })
    };
    list()?.into_iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_panics_costs_no_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.db");
        let opened = schema::open(&path, super::super::Durability::Full).unwrap();
        let readers = Readers::open(&path, FailureSignal::new(), opened.lock).unwrap();
        for _ in 0..2 * READERS {
            let panicked =
                readers.read(|_| -> WriteResult<()> { panic!("as the test wants it") }).await;
            assert!(panicked.is_err());
        }
        let tables = |db: &Connection| -> WriteResult<u32> {
            Ok(db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?)
        };
        assert!(readers.read(tables).await.unwrap() > 0);
        assert_eq!(readers.idle.lock().unwrap().len(), READERS);
    }
}
