//! Reads: each takes one of a few connections, and sees one moment of the file.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use tokio::sync::Semaphore;

use super::{
    rows::{self, At, Id},
    schema::{self, OpenError},
    writer::failure,
};
use crate::session::{
    Error, ErrorKind, Message, Page, Result, Session, SessionId, Snapshot, Timestamp, TokenHash,
    Unfinished, Usage,
};

/// Connections that read at a time.
const READERS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let idle = (0..READERS).map(|_| schema::open_reader(path)).collect::<Result<_, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), permits: Arc::new(Semaphore::new(READERS)) })
    }

    /// Reads on a thread that may block, in one transaction.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?;
        let idle = Arc::clone(&self.idle);
        let reading = tokio::task::spawn_blocking(move || {
            let take = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = take().ok_or_else(|| Error::internal("a reader is missing"))?;
            let result = connection
                .transaction()
                .map_err(|error| failure(&error))
                .and_then(|transaction| read(&transaction));
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        });
        reading.await.map_err(Error::internal)?
    }
}

pub(super) fn find(db: &Connection, token: &TokenHash, now: Timestamp) -> Result<Session> {
    let sql =
        format!("SELECT {} FROM sessions WHERE token = ?1 AND expires_at > ?2", rows::SESSION);
    one(db, &sql, params![token.as_bytes(), At(now)])
}

/// A session that lives.
pub(super) fn session(db: &Connection, id: SessionId, now: Timestamp) -> Result<Session> {
    let sql = format!("SELECT {} FROM sessions WHERE id = ?1 AND expires_at > ?2", rows::SESSION);
    one(db, &sql, params![Id(id), At(now)])
}

fn one(db: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Session> {
    let mut statement = db.prepare_cached(sql).map_err(|error| failure(&error))?;
    let found = statement.query_row(params, rows::session).optional();
    found.map_err(|error| failure(&error))?.ok_or_else(|| ErrorKind::SessionExpired.into())
}

pub(super) fn read(db: &Connection, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
    let session = session(db, id, now)?;
    let (head_seq, usage) = head(db, id).map_err(|error| failure(&error))?;
    let (messages, has_more) = messages(db, id, page).map_err(|error| failure(&error))?;
    Ok(Snapshot { session, messages, head_seq, usage, has_more })
}

/// Number of the last message of a session, and what its replies took.
pub(super) fn head(db: &Connection, id: SessionId) -> rusqlite::Result<(u32, Usage)> {
    let sql = format!("SELECT {} FROM sessions WHERE id = ?1", rows::HEAD);
    db.prepare_cached(&sql)?.query_row([Id(id)], rows::head)
}

fn messages(
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
    // One more than asked for, to see whether there is more.
    let limit = i64::from(page.limit) + 1;
    let after = page.after.unwrap_or(0);
    let found = statement.query_map(
        named_params! {":session": Id(id), ":after": after, ":until": page.until, ":limit": limit},
        rows::message,
    )?;
    let (mut messages, mut size) = (Vec::new(), 0);
    for message in found {
        let message = message?;
        size += message.text.len();
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
    after: Option<(SessionId, u32)>,
    limit: usize,
) -> Result<Vec<Unfinished>> {
    let (first, seq) = after.unwrap_or((SessionId::from_bytes([0; 16]), 0));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let list = || {
        let mut statement = db.prepare_cached(
            "SELECT turns.session, turns.seq, turns.attempt, turns.text FROM turns
             JOIN sessions ON sessions.id = turns.session
             WHERE (turns.session, turns.seq) > (?1, ?2) AND sessions.expires_at > ?3
             ORDER BY turns.session, turns.seq LIMIT ?4",
        )?;
        let turns = statement.query_map(params![Id(first), seq, At(now), limit], |row| {
            Ok((
                row.get::<_, Id<SessionId>>(0)?.0,
                row.get::<_, u32>(1)?,
                row.get(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        turns.collect::<rusqlite::Result<Vec<_>>>()
    };
    let turns = list().map_err(|error| failure(&error))?;
    let turn = |(id, seq, attempt, text): (SessionId, u32, u32, String)| {
        let page = Page { after: Some(seq - 1), until: seq, limit: 1, max_size: usize::MAX };
        let mut look = read(db, id, now, page)?;
        let message =
            look.messages.pop().ok_or_else(|| Error::internal("a turn without its message"))?;
        Ok(Unfinished { session: look.session, message, attempt, text })
    };
    turns.into_iter().map(turn).collect()
}
