//! Turns per second, and the time of one turn.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time};

use crate::{
    PATIENCE, Result,
    client::Client,
    process::{self, Process},
    server::Server,
    subject::Subject,
};

/// Turns after which a connection goes on with a new session: a session of the gateway
/// holds 10,000 messages, two a turn. The same for everyone.
const TURNS_PER_SESSION: usize = 4_000;

/// The shape of a load.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Shape {
    /// Connections, each with a session of its own.
    pub(crate) connections: usize,
    /// Messages that each of them has sent and not seen answered.
    pub(crate) in_flight: usize,
}

/// The shapes that each subject is measured with.
pub(crate) const SHAPES: [Shape; 3] = [
    Shape { connections: 1, in_flight: 1 },
    Shape { connections: 64, in_flight: 1 },
    Shape { connections: 64, in_flight: 16 },
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, in_flight } = self;
        write!(f, "{connections} × {in_flight}")
    }
}

/// The time of a measurement.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Warm-up before the measured time.
    pub(crate) warm_up: Duration,
    /// The measured time.
    pub(crate) measured: Duration,
}

/// The result of a measurement.
pub(crate) struct Load {
    /// Complete turns per second.
    pub(crate) turns_per_second: f64,
    /// Time of one turn in microseconds: the median and the 99th percentile. Only at one
    /// message in flight, where it is what a user waits.
    pub(crate) turn_micros: Option<(f64, f64)>,
    /// Processor time of the server per turn, in microseconds.
    pub(crate) server_micros: f64,
    /// Share of its core that the load generator took, 0 to 1. Near 1, the server may
    /// have had time to spare.
    pub(crate) generator_share: f64,
    /// Share of a core that everything else on the machine took meanwhile.
    pub(crate) others_share: f64,
}

/// Loads a server and measures.
pub(crate) async fn measure(
    subject: Subject,
    server: &Server,
    shape: Shape,
    window: Window,
) -> Result<Load> {
    let limit = window.warm_up + window.measured + PATIENCE;
    time::timeout(limit, measure_unlimited(subject, server, shape, window))
        .await
        .map_err(|_| "a reply is missing")?
}

/// [`measure`] without a time limit: it hangs if a reply is missing.
async fn measure_unlimited(
    subject: Subject,
    server: &Server,
    shape: Shape,
    window: Window,
) -> Result<Load> {
    let address = server.address();
    let mut clients = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        clients.push(Client::start(subject, address).await?);
    }

    let begin = Instant::now() + window.warm_up;
    let end = begin + window.measured;
    let mut lanes = JoinSet::new();
    for (number, client) in (1..).zip(clients) {
        let lane = Lane {
            subject,
            address,
            client,
            // Staggered, so that they do not all change their session at the same moment.
            left: TURNS_PER_SESSION * number / shape.connections,
            in_flight: 0,
        };
        lanes.spawn(lane.run(shape.in_flight, begin, end));
    }

    time::sleep_until(begin.into()).await;
    let before = Clock::read(server)?;
    time::sleep_until(end.into()).await;
    let took = before.until(&Clock::read(server)?);

    let mut turns = 0_usize;
    let mut times = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        let tally = lane??;
        turns += tally.turns;
        times.extend(tally.times);
    }
    times.sort_unstable();
    Ok(Load {
        turns_per_second: turns as f64 / window.measured.as_secs_f64(),
        turn_micros: percentile(&times, 50).zip(percentile(&times, 99)),
        server_micros: took.server * 1e6 / turns as f64,
        generator_share: took.generator / took.wall,
        others_share: (took.machine - took.server - took.generator).max(0.0) / took.wall,
    })
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
    fn read(server: &Server) -> Result<Self> {
        Ok(Self {
            server: server.process().processor_time()?,
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

/// The counts of a connection.
#[derive(Default)]
struct TurnCounts {
    turns: usize,
    /// Of each turn; empty with several in flight.
    times: Vec<Duration>,
}

/// One connection under load.
struct Lane {
    subject: Subject,
    address: SocketAddr,
    client: Client,
    /// Turns left to its session.
    left: usize,
    in_flight: usize,
}

impl Lane {
    /// Keeps so many messages in flight until the end; counts from the beginning. All that
    /// was sent is answered when it returns.
    async fn run(mut self, depth: usize, begin: Instant, end: Instant) -> Result<TurnCounts> {
        let mut tally = TurnCounts::default();
        loop {
            let room = (depth - self.in_flight).min(self.left);
            let sent = Instant::now();
            if room > 0 {
                self.client.send(room).await?;
                self.left -= room;
                self.in_flight += room;
            }
            let turns = self.receive().await?;
            let now = Instant::now();
            if now >= end {
                break;
            }
            if now >= begin {
                tally.turns += turns;
                if depth == 1 {
                    tally.times.push(now - sent);
                }
            }
            if self.left == 0 && self.in_flight == 0 {
                self.client = Client::start(self.subject, self.address).await?;
                self.left = TURNS_PER_SESSION;
            }
        }
        while self.in_flight > 0 {
            self.receive().await?;
        }
        Ok(tally)
    }

    /// Waits for turns to be complete.
    async fn receive(&mut self) -> Result<usize> {
        let turns = self.client.receive().await?;
        self.in_flight = self.in_flight.checked_sub(turns).ok_or("more replies than messages")?;
        Ok(turns)
    }
}

/// Of sorted times, in microseconds.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let place = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(place).map(|time| time.as_secs_f64() * 1e6)
}
