//! Writes: one thread, one transaction for whatever waits, one fsync for all of it.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use metrics::{counter, histogram};
use rusqlite::{
    Connection, OptionalExtension as _, Transaction, TransactionBehavior, config::DbConfig,
    hooks::Wal, params,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    failure::{FailureSignal, WriteError, WriteResult, failure, is_final},
    reader,
    rows::{self, At, Id},
    schema::{self, Opened},
};
use crate::session::{
    AppendLimits, Appended, Checkpoint, Entry, Error, ErrorKind, Message, MessageId, NewSession,
    Result, Role, Session, SessionId, Status, Swept, Timestamp,
};

/// Writes that may wait; those who bring more wait with them.
const QUEUE: usize = 4096;

/// Writes that share a transaction.
const GROUP: usize = 1024;

/// What the thread does next.
enum Job {
    Write(Write),
    /// Runs on the connection outside a transaction.
    Inspect(Box<dyn FnOnce(&Connection) + Send>),
    Close(oneshot::Sender<Result<()>>),
}

/// Does its part in a transaction, if there is one, then, when the whole is decided, answers.
type Write = Box<dyn FnOnce(Option<&Transaction<'_>>) -> Done + Send>;

/// Tells the one who waits: what the write came to, or what all failed with.
type Answer = Box<dyn FnOnce(Option<&rusqlite::Error>) + Send>;

struct Done {
    /// The transaction cannot go on.
    broken: Option<rusqlite::Error>,
    answer: Answer,
}

/// A handle on the writing thread, which ends with its last handle.
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(opened: Opened, trust: FailureSignal) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let write = move || {
            let write = AssertUnwindSafe(|| write_until_closed(opened, waiting, &trust));
            if catch_unwind(write).is_err() {
                trust.lose("the thread that writes panicked");
            }
        };
        thread::Builder::new().name("sqlite-writer".into()).spawn(write)?;
        Ok(Self { queue })
    }

    /// Writes; returns when it is durable.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> WriteResult<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Write = Box::new(move |transaction| {
            let (result, broken) = match transaction.map(write) {
                Some(Ok(value)) => (Ok(value), None),
                Some(Err(WriteError::ByRule(error))) => (Err(error), None),
                Some(Err(WriteError::Failed(error))) => (Err(failure(&error)), Some(error)),
                None => (Err(Error::internal("the transaction did not get this far")), None),
            };
            let answer = Box::new(move |failed: Option<&rusqlite::Error>| {
                let result = failed.map_or(result, |error| Err(failure(error)));
                // Nobody waits any more: it is durable all the same.
                drop(answer.send(result));
            });
            Done { broken, answer }
        });
        let gone = || Error::internal("the store has failed and takes no more writes");
        self.queue.send(Job::Write(job)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Runs a query on the writer's connection, without a transaction of its own.
    pub(super) async fn inspect<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |connection: &Connection| drop(answer.send(query(connection))));
        let gone = || Error::internal("the store has failed and takes no more writes");
        self.queue.send(Job::Inspect(job)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(|error| failure(&error))
    }

    /// Writes the log of changes back into the file and ends the thread.
    pub(super) async fn close(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::internal("the store has ended already");
        self.queue.send(Job::Close(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// The log of changes is written back into the file when it has this many pages.
const WRITE_BACK_PAGES: i32 = 4000;

fn write_until_closed(
    Opened { mut connection, lock }: Opened,
    mut waiting: mpsc::Receiver<Job>,
    trust: &FailureSignal,
) {
    let lose_trust = |connection: &Connection, error: &rusqlite::Error| {
        // Closing it would write the log of changes back, with one more fsync.
        drop(connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
        trust.lose(&error.to_string());
    };
    // SQLite's own write-back would keep its failures to itself.
    let pages = Arc::new(AtomicI32::new(0));
    let count = Arc::clone(&pages);
    let hooked = connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
        count.store(pages, Ordering::Relaxed);
        Ok(())
    }));
    if let Err(error) = hooked {
        return lose_trust(&connection, &error);
    }
    let commits = histogram!("duologue_store_commit_seconds");
    let writes = counter!("duologue_store_writes_total");
    let mut group = Vec::new();
    while let Some(first) = waiting.blocking_recv() {
        let mut close = None;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Write(write) => group.push(write),
                Job::Inspect(inspect) => inspect(&connection),
                Job::Close(answer) => close = Some(answer),
            }
            if group.len() < GROUP && close.is_none() {
                next = waiting.try_recv().ok();
            }
        }
        let mut result = Ok(());
        if !group.is_empty() {
            writes.increment(group.len() as u64);
            let began = Instant::now();
            result = commit(&mut connection, group.drain(..));
            commits.record(began.elapsed());
        }
        if result.is_ok() && pages.load(Ordering::Relaxed) >= WRITE_BACK_PAGES {
            // The next commit says how many are left.
            pages.store(0, Ordering::Relaxed);
            result = write_back(&connection);
        }
        if let Err(error) = result
            && is_final(&error)
        {
            return lose_trust(&connection, &error);
        }
        if let Some(answer) = close {
            let written_back = schema::write_back(&connection).map(|_all| ());
            if let Some(error) = written_back.as_ref().err().filter(|error| is_final(error)) {
                lose_trust(&connection, error);
            }
            // Another gateway may open the file as soon as the answer is sent. Readers of this
            // process may still read, so the descriptor stays open.
            drop(connection);
            lock.release();
            drop(answer.send(written_back.map_err(|error| failure(&error))));
            return;
        }
    }
}

/// Writes the log of changes back into the file, as far as nobody needs it.
fn write_back(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Writes a group, commits it, and answers everybody in it.
fn commit(connection: &mut Connection, group: impl Iterator<Item = Write>) -> rusqlite::Result<()> {
    let mut group = group;
    let mut answers = Vec::new();
    let result = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(
        |transaction| {
            for write in group.by_ref() {
                let Done { broken, answer } = write(Some(&transaction));
                answers.push(answer);
                if let Some(error) = broken {
                    return Err(error);
                }
            }
            transaction.commit()
        },
    );
    // Those that were not reached share the fate of the transaction.
    answers.extend(group.map(|write| write(None).answer));
    for answer in answers {
        answer(result.as_ref().err());
    }
    result
}

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
        At(session.created_at),
        At(session.expires_at),
        At(session.ends_at),
    ])?;
    Ok(())
}

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
        tx.prepare_cached(sql)?.execute(params![Id(id), At(expires_at)])?;
    }
    Ok(Session { expires_at, ..session })
}

pub(super) fn revoke(tx: &Transaction<'_>, id: SessionId, now: Timestamp) -> WriteResult<()> {
    reader::session(tx, id, now)?;
    Ok(delete(tx, id)?)
}

/// How long a sweep may hold up the others that write. A time and no number of rows: what
/// a row costs depends on its length, and on whether it must be read from the disk first.
const SWEEP_TIME: Duration = Duration::from_millis(2);

/// Sessions that a sweep looks for at most.
const SWEEP_SESSIONS: usize = 128;

/// Messages that are deleted between two looks at the time.
const SWEEP_MESSAGES: u32 = 4;

pub(super) fn sweep(tx: &Transaction<'_>, now: Timestamp, limit: usize) -> WriteResult<Swept> {
    let until = Instant::now() + SWEEP_TIME;
    let limit = limit.min(SWEEP_SESSIONS);
    let due: Vec<(SessionId, u32)> = tx
        .prepare_cached(
            "SELECT id, head_seq FROM sessions WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
        )?
        .query_map(params![At(now), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
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
    give_back(tx, until)?;
    Ok(swept)
}

/// Deletes a session that has expired, as far as the time allows, from the end of its log:
/// nobody reads it any more. False if some of it is left.
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

/// Gives free pages back to the file system, as many as the time allows.
fn give_back(tx: &Transaction<'_>, until: Instant) -> rusqlite::Result<()> {
    let mut vacuum = tx.prepare_cached("PRAGMA incremental_vacuum")?;
    // Each step is a page.
    let mut pages = vacuum.query([])?;
    while Instant::now() < until && pages.next()?.is_some() {}
    Ok(())
}

/// Deletes the end of a log.
fn shorten(tx: &Transaction<'_>, id: SessionId, head: u32) -> rusqlite::Result<()> {
    let sql = "DELETE FROM messages WHERE session = ?1 AND seq > ?2";
    tx.prepare_cached(sql)?.execute(params![Id(id), head])?;
    let sql = "UPDATE sessions SET head_seq = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![Id(id), head])?;
    Ok(())
}

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

pub(super) fn append(
    tx: &Transaction<'_>,
    id: SessionId,
    entry: &Entry,
    terms: &AppendLimits,
) -> WriteResult<Appended> {
    let session = reader::session(tx, id, terms.now)?;
    if let Some((message, reply_seq)) = appended_before(tx, id, entry)? {
        return Ok(Appended {
            message,
            duplicate: true,
            reply_seq,
            expires_at: session.expires_at,
        });
    }
    let (head, usage) = reader::head(tx, id)?;
    let message = Arc::new(entry.clone().into_message(head + 1, Timestamp::of_wall_clock()));
    let expires_at = match &message.role {
        Role::User { .. } => {
            check(tx, id, head, terms)?;
            tx.prepare_cached("INSERT INTO turns (session, seq, message) VALUES (?1, ?2, ?3)")?
                .execute(params![Id(id), message.seq, Id(message.id)])?;
            session.expires_at.max(terms.expires_at).min(session.ends_at)
        }
        Role::Assistant { in_reply_to, .. } => {
            let sql = "DELETE FROM turns WHERE session = ?1 AND message = ?2";
            if tx.prepare_cached(sql)?.execute(params![Id(id), Id(*in_reply_to)])? == 0 {
                return Err(Error::internal("a reply to no message of this log").into());
            }
            session.expires_at
        }
    };
    insert(tx, id, &message)?;
    let usage = usage.plus(message.cost());
    tx.prepare_cached(
        "UPDATE sessions SET head_seq = ?2, expires_at = ?3, input_tokens = ?4,
         output_tokens = ?5, usage_estimated = ?6 WHERE id = ?1",
    )?
    .execute(params![
        Id(id),
        message.seq,
        At(expires_at),
        usage.input_tokens,
        usage.output_tokens,
        usage.estimated,
    ])?;
    Ok(Appended { message, duplicate: false, reply_seq: None, expires_at })
}

fn check(tx: &Transaction<'_>, id: SessionId, head: u32, terms: &AppendLimits) -> WriteResult<()> {
    let waiting: u32 = tx
        .prepare_cached("SELECT count(*) FROM turns WHERE session = ?1")?
        .query_row([Id(id)], |row| row.get(0))?;
    if waiting >= terms.max_queued_turns {
        return Err(ErrorKind::QueueFull.into());
    }
    if head.saturating_add(waiting).saturating_add(2) > terms.max_session_messages {
        return Err(ErrorKind::SessionFull.into());
    }
    Ok(())
}

/// The message that this entry became before, and the number of the reply to it.
fn appended_before(
    tx: &Transaction<'_>,
    id: SessionId,
    entry: &Entry,
) -> WriteResult<Option<(Arc<Message>, Option<u32>)>> {
    match entry {
        Entry::User { client_message_id: None, .. } => Ok(None),
        Entry::User { client_message_id: Some(key), text, .. } => {
            let sql = format!(
                "SELECT {} FROM messages WHERE session = ?1 AND client_message_id = ?2",
                rows::MESSAGE
            );
            let found = tx
                .prepare_cached(&sql)?
                .query_row(params![Id(id), key.as_ref()], rows::message)
                .optional()?;
            let Some(message) = found else { return Ok(None) };
            if message.text != *text {
                return Err(ErrorKind::MessageIdReused.into());
            }
            let reply = reply_to(tx, id, message.id)?.map(|reply| reply.seq);
            Ok(Some((message, reply)))
        }
        Entry::Reply { in_reply_to, .. } => {
            let waits = "SELECT 1 FROM turns WHERE session = ?1 AND message = ?2";
            if tx.prepare_cached(waits)?.exists(params![Id(id), Id(*in_reply_to)])? {
                return Ok(None);
            }
            Ok(reply_to(tx, id, *in_reply_to)?.map(|reply| (reply, None)))
        }
    }
}

fn reply_to(
    tx: &Transaction<'_>,
    id: SessionId,
    user: MessageId,
) -> rusqlite::Result<Option<Arc<Message>>> {
    let sql =
        format!("SELECT {} FROM messages WHERE session = ?1 AND in_reply_to = ?2", rows::MESSAGE);
    tx.prepare_cached(&sql)?.query_row(params![Id(id), Id(user)], rows::message).optional()
}

pub(super) fn insert(
    tx: &Transaction<'_>,
    id: SessionId,
    message: &Message,
) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO messages (session, {}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        rows::MESSAGE
    );
    let (status, finish_reason, usage) = match &message.role {
        Role::User { .. } => (None, None, None),
        Role::Assistant { status, finish_reason, usage, .. } => {
            (Some(status), finish_reason.as_deref(), *usage)
        }
    };
    let failure = status.and_then(Status::failure);
    tx.prepare_cached(&sql)?.execute(params![
        Id(id),
        message.seq,
        Id(message.id),
        message.text.as_ref(),
        At(message.created_at),
        message.client_message_id().map(AsRef::<str>::as_ref),
        message.in_reply_to().map(Id),
        status.map(Status::as_str),
        finish_reason,
        failure.map(|failure| failure.code.as_ref()),
        failure.map(|failure| failure.message.as_ref()),
        usage.map(|usage| usage.input_tokens),
        usage.map(|usage| usage.output_tokens),
        usage.map(|usage| usage.estimated),
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, sqlite::schema};

    #[tokio::test]
    async fn a_write_that_panics_is_the_end_of_the_store_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let opened = schema::open(&folder.path().join("duologue.db"), Durability::Full).unwrap();
        let trust = FailureSignal::new();
        let writer = Writer::start(opened, trust.clone()).unwrap();
        let panicked =
            writer.write(|_| -> WriteResult<()> { panic!("as the test wants it") }).await;
        assert!(panicked.is_err());
        let cause = trust.lost().await;
        assert_eq!(cause.kind(), ErrorKind::Internal);
        assert!(writer.write(|_| Ok(())).await.is_err());
    }
}
