//! Resident bytes per idle connection.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{PATIENCE, Result, client::Client, http, server::Server, subject::Subject};

/// Connections that are opened, used and closed before the measurement, so that one-time
/// allocations are done.
const WARM_UP: usize = 32;

/// Time for a server to become idle.
const SETTLE: Duration = Duration::from_secs(1);

/// Resident bytes per connection, each number with what the one before it counts.
#[derive(Clone, Copy)]
pub(crate) struct Idle {
    /// A session without a stream.
    pub(crate) session: f64,
    /// The same with an attached connection without a turn.
    pub(crate) attached: f64,
    /// The same after one turn.
    pub(crate) after_turn: f64,
}

/// Opens that many sessions, a connection on each, and has one turn on each.
pub(crate) async fn measure(subject: Subject, server: &Server, count: usize) -> Result<Idle> {
    let address = server.address();
    for _ in 0..WARM_UP {
        let mut client = Client::start(subject, address).await?;
        turn(&mut client).await?;
    }
    let resident = async || {
        sleep(SETTLE).await;
        server.process().resident()
    };
    let before = resident().await?;
    let each = |bytes: u64| (bytes as f64 - before as f64) / count as f64;

    let mut tokens = Vec::with_capacity(count);
    for _ in 0..count {
        tokens.push(http::create_session(address).await?);
    }
    let session = each(resident().await?);

    let mut clients = Vec::with_capacity(count);
    for token in &tokens {
        clients.push(Client::attach(subject, address, token).await?);
    }
    let attached = each(resident().await?);

    for client in &mut clients {
        turn(client).await?;
    }
    let after_turn = each(resident().await?);
    Ok(Idle { session, attached, after_turn })
}

/// One message and its reply.
async fn turn(client: &mut Client) -> Result<()> {
    client.send(1).await?;
    timeout(PATIENCE, client.receive()).await??;
    Ok(())
}
