//! The limit: the rows of a message, in groups, with the gateway's own settings of SQLite,
//! and nothing else. It looks at nothing that is there and answers nothing but "done".

use std::{path::Path, thread};

use duologue::{
    session::{MessageId, SessionId, Timestamp},
    store::{Durability, SqliteStore},
};
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::Result;

/// Messages that share a transaction at most, as in the gateway.
const GROUP: usize = 1024;

/// A message whose number is known.
pub(crate) struct Row {
    pub(crate) session: SessionId,
    pub(crate) seq: u32,
    pub(crate) id: MessageId,
    pub(crate) text: &'static str,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    User { key: String },
    Reply { to: MessageId },
}

/// A handle on the loop.
#[derive(Clone)]
pub(crate) struct Bare {
    queue: mpsc::Sender<(Row, oneshot::Sender<()>)>,
}

impl Bare {
    /// Starts it on a new file with the gateway's tables.
    pub(crate) async fn start(path: &Path) -> Result<Self> {
        let store = SqliteStore::open(path, Durability::Full)?;
        duologue::session::Store::close(&store).await?;
        drop(store);
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA wal_autocheckpoint = 4000;
             PRAGMA journal_size_limit = 67108864;",
        )?;
        let (queue, waiting) = mpsc::channel(4096);
        thread::spawn(move || {
            if let Err(error) = write(&connection, waiting) {
                eprintln!("the bare loop: {error}");
            }
        });
        Ok(Self { queue })
    }

    /// Adds a session.
    pub(crate) async fn create(&self, session: SessionId) -> Result<()> {
        let kind = Kind::User { key: String::new() };
        self.write(Row { session, seq: 0, id: MessageId::generate(), text: "", kind }).await
    }

    /// Writes a message; returns when it is on disk.
    pub(crate) async fn write(&self, row: Row) -> Result<()> {
        let (done, wait) = oneshot::channel();
        self.queue.send((row, done)).await.map_err(|_| "the bare loop has ended")?;
        Ok(wait.await?)
    }
}

fn write(
    connection: &Connection,
    mut waiting: mpsc::Receiver<(Row, oneshot::Sender<()>)>,
) -> rusqlite::Result<()> {
    let mut session = connection.prepare(
        "INSERT INTO sessions (id, name, epoch, created_at, expires_at, ends_at)
         VALUES (?1, 'Ada', '', 0, 4000000000000, 4000000000000)",
    )?;
    let mut token = connection.prepare(
        "INSERT INTO tokens (hash, id, session, scope) VALUES (randomblob(32), ?1, ?1, 'write')",
    )?;
    let mut message = connection.prepare(
        "INSERT INTO messages
             (session, seq, id, text, created_at, client_message_id, in_reply_to, status)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut begin =
        connection.prepare("INSERT INTO turns (session, seq, message) VALUES (?1, ?2, ?3)")?;
    let mut end = connection.prepare("DELETE FROM turns WHERE session = ?1 AND seq = ?2")?;
    let mut head =
        connection.prepare("UPDATE sessions SET head_seq = ?2, expires_at = ?3 WHERE id = ?1")?;
    let (mut open, mut commit) =
        (connection.prepare("BEGIN IMMEDIATE")?, connection.prepare("COMMIT")?);
    let mut answers = Vec::with_capacity(GROUP);
    while let Some(first) = waiting.blocking_recv() {
        open.execute([])?;
        let mut next = Some(first);
        while let Some((Row { session: of, seq, id, text, kind }, answer)) = next.take() {
            let now = Timestamp::of_wall_clock().as_millis().cast_signed();
            let (of, id) = (of.as_bytes(), id.as_bytes());
            match &kind {
                Kind::User { .. } if seq == 0 => {
                    session.execute([of])?;
                    token.execute([of])?;
                }
                Kind::User { key } => {
                    begin.execute(params![of, seq, id])?;
                    message.execute(params![
                        of,
                        seq,
                        id,
                        text,
                        now,
                        key,
                        None::<&str>,
                        None::<&str>
                    ])?;
                    head.execute(params![of, seq, now + 4_000_000_000_000])?;
                }
                Kind::Reply { to } => {
                    end.execute(params![of, seq - 1])?;
                    let to = to.as_bytes();
                    message.execute(params![
                        of,
                        seq,
                        id,
                        text,
                        now,
                        None::<&str>,
                        to,
                        "complete"
                    ])?;
                    head.execute(params![of, seq, now + 4_000_000_000_000])?;
                }
            }
            answers.push(answer);
            if answers.len() < GROUP {
                next = waiting.try_recv().ok();
            }
        }
        commit.execute([])?;
        for answer in answers.drain(..) {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }
    Ok(())
}
