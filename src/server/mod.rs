//! The port: binds, accepts, sets the deadlines of connections, drains.
//!
//! Neither `axum::serve` nor tonic's server is used: the one has no settings, the other no
//! upgrades, and neither separates gRPC from HTTP on one port.

mod accepted;
mod client_address;
mod connection;
mod dispatch;
mod listen_addr;
mod listener;
mod operations;
mod proxy_protocol;
mod settings;
mod socket;
mod stalled;
mod tls;
mod write_timeout;

use std::{io, sync::Arc, time::Duration};

use futures_util::future::{self, BoxFuture, FutureExt as _};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    session::{Drained, Gateway},
    transport::{self, TransportContext},
};
use accepted::{Accepted, NO_CONNECTION, Serves};
pub use client_address::{ForwardedHeader, TrustedProxies};
use connection::Connections;
pub use listen_addr::ListenAddr;
use listener::Listener;
pub use operations::Operations;
pub use settings::Settings;
use tls::Tls;
pub use tls::TlsFiles;

/// Most connections that are rejected with an answer at the same time.
const MAX_REJECTIONS: usize = 256;

/// Connections for probes, where no other is left.
const MAX_PROBES: usize = 32;

/// A bound port.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    tls: Option<Arc<Tls>>,
    settings: Settings,
}

impl Server {
    /// Binds the port. Must be called on a runtime.
    ///
    /// # Errors
    /// The address is in use or not of this machine, or the certificate cannot be used.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        let tls = settings.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        Ok(Self { listener: Listener::bind(&settings.addr)?, tls, settings })
    }

    /// Returns a function that reads the certificate again. Wait for one call before the next: each
    /// blocks a thread for as long as the file system needs.
    pub fn reload(&self) -> impl Fn() -> BoxFuture<'static, ()> + Send + use<> {
        let tls = self.tls.clone();
        move || match tls.clone() {
            Some(tls) => tls.reload().boxed(),
            None => {
                tracing::info!("SIGHUP ignored: no certificate is configured");
                future::ready(()).boxed()
            }
        }
    }

    /// Returns the listen address, with the actual port if 0 was configured.
    ///
    /// # Errors
    /// The operating system does not report the address.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// The descriptors of the services are invalid, which a correct build excludes.
    pub async fn serve(
        self,
        gateway: Gateway,
        settings: transport::Settings,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Drained, Box<dyn std::error::Error + Send + Sync>> {
        let context = TransportContext {
            gateway: gateway.clone(),
            settings: Arc::new(settings),
            draining: CancellationToken::new(),
        };
        let service = dispatch::service(&context)?;
        let connections = Connections::new(&self.settings, self.tls, &context);
        let max_connections = self.settings.max_connections;
        let permits = Arc::new(Semaphore::new(max_connections));
        let probes = Arc::new(Semaphore::new(MAX_PROBES));
        let rejections = Arc::new(Semaphore::new(MAX_REJECTIONS));
        let accept = async {
            loop {
                let Some((socket, caller)) = self.listener.accept().await else { continue };
                let accepted = Accepted { socket, caller, rejections: Arc::clone(&rejections) };
                let (permit, serves) = match Arc::clone(&permits).try_acquire_owned() {
                    Ok(permit) => (permit, Serves::Everything),
                    Err(_) => match Arc::clone(&probes).try_acquire_owned() {
                        Ok(permit) => (permit, Serves::Probes),
                        Err(_) => {
                            accepted.reject(NO_CONNECTION);
                            continue;
                        }
                    },
                };
                let serve = connections.clone().serve(accepted, service.clone(), permit, serves);
                tokio::spawn(serve);
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = accept => {}
        }
        drop(self.listener);
        tracing::info!("draining");
        let deadline = Instant::now() + self.settings.drain_timeout;
        context.draining.cancel();
        let drained = gateway.drain(deadline).await;
        finish_connections(&permits, max_connections, deadline).await;
        tracing::info!(?drained, "drained");
        Ok(drained)
    }
}

/// Waits until all connections have ended. Their streams are closed already; closing handshakes and
/// peers that do not read remain. A connection has ended when all its uses are gone: the streams of
/// HTTP/2 are tasks that may outlive it for a moment.
async fn finish_connections(permits: &Semaphore, all: usize, deadline: Instant) {
    const REJECTION: Duration = Duration::from_secs(5);
    let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
    let rejections = deadline.min(Instant::now() + REJECTION);
    let all_permits = permits.acquire_many(u32::try_from(all).unwrap_or(u32::MAX));
    if timeout_at(rejections, all_permits).await.is_err() {
        let left = all.saturating_sub(permits.available_permits());
        tracing::warn!(left, "connections were closed before they ended");
    }
}
