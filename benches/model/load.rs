//! Replies at a time, for a while.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Result,
    process::{self, Process},
    reply_timer::{ReplyCounts, ReplyTimer},
    server::Servers,
    stamp,
    subject::{Client, Subject},
    upstream::Script,
};

/// How long a measurement may take beyond its own time before a reply counts as missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shape of a load.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Replies at a time, each on a connection of its own.
    pub(crate) replies: usize,
    /// The script of the model for each reply.
    pub(crate) script: Script,
    /// The measured time.
    pub(crate) measured: Duration,
}

/// The result of a measurement.
pub(crate) struct Load {
    /// From the question to the first text, in milliseconds: the median and the 99th
    /// percentile; none where no reply began in the time.
    pub(crate) first: Option<(f64, f64)>,
    /// From the model to the client, for each delta but the first, likewise.
    pub(crate) under_way: Option<(f64, f64)>,
    /// Deltas of the model that came to their clients, per second …
    pub(crate) deltas_per_second: f64,
    /// … and how many came in one event.
    pub(crate) deltas_per_event: f64,
    /// Processor time of the server per delta, in microseconds.
    pub(crate) server_micros: Option<f64>,
    /// Share of its core that the server took, 0 to 1.
    pub(crate) server_share: Option<f64>,
    /// Share of its core that this program took, 0 to 1.
    pub(crate) generator_share: f64,
    /// Share of a core that everything else on the machine took meanwhile.
    pub(crate) others_share: f64,
}

/// Loads a server and measures.
pub(crate) async fn measure(subject: Subject, servers: &Servers, shape: Shape) -> Result<Load> {
    let limit = shape.script.duration() * 2 + shape.measured + PATIENCE;
    let outcome = timeout(limit, measure_unlimited(subject, servers, shape)).await;
    let outcome = outcome.unwrap_or_else(|_| Err("a reply is missing".into()));
    match servers.of(subject) {
        Some(server) => server.explain(outcome, "load"),
        None => outcome,
    }
}

/// [`measure`] without a time limit: it hangs if a reply is missing.
async fn measure_unlimited(subject: Subject, servers: &Servers, shape: Shape) -> Result<Load> {
    let Shape { replies, script, measured } = shape;
    servers.upstream.play(script);
    let mut clients = Vec::with_capacity(replies);
    for _ in 0..replies {
        clients.push(Client::ready(None, subject, servers).await?);
    }
    // Not all of them ask at the same moment, and all have asked before it counts.
    let warm_up = script.duration().max(measured / 6);
    let start = Instant::now();
    let (begin, end) = (start + warm_up, start + warm_up + measured);
    let since = stamp::now();
    let window = since + nanos(warm_up)..since + nanos(warm_up + measured);

    let count = u32::try_from(replies)?;
    let lanes = (0..).zip(clients).map(|(number, client)| {
        let from = start + script.duration() * number / count;
        let timer = ReplyTimer::new(window.clone());
        lane(subject, servers, script, client, timer, from..end)
    });
    let (all, took) =
        tokio::try_join!(try_join_all(lanes), took_between(subject, servers, begin..end))?;
    let mut counts = ReplyCounts::default();
    for timer in all {
        counts.add(timer.counts);
    }
    let deltas = counts.deltas as f64;
    let [first, under_way] = [&mut counts.first, &mut counts.under_way].map(|it| percentiles(it));
    if counts.deltas == 0 {
        return Err("nothing came in time: measure longer".into());
    }
    Ok(Load {
        first,
        under_way,
        deltas_per_second: deltas / measured.as_secs_f64(),
        deltas_per_event: deltas / counts.events as f64,
        server_micros: servers.of(subject).map(|_| took.server * 1e6 / deltas),
        server_share: servers.of(subject).map(|_| took.server / took.wall),
        generator_share: took.generator / took.wall,
        others_share: (took.machine - took.server - took.generator).max(0.0) / took.wall,
    })
}

/// One client: a reply after the other until the end. The last one is timer out.
async fn lane(
    subject: Subject,
    servers: &Servers,
    script: Script,
    mut client: Client,
    mut timer: ReplyTimer,
    time: std::ops::Range<Instant>,
) -> Result<ReplyTimer> {
    sleep_until(time.start).await;
    while Instant::now() < time.end {
        client.reply(&mut timer).await?;
        timer.ended(script.deltas)?;
        client = Client::ready(Some(client), subject, servers).await?;
    }
    Ok(timer)
}

/// What the processors did in a time.
async fn took_between(
    subject: Subject,
    servers: &Servers,
    time: std::ops::Range<Instant>,
) -> Result<Elapsed> {
    sleep_until(time.start).await;
    let before = Clock::read(subject, servers)?;
    sleep_until(time.end).await;
    Ok(before.until(&Clock::read(subject, servers)?))
}

/// Bytes of resident memory that the server of a subject grows by for each reply that runs.
pub(crate) async fn memory(subject: Subject, servers: &Servers, shape: Shape) -> Result<f64> {
    let server = servers.of(subject).ok_or("the model has no server")?;
    let Shape { replies, script, .. } = shape;
    // What it loads for its first replies belongs to none of them.
    servers.upstream.play(Script { deltas: 5, interval: Duration::ZERO });
    let mut client = Client::ready(None, subject, servers).await?;
    for _ in 0..5 {
        client.reply(&mut ReplyTimer::new(0..0)).await?;
        client = Client::ready(Some(client), subject, servers).await?;
    }
    servers.upstream.play(script);
    let before = server.process().resident()?;
    let mut lanes = JoinSet::new();
    let start = Instant::now();
    let mut clients = Vec::with_capacity(replies);
    for _ in 0..replies {
        clients.push(Client::ready(None, subject, servers).await?);
    }
    for (number, mut client) in (0..).zip(clients) {
        // In the first half of their time, so that all run at its end.
        let from = start + script.duration() * number / u32::try_from(replies)? / 2;
        lanes.spawn(async move {
            sleep_until(from).await;
            client.reply(&mut ReplyTimer::new(0..0)).await
        });
    }
    let mut most = before;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            lane = lanes.join_next() => match lane {
                Some(lane) => server.explain(lane?, "memory")?,
                None => break,
            },
            _ = look.tick() => most = most.max(server.process().resident()?),
        }
    }
    Ok((most - before) as f64 / replies as f64)
}

/// Processor times so far.
struct Clock {
    server: Duration,
    generator: Duration,
    machine: Duration,
    at: Instant,
}

/// Processor times in between, and the time itself, in seconds.
struct Elapsed {
    server: f64,
    generator: f64,
    machine: f64,
    wall: f64,
}

impl Clock {
    /// Reads the current times.
    fn read(subject: Subject, servers: &Servers) -> Result<Self> {
        let server = servers.of(subject).map(|server| server.process().processor_time());
        Ok(Self {
            server: server.transpose()?.unwrap_or_default(),
            generator: Process::this().processor_time()?,
            machine: process::machine_time()?,
            at: Instant::now(),
        })
    }

    /// Returns the difference.
    fn until(&self, after: &Self) -> Elapsed {
        Elapsed {
            server: (after.server - self.server).as_secs_f64(),
            generator: (after.generator - self.generator).as_secs_f64(),
            machine: (after.machine - self.machine).as_secs_f64(),
            wall: (after.at - self.at).as_secs_f64(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The median and the 99th percentile, in milliseconds.
fn percentiles(nanos: &mut [u64]) -> Option<(f64, f64)> {
    nanos.sort_unstable();
    let last = nanos.len().checked_sub(1)?;
    let at = |percent: usize| nanos[last * percent / 100] as f64 / 1e6;
    Some((at(50), at(99)))
}
