//! How long one step of a sweep holds up the others that write.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use duologue::{
    session::{Store, Timestamp},
    store::{Durability, SqliteStore},
};

use crate::{Options, Result, place, spread::Spread};

/// What has expired.
struct Load {
    name: &'static str,
    sessions: u32,
    messages: u32,
    /// Bytes of each message.
    size: u32,
}

const LOADS: [Load; 4] = [
    Load { name: "nothing", sessions: 0, messages: 0, size: 0 },
    Load { name: "20,000 sessions of 4 short messages", sessions: 20_000, messages: 4, size: 60 },
    Load { name: "10 sessions of 10,000 short messages", sessions: 10, messages: 10_000, size: 60 },
    Load { name: "20 sessions of 20 messages of 1 MiB", sessions: 20, messages: 20, size: 1 << 20 },
];

pub(crate) async fn measure(options: &Options) -> Result<String> {
    let mut text = String::from(
        "**One step of a sweep**, with its commit, in ms: so long do others that write wait for \
         it.\n\n| what has expired | median | p99 | most | steps |\n|---|---:|---:|---:|---:|\n",
    );
    for load in &LOADS {
        eprintln!("sweep: {}", load.name);
        let mut steps = sweep(options, load).await?;
        steps.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let spread = Spread::of(steps.iter().copied().map(millis)).ok_or("no steps")?;
        let p99 = millis(steps[(steps.len() - 1) * 99 / 100]);
        let (median, most) = (spread.median, spread.most);
        let Load { name, .. } = load;
        writeln!(text, "| {name} | {median:.1} | {p99:.1} | {most:.1} | {} |", steps.len())?;
    }
    writeln!(text)?;
    Ok(text)
}

async fn sweep(options: &Options, load: &Load) -> Result<Vec<Duration>> {
    let folder = place(options)?;
    let path = folder.path().join("duologue.db");
    let store = SqliteStore::open(&path, Durability::Full)?;
    let Load { sessions, messages, size, .. } = load;
    let file = rusqlite::Connection::open(&path)?;
    file.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {sessions})
         INSERT INTO sessions (id, name, epoch, created_at, expires_at, ends_at, head_seq)
         SELECT randomblob(16), 'Ada', hex(randomblob(8)), 0, 1, 1, {messages}
         FROM n WHERE {sessions} > 0;
         INSERT INTO tokens (hash, id, session, scope)
         SELECT randomblob(32), id, id, 'write' FROM sessions;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages})
         INSERT INTO messages (session, seq, id, text, created_at, client_message_id, parent_seq)
         SELECT sessions.id, i, randomblob(16), hex(zeroblob({size} / 2)), 0, 'm' || i, i - 1
         FROM sessions, n WHERE {messages} > 0;"
    ))?;
    drop(file);
    let mut steps = Vec::new();
    let mut left = u64::from(*sessions);
    loop {
        let began = Instant::now();
        let swept = store.sweep(Timestamp::of_wall_clock(), 1000).await?;
        steps.push(began.elapsed());
        left -= swept.sessions.len() as u64;
        if !swept.more && left == 0 && (*sessions > 0 || steps.len() >= 100) {
            store.close().await?;
            return Ok(steps);
        }
    }
}
