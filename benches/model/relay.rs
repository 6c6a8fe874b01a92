//! The limit of the set-up: a process in between that copies bytes and does nothing else.
//!
//! What it adds is what the operating system takes to wake one more process, which nobody
//! who stands between a model and its readers can do without.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// Serves for ever, on `address`, what `upstream` says.
pub(crate) async fn serve(address: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        // A connection that fails ends; its client says so.
        tokio::spawn(async move {
            let mut upstream = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            upstream.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut upstream).await
        });
    }
}
