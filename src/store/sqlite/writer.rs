//! The writing thread: one transaction and one fsync for all writes that wait.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Instant,
};

use metrics::{counter, histogram};
use rusqlite::{Connection, Transaction, TransactionBehavior, config::DbConfig, hooks::Wal};
use tokio::sync::{mpsc, oneshot};

use super::{
    failure::{FailureSignal, WriteError, WriteResult, failure, is_final},
    schema::{self, OpenedFile},
};
use crate::session::{Error, Result};

/// Writes that may wait. The tasks of further writes wait until there is room.
const QUEUE: usize = 4096;

/// Most writes of one transaction.
const GROUP: usize = 1024;

/// A job of the thread.
enum Job {
    Write(Write),
    /// Runs on the connection outside a transaction.
    Inspect(Box<dyn FnOnce(&Connection) + Send>),
    Close(oneshot::Sender<Result<()>>),
}

/// Writes in a transaction. Gets `None` if the transaction has failed before.
type Write = Box<dyn FnOnce(Option<&Transaction<'_>>) -> WriteDone + Send>;

/// Sends the result to the waiting task: that of the write, or the failure of the transaction.
type Answer = Box<dyn FnOnce(Option<&rusqlite::Error>) + Send>;

struct WriteDone {
    /// The error that ends the transaction.
    broken: Option<rusqlite::Error>,
    answer: Answer,
}

/// A handle of the writing thread. The thread ends with its last handle.
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(opened: OpenedFile, trust: FailureSignal) -> io::Result<Self> {
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

    /// Writes. Returns once the write is durable.
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
                // Fails if the waiting task is gone. The write is durable nevertheless.
                drop(answer.send(result));
            });
            WriteDone { broken, answer }
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

    /// Writes the WAL back into the file and ends the thread.
    pub(super) async fn close(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::internal("the store has ended already");
        self.queue.send(Job::Close(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Pages of the WAL at which it is written back into the file.
const WRITE_BACK_PAGES: i32 = 4000;

fn write_until_closed(
    OpenedFile { mut connection, lock }: OpenedFile,
    mut waiting: mpsc::Receiver<Job>,
    trust: &FailureSignal,
) {
    let lose_trust = |connection: &Connection, error: &rusqlite::Error| {
        // Closing the connection would write the WAL back, with one more fsync.
        drop(connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
        trust.lose(&error.to_string());
    };
    // SQLite's own write-back does not report its failures.
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
            // The next commit sets the number of pages that are left.
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

/// Writes the WAL back into the file, except for pages that a reader needs.
fn write_back(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Writes a group, commits it, and sends the results.
fn commit(connection: &mut Connection, group: impl Iterator<Item = Write>) -> rusqlite::Result<()> {
    let mut group = group;
    let mut answers = Vec::new();
    let result = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(
        |transaction| {
            for write in group.by_ref() {
                let WriteDone { broken, answer } = write(Some(&transaction));
                answers.push(answer);
                if let Some(error) = broken {
                    return Err(error);
                }
            }
            transaction.commit()
        },
    );
    // Writes that were not reached fail with the transaction.
    answers.extend(group.map(|write| write(None).answer));
    for answer in answers {
        answer(result.as_ref().err());
    }
    result
}

#[cfg(test)]
mod tests;
