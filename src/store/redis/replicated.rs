//! Acknowledges writes once a replica has them (`WAIT`).
//!
//! `WAIT` blocks its connection until the replica answers, so these writes use a separate connection.
//! One `WAIT` covers all writes that the server has answered before it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use redis::{
    ErrorKind as Kind, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use super::keys::Key;

/// Longest time that a group of writes waits for a replica, in milliseconds.
const WAIT_MS: u32 = 1000;

/// A connection for writes, and how far a replica has them.
pub(super) struct Replicated {
    pub(super) connection: MultiplexedConnection,
    /// The connection has written.
    has_written: AtomicBool,
    /// Number of writes that the server has answered.
    answered: AtomicU64,
    waited: Mutex<Waited>,
}

/// The last answers of `WAIT`.
#[derive(Default)]
struct Waited {
    /// A replica has the writes up to this number.
    replicated: u64,
    /// No replica had those up to this number in time.
    failed: u64,
}

impl Replicated {
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self {
            connection,
            has_written: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            waited: Mutex::default(),
        }
    }

    /// Performs the first write of the connection. A repeated call may find that an earlier connection
    /// has written already: the server then waits for this write, and so for the earlier one.
    pub(super) async fn begin(&self, term: &Key, run_id: &str) -> RedisResult<()> {
        if !self.has_written.load(Ordering::Relaxed) {
            let mut write = redis::cmd("HSET");
            write.arg(&term.name).arg("r").arg(run_id);
            write.exec_async(&mut self.connection.clone()).await?;
            self.has_written.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until a replica has a write that the server has answered.
    ///
    /// # Errors
    /// `TryAgain` if no replica has it in time, and errors of the connection.
    pub(super) async fn wait(&self) -> RedisResult<()> {
        let own = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waited = self.waited.lock().await;
        if waited.replicated < own && waited.failed < own {
            let all = self.answered.load(Ordering::Relaxed);
            let replicas: u64 = redis::cmd("WAIT")
                .arg(1)
                .arg(WAIT_MS)
                .query_async(&mut self.connection.clone())
                .await?;
            if replicas > 0 {
                waited.replicated = all;
            } else {
                waited.failed = all;
            }
        }
        if waited.replicated >= own {
            return Ok(());
        }
        Err(RedisError::from((Kind::Server(ServerErrorKind::TryAgain), "no replica has the write")))
    }
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated").finish_non_exhaustive()
    }
}
