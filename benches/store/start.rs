//! The start on a file with many sessions.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use duologue::store::{Durability, SqliteStore};
use rusqlite::Connection;

use crate::{Options, Result, place, process::Process, spread::Spread, thousands};

/// Sessions that wait for a reply, in the second measurement.
const UNANSWERED: u64 = 10_000;

pub(crate) fn measure(options: &Options) -> Result<String> {
    let Options { sessions, rounds, .. } = options;
    let folder = place(options)?;
    let path = folder.path().join("duologue.db");
    eprintln!("a file with {sessions} sessions");
    fill(&path, *sessions)?;
    let size = std::fs::metadata(&path)?.len();
    let mut text = format!(
        "**The start** on a file of {} sessions with a turn each ({} MB), {rounds} times: from \
         the beginning of the process to the port, and what it holds then and at most.\n\n\
         | | ms to the port, median (most) | MB | MB at most |\n|---|---:|---:|---:|\n",
        thousands(*sessions as f64),
        thousands(size as f64 / 1e6)
    );
    row(options, &path, "all answered", &mut text)?;
    let unanswered = UNANSWERED.min(*sessions / 10);
    leave_unanswered(&path, unanswered)?;
    let name = format!("{} of them unanswered", thousands(unanswered as f64));
    row(options, &path, &name, &mut text)?;
    writeln!(text)?;
    Ok(text)
}

fn row(options: &Options, path: &Path, name: &str, text: &mut String) -> Result<()> {
    let (mut times, mut resident, mut most) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {}/{}: start, {name}", round + 1, options.rounds);
        let started = Started::on(options, path)?;
        times.push(started.took.as_secs_f64() * 1e3);
        let process = Process::of(started.child.id());
        resident.push(process.resident()? as f64 / 1e6);
        most.push(process.most_resident()? as f64 / 1e6);
    }
    let spread = |values: Vec<f64>| Spread::of(values).ok_or("no rounds");
    let (times, resident, most) = (spread(times)?, spread(resident)?, spread(most)?);
    writeln!(
        text,
        "| {name} | {} ({}) | {:.0} | {:.0} |",
        thousands(times.median),
        thousands(times.most),
        resident.median,
        most.most
    )?;
    Ok(())
}

/// A gateway; killed when dropped, so that what was unanswered stays so.
struct Started {
    child: Child,
    took: Duration,
}

impl Started {
    fn on(options: &Options, path: &Path) -> Result<Self> {
        let began = Instant::now();
        let mut child = Command::new(&options.duologue)
            .args(["--addr", "127.0.0.1:0", "--ops-addr", "off", "--simulated-delay", "1h"])
            .args(["--store", &format!("sqlite:{}", path.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().ok_or("no log")?;
        let mut started = Self { child, took: Duration::MAX };
        let mut lines = BufReader::new(log).lines();
        loop {
            let line = lines.next().ok_or("it ended before it listened")??;
            if line.contains("listening on") {
                started.took = began.elapsed();
                // Whatever else it logs must not hold it up.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(started);
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sessions of one turn each. Ids rise, as those of the gateway do.
fn fill(path: &Path, sessions: u64) -> Result<()> {
    drop(SqliteStore::open(path, Durability::Relaxed)?);
    let file = Connection::open(path)?;
    file.busy_timeout(Duration::from_secs(10))?;
    file.execute_batch(&format!(
        "PRAGMA synchronous = OFF;
         PRAGMA cache_size = -200000;
         BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {sessions})
         INSERT INTO sessions
             (id, name, epoch, created_at, expires_at, ends_at, head_seq, newest_turn)
         SELECT unhex(printf('%016x%016x', i, i)), 'Ada', hex(randomblob(8)),
                0, 4000000000000 + i, 4100000000000, 2, 1 FROM n;
         INSERT INTO tokens (hash, id, session, scope)
         SELECT randomblob(32), id, id, 'write' FROM sessions;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {sessions})
         INSERT INTO messages
             (session, seq, id, text, created_at, client_message_id, parent_seq, in_reply_to,
              turn_seq, status)
         SELECT unhex(printf('%016x%016x', i, i)), seq, unhex(printf('%016x%016x', i, seq)),
                CASE seq WHEN 1 THEN 'Hello Bot'
                         ELSE 'Response: Simulating response from the GPT service' END, 0,
                CASE seq WHEN 1 THEN 'm1' END, CASE seq WHEN 1 THEN 0 END,
                CASE seq WHEN 2 THEN unhex(printf('%016x%016x', i, 1)) END,
                CASE seq WHEN 2 THEN 1 END,
                CASE seq WHEN 2 THEN 'complete' END
         FROM n, (SELECT 1 AS seq UNION ALL SELECT 2);
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))?;
    Ok(())
}

/// Takes the reply from the first sessions.
fn leave_unanswered(path: &Path, sessions: u64) -> Result<()> {
    let file = Connection::open(path)?;
    let of_the_first = format!("<= unhex(printf('%016x%016x', {sessions}, {sessions}))");
    file.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         INSERT INTO turns (session, seq, message)
             SELECT session, seq, id FROM messages WHERE session {of_the_first} AND seq = 1;
         DELETE FROM messages WHERE session {of_the_first} AND seq = 2;
         UPDATE sessions SET head_seq = 1 WHERE id {of_the_first};
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))?;
    Ok(())
}
