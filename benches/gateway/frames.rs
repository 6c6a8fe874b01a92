//! Turns made of two small writes.
//!
//! Where a server leaves Nagle's algorithm on, its second small write waits until the
//! first is acknowledged, and the other side puts that off for some 40 ms: twenty such
//! turns then take most of a second.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::{PATIENCE, Result, client::Client, server::Server, subject::Subject};

/// Turns that are timed together.
pub(crate) const TURNS: usize = 20;

/// The time of twenty turns on one connection.
pub(crate) async fn measure(subject: Subject, server: &Server) -> Result<Duration> {
    let mut client = Client::start(subject, server.address()).await?;
    let begin = Instant::now();
    for _ in 0..TURNS {
        client.send_in_two().await?;
        timeout(PATIENCE, client.receive()).await??;
    }
    Ok(begin.elapsed())
}
