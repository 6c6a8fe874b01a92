//! The limit of the setup: a process in between that copies bytes and does nothing else.
//!
//! It adds the time that the operating system takes to wake one more process, which every process
//! in between adds.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// Relays `upstream` on `address` until the process ends.
pub(crate) async fn serve(address: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        // A failed connection ends; its client reports it.
        tokio::spawn(async move {
            let mut upstream = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            upstream.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut upstream).await
        });
    }
}
